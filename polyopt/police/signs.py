"""The table c[n, s] of what a sign vector costs a unit, computed only where it is asked for.

Row n is a unit, column s one of the 2^N sign vectors of N regions. Which s can be had does not depend on the unit: a
margin can be scaled. So where a projection has no solution, its Farkas proof strikes columns from the whole table, all
that agree with s or -s on the regions of the proof. Where pre-activations keep the margin on every region, c is 0.
Otherwise one point of each region bounds it: for the point v of region i that u violates most,

    c[n, s] >= max_i ((margin - s_i u v~)+ / |v~|)^2

So the table holds lower bounds at first, and exact costs after `evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyopt.police.hulls import Hull, stack
from polyopt.police.pairs import Pair
from polyopt.police.pricing import Clock, Columns, Prices
from polyopt.police.projections import alone, projections
from polyopt.qp import Status

FEW = 2  # entries of a unit at once
JOINING = 8  # columns of a unit at once
CHUNK = 4096  # projections at once
DECIDED = 64  # columns
TRIED = 16  # entries at once, in search of a column with a solution


def sign_vectors(count: int, like: Tensor) -> Tensor:
    """All sign vectors of ``count`` regions, (2^count, count), of the type of ``like``; the first one is all +1."""
    places = torch.arange(count - 1, -1, -1, device=like.device)
    bits = torch.arange(2**count, device=like.device)[:, None] >> places
    return 1.0 - 2.0 * (bits & 1).to(like.dtype)


class Table:
    """``cost`` (units, S), lower bounds where ``exact`` (units, S) is False, for ``signs`` (S, N) of +1 and -1.

    ``feasible`` (S,) says which columns are known to have a solution; columns without one cost infinity. ``unresolved``
    counts projections that rounding errors spoilt: they cost infinity too, but nothing is proven about them. The
    methods are those of `polyopt.police.pricing`.

    >>> from polyopt import Box
    >>> from polyopt.police.hulls import hulls
    >>> units = torch.tensor([[1.0, -1.5]], dtype=torch.float64)  # x - 1.5
    >>> table = Table(hulls([Box([float(i)], [i + 0.5]) for i in range(3)]), units, 0.25, Clock())
    >>> table.evaluate(torch.tensor([0, 0]), torch.tensor([2, 4]))
    >>> table.signs[[2, 4]].tolist(), table.cost[0, [2, 4]]
    ([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]], tensor([   inf, 0.2812], dtype=torch.float64))
    """

    def __init__(self, regions: Sequence[Hull], units: Tensor, margin: float, clock: Clock):
        self.regions, self.units, self.margin, self.clock = stack(regions), units, margin, clock
        self.signs = sign_vectors(len(regions), units)
        missing = alone(self.regions, units, margin)
        self.cost = units.new_zeros(len(units), len(self.signs))
        for i, side in enumerate((self.signs < 0).long().T):
            self.cost = torch.maximum(self.cost, missing[:, i, side])
        self.exact = self.cost == 0
        self.solutions: list[Tensor] = [units]  # entries that cost nothing leave the units as they are
        self.place = torch.arange(len(units), device=units.device)[:, None].repeat(1, len(self.signs))
        self.feasible = self.exact.any(0)
        self.struck = torch.zeros_like(self.feasible)
        self.unresolved = 0
        self.size = float(units.square().sum(1).max()) or 1.0

    def evaluate(self, units: Tensor, columns: Tensor) -> None:
        """Make entries exact: two index tensors of the same length. What is exact already costs nothing."""
        new = ~self.exact[units, columns]
        for unit, column in zip(units[new].split(CHUNK), columns[new].split(CHUNK), strict=True):
            if len(unit):
                self.clock.check()
                self._project(unit, column)

    def _project(self, units: Tensor, columns: Tensor) -> None:
        found = projections(self.regions, self.units[units], self.signs[columns], self.margin)
        self.exact[units, columns] = True
        self.cost[units, columns] = found.cost
        self.place[units, columns] = sum(map(len, self.solutions)) + torch.arange(len(units), device=units.device)
        self.solutions.append(found.u)
        self.feasible[columns[found.status == Status.OPTIMAL]] = True
        self.unresolved += int((found.status == Status.ITERATION_LIMIT).sum())
        for k in (found.status == Status.INFEASIBLE).nonzero()[:, 0].tolist():
            if not self.struck[columns[k]]:
                self._strike(found.proof[k] > 0, self.signs[columns[k]])

    def _strike(self, where: Tensor, signs: Tensor) -> None:
        same = (self.signs[:, where] * signs[where]).sum(1)
        gone = abs(same) == where.sum()
        self.struck |= gone
        self.cost[:, gone], self.exact[:, gone] = torch.inf, True

    def points(self, signs: Tensor) -> Tensor:  # noqa: D102
        places = 2 ** torch.arange(signs.shape[1] - 1, -1, -1, device=signs.device)
        columns = ((signs < 0) * places).sum(1, keepdim=True)
        return torch.cat(self.solutions)[self.place.gather(1, columns)[:, 0]]

    def cheapest(self) -> Columns:
        """In each round the few entries with the least bounds below the best exact cost are made exact."""
        while True:
            best = torch.where(self.exact, self.cost, torch.inf).min(1, keepdim=True)
            rest = torch.where(self.exact, torch.inf, self.cost)
            bound, column = rest.topk(min(FEW, len(self.signs)), 1, largest=False)
            unit, k = (bound < best.values).nonzero(as_tuple=True)
            if not len(unit):
                return self._columns(torch.arange(len(self.units), device=unit.device), best.indices[:, 0])
            self.evaluate(unit, column[unit, k])

    def _columns(self, unit: Tensor, column: Tensor) -> Columns:
        return Columns(unit, self.signs[column], self.cost[unit, column])

    def worth(self, prices: Prices) -> Tensor:
        """(1) of `polyopt.police.pricing`, (units, S)."""
        cost = torch.where(self.cost < torch.inf, 0.0, torch.inf) if prices.free else self.cost
        return cost - prices.able[:, None] * prices.paid(self.signs)

    def least(self, prices: Prices) -> Tensor:  # noqa: D102
        return self.worth(prices).amin(1)

    def improving(self, prices: Prices, limit: Tensor) -> Columns:
        """The best few of each unit are made exact, until some of them stay below."""
        while True:
            worth = self.worth(prices)
            value, column = worth.topk(min(JOINING, worth.shape[1]), 1, largest=False)
            unit, k = (value < limit[:, None]).nonzero(as_tuple=True)
            column = column[unit, k]
            self.evaluate(unit, column)
            found = self._columns(unit, column)
            found = found[self.worth(prices)[unit, column] < limit[unit]]
            if len(found) or not len(unit):
                return found

    def below(self, prices: Prices, limit: Tensor) -> Columns:  # noqa: D102
        unit, column = ((self.worth(prices) <= limit[:, None]) & (self.cost < torch.inf)).nonzero(as_tuple=True)
        self.evaluate(unit, column)
        found = self._columns(unit, column)
        return found[(self.worth(prices)[unit, column] <= limit[unit]) & (found.cost < torch.inf)]

    def inseparable(self, pairs: list[Pair]) -> tuple[Pair, ...]:
        """Columns that are known to have a solution answer for most pairs; if few others are open, they are decided."""
        sides = [self.signs[:, i] != self.signs[:, j] for i, j in pairs]
        if any(not (side & self.feasible).any() for side in sides):
            self._decide()
        return tuple(pair for pair, side in zip(pairs, sides, strict=True) if self._never(side))

    def _decide(self) -> None:
        """Find out which columns have a solution, if few are open: by hyperplanes of least norm."""
        open_ = (~self.feasible & ~self.struck).nonzero()[:, 0]
        if not 0 < len(open_) <= DECIDED:
            return
        start = self.units.new_zeros(len(open_), self.units.shape[1])
        found = projections(self.regions, start, self.signs[open_], 1.0)
        self.feasible[open_] = found.status == Status.OPTIMAL
        for k in (found.status == Status.INFEASIBLE).nonzero()[:, 0].tolist():
            self._strike(found.proof[k] > 0, self.signs[open_[k]])

    def _never(self, side: Tensor) -> bool:
        """Whether all columns ``side`` (S,), bool, are proven to have no solution."""
        while (left := side & ~self.struck).any():
            if (left & self.feasible).any():
                return False
            cost = torch.where(self.exact | ~left, torch.inf, self.cost)
            bound, place = cost.flatten().topk(min(TRIED, cost.numel()), largest=False)
            place = place[bound < torch.inf]
            if not len(place):
                return False  # rounding errors spoilt what is left
            self.evaluate(place // len(self.signs), place % len(self.signs))
        return True
