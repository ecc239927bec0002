"""Linear relaxations of the nonlinear layers: for each unit, one line below and one line above its graph on [l, u].

Of all lines above a function ``f`` on ``[l, u]``, the one that encloses the least area passes lowest at the midpoint
``m = (l + u) / 2``: it is the edge (or the tangent) of the concave envelope of ``f`` at ``m``. The least area below is
the convex envelope's. For ReLU these are CROWN's chord and its adaptive lower slope.

In every rule only the slope is searched for. The intercept of the line above is then ``max f(a) - slope * a`` over
``[l, u]``, from the few points where this maximum can lie: whatever the slope, the line is above the function.

Source: Zhang et al., "Efficient neural network robustness certification with general activation functions",
NeurIPS 2018, section 3.2 and tables 2 and 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyopt.activations import GroupMax, PiecewiseLinear, Sigmoid, Softplus, Tanh
from polyopt.bounds.interval import rule_for
from polyopt.bounds.rounding import steepest
from polyopt.network import Node
from polyopt.squares import Square

BISECTIONS = 25
EQUAL = 1e-10  # choices that differ by this share of a unit's range count as equal, so that rounding decides nothing


class Relaxation(NamedTuple):
    """``lower_slope * a + lower_intercept <= y <= upper_slope * a + upper_intercept``, all of shape (batch, n).

    ``a`` is the unit's own input; where ``source`` (batch, n) is given, it is entry ``source`` of the joined inputs.
    """

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    source: Tensor | None = None

    def through(self, rows: Tensor, input_size: int) -> tuple[Tensor, Tensor]:
        """Rows on the layer's outputs as rows on its joined inputs that are nowhere greater, and the constants left."""
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        shift = dot(positive, self.lower_intercept) + dot(negative, self.upper_intercept)
        rows = positive * self.lower_slope.unsqueeze(1)
        rows.addcmul_(negative, self.upper_slope.unsqueeze(1))
        if self.source is None:
            return rows, shift
        source = self.source.unsqueeze(1).expand_as(rows)
        return rows.new_zeros(*rows.shape[:2], input_size).scatter_add_(2, source, rows), shift


def dot(A: Tensor, x: Tensor) -> Tensor:
    """``A x`` for A (batch or 1, rows, n) and x (batch or 1, n): (batch, rows)."""
    if len(A) == 1:
        return x @ A[0].T
    if len(x) == 1:
        return A @ x[0]
    # rows times matrices: five times as fast as matrices times columns
    return torch.bmm(x.unsqueeze(1), A.transpose(1, 2)).squeeze(1)


def relax(node: Node, lower: Tensor, upper: Tensor) -> Relaxation:
    """The relaxation of a nonlinear layer whose flattened, joined input lies in ``[lower, upper]``, (batch, n).

    >>> from polyopt.activations import ReLU
    >>> node = Node("relu", ReLU(), ("input",), ((1,),), (1,))
    >>> [float(part[0, 0]) for part in relax(node, torch.tensor([[-1.0]]), torch.tensor([[3.0]]))[:4]]
    [1.0, 0.0, 0.75, 0.75]
    """
    return rule_for(node, RULES)(node, lower, upper)


def _piecewise(node, lower, upper):
    pieces = node.layer.pieces(node.shape)
    tables = [lower.new_tensor(part) for part in pieces]
    if len(pieces.breakpoints) == 1 and np.equal(*pieces.ends).all():
        return bent_lines(*tables, lower, upper)
    return piecewise_lines(*tables, lower.new_tensor(steepest(node)), lower, upper)


class Bent(NamedTuple):
    """Units with one breakpoint: the values (3, batch, n) at the lower bound, the breakpoint and the upper bound.

    ``points`` are these; ``chord`` and ``turned`` (batch, n) are the slopes of the chord, and of that piece beyond
    which the line through the breakpoint leaves the least; both are the piece's own where the unit is not undecided.
    """

    points: Tensor
    values: Tensor
    undecided: Tensor
    convex: Tensor
    chord: Tensor
    turned: Tensor

    def sided(self, convex: Tensor, concave: Tensor) -> Tensor:
        """The one for convex units, the other for concave ones."""
        return torch.where(self.convex, convex, concave)


