"""Upper bounds on support functions that rounding cannot overturn, in floats or in fractions.

For rows a, ``h(a) = max a x`` over the region is, with the positive part a+ and the negative part a- of a,

    box             a+ upper + a- lower
    zonotope        a c + |a G|_1
    ellipsoid       a c + |a F|_2
    V-polytope      max_i a v_i
    product         the sum over its factors
    H-polytope      <= y b + |a - y P| X        for every y >= 0, where P x <= b implies |x| <= X (weak duality)

In floats each is computed together with the same sum of magnitudes, and the a-priori bound on its error is added
(`polyopt.regions.rounding`); in fractions it is exact, but for the square root of an ellipsoid, which is rounded up.

For an H-polytope y is a linear program's dual solution. It is only a candidate: the bound holds for any, and is as good
as y. X comes from the same bound for a = e_i and a = -e_i, with heights ``y_i b`` and residuals ``r_i = |a - y_i P|``:
``|x|_inf <= max_i y_i b + max_i |r_i|_1 |x|_inf``, thus ``|x|_inf <= max_i y_i b / (1 - max_i |r_i|_1)``, and with this
number X follows coordinate by coordinate.

Source: Neumaier and Shcherbina, "Safe bounds in linear and mixed-integer linear programming", Mathematical Programming
2004, section 3.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope
from polyopt.regions.rational import floats, fractions, root
from polyopt.regions.rounding import outward, underflow

LEAST_SQUARE = 1e-150  # roots of sums of squares that underflow are smaller than this, for up to 1e20 of them


class Support:
    """An upper bound on ``max A x`` over a region for each row of A (k, n): ``support(A)`` (k,).

    ``magnitude`` (n,) is an upper bound on ``|x|``. With ``exact`` A and all results are arrays of fractions.

    >>> support = Support.of(Box([0.0], [0.3]), exact=False)
    >>> support(np.array([[1.0], [-1.0]])) >= [0.3, 0.0], support.magnitude
    (array([ True,  True]), array([0.3]))
    """

    magnitude: np.ndarray

    def __init__(self, region, exact: bool):
        raise NotImplementedError

    def __call__(self, A: np.ndarray) -> np.ndarray:
        """The bounds."""
        raise NotImplementedError

    @staticmethod
    def of(region: Region, exact: bool) -> Support:
        """The rule for the region's kind."""
        for kind, rule in _RULES.items():
            if isinstance(region, kind):
                return rule(region, exact)
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise ValueError(f"affine_on: the region is a {type(region).__name__}; there are rules for {known}")


def _numbers(exact: bool, *arrays) -> list[np.ndarray]:
    return [fractions(array) if exact else array for array in arrays]


class _Box(Support):
    def __init__(self, region: Box, exact: bool):
        self.lower, self.upper = _numbers(exact, region.lower, region.upper)
        self.magnitude = np.maximum(abs(self.lower), abs(self.upper))

    def __call__(self, A):
        positive, negative = np.maximum(A, 0), np.minimum(A, 0)
        value = positive @ self.upper + negative @ self.lower
        # of the corner itself: a bound at the origin has no error
        size = positive @ abs(self.upper) - negative @ abs(self.lower)
        return outward(value, size, len(self.lower) + 1, underflow(A, np.stack([self.lower, self.upper])))


class _Image(Support):
    """``{c + M z : |z| <= 1}`` in some norm."""

    def __init__(self, region, exact: bool):
        self.center, self.matrix = _numbers(exact, region.center, self.matrix_of(region))
        size = abs(self.center) + abs(self.matrix).sum(1)
        self.magnitude = outward(size, size, self.matrix.shape[1] + 1)

    def __call__(self, A):
        value = A @ self.center + self.dual_norm(A @ self.matrix)
        floor = underflow(A, self.matrix) + underflow(A, self.center) + self.floor
        return outward(value, abs(A) @ self.magnitude, sum(self.matrix.shape) + 4, floor)


class _Zonotope(_Image):
    floor = 0.0

    def matrix_of(self, region):
        return region.generators

    def dual_norm(self, rows):
        return abs(rows).sum(-1)


