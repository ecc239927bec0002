"""Units as complementarity conditions: their solutions are the graph, and nothing else."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, SIGN_KINDS
from pyomo.mpec import Complementarity as Condition

import polyopt as po
from formulations import BigM, PiecewiseLinearLayer, SmoothLayer
from formulations.complementarity import Complementarity
from polyopt.activations import HardSigmoid, ReLU
from polyopt.layers import Affine

CONTINUOUS = [name for name in NETWORKS if name not in SIGN_KINDS]


def embed(net, formulation):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.net = pyo.Block()
    m.y = pyo.Reference(po.add_network(m.net, net, m.x, formulation=formulation))
    return m


def layer(m, function):
    return PiecewiseLinearLayer("unit", "f", [0], [[1.0]], [0.0], [m.a], [-9.0], [9.0], *function.pieces((1,)))


@pytest.fixture
def model():
    m = pyo.ConcreteModel()
    m.a = pyo.Var(bounds=(-9, 9))
    m.unit = pyo.Block()
    return m


def conditions(model):
    """Both sides of each condition, at the point now loaded."""
    found = model.component_data_objects(Condition, descend_into=True)
    sides = [[pyo.value(side.args[1]) for side in condition._args] for condition in found]
    return np.array(sides)


def violation(model):
    """How far the loaded point is outside rows, bounds and conditions."""
    sides = conditions(model)
    worst = max(-sides.min(), sides.min(1).max())
    for row in model.component_data_objects(pyo.Constraint):
        worst = max(worst, -row.lslack(), -row.uslack())
    for v in model.component_data_objects(pyo.Var):
        worst = max(worst, v.lb - v.value if v.has_lb() else 0.0, v.value - v.ub if v.has_ub() else 0.0)
    return worst


@pytest.mark.parametrize("name", CONTINUOUS)
def test_points_of_the_graph_satisfy_the_conditions(name):
    net = NETWORKS[name]
    m = embed(net, Complementarity())
    for x in np.random.default_rng(0).uniform(-1, 1, size=(6, net.input_size)):
        po.set_point(m.net, x)
        assert violation(m) < 1e-9
        assert po.replay_error(m.net) < 1e-12


@pytest.mark.parametrize("name", CONTINUOUS)
def test_other_values_of_the_units_violate_them(name):
    """From a point of the graph, any one output of a layer's units is moved, and its hinges or shares in any way."""
    net = NETWORKS[name]
    m = embed(net, Complementarity())
    po.set_point(m.net, np.random.default_rng(1).uniform(-1, 1, size=net.input_size))
    for block in m.net.layer.values():
        for component in block.component_objects(pyo.Var):
            for v in component.values():
                kept = v.value
                for step in (-0.1, 0.1):
                    v.set_value(kept + step, skip_validation=True)
                    assert violation(m) > 1e-3, v.name
                v.set_value(kept, skip_validation=True)
    assert violation(m) < 1e-9


def test_a_relu_s_conditions_hold_on_its_graph_alone(model):
    (h,) = Complementarity().add(model.unit, layer(model, ReLU()))
    for a in np.linspace(-2.0, 2.0, 9).tolist():
        for value in np.linspace(-2.0, 2.0, 9).tolist():
            model.a.value = a
            h.set_value(value, skip_validation=True)
            assert (violation(model) < 1e-9) == (value == max(a, 0.0))


@pytest.mark.parametrize("name", ["relu", "abs", "relu6", "leaky_steep", "maxout", "residual"])
def test_as_disjunctions_the_optimum_is_big_m_s(name):
    models = [embed(NETWORKS[name], formulation) for formulation in (Complementarity(), BigM())]
    pyo.TransformationFactory("mpec.simple_disjunction").apply_to(models[0])
    pyo.TransformationFactory("gdp.bigm").apply_to(models[0])
    for m in models:
        m.objective = pyo.Objective(expr=m.y[0] - m.y[1], sense=pyo.maximize)
    ours, reference = (po.solve(m) for m in models)
    assert (ours.status, reference.status) == ("optimal", "optimal")
    assert ours.objective == pytest.approx(reference.objective, abs=1e-5)
    assert po.replay_error(models[0].net) < 1e-5


def test_as_products_scip_finds_big_m_s_optimum():
    pytest.importorskip("pyscipopt", reason="pyscipopt is not installed")
    rng = np.random.default_rng(0)
    layers = [Affine(rng.normal(size=(3, 2)), rng.normal(size=3)), ReLU(), Affine(rng.normal(size=(1, 3)), [0])]
    net = po.Network.sequential(layers, (2,))
    ours, reference = embed(net, Complementarity()), embed(net, BigM())
    pyo.TransformationFactory("mpec.simple_nonlinear").apply_to(ours)
    for m in (ours, reference):
        m.objective = pyo.Objective(expr=m.y[0], sense=pyo.maximize)
    scip = pyo.SolverFactory("scip_direct")
    scip.options["display/verblevel"] = 0  # its log can fill the pipe through which Pyomo reads it, and block both
    scip.solve(ours)
    assert pyo.value(ours.objective) == pytest.approx(po.solve(reference).objective, abs=1e-4)


def test_a_continuous_function_with_rounding_at_its_breakpoints_is_no_jump(model):
    function = HardSigmoid(0.3, 0.1)
    (h,) = Complementarity().add(model.unit, layer(model, function))
    for a in (-5.0, 0.3, 7.0):
        Complementarity().set_values(model.unit, layer(model, function), np.array([a]))
        assert h.value == pytest.approx(function(np.array([a]))[0], abs=1e-12)


@pytest.mark.parametrize("name", SIGN_KINDS)
def test_jumps_are_refused(name):
    with pytest.raises(ValueError, match=r"has no Complementarity formulation.*without jumps"):
        embed(NETWORKS[name], Complementarity())


def test_smooth_activations_are_refused(model):
    smooth = SmoothLayer("hidden", "Tanh", [0], [[1.0]], [0.0], [model.a], [-9.0], [9.0])
    with pytest.raises(ValueError, match=r"layer 'hidden' \(Tanh\) has no Complementarity formulation"):
        Complementarity().add(model.unit, smooth)
