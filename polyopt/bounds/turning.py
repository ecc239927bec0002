"""The lines of an ascent around its units: what they make of rows on the way back, and of points on the way forth.

A row r takes the line below f where ``r > 0`` and the one below -f where ``r < 0``. Of convex units with one breakpoint
only the first may turn, about the breakpoint, and the other one is minus the chord: half as many slopes, and half as
many operations, as for units of any kind. The derivative of the bound by a slope is ``|r| (a - p)``, with the point p
of the graph that its line turns about, where the row takes that line, else 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polyopt.bounds.units import Corners, Units

Each = Callable[[Tensor, int], Tensor]  # of what domains have, along a dimension, what the rows of the batch have


def lines_of(units: Units, sides: Tensor, each: Each) -> Convex | Sided:
    """The lines of the first units, whose bounds are ``sides`` (2, domains, n)."""
    units = units.upto(sides.shape[2])
    corners, convex = units.corners(sides), units.slopes[0] <= units.slopes[-1]
    if not units.simple:
        return Sided(corners, each, None)
    return Convex(corners, each) if convex.all() else Sided(corners, each, convex)


class Convex:
    """Units with one breakpoint where f turns upwards; their slopes (domains, n) are those of the lines below f."""

    def __init__(self, corners: Corners, each: Each):
        self._each = each
        self.least, self.greatest = corners.least[0], corners.greatest[0]
        self._pivot, self._height = each(corners.points[1], 0), each(corners.heights[0, 1], 0)
        chord = -corners.least[1]
        self._chord, self._end = each(chord, 0), each(-corners.heights[1, 0] - chord * corners.points[0], 0)

    def turned(self, slopes: Tensor) -> Tensor:
        """Those of all slopes (2, domains, n) that may change, as a view."""
        return slopes[0]

    def taken(self, slopes: Tensor) -> Tensor:
        """What `back` and `forth` need of the slopes."""
        return self._each(slopes, 0)

    def back(self, taken: Tensor, rows: Tensor, place: slice) -> tuple[Tensor, Tensor]:
        """Rows (batch, n) on the units of a layer as rows on their inputs, and what `forth` needs of them."""
        positive = rows.clamp(min=0.0)
        inner = (positive * taken[:, place]).addcmul_(positive - rows, self._chord[:, place], value=-1.0)
        return inner, positive

    def forth(self, taken: Tensor, positive: Tensor, a: Tensor, place: slice, gradient: Tensor) -> Tensor:
        """The values of the lines at inputs (batch, n); ``gradient`` is filled for the layer's slopes."""
        run = a - self._pivot[:, place]
        torch.mul(positive, run, out=gradient[:, place])
        below = torch.addcmul(self._height[:, place], taken[:, place], run)
        return torch.where(positive > 0, below, torch.addcmul(self._end[:, place], self._chord[:, place], a))


class Sided:
    """Units of any kind, with slopes (2, domains, n); those with one breakpoint are told apart by ``convex`` (n,)."""

    def __init__(self, corners: Corners, each: Each, convex: Tensor | None):
        self._each = each
        self.least, self.greatest = corners.least, corners.greatest
        self._points, self._heights, self._fixed = corners.points, corners.heights, None
        if convex is not None:
            # a line that may turn does so about the breakpoint
            which = torch.stack([convex, ~convex]).unsqueeze(1)
            pivot = torch.where(which, corners.points[1], corners.points[0])
            height = torch.where(which, corners.heights[:, 1], corners.heights[:, 0])
            self._fixed = each(pivot, 1), each(height, 1)

    def turned(self, slopes: Tensor) -> Tensor:
        """As `Convex.turned`: all of them."""
        return slopes

    def taken(self, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The slopes, and the points that their lines turn about, (2, batch, n) each."""
        if self._fixed is not None:
            return self._each(slopes, 1), *self._fixed
        where = (self._heights - slopes.unsqueeze(1) * self._points).argmin(1)
        pivot = self._points.expand_as(self._heights[0]).gather(0, where)
        height = self._heights.gather(1, where.unsqueeze(1))[:, 0]
        return self._each(slopes, 1), self._each(pivot, 1), self._each(height, 1)

    def back(self, taken: tuple, rows: Tensor, place: slice) -> tuple[Tensor, tuple]:
        """As `Convex.back`."""
        below, weight = rows > 0, rows.abs()
        slope = torch.where(below, *taken[0][:, :, place])
        return weight * slope, (below, weight, slope)

    def forth(self, taken: tuple, kept: tuple, a: Tensor, place: slice, gradient: Tensor) -> Tensor:
        """As `Convex.forth`."""
        (_, pivot, height), (below, weight, slope) = taken, kept
        run = a - torch.where(below, *pivot[:, :, place])
        on = weight * run
        gradient[0, :, place] = on * below
        gradient[1, :, place] = on * ~below
        line = slope * run + torch.where(below, *height[:, :, place])
        return torch.where(below, line, -line)