class _Ellipsoid(_Image):
    floor = LEAST_SQUARE

    def matrix_of(self, region):
        return region.factor

    def dual_norm(self, rows):
        if rows.dtype == object:
            return np.array([root(square) for square in (rows**2).sum(-1)], dtype=object)
        return np.linalg.norm(rows, axis=-1)


class _VPolytope(Support):
    def __init__(self, region: VPolytope, exact: bool):
        (self.points,) = _numbers(exact, region.points)
        self.magnitude = abs(self.points).max(0)

    def __call__(self, A):
        value, size = A @ self.points.T, abs(A) @ abs(self.points).T
        return outward(value, size, A.shape[1], underflow(A, self.points)).max(-1)


class _Product(Support):
    def __init__(self, region: Product, exact: bool):
        self.parts = [Support.of(part, exact) for part in region.regions]
        self.ends = np.cumsum([part.size for part in region.regions])[:-1]
        self.magnitude = np.concatenate([part.magnitude for part in self.parts])

    def __call__(self, A):
        values = [part(rows) for part, rows in zip(self.parts, np.split(A, self.ends, axis=1), strict=True)]
        return outward(sum(values), sum(map(abs, values)), len(values))


class _HPolytope(Support):
    def __init__(self, region: HPolytope, exact: bool):
        self.exact, self.polytope = exact, region
        self.rows, self.sides = _numbers(exact, region.A, region.b)
        units = np.eye(region.size)
        heights, residuals = self._dual(*_numbers(exact, np.vstack([units, -units])))
        reach = self._reach(heights, residuals)
        value = heights + residuals.sum(1) * reach
        value = outward(value, abs(heights) + residuals.sum(1) * reach, region.size + 2)
        self.magnitude = np.maximum(*np.split(np.maximum(value, 0), 2))

    def __call__(self, A):
        height, residual = self._dual(A)
        spread = residual @ self.magnitude
        return outward(height + spread, abs(height) + spread, A.shape[1] + 2, underflow(residual, self.magnitude))

    def _dual(self, A) -> tuple[np.ndarray, np.ndarray]:
        """Upper bounds on ``y b`` (k,) and on ``|a - y P|`` (k, n)."""
        (y,) = _numbers(self.exact, _multipliers(self.polytope, floats(A)))
        count = len(self.sides)
        height = outward(y @ self.sides, y @ abs(self.sides), count, underflow(y, self.sides))
        residual, size = abs(A - y @ self.rows), abs(A) + y @ abs(self.rows)
        return height, outward(residual, size, count + 1, underflow(y, self.rows))

    def _reach(self, heights, residuals):
        """A bound on ``|x|_inf``, infinite where the candidates are too poor for one."""
        share = residuals.sum(1).max()
        if not share < 0.5:
            return np.inf
        reach = max(heights.max(), 0) / (1 - share)
        return reach if self.exact else reach * (1.0 + 2.0 * len(heights) * 2.0**-53 + 1e-15)


def _multipliers(polytope: HPolytope, A: np.ndarray) -> np.ndarray:
    """For each row a of A (k, n) a ``y >= 0`` (m,) with ``y P`` near a and ``y b`` small; zeros where none is found."""
    lengths = np.linalg.norm(polytope.A, axis=1)
    lengths[lengths == 0] = 1.0
    rows, sides = polytope.A / lengths[:, None], polytope.b / lengths
    found = np.zeros((len(A), len(sides)))
    for multipliers, a in zip(found, A, strict=True):
        size = abs(a).max()
        if not (np.isfinite(size) and size > 0):
            continue
        solution = linprog(-a / size, A_ub=rows, b_ub=sides, bounds=(None, None), method="highs")
        if solution.status == 0:
            multipliers[:] = np.maximum(-solution.ineqlin.marginals, 0.0) * size / lengths
    return found


_RULES = {
    Box: _Box,
    Zonotope: _Zonotope,
    Ellipsoid: _Ellipsoid,
    VPolytope: _VPolytope,
    Product: _Product,
    HPolytope: _HPolytope,
}
