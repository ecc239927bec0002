"""The sign vectors of all units together: a set-covering problem, solved by column generation and enumeration.

With x[n, s] = 1 if unit n takes the sign vector s, at the cost c[n, s] of `polyopt.police.signs`,

    minimize sum c[n, s] x[n, s]
    subject to   sum_s x[n, s] = 1                          for each unit n         (dual mu_n)
                 sum of x[n, s] with s_i != s_j  >= 1       for each pair (i, j)    (dual pi_ij >= 0)               (1)

The linear relaxation is solved over a few columns. Another column can lower it only if its reduced cost

    r[n, s] = c[n, s] - sum of pi_ij with s_i != s_j - mu_n

is negative. Where that is so with the table's lower bound for c, the entry is made exact, and joins if it still is so.
At every step, for any pi >= 0,

    sum pi_ij + sum_n min_s (c[n, s] - sum of pi_ij with s_i != s_j)                                                (2)

is a lower bound on (1), with lower bounds for c too (Lagrange). At the end (2) is the relaxation's value L. Then (1) is
solved over these columns, with value U. A column with r > U - L is in no better solution: its reduced cost is what
having it adds to L at least. Those with r <= U - L, mostly few, are made exact and join, and (1) solved over all of
them has the optimum of all.

Sources: Ataei, Cheong and Butscher, mPOLICE, 2025, section 2.4; Desaulniers, Desrosiers and Solomon, Column Generation,
2005, chapter 1; for the enumeration, Baldacci, Christofides and Mingozzi, An exact algorithm for the vehicle routing
problem based on the set partitioning formulation, Mathematical Programming 115, 2008.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import highspy
import networkx as nx
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from polyopt.police.signs import Table

TOLERANCE = 1e-9  # of the largest cost of a column
JOINING = 3  # columns of a unit at once
CHUNK = 4096  # projections at once
ANSWER = 1.0  # seconds for a choice among the columns there are when it is late
WIDER = 4.0  # times the range of costs in which a first solution is looked for

Pair = tuple[int, int]


def unseparated(count: int, separated: Iterable[Pair] = ()) -> nx.Graph:
    """The graph of the pairs of ``count`` regions that are not yet separated.

    >>> unseparated(3, [(0, 1), (2, 1)]).edges
    EdgeView([(0, 2)])
    """
    graph = nx.complete_graph(count)
    for pair in separated:
        if not graph.has_edge(*pair) and not (0 <= min(pair) < max(pair) < count):
            raise ValueError(f"mPOLICE: {pair} is no pair of the {count} regions; pairs are (i, j), counted from 0")
        graph.remove_edges_from([pair])
    return graph


@dataclass(frozen=True, eq=False)
class Cover:
    """``columns`` (units,) or None, ``cost`` and ``bound``; ``short`` pairs that no choice separates along the others.

    Without columns the problem is infeasible if the bound is infinite, and else it got late.
    """

    columns: Tensor | None
    cost: float
    bound: float
    short: tuple[Pair, ...] = ()


def cover(table: Table, pairs: list[Pair], able: Tensor, deadline: float = math.inf) -> Cover:
    """Solve (1) for pairs of which each is separated by some feasible column.

    ``able`` (units,) says which units may separate pairs. ``deadline`` is a time of `time.perf_counter`.
    """
    return _Search(table, pairs, able, deadline).run()


class _Search:
    def __init__(self, table: Table, pairs: list[Pair], able: Tensor, deadline: float):
        self.table, self.pairs, self.deadline = table, pairs, deadline
        self.parts = parted(table.signs, pairs).to(table.cost.dtype)
        self.able = able.to(table.cost.dtype)
        self.master = _Master(len(able), self.parts.cpu().numpy(), able.cpu().numpy())
        self.joined = torch.zeros_like(table.exact)
        self.bound = 0.0

    def run(self) -> Cover:
        cheapest = self.table.cheapest(self.late)
        self.bound = float(self.table.cost.amin(1).sum())
        if cheapest is None:
            return Cover(None, math.inf, self.bound)
        units = torch.arange(len(cheapest), device=cheapest.device)
        cost = float(self.table.cost[units, cheapest].sum())
        done = ((self.parts[cheapest] * self.able[:, None]).amax(0) > 0).all() if self.pairs else True
        if done:
            return Cover(cheapest, cost, self.bound)
        self.join(units, cheapest)
        relaxed = self.generate(elastic=True)
        if relaxed is None:
            return Cover(None, math.inf, self.bound)
        if len(short := (relaxed.short > 1e-6).nonzero()[0]):
            return Cover(None, math.inf, math.inf, tuple(self.pairs[k] for k in short))
        relaxed = self.generate(elastic=False)
        if relaxed is None:
            return self.found(self.master.integer(ANSWER))
        return self.enumerate(relaxed)

    def late(self) -> bool:
        return time.perf_counter() > self.deadline

    def join(self, units: Tensor, columns: Tensor) -> bool:
        """Take exact entries of finite cost into the master problem; whether any was new."""
        new = ~self.joined[units, columns] & (self.table.cost[units, columns] < torch.inf)
        units, columns = units[new], columns[new]
        self.joined[units, columns] = True
        self.master.add(*(x.cpu().numpy() for x in (units, columns, self.table.cost[units, columns])))
        return bool(len(units))

    def generate(self, elastic: bool) -> _Relaxed | None:
        """The relaxation over all columns, or the least sum of what is missing to the pairs; None if it gets late."""
        while True:
            relaxed = self.master.relaxed(elastic)
            while True:
                reduced = self.reduced(relaxed, elastic)
                value, column = reduced.masked_fill(self.joined, torch.inf).topk(
                    min(JOINING, reduced.shape[1]), 1, largest=False
                )
                unit, k = (value < -relaxed.tolerance).nonzero(as_tuple=True)
                if not len(unit):
                    return relaxed
                if self.late():
                    return None
                column = column[unit, k]
                self.table.evaluate(unit, column)
                worth = self.reduced(relaxed, elastic)[unit, column] < -relaxed.tolerance
                if self.join(unit[worth], column[worth]):
                    break

    def reduced(self, relaxed: _Relaxed, elastic: bool) -> Tensor:
        """The reduced costs, (units, S); also raises the bound by (2)."""
        cost = self.table.cost
        pi, mu = (torch.tensor(x, dtype=cost.dtype, device=cost.device) for x in (relaxed.pi, relaxed.mu))
        paid = (self.parts @ pi) * self.able[:, None]
        if elastic:
            return torch.where(cost < torch.inf, -paid - mu[:, None], torch.inf)
        rest = cost - paid
        self.bound = max(self.bound, float(pi.sum() + rest.amin(1).sum()))
        return rest - mu[:, None]

    def enumerate(self, relaxed: _Relaxed) -> Cover:
        """The integer optimum: the solution over the columns so far, then over all that may be better."""
        choice = self.master.integer(self.deadline - time.perf_counter())
        width = WIDER * self.master.scale if choice.columns is None else choice.cost - self.bound
        while choice.columns is None or width > relaxed.tolerance:
            if not self.widen(relaxed, width):
                return self.found(choice)
            choice = self.master.integer(self.deadline - time.perf_counter())
            if choice.columns is None and choice.bound < math.inf:
                return self.found(choice)  # late
            if choice.columns is None and (self.joined | (self.table.cost == torch.inf)).all():
                return Cover(None, math.inf, math.inf, tuple(self.pairs))
            if choice.columns is not None and choice.cost - self.bound <= width + relaxed.tolerance:
                self.bound = max(self.bound, min(choice.bound, choice.cost))
                break
            width = WIDER * width if choice.columns is None else choice.cost - self.bound
        return self.found(choice)

    def widen(self, relaxed: _Relaxed, width: float) -> bool:
        """Let all columns join whose reduced cost is at most ``width``; False if it gets late before."""
        wanted = (self.reduced(relaxed, elastic=False) <= width + relaxed.tolerance) & ~self.joined
        unit, column = wanted.nonzero(as_tuple=True)
        for chunk in torch.arange(len(unit), device=unit.device).split(CHUNK):
            if self.late():
                return False
            self.table.evaluate(unit[chunk], column[chunk])
        worth = self.reduced(relaxed, elastic=False)[unit, column] <= width + relaxed.tolerance
        self.join(unit[worth], column[worth])
        return True

    def found(self, choice: _Choice) -> Cover:
        columns = choice.columns
        on_device = None if columns is None else torch.tensor(columns, device=self.table.cost.device)
        return Cover(on_device, choice.cost, min(self.bound, choice.cost))


@dataclass(frozen=True, eq=False)
class _Relaxed:
    """A relaxation's duals and, for each pair, what is missing; what counts as zero among reduced costs."""

    pi: np.ndarray
    mu: np.ndarray
    short: np.ndarray
    tolerance: float


