"""Which of finitely many points are vertices of their convex hull: by qhull, in the hull's own dimension."""

from __future__ import annotations

import numpy as np

from polyopt.regions.region import ROUNDING

MOST_DIMENSIONS = 6  # qhull's work grows with the number of facets, and that with the power of half the dimension


def extreme(points: np.ndarray) -> np.ndarray:
    """The vertices of the convex hull of points (v, n), each once; in more than 6 dimensions all points, each once.

    The dimension is that of the hull, which may be flat. Points closer than rounding count as one.

    >>> extreme(np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [1.0, 1.0]]))
    array([[0., 0.],
           [1., 1.]])
    """
    from scipy.spatial import ConvexHull

    slack = ROUNDING * (abs(points).max() or 1.0)
    points = points[np.sort(np.unique(np.round(points / slack), axis=0, return_index=True)[1])]
    _, lengths, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    dimension = np.count_nonzero(lengths > slack * len(points) ** 0.5)
    flat = (points - points.mean(0)) @ axes[:dimension].T / lengths[:dimension]
    if dimension == 0:
        return points[:1]
    if dimension == 1:
        return points[[flat.argmin(), flat.argmax()]]
    return points if dimension > MOST_DIMENSIONS else points[np.sort(ConvexHull(flat).vertices)]
