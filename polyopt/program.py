"""A Pyomo model as arrays: what a linear or convex quadratic mixed-integer solver such as HiGHS is given.

    min or max  c'x + 1/2 x'Qx + offset    subject to    row_lower <= A x <= row_upper,
                                                 lower <= x <= upper,  x_I integer

Matrix-backed `Rows` are taken as they are; every other constraint goes through Pyomo's own standard representation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import highspy
import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp
from pyomo.core.base import SortComponents
from pyomo.core.base.block import BlockData
from pyomo.repn import generate_standard_repn
from pyomo.repn.util import categorize_valid_components

from formulations import Row, Rows
from polyopt.silent import silent_highs

_UNDERSTOOD = {
    pyo.Block,
    pyo.Objective,
    pyo.Constraint,
    pyo.Var,
    pyo.Param,
    pyo.Expression,
    pyo.Suffix,
    pyo.Set,
    pyo.RangeSet,
    pyo.ExternalFunction,
    pyo.BuildAction,
    pyo.BuildCheck,
}

_KINDS = (float, np.int32, np.int32, float, float)  # of a block of rows' arrays
_NO_ROWS = tuple(np.empty(0, kind) for kind in _KINDS)


@dataclass(eq=False)
class Program:
    """The arrays; ``variables[j]`` is the Pyomo variable of column j."""

    variables: list
    lower: np.ndarray
    upper: np.ndarray
    integer: np.ndarray
    matrix: sp.csr_array
    row_lower: np.ndarray
    row_upper: np.ndarray
    cost: np.ndarray
    quadratic: sp.csc_array | None  # lower triangle of Q
    offset: float
    maximize: bool


def to_program(model) -> Program:
    """The arrays of a Pyomo model's active parts; ValueError for what is neither linear nor a quadratic objective.

    Fixed variables keep their column, with their value as both bounds.

    >>> m = pyo.ConcreteModel()
    >>> m.x, m.z = pyo.Var(bounds=(0, 4)), pyo.Var(domain=pyo.Binary)
    >>> m.row = pyo.Constraint(expr=m.x + 2 * m.z <= 3)
    >>> m.obj = pyo.Objective(expr=m.x + m.z, sense=pyo.maximize)
    >>> program = to_program(m)
    >>> program.matrix.toarray(), program.row_upper, program.cost
    (array([[1., 2.]]), array([3.]), array([1., 1.]))
    """
    if not isinstance(model, BlockData):
        raise ValueError(f"a Pyomo model or block is needed, but {type(model).__name__} is given")
    _refuse_other_components(model)
    columns = _Columns()
    rows = _rows(model, columns)
    return _assemble(columns, rows, _objective(model, columns))


def to_relaxation(model, variables, without: Collection = ()) -> tuple[Program, np.ndarray]:
    """The linear relaxation of a model's active linear constraints, without objective, and the variables' columns in
    it.

    Whatever is not linear is left out, and the components ``without``. A fixed variable ranges over its bounds, as it
    may be fixed elsewhere later.
    """
    fixed = [v for v in model.component_data_objects(pyo.Var) if v.fixed and None not in v.bounds]
    for variable in fixed:
        variable.fixed = False
    try:
        columns = _Columns()
        places = np.array(columns.places(variables), dtype=int)
        rows = _rows(model, columns, linear_only=True, without=without)
        program = _assemble(columns, rows, lambda count: (np.zeros(count), None, 0.0, False))
    finally:
        for variable in fixed:
            variable.fixed = True
    program.integer[:] = False
    return program, places


def _assemble(columns: _Columns, rows: list[tuple], objective) -> Program:
    count = len(columns.variables)
    data, indices, lengths, row_lower, row_upper = map(np.concatenate, zip(_NO_ROWS, *rows, strict=True))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    matrix = sp.csr_array((data, indices, starts), shape=(len(lengths), count))
    matrix.sum_duplicates()
    lower, upper, integer = columns.domains()
    return Program(columns.variables, lower, upper, integer, matrix, row_lower, row_upper, *objective(count))


def to_highs(program: Program) -> highspy.Highs:
    """A silent HiGHS instance that holds the program."""
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = program.matrix.shape
    lp.col_cost_, lp.offset_ = program.cost, program.offset
    lp.col_lower_, lp.col_upper_ = program.lower, program.upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.sense_ = highspy.ObjSense.kMaximize if program.maximize else highspy.ObjSense.kMinimize
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = program.matrix.indptr
    lp.a_matrix_.index_ = program.matrix.indices
    lp.a_matrix_.value_ = program.matrix.data
    if program.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[i] for i in program.integer.astype(int)]
    solver = silent_highs()
    if solver.passModel(lp) == highspy.HighsStatus.kError:
        raise ValueError("HiGHS refuses the model; look for infinite or NaN coefficients and bounds")
    if program.quadratic is not None:
        if program.integer.any():
            raise ValueError(
                "HiGHS does not solve quadratic objectives with integer variables; scip does, through Pyomo"
            )
        q = program.quadratic
        solver.passHessian(q.shape[0], q.nnz, highspy.HessianFormat.kTriangular, q.indptr, q.indices, q.data)
    return solver


class _Columns:
    """The columns met so far."""

    def __init__(self):
        self.variables: list = []
        self._place: dict[int, int] = {}

    def places(self, variables) -> list[int]:
        """The column of each variable, a new one where it has none."""
        found = []
        for variable in variables:
            place = self._place.setdefault(id(variable), len(self.variables))
            if place == len(self.variables):
                self.variables.append(variable)
            found.append(place)
        return found

    def domains(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower and upper bounds, infinite where there is none, and whether a variable is integer."""
        ends = [(v.value, v.value) if v.fixed else v.bounds for v in self.variables]
        lower = np.array([-np.inf if low is None else low for low, _ in ends], dtype=np.float64)
        upper = np.array([np.inf if high is None else high for _, high in ends], dtype=np.float64)
        integer = np.array([not v.is_continuous() for v in self.variables], dtype=bool)
        for variable in self.variables:
            if not variable.is_continuous() and not variable.is_integer() and not variable.is_binary():
                raise ValueError(f"variable {variable.name!r} has domain {variable.domain}, which is not an interval")
        return lower, upper, integer


