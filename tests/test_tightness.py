"""How tight the formulations are: linear relaxations against convex hulls, against each other and against pyomo.gdp.

A row that is loosened is still sound and passes every soundness test; here it fails.
"""

import numpy as np
import pyomo.environ as pyo
import pyomo.gdp as gdp
import pytest
from cases import NETWORKS

import polyopt as po
from formulations import BigM, MaxLayer, PiecewiseLinearLayer, Triangle
from polyopt.activations import Abs, Clip, HardSigmoid, LeakyReLU, PReLU, ReLU, Sign, Step

FUNCTIONS = {
    "relu": ReLU(),
    "leaky": LeakyReLU(0.1),
    "steep": LeakyReLU(1.5),
    "prelu": PReLU(-0.5),
    "abs": Abs(),
    "relu6": Clip(0.0, 1.0),
    "hardtanh": Clip(-1.0, 1.0),
    "hardsigmoid": HardSigmoid(0.4, 0.3),
    "sign": Sign(),
    "step": Step(),
    "step_half": Step(0.5),
}
INTERVALS = [(-2.0, 3.0), (-0.5, 0.25), (-3.0, 0.9), (-0.1, 4.0), (0.0, 1.5), (-2.0, 0.0)]


def relaxed(model):
    """The model without integrality."""
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(model)
    return model


def maximum(model, expression):
    model.del_component("objective")
    model.objective = pyo.Objective(expr=expression, sense=pyo.maximize)
    result = po.solve(model)
    assert result.status == "optimal"
    return result.objective


def unit_layer(function, variable, low, high):
    """h = f(a) for one pre-activation a in [low, high]."""
    return PiecewiseLinearLayer("unit", "f", [0], [[1.0]], [0.0], [variable], [low], [high], *function.pieces((1,)))


def one_unit(function, formulation, low, high):
    m = pyo.ConcreteModel()
    m.a = pyo.Var(bounds=(low, high))
    m.unit = pyo.Block()
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, unit_layer(function, m.a, low, high)))
    return m


UNDECIDED = [
    (name, low, high)
    for name, function in FUNCTIONS.items()
    for low, high in INTERVALS
    if unit_layer(function, None, low, high).crossed.any()
]


def graph(function, low, high):
    """Points (a, h) of the closure of the graph: a grid, the ends, and both sides of each breakpoint."""
    breakpoints = function.pieces((1,)).breakpoints[:, 0]
    a = np.concatenate([np.linspace(low, high, 101), *(t + np.array([-1e-12, 0.0, 1e-12]) for t in breakpoints)])
    a = a[(low <= a) & (a <= high)]
    return a, function(a[None])[0]


