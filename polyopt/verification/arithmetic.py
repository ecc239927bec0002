"""The affine maps of a network on a region, ``x -> A x + b`` kept as the matrix ``[A b]``, in two arithmetics.

`Rounded` keeps a midpoint and a radius in float64, `Exact` fractions. Both form linear combinations of maps, bound them
from above over the region by its support function, ``A x + b <= h(A) + b``, and round them to floats at the end.
`AtPoint` knows maps by their values at one point only, and finds the linear piece of the network around it.
"""

from __future__ import annotations

import math

import numpy as np

from polyopt.regions import Box, Region
from polyopt.regions.rational import dot, floats, fractions
from polyopt.regions.rounding import Ball, beside, combine, outward, underflow
from polyopt.regions.support import Support


class Rounded:
    """Maps as balls (m, n + 1) in float64, outwards rounded."""

    exact = False

    def __init__(self, region: Region):
        self.size, self.center = region.size, region.center
        with np.errstate(all="ignore"):
            self.support = Support.of(region, self.exact)

    def identity(self) -> Ball:
        """The map ``x -> x``."""
        return Ball(np.eye(self.size, self.size + 1), np.zeros((self.size, self.size + 1)))

    def combine(self, matrices, maps, offset, reciprocal: bool = False) -> Ball:
        """``sum_i W_i map_i + offset``; ``reciprocal`` says that the W_i hold 1/2, 1/3, …, which floats round."""
        return combine(matrices, maps, offset, np.eye(self.size + 1)[-1], reciprocal)

    def stack(self, maps) -> Ball:
        """The maps end to end."""
        return Ball(*map(np.concatenate, zip(*maps, strict=True)))

    def upper(self, ball: Ball) -> np.ndarray:
        """Upper bounds (m,) over the region; nan or infinite where numbers are too large."""
        A, b = ball.mid[:, :-1], ball.mid[:, -1]
        with np.errstate(all="ignore"):
            height, spread = self.support(A), self._spread(ball.radius)
            return outward(height + b + spread, abs(height) + abs(b) + spread, 2)

    def lower(self, ball: Ball) -> np.ndarray:
        """Lower bounds (m,) over the region."""
        return -self.upper(Ball(-ball.mid, ball.radius))

    def at_center(self, ball: Ball) -> np.ndarray:
        """The values (m,) at the region's centre, rounded somehow."""
        return ball.mid @ np.append(self.center, 1.0)

    def to_floats(self, ball: Ball) -> tuple[np.ndarray, np.ndarray, float]:
        """A, b in floats, and how far at most ``A x + b`` is from the map on the region."""
        return ball.mid[:, :-1], ball.mid[:, -1], float(self._spread(ball.radius).max())

    def _spread(self, radius: np.ndarray) -> np.ndarray:
        """An upper bound on ``radius |(x, 1)|`` over the region."""
        reach = np.append(self.support.magnitude, 1.0)
        spread = radius @ reach
        return outward(spread, spread, len(reach), underflow(radius, reach))


class Exact:
    """Maps as arrays of fractions (m, n + 1)."""

    exact = True

    def __init__(self, region: Region):
        self.size, self.center = region.size, fractions(region.center)
        self.support = Support.of(region, self.exact)

    def identity(self) -> np.ndarray:
        """The map ``x -> x``."""
        return fractions(np.eye(self.size, self.size + 1))

    def combine(self, matrices, maps, offset, reciprocal: bool = False) -> np.ndarray:
        """``sum_i W_i map_i + offset``; ``reciprocal`` says that the W_i hold 1/2, 1/3, …."""
        one = fractions(np.eye(self.size + 1)[-1:])
        return dot(beside([*matrices, offset[:, None]]), np.concatenate([*maps, one]), reciprocal)

    def stack(self, maps) -> np.ndarray:
        """The maps end to end."""
        return np.concatenate(maps)

    def upper(self, matrix: np.ndarray) -> np.ndarray:
        """Upper bounds (m,) over the region."""
        return self.support(matrix[:, :-1]) + matrix[:, -1]

    def lower(self, matrix: np.ndarray) -> np.ndarray:
        """Lower bounds (m,) over the region."""
        return -self.upper(-matrix)

    def at_center(self, matrix: np.ndarray) -> np.ndarray:
        """The values (m,) at the region's centre."""
        return matrix[:, :-1] @ self.center + matrix[:, -1]

    def to_floats(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """A, b in floats, and how far at most ``A x + b`` is from the map on the region."""
        nearest = floats(matrix)
        A, b = nearest[:, :-1], nearest[:, -1]
        if not np.isfinite(nearest).all():
            return A, b, math.inf
        error = (abs(matrix - fractions(nearest)) @ np.append(self.support.magnitude, 1)).max()
        return A, b, math.nextafter(float(error), math.inf) if error else 0.0


class AtPoint(Rounded):
    """The maps of the linear piece around a point (n,), rounded to nearest: the point stands for the region."""

    def __init__(self, x: np.ndarray):
        super().__init__(Box(x, x))

    def upper(self, ball: Ball) -> np.ndarray:
        """The values (m,) at the point."""
        return self.at_center(ball)
