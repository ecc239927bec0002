"""Witnesses that a network is not affine on a region: two of its points whose midpoint has the wrong image.

An affine g has ``g(z) = (g(x) + g(y)) / 2`` at the midpoint z. If f is within t of such a g at x, y and z, then

    |f(z) - (f(x) + f(y)) / 2| <= 2 t,

so a greater defect refutes all affine functions at once. The defect is computed in float64, with a bound on the
rounding errors of all three values, which each layer adds to and passes on: linear layers as in
`polyopt.regions.rounding`, continuous activations with their steepest slope, maxima unchanged. A jump in reach of an
error makes it infinite.

What is not exactly a point of the region counts with its distance: the midpoint is rounded, and membership in other
regions than boxes is computed (`polyopt.regions.region.ROUNDING`). The errors cover every point so near.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polyopt.activations import GroupMax, PiecewiseLinear
from polyopt.layers import AvgPool2d, Linear
from polyopt.network import INPUT, Network, Node
from polyopt.regions import Box, Region
from polyopt.regions.image import rounding
from polyopt.regions.rounding import Ball, U, combine
from polyopt.verification.pieces import meets

ROUNDINGS = 8  # of one evaluation of an activation, generously


class Witness(NamedTuple):
    """The points x, z, y in rows (3, n), z the midpoint, and a lower bound on the defect there."""

    points: np.ndarray
    defect: float


def most_bent(net: Network, region: Region, x: np.ndarray, y: np.ndarray) -> Witness:
    """Of pairs of points x, y (m, n) of the region, that with the greatest proven defect.

    >>> from polyopt.activations import ReLU
    >>> net = Network.sequential([ReLU()], (1,))
    >>> witness = most_bent(net, Box([-1.0], [1.0]), np.array([[0.0], [-1.0]]), np.array([[1.0], [1.0]]))
    >>> witness.points, round(witness.defect, 12)
    (array([[-1.],
           [ 0.],
           [ 1.]]), 0.5)
    """
    slack = 0.0 if isinstance(region, Box) else rounding(region.bounding_box())
    z = 0.5 * x + 0.5 * y
    off = np.full_like(x, slack)
    points = np.concatenate([x, z, y])
    mid, error = enclose(net, points, np.concatenate([off, off + 4.0 * U * (abs(x) + abs(y)), off]))
    (a, middle, b), (error_a, error_middle, error_b) = (np.split(part, 3) for part in (mid, error))
    rounded = ROUNDINGS * U * (abs(a) + abs(middle) + abs(b))
    with np.errstate(invalid="ignore"):
        defect = abs(middle - 0.5 * (a + b)) - (error_middle + 0.5 * (error_a + error_b) + rounded)
    defect = np.where(np.isnan(defect), -np.inf, defect).max(1)  # of values that overflow
    best = int(defect.argmax())
    return Witness(np.stack([x[best], z[best], y[best]]), float(defect[best]))


def enclose(net: Network, x: np.ndarray, radius: np.ndarray) -> Ball:
    """Values (m, n_out) of the network at points x (m, n), and how far at most those of points within ``radius`` are.

    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[3.0, 0.1]], None)], (2,))
    >>> mid, radius = enclose(net, np.array([[1.0, 1.0]]), np.zeros((1, 2)))
    >>> mid, radius < 1e-14
    (array([[3.1]]), array([[ True]]))
    """
    values = {INPUT: Ball(x.T, radius.T)}
    one = np.ones(len(x))
    for node in net.nodes:
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.layer, Linear):
            shapes, reciprocal = node.input_shapes, isinstance(node.layer, AvgPool2d)
            found = combine(node.layer.operators(*shapes), inputs, node.layer.offset(*shapes), one, reciprocal)
        else:
            with np.errstate(invalid="ignore"):
                found = _activation(node, inputs)
        # nan, which 0 inf is: nothing is known
        values[node.name] = Ball(found.mid, np.where(np.isnan(found.radius), np.inf, found.radius))
    return Ball(*(part.T for part in values[net.nodes[-1].name]))


def _activation(node: Node, inputs: list[Ball]) -> Ball:
    layer, shapes = node.layer, node.input_shapes
    arrays = [ball.mid.T.reshape(-1, *shape) for ball, shape in zip(inputs, shapes, strict=True)]
    value = layer(*arrays).reshape(len(arrays[0]), -1).T
    radius = np.concatenate([ball.radius for ball in inputs])
    if isinstance(layer, GroupMax):
        return Ball(value, radius[layer.groups(*shapes)].max(1))
    a = inputs[0].mid
    if not isinstance(layer, PiecewiseLinear):  # smooth activations are nowhere steeper than 1
        return Ball(value, (1.0 + ROUNDINGS * U) * radius + ROUNDINGS * U * (abs(value) + abs(a)))
    pieces = layer.pieces(node.shape)
    steepest, intercept = abs(pieces.slopes).max(0)[:, None], abs(pieces.intercepts).max(0)[:, None]
    error = steepest * radius * (1.0 + ROUNDINGS * U) + ROUNDINGS * U * (steepest * abs(a) + intercept)
    jump = (abs(a - pieces.breakpoints[..., None]) <= radius) & ~meets(pieces)[..., None]
    return Ball(value, np.where(jump.any(0), np.inf, error))
