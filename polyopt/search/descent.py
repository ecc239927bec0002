"""Good points: signed gradients from many starts, then the best point of the linear region that they end in.

A step goes a share of the box's width against the sign of each partial derivative (Madry et al. 2018); the share
shrinks to nothing. Where the network is piecewise linear, the best of these points lies in a linear region, and the
least value on that region is a linear program (`polyopt.search.piece`); its optimum lies on the border to the next one.
"""

from __future__ import annotations

import numpy as np
import torch

from polyopt.search.piece import least_on_piece, piece_around
from polyopt.search.question import Question

STARTS, STEPS, FIRST_STEP = 64, 30, 0.25
PIECES = 20


def descend(question: Question) -> None:
    """Offer the question good points: those at the ends of the descents, and the best of the pieces that follow."""
    lower, width = question.lower, question.upper - question.lower
    starts = question.backward.tensor(question.box.sample(STARTS, np.random.default_rng(0)))
    points = torch.cat([(question.lower + question.upper)[None] / 2, starts])
    for step in range(STEPS):
        share = FIRST_STEP * (1.0 - step / STEPS)
        points = points - share * width * question.gradients(points).sign()
        points = torch.minimum(torch.maximum(points, lower), question.upper)
    question.offer(points)
    polish(question)


def polish(question: Question) -> None:
    """Go from the best point to the best of its linear region, and on from there as long as it gets better."""
    for _ in range(PIECES):
        sides = piece_around(question, question.point)
        point = None if sides is None else least_on_piece(question, question.box, sides).point
        if point is None or not question.offer(point[None]):
            return
