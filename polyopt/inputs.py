"""The inputs of an embedded network: Pyomo variables or affine expressions with finite bounds."""

from __future__ import annotations

import math

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import identify_variables
from pyomo.repn import generate_standard_repn

from polyopt.regions import Region
from polyopt.regions.region import check_single


def is_variable(expression) -> bool:
    """Whether an input is a Pyomo variable itself."""
    return hasattr(expression, "is_variable_type") and expression.is_variable_type()


def input_range(i: int, expression, within: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """The finite bounds of input i, where it is restricted to an interval: those of the part of it within.

    A fixed variable counts with its bounds or, where it has none, with its value.
    """
    repn = _linear_part(expression)
    if repn.nonlinear_expr is not None:
        raise ValueError(f"input {i} is {expression}, which is not affine; give a variable or an affine expression")
    low = high = repn.constant
    for coefficient, variable in zip(repn.linear_coefs, repn.linear_vars, strict=True):
        products = sorted(coefficient * end for end in _ends(i, variable))
        low, high = low + products[0], high + products[1]
    narrow = max(low, within[0]), min(high, within[1])
    if not all(map(math.isfinite, narrow)):
        raise _unbounded(i, repn.linear_vars)
    if narrow[0] > narrow[1]:
        raise ValueError(
            f"input {i} ({expression}) ranges over [{low}, {high}], but is restricted to [{within[0]}, {within[1]}]; "
            "nothing satisfies both"
        )
    return narrow


def input_ranges(expressions: list, region: Region | None = None) -> np.ndarray:
    """The bounds (n, 2) of all inputs, cut with the bounding box of the region to which they are restricted."""
    if region is None:
        ranges = [input_range(i, expression) for i, expression in enumerate(expressions)]
    else:
        check_single("add_network", region, len(expressions))
        box = region.bounding_box()
        ends = zip(expressions, box.lower.tolist(), box.upper.tolist(), strict=True)
        ranges = [input_range(i, expression, (low, high)) for i, (expression, low, high) in enumerate(ends)]
    return np.array(ranges, dtype=np.float64)


def _ends(i: int, variable) -> tuple[float, float]:
    """A variable's bounds, infinite where there are none."""
    ends = variable.bounds
    if variable.fixed and None in ends:
        ends = (variable.value, variable.value)
    low, high = -math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1]
    if low > high or (variable.fixed and not low <= variable.value <= high):
        raise ValueError(
            f"input {i} depends on variable {variable.name!r} with bounds {ends}"
            + (f", fixed to {variable.value}" if variable.fixed else "")
            + "; nothing satisfies that"
        )
    return low, high


def _unbounded(i: int, variables) -> ValueError:
    variable = next(v for v in variables if not all(map(math.isfinite, _ends(i, v))))
    return ValueError(
        f"input {i} depends on variable {variable.name!r}, whose bounds are {variable.bounds}; "
        "give it finite lower and upper bounds (setlb, setub): without them no formulation is valid"
    )


def _linear_part(expression):
    """The standard representation with fixed variables as variables."""
    fixed = [v for v in identify_variables(expression, include_fixed=True) if v.fixed]
    for variable in fixed:
        variable.fixed = False
    try:
        return generate_standard_repn(expression, quadratic=False)
    finally:
        for variable in fixed:
            variable.fixed = True


def input_variables(block, expressions: list, ranges: np.ndarray) -> list:
    """The variables that stand for the inputs: themselves, or new ones equal to the expressions.

    A variable whose own bounds are wider than its range is such an expression.
    """
    others = [
        i for i, (expression, ends) in enumerate(zip(expressions, ranges, strict=True)) if _needs(expression, *ends)
    ]
    if not others:
        return expressions
    block.input = pyo.Var(others, bounds=lambda _, i: (float(ranges[i, 0]), float(ranges[i, 1])))
    block.input_rows = pyo.Constraint(others, rule=lambda b, i: b.input[i] == expressions[i])
    return [block.input[i] if i in set(others) else expression for i, expression in enumerate(expressions)]


def _needs(expression, low: float, high: float) -> bool:
    if not is_variable(expression):
        return True
    lower, upper = expression.bounds
    pinned = expression.fixed and None in (lower, upper)
    return not pinned and (lower is None or upper is None or lower < low or upper > high)
