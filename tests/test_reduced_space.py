"""Networks as nested expressions: no variables, no rows, the same values."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, chain

import polyopt as po
from polyopt.activations import ReLU, Sigmoid, Softplus, Tanh
from polyopt.layers import Affine

SMOOTH = {
    "tanh": chain(lambda n: Tanh()),
    "sigmoid": chain(lambda n: Sigmoid()),
    "softplus": chain(lambda n: Softplus(2.0)),
    "decided": chain(lambda n: ReLU()),
    "decided maximum": NETWORKS["maxout"],
    "mixed": po.Network.sequential(
        [Affine([[1.0, -1.0, 0.5]], [0.1]), Tanh(), Affine([[1.0], [-1.0]], [3.0, -3.0]), ReLU()], (3,)
    ),
}


def embed(net, center=0.3, radius=0.0005):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(center - radius, center + radius))
    m.net = pyo.Block()
    return m, po.add_network(m.net, net, m.x, formulation=po.ReducedSpace())


@pytest.mark.parametrize("name", SMOOTH)
def test_the_expressions_have_the_network_s_values(name):
    net = SMOOTH[name]
    m, y = embed(net)
    assert not list(m.net.component_data_objects((pyo.Var, pyo.Constraint)))
    for x in np.random.default_rng(0).uniform(0.2995, 0.3005, size=(5, net.input_size)):
        po.set_point(m.net, x)
        assert [pyo.value(output) for output in y] == pytest.approx(net(x[None])[0], rel=1e-12)
        assert po.replay_error(m.net) < 1e-12
    assert po.summary(m.net).rows == 0


def test_decided_networks_are_solved_as_linear_programs():
    m, y = embed(SMOOTH["decided"])
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    exact = po.solve(m)
    assert exact.status == "optimal"
    corners = 0.3 + 0.0005 * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    assert exact.objective == pytest.approx(SMOOTH["decided"](corners)[:, 0].max(), abs=1e-9)


def test_scip_optimises_over_the_inputs_alone():
    pytest.importorskip("pyscipopt", reason="pyscipopt is not installed")
    net = chain(lambda n: Tanh(), sizes=(2, 3, 1))
    m, y = embed(net, center=0.0, radius=1.0)
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    pyo.SolverFactory("scip_direct", options={"display/verblevel": 0, "limits/gap": 1e-4}).solve(m)
    samples = net(np.random.default_rng(0).uniform(-1, 1, size=(20_000, 2)))[:, 0]
    assert samples.max() - 1e-3 <= pyo.value(m.objective) <= samples.max() + 0.05


@pytest.mark.parametrize(("name", "kind"), [("relu", "ReLU"), ("maxout", "Maxout")])
def test_an_undecided_unit_is_refused_by_name(name, kind):
    with pytest.raises(ValueError, match=rf"layer '1' \({kind}\) has no ReducedSpace formulation.*bounds decide"):
        embed(NETWORKS[name], center=0.0, radius=1.0)


def test_it_is_for_whole_networks():
    net = chain(lambda n: Tanh())
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.net = pyo.Block()
    with pytest.raises(ValueError, match="ReducedSpace writes a whole network"):
        po.add_network(m.net, net, m.x, formulation={"1": po.ReducedSpace()})
    assert not list(m.net.component_objects())
