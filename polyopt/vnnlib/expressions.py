"""What an s-expression says: a linear expression ``sum_v c_v v + c`` or a formula.

    linear     = name | number | (+ linear …) | (- linear …) | (* linear …)     at most one factor with variables
    constraint = (<= linear linear) | (>= …) | (< …) | (> …) | (= …)
    formula    = constraint | (and formula …) | (or formula …)

Coefficients are exact rationals. A strict inequality between linear expressions is read as if it were not strict: the
set that it describes is closed over. One between numbers is what it says.

Source: Demarchi et al., "Supporting standardization of neural networks verification with VNNLIB and CoCoNet", 2023;
the benchmarks of the competitions, which write linear expressions on both sides.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from fractions import Fraction
from functools import reduce
from typing import NamedTuple

from polyopt.vnnlib.normal_form import FALSE, TRUE, Formula, Rational, TooLarge, conjunction, disjunction, outward
from polyopt.vnnlib.tokens import Expression, Misread

MOST_CHARACTERS = 400  # of a number
MOST_BITS = 2**13  # of a product's numerator and denominator
EXPONENTS = range(-400, 401)


class Linear(NamedTuple):
    """``sum_v terms[v] v + constant``; no coefficient is 0."""

    terms: dict[str, Rational]
    constant: Rational


Meaning = Linear | Formula


def formula(expression: Expression, names: Container[str]) -> Formula:
    """The formula that an expression over these variables is; Misread where it is none.

    >>> from polyopt.vnnlib.tokens import expressions
    >>> (expression,) = expressions("(and (<= (* 2 X_0) 1.0) (>= X_0 (- 3)))")
    >>> [(row.terms, str(row.bound)) for row in formula(expression, {"X_0"}).rows]
    [((('X_0', 1.0),), '1/2'), ((('X_0', -1.0),), '3')]
    """
    meaning = _fold(expression, names)
    if not isinstance(meaning, Formula):
        raise Misread(expression.at, f"found {expression}; expected a constraint, such as (<= X_0 1.0)")
    return meaning


def _fold(root: Expression, names: Container[str]) -> Meaning:
    """The meaning of each part before that of the whole, without recursion."""
    meanings: list[Meaning] = []
    waiting = [(root, False)]
    while waiting:
        expression, parts_known = waiting.pop()
        if isinstance(expression.content, str):
            meanings.append(_word(expression, names))
        elif not parts_known:
            _operator(expression)
            waiting.append((expression, True))
            waiting.extend((part, False) for part in reversed(expression.content[1:]))
        else:
            parts = expression.content[1:]
            known = meanings[len(meanings) - len(parts) :]
            del meanings[len(meanings) - len(parts) :]
            meanings.append(_whole(expression, parts, known))
    return meanings[0]


def _operator(expression: Expression) -> str:
    """The list's first word, which says what to do with the rest."""
    at, content = expression
    head = content[0].content if content else None
    if not isinstance(head, str) or head not in (*_ARITHMETIC, *_LOGIC, *_COMPARISONS):
        found = content[0] if content else expression
        raise Misread(
            at, f"found {found}; expected one of {' '.join((*_ARITHMETIC, *_LOGIC, *_COMPARISONS))} after '('"
        )
    count = len(content) - 1
    if count < 1 or (head in _COMPARISONS and count != 2):
        raise Misread(
            at, f"found {count} arguments of {head}; expected {2 if head in _COMPARISONS else 'at least one'}"
        )
    return head


def _whole(expression: Expression, parts: Sequence[Expression], known: Sequence[Meaning]) -> Meaning:
    """The meaning of a list from those of its parts."""
    head = _operator(expression)
    wanted, description = (Formula, "a constraint") if head in _LOGIC else (Linear, "a linear expression")
    for part, meaning in zip(parts, known, strict=True):
        if not isinstance(meaning, wanted):
            raise Misread(part.at, f"found {part} as an argument of {head}; expected {description}")
    try:
        if head in _LOGIC:
            return _LOGIC[head](known)
        if head in _ARITHMETIC:
            return _ARITHMETIC[head](known)
        return _compare(head, *known)
    except TooLarge:
        raise Misread(expression.at, f"this {head!r} has too many cases when multiplied out; state fewer") from None
    except OverflowError:
        raise Misread(expression.at, "found a number beyond the greatest float64; expected finite ones") from None
    except ValueError as error:
        raise Misread(expression.at, str(error)) from None


