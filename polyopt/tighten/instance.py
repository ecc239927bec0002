"""One HiGHS instance for all linear programs over a polyhedron: it grows with it, and only the cost changes.

Each program starts from the last one's basis. All columns have finite bounds, so that any basis becomes dual feasible
by moving columns to their other bounds: the dual simplex method can go on at once. Where the rows stay the same the
last vertex also stays feasible, from which the primal method goes on: the shorter way in a large polyhedron, of which
each program concerns a small part.
"""

from __future__ import annotations

import math

import highspy
import numpy as np

from polyopt.silent import silent_highs
from polyopt.tighten.polyhedron import Polyhedron

_KEPT = {"presolve": "off", "solver": "simplex", "parallel": "off"}
DUAL, PRIMAL = 1, 4  # HiGHS's numbers for the methods


class Instance:
    """The solver, which holds some first columns and rows of a polyhedron; by the ``primal`` or the dual method."""

    def __init__(self, primal: bool = False):
        self._solver = silent_highs()
        for option, value in _KEPT.items():
            self._solver.setOptionValue(option, value)
        self._solver.setOptionValue("simplex_strategy", PRIMAL if primal else DUAL)

    def grow(self, polyhedron: Polyhedron) -> None:
        """Add the columns and rows that the polyhedron has got since."""
        new = slice(self._solver.getNumCol(), None)
        lower, upper = polyhedron.lower[new], polyhedron.upper[new]
        if count := len(lower):
            empty = np.zeros(count, dtype=np.int32)
            self._solver.addCols(count, np.zeros(count), lower, upper, 0, empty, empty[:0], np.empty(0))
        matrix, row_lower, row_upper, _ = polyhedron.rows_from(self._solver.getNumRow())
        if len(row_lower):
            places = (matrix.indptr[:-1].astype(np.int32), matrix.indices.astype(np.int32))
            self._solver.addRows(len(row_lower), row_lower, row_upper, matrix.nnz, *places, matrix.data)

    def minimize(self, cost: np.ndarray, seconds: float = math.inf) -> np.ndarray:
        """Multipliers (m,) of the rows for the least ``cost x``; those of the last basis where there is no optimum.

        >>> import scipy.sparse as sp
        >>> polyhedron, instance = Polyhedron(), Instance()
        >>> columns = polyhedron.add_columns([0.0, 0.0], [1.0, 1.0])
        >>> polyhedron.add_rows(sp.csr_array([[1.0, 1.0]]), [0.5], [np.inf])
        >>> instance.grow(polyhedron)
        >>> instance.minimize(np.array([1.0, 2.0])), instance.point
        (array([1.]), array([0.5, 0. ]))
        """
        self._solver.changeColsCost(len(cost), np.arange(len(cost), dtype=np.int32), cost)
        if math.isfinite(seconds):
            # HiGHS counts the time of all linear programs that an instance has solved
            self._solver.setOptionValue("time_limit", self._solver.getRunTime() + seconds)
        self._solver.run()
        duals = np.array(self._solver.getSolution().row_dual)
        rows = self._solver.getNumRow()
        return duals if len(duals) == rows else np.zeros(rows)

    @property
    def infeasible(self) -> bool:
        """Whether HiGHS found that the last program has no feasible point."""
        return self._solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible

    @property
    def point(self) -> np.ndarray:
        """The last program's solution (n,)."""
        return np.array(self._solver.getSolution().col_value)
