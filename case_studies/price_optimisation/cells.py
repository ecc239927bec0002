"""Cells: what a choice of prices for some products says about a region's demands.

A cell v of region r is a choice of prices for the products S; its box leaves the other products' prices between the
ends of their lists, as far as the ladder allows, and ``L_v <= network <= U_v`` over that box. A weight w_v in [0, 1]
is 1 where the cell is chosen:

    sum_{v: v_k = i} w_v = z_{rki}                            for k in S, which makes w binary, as z is
    sum_v L_v w_v <= demand_r <= sum_v U_v w_v                `polyopt.add_cells`
    sold_{rki} <= sum_{v: v_k = i} min(M_{rk}, U_{vk}) w_v    for k in S

There are cells for each S of a given size. Where S is all products a cell is a price vector, and the bounds are a
forward pass, rounded outwards.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from week import Week, on_ladder

import polyopt as po
from formulations import Rows, add_variables
from polyopt.surrogate.cells import add_rows, bounds_over


@dataclass(frozen=True, eq=False)
class Cells:
    """The V choices for some products in one region that the ladder allows."""

    products: tuple[int, ...]
    at: np.ndarray  # (|S|, L, V), 1 where the choice for this product is this entry of its list
    boxes: po.Box  # of the network's inputs, a batch of V

    @classmethod
    def of(cls, week: Week, r: int, products: tuple[int, ...]) -> Cells:
        """Those of one region."""
        levels = np.arange(week.size[2])
        choice = np.array(list(itertools.product(levels, repeat=len(products))))
        lower, upper = (np.tile(end, (len(choice), 1)) for end in (week.prices[r].min(1), week.prices[r].max(1)))
        for s, k in enumerate(products):
            lower[:, k] = upper[:, k] = week.prices[r, k, choice[:, s]]
        lower, upper = on_ladder(lower, upper)
        kept = (lower <= upper).all(1)
        at = choice[kept].T[:, None] == levels[:, None]
        return cls(products, at.astype(float), week.inputs(r, lower[kept], upper[kept]))


def add_demand(m: pyo.ConcreteModel, week: Week, net: po.Network, contender, inputs: dict, held: int) -> dict:
    """The networks, and for each S of so many products in region r the block ``m.cells[r, c]``; returns the demands.

    polyopt's networks are written for the cells; to a rival's their rows are added.
    """
    groups = list(itertools.combinations(m.k, held))
    m.cells, demand = pyo.Block(m.r, range(len(groups))), {}
    for r in m.r:
        blocks, found = list(m.cells[r, :]), [Cells.of(week, r, products) for products in groups]
        weights = [_add_weights(m, r, block, cells) for block, cells in zip(blocks, found, strict=True)]
        if contender.package == "polyopt":
            covers = [(cells.boxes, w) for cells, w in zip(found, weights, strict=True)]
            demand[r] = po.add_cells(m.net[r], net, inputs[r], covers)
            bounds = [one.bounds for one in m.net[r].cells.values()]
        else:
            demand[r] = contender.embed(m.net[r], net, inputs[r])
            bounds = bounds_over(net, [cells.boxes for cells in found])
            for block, w, some in zip(blocks, weights, bounds, strict=True):
                add_rows(block, w, some, inputs[r], demand[r])
        for block, cells, w, some in zip(blocks, found, weights, bounds, strict=True):
            _add_most(m, week, r, block, cells, w, some.output.upper)
    return demand


def _add_weights(m: pyo.ConcreteModel, r: int, block, cells: Cells) -> list:
    """The weights of cells, which the choice of prices makes 0 or 1."""
    count = len(cells.boxes.lower)
    weights = add_variables(block, "w", range(count), np.zeros(count), np.ones(count))
    z = [m.z[r, k, i] for k in cells.products for i in m.i]
    block.choice = Rows([(cells.at.reshape(len(z), count), weights), (-1.0, z)], 0.0, 0.0)
    return weights


def _add_most(m: pyo.ConcreteModel, week: Week, r: int, block, cells: Cells, weights: list, upper: np.ndarray) -> None:
    """What can be sold at each price, with ``upper`` (V, n) above which no demand is."""
    most = [at * np.clip(upper[:, k], 0.0, week.most(r, k)) for at, k in zip(cells.at, cells.products, strict=True)]
    sold = [m.sold[r, k, i] for k in cells.products for i in m.i]
    block.most = Rows([(1.0, sold), (-np.concatenate(most), weights)], upper=0.0)
