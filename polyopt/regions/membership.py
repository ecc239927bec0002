"""``x in region`` on a Pyomo block: bounds, matrix-backed rows, coordinates of an image, one quadratic constraint.

A region that is an image ``{c + M z : z in Z}`` becomes the rows ``M z - x = -c`` with new variables z, and what is to
be said of z: bounds, a sum, or the ball ``z z <= 1``.
"""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
from pyomo.core.base.block import BlockData

from formulations.rows import Rows, add_variables

NAMES = ("rows", "sum", "ball", "factor", "e", "u", "w")


def prepared(region, block, variables) -> list:
    """The variables as a list; ValueError where block and variables are not what the region can be written on."""
    kind = type(region).__name__
    if region.batch_shape:
        raise ValueError(f"{kind}.add_to: this is a batch of {region.batch_shape[0]} boxes; give a single one")
    if not isinstance(block, BlockData) or not block.parent_component().is_constructed():
        raise ValueError(
            f"{kind}.add_to: {block!r} is not a constructed Pyomo block; put pyo.Block() on a ConcreteModel"
        )
    if taken := [name for name in NAMES if block.component(name) is not None]:
        raise ValueError(
            f"{kind}.add_to: block {block.name!r} already has a {taken[0]!r}; give the region its own block"
        )
    variables = list(variables.values()) if isinstance(variables, pyo.Var) else list(variables)
    if len(variables) != region.size:
        raise ValueError(
            f"{kind}.add_to: {len(variables)} variables are given, but the region has {region.size} dimensions"
        )
    for i, variable in enumerate(variables):
        if not (hasattr(variable, "is_variable_type") and variable.is_variable_type()):
            raise ValueError(
                f"{kind}.add_to: entry {i} is {variable}; give variables, and tie expressions to them by rows"
            )
    return variables


def give_bounds(region, variables: list) -> None:
    """Bounds from the bounding box for variables that have none."""
    if not any(None in variable.bounds for variable in variables):
        return
    box = region.bounding_box()
    for variable, lower, upper in zip(variables, box.lower.tolist(), box.upper.tolist(), strict=True):
        low, high = variable.bounds
        if low is None:
            variable.setlb(lower)
        if high is None:
            variable.setub(upper)


def add_rows(block, matrix, variables: list, lower, upper) -> None:
    """``block.rows``: ``lower <= A x <= upper``."""
    block.rows = Rows([(matrix, variables)], lower, upper)


def add_image(block, name: str, variables: list, center, matrix, lower: float, total: float | None = None) -> None:
    """``block.rows``: ``x = c + M z`` with new variables ``lower <= z <= 1``, and ``block.sum`` if that is given."""
    count = matrix.shape[1]
    z = add_variables(block, name, range(count), np.full(count, lower), np.ones(count))
    sides = 0.0 - np.asarray(center)  # not -center, which would write -0.0
    block.rows = Rows([(matrix, z), (-1.0, variables)], sides, sides)
    if total is not None:
        block.sum = Rows([(np.ones((1, count)), z)], total, total)


def add_ball(block, u: list) -> None:
    """``block.ball``: ``u u <= 1``."""
    if u:
        block.ball = pyo.Constraint(expr=sum(variable**2 for variable in u) <= 1.0)


def add_blocks(block, count: int) -> list:
    """``block.factor``, indexed from 0."""
    block.factor = pyo.Block(range(count))
    return list(block.factor.values())
