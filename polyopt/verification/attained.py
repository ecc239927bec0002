"""What a network attains on a region: its greatest value at some points there, less all that may be wrong with it.

The points come from samples, from linear programs, and from the support function ``h(a) = max a x``, whose gradient is
its maximiser where there is only one. Those outside the region count where the way to them from the centre c leaves it:
a region is convex and contains the points ``c + t (x - c)`` up to some t, which bisection finds.

Membership in other regions than boxes is computed. It says of a point x that the region has a point x' with
``|x' - x|_inf <= off``, and what is sought is net(x'). It differs from net(x) by no more than what the layers one after
the other make of ``off``; and where net is known to be M x + c on the region, which is often far better,

    net(x') = M x' + c >= M x + c - |M|_1 off >= min(net(x), M x + c) - |M|_1 off.

net(x) in it makes the value one of the network itself, and not only of what is known of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from polyopt.network import Network
from polyopt.regions import Box, Region
from polyopt.regions.image import rounding
from polyopt.regions.rounding import Ball, outward, product
from polyopt.verification.witness import enclose

BISECTIONS = 53


def attained(
    net: Network, region: Region, points: np.ndarray, known: Ball | None = None
) -> tuple[float, np.ndarray | None]:
    """A number that an output of ``net`` reaches on the region, the greatest found from points (m, n), and where.

    All rounding errors are subtracted. ``known`` is a ball around the matrix [M c] of the map that the network is on
    the region. ``-inf, None`` where there is no point of the region or no value.

    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0], [2.0]], [0.0, -2.0])], (1,))
    >>> value, point = attained(net, Box([0.0], [1.0]), np.array([[0.25], [7.0]]))
    >>> round(value, 9), point.round(9)
    (1.0, array([1.]))
    """
    points = inside(region, points)
    if not len(points):
        return -math.inf, None
    off = 0.0 if isinstance(region, Box) else rounding(region.bounding_box())
    values = at_least(enclose(net, points, np.full_like(points, off)))
    if known is not None:
        values = np.maximum(values, _carried(net, points, known, off))
    values = values.max(1)
    best = int(values.argmax())
    return float(values[best]), points[best] if math.isfinite(values[best]) else None


def _carried(net: Network, points: np.ndarray, known: Ball, off: float) -> np.ndarray:
    """``min(net(x), M x + c) - |M|_1 off`` (m, n_out), rounded downwards."""
    there = product(np.column_stack([points, np.ones(len(points))]), Ball(known.mid.T, known.radius.T))
    least = np.minimum(at_least(enclose(net, points, np.zeros_like(points))), at_least(there))
    change = (abs(known.mid[:, :-1]) + known.radius[:, :-1]).sum(1) * off
    return at_least(Ball(least, np.broadcast_to(outward(change, change, points.shape[1] + 2), least.shape)))


def at_least(ball: Ball) -> np.ndarray:
    """Lower bounds on the entries of all matrices in the ball; infinite where numbers are too large."""
    with np.errstate(invalid="ignore", over="ignore"):
        lower = np.nextafter(ball.mid - ball.radius, -np.inf)
    return np.where(np.isnan(lower), -np.inf, lower)


def maximizers(region: Region, directions: np.ndarray) -> np.ndarray:
    """For each row of ``directions`` (k, n) a point where it is greatest on the region, up to rounding: (k, n).

    Where there are several, as for a row of zeros, it may be any point or nan.

    >>> from polyopt.regions import VPolytope
    >>> maximizers(VPolytope([[0.0, 0.0], [1.0, 2.0]]), np.array([[3.0, 1.0], [-1.0, 0.0]]))
    array([[1., 2.],
           [0., 0.]])
    """
    with torch.inference_mode(False), torch.enable_grad():
        rows = torch.tensor(directions, dtype=torch.float64, requires_grad=True)
        region.support(rows).sum().backward()
    return rows.grad.numpy()


def inside(region: Region, points: np.ndarray) -> np.ndarray:
    """Points of the region (m', n) for points (m, n): themselves, or the last on the way to them from the centre.

    Those that are not finite are left out, and so are those for which, in a flat region, not even the centre counts.

    >>> from polyopt.regions import Ellipsoid
    >>> inside(Ellipsoid([0.0], [[2.0]]), np.array([[-1.0], [3.0], [np.nan]])).round(6)
    array([[-1.],
           [ 2.]])
    """
    points = points[np.isfinite(points).all(1)]
    contained = region.contains(points)
    kept, outside = points[contained], points[~contained]
    if not len(outside):
        return kept
    share = np.zeros((len(outside), 1))
    for k in range(BISECTIONS):
        trial = share + 0.5 ** (k + 1)
        share = np.where(region.contains(_between(region, outside, trial))[:, None], trial, share)
    last = _between(region, outside, share)
    return np.concatenate([kept, last[region.contains(last)]])


def _between(region: Region, points: np.ndarray, share: np.ndarray) -> np.ndarray:
    return (1.0 - share) * region.center + share * points
