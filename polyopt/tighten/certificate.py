"""What multipliers prove: a lower bound on a linear form over a polyhedron, whatever rounding and solvers did.

For any multipliers y, with ``y_i > 0`` on lower sides and ``y_i < 0`` on upper sides of rows,

    c x + d  >=  d + sum_i (y_i side_i - |y_i| slack_i) + sum_j min { r_j x_j : lower_j <= x_j <= upper_j },
    r = c - y A,

for every x of the polyhedron (weak duality). It is the optimum where y is a dual solution. HiGHS's is one up to its
tolerances, and these cost no soundness: only as much of the bound as the residuals they leave in r, times the columns'
bounds. In floats r is known up to ``gamma_k (|c| + |y| |A|)`` with k multipliers that are not zero, and the sums are
rounded outwards (`polyopt.regions.rounding`); in fractions all is exact, and only the result is rounded down.

Source: Neumaier and Shcherbina, "Safe bounds in linear and mixed-integer linear programming", Mathematical Programming
2004, section 3; Tjeng, Xiao and Tedrake's MIPVerify certifies its linear programs in this way.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from polyopt.regions.rational import dot, down, fractions
from polyopt.regions.rounding import TINY, gamma, outward
from polyopt.tighten.polyhedron import Polyhedron


class Form(NamedTuple):
    """``cost x + constant`` on all columns (n,), up to ``slack``."""

    cost: np.ndarray
    constant: float
    slack: float

    def __neg__(self) -> Form:
        return Form(-self.cost, -self.constant, self.slack)


def lower_bound(polyhedron: Polyhedron, form: Form, y: np.ndarray, exact: bool = False) -> float:
    """A lower bound on the form over the polyhedron that multipliers y (m,) prove; -inf where numbers are too large.

    Multipliers that are not numbers, or stand on a side that is infinite, count as zero.

    >>> import scipy.sparse as sp
    >>> polyhedron = Polyhedron()
    >>> columns = polyhedron.add_columns([0.0, 0.0], [1.0, 1.0])
    >>> polyhedron.add_rows(sp.csr_array([[1.0, 1.0]]), [0.7], [np.inf])
    >>> form = Form(np.array([1.0, 2.0]), 0.0, 0.0)
    >>> bound = lower_bound(polyhedron, form, np.array([1.0]))
    >>> bound < 0.7, round(bound, 12), lower_bound(polyhedron, form, np.array([1.0]), exact=True)
    (True, 0.7, 0.7)
    """
    sides = np.where(y > 0, polyhedron.row_lower, polyhedron.row_upper)
    y = np.where(np.isfinite(y) & np.isfinite(sides), y, 0.0)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        bound = (_exact if exact else _rounded)(polyhedron, form, y, np.where(y == 0, 0.0, sides))
    return bound if math.isfinite(bound) else -math.inf


def _rounded(polyhedron: Polyhedron, form: Form, y, sides) -> float:
    size, count, reach = abs(y), np.count_nonzero(y), polyhedron.magnitude
    transpose, magnitudes = polyhedron.transposed
    residual = form.cost - transpose @ y
    error = 2.0 * gamma(count + 4) * (abs(form.cost) + magnitudes @ size)
    least = np.minimum(residual * polyhedron.lower, residual * polyhedron.upper)
    value = form.constant + y @ sides + least.sum()
    spread = form.slack + size @ polyhedron.slack + error @ reach
    total = abs(form.constant) + size @ abs(sides) + abs(residual) @ reach + spread
    terms = count + len(reach) + 8
    floor = TINY * (polyhedron.matrix.nnz + 3 * terms) * (1.0 + reach.sum())  # what underflow may cost
    return -float(outward(np.asarray(spread - value), np.asarray(total), terms, floor))


def _exact(polyhedron: Polyhedron, form: Form, y, sides) -> float:
    active = np.flatnonzero(y)
    weights, sides, slack = fractions(y[active]), sides[active], polyhedron.slack[active]
    residual = fractions(form.cost) - dot(polyhedron.matrix[active].T, weights[:, None])[:, 0]
    ends = [residual * fractions(side) for side in (polyhedron.lower, polyhedron.upper)]
    value = Fraction(form.constant) - Fraction(form.slack) + np.minimum(*ends).sum()
    value += (weights * fractions(sides)).sum() - (abs(weights) * fractions(slack)).sum()
    return down(value)
