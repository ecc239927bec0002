"""V-polytopes ``conv{v_1, ..., v_m} = {sum_i w_i v_i : w >= 0, sum_i w_i = 1}``: convex hulls of finitely many points.

The support function is ``h(a) = max_i a v_i``. Membership asks for weights ``w`` and is a linear program.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polyopt.regions.box import Box
from polyopt.regions.hull import extreme
from polyopt.regions.image import within
from polyopt.regions.lp import nearest
from polyopt.regions.region import Region, finite, numerics


@dataclass(frozen=True, eq=False)
class VPolytope(Region):
    """The convex hull of ``points`` (m, n); they may repeat, lie in a plane, or lie inside.

    ``center`` is the points' mean.

    >>> triangle = VPolytope([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> triangle.support([[1.0, 3.0], [-1.0, -1.0]])
    array([6., 0.])
    >>> triangle.contains([[1.0, 1.0], [1.5, 1.5]])
    array([ True, False])
    """

    points: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "points", finite("VPolytope", "vertices", self.points, "(v, n)"))
        if self.points.size == 0:
            raise ValueError(f"VPolytope: vertices have shape {self.points.shape}, but must be (v, n) with v, n >= 1")

    @property
    def size(self) -> int:
        """The dimension n."""
        return self.points.shape[1]

    @property
    def center(self) -> np.ndarray:
        """The mean of the points, (n,)."""
        return self.points.mean(0)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Weighted means of the points, all weights equally likely (a flat Dirichlet distribution)."""
        return rng.dirichlet(np.ones(len(self.points)), count) @ self.points

    def bounding_box(self) -> Box:
        """The smallest box around the points."""
        return Box(self.points.min(0), self.points.max(0))

    def vertices(self) -> np.ndarray:
        """Those of the points, each once, that are vertices; in more than 6 dimensions all of them, each once.

        >>> VPolytope([[0.0], [3.0], [1.0], [3.0]]).vertices()
        array([[0.],
               [3.]])
        """
        return self._vertices

    @cached_property
    def _vertices(self) -> np.ndarray:
        return extreme(self.points)

    def _support(self, A):
        (points,) = self.arrays(A)
        return numerics(A).amax(A @ points.T, -1)

    def _contains(self, x, tol):
        return within(x, tol, self.bounding_box(), lambda points: self._coordinates(points) @ self.points)

    def _coordinates(self, x: np.ndarray) -> np.ndarray:
        """For each point (m, n) the weights (m, v) of a nearest point of the polytope."""
        # about the centre: the numbers that remain are those of the polytope's own size
        w = nearest(x - self.center, (self.points - self.center).T, 0.0, total=1.0)
        return w / w.sum(1, keepdims=True)

    def _auxiliary(self, x):
        return {"w": self._coordinates(x[None])[0]}

    def _write(self, block, variables):
        from polyopt.regions.membership import add_image

        add_image(block, "w", variables, np.zeros(self.size), self.points.T, 0.0, total=1.0)
