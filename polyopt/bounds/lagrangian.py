"""Lagrangian bounds: CROWN with free slopes, and prices on what is known of a domain.

A domain is the part of a region where every pre-activation keeps to bounds of its own, ``l <= a(x) <= u``, and, where a
cutoff is given, the objective to ``o(x) <= v``. For any rows on the network's values, any slopes of the lines that
enclose the units between these bounds (`polyopt.bounds.units`), and any prices ``p, q, g >= 0``,

    min over the domain of rows(x)  >=  min over the region of  rows(x) + p (l - a(x)) + q (a(x) - u) + g (o(x) - v)

and the right-hand side is bounded from below by one backward pass (`polyopt.bounds.backward`). It is concave in the
prices and piecewise smooth in the slopes: ascent finds good ones, and every value on the way is a bound. Free slopes
are alpha-CROWN's (Xu et al. 2021), prices of bounds that a split has set beta-CROWN's (Wang et al. 2021, theorem 3.1),
and the price of a cutoff gives bounds on pre-activations that hold wherever the objective improves (Kotha et al. 2023).

All of it is rounded outwards (`polyopt.bounds.rounding`): lines pay for their layers, and prices for what they are on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.bounds.backward import Backward
from polyopt.bounds.rounding import down, gamma
from polyopt.bounds.units import Part, Units

SLOPE_STEP, SHARE_STEP, WEIGHT_STEP = 0.25, 0.3, 0.1  # of Adam, at first
PRICE_STEP = 0.2  # in units of the mean coefficient that the first pass leaves on a layer
LATER = 0.3
DECAY = 0.97  # what each step's length is of the one before
FIRST_SHARE = 0.3  # of a cutoff's price in its scale

Minimum = Callable[[Tensor], tuple[Tensor, Tensor]]  # rows A (batch, n_in) -> least A x over the region, and where
Multipliers = tuple[Tensor, Tensor]  # slopes (2, batch, n) of the lines below f and below -f, prices (2, batch, n)


class Cutoff(NamedTuple):
    """``sum_k objective[k] y_k(x) <= value``: rows (n,) on nodes by name, and a number.

    ``scale`` (batch,) is what a unit of the objective is worth to each row, roughly: prices are sought around it.
    """

    objective: dict[str, Tensor]
    value: float
    scale: Tensor


class Enclosure:
    """Lines around the free units on domains with bounds ``sides`` (2, batch, n), and the prices of these bounds."""

    def __init__(self, units: Units, sides: Tensor, start: Multipliers | None = None):
        self.units, self.sides = units, sides
        self.corners = units.corners(sides)
        start = (units.relaxed(sides), torch.zeros_like(sides)) if start is None else start
        self.slopes, self.prices = (part.detach().clone() for part in start)
        self.project()
        # a price pays for the sum it becomes part of, whose terms are no greater than |l|, |u| and |a|
        self._paid = gamma(sides.shape[2], sides.dtype) * sides.abs().sum(0) + units.before

    @torch.no_grad()
    def project(self) -> None:
        """Bring slopes and prices back to where they are sensible."""
        self.slopes.clamp_(self.corners.least, self.corners.greatest)
        self.prices.clamp_(min=0.0)

    def intercepts(self) -> Tensor:
        """Of the lines below f and below -f (2, batch, n)."""
        return (self.corners.heights - self.slopes.unsqueeze(1) * self.corners.points).amin(1)

    def lines(self) -> list[Lines]:
        """The lines and prices as they are now, layer by layer, for a backward pass."""
        lines = self.slopes, paying(self.units, self.slopes, self.intercepts()), self.prices[1] - self.prices[0]
        return [Lines(part, *(each[..., part.place] for each in lines)) for part in self.units.parts]

    def fees(self) -> Tensor:
        """What the prices add to the bound: (batch,)."""
        return (self.prices * (self.sides - self._paid)).sum((0, 2))

    def scale(self, lines: list[Lines]) -> Tensor:
        """What prices are measured in (batch, n): the mean coefficient that a pass has left on a layer."""
        means = [layer.inner.abs().mean(1, keepdim=True).expand_as(layer.inner) for layer in lines]
        return torch.cat([self.sides[0, :, :0], *means], 1)

    @torch.no_grad()
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


def paying(units: Units, slopes: Tensor, intercepts: Tensor, place: slice = slice(None)) -> Tensor:
    """The intercepts (2, batch, n) of lines that pay for rounding, their own and that of the layer before."""
    return intercepts - (units.toll[place] + slopes.detach().abs() * units.before[place])


class Lines:
    """One layer's part of an `Enclosure`, as a backward pass meets it: (2, batch, n), (2, batch, n), (batch, n).

    ``rows`` (batch, n) are those on its free units in the last pass, ``inner`` what these left on their inputs.
    """

    def __init__(self, part: Part, slopes: Tensor, intercepts: Tensor, toll: Tensor | None = None):
        self._part, self._slopes, self._intercepts, self._toll = part, slopes, intercepts, toll
        self.rows = self.inner = torch.zeros_like(slopes[0])

    def through(self, rows: Tensor, input_size: int) -> tuple[Tensor, Tensor]:
        """Rows (batch, 1, n) on the outputs as rows on the inputs, and the constants (batch, 1) this leaves."""
        rows, part = rows[:, 0], self._part
        free = rows if part.free is None else rows.index_select(1, part.free)
        self.rows = free.detach()
        below = free.clamp(min=0.0)
        above = below - free
        shift = torch.addcmul(below * self._intercepts[0], above, self._intercepts[1]).sum(1)
        inner = torch.addcmul(below * self._slopes[0], above, self._slopes[1])
        self.inner = inner.detach()
        if self._toll is not None:
            inner = inner + self._toll
        if part.free is not None:
            shift = shift + rows @ part.intercept - rows.detach().abs() @ part.toll
            inner = (rows * part.slope).index_add(1, part.free, inner)
        return inner.unsqueeze(1), shift.unsqueeze(1)


class Adam:
    """Ascent of one tensor by Adam (Kingma and Ba 2015) with shrinking steps.

    torch.optim's loads torch's compiler when the first one is made, seconds that would be a multiple of the ascent.
    """

    def __init__(self, values: Tensor, step: float):
        self.values, self._step, self._count = values, step, 0
        self._mean, self._square = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self, gradient: Tensor, scale: Tensor | float = 1.0) -> None:
        """Change the values, in place; ``scale`` is the size of what counts as a step of 1."""
        self._count += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = (self._square / (1.0 - 0.999**self._count)).sqrt_().add_(1e-8)
        length = self._step * DECAY ** (self._count - 1) / (1.0 - 0.9**self._count)
        self.values.addcdiv_(self._mean * scale, size, value=length)


class Mixture:
    """Rows C (batch, r, n_out) on the output, less their limits d (batch, r), of which the greatest counts.

    ``min_x max_r (C y - d)_r >= max_w min_x sum_r w_r (C y - d)_r`` over the weights ``w >= 0`` (batch, r) that sum to
    one. ``reach`` (n_out,) is no less than ``|y|``.
    """

    def __init__(self, rows: Tensor, limits: Tensor, weights: Tensor, reach: Tensor):
        self.rows, self.limits, self.weights = rows, limits, weights.detach().clone()
        share = gamma(4 * rows.shape[1], rows.dtype)
        self._lost = share * (rows.abs() @ reach + limits.abs())

    @torch.no_grad()
    def project(self) -> None:
        """Bring the weights back to a sum of one, or to equal ones where all have become zero."""
        self.weights.clamp_(min=0.0)
        total = self.weights.sum(1, keepdim=True)
        self.weights.copy_(torch.where(total > 0, self.weights / total, 1.0 / self.weights.shape[1]))

    def row(self) -> Tensor:
        """The weighted row (batch, n_out)."""
        return (self.weights.unsqueeze(1) @ self.rows)[:, 0]

    def limit(self) -> Tensor:
        """The weighted limit (batch,), and what rounding may cost both."""
        return (self.weights * (self.limits + self._lost)).sum(1)


class Ascent(NamedTuple):
    """The best bound of each domain (batch,), the slopes, prices and weights that gave it, and how the ascent ended.

    ``last``, ``slope`` and ``point`` are the least value (batch,) of the last linear bound, its slope (batch, n_in) and
    where it is least (batch, n_in); ``lines`` those of the last backward pass.
    """

    bound: Tensor
    multipliers: Multipliers
    weights: Tensor | None
    last: Tensor
    slope: Tensor
    point: Tensor
    enclosure: Enclosure
    lines: list[Lines]


def ascend(
    backward: Backward,
    units: Units,
    rows: dict[str, Tensor],
    sides: Tensor,
    minimum: Minimum,
    steps: int,
    cutoff: Cutoff | None = None,
    start: Multipliers | None = None,
    mixture: Mixture | None = None,
    fresh: bool = True,
    priced: bool = True,
) -> Ascent:
    """Lower bounds (batch,) on ``sum_k rows[k] y_k`` over a batch of domains, improved by ``steps`` steps of Adam.

    ``rows`` (batch, n) on nodes by name, to which a ``mixture`` adds rows on the output; ``sides`` (2, batch, n) the
    free units' bounds; ``minimum`` the region. ``start`` holds slopes and prices to begin with, which an ascent ended
    with before if they are not ``fresh``. Only where they are ``priced`` do prices on the sides help: after splits.
    """
    enclosure = Enclosure(units, sides, start)
    share = sides.new_full((sides.shape[1],), FIRST_SHARE)
    much = 1.0 if fresh else LATER
    climbs = {"slopes": Adam(enclosure.slopes, much * SLOPE_STEP)}
    if priced:
        climbs["prices"] = Adam(enclosure.prices, much * PRICE_STEP)
    if cutoff is not None:
        climbs["share"] = Adam(share, SHARE_STEP)
    if mixture is not None and mixture.weights.shape[1] > 1:
        climbs["weights"] = Adam(mixture.weights, much * WEIGHT_STEP)
    free = [climb.values for climb in climbs.values()]
    best = torch.full_like(share, -torch.inf)
    multipliers = [each.detach().clone() for each in (enclosure.slopes, enclosure.prices)]
    weights = None if mixture is None else mixture.weights.clone()
    steps = steps if any(each.numel() for each in free) else 0
    for step in range(steps + 1):
        last = step == steps
        for part in free:
            part.requires_grad_(not last)
        lines = enclosure.lines()
        backward.relaxations = {part.node.name: layer for part, layer in zip(units.parts, lines, strict=True)}
        A, constant = _pull(backward, rows, share, cutoff, mixture)
        least, point = minimum(A)
        bound = down(down(least + constant) + enclosure.fees())
        better = bound.detach() > best
        best = torch.where(better, bound.detach(), best)
        if steps:
            for kept, part in zip(multipliers, (enclosure.slopes, enclosure.prices), strict=True):
                torch.where(better.unsqueeze(1), part.detach(), kept, out=kept)
            if mixture is not None:
                torch.where(better.unsqueeze(1), mixture.weights.detach(), weights, out=weights)
        if last:
            return Ascent(best, tuple(multipliers), weights, bound, A, point, enclosure, lines)
        if step == 0:
            scale = enclosure.scale(lines)
        gradients = torch.autograd.grad(bound.sum(), free, materialize_grads=True)
        for (name, climb), gradient in zip(climbs.items(), gradients, strict=True):
            climb.step(gradient, scale if name == "prices" else 1.0)
        enclosure.project()
        share.detach().clamp_(min=0.0)
        if mixture is not None:
            mixture.project()
    raise AssertionError("unreachable")


def _pull(
    backward: Backward, rows: dict[str, Tensor], share: Tensor, cutoff: Cutoff | None, mixture: Mixture | None
) -> tuple[Tensor, Tensor]:
    """The linear bound ``A x + constant`` (batch, n_in), (batch,) with the present multipliers."""
    coefficients = {name: part.unsqueeze(1) for name, part in rows.items()}
    constant = share.new_zeros(len(share), 1)
    added = []
    if cutoff is not None:
        price = (share * cutoff.scale).unsqueeze(1)
        constant = constant - price * cutoff.value
        added = [(name, (price * row).unsqueeze(1)) for name, row in cutoff.objective.items()]
    if mixture is not None:
        constant = constant - mixture.limit().unsqueeze(1)
        added.append((backward.nodes[-1].name, mixture.row().unsqueeze(1)))
    for name, part in added:
        constant = constant - backward.lost(name, part) - backward.add(coefficients, name, part)
    A, constant = backward.pull(coefficients, constant)
    return A[:, 0], constant[:, 0]
