"""Outward rounding: what float64 computes of ``W M``, and how far at most that is from the exact matrix.

With the unit roundoff ``u = 2^-53``, k roundings one after the other change a number by a factor between
``1 - gamma_k`` and ``1 + gamma_k``, ``gamma_k = k u / (1 - k u)``. A product with k - 1 additions an entry, in whatever
order these are done, therefore has

    |fl(W M) - W M| <= gamma_k |W| |M|.

Where M itself is known as a midpoint and a radius, ``|M~ - M| <= R``, ``|W M~ - fl(W M)| <= |W| R + gamma_k |W| |M|``.
The right-hand side, a sum of numbers that are not negative, is computed in floats too and enlarged by its own error.
Products that underflow cost up to the least normal number each.

Adding zeros and multiplying by 0, 1 or -1 rounds nothing, and is not counted: what only selects, such as the first
layer's product with the identity, stays exact, so that a unit may touch its breakpoint at 0.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition 2002, lemma 3.1 and equation (3.13); Rump,
"Verification methods: rigorous results using floating-point arithmetic", Acta Numerica 2010, section 9.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

U = 2.0**-53
TINY = float(np.finfo(np.float64).tiny)
SAFE = 1e-270


class Ball(NamedTuple):
    """All matrices ``M~`` with ``|M~ - mid| <= radius`` entry by entry; arrays of one shape."""

    mid: np.ndarray
    radius: np.ndarray


def gamma(k):
    """``k u / (1 - k u)`` for a number or an array of numbers k."""
    return k * U / (1.0 - k * U)


def outward(value: np.ndarray, size: np.ndarray, roundings: int, floor: float = 0.0) -> np.ndarray:
    """At least the exact sum that ``value`` is, computed in floats; fractions are exact and stay as they are.

    ``size`` is the sum of the terms' magnitudes, computed alike, each term with so many ``roundings``; ``floor`` is
    what `underflow` costs. The bound allows for the errors in size and in this last addition.

    >>> outward(np.array([0.1 + 0.2]), np.array([0.1 + 0.2]), 1) > 0.3
    array([ True])
    """
    return value if value.dtype == object else value + 2.0 * gamma(roundings + 4) * size + floor


def underflow(A, B) -> float:
    """What underflow may cost an entry of ``A B`` at most; 0 where u times the least product is far from it."""
    if A.dtype == object:
        return 0.0
    least = [abs(getattr(part, "data", part) if sp.issparse(part) else part) for part in (A, B)]
    least = [part.min(initial=np.inf, where=part > 0) for part in least]
    return 0.0 if least[0] * least[1] >= SAFE else TINY * A.shape[1]


def product(W, ball: Ball, rounded: bool = False) -> Ball:
    """``W M`` for W (k, m), dense or sparse, and M (m, p) in the ball; ``rounded`` says that W's entries are rounded.

    >>> product(np.array([[0.1, 0.2]]), Ball(np.array([[3.0], [1.0]]), np.zeros((2, 1)))).radius < 1e-15
    array([[ True]])
    >>> product(np.array([[0.1, 0.2]]), Ball(np.eye(2), np.zeros((2, 2)))).radius
    array([[0., 0.]])
    """
    mid, radius = ball
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        share = gamma(_roundings(W, mid) + rounded)[:, None]
        error = abs(W) @ radius + share * (abs(W) @ abs(mid))
        floor = underflow(W, mid) + underflow(W, radius)
        return Ball(W @ mid, error * (1.0 + 2.0 * gamma(W.shape[1] + 6)) + floor)


def combine(matrices, balls, offset: np.ndarray, one: np.ndarray, rounded: bool = False) -> Ball:
    """``sum_i W_i M_i + offset one`` with a row ``one`` (p,) of what stands for the constant 1."""
    one = one[None]
    mids, radii = zip(*balls, Ball(one, np.zeros_like(one)), strict=True)
    stacked = Ball(np.concatenate(mids), np.concatenate(radii))
    return product(beside([*matrices, offset[:, None]]), stacked, rounded)


def beside(matrices):
    """Matrices side by side, sparse where one of them is."""
    if any(map(sp.issparse, matrices)):
        return sp.csr_array(sp.hstack([sp.csr_array(matrix) for matrix in matrices]))
    return np.hstack(matrices)


def _roundings(W, mid: np.ndarray) -> np.ndarray:
    """How many roundings (k,) the entries of each row of ``W mid`` have seen at most."""
    if sp.issparse(W):
        terms = np.diff(W.indptr)
        scales = sp.csr_array((~np.isin(abs(W.data), (0.0, 1.0)), W.indices, W.indptr), W.shape)
    else:
        terms = np.count_nonzero(W, axis=1)
        scales = ~np.isin(abs(W), (0.0, 1.0))
    multiplies = scales.astype(np.float64) @ (~np.isin(abs(mid), (0.0, 1.0))).any(1) > 0
    adds = (np.count_nonzero(mid, axis=0) > 1).any()
    return adds * np.maximum(terms - 1, 0) + multiplies
