"""From characters to tokens to s-expressions.

    expression = word | "(" expression* ")"

A word is any run of characters but spaces, tabs, newlines, parentheses and semicolons; a comment goes from a semicolon
to the end of its line. Lists that are not closed wait on a stack: no more than `MOST_DEPTH`, since what is made of each
expression may cost as much as what is inside.

Source: Barrett, Fontaine and Tinelli, The SMT-LIB Standard, version 2.6, section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MOST_DEPTH = 1000

_TOKEN = re.compile(r"[()]|;[^\n]*|[^ \t\n();]+")  # anything between tokens is blank


class Misread(Exception):
    """The text says what cannot be read, at the character number ``at``."""

    def __init__(self, at: int, message: str):
        super().__init__(message)
        self.at = at


class Expression(NamedTuple):
    """A word or a list of expressions, and the number of its first character in the text."""

    at: int
    content: str | list[Expression]

    def __str__(self) -> str:
        """The word itself, or what a message calls a list."""
        if isinstance(self.content, str):
            return repr(self.content if len(self.content) <= 40 else self.content[:37] + "...")
        if not self.content:
            return "an empty list"
        head = self.content[0].content
        return f"a list ({head} …)" if isinstance(head, str) and len(head) <= 40 else "a list"


def expressions(text: str) -> Iterator[Expression]:
    """The s-expressions of a text one after the other; Misread where parentheses do not match.

    >>> list(expressions("(a (b) 1) ; and nothing else"))[0].content
    [Expression(at=1, content='a'), Expression(at=3, content=[Expression(at=4, content='b')]), Expression(at=7, content='1')]
    """  # noqa: E501
    waiting: list[Expression] = []
    for token in _TOKEN.finditer(text):
        word, at = token.group(), token.start()
        if word[0] == ";":
            continue
        if word == "(":
            if len(waiting) == MOST_DEPTH:
                raise Misread(at, f"found more than {MOST_DEPTH} lists in each other; expected fewer")
            waiting.append(Expression(at, []))
            continue
        if word == ")" and not waiting:
            raise Misread(at, "found ')' where no list is open; expected '('")
        done = waiting.pop() if word == ")" else Expression(at, word)
        if waiting:
            waiting[-1].content.append(done)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            yield done
    if waiting:
        raise Misread(waiting[-1].at, "this '(' is never closed; expected ')' before the end of the file")
