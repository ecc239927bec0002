"""Halved boxes, bounded: their undecided units anew, layer by layer, then the rows of every target they are open for.

Each row's linear bound clips the box (`polyopt.bounds.refine`). Where that leaves a pair of a box and a target open,
some steps of ascent follow (`polyopt.bounds.lagrangian`), on slopes and weights alone: without splits of units there is
no price worth its time. Slopes go on from what a step has made of them on the box that was halved, for the target whose
bound was least there. What is left of a box is the hull of what is left for its targets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.bounds.climb import Reduced
from polyopt.bounds.lagrangian import ascend
from polyopt.bounds.refine import Boxes, Refinement
from polyopt.search.descent import slide
from polyopt.search.domains import Values, those
from polyopt.search.question import Question
from polyopt.search.splits import CHOICES, clipped, foremost, smear

STEPS = 2  # of ascent


class _Pairs(NamedTuple):
    """Of pairs of a box and a target: bounds (p,), slopes and what is left of the boxes (p, n_in), weights (p, r).

    ``lines`` (p, 2, n) are the slopes of the lines around the units.
    """

    bound: Tensor
    slope: Tensor
    lower: Tensor
    upper: Tensor
    weights: Tensor
    lines: Tensor


def halved(question: Question, reduced: Reduced, values: Values, anew: bool) -> Values:
    """Boxes with the sides of what they are part of, refined if ``anew``, bounded by the rows of all their targets.

    ``alive`` (batch, k) says which targets a box is still open for; points of the boxes of least bound are offered.
    """
    units, boxes, alive = reduced.units, Boxes(values["lower"], values["upper"]), values["alive"]
    refined = Refinement(question.backward, units, boxes, values["sides"].transpose(0, 1), anew)
    domain, target = alive.nonzero().T
    lines = values["slopes"] if "slopes" in values else refined.slopes.transpose(0, 1).float()
    found = _rows(question, refined, domain, target, lines)
    if question.constrained and "weights" in values:  # of the constraints' rows, which go on from the parent's
        found = found._replace(weights=values["weights"][domain])
    if anew:
        found = _sharpened(question, reduced, refined, domain, target, found)
    left = found.bound <= question.cutoff
    bounds = torch.full(alive.shape, torch.inf).to(found.bound).index_put((domain, target), found.bound)
    bound, worst = bounds.min(1)
    pair = torch.zeros_like(alive, dtype=torch.int64)
    pair[domain, target] = torch.arange(len(domain), device=domain.device)
    of_worst = pair.gather(1, worst.unsqueeze(1))[:, 0]
    alive = torch.zeros_like(alive).index_put((domain, target), left)
    open_ = alive.any(1, keepdim=True)
    lower = _least(torch.where(left.unsqueeze(1), found.lower, torch.inf), domain, len(alive))
    upper = -_least(torch.where(left.unsqueeze(1), -found.upper, torch.inf), domain, len(alive))
    slope, tried = found.slope[of_worst], foremost(bound)
    tried = tried[open_[tried, 0]]
    if len(tried):
        corners = boxes.center - boxes.radius * slope.sign()
        question.offer(corners[tried], worst[tried])
        if question.gap is not None:  # a better point lowers the cutoff
            slide(question, corners[tried], worst[tried], boxes.take(tried))
    return {
        "target": worst,
        "alive": alive,
        "bound": torch.maximum(bound, values["bound"]),
        "lower": torch.where(open_, lower, boxes.lower),
        "upper": torch.where(open_, upper, boxes.upper),
        "sides": refined.sides.transpose(0, 1),
        "slopes": found.lines[of_worst],
        "prices": torch.zeros_like(values["sides"][:, 0], dtype=torch.float32),
        "weights": found.weights[of_worst],
        "undecided": units.undecided(refined.sides).sum(1),
        "unit": worst.new_full((len(worst), CHOICES), -1),
        "at": bound.new_zeros(len(bound), CHOICES),
        "origin": values["origin"],
        "slope": slope,
        "smear": smear(question, units, worst, refined.slopes),
    }


def apart(values: Values) -> Values:
    """Domains that are open for several targets as one domain for each of them."""
    domain, target = values["alive"].nonzero().T
    values = those(values, domain)
    return values | {"target": target, "alive": torch.zeros_like(values["alive"]).scatter(1, target[:, None], True)}


def _rows(question: Question, refined: Refinement, domain: Tensor, target: Tensor, lines: Tensor) -> _Pairs:
    """Bounds on pairs of a box and a target (p,), by the best of the target's rows; every row clips the box.

    A row that several targets of a box have in common is bounded once. ``lines`` (batch, 2, n) are slopes to go on
    from.
    """
    which = question.which[target]
    wanted = torch.zeros(len(lines), len(question.distinct), dtype=torch.bool, device=which.device)
    wanted[domain.unsqueeze(1), which] = True
    box, row = wanted.nonzero().T
    rows, limits = (part[row].unsqueeze(1) for part in (question.distinct, question.distinct_limits))
    bounds, slopes = refined.bound({question.output: rows}, -limits, box)
    place = (wanted.flatten().cumsum(0) - 1).reshape(wanted.shape)[domain.unsqueeze(1), which]
    bounds, slopes = bounds[place], slopes[place]
    lower, upper = refined.boxes.lower[domain], refined.boxes.upper[domain]
    room = (bounds.new_tensor(question.cutoffs) - bounds).clamp(min=0.0)
    lower, upper = clipped(lower.unsqueeze(1), upper.unsqueeze(1), slopes, room)
    best, row = question.strongest(bounds)
    slope, count = slopes[torch.arange(len(row), device=row.device), row], which.shape[1]
    weights = torch.nn.functional.one_hot(row, count).to(best.dtype)
    return _Pairs(best, slope, lower.amax(1), upper.amin(1), weights, lines[domain])


def _sharpened(
    question: Question, reduced: Reduced, refined: Refinement, domain: Tensor, target: Tensor, pairs: _Pairs
) -> _Pairs:
    """The bounds of the pairs still open after some steps of ascent, which clip the boxes too."""
    left = (pairs.bound <= question.cutoff).nonzero()[:, 0]
    if not len(left):
        return pairs
    domain, target = domain[left], target[left]
    mixture, boxes = question.mixture(target, pairs.weights[left]), refined.boxes.take(domain)
    sides, slopes = refined.sides[:, domain], pairs.lines[left].transpose(0, 1)
    options = {"mixture": mixture, "start": (slopes, torch.zeros_like(slopes[0])), "priced": False}
    found = ascend(question.backward, reduced, sides, boxes, STEPS, **options)
    room = (question.cutoff - found.bound).clamp(min=0.0)
    lower, upper = clipped(pairs.lower[left], pairs.upper[left], found.slope, room)
    lines = found.multipliers[0].transpose(0, 1).float()
    news = (torch.maximum(found.bound, pairs.bound[left]), found.slope, lower, upper, found.weights, lines)
    return _Pairs(*(old.index_copy(0, left, new) for old, new in zip(pairs, news, strict=True)))


def _least(values: Tensor, index: Tensor, count: int) -> Tensor:
    """The least of the values (p, n) that belong to each index (p,)."""
    least = values.new_full((count, values.shape[1]), torch.inf)
    return least.scatter_reduce(0, index.unsqueeze(1).expand_as(values), values, "amin")
