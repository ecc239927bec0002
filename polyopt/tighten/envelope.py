"""Lines around the units of an activation between their bounds: for piecewise-linear ones the hull of the graph.

The hull of ``{(a, f(a)) : l <= a <= u}`` is that of its corners, the ends and the breakpoints between them (at a jump
with the values of both sides): the range of f, and one line for each edge that is not flat. For ReLU these are the rows
of `formulations.Triangle`. Whatever its slope s, a line above f is sound with the intercept ``max f(a) - s a`` over the
corners, and a line below is minus a line above -f: slopes are rounded as they come, the intercepts' error is in
``slack``. A breakpoint that is itself rounded moves f by no more than that.

Smooth activations get the two lines of `polyopt.bounds.relaxation`, and as slack `SMOOTH` times the size of all numbers
in them: 64 roundings, as `polyopt.bounds.rounding` allows for the errors of tanh, exp and the like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polyopt.activations import PiecewiseLinear
from polyopt.bounds.relaxation import relax
from polyopt.network import Node
from polyopt.regions.rounding import TINY, U

ROUNDINGS = 16.0 * U
SMOOTH = 128.0 * U
STEEPEST = 1e6  # of chords over a jump
ON_EDGE = 1e-9  # corners that miss a line by less, in units of the values' size, are on it


@dataclass(frozen=True, eq=False)
class Envelope:
    """Units (n,): those that are ``scale a + shift`` between their bounds, and the ranges and lines of the others.

    Line r says of unit ``unit[r]`` that ``sign h <= slope a + intercept``, up to ``slack``.
    """

    linear: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    unit: np.ndarray
    sign: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    slack: np.ndarray


def envelope(node: Node, lower: np.ndarray, upper: np.ndarray) -> Envelope:
    """The envelope of an activation whose inputs lie between finite bounds (n,).

    >>> from polyopt.activations import ReLU
    >>> node = Node("relu", ReLU(), ("input",), ((2,),), (2,))
    >>> found = envelope(node, np.array([-1.0, 2.0]), np.array([3.0, 4.0]))
    >>> found.linear, found.scale, found.unit, found.sign
    (array([False,  True]), array([0., 1.]), array([0, 0]), array([ 1., -1.]))
    >>> found.slope, found.intercept
    (array([ 0.75, -1.  ]), array([0.75, 0.  ]))
    """
    if isinstance(node.layer, PiecewiseLinear):
        return _piecewise(node, lower, upper)
    return _smooth(node, lower, upper)


def _piecewise(node: Node, lower: np.ndarray, upper: np.ndarray) -> Envelope:
    breakpoints, slopes, intercepts = node.layer.pieces(node.input_shapes[0])
    infinite = np.full((1, node.size), np.inf)
    ends = np.concatenate([-infinite, breakpoints, infinite])
    # strictly inside one piece, though the breakpoints may be rounded
    inside = (ends[:-1] < lower - ROUNDINGS * abs(lower)) & (upper + ROUNDINGS * abs(upper) < ends[1:])
    linear, piece, units = inside.any(0), inside.argmax(0), np.arange(node.size)
    scale, shift = (np.where(linear, part[piece, units], 0.0) for part in (slopes, intercepts))

    points = np.clip(ends, lower, upper)
    meets = (ends[:-1] <= points[:, None]) & (points[:, None] <= ends[1:])  # (points, pieces, n)
    values = slopes * points[:, None] + intercepts
    sizes = np.where(meets, abs(slopes * points[:, None]) + abs(intercepts), 0.0)
    exact = (slopes == 0) | (abs(slopes) == 1) & (intercepts == 0)
    margin = np.where(exact, 0.0, ROUNDINGS * sizes + TINY)
    least, greatest = np.where(meets, values - margin, np.inf), np.where(meets, values + margin, -np.inf)
    sides = []
    for sign in (1.0, -1.0):
        tops = np.where(meets, sign * values, -np.inf).max(1)
        unit, slope = _edges(points[:, ~linear], tops[:, ~linear])
        unit = np.flatnonzero(~linear)[unit]
        intercept = (tops[:, unit] - slope * points[:, unit]).max(0)
        size = sizes.max((0, 1))[unit] + abs(slope) * np.maximum(abs(lower), abs(upper))[unit]
        sides.append((unit, np.full(len(unit), sign), slope, intercept + 0.0, ROUNDINGS * size + TINY))
    lines = (np.concatenate(parts) for parts in zip(*sides, strict=True))
    return Envelope(linear, scale, shift, least.min((0, 1)) + 0.0, greatest.max((0, 1)) + 0.0, *lines)


def _edges(points: np.ndarray, tops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges of the concave envelope of points (q, n), q ascending, that are not flat: unit and slope of each."""
    first, second = np.triu_indices(len(points), 1)
    again = np.diff(points, axis=0, prepend=-np.inf) == 0  # breakpoints beyond the bounds
    run = points[second] - points[first]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slope = np.clip((tops[second] - tops[first]) / run, -STEEPEST, STEEPEST)  # (pairs, n)
    heights = tops - slope[:, None] * points  # (pairs, points, n)
    slack = ON_EDGE * (1.0 + abs(tops).max(0, initial=0.0))
    on = heights >= heights.max(1, keepdims=True) - slack
    pairs = np.arange(len(first))
    edge = (run > 0) & (slope != 0) & ~again[first] & ~again[second] & on[pairs, first] & on[pairs, second]
    unit, pair = np.nonzero(edge.T)
    return unit, slope[pair, unit]


def _smooth(node: Node, lower: np.ndarray, upper: np.ndarray) -> Envelope:
    lines = relax(node, torch.tensor(lower[None]), torch.tensor(upper[None]))
    below_slope, below, above_slope, above = (part.numpy()[0] for part in lines[:4])
    ends = [node.layer(side.reshape(1, *node.shape)).ravel() for side in (lower, upper)]
    reach = np.maximum(abs(lower), abs(upper))
    margin = SMOOTH * (1.0 + 2.0 * reach + np.maximum(*map(abs, ends)))
    units, none = np.arange(node.size), np.zeros(node.size)
    return Envelope(
        none.astype(bool),
        none,
        none,
        ends[0] - margin,
        ends[1] + margin,
        np.tile(units, 2),
        np.repeat([1.0, -1.0], node.size),
        np.append(above_slope, -below_slope),
        np.append(above, -below),
        np.tile(margin, 2),
    )