def bend(breakpoints: Tensor, slopes: Tensor, intercepts: Tensor, lower: Tensor, upper: Tensor) -> Bent:
    """What the lines around units with one breakpoint, where they are continuous, are made of."""
    (at,) = breakpoints
    points = torch.stack([lower, torch.clamp(at, lower, upper), upper])
    values = torch.where(points > at, slopes[1] * points + intercepts[1], slopes[0] * points + intercepts[0])
    undecided, turned = (lower < at) & (at < upper), torch.where(lower + upper > 2.0 * at, slopes[1], slopes[0])
    chord = (values[2] - values[0]) / (upper - lower)
    chord = torch.where(undecided, chord.clamp(slopes.amin(0), slopes.amax(0)), turned)
    return Bent(points, values, undecided, slopes[0] <= slopes[1], chord, turned)


def bent_lines(breakpoints, slopes, intercepts, lower: Tensor, upper: Tensor) -> Relaxation:
    """`piecewise_lines` of units with one breakpoint, where they are continuous."""
    bent = bend(breakpoints, slopes, intercepts, lower, upper)
    below, above = bent.sided(bent.turned, bent.chord), bent.sided(bent.chord, bent.turned)
    own = torch.where(upper > breakpoints[0], intercepts[1], intercepts[0])
    under = torch.where(bent.undecided, (bent.values - below * bent.points).amin(0), own)
    over = torch.where(bent.undecided, (bent.values - above * bent.points).amax(0), own)
    return Relaxation(below, under, above, over)


def piecewise_lines(breakpoints, slopes, intercepts, steepest, lower: Tensor, upper: Tensor) -> Relaxation:
    """The lines of piecewise-linear units on [lower, upper] (batch, n), from their `Pieces`.

    ``steepest`` (n,) is the greatest slope that a line may have.
    """
    breakpoints, slopes, intercepts = (part.unsqueeze(1) for part in (breakpoints, slopes, intercepts))
    infinite = torch.full_like(slopes[:1], torch.inf)
    ends = torch.cat([-infinite, breakpoints, infinite])  # (pieces + 1, 1, n)
    points = torch.clamp(ends, lower, upper)  # (pieces + 1, batch, n)
    # at a jump the line must clear the pieces of both sides
    meets = (ends[:-1] <= points.unsqueeze(1)) & (points.unsqueeze(1) <= ends[1:])
    values = slopes * points.unsqueeze(1) + intercepts
    # a line below f is minus a line above -f: both at once, along a new axis 1
    values = torch.where(meets.unsqueeze(1), torch.stack([values, -values], 1), -torch.inf).amax(2)
    # the slope of a short chord is mostly rounding errors
    slope, intercept = _line_above(points.unsqueeze(1), values, steepest)
    lines = (0.0 - slope[1], 0.0 - intercept[1], slope[0], intercept[0])
    # a unit that stays strictly inside one piece is that piece, without the rounding of a chord
    only = ((ends[:-1] < lower) & (upper < ends[1:])).to(lower.dtype)
    piece, several = ((only * slopes).sum(0), (only * intercepts).sum(0)), only.sum(0) == 0
    return Relaxation(*(torch.where(several, line, own) for line, own in zip(lines, piece * 2, strict=True)))


