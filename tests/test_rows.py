"""Matrix-backed rows must be to Pyomo what ordinary constraints are."""

import pickle

import numpy as np
import pyomo.environ as pyo
import pytest
from pyomo.core.base.constraint import ConstraintData

from formulations import Row, Rows
from polyopt.program import to_program

MATRIX = np.array([[1.0, 2.0, 0.0], [0.0, -3.0, 0.5], [4.0, 0.0, 1.0]])
LOWER = np.array([1.0, -np.inf, 0.5])
UPPER = np.array([1.0, 2.0, np.inf])


def model(kind):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(0, 5))
    m.b = pyo.Block()
    if kind == "rows":
        m.b.c = Rows([(MATRIX[:, :2], [m.x[0], m.x[1]]), (MATRIX[:, 2:], [m.x[2]])], LOWER, UPPER)
    else:
        expressions = [sum(c * v for c, v in zip(row, m.x.values(), strict=True) if c) for row in MATRIX.tolist()]
        m.b.c = pyo.ConstraintList(starting_index=0)
        m.b.c.add(expressions[0] == 1.0)
        m.b.c.add(expressions[1] <= 2.0)
        m.b.c.add(expressions[2] >= 0.5)
    m.obj = pyo.Objective(expr=m.x[0] + m.x[1] + m.x[2])
    return m


def written(m, tmp_path, kind):
    path = tmp_path / f"model.{kind}"
    m.write(str(path), io_options={"symbolic_solver_labels": True})
    numbers = path.read_text().replace("1.0 ", "1 ").replace(".0\n", "\n")
    return sorted(line for line in numbers.splitlines() if not line.startswith("*"))


@pytest.mark.parametrize("kind", ["lp", "mps"])
def test_files_are_those_of_ordinary_constraints(tmp_path, kind):
    assert written(model("rows"), tmp_path, kind) == written(model("constraints"), tmp_path, kind)


def test_every_pyomo_view_of_a_row():
    m, reference = model("rows"), model("constraints")
    for v, w, value in zip(m.x.values(), reference.x.values(), [0.5, 0.25, 3.0], strict=True):
        v.value = w.value = value
    for i in range(3):
        ours, theirs = m.b.c[i], reference.b.c[i]
        assert (ours.lb, ours.ub, ours.equality) == (theirs.lb, theirs.ub, theirs.equality)
        assert pyo.value(ours.body) == pyo.value(theirs.body) == ours()
        assert ours.lslack() == theirs.lslack()
        assert ours.uslack() == theirs.uslack()


def pickled(m):
    return pickle.loads(pickle.dumps(m))


@pytest.mark.parametrize("copy", [pyo.ConcreteModel.clone, pickled])
def test_copies_refer_to_the_copied_variables(copy):
    m = model("rows")
    other = copy(m)
    assert [v is w for v, w in zip(other.b.c.variables, other.x.values(), strict=True)] == [True] * 3
    other.x[0].fix(1.0)
    assert not m.x[0].fixed


def test_rows_can_be_deactivated_replaced_and_deleted():
    m = model("rows")
    m.b.c[0].deactivate()
    m.b.c[1] = m.x[0] + m.x[1] <= 7
    del m.b.c[2]
    assert type(m.b.c[1]) is ConstraintData
    program = to_program(m)
    assert program.matrix.toarray()[:, :2].tolist() == [[1.0, 1.0]]
    assert program.row_upper.tolist() == [7.0]
    m.b.deactivate()
    assert to_program(m).matrix.shape[0] == 0
    m.del_component(m.b)
    assert not list(m.component_data_objects(pyo.Constraint))


def test_the_matrix_and_the_expressions_give_one_program():
    m = model("rows")
    fast = to_program(m)
    for i in range(3):
        m.b.c[i] = m.b.c[i].expr
        assert type(m.b.c[i]) is not Row
    slow = to_program(m)
    assert [v.name for v in fast.variables] == [v.name for v in slow.variables]
    assert (fast.matrix != slow.matrix).nnz == 0
    assert fast.row_lower.tolist() == slow.row_lower.tolist()
    assert fast.row_upper.tolist() == slow.row_upper.tolist()


def test_one_variable_twice_in_a_row_is_summed():
    m = pyo.ConcreteModel()
    m.x = pyo.Var()
    m.c = Rows([(2.0, [m.x]), ([3.0], [m.x])], upper=1.0)
    assert to_program(m).matrix.toarray().tolist() == [[5.0]]


def test_coefficients_are_plain_floats_so_that_files_stay_readable():
    body = model("rows").b.c[0].body
    assert {type(c) for c in body.linear_coefs} == {float}


def test_a_matrix_that_does_not_fit_its_variables_is_refused():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2))
    with pytest.raises(ValueError, match=r"shape \(1, 3\) is paired with 2 variables"):
        Rows([(np.ones((1, 3)), list(m.x.values()))], upper=0.0)
