"""A spiral in the plane, sin(2 pi radius - angle), and four disjoint convex regions of different kinds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull

import polyopt as po

DOMAIN = po.Box([-1.0, -1.0], [1.0, 1.0])


def polygon(corners: int, center, radius: float, turn: float = 0.0) -> po.VPolytope:
    angles = turn + 2.0 * np.pi * np.arange(corners) / corners
    return po.VPolytope(center + radius * np.column_stack([np.cos(angles), np.sin(angles)]))


def hull_of(regions) -> po.VPolytope:
    return po.VPolytope(np.vstack([region.vertices() for region in regions]))


def outline(region: po.Region) -> po.VPolytope:
    """Its corners in their order."""
    corners = region.vertices()
    return po.VPolytope(corners[ConvexHull(corners).vertices])


REGIONS = {
    "disk, as a polygon of 24 corners": polygon(24, (-0.55, 0.5), 0.22),
    "triangle": polygon(3, (0.55, 0.55), 0.3, 0.3),
    "box": po.Box([0.3, -0.7], [0.75, -0.4]),
    "zonotope": po.Zonotope([-0.5, -0.5], [[0.15, 0.05, -0.08], [0.02, 0.14, 0.1]]),
}
HULL = hull_of(REGIONS.values())


class Points(NamedTuple):
    """Points (count, 2), the field's values there (count, 1), and where they lie: each is a mask (count,)."""

    x: np.ndarray
    y: np.ndarray
    places: dict[str, np.ndarray]


def spiral(x: np.ndarray) -> np.ndarray:
    """The field at points (count, 2), in [-1, 1], (count, 1)."""
    return np.sin(2.0 * np.pi * np.hypot(x[:, 0], x[:, 1]) - np.arctan2(x[:, 1], x[:, 0]))[:, None]


def spread(count: int, seed: int) -> Points:
    """Random points of the domain."""
    x = DOMAIN.sample(count, np.random.default_rng([seed, count])).astype(np.float32)
    inside, hull = np.any([region.contains(x) for region in REGIONS.values()], axis=0), HULL.contains(x)
    places = {"in the regions": inside, "outside": ~inside, "between": hull & ~inside, "beyond the hull": ~hull}
    return Points(x, spiral(x).astype(np.float32), places)


def best_affine(data: Points, test: Points) -> dict[str, dict[str, float]]:
    """The errors of the least-squares fits by one affine function on each region, and by one on the hull."""

    def squares(region: po.Region) -> np.ndarray:
        rows = [np.column_stack([of.x, np.ones(len(of.x))])[region.contains(of.x)] for of in (data, test)]
        solution = np.linalg.lstsq(rows[0], data.y[region.contains(data.x)], rcond=None)[0]
        return np.square(rows[1] @ solution - test.y[region.contains(test.x)])[:, 0]

    own, hull = np.concatenate([squares(region) for region in REGIONS.values()]), squares(HULL)
    among = test.places["in the regions"][HULL.contains(test.x)]
    return {
        "best affine function on each region": {"in the regions": float(own.mean())},
        "best affine function on the hull": {
            "in the regions": float(hull[among].mean()),
            "between": float(hull[~among].mean()),
        },
    }
