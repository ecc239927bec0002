"""Where a surrogate may be trusted: near the points that it was trained on.

An optimiser looks for the places where a surrogate errs in its favour (the optimizer's curse: Smith and Winkler,
Management Science 2006), and these lie where no data were. Two sets keep it from there:

- the convex hull of the training inputs (Yang et al. 2022; survey section 4.5.1), with what it needs no more left out:
  as few rows ``A x <= b`` in low dimensions, as weights of its vertices in higher ones (beyond six, of all points);
- balls around the points: every x within the maximum-norm distance r of one of K training points, distances measured
  in standard deviations of each input. The centres come from farthest-first traversal, r is the distance of the
  training point that is farthest from all of them, at most twice the least radius that any K centres have (Gonzalez,
  Theoretical Computer Science 1985). Such balls also leave out holes and bends of the data, at K binaries.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from polyopt.regions import Box, HPolytope, Region, VPolytope

MOST_DIMENSIONS = 4  # beyond, facets outnumber points
MOST_FACETS = 200


def hull(points: np.ndarray) -> Region:
    """The convex hull of points (N, n): an `HPolytope` of its facets where they are few, else of its vertices.

    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5], [0.5, 0.0]])
    >>> hull(square).A.shape
    (4, 2)
    """
    points = np.unique(points, axis=0)
    if points.shape[1] == 1 or len(points) == 1:
        return Box(points.min(0), points.max(0))
    if points.shape[1] <= MOST_DIMENSIONS and (facets := _facets(points)) is not None and len(facets) <= MOST_FACETS:
        return HPolytope(facets[:, :-1], -facets[:, -1])
    return VPolytope(VPolytope(points).vertices())


def _facets(points: np.ndarray) -> np.ndarray | None:
    """Rows (A, -b) of the facets, each once, that no point exceeds; None where the hull is flat."""
    center, scale = points.mean(0), np.ptp(points, axis=0)
    if not scale.all():
        return None
    try:
        found = ConvexHull((points - center) / scale).equations
    except QhullError:
        return None
    # facets of more than n vertices come as several simplices of one plane, equal up to rounding
    found = found[np.unique(found.round(9), axis=0, return_index=True)[1]]
    A = found[:, :-1] / scale
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    return np.column_stack([A, -(points @ A.T).max(0)])


def balls(points: np.ndarray, count: int) -> Box:
    """Maximum-norm balls, a batch of boxes (K, n), around at most ``count`` of the points (N, n) that hold all of them.

    Where ``count`` is at least the number of different points, the radius is 0 and they alone are left.

    >>> boxes = balls(np.array([[0.0], [1.0], [9.0], [10.0]]), 2)
    >>> boxes.lower.ravel(), boxes.upper.ravel()
    (array([-1.,  9.]), array([ 1., 11.]))
    """
    if count < 1:
        raise ValueError(f"balls: count is {count}, but must be at least 1")
    scale = points.std(0)
    scaled = points / np.where(scale > 0, scale, 1.0)
    centers, distance = [0], abs(scaled - scaled[0]).max(1)
    while len(centers) < count and distance.max() > 0:
        centers.append(int(distance.argmax()))
        distance = np.minimum(distance, abs(scaled - scaled[centers[-1]]).max(1))
    radius = distance.max() * scale
    return Box(points[centers] - radius, points[centers] + radius)
