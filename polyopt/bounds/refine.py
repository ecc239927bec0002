"""Bounds on the undecided units of many boxes, and on rows over them, by one list of rows for all boxes.

On a small box most units are decided, by its own bounds or by those of the box it is a part of. CROWN's bounds on the
others, layer after layer, make a list of pairs (box, unit): each is a row ``e_unit`` and a row ``-e_unit`` of its own,
carried back through the lines of its box. Weights are the same for all, so that a list of t rows costs one product with
t rows a layer, whichever boxes they belong to. On halved boxes of ACAS Xu networks a tenth of the units is undecided,
and the list a tenth of what bounds on all units would take.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.activations import PiecewiseLinear
from polyopt.bounds.backward import Backward
from polyopt.bounds.lagrangian import Lines, paying
from polyopt.bounds.rounding import down, gamma
from polyopt.bounds.units import Part, Units

ENTRIES = 2**17  # of a list's rows on a layer at a time, so that what they meet there stays in the cache


class Boxes:
    """The least value of rows over boxes (batch, n_in), rounded downwards, and where it is attained."""

    def __init__(self, lower: Tensor, upper: Tensor):
        self.lower, self.upper = lower, upper
        self.center, self.radius = (upper + lower) / 2, (upper - lower) / 2
        # so that the box around the rounded centre contains the exact one, and the sums are rounded downwards
        self._reach = self.radius + gamma(lower.shape[1], lower.dtype) * (lower.abs() + upper.abs())

    def __call__(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """``min A x`` (batch,), and the corners (batch, n_in), for a row of A (batch, n_in) to each box."""
        return self.least(A), self.center - self.radius * A.sign()

    def least(self, A: Tensor, index: Tensor | slice = slice(None)) -> Tensor:
        """``min A x`` (t,) for a row of A (t, n_in) to each of some boxes."""
        return (A * self.center[index]).sum(1) - (A.abs() * self._reach[index]).sum(1)

    def point(self, A: Tensor) -> Tensor:
        """The corners, in the precision of A."""
        return torch.addcmul(self.center.to(A.dtype), self.radius.to(A.dtype), A.sign(), value=-1.0)

    def take(self, index: Tensor) -> Boxes:
        """Some of the boxes, any of them any number of times."""
        return Boxes(self.lower[index], self.upper[index])


class Refinement:
    """Lines around the free units on boxes, made layer by layer from the bounds that `refine` improves."""

    def __init__(self, backward: Backward, units: Units, boxes: Boxes, sides: Tensor):
        self.backward, self.units, self.boxes = backward, units, boxes
        self.sides = sides.clone()
        self.slopes = torch.empty_like(sides)
        self._lines: list[tuple[Part, Tensor]] = []  # slopes and intercepts (batch, 4, n) of a layer
        for part in units.parts:
            self._refine(part)
            self._enclose(part)

    def bound(self, rows: dict[str, Tensor], constant: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Lower bounds (t,) on ``rows + constant`` over the boxes ``index`` (t,), and the slopes (t, n_in) they have.

        ``rows`` (t, 1, n) on nodes by name, ``constant`` (t, 1).
        """
        least, slope = constant.new_empty(len(index)), constant.new_empty(len(index), self.backward.input_size)
        widest = max(self.backward.input_size, *(node.size for node in self.backward.nodes))
        size = max(1, ENTRIES // widest)
        for some in (slice(first, first + size) for first in range(0, len(index), size)):
            of = index[some]
            for part, lines in self._lines:
                here = lines.index_select(0, of).transpose(0, 1)
                self.backward.relaxations[part.node.name] = Lines(part, here[:2], here[2:])
            A, fixed = self.backward.pull({name: part[some] for name, part in rows.items()}, constant[some])
            A = A[:, 0].expand(len(of), -1)
            least[some], slope[some] = down(self.boxes.least(A, of) + fixed[:, 0]), A
        return least, slope

    def _refine(self, part: Part) -> None:
        """Bound the units of a layer that a breakpoint or a curve makes undecided."""
        here = self.sides[:, :, part.place]
        curved = not isinstance(part.node.layer, PiecewiseLinear)
        box, unit = (self.units.undecided(here, part.place) | curved).nonzero().T
        if not len(box):
            return
        signs = here.new_tensor([1.0, -1.0]).repeat_interleave(len(box))
        box, place = box.repeat(2), part.positions(unit).repeat(2)
        (name,) = part.node.inputs
        found, _ = self.bound(*self.backward.signed(name, place, signs), box)
        for side, bounds in zip(here, found.chunk(2), strict=True):
            at = box[: len(unit)], unit
            side[at] = torch.maximum(side[at], bounds)

    def _enclose(self, part: Part) -> None:
        place, here = part.place, self.sides[:, :, part.place]
        slopes, corners = self.units.relaxed(here, place), self.units.corners(here, place)
        lines = (corners.heights - slopes.unsqueeze(1) * corners.points).amin(1)
        self.slopes[:, :, place] = slopes
        lines = torch.cat([slopes, paying(self.units, slopes, lines, place)])
        self._lines.append((part, lines.transpose(0, 1).contiguous()))
