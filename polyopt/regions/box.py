"""Boxes ``{x : lower <= x <= upper}``, alone or in batches."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from polyopt.layers import frozen
from polyopt.regions.region import Region, numerics

MOST_CORNERS = 2**16


@dataclass(frozen=True, eq=False)
class Box(Region):
    """``{x : lower <= x <= upper}``; ``lower`` and ``upper`` have shape (n,), or (batch, n) for a batch of boxes.

    ``support`` of a batch takes rows (k, n) for all boxes, or (1 or batch, k, n), and gives (batch, k).

    >>> box = Box([0.0, -1.0], [1.0, 1.0])
    >>> box.support(np.array([[1.0, 1.0], [-1.0, 0.0]]))
    array([2., 0.])
    >>> box.contains([[0.5, 0.5], [1.5, 0.5]])
    array([ True, False])
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
    def batch_shape(self) -> tuple[int, ...]:
        """``()``, or ``(batch,)`` for a batch of boxes."""
        return self.lower.shape[:-1]

    @property
    def center(self) -> np.ndarray:
        """The midpoint, shaped like ``lower``."""
        return 0.5 * self.lower + 0.5 * self.upper

    @property
    def radius(self) -> np.ndarray:
        """Half the widths, shaped like ``lower``."""
        return 0.5 * self.upper - 0.5 * self.lower

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Uniform points, (count, n), or (batch, count, n) for a batch of boxes."""
        lower, upper = self.lower[..., None, :], self.upper[..., None, :]
        shares = rng.random((*self.batch_shape, count, self.size))
        return np.clip((1.0 - shares) * lower + shares * upper, lower, upper)

    def bounding_box(self) -> Box:
        """The box itself."""
        return self

    def vertices(self) -> np.ndarray:
        """The corners, each once, of a single box with no more than 2^16 of them.

        >>> Box([0.0, 2.0], [1.0, 2.0]).vertices()
        array([[0., 2.],
               [1., 2.]])
        """
        wide = np.count_nonzero(self.lower < self.upper)
        if self.batch_shape or 2**wide > MOST_CORNERS:
            found = f"a batch of {len(self.lower)} boxes" if self.batch_shape else f"a box with 2^{wide} corners"
            raise ValueError(f"Box.vertices: this is {found}; use support(A), which needs no corners")
        sides = [sorted({low, high}) for low, high in zip(self.lower.tolist(), self.upper.tolist(), strict=True)]
        return np.array(list(itertools.product(*sides)))

    def _support(self, A):
        lower, upper = self.arrays(A)
        # By the corner's own coordinates, which centre and radius would round. What is not positive is the rest of A:
        # thus the gradient at 0 is `upper`, not the sum of both.
        positive = numerics(A).clip(A, 0.0, None)
        return _dot(positive, upper) + _dot(A - positive, lower)

    def _contains(self, x, tol):
        return ((x >= self.lower - tol) & (x <= self.upper + tol)).all(-1)

    def _write(self, block, variables):
        from polyopt.regions.membership import add_rows

        add_rows(block, np.ones(self.size), variables, self.lower, self.upper)

    def __repr__(self) -> str:
        return f"Box({self.lower}, {self.upper})"


def _dot(A, x):
    """``A x``: (…, k) for A (…, k, n) and x (n,), (batch, k) for A (k, n) or (1 or batch, k, n) and x (batch, n)."""
    if x.ndim == 1:
        return A @ x
    if A.ndim == 3 and len(A) > 1:
        return (A @ x[..., None])[..., 0]
    return x @ A.reshape(A.shape[-2:]).T


def _refuse(rule: str, wrong: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> None:
    """ValueError naming the first entry that is wrong."""
    if wrong.any():
        first = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"Box: {rule}, but {np.count_nonzero(wrong)} of {wrong.size} entries break this; the first, at index "
            f"{first if len(first) > 1 else first[0]}, is lower {lower[first]}, upper {upper[first]}"
        )
