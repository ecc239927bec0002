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
from polyopt.bounds.units import Units

SLOPE_STEP, PRICE_STEP, SHARE_STEP = 0.25, 0.1, 0.3  # of Adam, at first
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
    """Lines around all units on a batch of domains with bounds ``sides`` (2, batch, n), and the prices of these."""

    def __init__(self, units: Units, sides: Tensor, tolls: tuple[Tensor, Tensor], start: Multipliers | None = None):
        self.units, self.sides = units, sides
        self._toll, self._before = tolls
        self.corners = units.corners(sides)
        start = (units.relaxed(sides), torch.zeros_like(sides)) if start is None else start
        self.slopes, self.prices = (part.detach().clone() for part in start)
        self.project()

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
        paid = self.intercepts() - (self._toll + self.slopes.detach().abs() * self._before)
        slopes, intercepts = (part.split(self.units.sizes, 2) for part in (self.slopes, paid))
        tolls = (self.prices[1] - self.prices[0]).split(self.units.sizes, 1)
        return [Lines(*layer) for layer in zip(slopes, intercepts, tolls, strict=True)]

    def fees(self) -> Tensor:
        """What the prices add to the bound: (batch,)."""
        lost = gamma(self.sides.shape[2], self.sides.dtype) * self.sides.abs().sum(0)  # no less than |l|, |u| and |a|
        lost = lost + self._before
        return (self.prices * (self.sides - lost)).sum((0, 2))

    @torch.no_grad()
    def losses(self, lines: list[Lines]) -> tuple[Tensor, Tensor]:
        """What each unit's lines cost the bound, roughly, and at which breakpoint to split it: (batch, n) each.

        ``lines`` are those of the last backward pass. A line costs its weight times its distance from f, at the
        breakpoints between the bounds (for a ReLU: of the line above, at 0) and at the nearer end (for a ReLU: of the
        line below). Units that have no breakpoint between their bounds cost -1.
        """
        points, heights = self.corners.points, self.corners.heights
        weights = torch.cat([heights[:, 0, :, :0], *(layer.weights for layer in lines)], 2).unsqueeze(1)
        gaps = weights * (heights - self.slopes.unsqueeze(1) * points - self.intercepts().unsqueeze(1))
        between = (points > points[0]) & (points < points[-1])
        loss, where = torch.where(between, gaps.sum(0), -1.0).max(0)
        at_ends = torch.minimum(gaps[:, 0], gaps[:, -1]).sum(0)
        return torch.where(loss < 0.0, -1.0, loss + at_ends), points.gather(0, where[None])[0]


class Lines:
    """One layer's part of an `Enclosure`, as a backward pass meets it.

    After the pass ``weights`` (2, batch, n) says how much the bound rests on each line.
    """

    def __init__(self, slopes: Tensor, intercepts: Tensor, toll: Tensor):
        self._slopes, self._intercepts, self._toll = slopes, intercepts, toll
        self.weights = torch.zeros_like(slopes)

    def through(self, rows: Tensor, input_size: int) -> tuple[Tensor, Tensor]:
        """Rows (batch, 1, n) on the outputs as rows on the inputs, and the constants (batch, 1) this leaves."""
        rows = rows[:, 0]
        weights = torch.stack([rows, -rows]).clamp(min=0.0)
        self.weights = weights.detach()
        shift = (weights * self._intercepts).sum((0, 2)).unsqueeze(1)
        return ((weights * self._slopes).sum(0) + self._toll).unsqueeze(1), shift


class Adam:
    """Ascent of one tensor by Adam (Kingma and Ba 2015) with shrinking steps.

    torch.optim's loads torch's compiler when the first one is made, seconds that would be a multiple of the ascent.
    """

    def __init__(self, values: Tensor, step: float):
        self._values, self._step, self._count = values, step, 0
        self._mean, self._square = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Change the values, in place."""
        self._count += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = (self._square / (1.0 - 0.999**self._count)).sqrt_().add_(1e-8)
        self._values.addcdiv_(
            self._mean, size, value=self._step * DECAY ** (self._count - 1) / (1.0 - 0.9**self._count)
        )


class Ascent(NamedTuple):
    """The best bound of each domain (batch,), and how it ended.

    ``last``, ``slope`` and ``point`` are the least value (batch,) of the last linear bound, its slope (batch, n_in) and
    where it is least (batch, n_in); ``lines`` those of the last backward pass.
    """

    bound: Tensor
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
) -> Ascent:
    """Lower bounds (batch,) on ``sum_k rows[k] y_k`` over a batch of domains, improved by ``steps`` steps of Adam.

    ``rows`` (batch, n) on nodes by name; ``sides`` (2, batch, n) the units' bounds; ``minimum`` the region. ``start``
    holds slopes and prices to begin with.
    """
    enclosure = Enclosure(units, sides, units.tolls(backward), start)
    share = sides.new_full((sides.shape[1],), FIRST_SHARE)
    free = [enclosure.slopes, enclosure.prices, share][: 3 if cutoff else 2]
    climbs = [Adam(part, step) for part, step in zip(free, (SLOPE_STEP, PRICE_STEP, SHARE_STEP), strict=False)]
    best = torch.full_like(share, -torch.inf)
    for step in range(steps + 1):
        last = step == steps
        for part in free:
            part.requires_grad_(not last)
        lines = enclosure.lines()
        backward.relaxations = {node.name: layer for node, layer in zip(units.nodes, lines, strict=True)}
        A, constant = _pull(backward, rows, share, cutoff)
        least, point = minimum(A)
        bound = down(down(least + constant) + enclosure.fees())
        best = torch.fmax(best, bound.detach())
        if last:
            return Ascent(best, bound, A, point, enclosure, lines)
        for climb, gradient in zip(climbs, torch.autograd.grad(bound.sum(), free), strict=True):
            climb.step(gradient)
        enclosure.project()
        share.detach().clamp_(min=0.0)
    raise AssertionError("unreachable")


def _pull(backward: Backward, rows: dict[str, Tensor], share: Tensor, cutoff: Cutoff | None) -> tuple[Tensor, Tensor]:
    """The linear bound ``A x + constant`` (batch, n_in), (batch,) with the present slopes and prices."""
    coefficients = {name: part.unsqueeze(1) for name, part in rows.items()}
    constant = share.new_zeros(len(share), 1)
    if cutoff is not None:
        price = (share * cutoff.scale).unsqueeze(1)
        constant = constant - price * cutoff.value
        for name, row in cutoff.objective.items():
            part = (price * row).unsqueeze(1)
            constant = constant - backward.lost(name, part) - backward.add(coefficients, name, part)
    A, constant = backward.pull(coefficients, constant)
    return A[:, 0], constant[:, 0]
