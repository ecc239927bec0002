"""All units of a network's nonlinear layers end to end, and the corners of their graphs between bounds.

Whatever its slope s, a line below a piecewise-linear f on [l, u] is sound with the intercept ``min f(a) - s a`` over
the ends and the breakpoints between them, the corners. A line above f is minus a line below -f; likewise ``a <= u`` is
``-u <= -a``: sides are stacked along a first axis of length 2, so that all of them are lower sides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyopt.activations import Pieces, PiecewiseLinear
from polyopt.bounds.backward import Backward
from polyopt.bounds.relaxation import relax
from polyopt.network import Network, Node


class Corners(NamedTuple):
    """The points (q, batch, n) of the graphs where f - s a can be least or greatest between the bounds.

    ``heights`` (2, q, batch, n) holds f there from below, and -f from above (at a jump they differ); ``least`` and
    ``greatest`` (2, batch, n) the range of useful slopes of the line below f, and of the one below -f.
    """

    points: Tensor
    heights: Tensor
    least: Tensor
    greatest: Tensor


class Units:
    """The n units of the activations of ``net``, which takes no maxima (`polyopt.maxima`).

    ``breakpoints`` (k, n), ``slopes`` and ``intercepts`` (k + 1, n) are their pieces; where a unit has fewer than
    another its last breakpoints are infinite, and so are all of units that are not piecewise linear.
    """

    def __init__(self, net: Network, backward: Backward):
        self.nodes = net.activations
        self.sizes = [node.size for node in self.nodes]
        tables = [Pieces(np.empty((0, 0)), np.empty((1, 0)), np.empty((1, 0))), *map(_pieces, self.nodes)]
        count = max(len(table.breakpoints) for table in tables)
        tables = [_padded(table, count) for table in tables]
        self.breakpoints, self.slopes, self.intercepts = (
            backward.tensor(np.hstack(parts)) for parts in zip(*tables, strict=True)
        )

    def tolls(self, backward: Backward) -> tuple[Tensor, Tensor]:
        """What each unit (n,) of a row may lose at its layer, and at those before (`polyopt.bounds.rounding`)."""
        none = self.breakpoints.new_zeros(0)
        tolls = [backward.toll(node.name) for node in self.nodes]
        return torch.cat([none, *tolls]), torch.cat([none, *map(backward.entries, self.nodes)])

    def undecided(self, sides: Tensor) -> Tensor:
        """Which units (batch, n) have a breakpoint strictly between their bounds ``sides`` (2, batch, n)."""
        low, high = sides
        return ((self.breakpoints.unsqueeze(1) > low) & (self.breakpoints.unsqueeze(1) < -high)).any(0)

    def corners(self, sides: Tensor) -> Corners:
        """The corners between the bounds ``sides`` (2, batch, n); smooth units have one, and one slope, `relax`'s."""
        low, high = sides
        corners = _corners(
            self.breakpoints.unsqueeze(1), self.slopes.unsqueeze(1), self.intercepts.unsqueeze(1), low, -high
        )
        for lines, units in self._smooth(sides):
            corners.points[:, :, units] = 0.0
            corners.heights[:, :, :, units] = torch.stack([lines.lower_intercept, -lines.upper_intercept]).unsqueeze(1)
            for slopes in (corners.least, corners.greatest):
                slopes[:, :, units] = torch.stack([lines.lower_slope, -lines.upper_slope])
        return corners

    def relaxed(self, sides: Tensor) -> Tensor:
        """The slopes (2, batch, n) of `relax`'s lines below f and below -f."""
        lines = [relax(node, part[0], -part[1]) for node, part in self._layers(sides)]
        return torch.cat([sides[:, :, :0], *(torch.stack([line.lower_slope, -line.upper_slope]) for line in lines)], 2)

    def _layers(self, sides: Tensor):
        return zip(self.nodes, sides.split(self.sizes, 2), strict=True)

    def _smooth(self, sides: Tensor):
        """The layers that are not piecewise linear: their relaxation, and where their units are."""
        first = 0
        for node, part in self._layers(sides):
            if not isinstance(node.layer, PiecewiseLinear):
                yield relax(node, part[0], -part[1]), slice(first, first + node.size)
            first += node.size


def _pieces(node: Node) -> Pieces:
    if isinstance(node.layer, PiecewiseLinear):
        return node.layer.pieces(node.shape)
    return Pieces(np.empty((0, node.size)), np.zeros((1, node.size)), np.zeros((1, node.size)))


def _padded(table: Pieces, count: int) -> Pieces:
    missing = count - len(table.breakpoints)
    return Pieces(
        np.pad(table.breakpoints, ((0, missing), (0, 0)), constant_values=np.inf),
        np.pad(table.slopes, ((0, missing), (0, 0)), mode="edge"),
        np.pad(table.intercepts, ((0, missing), (0, 0)), mode="edge"),
    )


def _corners(breakpoints: Tensor, slopes: Tensor, intercepts: Tensor, lower: Tensor, upper: Tensor) -> Corners:
    infinite = torch.full_like(slopes[:1], torch.inf)
    ends = torch.cat([-infinite, breakpoints, infinite])  # (pieces + 1, 1, n)
    points = torch.clamp(ends, lower, upper)
    meets = (ends[:-1] <= points.unsqueeze(1)) & (points.unsqueeze(1) <= ends[1:])
    values = slopes * points.unsqueeze(1) + intercepts  # (pieces + 1, pieces, batch, n)
    heights = torch.stack([torch.where(meets, s * values, torch.inf).amin(1) for s in (1.0, -1.0)])
    # the pieces that are longer than a point between the bounds, or all that meet where those are one point
    inside = (ends[:-1] < upper) & (lower < ends[1:]) | (lower == upper) & (ends[:-1] <= lower) & (upper <= ends[1:])
    least = torch.stack([torch.where(inside, s * slopes, torch.inf).amin(0) for s in (1.0, -1.0)])
    greatest = torch.stack([torch.where(inside, s * slopes, -torch.inf).amax(0) for s in (1.0, -1.0)])
    return Corners(points, heights, least, greatest)