def _word(expression: Expression, names: Container[str]) -> Linear:
    """A variable or a number."""
    at, word = expression
    if word in names:
        return Linear({word: 1}, 0)
    digits = word.lower().strip("+-.e0123456789")
    if digits in ("nan", "inf", "infinity"):
        raise Misread(at, f"found {expression}; expected a finite number")
    if digits or not any(character.isdigit() for character in word):
        raise Misread(at, f"found {expression}; expected a number or a variable that is declared above")
    if len(word) > MOST_CHARACTERS:
        raise Misread(at, f"found a number of {len(word)} characters; expected at most {MOST_CHARACTERS}")
    try:
        _, _, exponent = word.lower().partition("e")
        if exponent and int(exponent) not in EXPONENTS:
            raise Misread(at, f"found {expression}; expected an exponent from {EXPONENTS[0]} to {EXPONENTS[-1]}")
        number = Fraction(word)
        float(number)
    except ValueError:
        raise Misread(at, f"found {expression}; expected a number, such as -1.5e-3") from None
    except OverflowError:
        raise Misread(at, f"found {expression}; expected a finite number, at most 1.797e308") from None
    return Linear({}, number)


def _sum(parts: Sequence[Linear]) -> Linear:
    """The sum, in the dictionary of the part with most terms, which nobody else has."""
    longest = max(range(len(parts)), key=lambda i: len(parts[i].terms))
    terms = parts[longest].terms
    for i, part in enumerate(parts):
        if i == longest:
            continue
        for name, c in part.terms.items():
            if total := terms.get(name, 0) + c:
                terms[name] = total
            else:
                del terms[name]
    return Linear(terms, sum(part.constant for part in parts if part.constant))


def _negative(part: Linear) -> Linear:
    return Linear({name: -c for name, c in part.terms.items()}, -part.constant)


def _difference(parts: Sequence[Linear]) -> Linear:
    first, *others = parts
    return _sum([first, *map(_negative, others)]) if others else _negative(first)


def _product(parts: Sequence[Linear]) -> Linear:
    return reduce(_times, parts)


def _times(left: Linear, right: Linear) -> Linear:
    if left.terms and right.terms:
        raise ValueError("found a product of two factors with variables; expected a linear expression")
    factor, other = (right.constant, left) if left.terms else (left.constant, right)
    found = Linear({name: factor * c for name, c in other.terms.items() if factor}, factor * other.constant)
    for c in (*found.terms.values(), found.constant):
        if max(c.numerator.bit_length(), c.denominator.bit_length()) > MOST_BITS:
            raise ValueError(f"found a product with more than {MOST_BITS} binary digits; expected fewer")
    return found


def _compare(head: str, left: Meaning, right: Meaning) -> Formula:
    """``sum_v c_v v <= b``, or truth where no variable is left."""
    terms, constant = _difference([left, right])
    if not terms:
        return TRUE if _COMPARISONS[head](constant) else FALSE
    if len({name[0] for name in terms}) > 1:
        raise ValueError(
            f"found a constraint on {min(terms)} and {max(terms)}; expected inputs X or outputs Y "
            f"alone: let the network pass these inputs on to outputs"
        )
    sides = []
    if head in ("<=", "<", "="):
        sides.append(outward(terms, -constant))
    if head in (">=", ">", "="):
        sides.append(outward({name: -c for name, c in terms.items()}, constant))
    return conjunction(sides)


_ARITHMETIC = {"+": _sum, "-": _difference, "*": _product}
_LOGIC = {"and": conjunction, "or": disjunction}
_COMPARISONS = {
    "<=": lambda c: c <= 0,
    ">=": lambda c: c >= 0,
    "<": lambda c: c < 0,
    ">": lambda c: c > 0,
    "=": lambda c: c == 0,
}
