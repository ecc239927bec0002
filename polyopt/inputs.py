"""The inputs of an embedded network: Pyomo variables or affine expressions with finite bounds."""

from __future__ import annotations

import math

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr import identify_variables
from pyomo.repn import generate_standard_repn


def is_variable(expression) -> bool:
    """Whether an input is a Pyomo variable itself."""
    return hasattr(expression, "is_variable_type") and expression.is_variable_type()


def input_range(i: int, expression) -> tuple[float, float]:
    """The finite bounds of input i; a fixed variable counts with its bounds or, where it has none, with its value."""
    repn = _linear_part(expression)
    if repn.nonlinear_expr is not None:
        raise ValueError(f"input {i} is {expression}, which is not affine; give a variable or an affine expression")
    low = high = repn.constant
    for coefficient, variable in zip(repn.linear_coefs, repn.linear_vars, strict=True):
        ends = variable.bounds
        if variable.fixed and None in ends:
            ends = (variable.value, variable.value)
        if None in ends or not all(map(math.isfinite, ends)):
            raise ValueError(
                f"input {i} depends on variable {variable.name!r}, whose bounds are {ends}; "
                "give it finite lower and upper bounds (setlb, setub): without them no formulation is valid"
            )
        if ends[0] > ends[1] or (variable.fixed and not ends[0] <= variable.value <= ends[1]):
            raise ValueError(
                f"input {i} depends on variable {variable.name!r} with bounds {ends}"
                + (f", fixed to {variable.value}" if variable.fixed else "")
                + "; nothing satisfies that"
            )
        products = sorted(coefficient * end for end in ends)
        low, high = low + products[0], high + products[1]
    return low, high


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
    """The variables that stand for the inputs: themselves, or new ones equal to the expressions."""
    others = [i for i, expression in enumerate(expressions) if not is_variable(expression)]
    if not others:
        return expressions
    block.input = pyo.Var(others, bounds=lambda _, i: (float(ranges[i, 0]), float(ranges[i, 1])))
    block.input_rows = pyo.Constraint(others, rule=lambda b, i: b.input[i] == expressions[i])
    return [block.input[i] if i in set(others) else expression for i, expression in enumerate(expressions)]
