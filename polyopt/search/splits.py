"""Where a domain is split: at a breakpoint of the unit whose lines cost the bound most, or in half along an input.

Units are chosen as in BaBSR (Bunel et al. 2020). Inputs are chosen by the sum of two scores, each of which can be blind
where the other is not: ``|A_i| w_i``, with the slope A of the domain's linear bound and the box's widths w, and
``smear_i w_i``, where the smear is the slope along an input if all weights and the steepest pieces added up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.network import INPUT
from polyopt.search.question import Question

Values = dict[str, Tensor]  # of domains, by name; first dimension batch


def split_units(taken: Values, level: int) -> Values:
    """Every domain that has a unit to be split at this level becomes two, every other one stays."""
    unit, at = taken["unit"][:, level], taken["at"][:, level]
    split = torch.nonzero(unit >= 0)[:, 0]
    parts = {name: torch.cat([value, value[split]]) for name, value in taken.items()}
    parts["sides"][split, 1, unit[split]] = -at[split]
    parts["sides"][len(unit) + torch.arange(len(split), device=unit.device), 0, unit[split]] = at[split]
    return parts


def halve_inputs(taken: Values) -> Values:
    """The lower halves of all boxes, then the upper ones."""
    lower, upper, axis = taken["lower"], taken["upper"], taken["axis"].unsqueeze(1)
    middle = ((lower + upper) / 2).gather(1, axis)
    parts = {name: torch.cat([value, value]) for name, value in taken.items()}
    parts["lower"] = torch.cat([lower, lower.scatter(1, axis, middle)])
    parts["upper"] = torch.cat([upper.scatter(1, axis, middle), upper])
    return parts


def clipped(lower: Tensor, upper: Tensor, slope: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes (batch, n_in) less what a linear bound keeps above the cutoff.

    ``A x + c`` is least at one corner of the box, and there ``room`` (batch,) below the cutoff, room > 0: no point that
    is better lies further than ``room / |A_i|`` from that corner along input i.
    """
    finfo = torch.finfo(slope.dtype)
    reach = room.unsqueeze(1) / slope.abs().clamp(min=finfo.tiny)
    reach = reach + 4.0 * finfo.eps * (reach + lower.abs() + upper.abs())  # rounded outwards
    return (
        torch.where(slope < 0, torch.maximum(lower, upper - reach), lower),
        torch.where(slope > 0, torch.minimum(upper, lower + reach), upper),
    )


class Axis:
    """The choice of the input along which a box is halved."""

    def __init__(self, question: Question):
        self._question = question
        tensor = question.backward.tensor
        *self._absolute, self._last = [
            {name: abs(tensor(term)).to_dense() for name, term in affine.terms.items()}
            for affine in (*question.maps, question.output_map)
        ]

    def choose(self, lower: Tensor, upper: Tensor, slope: Tensor, steepest: Tensor) -> Tensor:
        """The inputs (batch,), given boxes, slopes of linear bounds (batch, n_in) and of the units (batch, n)."""
        scores = [score * (upper - lower) for score in (slope.abs(), self._smear(steepest))]
        tiny = torch.finfo(slope.dtype).tiny
        return sum(score / score.sum(1, keepdim=True).clamp(min=tiny) for score in scores).argmax(1)

    def _smear(self, steepest: Tensor) -> Tensor:
        row = self._question.row.abs()
        carried = {name: row @ term for name, term in self._last.items()}
        layers = zip(
            self._question.units.nodes, self._absolute, steepest.split(self._question.units.sizes, 1), strict=True
        )
        for node, terms, slope in reversed(list(layers)):
            rows = carried.pop(node.name, row.new_zeros(())) * slope
            for name, term in terms.items():
                carried[name] = carried.get(name, 0.0) + rows @ term
        return carried.get(INPUT, torch.zeros_like(self._question.lower)).expand(len(steepest), -1)
