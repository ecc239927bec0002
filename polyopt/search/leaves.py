"""Leaves of the search: domains on which every unit keeps to one piece, bounded by linear programs' prices.

A program (`polyopt.search.piece`) gives a point, which is offered, and dual values, which are candidates: the bound is
what the Lagrangian (`polyopt.bounds.lagrangian`) makes of them, rounded outwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.bounds.climb import Reduced
from polyopt.bounds.lagrangian import ascend
from polyopt.bounds.refine import Boxes
from polyopt.regions import Box
from polyopt.search.domains import Values
from polyopt.search.piece import least_on_piece
from polyopt.search.question import Question


def solved(question: Question, leaves: Values, sides: Tensor, kept: Tensor) -> Values:
    """The leaves' bounds and sides; ``sides`` (batch, 2, N) bound all units, those ``kept`` have the leaves' own.

    Here all units have a price that the box alone does not decide: what was fixed for margins below the cutoff may
    change its piece elsewhere.
    """
    units, target = question.units, leaves["target"]
    sides = sides.index_copy(2, kept, leaves["sides"])
    prices, weights = torch.zeros_like(sides), torch.empty_like(leaves["weights"])
    for i in range(len(target)):
        box = Box(leaves["lower"][i].cpu().numpy(), leaves["upper"][i].cpu().numpy())
        least = least_on_piece(question, int(target[i]), box, sides[i].cpu().numpy())
        prices[i] = question.backward.tensor(least.prices)
        weights[i] = question.backward.tensor(least.weights)
        if least.point is not None:
            question.offer(least.point[None], target[i, None])
    sides, prices = sides[:, :, units.kept].transpose(0, 1), (prices[:, 1] - prices[:, 0])[:, units.kept]
    mixture, boxes = question.mixture(target, weights), Boxes(leaves["lower"], leaves["upper"])
    reduced = Reduced(units, question.maps, question.output_map)
    start = units.relaxed(sides), prices
    bound = ascend(question.backward, reduced, sides, boxes, 0, start=start, mixture=mixture).bound
    return {"bound": torch.maximum(bound, leaves["bound"]), "sides": leaves["sides"]}