def _refuse_other_components(model) -> None:
    """A component that this translation does not know would be silently left out of the problem."""
    _, unknown = categorize_valid_components(model, active=True, sort=SortComponents.unsorted, valid=_UNDERSTOOD)
    if unknown:
        found = ", ".join(f"{ctype.__name__} {parts[0].name!r}" for ctype, parts in unknown.items())
        raise ValueError(
            f"the model has active components that HiGHS does not take: {found}; transform them into linear "
            "constraints (for pyomo.gdp: TransformationFactory('gdp.bigm')) or deactivate them"
        )


def _rows(model, columns: _Columns, linear_only: bool = False, without: Collection = ()) -> list[tuple]:
    """Blocks of rows as arrays: entries, their columns, how many there are in each row, lower, upper.

    ``without`` are components whose rows are left out.
    """
    left_out = set(map(id, without))
    blocks, others = [], []
    for component in model.component_objects(pyo.Constraint, active=True, descend_into=True):
        if id(component) in left_out:
            continue
        if not isinstance(component, Rows):
            others.extend(row for row in component.values() if row.active)
            continue
        kept = [i for i, row in component.items() if type(row) is Row and row.active]
        others.extend(row for row in component.values() if type(row) is not Row and row.active)
        places = np.array(columns.places(component.variables), dtype=int)
        matrix = component.matrix if len(kept) == component.matrix.shape[0] else component.matrix[kept]
        ends = (component.lower[kept], component.upper[kept])
        blocks.append((matrix.data, places[matrix.indices], np.diff(matrix.indptr), *ends))
    if others:
        blocks.append(_linear_rows(others, columns, linear_only))
    return blocks


def _linear_rows(constraints, columns: _Columns, linear_only: bool) -> tuple:
    data, indices, lengths, lower, upper = [], [], [], [], []
    for constraint in constraints:
        low, body, high = constraint.to_bounded_expression(evaluate_bounds=True)
        repn = generate_standard_repn(body, quadratic=False)
        if repn.nonlinear_expr is not None:
            if linear_only:
                continue
            raise ValueError(
                f"constraint {constraint.name!r} is not linear: {constraint.expr}; HiGHS takes linear rows only"
            )
        data.extend(repn.linear_coefs)
        indices.extend(columns.places(repn.linear_vars))
        lengths.append(len(repn.linear_coefs))
        lower.append(-np.inf if low is None else low - repn.constant)
        upper.append(np.inf if high is None else high - repn.constant)
    return tuple(
        np.array(part, dtype) for part, dtype in zip((data, indices, lengths, lower, upper), _KINDS, strict=True)
    )


def _objective(model, columns: _Columns):
    """A function from the number of columns to (cost, lower triangle of Q or None, offset, maximize)."""
    objectives = list(model.component_data_objects(pyo.Objective, active=True, descend_into=True))
    if len(objectives) > 1:
        names = ", ".join(repr(objective.name) for objective in objectives)
        raise ValueError(f"the model has {len(objectives)} active objectives ({names}); deactivate all but one")
    if not objectives:
        return lambda count: (np.zeros(count), None, 0.0, False)
    (objective,) = objectives
    repn = generate_standard_repn(objective.expr, quadratic=True)
    if repn.nonlinear_expr is not None:
        raise ValueError(f"objective {objective.name!r} is neither linear nor quadratic: {objective.expr}")
    linear = columns.places(repn.linear_vars)
    pairs = [sorted(columns.places(pair), reverse=True) for pair in repn.quadratic_vars]

    def arrays(count: int):
        cost = np.zeros(count)
        np.add.at(cost, linear, np.array(repn.linear_coefs, dtype=np.float64))
        quadratic = None
        if pairs:  # a x_i x_j is 1/2 x'Qx with Q_ij = Q_ji = a, or Q_ii = 2 a
            entries = [c * (2.0 if i == j else 1.0) for c, (i, j) in zip(repn.quadratic_coefs, pairs, strict=True)]
            quadratic = sp.csc_array((entries, tuple(zip(*pairs, strict=True))), shape=(count, count))
        return cost, quadratic, float(repn.constant), objective.sense == pyo.maximize

    return arrays
