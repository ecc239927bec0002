"""Activations as nonlinear equations: evaluated at points of the graph, and maximised by SCIP."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, SIGN_KINDS

import polyopt as po
from formulations import MaxLayer, PiecewiseLinearLayer, SmoothLayer
from formulations.smooth import Smooth
from polyopt.activations import Abs, Clip, LeakyReLU, Max, ReLU, Sigmoid, Softplus, Tanh
from polyopt.layers import Affine

CONTINUOUS = [name for name in NETWORKS if name not in SIGN_KINDS]
ACTIVATIONS = [Sigmoid(), Tanh(), Softplus(), Softplus(3.0)]


def embed(net, formulation, bounds="interval"):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.net = pyo.Block()
    m.y = pyo.Reference(po.add_network(m.net, net, m.x, formulation=formulation, bounds=bounds))
    return m


def violation(model):
    """How far the loaded point is outside rows and bounds."""
    worst = 0.0
    for row in model.component_data_objects(pyo.Constraint):
        worst = max(worst, -row.lslack(), -row.uslack())
    for v in model.component_data_objects(pyo.Var):
        worst = max(worst, v.lb - v.value if v.has_lb() else 0.0, v.value - v.ub if v.has_ub() else 0.0)
    return worst


def smooth_net(activation):
    rng = np.random.default_rng(0)
    layers = [Affine(rng.normal(size=(4, 2)), rng.normal(size=4)), activation]
    layers += [Affine(rng.normal(size=(2, 4)), rng.normal(size=2)), activation]
    return po.Network.sequential([*layers, Affine(rng.normal(size=(1, 2)), [0.3])], (2,))


def hidden_layer(activation):
    rng = np.random.default_rng(0)
    layers = [Affine(rng.normal(size=(4, 2)), rng.normal(size=4)), activation]
    return po.Network.sequential([*layers, Affine(rng.normal(size=(1, 4)), [0.3])], (2,))


NETS = {name: NETWORKS[name] for name in CONTINUOUS} | {str(f): smooth_net(f) for f in ACTIVATIONS}


@pytest.mark.parametrize("name", NETS)
def test_points_of_the_graph_satisfy_the_equations(name):
    net = NETS[name]
    m = embed(net, Smooth())
    for x in np.random.default_rng(0).uniform(-1, 1, size=(6, net.input_size)):
        po.set_point(m.net, x)
        assert violation(m) < 1e-9
        assert po.replay_error(m.net) < 1e-12


def unit(kind, function, low, high, formulation, beta=1.0):
    """The unit's output and its equation's right side as functions of a."""
    m = pyo.ConcreteModel()
    m.a = pyo.Var(bounds=(low, high))
    m.unit = pyo.Block()
    shared = (kind, kind, [0], [[1.0]], [0.0], [m.a], [low], [high])
    layer = (
        PiecewiseLinearLayer(*shared, *function.pieces((1,)))
        if hasattr(function, "pieces")
        else SmoothLayer(*shared, beta=beta)
    )
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, layer))

    def values(points):
        found = []
        for a in points:
            m.a.value = float(a)
            formulation.set_values(m.unit, layer, np.array([a]))
            assert violation(m) < 1e-9
            found.append(m.h[None].value)
        return np.array(found)

    return values


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [(f, *ends) for f in ACTIVATIONS for ends in [(-3.0, 2.0), (-2e4, 1.0), (-1.0, 2e4), (-9e9, -8.0), (30.0, 9e9)]],
    ids=str,
)
def test_smooth_units_do_not_overflow(function, low, high):
    beta = getattr(function, "beta", 1.0)
    points = np.concatenate([np.linspace(low, high, 7), np.linspace(max(low, -9.0), min(high, 9.0), 7)])
    points = points[(low <= points) & (points <= high)]
    values = unit(type(function).__name__, function, low, high, Smooth(), beta)(points)
    assert values == pytest.approx(function(points), rel=1e-12, abs=1e-12)


def test_bounds_over_which_exp_overflows_are_refused():
    with pytest.raises(ValueError, match=r"unit 0 has bounds \[-1000.0, 2000.0\], between which exp overflows"):
        unit("Sigmoid", Sigmoid(), -1000.0, 2000.0, Smooth())


@pytest.mark.parametrize("epsilon", [0.5, 0.01])
@pytest.mark.parametrize(
    ("function", "reach"), [(ReLU(), 3.0), (ReLU(), 0.02), (Clip(-1.0, 1.0), 3.0), (Abs(), 0.02), (LeakyReLU(0.1), 3.0)]
)
def test_smoothed_units_are_within_the_stated_error(function, reach, epsilon):
    points = np.linspace(-reach, reach, 61)
    error = unit("f", function, -reach, reach, Smooth(epsilon))(points) - function(points)
    slopes = function.pieces((1,)).slopes[:, 0]
    assert abs(error).max() <= epsilon / 2 * abs(np.diff(slopes)).sum() + 1e-12
    if not isinstance(function, Clip):  # one hinge attains the error at its breakpoint
        assert error[30] == pytest.approx(epsilon / 2 * (slopes[1] - slopes[0]), abs=1e-12)


def test_a_smoothed_maximum_is_within_the_stated_error():
    m = pyo.ConcreteModel()
    m.a = pyo.Var(range(3), bounds=(-1, 1))
    m.unit = pyo.Block()
    group = [np.arange(3)]
    layer = MaxLayer("max", "Max", range(3), np.eye(3), [0, 0, 0], list(m.a.values()), [-1] * 3, [1] * 3, group, [0])
    (y,) = Smooth(0.1).add(m.unit, layer)
    rng = np.random.default_rng(0)
    for a in [*rng.uniform(-1, 1, size=(10, 3)), np.zeros(3), np.ones(3)]:
        m.a.set_values(dict(enumerate(a)))
        Smooth(0.1).set_values(m.unit, layer, a)
        assert violation(m) < 1e-12
        assert 0.0 < y.value - a.max() <= 0.1


def maximum_of_two():
    layers = [
        ("a", Affine([[1.0, -2.0]], [0.1]), ["input"]),
        ("b", Affine([[-0.5, 1.0]], [0.4]), ["input"]),
        ("max", Max(), ["a", "b"]),
        ("y", Affine([[-1.0]], None), ["max"]),
    ]
    return po.Network(layers, (2,))


@pytest.mark.parametrize(
    ("net", "error"),
    [
        pytest.param(smooth_net(Tanh()), 0.0, id="tanh"),
        pytest.param(smooth_net(Sigmoid()), 0.0, id="sigmoid"),
        pytest.param(smooth_net(Softplus(3.0)), 0.0, id="softplus"),
        pytest.param(hidden_layer(ReLU()), 0.05, id="relu"),
        pytest.param(maximum_of_two(), 0.05, id="max"),
    ],
)
def test_scip_s_optimum_is_the_sampled_maximum(net, error):
    pytest.importorskip("pyscipopt", reason="pyscipopt is not installed")
    m = embed(net, Smooth(2 * error), bounds="crown")
    m.objective = pyo.Objective(expr=m.y[0], sense=pyo.maximize)
    scip = pyo.SolverFactory("scip_direct")
    scip.options["display/verblevel"] = 0  # its log can fill the pipe through which Pyomo reads it, and block both
    scip.options["limits/gap"] = 1e-4
    scip.solve(m)
    axis = np.linspace(-1, 1, 201)
    sampled = net(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)).max()
    assert sampled - error - 1e-3 <= pyo.value(m.objective) <= sampled + error + 0.02
    assert po.replay_error(m.net) < error + 1e-4


@pytest.mark.parametrize("name", SIGN_KINDS)
def test_jumps_are_refused(name):
    with pytest.raises(ValueError, match=r"has no Smooth formulation.*without jumps"):
        embed(NETWORKS[name], Smooth())


@pytest.mark.parametrize("epsilon", [-1.0, np.inf, np.nan])
def test_epsilon_must_be_a_number_that_is_not_negative(epsilon):
    with pytest.raises(ValueError, match="epsilon is"):
        Smooth(epsilon)


def test_an_unknown_smooth_activation_is_named():
    with pytest.raises(ValueError, match="layer 'Swish' has kind 'Swish', but must be one of Sigmoid, Tanh, Softplus"):
        unit("Swish", None, -1.0, 1.0, Smooth())
