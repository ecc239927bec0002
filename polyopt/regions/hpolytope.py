"""H-polytopes ``{x : A x <= b}``: what linear inequalities leave.

The support function is a linear program, ``h(a) = max a x`` over ``A x <= b``; where its maximiser x* is unique,
``dh/da = x*`` (the envelope theorem). Rows are scaled to length one, so that what they leave is a distance. The row
i is *tight* if no point of the polytope has ``b_i - A_i x > 0``; with tight rows the polytope is flat. Its points that
lie farthest from each of the other rows have a mean that is strictly inside all of these. From there, in the null
space of the tight rows, one walks at random (hit-and-run: a random direction, then a uniform point of the chord), or
lets qhull intersect the half-spaces.

Source: Boyd and Vandenberghe, Convex Optimization, 2004, section 8.5.1 (Chebyshev centre); Smith, "Efficient Monte
Carlo procedures for generating points uniformly distributed over bounded regions", Operations Research 1984.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from polyopt.regions.box import Box
from polyopt.regions.image import rounding
from polyopt.regions.lp import LinearProgram
from polyopt.regions.region import Region, finite, numerics

STEPS = 20  # of a random walk, and two more for each dimension
MOST_DIMENSIONS = 10


class _Interior(NamedTuple):
    """The polytope as ``{point + basis z : rows z <= slack}`` with ``slack > 0``; ``basis`` (n, r) is orthonormal."""

    point: np.ndarray
    basis: np.ndarray
    rows: np.ndarray
    slack: np.ndarray


@dataclass(frozen=True, eq=False)
class HPolytope(Region):
    """``{x : A x <= b}`` with A (m, n) and b (m,).

    What needs no more than the rows (``contains``, ``add_to`` for variables with bounds) works for any of them, so that
    half-spaces may describe outputs too. All else asks for a polytope: a ValueError says where linear programs find it
    empty or unbounded. Numbers are those of HiGHS: rows, scaled to length one, hold to 1e-10.

    ``contains(x, tol)`` asks for each half-space by itself whether a point within ``tol`` in each coordinate satisfies
    it: ``A x <= b + tol |A|_1``. ``center`` is the Chebyshev centre or, of a flat polytope, a point of the relative
    interior.

    >>> triangle = HPolytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [0.0, 0.0, 2.0])
    >>> triangle.support([[1.0, 3.0], [-1.0, -1.0]])
    array([6., 0.])
    >>> triangle.contains([[1.0, 1.0], [1.5, 1.5]])
    array([ True, False])
    """

    A: np.ndarray
    b: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "A", finite("HPolytope", "A", self.A, "(m, n)"))
        object.__setattr__(self, "b", finite("HPolytope", "b", self.b, "(m,)"))
        if self.A.size == 0 or len(self.A) != len(self.b):
            raise ValueError(
                f"HPolytope: A has shape {self.A.shape}, b {self.b.shape}; they must be (m, n) and (m,) with m, n >= 1"
            )

    @property
    def size(self) -> int:
        """The dimension n."""
        return self.A.shape[1]

    @property
    def center(self) -> np.ndarray:
        """The centre of a largest ball inside, (n,), or a point of the relative interior if there is no ball."""
        return self._center

    @cached_property
    def _center(self) -> np.ndarray:
        slack = rounding(self.bounding_box())
        rows, sides = self._unit_rows
        # A_i x + r |A_i| <= b_i: the ball of radius r about x is inside
        balls = np.column_stack([rows, np.linalg.norm(rows, axis=1)])
        *center, radius = LinearProgram(balls, -np.inf, sides, -np.inf, np.inf).maximizer(np.eye(self.size + 1)[-1])
        return np.array(center) if radius > slack else self._interior.point

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The ends of ``count`` random walks from inside (hit-and-run); close to uniform in low dimensions."""
        point, basis, rows, slack = self._interior
        z = np.zeros((count, basis.shape[1]))
        for _ in range(STEPS + 2 * basis.shape[1] if z.size else 0):
            direction = rng.normal(size=z.shape)
            rate, room = direction @ rows.T, np.maximum(slack - z @ rows.T, 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = room / rate
            first = np.where(rate < 0, steps, -np.inf).max(1)
            last = np.where(rate > 0, steps, np.inf).min(1)
            z = z + (first + (last - first) * rng.random(count))[:, None] * direction
        return point + z @ basis.T

    def bounding_box(self) -> Box:
        """The smallest box around the polytope, by 2 n linear programs."""
        return self._bounding_box

    @cached_property
    def _bounding_box(self) -> Box:
        ends = self._maximizers(np.vstack([np.eye(self.size), -np.eye(self.size)]))
        upper, lower = np.diag(ends[: self.size]), np.diag(ends[self.size :])
        return Box(np.minimum(lower, upper), np.maximum(lower, upper))

    def vertices(self) -> np.ndarray:
        """The vertices, of a polytope that spans no more than 10 dimensions.

        >>> HPolytope([[1.0], [-1.0]], [3.0, 0.0]).vertices()
        array([[0.],
               [3.]])
        """
        return self._vertices

    @cached_property
    def _vertices(self) -> np.ndarray:
        from scipy.spatial import HalfspaceIntersection

        point, basis, rows, slack = self._interior
        dimension = basis.shape[1]
        if dimension > MOST_DIMENSIONS:
            raise ValueError(f"HPolytope.vertices: {dimension} dimensions are too many to list them; use support(A)")
        if dimension == 0:
            z = np.zeros((1, 0))
        elif dimension == 1:
            ends = slack / np.where(rows[:, 0] == 0, np.nan, rows[:, 0])
            z = np.array([[ends[rows[:, 0] < 0].max()], [ends[rows[:, 0] > 0].min()]])
        else:
            z = HalfspaceIntersection(np.column_stack([rows, -slack]), np.zeros(dimension)).intersections
        return point + z @ basis.T

    @cached_property
    def _unit_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows, scaled to length one where they are not zero, and their right-hand sides."""
        lengths = np.linalg.norm(self.A, axis=1)
        lengths[lengths == 0] = 1.0
        return self.A / lengths[:, None], self.b / lengths

    @cached_property
    def _interior(self) -> _Interior:
        rows, sides = self._unit_rows
        farthest = self._maximizers(-rows)
        slack = sides - (rows * farthest).sum(1)
        tight = slack <= rounding(self.bounding_box())
        point = farthest.mean(0)
        _, lengths, axes = np.linalg.svd(rows[tight], full_matrices=True)
        basis = axes[np.count_nonzero(lengths > 1e-9) :].T
        return _Interior(point, basis, rows[~tight] @ basis, (sides - rows @ point)[~tight])

    def _maximizers(self, directions: np.ndarray) -> np.ndarray:
        """For each row of ``directions`` (k, n) a point of the polytope where it is greatest: (k, n)."""
        rows, sides = self._unit_rows
        program = LinearProgram(rows, -np.inf, sides, -np.inf, np.inf)
        try:
            return np.array([program.maximizer(direction) for direction in directions])
        except ValueError as error:
            raise ValueError(f"HPolytope with {len(self.A)} rows in {self.size} dimensions: {error}") from None

    def _support(self, A):
        if numerics(A) is np:
            return (A * self._maximizers(A.reshape(-1, self.size)).reshape(A.shape)).sum(-1)
        points = self._maximizers(A.detach().reshape(-1, self.size).cpu().double().numpy())
        return (A * A.new_tensor(points).reshape(A.shape)).sum(-1)

    def _contains(self, x, tol):
        return (x @ self.A.T <= self.b + tol * abs(self.A).sum(1)).all(-1)

    def _write(self, block, variables):
        from polyopt.regions.membership import add_rows

        add_rows(block, self.A, variables, None, self.b)
