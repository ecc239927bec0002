"""Conjunctions of rows and alternatives, their disjunctive normal form, and rounding outwards.

A formula is kept as

    row_1 and … and row_p and choice_1 and … and choice_q,      choice = conjunction or … or conjunction of rows

with rows ``sum_v c_v v <= b``. "And" puts the lists of its parts one behind the other; "or" has to multiply the
choices of each of its parts out, and in the end the normal form those of the whole. It grows exponentially in the
number of choices: more than `MOST_DISJUNCTS` conjunctions, or `MOST_ROWS` rows in them, are refused.

**Rounding.** Decimals are exact rationals; floats are not. What replaces a row must contain it. Coefficients become
floats without an error: that of a single variable becomes 1 or -1, and others, if need be, integers times a power of 2.
Where these are too long for a float, the row becomes a choice of rows, each c_v once rounded down and once up in all
ways: for every point one of these has a left-hand side that is no greater, that with down(c_v) where v >= 0 and up(c_v)
where v <= 0. The right-hand side stays rational, to be rounded up at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from typing import NamedTuple

MOST_DISJUNCTS = 10**5
MOST_ROWS = 10**7


class TooLarge(Exception):
    """The disjunctive normal form has more than `MOST_DISJUNCTS` conjunctions or `MOST_ROWS` rows."""


Rational = Fraction | int  # integers are rationals, and faster


class Row(NamedTuple):
    """``sum_v c_v v <= bound`` for the pairs (v, c_v) of ``terms``, names and floats."""

    terms: tuple[tuple[str, float], ...]
    bound: Rational


Conjunction = tuple[Row, ...]


class Formula(NamedTuple):
    """All of the rows hold, and of each choice at least one conjunction."""

    rows: Sequence[Row]
    choices: Sequence[Sequence[Conjunction]]


TRUE, FALSE = Formula([], []), Formula([], [[]])


def conjunction(parts: Sequence[Formula]) -> Formula:
    """The formula that all parts hold."""
    if len(parts) == 1:
        return parts[0]
    return Formula([row for part in parts for row in part.rows], [choice for part in parts for choice in part.choices])


def disjunction(parts: Sequence[Formula]) -> Formula:
    """The formula that at least one part holds."""
    if len(parts) == 1:
        return parts[0]
    found: list[Conjunction] = []
    for part in parts:
        found.extend(disjuncts([tuple(part.rows)], part.choices))
        _limit(len(found), 0)
    _limit(len(found), sum(map(len, found)))
    return Formula([], [found])


def disjuncts(start: Sequence[Conjunction], choices: Sequence[Sequence[Conjunction]]) -> Sequence[Conjunction]:
    """One conjunction of each choice, behind one of ``start``, in all ways; TooLarge if these are too many.

    >>> a, b, c = (Row(((name, 1.0),), Fraction(0)) for name in "abc")
    >>> disjuncts([(a,)], [[(b,), (c,)]]) == [(a, b), (a, c)]
    True
    """
    for choice in choices:
        rows = len(choice) * sum(map(len, start)) + len(start) * sum(map(len, choice))
        _limit(len(start) * len(choice), rows)
        start = [found + alternative for found in start for alternative in choice]
    return start


def outward(terms: dict[str, Rational], bound: Rational) -> Formula:
    """A formula with floats for coefficients that contains the row; OverflowError if one is too large.

    >>> outward({"x": Fraction("0.1"), "y": Fraction("-0.3")}, Fraction("0.2")).rows
    [Row(terms=(('x', 0.125), ('y', -0.375)), bound=Fraction(1, 4))]
    """
    scale = _scale(list(terms.values()))
    if scale != 1:
        terms, bound = {name: scale * c for name, c in terms.items()}, scale * bound
    up(bound)  # overflows here if ever
    ways = [[float(c)] if _is_float(c) else [down(c), up(c)] for c in terms.values()]
    _limit(math.prod(map(len, ways)), 0)
    rows = [Row(tuple(zip(terms, way, strict=True)), bound) for way in product(*ways)]
    return Formula(rows, []) if len(rows) == 1 else Formula([], [[(row,) for row in rows]])


def down(value: Rational) -> float:
    """The greatest float that is no greater; OverflowError beyond the greatest of all."""
    return -up(-value) + 0.0  # which -0.0 is not


def up(value: Rational) -> float:
    """The least float that is no less; OverflowError beyond the greatest of all.

    >>> up(Fraction("0.3")), down(Fraction("0.3"))
    (0.30000000000000004, 0.3)
    """
    nearest = float(value)
    p, q = nearest.as_integer_ratio()
    if p * value.denominator < value.numerator * q:
        nearest = math.nextafter(nearest, math.inf)
        nearest.as_integer_ratio()  # OverflowError where it is infinite
    return nearest


def _limit(disjuncts: int, rows: int) -> None:
    if disjuncts > MOST_DISJUNCTS or rows > MOST_ROWS:
        raise TooLarge


def _scale(coefficients: list[Rational]) -> Rational:
    """A factor that makes floats of all coefficients, if there is one; close to 1 for several."""
    if len(coefficients) == 1:
        return 1 if abs(coefficients[0]) == 1 else Fraction(1) / abs(coefficients[0])
    if all(map(_is_float, coefficients)):
        return 1
    to_integers = Fraction(
        math.lcm(*(c.denominator for c in coefficients)), math.gcd(*(c.numerator for c in coefficients))
    )
    # a power of 2 undoes most of the scaling, and rounds nothing
    scale = to_integers / Fraction(2) ** (to_integers.numerator.bit_length() - to_integers.denominator.bit_length())
    return scale if all(_is_float(scale * c) for c in coefficients) else 1


def _is_float(value: Rational) -> bool:
    return float(value).as_integer_ratio() == (value.numerator, value.denominator)