@pytest.mark.parametrize("formulation", [BigM(), Triangle()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(("name", "low", "high"), UNDECIDED)
def test_one_unit_s_relaxation_is_the_convex_hull_of_its_graph(name, low, high, formulation):
    m = one_unit(FUNCTIONS[name], formulation, low, high)
    relaxed(m)
    a, h = graph(FUNCTIONS[name], low, high)
    for angle in np.linspace(0.1, 6.3, 9):
        c, d = np.cos(angle), np.sin(angle)
        assert maximum(m, c * m.a + d * m.h[None]) == pytest.approx((c * a + d * h).max(), abs=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_big_m_is_locally_ideal(name):
    m = relaxed(one_unit(FUNCTIONS[name], BigM(), -2.0, 3.0))
    sigma = list(m.unit.sigma.values())
    for weights in np.random.default_rng(0).normal(size=(20, 2 + len(sigma))):
        w = weights.tolist()
        maximum(m, w[0] * m.a + w[1] * m.h[None] + sum(c * s for c, s in zip(w[2:], sigma, strict=True)))
        assert all(abs(s.value - round(s.value)) < 1e-7 for s in sigma)


@pytest.mark.parametrize("transformation", ["gdp.bigm", "gdp.hull"])
@pytest.mark.parametrize(("low", "high"), INTERVALS[:4])
def test_one_relu_has_the_bounds_of_pyomo_gdp(transformation, low, high):
    """gdp.bigm is given the M of eq. (4), as its own, from the variables' bounds alone, are larger."""
    reference = pyo.ConcreteModel()
    reference.a, reference.h = pyo.Var(bounds=(low, high)), pyo.Var(bounds=(0, high))
    reference.on, reference.off = gdp.Disjunct(), gdp.Disjunct()
    reference.on.value = pyo.Constraint(expr=reference.h - reference.a == 0)
    reference.on.sign = pyo.Constraint(expr=reference.a >= 0)
    reference.off.value = pyo.Constraint(expr=reference.h == 0)
    reference.off.sign = pyo.Constraint(expr=reference.a <= 0)
    reference.always = pyo.Constraint(expr=reference.h >= reference.a)
    reference.either = gdp.Disjunction(expr=[reference.on, reference.off])
    options = (
        {"bigM": {reference.on.value: (low, -low), reference.off.value: (-high, high)}}
        if "bigm" in transformation
        else {}
    )
    pyo.TransformationFactory(transformation).apply_to(reference, **options)
    m = relaxed(one_unit(ReLU(), BigM(), low, high))
    relaxed(reference)
    for angle in np.linspace(0.1, 6.3, 9):
        c, d = np.cos(angle), np.sin(angle)
        expected = maximum(reference, c * reference.a + d * reference.h)
        assert maximum(m, c * m.a + d * m.h[None]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("maxout", "residual", "convolution")])
def test_big_m_relaxes_to_the_triangle_on_whole_networks(name):
    net = NETWORKS[name]
    bounds = []
    for formulation in (BigM(), Triangle()):
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
        m.net = pyo.Block()
        y = po.add_network(m.net, net, m.x, formulation=formulation, bounds="interval")
        relaxed(m)
        bounds.append([maximum(m, y[0]), maximum(m, y[1] - y[0])])
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-6)


def max_unit(formulation, lower, upper):
    m = pyo.ConcreteModel()
    m.a = pyo.Var(range(len(lower)), bounds=lambda _, i: (lower[i], upper[i]))
    m.unit = pyo.Block()
    n = len(lower)
    layer = MaxLayer(
        "max", "Max", range(n), np.eye(n), np.zeros(n), list(m.a.values()), lower, upper, [np.arange(n)], [0]
    )
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, layer))
    return m


@pytest.mark.parametrize("formulation", [BigM(), Triangle()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(
    ("lower", "upper"), [([0.0, 0.0], [1.0, 1.0]), ([-1.0, 0.0], [2.0, 1.0]), ([-3.0, -1.0], [0.5, 2.0])]
)
def test_the_maximum_of_two_relaxes_to_its_convex_hull(formulation, lower, upper):
    m = relaxed(max_unit(formulation, lower, upper))
    corners = np.array([[x, y] for x in (lower[0], upper[0]) for y in (lower[1], upper[1])])
    diagonal = np.array([[t, t] for t in (max(lower), min(upper))])
    points = np.vstack([corners, diagonal])
    for c0, c1, d in np.random.default_rng(0).normal(size=(12, 3)).tolist():
        expected = (points @ [c0, c1] + d * points.max(1)).max()
        assert maximum(m, c0 * m.a[0] + c1 * m.a[1] + d * m.h[None]) == pytest.approx(expected, abs=1e-7)


def test_the_maximum_of_four_has_the_tightest_m():
    """With a_j least and another member greatest, ``y <= a_j + M_j (1 - z_j)`` is attained: a smaller M cuts it off."""
    lower, upper = [-1.0, -2.0, 0.0, -0.5], [1.0, 2.0, 0.5, 3.0]
    m = max_unit(BigM(), lower, upper)
    for j, row in enumerate(m.unit.at_most.values()):
        others = max(u for k, u in enumerate(upper) if k != j)
        assert row.ub == others - lower[j]
