"""The saddle x^2 - y^2, and two squares on both sides of x = 0 with a large or a tiny gap between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import polyopt as po
from polyopt.police import AffineConstraint

NEAR = 1e-8  # the tiny gap


class Case(NamedTuple):
    """Two squares with a gap from ``left`` to ``right`` between them, where y is from ``low`` to ``high``."""

    title: str
    regions: list[po.VPolytope]
    margin: float
    left: float
    right: float
    low: float
    high: float

    @property
    def gap(self) -> po.Box:
        return po.Box([self.left, self.low], [self.right, self.high])


def saddle(x):
    return np.square(x[:, :1]) - np.square(x[:, 1:])


def rectangle(left: float, low: float, right: float, high: float) -> po.VPolytope:
    return po.VPolytope([[left, low], [right, low], [right, high], [left, high]])


def squares(gap: float, large: float = 1.0, small: float = 1.0) -> list[po.VPolytope]:
    """One on each side of x = 0, with their lower sides at the same height."""
    half, low = gap / 2.0, -large / 2.0
    return [rectangle(-half - large, low, -half, -low), rectangle(half, low, half + small, low + small)]


CASES = {
    "far": Case("far apart: gap 1", squares(1.0), 1e-3, -0.5, 0.5, -0.5, 0.5),
    "near": Case(f"nearly touching: gap {NEAR:.0e}", squares(NEAR), NEAR / 10, -NEAR / 2, NEAR / 2, -0.5, 0.5),
    "L": Case(f"an L: gap {NEAR:.0e}", squares(NEAR, 1.2, 0.6), NEAR / 10, -NEAR / 2, NEAR / 2, -0.6, 0.0),
}


def inside(regions: list[po.VPolytope], x: np.ndarray) -> np.ndarray:
    """Which points lie in rectangles, which are their own bounding boxes."""
    return np.any([region.bounding_box().contains(x) for region in regions], 0)


def errors(net: po.Network, regions: list[po.VPolytope], x: np.ndarray) -> dict[str, float]:
    """The mean squared error at all points, and at those inside and outside the regions."""
    off, within = np.square(net(x) - saddle(x)), inside(regions, x)
    return {name: float(off[at].mean()) for name, at in (("all", ...), ("inside", within), ("outside", ~within))}


def affine_fit(x: np.ndarray) -> np.ndarray:
    """Slope and offset (3,) of the affine function nearest to the saddle at points."""
    return np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), saddle(x)[:, 0], rcond=None)[0]


def one_function(wanted: np.ndarray) -> list[AffineConstraint]:
    """Constraints for one affine function, slope and offset (3,), on both regions: f(x) = S x + c."""
    return [AffineConstraint(i, [1.0], wanted[2], slope=wanted[:2]) for i in range(2)]
