"""The units of a network's nonlinear layers end to end, and the corners of their graphs between bounds.

Whatever its slope s, a line below a piecewise-linear f on [l, u] is sound with the intercept ``min f(a) - s a`` over
the ends and the breakpoints between them, the corners. A line above f is minus a line below -f; likewise ``a <= u`` is
``-u <= -a``: sides are stacked along a first axis of length 2, so that all of them are lower sides.

Units that keep to one piece wherever bounds are asked for are *fixed*: their piece is their line. Only the others, the
n *free* units, have bounds, slopes and prices.
"""

from __future__ import annotations

import copy
import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyopt.activations import Pieces, PiecewiseLinear
from polyopt.bounds.backward import Backward
from polyopt.bounds.relaxation import bend, bent_lines, piecewise_lines, relax
from polyopt.bounds.rounding import steepest
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


class Part(NamedTuple):
    """The units of one layer: ``place`` is where its free ones are among all free ones, ``free`` which these are.

    Where all are free that is None. ``slope``, ``intercept`` and ``toll`` (node.size,) hold the pieces of the fixed
    ones and what they pay for rounding, and zeros for the free ones.
    """

    node: Node
    place: slice
    free: Tensor | None
    slope: Tensor
    intercept: Tensor
    toll: Tensor

    def positions(self, units: Tensor) -> Tensor:
        """The positions in the layer of some of its free units."""
        return units if self.free is None else self.free[units]


