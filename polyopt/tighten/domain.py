"""The region of a network's inputs as a polyhedron: the inputs first, then the coordinates of an image.

A zonotope or V-polytope is the rows ``x - M z = c``, as `polyopt.regions` writes them in a model. An ellipsoid, which
is no polyhedron, is replaced by its bounding box. The inputs' own bounds are the region's support function in the
coordinate directions, rounded outwards.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope
from polyopt.regions.support import Support
from polyopt.tighten.polyhedron import Polyhedron


def domain(region: Region) -> Polyhedron:
    """The polyhedron, whose first columns are the inputs; ValueError where an H-polytope is empty or unbounded.

    >>> from polyopt.regions import Zonotope
    >>> polyhedron = domain(Zonotope([1.0], [[2.0]]))
    >>> polyhedron.matrix.toarray(), polyhedron.row_lower, polyhedron.lower.round(9)
    (array([[ 1., -2.]]), array([1.]), array([-1., -1.]))
    """
    polyhedron = Polyhedron()
    inputs = polyhedron.add_columns(*_ends(region))
    _add(polyhedron, inputs, region)
    return polyhedron


def _ends(region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on each coordinate that rounding cannot overturn."""
    if isinstance(region, Box):
        return region.lower, region.upper
    if isinstance(region, Product):
        lower, upper = zip(*map(_ends, region.regions), strict=True)
        return np.concatenate(lower), np.concatenate(upper)
    region.bounding_box()  # which says what is wrong where a polytope is empty or unbounded
    units = np.eye(region.size)
    upper, lower = np.split(Support.of(region, exact=False)(np.vstack([units, -units])), 2)
    return -lower, upper


def _add(polyhedron: Polyhedron, inputs: np.ndarray, region: Region) -> None:
    """The rows that keep these columns in the region."""
    if isinstance(region, Product):
        ends = np.cumsum([part.size for part in region.regions])[:-1]
        for part, columns in zip(region.regions, np.split(inputs, ends), strict=True):
            _add(polyhedron, columns, part)
    elif isinstance(region, HPolytope):
        polyhedron.add_rows(_on(polyhedron, inputs, region.A), -np.inf, region.b)
    elif isinstance(region, Zonotope):
        _add_image(polyhedron, inputs, region.center, region.generators, -1.0)
    elif isinstance(region, VPolytope):
        weights = _add_image(polyhedron, inputs, np.zeros(region.size), region.points.T, 0.0)
        polyhedron.add_rows(_on(polyhedron, weights, np.ones((1, len(weights)))), 1.0, 1.0)
    elif not isinstance(region, (Box, Ellipsoid)):
        known = "Box, Ellipsoid, HPolytope, Product, VPolytope, Zonotope"
        raise ValueError(f"obbt: the region is a {type(region).__name__}; there are rules for {known}")


def _add_image(polyhedron: Polyhedron, inputs: np.ndarray, center, matrix: np.ndarray, least: float) -> np.ndarray:
    """``x = center + matrix z`` with new columns ``least <= z <= 1``, which are returned."""
    count = matrix.shape[1]
    z = polyhedron.add_columns(np.full(count, least), np.ones(count))
    rows = np.hstack([np.eye(len(inputs)), -matrix])
    polyhedron.add_rows(_on(polyhedron, np.append(inputs, z), rows), center, center)
    return z


def _on(polyhedron: Polyhedron, columns: np.ndarray, matrix: np.ndarray) -> sp.csr_array:
    """A matrix on some of the columns as one on all."""
    entries = sp.coo_array(matrix)
    row, column = entries.coords
    return sp.csr_array((entries.data, (row, columns[column])), shape=(len(matrix), len(polyhedron.lower)))
