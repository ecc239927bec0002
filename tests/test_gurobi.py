"""Cuts in Gurobi's callback: the optimum stays HiGHS's, the root's bound gets better, nodes and rounds are counted."""

import pyomo.environ as pyo
import pytest
from cases import chain

import polyopt as po
from polyopt.activations import Clip, ReLU

pytest.importorskip("gurobipy")
if not pyo.SolverFactory("gurobi_persistent").available(exception_flag=False):
    pytest.skip("gurobipy has no licence", allow_module_level=True)

PLAIN_ROOT = {"Cuts": 0, "Presolve": 0, "Heuristics": 0, "NodeLimit": 1}  # nothing of Gurobi's own moves the bound
NET = chain(lambda n: ReLU(), sizes=(5, 10, 6, 1))


def model(formulation, net=NET):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.unused = pyo.Var()
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x, formulation=formulation, bounds="interval")
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    return m


def solve(m, callback=None, **parameters):
    """Gurobi's bound."""
    solver = pyo.SolverFactory("gurobi_persistent")
    solver.set_instance(m)
    for name, value in {"PreCrush": 1, "Threads": 1, "MIPGap": 1e-6, **parameters}.items():
        solver.set_gurobi_param(name, value)
    solver.set_callback(callback)
    solver.solve()
    return solver.get_model_attr("ObjBound")


def rounds(m):
    """The components of cuts."""
    return [rows for rows in m.component_objects(pyo.Constraint) if rows.local_name.startswith("cuts_")]


@pytest.mark.parametrize("nodes", [0, 10])
@pytest.mark.parametrize("activation", [ReLU(), Clip(-1.0, 1.5)], ids=lambda f: type(f).__name__)
def test_the_optimum_is_that_of_highs(activation, nodes):
    net = chain(lambda n: activation, sizes=(5, 10, 6, 1))
    m = model(po.CuttingPlanes(), net)
    bound = solve(m, po.cut_callback(m, nodes))
    assert rounds(m)
    assert bound == pytest.approx(po.solve(model(po.BigM(), net)).objective, abs=1e-4)
    assert pyo.value(m.objective) == pytest.approx(bound, abs=1e-4)
    assert po.replay_error(m.net) < 1e-5


def test_the_bound_at_the_root_is_better():
    m = model(po.CuttingPlanes())
    without, bound = solve(m, **PLAIN_ROOT), solve(m, po.cut_callback(m), **PLAIN_ROOT)
    optimum = po.solve(model(po.BigM())).objective
    assert optimum - 1e-6 <= bound < without - 0.1 * abs(without)


@pytest.mark.parametrize("max_rounds", [0, 1])
def test_rounds_at_the_root_are_counted(max_rounds):
    m = model(po.CuttingPlanes(max_rounds=max_rounds))
    solve(m, po.cut_callback(m))
    assert max(len(rounds(layer)) for layer in m.net.layer.values()) == max_rounds


def test_nodes_behind_the_root_are_asked_for():
    at_root, in_the_tree = (model(po.CuttingPlanes(max_rounds=1)) for _ in range(2))
    solve(at_root, po.cut_callback(at_root))
    solve(in_the_tree, po.cut_callback(in_the_tree, nodes=5))
    assert len(rounds(at_root)) < len(rounds(in_the_tree)) <= 6 * len(in_the_tree.net.layer)


def test_fixed_variables_are_constants_of_the_cuts():
    m = model(po.CuttingPlanes())
    m.x[0].fix(1 / 3)
    m.net.layer[0].sigma[3].fix(1)
    bound = solve(m, po.cut_callback(m))
    assert rounds(m)
    assert m.x[0].value == 1 / 3
    for component in rounds(m):
        component.deactivate()
    assert bound == pytest.approx(po.solve(m).objective, abs=1e-4)


def test_networks_without_cuts_take_no_part():
    m = model(po.BigM())
    bound = solve(m, po.cut_callback(m))
    assert not rounds(m)
    assert bound == pytest.approx(po.solve(m).objective, abs=1e-4)
