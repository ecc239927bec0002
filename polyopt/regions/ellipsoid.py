"""Ellipsoids ``{c + F u : |u|_2 <= 1}``, also flat ones; ``{x : (x - c)' S^-1 (x - c) <= 1}`` has ``F = S^(1/2)``.

The support function is ``h(a) = a c + |a F|_2``. A point x is projected with the singular value decomposition
``F = U diag(s) V'``: with ``p = U'(x - c)`` the nearest ``U diag(s) v``, ``|v| <= 1``, has

    v_i = s_i p_i / (s_i^2 + t)      with t = 0, or else the t > 0 where |v| = 1,

the multiplier of ``|v|^2 <= 1``, in ``[0, |diag(s) p|]``, which bisection finds. No rank need be
decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyopt.regions.box import Box
from polyopt.regions.image import within
from polyopt.regions.region import Region, finite, numerics

HALVINGS = 100


@dataclass(frozen=True, eq=False)
class Ellipsoid(Region):
    """``{c + F u : |u|_2 <= 1}`` with ``center`` c (n,) and ``factor`` F (n, k).

    ``contains`` looks at the point of the ellipsoid that is nearest in the Euclidean norm.

    >>> disc = Ellipsoid([1.0, 0.0], [[2.0, 0.0], [0.0, 1.0]])
    >>> disc.support([[1.0, 0.0], [3.0, 8.0]])
    array([ 3., 13.])
    >>> disc.contains([[2.9, 0.0], [2.9, 0.9]])
    array([ True, False])
    """

    center: np.ndarray
    factor: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "center", finite("Ellipsoid", "center", self.center, "(n,)"))
        object.__setattr__(self, "factor", finite("Ellipsoid", "factor", self.factor, "(n, k)"))
        if self.size == 0 or len(self.factor) != self.size:
            raise ValueError(
                f"Ellipsoid: center has shape {self.center.shape}, factor {self.factor.shape}; they must be (n,) and "
                "(n, k) with n >= 1"
            )

    @property
    def size(self) -> int:
        """The dimension n."""
        return len(self.center)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The images of uniform points of the ball."""
        k = self.factor.shape[1]
        directions = rng.normal(size=(count, k))
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        u = directions / np.where(lengths > 0, lengths, 1.0) * rng.random((count, 1)) ** (1.0 / max(k, 1))
        return self._image(u)

    def bounding_box(self) -> Box:
        """The smallest box around the ellipsoid: ``c`` plus and minus the lengths of F's rows."""
        radius = np.linalg.norm(self.factor, axis=1)
        return Box(self.center - radius, self.center + radius)

    def vertices(self) -> np.ndarray:
        """Refused: every point of the boundary would be one."""
        raise ValueError("Ellipsoid.vertices: an ellipsoid has infinitely many; use support(A), or bounding_box()")

    def _support(self, A):
        center, factor = self.arrays(A)
        return A @ center + numerics(A).linalg.norm(A @ factor, axis=-1)

    def _contains(self, x, tol):
        return within(x, tol, self.bounding_box(), lambda points: self._image(self._coordinates(points)))

    def _image(self, u: np.ndarray) -> np.ndarray:
        return self.center + u @ self.factor.T

    def _coordinates(self, x: np.ndarray) -> np.ndarray:
        """For each point (m, n) the ``u`` (m, k) of the nearest point of the ellipsoid."""
        axes, s, turn = np.linalg.svd(self.factor, full_matrices=False)
        s = np.where(s > np.finfo(np.float64).tiny ** 0.5, s, 0.0)  # so that s^2 is not zero where s is not
        p = (x - self.center) @ axes

        def direction(t):
            return np.divide(s * p, s**2 + t, out=np.zeros_like(p), where=s > 0)

        def length(v):
            return np.linalg.norm(v, axis=1, keepdims=True)

        low, high = np.zeros((len(x), 1)), length(s * p)
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            outside = length(direction(middle)) > 1.0
            low, high = np.where(outside, middle, low), np.where(outside, high, middle)
        v = direction(high)
        return v / np.maximum(length(v), 1.0) @ turn

    def _auxiliary(self, x):
        return {"u": self._coordinates(x[None])[0]}

    def _write(self, block, variables):
        from polyopt.regions.membership import add_ball, add_image

        add_image(block, "u", variables, self.center, self.factor, -1.0)
        add_ball(block, list(block.u.values()))
