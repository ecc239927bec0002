"""Smooth activations between piecewise-linear bounds: nothing is cut off, and the stated error is true."""

import numpy as np
import pyomo.environ as pyo
import pytest

import polyopt as po
from formulations import BigM, Extended, SmoothLayer, Triangle
from formulations.segments import PiecewiseLinear
from polyopt.activations import ReLU, Sigmoid, Softplus, Tanh
from polyopt.layers import Affine

ACTIVATIONS = [Sigmoid(), Tanh(), Softplus(), Softplus(3.0)]
INTERVALS = [(-2.0, 3.0), (-0.5, 0.25), (0.5, 4.0), (-40.0, 1.0), (-1e4, 2e4), (25.0, 90.0), (0.3, 0.3 + 2e-6)]


def units_layer(function, variables, low, high):
    """``h = f(a)`` for each of the variables, with the same bounds."""
    n, beta = len(variables), getattr(function, "beta", 1.0)
    shared = (np.eye(n), np.zeros(n), variables, np.full(n, low), np.full(n, high))
    return SmoothLayer("units", type(function).__name__, range(n), *shared, beta=beta)


def units(function, low, high, formulation, count=1):
    m = pyo.ConcreteModel()
    m.a = pyo.Var(range(count), bounds=(low, high))
    m.unit = pyo.Block()
    layer = units_layer(function, list(m.a.values()), low, high)
    m.h = pyo.Reference(formulation.add(m.unit, layer))
    return m, layer


def units_at(points, function, low, high, formulation):
    """One unit for each point, set to it."""
    m, layer = units(function, low, high, formulation, len(points))
    m.a.set_values(dict(enumerate(points)))
    formulation.set_values(m.unit, layer, points)
    return m


def violation(model):
    """How far the loaded point is outside rows, bounds and integrality."""
    worst = 0.0
    for row in model.component_data_objects(pyo.Constraint):
        worst = max(worst, -row.lslack(), -row.uslack())
    for v in model.component_data_objects(pyo.Var):
        worst = max(worst, v.lb - v.value if v.has_lb() else 0.0, v.value - v.ub if v.has_ub() else 0.0)
        worst = max(worst, abs(v.value - round(v.value)) if not v.is_continuous() else 0.0)
    return worst


def extreme(model, expression, sense):
    model.del_component("objective")
    model.objective = pyo.Objective(expr=expression, sense=sense)
    result = po.solve(model)
    assert result.status == "optimal"
    return result.objective


@pytest.mark.parametrize("segments", [2, 7])
@pytest.mark.parametrize(("low", "high"), INTERVALS)
@pytest.mark.parametrize("function", ACTIVATIONS, ids=str)
def test_no_point_of_the_graph_is_cut_off(function, low, high, segments):
    points = np.concatenate([np.linspace(low, high, 20), np.clip(np.linspace(-3.0, 3.0, 40), low, high)])
    m = units_at(points, function, low, high, PiecewiseLinear(segments))
    assert violation(m) <= 1e-12 * (1.0 + max(abs(low), abs(high)))  # the rows of g have the size of a
    assert all(error.lb <= error.value <= error.ub for error in m.unit.error.values())
    assert [h.value for h in m.h.values()] == pytest.approx(function(points), rel=1e-15)


@pytest.mark.parametrize("function", ACTIVATIONS, ids=str)
def test_the_error_s_bounds_are_attained(function):
    """An error that is bounded too generously would be sound, and loose."""
    m = units_at(np.linspace(-2.0, 3.0, 801), function, -2.0, 3.0, PiecewiseLinear(5))
    errors = [error.value for error in m.unit.error.values()]
    assert (min(errors), max(errors)) == pytest.approx(m.unit.error[0].bounds, rel=0.05)


