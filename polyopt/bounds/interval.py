"""Interval bounds: each layer's range over the box of its input bounds, one layer after the other.

A linear layer maps the box with centre ``c`` and radius ``r`` to ``W c + b`` plus or minus ``|W| r``. An activation's
range is exact. What is lost are the dependences between the entries of a layer. Those between the inputs are kept by
the linear layers that read them: on a region with the support function ``h`` they range over ``[b - h(-W), b + h(W)]``.

All bounds are rounded outwards, by a few 1e-16 for each summand of the magnitudes summed in a layer; where no number is
rounded, as at a ReLU's zero, nothing is lost.

Source: Gowal et al., "Scalable verified training for provably robust image classification", ICCV 2019, section 3.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from polyopt.activations import GroupMax, PiecewiseLinear, Smooth
from polyopt.bounds.result import Bounds, Interval
from polyopt.layers import Concat, Constant, Linear, Reshape
from polyopt.network import INPUT, Network, Node, UnsupportedLayer
from polyopt.regions import Box, Region
from polyopt.regions.rounding import U
from polyopt.regions.support import Support
from polyopt.squares import Square

ENTRIES = 2**24  # of a layer's matrix, held as a dense one at a time
SPARE = 16  # roundings that are not counted one by one, and those of a smooth function's value
Values = dict[str, Interval]  # bounds on nodes by name, arrays (batch, *shape)


def interval(net: Network, region: Region) -> Bounds:
    """Interval bounds on every layer of ``net`` over a region, or over each box of a batch.

    >>> from polyopt.layers import Affine
    >>> from polyopt.activations import ReLU
    >>> net = Network.sequential([Affine([[1.0, -1.0]], [0.0]), ReLU(), Affine([[2.0]], [1.0])], (2,))
    >>> bounds = interval(net, Box([0.0, 0.0], [1.0, 3.0]))
    >>> bounds.pre[0]
    Interval(lower=array([-3.]), upper=array([1.]))
    >>> bounds.output
    Interval(lower=array([1.]), upper=array([3.]))
    """
    values = start(net, region)
    exact = {} if isinstance(region, Box) else _first_layers(net, region)
    for node in net.nodes:
        values[node.name] = exact[node.name] if node.name in exact else step(node, values)
    return collect(net, region, values)


def start(net: Network, region: Region) -> Values:
    """The bounds on the network's input."""
    if region.size != net.input_size:
        raise ValueError(
            f"bounds: the region has {region.size} dimensions, but the network has {net.input_size} inputs"
        )
    if isinstance(region, Box):
        lower, upper = region.lower, region.upper
    else:
        lower, upper = _range(np.eye(region.size), Support.of(region, exact=False))
    return {INPUT: Interval(*(side.reshape(-1, *net.input_shape) for side in (lower, upper)))}


def step(node: Node, values: Values) -> Interval:
    """The bounds on a node that follow from the bounds on its inputs alone."""
    with np.errstate(over="ignore", invalid="ignore"):
        lower, upper = rule_for(node, RULES)(node, *(values[name] for name in node.inputs))
    shape = (len(values[INPUT].lower), *node.shape)
    return Interval(*(np.broadcast_to(side, shape) for side in _known(lower, upper)))


def joined(node: Node, values: Values) -> Interval:
    """The bounds on all inputs of a node, flattened and joined end to end: (batch, node.input_size)."""
    parts = [values[name] for name in node.inputs]
    return Interval(
        *(
            np.concatenate([side.reshape(len(side), -1) for side in sides], axis=1)
            for sides in zip(*((part.lower, part.upper) for part in parts), strict=True)
        )
    )


def collect(net: Network, region: Region, values: Values) -> Bounds:
    """The result, with the batch dimension only where the region has one."""

    def shaped(bounds: Interval) -> Interval:
        return Interval(*(side.reshape(*region.batch_shape, -1) for side in (bounds.lower, bounds.upper)))

    pre = tuple(shaped(joined(node, values)) for node in net.activations)
    return Bounds(region, pre, shaped(values[net.nodes[-1].name]))


def rule_for(node: Node, rules: dict):
    """The rule of the node's layer kind, or of the nearest kind it derives from."""
    for kind in type(node.layer).__mro__:
        if kind in rules:
            return rules[kind]
    known = ", ".join(kind.__name__ for kind in rules)
    raise UnsupportedLayer(
        f"bounds: there is no rule for layer {node.name!r} ({type(node.layer).__name__}), only for {known}"
    )