@dataclass(frozen=True, eq=False)
class _Choice:
    columns: np.ndarray | None
    cost: float
    bound: float


class _Master:
    """(1) over the columns that joined so far."""

    def __init__(self, units: int, parts: np.ndarray, able: np.ndarray):
        self.units, self.parts, self.able = units, parts, able
        self.unit, self.column = np.zeros(0, dtype=int), np.zeros(0, dtype=int)
        self.cost = np.zeros(0)

    def add(self, unit: np.ndarray, column: np.ndarray, cost: np.ndarray) -> None:
        self.unit, self.column = np.append(self.unit, unit), np.append(self.column, column)
        self.cost = np.append(self.cost, cost)

    @property
    def scale(self) -> float:
        return self.cost.max(initial=0.0) or 1.0

    def relaxed(self, elastic: bool) -> _Relaxed:
        pairs = self.parts.shape[1]
        scale = 1.0 if elastic else self.scale
        cost = np.append(np.zeros(len(self.cost)), np.ones(pairs)) if elastic else self.cost / scale
        solver = self._solver(cost, pairs if elastic else 0)
        solver.run()
        solution = solver.getSolution()
        dual = scale * np.array(solution.row_dual)
        short = np.array(solution.col_value)[len(self.cost) :]
        return _Relaxed(np.maximum(dual[self.units :], 0.0), dual[: self.units], short, TOLERANCE * scale)

    def integer(self, time_limit: float) -> _Choice:
        """The best choice of these columns that is found in time."""
        solver = self._solver(self.cost / self.scale, 0)
        count = len(self.cost)
        kinds = np.full(count, int(highspy.HighsVarType.kInteger), dtype=np.uint8)
        solver.changeColsIntegrality(count, np.arange(count, dtype=np.int32), kinds)
        for option in ("mip_rel_gap", "mip_abs_gap"):
            solver.setOptionValue(option, 0.0)
        if time_limit < math.inf:
            solver.setOptionValue("time_limit", max(time_limit, 1e-3))
        solver.run()
        status, info = solver.getModelStatus(), solver.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            return _Choice(None, math.inf, math.inf)
        bound = self.scale * info.mip_dual_bound
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return _Choice(None, math.inf, bound)
        taken = np.array(solver.getSolution().col_value) > 0.5
        columns = np.zeros(self.units, dtype=int)
        columns[self.unit[taken]] = self.column[taken]
        return _Choice(columns, float(self.cost[taken].sum()), bound)

    def _solver(self, cost: np.ndarray, slacks: int) -> highspy.Highs:
        count, pairs = len(self.cost), self.parts.shape[1]
        one = sp.csr_array((np.ones(count), (self.unit, np.arange(count))), shape=(self.units, count))
        apart = sp.csr_array((self.parts[self.column] * self.able[self.unit][:, None]).T)
        matrix = sp.vstack([one, apart])
        if slacks:
            matrix = sp.hstack([matrix, sp.vstack([np.zeros((self.units, pairs)), sp.eye_array(pairs)])])
        matrix = sp.csr_array(matrix)
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = matrix.shape
        lp.col_cost_, lp.col_lower_ = cost, np.zeros(len(cost))
        # no upper bounds: their duals would be missing in the reduced costs
        lp.col_upper_ = np.full(len(cost), np.inf)
        lp.row_lower_ = np.ones(self.units + pairs)
        lp.row_upper_ = np.append(np.ones(self.units), np.full(pairs, np.inf))
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
        solver = highspy.Highs()
        solver.silent()
        for kind in ("primal", "dual"):
            solver.setOptionValue(f"{kind}_feasibility_tolerance", TOLERANCE)
        solver.passModel(lp)
        return solver


def parted(signs: Tensor, pairs: Iterable[Pair]) -> Tensor:
    """Which sign vectors (S, N) give the regions of each pair different signs: bool (S, pairs)."""
    pairs = list(pairs)
    if not pairs:
        return torch.zeros(len(signs), 0, dtype=torch.bool, device=signs.device)
    first, second = (list(side) for side in zip(*pairs, strict=True))
    return signs[:, first] != signs[:, second]


def pairs_of(count: int) -> list[Pair]:
    """All pairs of ``count`` regions."""
    return list(itertools.combinations(range(count), 2))
