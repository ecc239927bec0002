"""Regions: sets of inputs on which a network is bounded, verified or forced to be affine.

Every region answers ``support(A)``, ``contains(x)``, ``sample(count, rng)`` and ``center``; what works with regions
asks nothing else of them, so that boxes, zonotopes, ellipsoids and polytopes may take each other's place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polyopt.layers import frozen


@dataclass(frozen=True, eq=False)
class Box:
    """``{x : lower <= x <= upper}``; ``lower`` and ``upper`` have shape (n,), or (batch, n) for a batch of boxes.

    >>> box = Box([0.0, -1.0], [1.0, 1.0])
    >>> box.support(np.array([[1.0, 1.0], [-1.0, 0.0]]))
    array([2., 0.])
    """

    lower: np.ndarray
    upper: np.ndarray

    def __post_init__(self):
        lower, upper = frozen(self.lower), frozen(self.upper)
        if lower.shape != upper.shape or lower.ndim not in (1, 2) or lower.shape[-1] == 0:
            raise ValueError(
                f"Box: lower has shape {lower.shape}, upper {upper.shape}; both must be (n,) or (batch, n) with n >= 1"
            )
        _refuse("must be finite", ~(np.isfinite(lower) & np.isfinite(upper)), lower, upper)
        _refuse("lower must not exceed upper", lower > upper, lower, upper)
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @classmethod
    def ball(cls, center, eps: float, lower=-math.inf, upper=math.inf) -> Box:
        """The points within ``eps`` of ``center`` in the maximum norm, cut with ``[lower, upper]``.

        >>> Box.ball([0.0, 0.5], 0.1, lower=0.0, upper=1.0)
        Box([0.  0.4], [0.1 0.6])
        """
        center = np.asarray(center, dtype=np.float64)
        if not eps >= 0:
            raise ValueError(f"Box.ball: eps is {eps}, but must not be negative")
        return cls(np.maximum(center - eps, lower), np.minimum(center + eps, upper))

    @property
    def size(self) -> int:
        """The dimension n."""
        return self.lower.shape[-1]

    @property
    def center(self) -> np.ndarray:
        """The midpoint, shaped like ``lower``."""
        return 0.5 * self.lower + 0.5 * self.upper

    @property
    def radius(self) -> np.ndarray:
        """Half the widths, shaped like ``lower``."""
        return 0.5 * self.upper - 0.5 * self.lower

    def support(self, A) -> np.ndarray:
        """``max A x`` over the box for each row of ``A`` (k, n): shape (k,), or (batch, k) for a batch of boxes."""
        A = np.asarray(A, dtype=np.float64)
        if A.ndim != 2 or A.shape[1] != self.size:
            raise ValueError(f"Box.support: A has shape {A.shape}, but must be (k, {self.size})")
        return self.upper @ np.maximum(A, 0.0).T + self.lower @ np.minimum(A, 0.0).T

    def contains(self, x, tol: float = 0.0) -> np.ndarray:
        """Whether points (..., n) lie in the box, up to ``tol`` in each coordinate: shape (...).

        >>> Box([0.0], [1.0]).contains([[0.5], [1.5]])
        array([ True, False])
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim == 0 or x.shape[-1] != self.size:
            raise ValueError(f"Box.contains: points have shape {x.shape}, but must be (..., {self.size})")
        return ((x >= self.lower - tol) & (x <= self.upper + tol)).all(-1)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Uniform points, (count, n), or (batch, count, n) for a batch of boxes."""
        lower, upper = self.lower[..., None, :], self.upper[..., None, :]
        shares = rng.random((*self.lower.shape[:-1], count, self.size))
        return np.clip((1.0 - shares) * lower + shares * upper, lower, upper)

    def __repr__(self) -> str:
        return f"Box({self.lower}, {self.upper})"


def _refuse(rule: str, wrong: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    """ValueError naming the first entry that is wrong."""
    if wrong.any():
        first = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"Box: {rule}, but {np.count_nonzero(wrong)} of {wrong.size} entries break this; the first, at index "
            f"{first if len(first) > 1 else first[0]}, is lower {lower[first]}, upper {upper[first]}"
        )
