"""Rational arithmetic: arrays of fractions, which float64 numbers are exactly.

A product of a matrix with z non-zero entries and p columns costs up to p z multiplications of fractions, a few
microseconds each. Their numerators and denominators grow with every layer, by 53 bits and the spread of the exponents.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import scipy.sparse as sp

DIGITS = 128  # binary digits of a square root


def fractions(values) -> np.ndarray:
    """The array of the numbers' exact values.

    >>> fractions([0.5, 3.0])
    array([Fraction(1, 2), Fraction(3, 1)], dtype=object)
    """
    return np.array(np.frompyfunc(Fraction, 1, 1)(np.asarray(values, dtype=np.float64)), dtype=object)


def floats(values: np.ndarray) -> np.ndarray:
    """The nearest floats; infinite where a number is too large.

    >>> floats(fractions([0.1]) / 3)
    array([0.03333333])
    """
    return np.array(np.frompyfunc(_float, 1, 1)(values), dtype=np.float64)


def _float(value) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def down(value: Fraction) -> float:
    """The greatest float that is no greater, -inf where there is none.

    >>> down(Fraction("0.3")), -down(-Fraction("0.3")), down(-Fraction(10) ** 400)
    (0.3, 0.30000000000000004, -inf)
    """
    nearest = _float(value)
    return math.nextafter(nearest, -math.inf) if nearest > value else nearest


def dot(W, M: np.ndarray, reciprocal: bool = False) -> np.ndarray:
    """``W M`` for floats W (k, m), dense or sparse, and fractions M (m, p).

    ``reciprocal`` says that the entries of W stand for 1, 1/2, 1/3, …, which floats do not hold.

    >>> dot(np.array([[0.5, 2.0]]), fractions([[1.0], [3.0]]))
    array([[Fraction(13, 2)]], dtype=object)
    """
    W = sp.csr_array(W)
    weights = [Fraction(1, round(1.0 / w)) for w in W.data] if reciprocal else fractions(W.data)
    columns = [np.flatnonzero(row) for row in M]
    result = np.full((W.shape[0], M.shape[1]), Fraction(0), dtype=object)
    for i, row in enumerate(result):
        for place in range(W.indptr[i], W.indptr[i + 1]):
            j = W.indices[place]
            row[columns[j]] += weights[place] * M[j, columns[j]]
    return result


def root(value: Fraction) -> Fraction:
    """A number no less than the square root, and greater by less than 2^-100 of it.

    >>> root(Fraction(2)) ** 2 >= 2, float(root(Fraction(2)))
    (True, 1.4142135623730951)
    """
    p, q = value.numerator, value.denominator
    shift = max(0, DIGITS + (q.bit_length() - p.bit_length()) // 2)
    return Fraction(math.isqrt((p << 2 * shift) // q) + 1, 1 << shift) if p else Fraction(0)
