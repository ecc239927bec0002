"""Columns for many regions, of which only those that matter are ever projected: branch and bound over the regions.

`polyopt.police.nodes` says what the columns of a node, a partial sign vector for a unit, are worth at least, and which
signs take that bound. Nodes with less than what is asked for branch, on the region with the most to say, and those
signs are tried as a column.

The tree keeps growing through all calls: its open nodes and the columns found cover all that have a solution, and other
prices only give them other bounds. Nodes without a solution have a Farkas proof, a partial sign vector that no unit
has, nor its negative. Those are few in low dimension, where a few regions of a partial vector decide whether it can be
had, and are remembered: they strike nodes, and where all but one of their signs are taken, give the last region its
sign. A last unit of zeros asks for signs with a solution at any cost.

Sources: Land and Doig, An automatic method of solving discrete programming problems, Econometrica 28, 1960; Barnhart et
al., Branch-and-price: column generation for solving huge integer programs, Operations Research 46, 1998.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polyopt.police.hulls import Hull, stack
from polyopt.police.nodes import Nodes, beside, interest, priced, propagated
from polyopt.police.pairs import Pair
from polyopt.police.pricing import Clock, Columns, Prices, no_prices
from polyopt.police.projections import alone, projections
from polyopt.qp import Status

FEW = 2  # nodes of a unit that branch at once
JOINING = 3  # columns of a unit at once
CHUNK = 1024  # nodes that branch at once


class Tree:
    """The methods of `polyopt.police.pricing` for units (units, n + 1).

    >>> from polyopt import Box
    >>> from polyopt.police.hulls import hulls
    >>> units = torch.tensor([[1.0, -1.5], [1.0, -1.25]], dtype=torch.float64)  # x - 1.5 and x - 1.25
    >>> tree = Tree(hulls([Box([float(i)], [i + 0.5]) for i in range(3)]), units, 0.25, Clock())
    >>> tree.cheapest().signs.tolist(), tree.inseparable([(0, 1), (1, 2)])
    ([[-1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]], ())
    """

    def __init__(self, regions: Sequence[Hull], units: Tensor, margin: float, clock: Clock):
        self.regions, self.margin, self.clock = stack(regions), margin, clock
        self.units = torch.cat([units, torch.zeros_like(units[:1])])
        count, all_ = len(regions), torch.arange(len(self.units), device=units.device)
        signs = units.new_zeros(len(all_), count)
        self.open = Nodes(all_, signs, units.new_zeros(len(all_)), alone(self.regions, self.units, margin))
        self.found = Columns(all_[:0], signs[:0], units.new_zeros(0))
        self.place: dict[tuple[int, bytes], int] = {}
        self.proofs = signs[:0]
        self.unresolved = 0
        self.size = float(units.square().sum(1).max()) or 1.0
        self._note(self.open)

    def cheapest(self) -> Columns:  # noqa: D102
        prices = no_prices(len(self.regions), self.units.new_ones(len(self.units) - 1))
        while self.branch(prices, self._best(prices), FEW):
            pass
        best, found = self._best(prices), self.found
        chosen = (found.cost <= best[found.unit]) & (found.unit < len(self.units) - 1)
        columns = found[chosen.nonzero()[:, 0]]
        order = torch.arange(len(columns), device=best.device)
        first = order.new_full((len(best) - 1,), len(columns)).scatter_reduce(0, columns.unit, order, "amin")
        return columns[first]

    def improving(self, prices: Prices, limit: Tensor) -> Columns:  # noqa: D102
        if prices.free:
            return self._feasible(prices, limit)
        limit = _and_none(limit)
        while True:
            worth = self._worth(prices)
            good = (worth < limit[self.found.unit]).nonzero()[:, 0]
            if len(good):
                return self.found[good[_ranks(self.found.unit[good], worth[good]) < JOINING]]
            if not self.branch(prices, limit, FEW):
                return self.found[good]

    def below(self, prices: Prices, limit: Tensor) -> Columns:  # noqa: D102
        limit = _and_none(limit)
        above = torch.nextafter(limit, torch.full_like(limit, torch.inf))
        while self.branch(prices, above, CHUNK):
            pass
        return self.found[self._worth(prices) <= limit[self.found.unit]]

    def least(self, prices: Prices) -> Tensor:  # noqa: D102
        values = torch.cat([self._worth(prices), priced(self.open, prices).bound])
        units = torch.cat([self.found.unit, self.open.unit])
        return values.new_full((len(self.units),), torch.inf).scatter_reduce(0, units, values, "amin")[:-1]

    def points(self, signs: Tensor) -> Tensor:  # noqa: D102
        return projections(self.regions, self.units[:-1], signs, self.margin).u

    def inseparable(self, pairs: list[Pair]) -> tuple[Pair, ...]:
        """For each pair that no column found separates, the tree below +1 and -1 for the unit of zeros."""
        left, spoilt = list(pairs), self.unresolved
        nodes = self._apart(left)
        while True:
            left = [pair for pair in left if not self._separated(pair)]
            alive = {pair: nodes.signs[:, pair[0]] * nodes.signs[:, pair[1]] < 0 for pair in left}
            open_ = {pair: which.nonzero()[:, 0] for pair, which in alive.items() if which.any()}
            if not open_:  # a node that rounding errors spoilt may have held columns
                return tuple(left) if self.unresolved == spoilt else ()
            self.clock.check()
            cut = (nodes.alone.amin(2) > 0).sum(1)
            chosen = torch.stack([which[cut[which].argmin()] for which in open_.values()]).unique()
            nodes = self._split(nodes, chosen, nodes.alone[chosen].amin(2))

    def _apart(self, pairs: list[Pair]) -> Nodes:
        signs = self.proofs.new_zeros(len(pairs), len(self.regions))
        for k, (i, j) in enumerate(pairs):
            signs[k, i], signs[k, j] = 1.0, -1.0
        last = torch.full((len(pairs),), len(self.units) - 1, device=signs.device)
        return self._projected(last, signs)

    def _separated(self, pair: Pair) -> bool:
        return bool((self.found.signs[:, pair[0]] != self.found.signs[:, pair[1]]).any())

    def _feasible(self, prices: Prices, limit: Tensor) -> Columns:
        """Columns that cost nothing, from the unit of zeros to all units; then their costs are found out."""
        most = limit.masked_fill(prices.able == 0, -torch.inf).amax()
        last = torch.cat([torch.full_like(limit, -torch.inf), most[None]])
        while True:
            vectors = self.found.signs.unique(dim=0)
            paid = prices.paid(vectors)
            best = paid.topk(min(JOINING, len(paid))).indices
            if len(best) and bool(-paid[best[0]] < most):
                break
            if not self.branch(prices, last, FEW):
                return self.found[:0]
        k, unit = ((-paid[best])[:, None] < limit.masked_fill(prices.able == 0, -torch.inf)).nonzero(as_tuple=True)
        wanted = vectors[best][k]
        self._solve(unit, wanted)
        places = [self.place[key] for key in _keys(unit, wanted) if key in self.place]
        return self.found[torch.tensor(places, dtype=torch.int64, device=unit.device)]

    def branch(self, prices: Prices, limit: Tensor, few: int) -> bool:
        """Split up to ``few`` nodes of each unit that may hold columns worth less than ``limit`` (units + 1,)."""
        self.clock.check()
        worth = priced(self.open, prices)
        low = (worth.bound < limit[self.open.unit]).nonzero()[:, 0]
        if not len(low):
            return False
        low = low[_ranks(self.open.unit[low], worth.bound[low]) < few]
        low = low[worth.bound[low].argsort()[:CHUNK]]
        self._solve(self.open.unit[low], worth.signs[low])
        self.open = self._split(self.open, low, interest(self.open[low], prices))
        return True

    def _split(self, nodes: Nodes, chosen: Tensor, rise: Tensor) -> Nodes:
        """The nodes with both children instead of each chosen one, where those have a solution and free regions.

        They branch on the free region with the greatest ``rise`` (chosen, N).
        """
        parent = nodes[chosen]
        region = rise.masked_fill(parent.signs != 0, -torch.inf).argmax(1, keepdim=True)
        signs = torch.cat([parent.signs.scatter(1, region, side) for side in (1.0, -1.0)])
        signs, possible = propagated(signs, self.proofs)
        children = (parent + parent)[possible]
        before, signs = len(self.proofs), signs[possible]
        costly = (children.alone.gather(2, (signs < 0).long()[:, :, None])[:, :, 0] * abs(signs) > 0).any(1)
        same = children[~costly]
        same = Nodes(same.unit, signs[~costly], same.cost, beside(same.alone, signs[~costly]))
        children = same + self._projected(children.unit[costly], signs[costly])
        self._note(children)
        kept = torch.ones_like(nodes.unit, dtype=torch.bool).scatter(0, chosen, False)
        nodes = nodes[kept] + children[(children.signs == 0).any(1)]
        return nodes[propagated(nodes.signs, self.proofs[before:])[1]] if len(self.proofs) > before else nodes

    def _projected(self, unit: Tensor, signs: Tensor) -> Nodes:
        """Nodes with their projections, without those that have none; what proves that is remembered."""
        start = self.units[unit]
        found = projections(self.regions, start, signs, self.margin)
        self.unresolved += int((found.status == Status.ITERATION_LIMIT).sum())
        proved = found.status == Status.INFEASIBLE
        proofs = torch.where(found.proof[proved] > 0, signs[proved], 0.0)
        self.proofs = torch.cat([self.proofs, _turned(proofs)]).unique(dim=0)
        solved = found.status == Status.OPTIMAL
        unit, signs = unit[solved], signs[solved]
        return Nodes(unit, signs, found.cost[solved], beside(alone(self.regions, found.u[solved], self.margin), signs))

    def _note(self, nodes: Nodes) -> None:
        """Take down the columns of nodes of which no free region asks for more."""
        least, side = nodes.alone.min(2)
        whole = (least == 0).all(1)
        self._add(nodes.unit[whole], 1.0 - 2.0 * side[whole].to(nodes.cost.dtype), nodes.cost[whole])

    def _solve(self, unit: Tensor, signs: Tensor) -> None:
        """Take down these columns, projected where they are not known."""
        new = torch.tensor([key not in self.place for key in _keys(unit, signs)], device=unit.device)
        if new.any():
            nodes = self._projected(unit[new], signs[new])
            self._add(nodes.unit, nodes.signs, nodes.cost)

    def _add(self, unit: Tensor, signs: Tensor, cost: Tensor) -> None:
        fresh = []
        for k, key in enumerate(_keys(unit, signs)):
            if key not in self.place:
                self.place[key] = len(self.place)
                fresh.append(k)
        parts = zip((self.found.unit, self.found.signs, self.found.cost), (unit, signs, cost), strict=True)
        self.found = Columns(*(torch.cat([old, new[fresh]]) for old, new in parts))

    def _worth(self, prices: Prices) -> Tensor:
        """(1) of `polyopt.police.pricing` for all columns found."""
        able = torch.cat([prices.able, prices.able.new_ones(1)])[self.found.unit]
        return (0.0 if prices.free else self.found.cost) - able * prices.paid(self.found.signs)

    def _best(self, prices: Prices) -> Tensor:
        """The least worth of a column found for each unit, (units + 1,); the unit of zeros asks for none."""
        best = self.units.new_full((len(self.units),), torch.inf)
        best.scatter_reduce_(0, self.found.unit, self._worth(prices), "amin")
        return torch.cat([best[:-1], best.new_full((1,), -torch.inf)])


def _turned(proofs: Tensor) -> Tensor:
    """Of each proof and its negative the one that starts with +1."""
    first = proofs.gather(1, (proofs != 0).long().argmax(1, keepdim=True))
    return proofs * first


def _and_none(limit: Tensor) -> Tensor:
    """Limits for the units, and none for that of zeros."""
    return torch.cat([limit, limit.new_full((1,), -torch.inf)])


def _ranks(unit: Tensor, value: Tensor) -> Tensor:
    """The rank of each value among those of the same unit, from 0."""
    order = value.argsort()
    order = order[unit[order].argsort(stable=True)]
    sorted_ = unit[order]
    rank = torch.arange(len(unit), device=unit.device) - torch.searchsorted(sorted_, sorted_)
    return torch.empty_like(rank).scatter(0, order, rank)


def _keys(unit: Tensor, signs: Tensor) -> list[tuple[int, bytes]]:
    bits = np.packbits((signs < 0).cpu().numpy(), axis=1)
    return [(n, row.tobytes()) for n, row in zip(unit.tolist(), bits, strict=True)]
