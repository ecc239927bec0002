"""Good points: signed gradients from many starts, then the best point of the linear region that they end in.

A step goes a share of the box's width against the sign of each partial derivative (Madry et al. 2018); the share
shrinks to nothing. Where the network is piecewise linear, the best of these points lies in a linear region, and the
least margin on that region is a linear program (`polyopt.search.piece`); its optimum lies on the border to the next.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyopt.bounds.refine import Boxes
from polyopt.regions import Box
from polyopt.search.piece import least_around
from polyopt.search.question import Question

POINTS, STARTS, STEPS, FIRST_STEP = 2**13, 32, 12, 0.5
ENTRIES = 2**17  # of the points in one batch
SLIDES = 4
PIECES = 20
SURVEYS, SURVEYED, POLISHED = 8, 2**14, 16  # how often, how many points of all boxes, and how many of them lead on
MOST_POLISHED = 8  # of one box


def descend(question: Question) -> None:
    """Offer good points of all targets' boxes: the best of many, and those that descents from them lead to."""
    (many, size), targets = question.lower.shape, torch.arange(len(question.lower), device=question.lower.device)
    count = max(1, min(POINTS, ENTRIES // (many * size)))
    shares = question.backward.tensor(Box([0.0] * size, [1.0] * size).sample(count, np.random.default_rng(0)))
    shares[0] = 0.5
    lower, upper = question.lower.unsqueeze(1), question.upper.unsqueeze(1)
    points = (lower + shares * (upper - lower)).flatten(0, 1)
    margins = question.offer(points, targets.repeat_interleave(count)).reshape(-1, count)
    best = margins.argsort(1)[:, :STARTS]
    points, targets = points.unflatten(0, margins.shape), targets.repeat_interleave(best.shape[1])
    points = points.take_along_dim(torch.as_tensor(best, device=points.device).unsqueeze(2), 1).flatten(0, 1)
    boxes = Boxes(question.lower[targets], question.upper[targets])
    polish(question, _follow(question, points, targets, boxes, STEPS), targets)


def slide(question: Question, points: Tensor, targets: Tensor, boxes: Boxes) -> None:
    """Offer the points that short descents from some (m, n_in) within boxes lead to; `polish` the best so far."""
    before = question.value
    _follow(question, points, targets, boxes, SLIDES)
    if question.value < before:
        polish(question, question.point[None], torch.tensor([question.target]))


def survey(question: Question) -> None:
    """Offer many points of all targets' boxes, and those that the best of them lead to, from one piece to the next."""
    rng, boxes = np.random.default_rng(1), len(question.lower)
    count, led = max(1, SURVEYED // boxes), max(1, min(MOST_POLISHED, POLISHED // boxes))
    for target in range(len(question.lower)):
        which = torch.tensor([target], device=question.lower.device)
        box = Box(question.lower[target].cpu().numpy(), question.upper[target].cpu().numpy())
        best = torch.empty(0, box.size)
        for _ in range(SURVEYS):
            points = torch.cat([best, torch.as_tensor(box.sample(count, rng))])
            best = points[question.offer(points, which.expand(len(points))).argsort()[:led]]
        for point in best:
            polish(question, point[None], which)


def _follow(question: Question, points: Tensor, targets: Tensor, boxes: Boxes, steps: int) -> Tensor:
    """Points that so many steps from points (m, n_in) within boxes lead to; all on the way are offered."""
    for step in range(steps):
        if question.refuted:
            break
        length = 2.0 * FIRST_STEP * (1.0 - step / steps) * boxes.radius
        points = points - length * question.gradients(points, targets).sign()
        points = torch.minimum(torch.maximum(points, boxes.lower), boxes.upper)
        question.offer(points, targets)
    return points


def polish(question: Question, points: Tensor, targets: Tensor) -> None:
    """Offer points, and where one leads that goes to the least margin of its linear region as long as it gets less."""
    placed = question.placed(points, targets)
    margins = question.offer(placed, targets)
    best = int(margins.argmin())
    point, target, margin = placed[best], targets[best, None].cpu().numpy(), margins[best]
    for _ in range(PIECES):
        point = least_around(question, point, int(target[0]))
        if question.refuted or point is None:
            return
        before, margin = margin, question.offer(point[None], target)[0]
        if not margin < before:
            return
