"""Bounds on undecided units that hold wherever the objective is better than the best point's, round after round.

Each round bounds all of them at once, as rows of one batch with a price on the cutoff of their own
(`polyopt.bounds.lagrangian`); with the bounds of one round the lines of the next are tighter. Often this decides most
units before anything is split. Source: Kotha et al. 2023, "Provably bounding neural network preimages", section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.bounds.lagrangian import Cutoff, Minimum, ascend
from polyopt.search.question import Question

ROWS = 256  # units bounded at a time
STEPS = 4  # of ascent, in a round


def tightened(question: Question, sides: Tensor, minimum: Minimum, bound: float) -> tuple[Tensor, float]:
    """The sides (2, n) after a round, and a bound on the objective, which rides along as one more row.

    ``bound`` is the best known so far, below the cutoff. Where a side crosses the other, or the new bound is above the
    cutoff, no point is better than the cutoff.
    """
    undecided = question.units.undecided(sides.unsqueeze(1))[0].nonzero()[:, 0]
    slopes = question.units.relaxed(sides.unsqueeze(1))
    tight, best = sides.clone(), bound
    for some in undecided.split(ROWS) if len(undecided) else [undecided]:
        rows = torch.zeros(len(some), sides.shape[1], dtype=sides.dtype, device=sides.device)
        rows.scatter_(1, some[:, None], 1.0)
        rows = torch.cat([rows, -rows, torch.zeros_like(sides[:1])])
        on_nodes = _on_nodes(question, rows)
        objective = torch.zeros(len(rows), len(question.row), dtype=sides.dtype, device=sides.device)
        objective[-1] = question.row
        on_nodes[question.output] = on_nodes.get(question.output, 0.0) + objective
        width = -sides.sum(0)[some]
        scale = torch.cat([width, width]) / (question.cutoff - bound)
        scale = torch.cat([scale, scale.new_ones(1)])
        here = sides.unsqueeze(1).expand(-1, len(rows), -1)
        start = slopes.expand(-1, len(rows), -1), torch.zeros_like(here)
        cutoff = Cutoff({question.output: question.row}, question.cutoff, scale)
        found = ascend(question.backward, question.units, on_nodes, here, minimum, STEPS, cutoff, start).bound
        tight[:, some] = torch.maximum(sides[:, some], found[:-1].unflatten(0, (2, -1)))
        best = max(best, float(found[-1]))
    return tight, best


def _on_nodes(question: Question, rows: Tensor) -> dict[str, Tensor]:
    """Rows on pre-activations, end to end, as rows on the nodes whose values these are."""
    found = {}
    for node, part in zip(question.units.nodes, rows.split(question.units.sizes, dim=1), strict=True):
        if part.any():
            (name,) = node.inputs
            found[name] = found[name] + part if name in found else part
    return found
