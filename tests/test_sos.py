"""Units by SOS1 sets: their points are the graph, and SCIP finds the optimum of big-M with HiGHS."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, SIGN_KINDS
from pyomo.contrib.solver.common.factory import SolverFactory

import polyopt as po
from polyopt.layers import Affine

CONTINUOUS = [name for name in NETWORKS if name not in SIGN_KINDS]


def embed(net, formulation):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.net = pyo.Block()
    m.y = pyo.Reference(po.add_network(m.net, net, m.x, formulation=formulation))
    return m


def violation(model):
    """How far the loaded point is outside rows, bounds and sets."""
    worst = 0.0
    for row in model.component_data_objects(pyo.Constraint):
        worst = max(worst, -row.lslack(), -row.uslack())
    for v in model.component_data_objects(pyo.Var):
        worst = max(worst, v.lb - v.value if v.has_lb() else 0.0, v.value - v.ub if v.has_ub() else 0.0)
    for either in model.component_data_objects(pyo.SOSConstraint):
        worst = max(worst, sorted(abs(v.value) for v in either.variables)[-2])
    return worst


@pytest.mark.parametrize("name", CONTINUOUS)
def test_points_of_the_graph_are_feasible(name):
    net = NETWORKS[name]
    m = embed(net, po.SOS1())
    for x in np.random.default_rng(0).uniform(-1, 1, size=(10, net.input_size)):
        po.set_point(m.net, x)
        assert violation(m) < 1e-9
        assert po.replay_error(m.net) < 1e-12


@pytest.mark.parametrize("sense", [pyo.maximize, pyo.minimize])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_scip_finds_the_optimum_of_big_m(name, sense):
    pytest.importorskip("pyscipopt")
    values = []
    for formulation in (po.SOS1(), po.BigM()):
        m = embed(NETWORKS[name], formulation)
        m.objective = pyo.Objective(expr=m.y[0] - 0.5 * m.y[1], sense=sense)
        if formulation == po.SOS1():
            values.append(
                SolverFactory("scip_direct").solve(m, solver_options={"display/verblevel": 0}).incumbent_objective
            )
            assert po.replay_error(m.net) < 1e-5
        else:
            values.append(po.solve(m).objective)
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_highs_does_not_take_sets_and_says_so():
    m = embed(NETWORKS["relu"], po.SOS1())
    m.objective = pyo.Objective(expr=m.y[0])
    with pytest.raises(ValueError, match="SOSConstraint"):
        po.solve(m)


def test_a_jump_has_no_sets():
    net = po.Network.sequential([Affine(np.ones((1, 3)), None), *NETWORKS["sign"].layers[1:2]], (3,))
    with pytest.raises(ValueError, match=r"layer '1' \(Sign\) has no SOS1 formulation"):
        embed(net, po.SOS1())
