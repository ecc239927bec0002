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

STARTS, STEPS, FIRST_STEP = 64, 30, 0.25
SLIDES = 8
PIECES = 20
SURVEYS, SURVEYED, POLISHED = 8, 2**14, 8  # how often, how many points of a box, and how many of them lead on


def descend(question: Question) -> None:
    """Offer the question good points: those at the ends of the descents, and the best of the pieces that follow."""
    count, size = question.lower.shape
    shares = question.backward.tensor(Box([0.0] * size, [1.0] * size).sample(STARTS * count, np.random.default_rng(0)))
    shares[:count] = 0.5
    targets = torch.arange(count, device=shares.device).repeat(STARTS)
    lower, upper = question.lower[targets], question.upper[targets]
    points = lower + shares * (upper - lower)
    for step in range(STEPS):
        share = FIRST_STEP * (1.0 - step / STEPS)
        points = points - share * (upper - lower) * question.gradients(points, targets).sign()
        points = torch.minimum(torch.maximum(points, lower), upper)
    polish(question, points, targets)


def slide(question: Question, points: Tensor, targets: Tensor, boxes: Boxes) -> None:
    """Offer points (m, n_in) of boxes, and those that short descents within the boxes lead to."""
    question.offer(points, targets)
    for step in range(SLIDES):
        share = FIRST_STEP * (1.0 - step / SLIDES)
        points = points - 2.0 * share * boxes.radius * question.gradients(points, targets).sign()
        points = torch.minimum(torch.maximum(points, boxes.lower), boxes.upper)
    polish(question, points, targets)


def survey(question: Question) -> None:
    """Offer many points of all targets' boxes, and those that the best of them lead to, from one piece to the next."""
    rng = np.random.default_rng(1)
    for target in range(len(question.lower)):
        which = torch.tensor([target], device=question.lower.device)
        box = Box(question.lower[target].cpu().numpy(), question.upper[target].cpu().numpy())
        best = torch.empty(0, box.size)
        for _ in range(SURVEYS):
            points = torch.cat([best, torch.as_tensor(box.sample(SURVEYED, rng))])
            best = points[question.offer(points, which.expand(len(points))).argsort()[:POLISHED]]
        for point in best:
            polish(question, point[None], which)


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
