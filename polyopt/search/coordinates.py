"""Any region as a piece of a box, so that the search, which knows boxes alone, can answer what is asked of it.

A region is written as the image of those points of a box that satisfy some rows,

    X = {c + M (e + E z) : l <= z <= u, R z <= s},

and a question about f on X becomes one about ``z -> (f(x(z)), A x(z), R z)`` on the box, a network which is f with
affine layers before and beside it; A holds further rows on x that are asked for.

    zonotope     c + G z                   -1 <= z <= 1
    V-polytope   V' (1 - sum z, z)          0 <= z <= 1, sum z <= 1
    H-polytope   z                         bounds on z, A z <= b
    ellipsoid    c + F z                   -1 <= z <= 1, which is a parallelepiped around it
    product      side by side

Numbers are those of the region, and the bounds of an H-polytope are rounded outwards, so that no point of X is lost.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from polyopt.layers import Affine, Concat, Reshape
from polyopt.network import INPUT, Network
from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope
from polyopt.regions.support import Support


class Coordinates(NamedTuple):
    """``{c + M (e + E z) : z in box, R z <= s}`` with M (n, p), E (p, k) and R (m, k)."""

    c: np.ndarray
    M: np.ndarray
    e: np.ndarray
    E: np.ndarray
    box: Box
    R: np.ndarray
    s: np.ndarray

    def point(self, z: np.ndarray) -> np.ndarray:
        """The points x (…, n) that belong to z (…, k)."""
        return z if self.plain else self.c + (self.e + z @ self.E.T) @ self.M.T

    @property
    def plain(self) -> bool:
        """Whether x is z."""
        return _is_identity(self.M, self.c) and not self.lifted

    @property
    def lifted(self) -> bool:
        """Whether E and e do anything."""
        return not _is_identity(self.E, self.e)


def coordinates(region: Region) -> Coordinates:
    """The region in coordinates of a box.

    >>> found = coordinates(VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> found.box, found.R, found.s, found.point(np.array([0.25, 0.75]))
    (Box([0. 0.], [1. 1.]), array([[1., 1.]]), array([1.]), array([0.25, 0.75]))
    """
    match region:
        case Box():
            return _with_rows(region, np.zeros((0, region.size)), np.zeros(0))
        case Zonotope(center=c, generators=M) | Ellipsoid(center=c, factor=M):
            return _image(c, M if M.size else np.zeros((len(c), 1)))
        case VPolytope(points=points) if len(points) == 1:
            return _image(points[0], np.zeros((region.size, 1)))
        case VPolytope(points=points):
            e = np.eye(len(points))[0]
            E = np.eye(len(points), len(points) - 1, -1) - np.outer(e, np.ones(len(points) - 1))
            k = E.shape[1]
            box = Box(np.zeros(k), np.ones(k))
            return Coordinates(np.zeros(region.size), points.T, e, E, box, np.ones((1, k)), np.ones(1))
        case HPolytope(A=A, b=b):
            eye, support = np.eye(region.size), Support.of(region, exact=False)
            return _with_rows(Box(-support(-eye), support(eye)), A, b)
        case Product(regions=regions):
            c, M, e, E, boxes, R, s = zip(*map(coordinates, regions), strict=True)
            box = Box(*(np.concatenate(sides) for sides in zip(*((b.lower, b.upper) for b in boxes), strict=True)))
            c, e, s = map(np.concatenate, (c, e, s))
            return Coordinates(c, block_diag(*M), e, block_diag(*E), box, block_diag(*R), s)
    raise ValueError(f"search: {type(region).__name__} is a kind of region that the search does not know")


def moved(net: Network, where: Coordinates, A: np.ndarray) -> Network:
    """``z -> (f(x), A x, R z)``.

    >>> net = Network.sequential([Affine([[1.0, 2.0]], None)], (2,))
    >>> where = coordinates(VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> moved(net, where, np.array([[0.0, 1.0]]))(np.array([[0.25, 0.75]]))
    array([[1.75, 0.75, 1.  ]])
    """
    name = max((node.name for node in net.nodes), key=len) + "_"  # longer than all others, and thus a new one
    layers, x, flat = [], INPUT, INPUT
    if not where.plain:
        if where.lifted:
            layers.append((x := name + "lift", Affine(where.E, where.e), [INPUT]))
        layers.append((flat := name + "image", Affine(where.M, where.c), [x]))
        layers.append((x := name + "shaped", Reshape(net.input_shape), [flat]))
    elif len(net.input_shape) > 1:
        layers.append((flat := name + "flat", Reshape((net.input_size,)), [INPUT]))
    for node in net.nodes:
        layers.append((node.name, node.layer, [x if source == INPUT else source for source in node.inputs]))
    z = flat if where.plain else INPUT
    beside = [(name + str(i), rows, source) for i, (rows, source) in enumerate([(A, flat), (where.R, z)]) if len(rows)]
    if beside:
        layers.append((name + "output", Reshape((net.output_size,)), [net.nodes[-1].name]))
        layers += [(each, Affine(rows, None), [source]) for each, rows, source in beside]
        layers.append((name + "all", Concat(), [name + "output", *(each for each, _, _ in beside)]))
    return Network(layers, net.input_shape if where.plain else (where.box.size,))


def _with_rows(box: Box, R: np.ndarray, s: np.ndarray) -> Coordinates:
    n = box.size
    return Coordinates(np.zeros(n), np.eye(n), np.zeros(n), np.eye(n), box, R, s)


def _image(c: np.ndarray, M: np.ndarray) -> Coordinates:
    k = M.shape[1]
    box = Box(-np.ones(k), np.ones(k))
    return Coordinates(c, M, np.zeros(k), np.eye(k), box, np.zeros((0, k)), np.zeros(0))


def _is_identity(matrix: np.ndarray, offset: np.ndarray) -> bool:
    return matrix.shape == (len(offset),) * 2 and not offset.any() and (matrix == np.eye(len(offset))).all()
