"""Membership in an image ``{c + M z : z in Z}``: the point's nearest neighbour there, and how far away it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polyopt.regions.box import Box
from polyopt.regions.region import ROUNDING


def within(x: np.ndarray, tol: float, box: Box, project: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Whether points (…, n) are no farther than ``tol`` from their projections in every coordinate.

    ``box`` contains the image; ``project`` takes points (m, n) to near points of the image, and those in it nowhere.
    """
    slack = tol + rounding(box)
    inside = np.array(box.contains(x, slack))
    points = x[inside]
    inside[inside] = (abs(project(points) - points) <= slack).all(-1)
    return inside


def rounding(box: Box) -> float:
    """How far outside a region with this bounding box rounding may carry a point of it."""
    return ROUNDING * max(abs(box.lower).max(), abs(box.upper).max())
