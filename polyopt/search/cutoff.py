"""Bounds on undecided units that hold wherever a margin is below the cutoff, layer after layer.

Each row has a price on the cutoff of its own (`polyopt.bounds.lagrangian`); with the bounds of one layer the lines of
the next are tighter. Often this decides most units before anything is split. Source: Kotha et al. 2023, "Provably
bounding neural network preimages", section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.bounds.alpha import both
from polyopt.bounds.batches import at_once
from polyopt.bounds.climb import Reduced
from polyopt.bounds.lagrangian import Cutoff, Mixture, ascend
from polyopt.bounds.refine import Boxes
from polyopt.search.question import Question

ROWS = 256  # at a time
STEPS = 6  # of ascent, in a round


class Below(NamedTuple):
    """Where ``row . output <= limit``, rows (batch, n_out) and limits (batch,), on boxes with rows >= ``bound``.

    Bounds (batch,) beyond the limits would turn the signs of the prices.
    """

    row: Tensor
    limit: Tensor
    bound: Tensor
    boxes: Boxes


def below(question: Question, mixture: Mixture, bound: Tensor, boxes: Boxes) -> Below:
    """Where margins are below the cutoff, in the domains of some boxes on which their mixtures have bounds (batch,)."""
    fixed = mixture.limit()
    return Below(mixture.row(), question.cutoff + fixed, bound + fixed, boxes)


def tightened(question: Question, reduced: Reduced, sides: Tensor, below: Below) -> Tensor:
    """The sides (2, batch, n) after a round. Where a side crosses the other, no point is below the limit."""
    sides, units = sides.clone(), reduced.units
    count = at_once(ROWS, sides, sides.shape[2] + question.net.input_size)
    for part in units.parts:
        slopes = units.relaxed(sides)
        pairs = units.undecided(sides[:, :, part.place], part.place).nonzero()
        for pair in pairs.split(count // 2) if len(pairs) else ():
            domain, unit = pair[:, 0], pair[:, 1] + part.place.start
            each = domain.repeat(2)
            width = -sides[:, domain, unit].sum(0).repeat(2)
            room = below.limit[each] - below.bound[each]
            cutoff = Cutoff(below.row[each], below.limit[each], width / room)
            here, boxes = sides[:, each], below.boxes.take(each)
            options = {"cutoff": cutoff, "start": (slopes[:, each], torch.zeros_like(here[0])), "priced": False}
            found = ascend(question.backward, reduced, here, boxes, STEPS, begin=both(unit), **options).bound
            sides[:, domain, unit] = torch.maximum(sides[:, domain, unit], found.unflatten(0, (2, -1)))
    return sides
