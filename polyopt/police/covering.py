"""The sign vectors of all units together: a set-covering problem, solved by column generation and enumeration.

With x[n, s] = 1 if unit n takes the sign vector s, at the cost c[n, s] of `polyopt.police.pricing`,

    minimize sum c[n, s] x[n, s]
    subject to   sum_s x[n, s] = 1                          for each unit n         (dual mu_n)
                 sum of x[n, s] with s_i != s_j  >= 1       for each pair (i, j)    (dual pi_ij >= 0)               (1)

The linear relaxation is solved over a few columns (`polyopt.police.master`). Another column can lower it only if its
reduced cost

    r[n, s] = c[n, s] - sum of pi_ij with s_i != s_j - mu_n

is negative; such columns join. At first pairs may be missing at a penalty. If some are in the end, columns that cost
nothing tell whether the units are too few for all pairs, and if not, make a start. At every step, for any pi >= 0,

    sum pi_ij + sum_n min_s (c[n, s] - sum of pi_ij with s_i != s_j)                                                (2)

is a lower bound on (1), with lower bounds for the minima too (Lagrange). At the end (2) is the relaxation's value L.
Then (1) is solved over these columns, with value U. A column with r > U - L is in no better solution: its reduced cost
is what having it adds to L at least. Those with r <= U - L, mostly few, join, and (1) solved over all of them has the
optimum of all.

Sources: Ataei, Cheong and Butscher, mPOLICE, 2025, section 2.4; Desaulniers, Desrosiers and Solomon, Column Generation,
2005, chapter 1; for the enumeration, Baldacci, Christofides and Mingozzi, An exact algorithm for the vehicle routing
problem based on the set partitioning formulation, Mathematical Programming 115, 2008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyopt.police.master import Choice, Master, Relaxed
from polyopt.police.pairs import Pair, separated
from polyopt.police.pricing import Clock, OutOfTime, Prices, Pricing, no_prices

ANSWER = 1.0  # seconds for a choice among the columns there are when it is late
SHORT = 1e-6  # of a pair
WIDER = 4.0  # times the range of costs in which a first solution is looked for


@dataclass(frozen=True, eq=False)
class Cover:
    """``signs`` (units, N) or None, ``cost`` and ``bound``; ``short`` pairs that no choice separates along the others.

    Without signs the problem is infeasible if the bound is infinite, and else it got late.
    """

    signs: Tensor | None
    cost: float
    bound: float
    short: tuple[Pair, ...] = ()


def cover(costs: Pricing, pairs: list[Pair], count: int, able: Tensor, clock: Clock) -> Cover:
    """Solve (1) for pairs of ``count`` regions of which each is separated by some column.

    ``able`` (units,) says which units may separate pairs.
    """
    search = _Search(costs, pairs, count, able, clock)
    try:
        return search.run()
    except OutOfTime:
        search.raise_bound()
        return search.found(search.master.integer(ANSWER))


class _Search:
    def __init__(self, costs: Pricing, pairs: list[Pair], count: int, able: Tensor, clock: Clock):
        self.costs, self.pairs, self.able, self.clock = costs, pairs, able, clock
        self.master = Master(pairs, able)
        self.prices = no_prices(count, able.double())
        self.bound = 0.0

    def run(self) -> Cover:
        cheapest = self.costs.cheapest()
        cost = self.bound = float(cheapest.cost.sum())
        if all(separated(cheapest.signs, self.pairs, self.able)):
            return Cover(cheapest.signs, cost, self.bound)
        self.master.add(cheapest)
        relaxed = self.generate(self.costs.size)
        if (relaxed.short > SHORT).any():
            missing = self.generate(1.0, free=True).short > SHORT
            if missing.any():
                return Cover(None, math.inf, math.inf, tuple(self.pairs[k] for k in missing.nonzero()[0]))
            relaxed = self.generate(math.inf)
        return self.enumerate(relaxed)

    def generate(self, penalty: float, free: bool = False) -> Relaxed:
        """The relaxation over all columns, in which pairs may be missing at a penalty."""
        while True:
            relaxed = self.master.relaxed(penalty, free)
            self.prices = self.priced(relaxed.pi, free)
            more = self.costs.improving(self.prices, self.limit(relaxed, -relaxed.tolerance))
            self.raise_bound()
            if not self.master.add(more):
                return relaxed

    def priced(self, pi: np.ndarray, free: bool) -> Prices:
        P = torch.zeros_like(self.prices.P)
        i, j = torch.tensor(self.pairs, device=P.device).T
        P[i, j] = P[j, i] = torch.tensor(pi, dtype=P.dtype, device=P.device)
        return Prices(P, self.prices.able, free)

    def limit(self, relaxed: Relaxed, width: float) -> Tensor:
        return torch.tensor(relaxed.mu + width, dtype=self.prices.P.dtype, device=self.prices.P.device)

    def raise_bound(self) -> None:
        """By (2)."""
        if not self.prices.free:
            value = self.prices.P.sum() / 2 + self.costs.least(self.prices).sum()
            self.bound = max(self.bound, float(value))

    def enumerate(self, relaxed: Relaxed) -> Cover:
        """The integer optimum: the solution over the columns so far, then over all that may be better."""
        choice = self.master.integer(self.clock.left())
        width = WIDER * self.master.cost.max() if choice.signs is None else choice.cost - self.bound
        while choice.signs is None or width > relaxed.tolerance:
            more = self.master.add(self.costs.below(self.prices, self.limit(relaxed, width + relaxed.tolerance)))
            choice = self.master.integer(self.clock.left())
            if choice.signs is None and choice.bound < math.inf:
                return self.found(choice)  # late
            if choice.signs is None and math.isinf(width):
                return Cover(None, math.inf, math.inf, tuple(self.pairs))
            if choice.signs is not None and choice.cost - self.bound <= width + relaxed.tolerance:
                self.bound = max(self.bound, min(choice.bound, choice.cost))
                break
            if choice.signs is None:
                width = WIDER * width if more else math.inf
            else:
                width = choice.cost - self.bound
        return self.found(choice)

    def found(self, choice: Choice) -> Cover:
        return Cover(choice.signs, choice.cost, min(self.bound, choice.cost))
