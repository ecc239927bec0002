"""Good points: signed gradients from many starts, then the best point of the linear region that they end in.

A step goes a share of the box's width against the sign of each partial derivative (Madry et al. 2018); the share
shrinks to nothing. Where the network is piecewise linear, the best of these points lies in a linear region, and the
least margin on that region is a linear program (`polyopt.search.piece`); its optimum lies on the border to the next.
"""

from __future__ import annotations

import numpy as np
import torch

from polyopt.regions import Box
from polyopt.search.piece import least_around
from polyopt.search.question import Question

STARTS, STEPS, FIRST_STEP = 64, 30, 0.25
PIECES = 20


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
    question.offer(points, targets)
    polish(question)


def polish(question: Question) -> None:
    """Go from the best point to the best of its linear region, and on from there as long as it gets better."""
    for _ in range(PIECES):
        point = least_around(question, question.point, question.target)
        if question.refuted or point is None or not question.offer(point[None], np.array([question.target])):
            return
