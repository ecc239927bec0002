"""Bounds on the undecided units of many boxes, and on rows over them, by one list of rows for all boxes.

On a small box most units are decided, by its own bounds or by those of the box it is a part of. CROWN's bounds on the
others, layer after layer, make a list of pairs (box, unit): each is a row ``e_unit`` and a row ``-e_unit`` of its own,
carried back through the lines of its box. Weights are the same for all, so that a list of t rows costs one product with
t rows a layer, whichever boxes they belong to. On halved boxes of ACAS Xu networks a tenth of the units is undecided,
and the list a tenth of what bounds on all units would take.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from polyopt.activations import PiecewiseLinear
from polyopt.bounds.backward import Backward
from polyopt.bounds.batches import at_once
from polyopt.bounds.relaxation import Relaxation, dot
from polyopt.bounds.rounding import down, gamma
from polyopt.bounds.units import Part, Units

TILE = 4  # rows
LISTED = 2**21  # entries of a list's rows that are made at a time
ENTRIES = 2**17  # of a list's rows on a layer at a time, so that what they meet there stays in the cache


class Boxes:
    """The least value of rows over boxes (batch, n_in), rounded downwards, and where it is attained."""

    def __init__(self, lower: Tensor, upper: Tensor):
        self.lower, self.upper = lower, upper
        self.center, self.radius = (upper + lower) / 2, (upper - lower) / 2
        # so that the box around the rounded centre contains the exact one, and the sums are rounded downwards
        self._reach = self.radius + gamma(lower.shape[1], lower.dtype) * (lower.abs() + upper.abs())
        self._near: tuple[Tensor, Tensor] | None = None  # centre and radius in the precision of `point`

    def __call__(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """``min A x`` (batch,), and the corners (batch, n_in), for a row of A (batch, n_in) to each box."""
        return self.least(A.unsqueeze(1))[:, 0], self.center - self.radius * A.sign()

    def least(self, A: Tensor, index: Tensor | slice = slice(None)) -> Tensor:
        """``min A x`` (t, rows) for rows of A (t, rows, n_in) to each of some boxes."""
        return dot(A, self.center[index]) - dot(A.abs(), self._reach[index])

    def point(self, A: Tensor) -> Tensor:
        """The corners, in the precision of A."""
        if self._near is None or self._near[0].dtype != A.dtype:
            self._near = self.center.to(A.dtype), self.radius.to(A.dtype)
        return torch.addcmul(*self._near, A.sign(), value=-1.0)

    def take(self, index: Tensor) -> Boxes:
        """Some of the boxes, any of them any number of times."""
        some = copy.copy(self)
        some.lower, some.upper, some.center, some.radius, some._reach = (
            each[index] for each in (self.lower, self.upper, self.center, self.radius, self._reach)
        )
        some._near = None
        return some


class Tiles:
    """A list of rows, ``index`` (t,) of the boxes that they are for, as tiles of `TILE` rows for one box each.

    Coefficients of a tile meet the same lines, which have to be read once. ``box`` says which each tile is for.
    """

    def __init__(self, index: Tensor, boxes: int):
        count = torch.bincount(index, minlength=boxes)
        tiles = (count + (TILE - 1)) // TILE
        self.box = torch.repeat_interleave(tiles)
        skipped = (TILE * tiles).cumsum(0) - TILE * tiles - (count.cumsum(0) - count)
        ascending, order = index.sort(stable=True)
        places = torch.arange(len(index), device=index.device) + skipped[ascending]
        self._place = torch.empty_like(index).index_copy_(0, order, places)

    def laid(self, values: Tensor) -> Tensor:
        """Values (t, 1, …) of the rows, tile by tile: (tiles, TILE, …)."""
        laid = values.new_zeros(TILE * len(self.box), *values.shape[2:])
        return laid.index_copy_(0, self._place, values[:, 0]).unflatten(0, (-1, TILE))

    def taken(self, values: list[Tensor]) -> Tensor:
        """The values (t, …) of the rows out of those (some of the tiles, TILE, …)."""
        return torch.cat(values).flatten(0, 1)[self._place]


class Refinement:
    """Lines around the free units on boxes, made layer by layer from bounds, ``sides`` (2, batch, n).

    If ``anew`` these are only what was known of undecided units before, which are bounded once more.
    """

    def __init__(self, backward: Backward, units: Units, boxes: Boxes, sides: Tensor, anew: bool = True):
        self.backward, self.units, self.boxes = backward, units, boxes
        self.sides = sides.clone()
        self.slopes = torch.empty_like(sides)
        self._widest = max(backward.input_size, *(node.size for node in backward.nodes))
        self._lines: dict[str, Tensor] = {}  # of each layer's units (batch, 4, node.size), as in a `Relaxation`
        for part in units.parts:
            box, unit = self._undecided(part)
            if anew and len(box):
                self._refine(part, box, unit)
            self._enclose(part, box, unit)

    def bound(self, rows: dict[str, Tensor], constant: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Lower bounds (t,) on ``rows + constant`` over the boxes ``index`` (t,), and the slopes (t, n_in) they have.

        ``rows`` (t, 1, n) on nodes by name, ``constant`` (t, 1).
        """
        tiles = Tiles(index, len(self.boxes.lower))
        rows, constant = {name: tiles.laid(part) for name, part in rows.items()}, tiles.laid(constant)
        size = max(1, at_once(ENTRIES, constant) // (TILE * self._widest))
        least = [constant.new_empty(0, TILE)]
        slopes = [constant.new_empty(0, TILE, self.backward.input_size)]
        for some in (slice(first, first + size) for first in range(0, len(tiles.box), size)):
            box = tiles.box[some]
            for name, lines in self._lines.items():
                self.backward.relaxations[name] = Relaxation(*lines.index_select(0, box).unbind(1))
            A, fixed = self.backward.pull({name: part[some] for name, part in rows.items()}, constant[some])
            A = A.expand(len(box), TILE, -1)
            least.append(down(self.boxes.least(A, box) + fixed))
            slopes.append(A)
        return tiles.taken(least), tiles.taken(slopes)

    def _undecided(self, part: Part) -> tuple[Tensor, Tensor]:
        """Which units (t,) of a layer a breakpoint or a curve makes undecided on which boxes (t,)."""
        curved = not isinstance(part.node.layer, PiecewiseLinear)
        box, unit = (self.units.undecided(self.sides[:, :, part.place], part.place) | curved).nonzero().T
        return box, unit

    def _refine(self, part: Part, box: Tensor, unit: Tensor) -> None:
        """Bound some units of a layer on some boxes."""
        here, (name,) = self.sides[:, :, part.place], part.node.inputs
        count = max(1, at_once(LISTED, here) // (2 * self._widest))
        for pair in zip(box.split(count), unit.split(count), strict=True):
            boxes, units = (each.repeat_interleave(2) for each in pair)
            signs = here.new_tensor([1.0, -1.0]).repeat(len(boxes) // 2)
            found, _ = self.bound(*self.backward.signed(name, part.positions(units), signs), boxes)
            here[:, *pair] = torch.maximum(here[:, *pair], found.unflatten(0, (-1, 2)).T)

    def _enclose(self, part: Part, box: Tensor, unit: Tensor) -> None:
        """The lines of a layer: those of some units on some boxes from their bounds, the pieces of all others."""
        units, here = self.units, self.sides[:, :, part.place]
        lines = units.decided(here, part.place)
        if len(box):
            lines[:, box, unit] = units.lines(part, unit, here[:, box, unit])
        self.slopes[:, :, part.place] = torch.stack([lines[0], -lines[2]])
        if part.free is not None:
            fixed = torch.stack([part.slope, part.intercept - part.toll, part.slope, part.intercept + part.toll])
            lines = fixed.unsqueeze(1).repeat(1, lines.shape[1], 1).index_copy_(2, part.free, lines)
        self._lines[part.node.name] = lines.transpose(0, 1).contiguous()
