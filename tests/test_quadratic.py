"""Concave quadratic objectives, against quadratic programs on all linear regions, SCIP, and samples."""

import itertools
import math
import pickle

import numpy as np
import pyomo.environ as pyo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chain

import polyopt as po
from polyopt import qp
from polyopt.activations import ReLU, Tanh
from polyopt.bounds import relaxation
from polyopt.bounds.interval import step
from polyopt.bounds.relaxation import Relaxation
from polyopt.bounds.result import Interval
from polyopt.bounds.rounding import charge, gamma
from polyopt.layers import Affine
from polyopt.network import INPUT, Node
from polyopt.search import halving, search
from polyopt.search.quadratic import squared
from polyopt.squares import Square

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def blind(monkeypatch):
    """No descents: the search has to find the optimum by itself, and misses it where its bounds are wrong."""
    monkeypatch.setattr(search, "descend", lambda question: None)
    monkeypatch.setattr(halving, "slide", lambda question, points, targets, boxes: question.offer(points, targets))


def problem(seed, sizes=(2, 4, 3, 2), rows=2):
    """A network, weights of outputs and inputs, and rows and numbers of a quadratic part."""
    rng = np.random.default_rng(seed)
    n, out = sizes[0], sizes[-1]
    quadratic = rng.normal(size=(rows, out + n)), rng.normal(size=rows)
    return chain(rng, "relu", sizes), rng.normal(size=out), rng.normal(size=n), quadratic


def cost(net, c, p, quadratic, x):
    """What is to be least, at points x (k, n)."""
    F, g = quadratic
    y = net(x)
    return y @ c + x @ p + ((np.hstack([y, x]) @ F.T - g) ** 2).sum(1)


def by_enumeration(net, box, c, p, quadratic, constraints):
    """The least cost: a quadratic program for each activation pattern of a ReLU chain, all in one batch."""
    F, g = quadratic
    A, b = constraints
    n, eye = net.input_size, np.eye(net.input_size)
    linear = [layer for layer in net.layers if isinstance(layer, Affine)]
    ends = np.cumsum([len(layer.bias) for layer in linear[:-1]])
    programs = []
    for pattern in itertools.product([0.0, 1.0], repeat=ends[-1]):
        W, v, rows, sides = eye, np.zeros(n), [eye, -eye, A], [box.upper, -box.lower, b]
        for layer, on in zip(linear, np.split(np.array(pattern), ends[:-1]), strict=False):
            W, v = layer.weight @ W, layer.weight @ v + layer.bias
            rows.append((1.0 - 2.0 * on)[:, None] * W)
            sides.append((2.0 * on - 1.0) * v)
            W, v = on[:, None] * W, on * v
        W, v = linear[-1].weight @ W, linear[-1].weight @ v + linear[-1].bias
        R, r = F @ np.vstack([W, eye]), F @ np.append(v, np.zeros(n)) - g
        programs.append((2.0 * R.T @ R, c @ W + p + 2.0 * R.T @ r, np.vstack(rows), np.concatenate(sides)))
    found = qp.solve(*(torch.tensor(np.stack(parts)) for parts in zip(*programs, strict=True)))
    points = np.array([z for z, name in zip(found.z.numpy(), found.names, strict=True) if name == "optimal"])
    return cost(net, c, p, quadratic, points).min() if len(points) else math.inf


def assert_answer(best, net, box, c, p, quadratic, sense="min"):
    """The point has its value, and no sample beats the bound."""
    sign = 1.0 if sense == "min" else -1.0
    x = np.vstack([box.sample(2000, np.random.default_rng(0)), best.x])
    values = sign * cost(net, sign * c, sign * p, quadratic, x)
    assert best.value == pytest.approx(values[-1], rel=1e-9, abs=1e-9)
    assert (sign * values >= sign * best.bound - 1e-9).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sense", ["min", "max"])
def test_the_optimum_is_the_least_of_all_linear_regions(seed, sense, blind):
    net, c, p, quadratic = problem(seed)
    box, sign = po.Box([-1.0, -1.0], [1.0, 1.0]), 1.0 if sense == "min" else -1.0
    rng = np.random.default_rng(seed)
    constraints = rng.normal(size=(seed % 3, 2)), rng.random(seed % 3)
    best = po.optimize(
        net, box, c, sense, input_objective=p, quadratic=quadratic, linear_constraints=constraints, gap=1e-5
    )
    assert best.status == "optimal"
    expected = sign * by_enumeration(net, box, sign * c, sign * p, quadratic, constraints)
    assert best.value == pytest.approx(expected, rel=2e-5, abs=2e-5)
    assert sign * best.bound <= sign * expected + 1e-8
    assert (constraints[0] @ best.x <= constraints[1]).all()
    assert best.value == pytest.approx(sign * cost(net, sign * c, sign * p, quadratic, best.x[None])[0], abs=1e-9)


