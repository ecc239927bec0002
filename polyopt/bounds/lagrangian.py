"""Lagrangian bounds: CROWN with free slopes, and prices on what is known of a domain.

A domain is the part of a region where every pre-activation keeps to bounds of its own, ``l <= a(x) <= u``, and, where a
cutoff is given, the objective to ``o(x) <= v``. For any rows on the network's values, any slopes of the lines that
enclose the units between these bounds (`polyopt.bounds.units`), and any prices q and ``g >= 0``, with the positive part
``q+`` of q and the negative part ``-q-``,

    min over the domain of rows(x)  >=  min over the region of  rows(x) + q+ (a(x) - u) + q- (l - a(x)) + g (o(x) - v)

and the right-hand side is bounded from below by one backward pass (`polyopt.bounds.backward`). It is concave in the
prices and piecewise smooth in the slopes: ascent finds good ones (`polyopt.bounds.climb`). Free slopes are
alpha-CROWN's (Xu et al. 2021), prices of bounds that a split has set beta-CROWN's (Wang et al. 2021, theorem 3.1), and
the price of a cutoff gives bounds on pre-activations that hold wherever the objective improves (Kotha et al. 2023).

All of it is rounded outwards (`polyopt.bounds.rounding`): lines pay for their layers, and prices for what they are on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from polyopt.bounds.backward import Backward
from polyopt.bounds.climb import DTYPE, Climb, Reduced, Steps, projected
from polyopt.bounds.rounding import down, gamma
from polyopt.bounds.units import Part, Units

SLOPE_STEP, PRICE_STEP, SHARE_STEP, WEIGHT_STEP = 0.25, 0.2, 0.1, 0.1
LATER = 0.3  # a good pace for multipliers that an ascent has ended with before
FIRST_SHARE = 0.2  # of a cutoff's price in its scale

Multipliers = tuple[Tensor, Tensor]  # slopes (2, batch, n) of the lines below f and below -f, prices (batch, n)


class Minimum(Protocol):
    """A region, or one for each row of a batch."""

    def __call__(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """``min A x`` (batch,), rounded downwards, and where it is attained (batch, n_in)."""

    def point(self, A: Tensor) -> Tensor:
        """Where it is attained, in the precision of A."""

    def take(self, index: Tensor) -> Minimum:
        """Those of some rows, any of them any number of times."""


class Cutoff(NamedTuple):
    """``row . output <= value``: a row (batch, n_out) and a number (batch,) for each domain.

    ``scale`` (batch,) is what a unit of it is worth to each row that is bounded, roughly: prices are sought around it.
    """

    row: Tensor
    value: Tensor
    scale: Tensor


class Enclosure:
    """Lines around the free units on domains with bounds ``sides`` (2, batch, n), and the prices of these bounds."""

    def __init__(self, units: Units, sides: Tensor, multipliers: Multipliers):
        self.units, self.sides = units, sides
        self.corners = units.corners(sides)
        slopes, self.prices = (part.to(sides.dtype) for part in multipliers)
        self.slopes = torch.minimum(torch.maximum(slopes, self.corners.least), self.corners.greatest)
        # a price pays for the sum it becomes part of, whose terms are no greater than |l|, |u| and |a|
        self._paid = gamma(sides.shape[2], sides.dtype) * sides.abs().sum(0) + units.before

    def intercepts(self) -> Tensor:
        """Of the lines below f and below -f (2, batch, n)."""
        return (self.corners.heights - self.slopes.unsqueeze(1) * self.corners.points).amin(1)

    def lines(self) -> list[Lines]:
        """The lines and prices, layer by layer, for a backward pass."""
        lines = self.slopes, self.intercepts() - self.units.fees(self.slopes), self.prices
        return [Lines(part, *(each[..., part.place] for each in lines)) for part in self.units.parts]

    def fees(self) -> Tensor:
        """What the prices add to the bound: (batch,)."""
        side = torch.where(self.prices > 0, self.sides[1], self.sides[0]) - self._paid
        return torch.where(self.prices == 0, 0.0, self.prices.abs() * side).sum(1)

    def losses(self, lines: list[Lines]) -> tuple[Tensor, Tensor]:
        """What each unit's lines cost the bound, roughly, and at which breakpoint to split it: (batch, n) each.

        ``lines`` are those of the last backward pass. A line costs its weight times its distance from f at the
        breakpoints between the bounds (for a ReLU: of the line above, at 0). Units that have none there cost -1.
        """
        points, heights = self.corners.points, self.corners.heights
        rows = torch.cat([points[0, :, :0], *(layer.rows for layer in lines)], 1)
        weights = torch.stack([rows, -rows]).clamp(min=0.0).unsqueeze(1)
        gaps = weights * (heights - self.slopes.unsqueeze(1) * points - self.intercepts().unsqueeze(1))
        between = (points > points[0]) & (points < points[-1])
        loss, where = torch.where(between, gaps.sum(0), -1.0).max(0)
        return loss, points.gather(0, where[None])[0]


class Lines:
    """One layer's part of an `Enclosure`, as a backward pass meets it: (2, batch, n), (2, batch, n), (batch, n).

    ``rows`` (batch, n) are those on its free units in the last pass.
    """

    def __init__(self, part: Part, slopes: Tensor, intercepts: Tensor, prices: Tensor):
        self._part, self._slopes, self._intercepts, self._prices = part, slopes, intercepts, prices
        self.rows = torch.zeros_like(slopes[0])

    def through(self, rows: Tensor, input_size: int) -> tuple[Tensor, Tensor]:
        """Rows (batch, 1, n) on the outputs as rows on the inputs, and the constants (batch, 1) this leaves."""
        rows, part = rows[:, 0], self._part
        free = rows if part.free is None else rows.index_select(1, part.free)
        self.rows = free
        below = free.clamp(min=0.0)
        above = below - free
        shift = torch.addcmul(below * self._intercepts[0], above, self._intercepts[1]).sum(1)
        inner = torch.addcmul(below * self._slopes[0], above, self._slopes[1]) + self._prices
        if part.free is not None:
            shift = shift + rows @ part.intercept - rows.abs() @ part.toll
            inner = (rows * part.slope).index_add(1, part.free, inner)
        return inner.unsqueeze(1), shift.unsqueeze(1)


class Mixture:
    """Rows C (batch, r, n_out) on the output, less their limits d (batch, r), of which the greatest counts.

    ``min_x max_r (C y - d)_r >= max_w min_x sum_r w_r (C y - d)_r`` over the weights ``w >= 0`` (batch, r) that sum to
    one. ``reach`` (n_out,) is no less than ``|y|``. If ``constrained``, the first row is an objective and the others
    are constraints: its weight is one, and theirs are any ``w >= 0``.
    """

    def __init__(self, rows: Tensor, limits: Tensor, weights: Tensor, reach: Tensor, constrained: bool = False):
        self.rows, self.limits, self.weights = rows, limits, weights
        self.reach, self.constrained = reach, constrained
        share = gamma(4 * rows.shape[1], rows.dtype)
        self._lost = share * (rows.abs() @ reach + limits.abs())

    def row(self) -> Tensor:
        """The weighted row (batch, n_out)."""
        return (self.weights.unsqueeze(1) @ self.rows)[:, 0]

    def limit(self) -> Tensor:
        """The weighted limit (batch,), and what rounding may cost both."""
        return (self.weights * (self.limits + self._lost)).sum(1)

    def weighted(self, weights: Tensor) -> Mixture:
        """The same rows with other weights."""
        return Mixture(self.rows, self.limits, weights, self.reach, self.constrained)


class Ascent(NamedTuple):
    """Bounds (batch,), and the slopes, prices and weights that gave them.

    ``slope`` (batch, n_in) is that of the linear bound, ``point`` (batch, n_in) where it is least; ``enclosure`` and
    ``lines`` those of the backward pass.
    """

    bound: Tensor
    multipliers: Multipliers
    weights: Tensor | None
    slope: Tensor
    point: Tensor
    enclosure: Enclosure
    lines: list[Lines]


@torch.no_grad()
def ascend(
    backward: Backward,
    reduced: Reduced,
    sides: Tensor,
    minimum: Minimum,
    steps: int,
    begin: tuple[Tensor, Tensor] | None = None,
    mixture: Mixture | None = None,
    cutoff: Cutoff | None = None,
    start: Multipliers | None = None,
    pace: float = 1.0,
    priced: bool = True,
    growth: float = 0.0,
    of: Tensor | None = None,
    stop: Callable[[Tensor], bool] | None = None,
) -> Ascent:
    """Lower bounds (batch,) on rows over a batch of domains, from multipliers that are improved by so many steps.

    The rows are either signed units, ``begin`` = (unit, sign), (batch,) each, of one layer, with a ``cutoff`` or not;
    or those of a ``mixture``. ``sides`` (2, batch, n) are bounds on the free units, of the first layers or of all;
    ``start`` holds slopes and prices to begin with, by default CROWN's slopes and none; ``pace`` multiplies the steps'
    lengths. Only where they are ``priced`` are prices on the sides sought, which help after splits; ``growth`` is how
    fast these may grow (`Climb.run`).

    Where ``of`` (batch,) is given, ``sides`` and the slopes to begin with are of fewer domains, ``of`` says of which
    each row is, and all rows of a domain share its slopes. ``stop`` ends the ascent once it is true of the bounds
    (batch,), as far as single precision knows them.
    """
    units = reduced.units.upto(sides.shape[2])
    batch = sides.shape[1] if of is None else len(of)
    slopes, prices = (units.relaxed(sides), sides.new_zeros(batch, sides.shape[2])) if start is None else start
    share, weights, scale = sides.new_ones(batch), None, sides.new_ones(batch)
    rows = limits = None
    if mixture is not None:
        rows, limits, weights = mixture.rows, mixture.limits, mixture.weights
    if cutoff is not None:
        share, scale, weights = share * FIRST_SHARE, cutoff.scale, torch.ones_like(share).unsqueeze(1)
        rows, limits = cutoff.row.unsqueeze(1), cutoff.value.unsqueeze(1)
    if steps and (slopes.numel() or rows is not None):
        several = mixture is not None and rows.shape[1] > 1
        lengths = Steps(
            slopes=pace * SLOPE_STEP,
            prices=pace * PRICE_STEP if priced else 0.0,
            share=0.0 if cutoff is None else SHARE_STEP,
            weights=pace * WEIGHT_STEP if several else 0.0,
        )
        free = _rounded(slopes, prices, share, weights)
        constrained = mixture is not None and mixture.constrained
        climb = Climb(reduced, *_rounded(sides), minimum.point, begin, *_rounded(rows, limits), constrained, of)
        climb.run(steps, lengths, growth, *free, scale.to(DTYPE), stop)
        slopes, prices, share, weights = (None if each is None else each.to(sides.dtype) for each in free)
    if mixture is not None:
        weights = projected(weights, mixture.constrained)
        mixture = mixture.weighted(weights)
    if of is not None:
        sides, slopes = sides[:, of], slopes[:, of]
    enclosure = Enclosure(units, sides, (slopes, prices))
    lines = enclosure.lines()
    backward.relaxations.update({part.node.name: layer for part, layer in zip(units.parts, lines, strict=True)})
    A, constant = _pull(backward, reduced.units, begin, mixture, cutoff, share)
    least, point = minimum(A)
    bound = down(down(least + constant) + enclosure.fees())
    return Ascent(bound, (enclosure.slopes, enclosure.prices), weights, A, point, enclosure, lines)


def _rounded(*values: Tensor | None) -> list[Tensor | None]:
    """Copies in the precision of an ascent."""
    return [None if each is None else each.to(DTYPE, copy=True) for each in values]


def _pull(
    backward: Backward,
    units: Units,
    begin: tuple[Tensor, Tensor] | None,
    mixture: Mixture | None,
    cutoff: Cutoff | None,
    share: Tensor,
) -> tuple[Tensor, Tensor]:
    """The linear bound ``A x + constant`` (batch, n_in), (batch,) with these multipliers."""
    coefficients, constant, row = {}, share.new_zeros(len(share), 1), None
    if begin is not None:
        part = units.part(int(begin[0][0]))
        (name,) = part.node.inputs
        place = part.positions(begin[0] - part.place.start)
        coefficients, constant = backward.signed(name, place, begin[1].to(share.dtype))
    if cutoff is not None:
        price = (share * cutoff.scale).unsqueeze(1)
        constant, row = constant - price * cutoff.value.unsqueeze(1), price * cutoff.row
    if mixture is not None:
        constant, row = constant - mixture.limit().unsqueeze(1), mixture.row()
    if row is not None:
        name, row = backward.nodes[-1].name, row.unsqueeze(1)
        constant = constant - backward.lost(name, row) - backward.add(coefficients, name, row)
    A, constant = backward.pull(coefficients, constant)
    return A[:, 0], constant[:, 0]