def _line_above(points: Tensor, values: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of the line above the points (k, …) that is lowest at the midpoint of the first and last.

    Its slope is that of a chord between two of the points, no steeper than ``limit`` (n,).
    """
    first, second = torch.triu_indices(len(points), len(points), offset=1, device=points.device)
    run, rise = points[second] - points[first], values[second] - values[first]
    slopes = torch.where(run > 0, rise / run, 0.0).clamp(-limit, limit)  # (pairs, …)
    intercepts = (values - slopes.unsqueeze(1) * points).amax(1)
    heights = slopes * (points[0] + points[-1]) / 2 + intercepts
    best = _first(-heights, values.amax(0) - values.amin(0), dim=0)
    return slopes.gather(0, best)[0], intercepts.gather(0, best)[0]


def _first(scores: Tensor, spread: Tensor, dim: int) -> Tensor:
    """The index, along ``dim``, of the first of the scores that equal the largest."""
    good = scores >= scores.amax(dim, keepdim=True) - EQUAL * spread.unsqueeze(dim)
    return good.to(scores.dtype).max(dim, keepdim=True).indices


def _tanh(node, lower, upper):
    """tanh is odd: a line above it on [-u, -l], turned about the origin, is a line below it on [l, u]."""
    above, below = _above_tanh(lower, upper), _above_tanh(-upper, -lower)
    return Relaxation(below[0], -below[1], *above)


def _above_tanh(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The line above tanh on [l, u] that is lowest at m.

    The concave envelope is the chord from ``l`` to the point ``d >= 0`` where it becomes a tangent, and tanh itself
    from there on. Short of ``d`` the tangent is steeper than the chord.
    """
    middle = (lower + upper) / 2
    start, end = lower.clamp(min=0.0), upper.clamp(min=0.0)
    for _ in range(BISECTIONS):
        d = (start + end) / 2
        short = torch.tanh(d) - torch.tanh(lower) < (1 - torch.tanh(d) ** 2) * (d - lower)
        start, end = torch.where(short, d, start), torch.where(short, end, d)
    d = torch.minimum(end, upper)
    chord = (torch.tanh(d) - torch.tanh(lower)) / (d - lower)
    slope = torch.where(middle >= d, 1 - torch.tanh(middle) ** 2, chord).clamp(0.0, 1.0)
    turn = torch.acosh(slope.rsqrt().clamp(min=1.0))  # where tanh'(a) = slope and tanh is concave
    places = torch.stack([lower, upper, turn.clamp(lower, upper)])
    return slope, (torch.tanh(places) - slope * places).amax(0)


def _sigmoid(node, lower, upper):
    """``sigmoid(a) = (1 + tanh(a / 2)) / 2``."""
    half = _tanh(node, lower / 2, upper / 2)
    return Relaxation(
        half.lower_slope / 4, (1 + half.lower_intercept) / 2, half.upper_slope / 4, (1 + half.upper_intercept) / 2
    )


def _softplus(node, lower, upper):
    """Softplus is convex: the chord above, the tangent at the midpoint below."""
    beta = node.layer.beta

    def value(a):
        return torch.logaddexp(torch.zeros_like(a), beta * a) / beta

    middle = (lower + upper) / 2
    tangent = torch.sigmoid(beta * middle)
    chord = torch.where(upper > lower, (value(upper) - value(lower)) / (upper - lower), tangent).clamp(0.0, 1.0)
    above = torch.maximum(value(lower) - chord * lower, value(upper) - chord * upper)
    return Relaxation(tangent, value(middle) - tangent * middle, chord, above)


def _square(node, lower, upper):
    """The square is convex: the chord above, whose slope is l + u, the tangent at the midpoint below."""
    middle, chord = (lower + upper) / 2, lower + upper
    above = torch.maximum(lower * lower - chord * lower, upper * upper - chord * upper)
    return Relaxation(2.0 * middle, -middle * middle, chord, above)


def _group_max(node, lower, upper):
    """Below ``y``, the member ``x_s`` with the largest midpoint; above, the chord of ``max(x_s, M)`` over its range.

    ``M`` is the largest upper bound of the other members. Where ``x_s`` surely wins, both lines are ``x_s`` itself.
    """
    groups = torch.tensor(node.layer.groups(*node.input_shapes), device=lower.device)  # (n, members)
    lowest, highest = lower[:, groups], upper[:, groups]
    best = _first(lowest + highest, highest.amax(-1) - lowest.amin(-1), dim=2)
    source = groups.expand(len(lower), -1, -1).gather(2, best)  # (batch, n, 1)
    others = torch.where(groups == source, -torch.inf, highest).amax(-1)
    source = source.squeeze(-1)
    low, high = lower.gather(1, source), upper.gather(1, source)
    slope = torch.where(high > low, (high - others) / (high - low), 1.0).clamp(0.0, 1.0)
    above = torch.maximum(others - slope * low, high - slope * high)
    return Relaxation(torch.ones_like(slope), torch.zeros_like(slope), slope, above, source)


RULES = {
    PiecewiseLinear: _piecewise,
    Tanh: _tanh,
    Sigmoid: _sigmoid,
    Softplus: _softplus,
    Square: _square,
    GroupMax: _group_max,
}