def by_scip(net, box, c, p, quadratic):
    """The least cost by SCIP, through the big-M block."""
    F, g = quadratic
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=lambda m, i: (box.lower[i], box.upper[i]))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x, formulation=po.BigM())
    both = [*y, *m.x.values()]
    m.rest = pyo.Var(range(len(g)))
    m.rows = pyo.Constraint(
        range(len(g)), rule=lambda m, i: m.rest[i] == sum(float(f) * v for f, v in zip(F[i], both, strict=True)) - g[i]
    )
    m.square = pyo.Var()
    m.epigraph = pyo.Constraint(expr=sum(v**2 for v in m.rest.values()) <= m.square)
    linear = sum(float(w) * v for w, v in zip([*c, *p], both, strict=True))
    m.objective = pyo.Objective(expr=linear + m.square)
    options = {"display/verblevel": 0, "limits/gap": 1e-7, "numerics/feastol": 1e-8}
    pyo.SolverFactory("scip_direct", options=options).solve(m)
    return cost(net, c, p, quadratic, np.array([[pyo.value(v) for v in m.x.values()]]))[0]


@pytest.mark.parametrize("sizes", [(3, 8, 2), (2, 6, 6, 1)])
def test_the_optimum_is_scip_s(sizes):
    pytest.importorskip("pyscipopt", reason="pyscipopt is not installed")
    net, c, p, quadratic = problem(7, sizes, rows=3)
    box = po.Box([-1.0] * sizes[0], [1.0] * sizes[0])
    best = po.optimize(net, box, c, "min", input_objective=p, quadratic=quadratic, gap=1e-5)
    assert best.status == "optimal"
    assert_answer(best, net, box, c, p, quadratic)
    assert best.value == pytest.approx(by_scip(net, box, c, p, quadratic), rel=3e-5, abs=3e-5)


@pytest.mark.parametrize(
    "region",
    [
        po.Zonotope([0.1, -0.2], [[0.5, 0.3, 0.0], [0.0, 0.4, 0.5]]),
        po.VPolytope([[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]),
        po.HPolytope(np.vstack([np.eye(2), -np.eye(2), np.ones((1, 2))]), [1.0, 1.0, 1.0, 1.0, 0.5]),
    ],
    ids=lambda region: type(region).__name__,
)
def test_on_any_polytope(region):
    net, c, p, quadratic = problem(5)
    best = po.optimize(net, region, c, "max", input_objective=p, quadratic=quadratic, gap=1e-4)
    assert best.status == "optimal"
    assert region.contains(best.x)
    assert best.gap <= 1e-4
    assert_answer(best, net, region, c, p, quadratic, "max")


def test_a_projection_has_the_known_distance():
    """The point of a box nearest to one outside; without a linear part, and of an image-shaped input."""
    net = po.Network.sequential([po.layers.Reshape((4,)), Affine(np.eye(4), None)], (1, 2, 2))
    rows = np.hstack([np.zeros((4, 4)), np.eye(4)])
    target = np.array([2.0, 0.5, -3.0, 0.25])
    best = po.optimize(net, po.Box([-1.0] * 4, [1.0] * 4), np.zeros(4), "min", quadratic=(rows, target))
    assert best.value == pytest.approx(5.0, rel=2e-6)
    assert best.x == pytest.approx([1.0, 0.5, -1.0, 0.25], abs=3e-3)


def test_smooth_networks():
    rng = np.random.default_rng(0)
    layers = [Affine(rng.normal(size=(5, 2)), rng.normal(size=5)), Tanh(), Affine(rng.normal(size=(1, 5)), None)]
    net, box = po.Network.sequential(layers, (2,)), po.Box([-1.0, -1.0], [1.0, 1.0])
    quadratic = np.array([[1.0, 0.5, -0.5]]), np.array([0.3])
    best = po.optimize(net, box, [0.5], "max", quadratic=quadratic, gap=1e-4)
    assert best.status == "optimal"
    assert_answer(best, net, box, np.array([0.5]), np.zeros(2), quadratic, "max")
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 301)] * 2), -1).reshape(-1, 2)
    assert best.value == pytest.approx(-cost(net, np.array([-0.5]), np.zeros(2), quadratic, grid).min(), abs=1e-3)


def test_stopped_and_resumed():
    net, c, p, quadratic = problem(3, (4, 12, 12, 1))
    box = po.Box([-1.0] * 4, [1.0] * 4)
    stopped = po.optimize(net, box, c, "max", 0.2, input_objective=p, quadratic=quadratic, keep=True, gap=1e-4)
    assert_answer(stopped, net, box, c, p, quadratic, "max")
    state = pickle.loads(pickle.dumps(stopped.state))
    best = po.optimize(net, box, c, "max", input_objective=p, quadratic=quadratic, resume=state, gap=1e-4)
    assert best.status == "optimal"
    assert_answer(best, net, box, c, p, quadratic, "max")


