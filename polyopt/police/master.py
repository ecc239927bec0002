"""The set-covering problem over the columns that there are, its relaxation and its duals, on HiGHS.

With x[n, s] = 1 if unit n takes the column s, at the cost c[n, s],

    minimize sum c[n, s] x[n, s]
    subject to   sum_s x[n, s] = 1                          for each unit n         (dual mu_n)
                 sum of x[n, s] with s_i != s_j  >= 1       for each pair (i, j)    (dual pi_ij >= 0)

where only units that are able to count for pairs. A relaxation may leave pairs out at a penalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import highspy
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from polyopt.police.pairs import Pair, parted
from polyopt.police.pricing import Columns
from polyopt.silent import silent_highs

TOLERANCE = 1e-9  # of the largest cost of a column, for what counts as zero among the columns' worth
DUAL = 1e-10  # of the same, for the duals


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A relaxation's duals and, for each pair, what is missing; what counts as zero."""

    pi: np.ndarray
    mu: np.ndarray
    short: np.ndarray
    tolerance: float


@dataclass(frozen=True, eq=False)
class Choice:
    """A column for each unit, (units, N), or None; its cost, and a bound for all choices of the columns there are."""

    signs: Tensor | None
    cost: float
    bound: float


class Master:
    """The columns so far. Its linear program has a slack for each pair first, then the columns."""

    def __init__(self, pairs: list[Pair], able: Tensor):
        self.pairs, self.able = pairs, able.cpu().numpy()
        self.columns: Columns | None = None
        self.keys: set[bytes] = set()
        self.unit, self.cost = np.zeros(0, dtype=int), np.zeros(0)
        self.parts = np.zeros((0, len(pairs)), dtype=bool)
        self.value = 0.0  # of the last relaxation

    @cached_property
    def solver(self) -> highspy.Highs:
        """The linear program."""
        return _solver(len(self.able), len(self.pairs))

    def add(self, columns: Columns) -> bool:
        """Take columns in; whether any was new."""
        rows = torch.cat([columns.unit[:, None].to(columns.signs.dtype), columns.signs], 1).cpu().numpy()
        new = [k for k, row in enumerate(rows) if (key := row.tobytes()) not in self.keys and not self.keys.add(key)]
        columns = columns[torch.tensor(new, dtype=torch.long, device=columns.unit.device)]
        self.columns = columns if self.columns is None else self.columns + columns
        unit = columns.unit.cpu().numpy()
        parts = parted(columns.signs, self.pairs).cpu().numpy() & self.able[unit, None]
        self.unit, self.cost = np.append(self.unit, unit), np.append(self.cost, columns.cost.cpu().numpy())
        self.parts = np.vstack([self.parts, parts])
        one = sp.csc_array((np.ones(len(new)), (unit, np.arange(len(new)))), shape=(len(self.able), len(new)))
        matrix = sp.csc_array(sp.vstack([one, sp.csc_array(parts.T.astype(float))]))
        zeros, most = np.zeros(len(new)), np.full(len(new), np.inf)  # an upper bound would have a dual of its own
        self.solver.addCols(len(new), zeros, zeros, most, matrix.nnz, matrix.indptr[:-1], matrix.indices, matrix.data)
        return bool(new)

    def relaxed(self, penalty: float, free: bool = False) -> Relaxed:
        """The relaxation in which a pair may be missing at a penalty; columns may be ``free``."""
        scale = 1.0 if free else self.value or self.cost.max() or 1.0
        lax = math.isfinite(penalty)
        slacks, count = len(self.pairs), len(self.pairs) + len(self.cost)
        cost = np.append(np.full(slacks, penalty if lax else 0.0), self.cost * (not free)) / scale
        every = np.arange(count, dtype=np.int32)
        self.solver.changeColsCost(count, every, cost)
        self.solver.changeColsBounds(slacks, every[:slacks], np.zeros(slacks), np.full(slacks, np.inf if lax else 0.0))
        self.solver.run()
        solution = self.solver.getSolution()
        if not free:
            self.value = scale * self.solver.getInfo().objective_function_value
        dual = scale * np.array(solution.row_dual)
        pi, mu = np.maximum(dual[len(self.able) :], 0.0), dual[: len(self.able)]
        return Relaxed(pi, mu, np.array(solution.col_value)[:slacks], TOLERANCE * scale)

    def integer(self, time_limit: float) -> Choice:
        """The best choice of these columns that is found in time."""
        if self.columns is None:
            return Choice(None, math.inf, -math.inf)
        start, slacks = self._greedy(), len(self.pairs)
        scale = 1.0 if start is None else self.cost[start].sum() or 1.0
        solver = silent_highs()
        solver.passModel(self.solver.getLp())
        count = slacks + len(self.cost)
        every = np.arange(count, dtype=np.int32)
        solver.changeColsCost(count, every, np.append(np.zeros(slacks), self.cost / scale))
        solver.changeColsBounds(count, every, np.zeros(count), np.append(np.zeros(slacks), np.ones(len(self.cost))))
        kinds = np.full(count, int(highspy.HighsVarType.kInteger), dtype=np.uint8)
        solver.changeColsIntegrality(count, every, kinds)
        for option in ("mip_rel_gap", "mip_abs_gap"):
            solver.setOptionValue(option, 0.0)
        if time_limit < math.inf:
            solver.setOptionValue("time_limit", max(time_limit, 1e-3))
        if start is not None:
            known = highspy.HighsSolution()
            known.col_value = np.isin(every, start + slacks).astype(float).tolist()
            solver.setSolution(known)
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            return Choice(None, math.inf, math.inf)
        bound = scale * info.mip_dual_bound
        if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
            start = (np.array(solver.getSolution().col_value)[slacks:] > 0.5).nonzero()[0]
        return Choice(None, math.inf, bound) if start is None else self._choice(start, bound)

    def _choice(self, taken: np.ndarray, bound: float) -> Choice:
        in_order = taken[self.unit[taken].argsort()]
        signs = self.columns.signs[torch.from_numpy(in_order).to(self.columns.unit.device)]
        return Choice(signs, float(self.cost[taken].sum()), bound)

    def _greedy(self) -> np.ndarray | None:
        """Columns for all units: always the one with the most missing pairs for what it costs above the cheapest."""
        order = np.lexsort((self.cost, self.unit))
        cheapest = order[np.searchsorted(self.unit[order], np.arange(len(self.able)))]
        extra = self.cost - self.cost[cheapest][self.unit]
        tiny = TOLERANCE * self.cost.max() or 1.0
        missing, taken = np.ones(len(self.pairs), dtype=bool), np.full(len(self.able), -1)
        while missing.any():
            gain = self.parts[:, missing].sum(1) * (taken[self.unit] < 0)
            k = (gain / (extra + tiny)).argmax() if gain.any() else -1
            if k < 0:
                return None
            taken[self.unit[k]], missing = k, missing & ~self.parts[k]
        return np.where(taken < 0, cheapest, taken)


def _solver(units: int, pairs: int) -> highspy.Highs:
    """A linear program with the rows of all units, then pairs, and slacks of the latter."""
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = units + pairs, pairs
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = np.zeros(pairs), np.zeros(pairs), np.full(pairs, np.inf)
    lp.row_lower_ = np.ones(units + pairs)
    lp.row_upper_ = np.append(np.ones(units), np.full(pairs, np.inf))
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.arange(pairs + 1, dtype=np.int32)
    lp.a_matrix_.index_ = np.arange(units, units + pairs, dtype=np.int32)
    lp.a_matrix_.value_ = np.ones(pairs)
    solver = silent_highs()
    solver.setOptionValue("primal_feasibility_tolerance", TOLERANCE)
    solver.setOptionValue("dual_feasibility_tolerance", DUAL)
    solver.passModel(lp)
    return solver
