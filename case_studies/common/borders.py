"""The borders of a network's linear regions in the plane, drawn with its region.

A border is where the pre-activation of some unit is 0. The plane is cut into tiles; each is evaluated on a grid of
points, and for the units whose sign changes there contourpy, which matplotlib draws its contours with, follows level 0.
Within a linear region of the layers before, the pre-activation is affine, and so the line is exact up to the grid.
"""

from __future__ import annotations

import itertools

import numpy as np
from contourpy import contour_generator
from matplotlib.collections import LineCollection
from matplotlib.patheffects import Normal, Stroke

import polyopt as po

POINTS = 25  # along each side of a tile


def borders(net: po.Network, box: po.Box, tiles: int) -> list[np.ndarray]:
    """Polylines (k, 2): the borders in a box of two dimensions, of all units with their only breakpoint at 0."""
    lines = []
    across, up = (np.linspace(*ends, tiles + 1) for ends in zip(box.lower, box.upper, strict=True))
    for (left, right), (low, high) in itertools.product(itertools.pairwise(across), itertools.pairwise(up)):
        x, y = np.linspace(left, right, POINTS), np.linspace(low, high, POINTS)
        values = net.values(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
        for node in net.activations:
            units = values[node.inputs[0]].T
            for unit in units[(units.min(1) < 0) & (units.max(1) > 0)]:
                lines += contour_generator(x, y, unit.reshape(POINTS, POINTS)).lines(0.0)
    return lines


def draw_borders(axis, lines: list[np.ndarray], color: str = "0.62", width: float = 0.25) -> None:
    axis.add_collection(LineCollection(lines, colors=color, linewidths=width, zorder=2), autolim=False)


def draw_region(axis, region: po.VPolytope, width: float = 2.0) -> None:
    """The outline of a polygon whose points go round it, black with a white edge."""
    corners = region.points[[*range(len(region.points)), 0]]
    (outline,) = axis.plot(*corners.T, color="black", linewidth=width, zorder=5, solid_joinstyle="round")
    outline.set_path_effects([Stroke(linewidth=width + 2, foreground="white"), Normal()])


def values_on(net: po.Network, box: po.Box, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates x (points,), y (points,) and the network's only output (points, points) on a grid."""
    x, y = (np.linspace(*ends, points) for ends in zip(box.lower, box.upper, strict=True))
    rows = [net(np.stack(np.broadcast_arrays(x, height), 1))[:, 0] for height in y]
    return x, y, np.array(rows)
