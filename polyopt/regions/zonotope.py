"""Zonotopes ``{c + G e : |e|_inf <= 1}``: images of a cube, such as a box that affine layers have moved and turned.

The support function is ``h(a) = a c + |a G|_1``. Membership asks for an ``e`` in the cube: least squares finds it where
the generators (the columns of ``G``) are independent, a linear program where they are not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polyopt.regions.box import Box
from polyopt.regions.hull import extreme
from polyopt.regions.image import rounding, within
from polyopt.regions.lp import nearest
from polyopt.regions.region import Region, finite

MOST_GENERATORS = 16


@dataclass(frozen=True, eq=False)
class Zonotope(Region):
    """``{c + G e : |e|_inf <= 1}`` with ``center`` c (n,) and ``generators`` G (n, g); g may be 0.

    >>> zonotope = Zonotope([1.0, 0.0], [[1.0, 1.0], [0.0, 2.0]])
    >>> zonotope.support([[1.0, 0.0], [0.0, 1.0]])
    array([3., 2.])
    >>> zonotope.contains([[1.0, 0.0], [2.5, -1.5]])
    array([ True, False])
    """

    center: np.ndarray
    generators: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "center", finite("Zonotope", "center", self.center, "(n,)"))
        object.__setattr__(self, "generators", finite("Zonotope", "generators", self.generators, "(n, g)"))
        if self.size == 0 or len(self.generators) != self.size:
            raise ValueError(
                f"Zonotope: center has shape {self.center.shape}, generators {self.generators.shape}; they must be "
                "(n,) and (n, g) with n >= 1, one generator a column"
            )

    @property
    def size(self) -> int:
        """The dimension n."""
        return len(self.center)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The images of uniform points of the cube."""
        return self.center + rng.uniform(-1.0, 1.0, (count, self.generators.shape[1])) @ self.generators.T

    def bounding_box(self) -> Box:
        """The smallest box around the zonotope: ``c`` plus and minus the rows' sums of ``|G|``."""
        radius = abs(self.generators).sum(1)
        return Box(self.center - radius, self.center + radius)

    def vertices(self) -> np.ndarray:
        """The vertices, of up to 16 generators; where these are dependent and span more than 6 dimensions, points
        that contain all vertices.

        >>> Zonotope([0.0, 0.0], [[1.0, 1.0, 2.0], [0.0, 0.0, 0.0]]).vertices()
        array([[-4.,  0.],
               [ 4.,  0.]])
        """
        moving = self.generators[:, self.generators.any(0)]
        if moving.shape[1] > MOST_GENERATORS:
            raise ValueError(
                f"Zonotope.vertices: 2^{moving.shape[1]} combinations of generators are too many; use support(A)"
            )
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=moving.shape[1])))
        return extreme(self.center + signs @ moving.T)

    def _support(self, A):
        center, generators = self.arrays(A)
        return A @ center + abs(A @ generators).sum(-1)

    def _contains(self, x, tol):
        return within(x, tol, self.bounding_box(), lambda points: self._image(self._coordinates(points)))

    def _image(self, e: np.ndarray) -> np.ndarray:
        return self.center + e @ self.generators.T

    def _coordinates(self, x: np.ndarray) -> np.ndarray:
        """For each point (m, n) the ``e`` (m, g) of a point of the zonotope nearest to it."""
        e = np.clip((x - self.center) @ self._inverse.T, -1.0, 1.0)
        box = self.bounding_box()
        missed = (abs(self._image(e) - x) > rounding(box)).any(1)
        e[missed] = nearest(x[missed] - self.center, self.generators, -1.0)
        return e

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.pinv(self.generators)

    def _auxiliary(self, x):
        return {"e": self._coordinates(x[None])[0]}

    def _write(self, block, variables):
        from polyopt.regions.membership import add_image

        add_image(block, "e", variables, self.center, self.generators, -1.0)
