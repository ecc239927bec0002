"""Linear programs over one polyhedron, solved by HiGHS: many objectives, or many right-hand sides, one after the other.

One HiGHS instance serves all of them; each continues from the last basis. Tolerances are 1e-10, the smallest HiGHS
takes, so the data should be of size about one.
"""

from __future__ import annotations

import highspy
import numpy as np
import scipy.sparse as sp

from polyopt.silent import silent_highs


class LinearProgram:
    """``max c x`` subject to ``row_lower <= M x <= row_upper`` and ``lower <= x <= upper``, vectors or numbers.

    >>> program = LinearProgram([[1.0, 1.0]], -np.inf, 1.0, lower=0.0, upper=np.inf)
    >>> program.maximizer([1.0, 2.0])
    array([0., 1.])
    """

    def __init__(self, matrix, row_lower, row_upper, lower, upper):
        matrix = sp.csr_array(matrix)
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = matrix.shape
        lp.col_cost_ = np.zeros(matrix.shape[1])
        lp.col_lower_, lp.col_upper_ = (_vector(side, lp.num_col_) for side in (lower, upper))
        lp.row_lower_, lp.row_upper_ = (_vector(side, lp.num_row_) for side in (row_lower, row_upper))
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        lp.sense_ = highspy.ObjSense.kMaximize
        self._shape = matrix.shape
        self._solver = silent_highs()
        for option, value in (("presolve", "off"), ("solver", "simplex")):
            self._solver.setOptionValue(option, value)
        for kind in ("primal", "dual"):
            self._solver.setOptionValue(f"{kind}_feasibility_tolerance", 1e-10)
        if self._solver.passModel(lp) == highspy.HighsStatus.kError:
            raise ValueError("HiGHS refuses the polytope's numbers; look for entries beyond 1e15")

    def set_rows(self, row_lower, row_upper) -> None:
        """Change the right-hand sides."""
        count = self._shape[0]
        self._solver.changeRowsBounds(
            count, np.arange(count, dtype=np.int32), np.float64(row_lower), np.float64(row_upper)
        )

    def maximizer(self, cost) -> np.ndarray:
        """A point where ``cost x`` is greatest; ValueError where no point is feasible or ``cost x`` has no bound."""
        cost, count = np.float64(cost), self._shape[1]
        size = abs(cost).max(initial=0.0) or 1.0
        self._solver.changeColsCost(count, np.arange(count, dtype=np.int32), cost / size)
        self._solver.run()
        status = self._solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            raise ValueError("the polytope is empty: no point satisfies all of its rows")
        if status in (highspy.HighsModelStatus.kUnbounded, highspy.HighsModelStatus.kUnboundedOrInfeasible):
            raise ValueError(f"the polytope is unbounded: nothing limits {_first(cost)}; add rows that do")
        if status != highspy.HighsModelStatus.kOptimal:
            raise ValueError(f"HiGHS ends with {self._solver.modelStatusToString(status)!r} on the polytope")
        return np.array(self._solver.getSolution().col_value)


def nearest(x: np.ndarray, matrix: np.ndarray, lower: float, total: float | None = None) -> np.ndarray:
    """For points ``x`` (m, n) the ``z`` (m, k) whose ``M z`` is nearest to x in the maximum norm.

    All entries of z lie in [lower, 1]; where ``total`` is given, that is their sum.

    >>> nearest(np.array([[0.5], [3.0]]), np.eye(1), lower=-1.0)
    array([[0.5],
           [1. ]])
    """
    n, k = matrix.shape
    size = abs(matrix).max(initial=0.0) or 1.0
    x, matrix = x / size, matrix / size
    sides = [np.hstack([matrix, np.ones((n, 1))]), np.hstack([matrix, -np.ones((n, 1))])]  # >= x, <= x with t last
    sums = np.append(np.ones(k), 0.0)[None]
    free = np.full(n, np.inf)
    total = (-np.inf, np.inf) if total is None else (total, total)
    limits = (np.append(np.full(k, lower), 0.0), np.append(np.ones(k), np.inf))
    rows = [(np.concatenate([p, -free, total[:1]]), np.concatenate([free, p, total[1:]])) for p in x]
    if not rows:
        return np.zeros((0, k))
    program = LinearProgram(np.vstack([*sides, sums]), *rows[0], *limits)
    found = []
    for row in rows:
        program.set_rows(*row)
        found.append(program.maximizer(-np.append(np.zeros(k), 1.0))[:k])
    return np.clip(found, lower, 1.0)


def _vector(values, count: int) -> np.ndarray:
    return np.broadcast_to(np.float64(values), count).copy()


def _first(cost: np.ndarray) -> str:
    """The objective in words, as far as a line allows."""
    terms = [f"{c:+.4g} x[{i}]" for i, c in enumerate(cost) if c][:4]
    return " ".join(terms) + (" …" if np.count_nonzero(cost) > 4 else "")