@pytest.mark.parametrize("function", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(("low", "high"), [(-2.0, 3.0), (0.5, 4.0), (-40.0, 1.0)])
def test_h_is_within_the_stated_error_at_fixed_inputs(function, low, high):
    formulation = PiecewiseLinear(6)
    m, layer = units(function, low, high, formulation)
    (stated,) = formulation.max_error(layer)
    for a in np.linspace(low, high, 6):
        m.a[0].fix(a)
        ends = [extreme(m, m.h[0], sense) for sense in (pyo.minimize, pyo.maximize)]
        y = function(np.array([a]))[0]
        assert ends[0] - 1e-6 <= y <= ends[1] + 1e-6
        assert max(y - ends[0], ends[1] - y) <= stated + 1e-6


@pytest.mark.parametrize("function", ACTIVATIONS, ids=str)
@pytest.mark.parametrize(("low", "high"), [(-2.0, 3.0), (-6.0, 6.0), (0.2, 1.0), (-1e3, 1e3)])
def test_the_error_falls_as_the_square_of_the_number_of_segments(function, low, high):
    layer = units_layer(function, [None], low, high)
    errors = np.array([PiecewiseLinear(n).max_error(layer)[0] for n in (16, 32, 64)])
    assert errors[1:] / errors[:-1] == pytest.approx(0.25, rel=0.2)
    # the error of the best interpolation is (integral of sqrt |f''|)^2 / (8 n^2), from finite differences here
    a = np.linspace(max(low, -20.0), min(high, 20.0), 200001)
    curvature = abs(np.diff(function(a), 2)) / (a[1] - a[0]) ** 2
    best = (np.sqrt(curvature).sum() * (a[1] - a[0])) ** 2 / (8 * 64**2)
    assert 0.9 * best < errors[2] < (1.5 if isinstance(function, Softplus) else 2.5) * best  # more at an inflection


def test_bounds_that_meet_need_no_binary():
    formulation = PiecewiseLinear(4)
    for low, high in [(0.3, 0.3), (0.3, 0.3 + 1e-9)]:
        m, layer = units(Tanh(), low, high, formulation)
        formulation.set_values(m.unit, layer, np.array([high]))
        assert not [v for v in m.component_data_objects(pyo.Var) if v.is_binary()]
        assert m.h[0].value == pytest.approx(np.tanh(0.3))
        assert formulation.max_error(layer)[0] < 2e-9


def network(*activations):
    rng = np.random.default_rng(0)
    layers, n_in = [], 2
    for activation in activations:
        layers += [Affine(rng.normal(size=(3, n_in)), 0.3 * rng.normal(size=3)), activation]
        n_in = 3
    return po.Network.sequential([*layers, Affine(rng.normal(size=(1, 3)), [0.2])], (2,))


NETS = {"tanh": (Tanh(), Tanh()), "sigmoid": (Sigmoid(),), "softplus": (Softplus(2.0),), "mixed": (ReLU(), Tanh())}


def embed(net, formulation, high=1.0):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=lambda _, i: (-1.0, high if i else 1.0))
    m.net = pyo.Block()
    m.y = pyo.Reference(po.add_network(m.net, net, m.x, formulation=formulation))
    return m


@pytest.mark.parametrize("inner", [BigM(), Extended(), Triangle()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("high", [1.0, -1.0])
@pytest.mark.parametrize("name", NETS)
def test_the_network_s_graph_is_kept(name, high, inner):
    m = embed(network(*NETS[name]), PiecewiseLinear(4, inner), high)
    for x in np.random.default_rng(1).uniform(-1, 1, size=(5, 2)):
        x[1] = min(x[1], high)
        po.set_point(m.net, x)
        assert violation(m) < 1e-9
        assert po.replay_error(m.net) < 1e-12


@pytest.mark.parametrize("name", NETS)
def test_the_optimum_brackets_the_sampled_maximum(name):
    net = network(*NETS[name])
    axis = np.linspace(-1, 1, 201)
    sampled = net(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)).max()
    coarse, fine = (extreme(m, m.y[0], pyo.maximize) for m in (embed(net, PiecewiseLinear(n)) for n in (2, 8)))
    assert sampled - 1e-6 <= fine <= coarse + 1e-6
    assert fine <= sampled + 0.05


@pytest.mark.parametrize("segments", [1, 0, -3])
def test_there_must_be_two_segments(segments):
    with pytest.raises(ValueError, match=f"segments is {segments}, but must be at least 2"):
        PiecewiseLinear(segments)
