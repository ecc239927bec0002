"""The table c[n, s] of what a sign vector costs a unit, computed only where it is asked for.

Row n is a unit, column s one of the 2^N sign vectors of N regions. Which s can be had does not depend on the unit: a
margin can be scaled. So where a projection has no solution, its Farkas proof strikes columns from the whole table, all
that agree with s or -s on the regions of the proof. Where pre-activations keep the margin on every region, c is 0.
Otherwise one point of each region bounds it: for the point v of region i that u violates most,

    c[n, s] >= max_i ((margin - s_i u v~)+ / |v~|)^2

So the table holds lower bounds at first, and exact costs after `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polyopt.police.hulls import Hull
from polyopt.police.projections import projections
from polyopt.qp import Status

MOST_ENTRIES = 2**25
FEW = 2  # entries of a unit at once
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
    counts projections that rounding errors spoilt: they cost infinity too, but nothing is proven about them.

    >>> from polyopt import Box
    >>> from polyopt.police.hulls import hulls
    >>> units = torch.tensor([[1.0, -1.5]], dtype=torch.float64)  # x - 1.5
    >>> table = Table(hulls([Box([float(i)], [i + 0.5]) for i in range(3)]), units, 0.25)
    >>> table.evaluate(torch.tensor([0, 0]), torch.tensor([2, 4]))
    >>> table.signs[[2, 4]].tolist(), table.cost[0, [2, 4]]
    ([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]], tensor([   inf, 0.2812], dtype=torch.float64))
    """

    def __init__(self, regions: Sequence[Hull], units: Tensor, margin: float):
        self.regions, self.units, self.margin = regions, units, margin
        count = len(regions)
        if len(units) * 2**count > MOST_ENTRIES:
            raise ValueError(
                f"mPOLICE: {count} regions have 2^{count} sign vectors, times {len(units)} units too many for a table "
                f"of {MOST_ENTRIES} entries; take fewer regions, or signs='mean'"
            )
        self.signs = sign_vectors(count, units)
        self.cost = units.new_zeros(len(units), len(self.signs))
        kept = torch.ones_like(self.cost, dtype=torch.bool)
        for i, region in enumerate(regions):
            least, satisfied = self._alone(region)
            side = (self.signs[:, i] < 0).long()
            self.cost = torch.maximum(self.cost, least[:, side])
            kept &= satisfied[:, side]
        self.exact = kept
        self.solutions: list[Tensor] = [units]  # entries that cost nothing leave the units as they are
        self.place = torch.arange(len(units), device=units.device)[:, None].repeat(1, len(self.signs))
        self.feasible = kept.any(0)
        self.struck = torch.zeros_like(self.feasible)
        self.unresolved = 0

    def _alone(self, region: Hull) -> tuple[Tensor, Tensor]:
        """What each side of one region costs at least, and whether it has the margin: (units, 2), side +1 first."""
        least, satisfied = [], []
        for s in (1.0, -1.0):
            v = region.lowest(s * self.units)
            missing = (self.margin - s * (self.units * v).sum(1)).clamp(min=0)
            least.append(missing.square() / v.square().sum(1))
            satisfied.append(missing == 0)
        return torch.stack(least, 1), torch.stack(satisfied, 1)

    def evaluate(self, units: Tensor, columns: Tensor) -> None:
        """Make entries exact: two index tensors of the same length. What is exact already costs nothing."""
        new = ~self.exact[units, columns]
        units, columns = units[new], columns[new]
        if not len(units):
            return
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

    def decide(self) -> None:
        """Find out which columns have a solution, if few are open: by hyperplanes of least norm."""
        open_ = (~self.feasible & ~self.struck).nonzero()[:, 0]
        if not 0 < len(open_) <= DECIDED:
            return
        start = self.units.new_zeros(len(open_), self.units.shape[1])
        found = projections(self.regions, start, self.signs[open_], 1.0)
        self.feasible[open_] = found.status == Status.OPTIMAL
        for k in (found.status == Status.INFEASIBLE).nonzero()[:, 0].tolist():
            self._strike(found.proof[k] > 0, self.signs[open_[k]])

    def _strike(self, where: Tensor, signs: Tensor) -> None:
        same = (self.signs[:, where] * signs[where]).sum(1)
        gone = abs(same) == where.sum()
        self.struck |= gone
        self.cost[:, gone], self.exact[:, gone] = torch.inf, True

    def solved(self, columns: Tensor) -> Tensor:
        """The units (units, n + 1) projected for one exact column each, (units,)."""
        return torch.cat(self.solutions)[self.place.gather(1, columns[:, None])[:, 0]]

    def cheapest(self, late: Callable[[], bool]) -> Tensor | None:
        """The cheapest column of each unit, (units,); None if it gets late.

        In each round the few entries with the least bounds below the best exact cost are made exact.
        """
        while True:
            best = torch.where(self.exact, self.cost, torch.inf).min(1, keepdim=True)
            rest = torch.where(self.exact, torch.inf, self.cost)
            bound, column = rest.topk(min(FEW, len(self.signs)), 1, largest=False)
            unit, k = (bound < best.values).nonzero(as_tuple=True)
            if not len(unit):
                return best.indices[:, 0]
            if late():
                return None
            self.evaluate(unit, column[unit, k])

    def reach(self, parted: Tensor, late: Callable[[], bool]) -> int | None:
        """A feasible one of the columns ``parted`` (S,), bool; None if all are proven infeasible or it gets late."""
        while (left := parted & ~self.struck).any():
            known = (left & self.feasible).nonzero()
            if len(known):
                return int(known[0, 0])
            cost = torch.where(self.exact | ~left, torch.inf, self.cost)
            bound, place = cost.flatten().topk(min(TRIED, cost.numel()), largest=False)
            place = place[bound < torch.inf]
            if not len(place) or late():
                return None
            self.evaluate(place // len(self.signs), place % len(self.signs))
        return None