@pytest.mark.parametrize("seed", range(3))
def test_a_tangent_that_is_a_chord_is_caught(seed, monkeypatch, blind):
    """Below the square there is the tangent: with the chord there, a search proves what is not so."""

    def chords(node, lower, upper):
        slope, intercept = lower + upper, -lower * upper
        return Relaxation(slope, intercept, slope, intercept)

    monkeypatch.setitem(relaxation.RULES, Square, chords)
    net, c, p, quadratic = problem(seed)
    box = po.Box([-1.0, -1.0], [1.0, 1.0])
    best = po.optimize(net, box, c, "min", input_objective=p, quadratic=quadratic, gap=1e-5)
    expected = by_enumeration(net, box, c, p, quadratic, (np.zeros((0, 2)), np.zeros(0)))
    assert best.status == "optimal"
    assert best.value > expected + 1e-2
    with pytest.raises(AssertionError):
        assert_answer(best, net, box, c, p, quadratic)


# --- the square


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(0.0, 1e3), st.sampled_from([torch.float32, torch.float64]))
def test_the_lines_enclose_the_square(lower, width, dtype):
    node = Node("square", Square(), (INPUT,), ((1,),), (1,))
    low, high = torch.tensor([[lower]], dtype=dtype), torch.tensor([[lower + width]], dtype=dtype)
    lines = relaxation.relax(node, low, high)
    a = np.linspace(float(low), float(high), 101)
    below, above = (
        float(slope) * a + float(intercept) for slope, intercept in ((lines[0], lines[1]), (lines[2], lines[3]))
    )
    rounding = 20.0 * torch.finfo(dtype).eps * (abs(a).max() ** 2 + 1e-30)
    assert (below <= a * a + rounding).all()
    assert (above >= a * a - rounding).all()
    # the tangent touches at the midpoint, the chord at both ends: none can be nearer
    assert (above - below).max() <= width**2 / 2 * (1 + 1e-5) + 2.0 * rounding


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e150, 1e150), st.floats(0.0, 1e150))
def test_the_range_of_the_square_is_exact_up_to_rounding(lower, width):
    node = Node("square", Square(), (INPUT,), ((1,),), (1,))
    low, high = np.array([[lower]]), np.array([[lower + width]])
    found = step(node, {INPUT: Interval(low, high)})
    a = np.linspace(low[0, 0], high[0, 0], 101)
    assert found.lower[0, 0] <= (a * a).min()
    assert found.upper[0, 0] >= (a * a).max()
    if low[0, 0] <= 0 <= high[0, 0]:
        assert found.lower[0, 0] == 0
    else:
        assert found.lower[0, 0] >= (a * a).min() * (1 - 1e-13)
    assert found.upper[0, 0] <= (a * a).max() * (1 + 1e-13)


def test_bounds_on_squares_hold_for_exact_numbers():
    """In single precision: what rounding costs is paid for, as double precision confirms."""
    for seed in range(5):
        net, _, _, (F, g) = problem(seed, (2, 6, 2))
        whole, box = squared(net, 300.0 * F, 300.0 * g), po.Box([0.5, 0.5], [0.5 + 1e-4, 0.5 + 1e-4])
        found = po.crown(whole, box, dtype=torch.float32).output
        values = whole(box.sample(200, np.random.default_rng(seed)))
        assert (values >= found.lower).all()
        assert (values <= found.upper).all()


def test_squares_pay_for_slopes_of_twice_their_input():
    """As ``2 S |a| + |y|`` asks, of which the samples above notice nothing, so small are the roundings they meet."""
    node = Node("square", Square(), (INPUT,), ((2,),), (2,))
    a = np.array([10.0, 1e3])
    paid = charge(7, torch.float64, node, [a], a * a)
    assert paid == pytest.approx(gamma(7, torch.float64) * (2.0 * (2.0 * a) * a + a * a), rel=1e-9)


# --- arguments


@pytest.mark.parametrize(
    ("quadratic", "message"),
    [
        (1.0, r"a pair \(F, g\)"),
        (([[1.0]], [1.0]), r"shapes \(1, 1\) and \(1,\), but must be \(m, 1 outputs \+ 2 inputs\)"),
        (([[1.0, 1.0, 1.0]], [1.0, 2.0]), r"shapes \(1, 3\) and \(2,\)"),
        (([[1.0, np.nan, 1.0]], [1.0]), "finite"),
    ],
)
def test_bad_quadratic_parts_are_named(quadratic, message):
    net = po.Network.sequential([Affine([[1.0, 1.0]], None), ReLU()], (2,))
    with pytest.raises(ValueError, match=message):
        po.optimize(net, po.Box([0.0, 0.0], [1.0, 1.0]), [1.0], quadratic=quadratic)
