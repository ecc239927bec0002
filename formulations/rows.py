"""Rows ``lower <= A_1 v_1 + A_2 v_2 + ... <= upper`` as one Pyomo constraint that keeps the matrix as a matrix.

A dense layer with n inputs and m units has n m coefficients. As Pyomo expressions they cost about 150 bytes each and
most of the time of building a model; as a scipy matrix 12 bytes and almost no time. A `Rows` component holds the
matrix, and each of its rows makes its expression afresh whenever Pyomo asks for it. To every writer, solver and
transformation it is a Constraint like any other; `polyopt.solve` reads the matrix itself.

>>> import pyomo.environ as pyo
>>> m = pyo.ConcreteModel()
>>> m.x, m.y = pyo.Var(range(2)), pyo.Var()
>>> m.rows = Rows([([[1.0, 2.0], [0.0, 3.0]], list(m.x.values())), ([4.0, -1.0], [m.y, m.y])], upper=[5.0, 6.0])
>>> for row in m.rows.values():
...     print(row.expr)
x[0] + 2.0*x[1] + 4.0*y  <=  5.0
3.0*x[1] - y  <=  6.0
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp
from pyomo.core.base.constraint import ConstraintData, IndexedConstraint
from pyomo.core.expr.numeric_expr import LinearExpression
from pyomo.core.expr.relational_expr import EqualityExpression, InequalityExpression, RangedExpression


class Row(ConstraintData):
    """One row of a `Rows`, as Pyomo sees it."""

    __slots__ = ()

    def to_bounded_expression(self, evaluate_bounds=False):
        """The triple (lower or None, linear body, upper or None)."""
        return self.parent_component().bounded_expression(self.index())

    @property
    def expr(self):
        """The row as a relational expression."""
        lower, body, upper = self.to_bounded_expression()
        if lower == upper:
            return EqualityExpression((body, upper))
        if lower is None:
            return InequalityExpression((body, upper), False)
        if upper is None:
            return InequalityExpression((lower, body), False)
        return RangedExpression((lower, body, upper), (False, False))

    def set_value(self, expr):
        """Become an ordinary constraint with another expression."""
        self.__class__ = ConstraintData
        return self.set_value(expr)


class Rows(IndexedConstraint):
    """The rows ``lower <= sum of A_k v_k <= upper``, indexed from 0.

    ``terms`` are pairs (A_k, v_k): v_k is a list of Pyomo variables, A_k a matrix (rows, len(v_k)), dense or scipy
    sparse, or the diagonal of one as a number or a vector. A bound is a vector, a number, or None where there is
    none.
    """

    def __init__(self, terms: Iterable[tuple[object, Sequence]], lower=None, upper=None):
        self.variables, parts = [], []
        for coefficients, variables in terms:
            parts.append(_entries(coefficients, len(variables)))
            self.variables.extend(variables)
        self.matrix = _side_by_side(parts)
        count = self.matrix.shape[0]
        self.lower = np.full(count, -np.inf) if lower is None else np.broadcast_to(np.float64(lower), count).copy()
        self.upper = np.full(count, np.inf) if upper is None else np.broadcast_to(np.float64(upper), count).copy()
        super().__init__(pyo.RangeSet(0, count - 1) if count else [])

    def construct(self, data=None):
        """Make the rows, without their expressions."""
        if self._constructed:
            return
        self._constructed = True
        self._index_set.construct()
        for i in range(self.matrix.shape[0]):
            row = self._data[i] = Row(component=self)
            row._index = i

    def bounded_expression(self, i: int) -> tuple:
        """Row i as (lower or None, linear body, upper or None), in plain Python floats."""
        where = slice(self.matrix.indptr[i], self.matrix.indptr[i + 1])
        variables = [self.variables[j] for j in self.matrix.indices[where]]
        body = LinearExpression(linear_coefs=self.matrix.data[where].tolist(), linear_vars=variables)
        return _finite(self.lower[i]), body, _finite(self.upper[i])


def add_variables(block, name: str, index, lower=None, upper=None, domain=pyo.Reals) -> list:
    """Add ``block.name``, a variable for each entry of ``index`` with bounds from arrays; returns them as a list."""
    index = list(index)
    component = pyo.Var(index, domain=domain)
    block.add_component(name, component)
    variables = list(component.values())
    if lower is not None:
        for variable, low, high in zip(variables, np.asarray(lower).tolist(), np.asarray(upper).tolist(), strict=True):
            variable.setlb(low)
            variable.setub(high)
    return variables


def add_cuts(block, terms, upper) -> None:
    """Add a round of cuts ``terms <= upper`` as the next of ``block.cuts_0``, ``block.cuts_1``, …."""
    names = (f"cuts_{k}" for k in itertools.count())
    block.add_component(next(name for name in names if block.component(name) is None), Rows(terms, upper=upper))


def set_variables(component, values: np.ndarray) -> None:
    """Set the values of a variable's entries, in order."""
    for variable, value in zip(component.values(), np.asarray(values).tolist(), strict=True):
        variable.set_value(value, skip_validation=True)


class _Entries(NamedTuple):
    """A matrix's entries in row-major order, and its shape."""

    data: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shape: tuple[int, int]


def _entries(coefficients, columns: int) -> _Entries:
    """The entries of coefficients as `Rows` takes them."""
    if sp.issparse(coefficients):
        matrix = sp.csr_array(coefficients)
        row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        found = _Entries(matrix.data, row, matrix.indices, matrix.shape)
    else:
        coefficients = np.asarray(coefficients, dtype=np.float64)
        if coefficients.ndim < 2:
            places = np.arange(columns)
            return _Entries(np.broadcast_to(coefficients, columns), places, places, (columns, columns))
        row, column = np.nonzero(coefficients)
        found = _Entries(coefficients[row, column], row, column, coefficients.shape)
    if found.shape[1] != columns:
        raise ValueError(f"Rows: a matrix of shape {found.shape} is paired with {columns} variables")
    return found


def _side_by_side(parts: list[_Entries]) -> sp.csr_array:
    """The matrices next to each other, without zeros: scipy's own way costs ten times this for a small layer."""
    counts = {part.shape[0] for part in parts}
    if len(counts) != 1:
        raise ValueError(f"Rows: the terms have {[part.shape[0] for part in parts]} rows, but must have equally many")
    starts = np.cumsum([0, *(part.shape[1] for part in parts)])
    data, row = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    column = np.concatenate([start + part.column for start, part in zip(starts, parts, strict=False)])
    order = np.argsort(row, kind="stable")
    order = order[data[order] != 0]
    (count,) = counts
    ends = np.cumsum(np.bincount(row[order], minlength=count))
    indptr = np.concatenate([[0], ends]).astype(np.int32)
    return sp.csr_array((data[order], column[order].astype(np.int32), indptr), shape=(count, int(starts[-1])))


def _finite(bound: float) -> float | None:
    return float(bound) if np.isfinite(bound) else None
