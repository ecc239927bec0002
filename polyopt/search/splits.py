"""Where a domain is split: at a breakpoint of the unit whose lines cost the bound most, or in half along an input.

Units are chosen as in BaBSR (Bunel et al. 2020). Inputs are chosen by two scores, each of which can be blind where the
other is not: ``smear_i w_i``, with the box's widths w and the slope along an input if all weights and the steepest
lines added up; and, with less weight, ``|A_i| w_i``, with the slope A of the domain's linear bound.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from polyopt.bounds.units import Units
from polyopt.network import INPUT
from polyopt.search.domains import Values
from polyopt.search.question import Question

LEVELS = 3  # at most, that a domain is split at once, to fill a batch
EARLIEST, CHOICES = LEVELS, LEVELS + 1  # the choice that tightening follows; all choices
EARLY = 4.0  # how many times more than those of the next a layer's losses count, where tightening follows
SLOPE = 0.3  # weight of the bound's slope; with more of it, boxes get long and thin where all inputs matter
OFFERED = 32  # domains of a batch whose points are tried


def foremost(bounds: Tensor) -> Tensor:
    """Which domains of a batch have the least bounds (batch,): the points of these are worth trying."""
    return bounds.topk(min(OFFERED, len(bounds)), largest=False).indices


def chosen(units: Units, loss: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The units to be split (batch, CHOICES), -1 where there are none, and their breakpoints, from those of all units.

    First come those whose lines cost the bound most, as ``loss`` (batch, n) says. The last choice is for domains whose
    units are bounded anew after the split: behind the unit that is split all lines get tighter, so that early layers
    count more.
    """
    loss, at = pad(loss, (0, LEVELS), value=-1.0), pad(at, (0, LEVELS))  # no fewer than are chosen
    weight = loss.new_ones(loss.shape[1])
    for k, part in enumerate(reversed(units.parts)):
        weight[part.place] = EARLY**k
    unit = torch.cat([loss.topk(LEVELS, dim=1).indices, (weight * loss).argmax(1, keepdim=True)], 1)
    return torch.where(loss.gather(1, unit) < 0, -1, unit), at.gather(1, unit)


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
    lower, upper = taken["lower"], taken["upper"]
    smear, slope = (_shares(taken[name].abs() * (upper - lower)) for name in ("smear", "slope"))
    axis = (smear + SLOPE * slope).argmax(1, keepdim=True)
    middle = ((lower + upper) / 2).gather(1, axis)
    parts = {name: torch.cat([value, value]) for name, value in taken.items()}
    parts["lower"] = torch.cat([lower, lower.scatter(1, axis, middle)])
    parts["upper"] = torch.cat([upper.scatter(1, axis, middle), upper])
    return parts


def _shares(scores: Tensor) -> Tensor:
    return scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def clipped(lower: Tensor, upper: Tensor, slope: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes (…, n_in) less what a linear bound keeps above the cutoff.

    ``A x + c`` is least at one corner of the box, and there ``room`` (…) below the cutoff, room > 0: no point that
    is better lies further than ``room / |A_i|`` from that corner along input i.
    """
    finfo = torch.finfo(slope.dtype)
    reach = room.unsqueeze(-1) / slope.abs().clamp(min=finfo.tiny)
    reach = reach + 4.0 * finfo.eps * (reach + lower.abs() + upper.abs())  # rounded outwards
    return (
        torch.where(slope < 0, torch.fmax(lower, upper - reach), lower),
        torch.where(slope > 0, torch.fmin(upper, lower + reach), upper),
    )


def smear(question: Question, units: Units, target: Tensor, slopes: Tensor) -> Tensor:
    """How steep a margin is along each input at most, roughly: (batch, n_in), for lines' slopes (2, batch, n)."""
    steepest = torch.maximum(slopes[0].abs(), slopes[1].abs())
    *maps, last = question.absolute
    row = question.rows[target].abs().amax(1)
    carried = {name: row @ term for name, term in last.items()}
    for part, terms in reversed(list(zip(units.parts, maps, strict=True))):
        if part.node.name not in carried:
            continue
        rows, free = carried.pop(part.node.name), steepest[:, part.place]
        inner = rows * part.slope.abs()
        inner = rows * free if part.free is None else inner.index_add(1, part.free, rows[:, part.free] * free)
        for name, term in terms.items():
            carried[name] = carried.get(name, 0.0) + inner @ term
    return carried.get(INPUT, torch.zeros_like(question.lower[target]))
