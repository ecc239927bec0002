"""What a Pyomo model says around its networks, as a polyhedron in a box: its active linear rows, integers relaxed.

A polyhedron here has finite bounds on all columns, as proofs by multipliers need them. A variable without bounds gets
those that its rows imply, as in ``t == x_1 + x_2``: with the other terms of a row in their ranges,

    a_j x_j  <=  row_upper - sum_{k != j} min a_k x_k,

rounded outwards. Rows with a variable that stays unbounded are left out: without them there are only more points.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from polyopt.program import Program, to_relaxation
from polyopt.regions.rounding import TINY, gamma
from polyopt.tighten.polyhedron import Polyhedron


def surroundings(model, variables: list, ranges: np.ndarray, without: list) -> tuple[Polyhedron, np.ndarray]:
    """The polyhedron, and in it the columns of these variables, which lie in ``ranges`` (k, 2).

    The rows of the components ``without``, and whatever is not linear, are left out. A fixed variable ranges over its
    bounds.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x, m.t, m.free = pyo.Var(bounds=(0, 2)), pyo.Var(), pyo.Var()
    >>> m.sum, m.open = pyo.Constraint(expr=m.t == 2 * m.x), pyo.Constraint(expr=m.x <= m.free)
    >>> polyhedron, columns = surroundings(m, [m.x], np.array([[-1.0, 1.0]]), [])
    >>> columns, polyhedron.matrix.toarray(), polyhedron.upper.round(9)
    (array([0]), array([[-2.,  1.]]), array([1., 2.]))
    """
    program, places = to_relaxation(model, variables, without)
    np.maximum.at(program.lower, places, ranges[:, 0])
    np.minimum.at(program.upper, places, ranges[:, 1])
    while _imply_bounds(program):
        pass
    bounded = np.isfinite(program.lower) & np.isfinite(program.upper)
    whole = abs(program.matrix) @ ~bounded == 0
    polyhedron = Polyhedron()
    polyhedron.add_columns(program.lower[bounded], program.upper[bounded])
    rows = sp.csr_array(program.matrix[whole][:, bounded])
    polyhedron.add_rows(rows, program.row_lower[whole], program.row_upper[whole])
    return polyhedron, (np.cumsum(bounded) - 1)[places]


def _imply_bounds(program: Program) -> bool:
    """Bounds for variables that have none, in place; whether there are any that have one now."""
    matrix, found = sp.coo_array(program.matrix), False
    for sign in (1.0, -1.0):  # a row is turned over to read its lower side
        sides = program.row_upper if sign > 0 else -program.row_lower
        row, column, a = *matrix.coords, sign * matrix.data
        least = np.where(a > 0, a * program.lower[column], a * program.upper[column])
        open_ = ~np.isfinite(least)
        known = np.where(open_, 0.0, least)
        unknown = np.bincount(row, open_, len(sides))[row] - open_
        total, size = (np.bincount(row, part, len(sides)) for part in (known, abs(known)))
        terms = np.bincount(row, minlength=len(sides))[row]
        rest = sides[row] - (total[row] - known)
        error = 4.0 * gamma(terms + 6) * (size[row] + abs(known) + abs(sides[row])) + TINY * (terms + 6)
        for side, ends, out in ((1.0, program.upper, np.minimum), (-1.0, program.lower, np.maximum)):
            use = (side * a > 0) & (unknown == 0) & np.isfinite(sides[row]) & ~np.isfinite(ends[column])
            bound = (rest[use] + error[use]) / a[use]
            bound += side * (gamma(4) * abs(bound) + TINY)
            use[use] = finite = np.isfinite(bound)
            out.at(ends, column[use], bound[finite])
            found |= bool(use.any())
    return found
