"""What is said in the user's units, said in the scaled ones that a network is trained in.

With inputs ``x = s + t x'`` and outputs ``y = v + w y'``, entry by entry, the network f between the user's units and
the scaled one f' are the same function, ``f(x) = v + w f'(x')``, and with diagonal matrices T and W

    E f(x) = g + S x           is       (E W) f'(x') = (g - E v + S s) + (S T) x'
    E J d = h                  is       (E W) J' (T^-1 d) = h                              (J, J' the Jacobians)

and likewise with <=. Regions move with their points: an H-polytope ``A x <= b`` becomes ``(A T) x' <= b - A s``. Rows
are then divided by their largest coefficient, so that violations are measured in standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from polyopt.police.constraints import AffineConstraint, Constraint
from polyopt.police.demands import place
from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope


@dataclass(frozen=True, eq=False)
class Units:
    """``scaled = (x - shift) / scale``, both of shape (n,)."""

    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Units:
        """Mean and standard deviation of each column of ``values`` (N, n); the scale of a constant column is 1.

        >>> Units.of(np.array([[0.0, 7.0], [4.0, 7.0]]))
        Units(shift=array([2., 7.]), scale=array([2., 1.]))
        """
        shift, scale = values.mean(0), values.std(0)
        constant = scale <= len(values) * np.finfo(float).eps * abs(shift)
        return cls(np.where(constant, values[0], shift), np.where(constant, 1.0, scale))

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """The scaled numbers, (…, n)."""
        return (x - self.shift) / self.scale

    def region(self, region: Region) -> Region:
        """The region in scaled units.

        >>> Units(np.array([1.0]), np.array([2.0])).region(Box([3.0], [5.0]))
        Box([1.], [2.])
        """
        if isinstance(region, Box):
            return Box(self.scaled(region.lower), self.scaled(region.upper))
        if isinstance(region, Zonotope):
            return Zonotope(self.scaled(region.center), region.generators / self.scale[:, None])
        if isinstance(region, Ellipsoid):
            return Ellipsoid(self.scaled(region.center), region.factor / self.scale[:, None])
        if isinstance(region, VPolytope):
            return VPolytope(self.scaled(region.points))
        if isinstance(region, HPolytope):
            return HPolytope(region.A * self.scale, region.b - region.A @ self.shift)
        if isinstance(region, Product):
            ends = np.cumsum([factor.size for factor in region.regions])[:-1]
            parts = zip(np.split(self.shift, ends), np.split(self.scale, ends), region.regions, strict=True)
            return Product(*(Units(shift, scale).region(factor) for shift, scale, factor in parts))
        raise ValueError(f"fit_surrogate: the region is a {type(region).__name__}; give a region, such as polyopt.Box")


def scaled_constraint(constraint: Constraint, regions: Sequence[Region], inputs: Units, outputs: Units) -> Constraint:
    """The constraint in scaled units, on the region of the same number.

    >>> least = AffineConstraint(0, [-1.0], -300.0, kind="le")  # y >= 300, for y = 200 + 50 y'
    >>> units = Units(np.array([200.0]), np.array([50.0]))
    >>> scaled_constraint(least, [Box([0.0], [1.0])], Units(np.zeros(1), np.ones(1)), units).f
    array([-2.])
    """
    number, kind = place(constraint, regions), type(constraint).__name__
    across, name = (constraint.slope, "slope") if isinstance(constraint, AffineConstraint) else (constraint.D, "D")
    for part, what, units in ((constraint.E, "E", outputs), (across, name, inputs)):
        if part is not None and part.shape[1] != len(units.scale):
            raise ValueError(f"{kind}: {what} has {part.shape[1]} columns, but the data have {len(units.scale)}")
    rows = constraint.E * outputs.scale
    size = _size(rows)
    if isinstance(constraint, AffineConstraint):
        f, slope = constraint.f - constraint.E @ outputs.shift, None
        if constraint.slope is not None:
            f, slope = f + constraint.slope @ inputs.shift, constraint.slope * inputs.scale / size
        return replace(constraint, region=number, E=rows / size, f=f / size[:, 0], slope=slope)
    along = constraint.D / inputs.scale
    length = _size(along)
    return replace(constraint, region=number, E=rows / size, D=along / length, g=constraint.g / size / length.T)


def _size(rows: np.ndarray) -> np.ndarray:
    """The largest coefficient of each row, (k, 1), and 1 where all are 0."""
    size = abs(rows).max(1, keepdims=True)
    return np.where(size > 0, size, 1.0)