class Units:
    """The units of the activations of ``net``, which takes no maxima (`polyopt.maxima`) and no steps.

    ``backward`` has observed bounds on all nodes. ``sides`` (2, batch, N) are bounds on all N units: those that these
    decide, on all of the batch alike, are fixed; without them all units are free. ``kept`` (n,) are the free ones.

    ``breakpoints`` (k, n), ``slopes`` and ``intercepts`` (k + 1, n) are their pieces; where a unit has fewer than
    another its last breakpoints are infinite, and so are all of units that are not piecewise linear. They are
    ``simple`` where each is continuous and has one breakpoint, or is smooth.
    """

    def __init__(self, net: Network, backward: Backward, sides: Tensor | None = None):
        tables = [Pieces(np.empty((0, 0)), np.empty((1, 0)), np.empty((1, 0))), *map(_pieces, net.activations)]
        count = max(len(table.breakpoints) for table in tables)
        tables = [_padded(table, count) for table in tables]
        whole = tuple(backward.tensor(np.hstack(parts)) for parts in zip(*tables, strict=True))
        steep = [np.empty(0), *map(_steepest, net.activations)]
        none = whole[0].new_zeros(0)
        toll = torch.cat([none, *(backward.toll(node.name) for node in net.activations)])
        before = torch.cat([none, *map(backward.entries, net.activations)])
        fixed, piece = torch.zeros_like(toll, dtype=torch.bool), torch.zeros_like(toll, dtype=torch.int64)
        if sides is not None:
            low, high = sides.amin(1) * sides.new_tensor([[1.0], [-1.0]])
            piece = (whole[0] < high).sum(0)
            smooth = [np.full(node.size, not isinstance(node.layer, PiecewiseLinear)) for node in net.activations]
            fixed = (piece <= (whole[0] <= low).sum(0)) & ~torch.tensor(np.concatenate([[], *smooth]) > 0).to(
                low.device
            )
        self.kept = (~fixed).nonzero()[:, 0]
        self.breakpoints, self.slopes, self.intercepts = (part[:, self.kept] for part in whole)
        self.toll, self.before = toll[self.kept], before[self.kept]
        self._steepest = backward.tensor(np.concatenate(steep))[self.kept]
        lines = [torch.where(fixed, part.gather(0, piece[None])[0], 0.0) for part in whole[1:]]
        paid = torch.where(fixed & ((lines[0] != 0) | (lines[1] != 0)), toll + lines[0].abs() * before, 0.0)
        self.parts = list(_parts(net, fixed, (*lines, paid)))
        fees = torch.where((self.slopes == 0) & (self.intercepts == 0), 0.0, self.fees(self.slopes))
        self._own = torch.stack([self.slopes, self.intercepts - fees, self.slopes, self.intercepts + fees])
        self.simple, self._bent = _continuous(self.breakpoints, self.slopes, self.intercepts)

    def upto(self, count: int) -> Units:
        """The units of the first layers that have so many."""
        if count == len(self.kept):
            return self
        some = copy.copy(self)
        some.parts = list(itertools.takewhile(lambda part: part.place.stop <= count, self.parts))
        some.kept, some.toll, some.before = (each[:count] for each in (self.kept, self.toll, self.before))
        some._steepest, some._own = self._steepest[:count], self._own[:, :, :count]
        some.breakpoints, some.slopes, some.intercepts = (
            table[:, :count] for table in (self.breakpoints, self.slopes, self.intercepts)
        )
        return some

    def to(self, dtype: torch.dtype) -> Units:
        """The same with pieces in another precision."""
        some = copy.copy(self)
        some.breakpoints, some.slopes, some.intercepts = (
            table.to(dtype) for table in (self.breakpoints, self.slopes, self.intercepts)
        )
        return some

    def part(self, unit: int) -> Part:
        """The layer of a free unit."""
        return next(part for part in self.parts if part.place.start <= unit < part.place.stop)

    @property
    def smooth(self) -> list[Part]:
        """The layers that are not piecewise linear."""
        return [part for part in self.parts if not isinstance(part.node.layer, PiecewiseLinear)]

    def undecided(self, sides: Tensor, place: slice = slice(None)) -> Tensor:
        """Which units (batch, n) have a breakpoint strictly between their bounds ``sides`` (2, batch, n)."""
        low, high = sides
        breakpoints = self.breakpoints[:, place].unsqueeze(1)
        return ((breakpoints > low) & (breakpoints < -high)).any(0)

    def corners(self, sides: Tensor) -> Corners:
        """The corners between the bounds ``sides`` (2, batch, n); smooth units have one, and one slope, `relax`'s."""
        tables = self.breakpoints, self.slopes, self.intercepts
        if self._bent:
            corners = _bent_corners(*tables, sides[0], -sides[1])
        else:
            corners = _corners(*(table.unsqueeze(1) for table in tables), sides[0], -sides[1])
        for lines, units in self._curves(sides):
            corners.points[:, :, units] = 0.0
            corners.heights[:, :, :, units] = torch.stack([lines.lower_intercept, -lines.upper_intercept]).unsqueeze(1)
            for slopes in (corners.least, corners.greatest):
                slopes[:, :, units] = torch.stack([lines.lower_slope, -lines.upper_slope])
        return corners

    def relaxed(self, sides: Tensor) -> Tensor:
        """The slopes (2, batch, n) of `relax`'s lines below f and below -f."""
        tables = self.breakpoints, self.slopes, self.intercepts
        if self._bent:
            bent = bend(*tables, sides[0], -sides[1])
            slopes = torch.stack([bent.sided(bent.turned, bent.chord), -bent.sided(bent.chord, bent.turned)])
        else:
            lines = piecewise_lines(*tables, self._steepest, sides[0], -sides[1])
            slopes = torch.stack([lines.lower_slope, -lines.upper_slope])
        for lines, units in self._curves(sides):
            slopes[:, :, units] = torch.stack([lines.lower_slope, -lines.upper_slope])
        return slopes

    def fees(self, slopes: Tensor, place: slice | Tensor = slice(None)) -> Tensor:
        """What lines with these slopes (…, n) pay for rounding, their own and that of the layer before."""
        return self.toll[place] + slopes.abs() * self.before[place]

    def decided(self, sides: Tensor, place: slice) -> Tensor:
        """A `Relaxation` (4, batch, n) of piecewise-linear units that keep to one piece, which pays for rounding."""
        high, own = -sides[1], self._own[:, :, place].unsqueeze(2)
        lines = own[:, 0].expand(-1, *high.shape).contiguous()
        for k, breakpoint in enumerate(self.breakpoints[:, place]):
            lines = torch.where(high > breakpoint, own[:, k + 1], lines)
        return lines

    def lines(self, part: Part, units: Tensor, sides: Tensor) -> Tensor:
        """A `Relaxation` (4, t) of free units (t,) of a layer with bounds ``sides`` (2, t), which pays for rounding."""
        place, lower, upper = part.place.start + units, sides[:1], -sides[1:]
        if not isinstance(part.node.layer, PiecewiseLinear):
            lines = relax(part.node, lower, upper)
        else:
            tables = [table[:, place] for table in (self.breakpoints, self.slopes, self.intercepts)]
            if self._bent:
                lines = bent_lines(*tables, lower, upper)
            else:
                lines = piecewise_lines(*tables, self._steepest[place], lower, upper)
        below, under, above, over = torch.cat(lines[:4])
        return torch.stack([below, under - self.fees(below, place), above, over + self.fees(above, place)])

    def _curves(self, sides: Tensor):
        """The relaxations of the smooth layers, and where their units are in ``sides``."""
        for part in self.smooth:
            lower, upper = sides[0, :, part.place], -sides[1, :, part.place]
            yield relax(part.node, lower, upper), part.place


