"""Bounds on undecided units that hold wherever a margin is below the cutoff, layer after layer.

Each row has a price on the cutoff of its own (`polyopt.bounds.lagrangian`); with the bounds of one layer the lines of
the next are tighter. Often this decides most units before anything is split. Source: Kotha et al. 2023, "Provably
bounding neural network preimages", section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.bounds.alpha import unit_rows
from polyopt.bounds.lagrangian import Cutoff, Minimum, ascend
from polyopt.bounds.units import Units
from polyopt.search.question import Question

ROWS = 256  # units bounded at a time
STEPS = 6  # of ascent, in a round


class Below(NamedTuple):
    """Where ``row . output <= limit`` (n_out,): on the box of ``minimum``, with the row at least ``bound`` there."""

    row: Tensor
    limit: float
    bound: float
    minimum: Minimum


def tightened(question: Question, units: Units, sides: Tensor, below: Below) -> Tensor:
    """The sides (2, n) after a round. Where a side crosses the other, no point is below the limit."""
    sides = sides.clone()
    for part in units.parts:
        undecided = units.undecided(sides[:, None, part.place], part.place)[0].nonzero()[:, 0]
        for some in undecided.split(ROWS) if len(undecided) else ():
            place = some + part.place.start
            width = -sides[:, place].sum(0).repeat(2)
            scale = width / (below.limit - below.bound)
            here = sides.unsqueeze(1).expand(-1, 2 * len(some), -1)
            cutoff = Cutoff({question.output: below.row}, below.limit, scale)
            (name,) = part.node.inputs
            rows = {name: unit_rows(part, some)}
            found = ascend(question.backward, units, rows, here, below.minimum, STEPS, cutoff).bound
            sides[:, place] = torch.fmax(sides[:, place], found.unflatten(0, (2, -1)))
            if (sides[:, place].sum(0) > 0).any():
                return sides
    return sides
