"""Bounds on undecided units that hold wherever a margin is below the cutoff, round after round.

Each round bounds all of them at once, as rows of one batch with a price on the cutoff of their own
(`polyopt.bounds.lagrangian`); with the bounds of one round the lines of the next are tighter. Often this decides most
units before anything is split. Source: Kotha et al. 2023, "Provably bounding neural network preimages", section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.bounds.lagrangian import Cutoff, Minimum, ascend
from polyopt.bounds.units import Units
from polyopt.search.question import Question

ROWS = 256  # units bounded at a time
STEPS = 4  # of ascent, in a round


class Below(NamedTuple):
    """Where ``row . output <= limit`` (n_out,): on the box of ``minimum``, with the row at least ``bound`` there."""

    row: Tensor
    limit: float
    bound: float
    minimum: Minimum


def tightened(question: Question, units: Units, sides: Tensor, below: Below) -> tuple[Tensor, float]:
    """The sides (2, n) after a round, and a bound on the row, which rides along as one more row.

    Where a side crosses the other, or the bound is above the limit, no point is below the limit.
    """
    undecided = units.undecided(sides.unsqueeze(1))[0].nonzero()[:, 0]
    slopes = units.relaxed(sides.unsqueeze(1))
    tight, best = sides.clone(), below.bound
    for some in undecided.split(ROWS) if len(undecided) else [undecided]:
        rows = sides.new_zeros(2 * len(some) + 1, len(below.row))
        rows[-1] = below.row
        on_nodes = _on_nodes(units, some)
        on_nodes[question.output] = on_nodes.get(question.output, 0.0) + rows
        width = -sides.sum(0)[some]
        scale = torch.cat([width, width]) / (below.limit - best)
        scale = torch.cat([scale, scale.new_ones(1)])
        here = sides.unsqueeze(1).expand(-1, len(rows), -1)
        start = slopes.expand(-1, len(rows), -1), torch.zeros_like(here)
        cutoff = Cutoff({question.output: below.row}, below.limit, scale)
        minimum = below.minimum
        found = ascend(question.backward, units, on_nodes, here, minimum, STEPS, cutoff, start).bound
        tight[:, some] = torch.fmax(sides[:, some], found[:-1].unflatten(0, (2, -1)))
        best = max(best, float(found[-1]))
        if best > below.limit:
            break
    return tight, best


def _on_nodes(units: Units, some: Tensor) -> dict[str, Tensor]:
    """Rows ``e_i`` of some units, ``-e_i`` of the same, and a row of zeros, on the nodes whose values these are."""
    found = {}
    for part in units.parts:
        here = (some >= part.place.start) & (some < part.place.stop)
        if here.any():
            (name,) = part.node.inputs
            rows = units.breakpoints.new_zeros(2 * len(some) + 1, part.node.size)
            index, place = here.nonzero()[:, 0], part.positions(some[here] - part.place.start)
            rows[index, place], rows[len(some) + index, place] = 1.0, -1.0
            found[name] = found[name] + rows if name in found else rows
    return found