def _pieces(node: Node) -> Pieces:
    if isinstance(node.layer, PiecewiseLinear):
        return node.layer.pieces(node.shape)
    return Pieces(np.empty((0, node.size)), np.zeros((1, node.size)), np.zeros((1, node.size)))


def _steepest(node: Node) -> np.ndarray:
    return steepest(node) if isinstance(node.layer, PiecewiseLinear) else np.ones(node.size)


def _parts(net: Network, fixed: Tensor, lines):
    first = 0
    sizes = [node.size for node in net.activations]
    for node, still, *pieces in zip(net.activations, *(part.split(sizes) for part in (fixed, *lines)), strict=True):
        free = (~still).nonzero()[:, 0]
        yield Part(node, slice(first, first + len(free)), free if still.any() else None, *pieces)
        first += len(free)


def _padded(table: Pieces, count: int) -> Pieces:
    missing = count - len(table.breakpoints)
    return Pieces(
        np.pad(table.breakpoints, ((0, missing), (0, 0)), constant_values=np.inf),
        np.pad(table.slopes, ((0, missing), (0, 0)), mode="edge"),
        np.pad(table.intercepts, ((0, missing), (0, 0)), mode="edge"),
    )


def _continuous(breakpoints: Tensor, slopes: Tensor, intercepts: Tensor) -> tuple[bool, bool]:
    """Whether each unit has one breakpoint and is continuous there up to rounding, and whether it is so exactly."""
    if len(breakpoints) != 1:
        return False, False
    ends = torch.where(breakpoints.isinf(), 0.0, slopes * breakpoints) + intercepts
    return bool(torch.isclose(ends[0], ends[1]).all()), bool((ends[0] == ends[1]).all())


def _bent_corners(breakpoints: Tensor, slopes: Tensor, intercepts: Tensor, lower: Tensor, upper: Tensor) -> Corners:
    bent = bend(breakpoints, slopes, intercepts, lower, upper)
    first, last = (torch.where(bent.undecided, slope, bent.turned) for slope in slopes)
    least = torch.stack([bent.sided(first, bent.chord), -bent.sided(bent.chord, first)])
    greatest = torch.stack([bent.sided(last, bent.chord), -bent.sided(bent.chord, last)])
    return Corners(bent.points, torch.stack([bent.values, -bent.values]), least, greatest)


def _corners(breakpoints: Tensor, slopes: Tensor, intercepts: Tensor, lower: Tensor, upper: Tensor) -> Corners:
    infinite = torch.full_like(slopes[:1], torch.inf)
    ends = torch.cat([-infinite, breakpoints, infinite])  # (pieces + 1, 1, n)
    points = torch.clamp(ends, lower, upper)
    meets = (ends[:-1] <= points.unsqueeze(1)) & (points.unsqueeze(1) <= ends[1:])
    values = slopes * points.unsqueeze(1) + intercepts  # (pieces + 1, pieces, batch, n)
    heights = torch.stack([torch.where(meets, s * values, torch.inf).amin(1) for s in (1.0, -1.0)])
    least, greatest = _envelope(points, heights)
    return Corners(points, heights, least, greatest)


def _envelope(points: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest slope (2, batch, n) of the greatest convex function below the corners."""
    from_first = _slopes(points - points[0], heights - heights[:, :1], torch.inf).amin(1)
    to_last = _slopes(points[-1] - points, heights[:, -1:] - heights, -torch.inf).amax(1)
    return torch.where(from_first.isinf(), 0.0, from_first), torch.where(to_last.isinf(), 0.0, to_last)


def _slopes(run: Tensor, rise: Tensor, none: float) -> Tensor:
    return torch.where(run > 0, rise / run, none)