def _first_layers(net: Network, region: Region) -> Values:
    """The exact bounds on the linear layers that read the input, as it is or reshaped."""
    found, views, support = {}, {INPUT}, Support.of(region, exact=False)
    for node in net.nodes:
        if not isinstance(node.layer, Linear) or len(node.inputs) != 1 or node.inputs[0] not in views:
            continue
        if isinstance(node.layer, Reshape):
            views.add(node.name)
        (operator,) = node.layer.operators(*node.input_shapes)
        count = max(1, ENTRIES // net.input_size)
        sides = [_range(operator[first : first + count], support) for first in range(0, node.size, count)]
        offset = node.layer.offset(*node.input_shapes)
        with np.errstate(over="ignore", invalid="ignore"):
            lower, upper = np.concatenate(sides, axis=1) + offset
            lower, upper = _known(np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf))
        found[node.name] = Interval(lower.reshape(1, *node.shape), upper.reshape(1, *node.shape))
    return found


def _range(weight, support: Support) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest values of ``W x`` over the region."""
    weight = weight.toarray() if sp.issparse(weight) else weight
    with np.errstate(over="ignore", invalid="ignore"):
        return _known(-support(-weight), support(weight))


def _known(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers too large for float64 leave nothing known."""
    return np.where(lower < np.inf, lower, -np.inf), np.where(upper > -np.inf, upper, np.inf)


def _linear(node, *inputs):
    share = (node.input_size + SPARE) * U
    centers, radii = [bounds.center for bounds in inputs], [bounds.radius for bounds in inputs]
    radii = [radius + share * (abs(center) + radius) for center, radius in zip(centers, radii, strict=True)]
    center, radius = node.layer(*centers), node.layer.absolute()(*radii)
    radius = radius + share * abs(node.layer.offset(*node.input_shapes)).reshape(node.shape)
    return center - radius, center + radius


def _monotone(node, *inputs):
    return node.layer(*(bounds.lower for bounds in inputs)), node.layer(*(bounds.upper for bounds in inputs))


def _piecewise(node, bounds):
    """The range over the ends and the breakpoints between them.

    A breakpoint counts with the values of all pieces that meet there, so that a function that jumps at 0 has both
    sides and the value at 0 even on an interval that only just reaches 0: rounding may have carried it there.
    """
    breakpoints, slopes, intercepts = (part[:, None] for part in node.layer.pieces(node.shape))  # (pieces, 1, n)
    lower, upper = (side.reshape(len(side), -1) for side in (bounds.lower, bounds.upper))
    infinite = np.full_like(slopes[:1], np.inf)
    ends = np.concatenate([-infinite, breakpoints, infinite])
    points = np.clip(ends, lower, upper)[:, None]  # (pieces + 1, 1, batch, n)
    meets = (ends[:-1] <= points) & (points <= ends[1:])
    values = np.where(slopes == 0, 0.0, slopes * points) + intercepts  # also where a bound is infinite
    # products with 0, 1 and -1, and sums with 0, are not rounded
    rounded = np.isfinite(points) & (~np.isin(slopes, (-1.0, 0.0, 1.0)) | (intercepts != 0))
    lost = np.where(rounded, 4.0 * U * (abs(slopes * points) + abs(intercepts)), 0.0)
    lowest = np.where(meets, values - lost, np.inf).min((0, 1))
    highest = np.where(meets, values + lost, -np.inf).max((0, 1))
    return lowest.reshape(bounds.lower.shape), highest.reshape(bounds.upper.shape)


def _smooth(node, bounds):
    lower, upper = _monotone(node, bounds)
    return lower - SPARE * U * abs(lower), upper + SPARE * U * abs(upper)


def _square(node, bounds):
    ends = np.square(bounds.lower), np.square(bounds.upper)
    lower = np.where((bounds.lower <= 0) & (bounds.upper >= 0), 0.0, np.minimum(*ends))
    return lower * (1.0 - SPARE * U), np.maximum(*ends) * (1.0 + SPARE * U)


RULES = {
    Linear: _linear,
    Reshape: _monotone,
    Concat: _monotone,
    Constant: _monotone,
    PiecewiseLinear: _piecewise,
    Smooth: _smooth,
    Square: _square,
    GroupMax: _monotone,
}
