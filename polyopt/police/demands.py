"""The constraints of a model as finitely many rows, see `polyopt.police.constraints`, and by how much they are missed.

With the outputs Y of the rows, points p and directions k of one constraint, its *excess* at p, (k,) numbers, is

    |E Y_p - f| + sum_k |E Y_k - t_k|   for "eq",         E Y_p - f + sum_k |E Y_k - t_k|   for "le".

where t_k is 0, or what a slope of the right-hand side makes of the direction k.

Its violation is the greatest of these numbers: exactly how far it is violated on the region, while that lies in the
linear piece with these signs. The penalty of section 2.7, over all constraints and with the tolerance eps, is

    sum_p |E Y_p - f|^2 + sum_k |E Y_k - t_k|^2   for "eq",       sum_p |max(excess - eps, 0)|^2   for "le".

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, section 2.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from polyopt.police.chains import Chain
from polyopt.police.constraints import AffineConstraint, Constraint, SlopeConstraint
from polyopt.police.hulls import Hull
from polyopt.regions import Region


@dataclass(frozen=True, eq=False)
class Demand:
    """One constraint: E (k, n_out), its goals at its P points (k, P) and for its D directions (k, D), its kind.

    ``points`` and ``directions`` say which rows these are.
    """

    E: Tensor
    goal: Tensor
    tilt: Tensor
    kind: str
    points: slice
    directions: slice

    def excess(self, Y: Tensor) -> Tensor:
        """How far it is exceeded at each point, (k, P)."""
        off = self.off(Y)
        spread = abs(self.along(Y)).sum(1, keepdim=True)
        return (abs(off) if self.kind == "eq" else off) + spread

    def off(self, Y: Tensor) -> Tensor:
        """``E Y_p - f`` at each point, (k, P)."""
        return self.E.to(Y) @ Y[self.points].T - self.goal.to(Y)

    def along(self, Y: Tensor) -> Tensor:
        """``E Y_k - t_k`` for each direction, (k, D)."""
        return self.E.to(Y) @ Y[self.directions].T - self.tilt.to(Y)

    def penalty(self, Y: Tensor, tolerance: float) -> Tensor:
        """Its part of the penalty."""
        if self.kind == "eq":
            return self.off(Y).square().sum() + self.along(Y).square().sum()
        return (self.excess(Y) - tolerance).clamp(min=0).square().sum()


@dataclass(frozen=True, eq=False)
class Demands:
    """All constraints.

    The rows are ``x`` (R, n_in), with ``level`` (R, 1), 1 for points and 0 for directions, in ``region`` (R,).
    """

    x: Tensor
    level: Tensor
    region: Tensor
    each: tuple[Demand, ...]

    def to(self, device: torch.device) -> Demands:
        """The same on a device."""
        return replace(
            self,
            x=self.x.to(device),
            level=self.level.to(device),
            region=self.region.to(device),
            each=tuple(
                replace(one, E=one.E.to(device), goal=one.goal.to(device), tilt=one.tilt.to(device))
                for one in self.each
            ),
        )

    def only(self, members: Sequence[int]) -> Demands:
        """Some of the constraints."""
        return replace(self, each=tuple(self.each[i] for i in members))

    def lifted(self, chain: Chain, signs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """The rows in front of the last layer and their level, (R, H + 1), in the pieces with these signs."""
        x, t = self.x.to(dtype), self.level.to(dtype)
        for layer, sides in zip(chain.hidden, signs, strict=True):
            slopes = layer.slopes(sides, dtype)[self.region]
            x = slopes * (x @ layer.linear.weight.to(dtype).T + t * layer.linear.bias.to(dtype))
        return torch.cat([x, t], 1)

    def violations(self, Y: Tensor) -> Tensor:
        """How far each constraint is violated, (constraints,); negative where it is kept with room."""
        return torch.stack([one.excess(Y).max() for one in self.each])

    def penalty(self, Y: Tensor, tolerance: float) -> Tensor:
        """The sum of all penalties."""
        return sum(one.penalty(Y, tolerance) for one in self.each)


def augmented(linear: torch.nn.Linear, dtype: torch.dtype) -> Tensor:
    """Weight and bias of a layer side by side, (n_out, n_in + 1)."""
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return torch.cat([linear.weight, bias[:, None]], 1).to(dtype)


def demands(
    constraints: Sequence[Constraint], regions: Sequence[Region], images: Sequence[Hull], outputs: int
) -> Demands:
    """The constraints over regions with these images; ValueError where they do not fit.

    >>> from polyopt import Box
    >>> from polyopt.police.hulls import hulls
    >>> regions = [Box([0.0], [2.0]), Box([3.0], [5.0])]
    >>> found = demands([AffineConstraint(regions[1], [1.0], 0.5)], regions, hulls(regions), outputs=1)
    >>> found.x, found.level, found.region
    (tensor([[4.],
            [1.]], dtype=torch.float64), tensor([[1.],
            [0.]], dtype=torch.float64), tensor([1, 1]))
    >>> found.violations(torch.tensor([[0.75], [-0.25]], dtype=torch.float64))
    tensor([0.5000], dtype=torch.float64)
    """
    x, level, owner, each = [images[0].points[:0]], [images[0].points[:0, 0]], [], []
    for constraint in constraints:
        i, start = place(constraint, regions), len(owner)
        points, at, directions, goal, tilt = _rows(constraint, images[i], outputs)
        x += [points, directions]
        level += [points.new_full((len(points),), at), points.new_zeros(len(directions))]
        owner += [i] * (len(points) + len(directions))
        middle = start + len(points)
        arrays = (torch.tensor(array, device=points.device) for array in (constraint.E, goal, tilt))
        each.append(Demand(*arrays, constraint.kind, slice(start, middle), slice(middle, len(owner))))
    region = torch.tensor(owner, dtype=torch.int64, device=images[0].points.device)
    return Demands(torch.cat(x), torch.cat(level)[:, None], region, tuple(each))


def place(constraint: Constraint, regions: Sequence[Region]) -> int:
    """The number of the constraint's region."""
    region, owner = constraint.region, type(constraint).__name__
    if isinstance(region, Region):
        found = [i for i, one in enumerate(regions) if one is region]
        if not found:
            raise ValueError(f"{owner}: its region {region!r} is none of the model's {len(regions)}; give its number")
        return found[0]
    if isinstance(region, bool) or not isinstance(region, int) or not 0 <= region < len(regions):
        raise ValueError(f"{owner}: region is {region!r}, but must be one of the {len(regions)} or its number, from 0")
    return region


def _rows(constraint: Constraint, image: Hull, outputs: int):
    """The points of a constraint and their level, its directions, and its goals at both."""
    owner, inputs = type(constraint).__name__, image.size
    if constraint.E.shape[1] != outputs:
        raise ValueError(f"{owner}: E has {constraint.E.shape[1]} columns, but the network has {outputs} outputs")
    name, across = ("slope", constraint.slope) if isinstance(constraint, AffineConstraint) else ("D", constraint.D)
    if across is not None and across.shape[1] != inputs:
        raise ValueError(f"{owner}: {name} has {across.shape[1]} columns, but the network has {inputs} inputs")
    if isinstance(constraint, SlopeConstraint):
        points, directions = torch.tensor(constraint.D, device=image.points.device), image.generators[:0]
        return points, 0.0, directions, constraint.g, np.zeros((len(constraint.E), 0))
    slope = np.zeros((len(constraint.E), inputs)) if across is None else across
    goal = constraint.f[:, None] + slope @ image.points.cpu().numpy().T
    return image.points, 1.0, image.generators, goal, slope @ image.generators.cpu().numpy().T
