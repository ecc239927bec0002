"""The exact search, by halved inputs and by split units, against vertices, enumeration, MILP, grids and samples."""

import itertools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import pyomo.environ as pyo
import pytest
import torch
from cases import NETWORKS, SIGN_KINDS
from scipy.optimize import linprog
from strategies import chain
from vertices import image, least
from workers import Reviving, deadly

import polyopt as po
from polyopt.activations import ReLU, Tanh
from polyopt.layers import Affine
from polyopt.search import branching, halving, search, sharing
from polyopt.search.inside import Inside

CONTINUOUS = [name for name in NETWORKS if name not in (*SIGN_KINDS, "convolution", "relu6")]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def blind(monkeypatch):
    """No descents: the search has to find the optimum by itself, and misses it where its bounds are wrong."""
    monkeypatch.setattr(search, "descend", lambda question: None)
    monkeypatch.setattr(halving, "slide", lambda question, points, targets, boxes: question.offer(points, targets))


def check(net, region, best, weight, sense, gap=1e-6, constraints=None, p=0.0):
    """What any answer must satisfy: the point is feasible and has its value, no sample beats the bound."""
    sign = 1.0 if sense == "max" else -1.0
    assert region.contains(best.x)
    assert best.value == pytest.approx(float(net(best.x[None])[0] @ weight + (best.x * p).sum()), abs=1e-12)
    assert sign * best.bound >= sign * best.value - 1e-12
    x = region.sample(500, np.random.default_rng(1))
    if constraints is not None:
        A, b = constraints
        assert (A @ best.x <= b).all()
        x = x[(x @ A.T <= b).all(1)]
    assert (sign * (net(x) @ weight + (x * p).sum(1))).max(initial=-np.inf) <= sign * best.bound + 1e-9
    if best.status == "optimal":
        assert best.gap <= gap * (1 + 1e-9)


def polytope(rng, n):
    """A cube cut by two rows that leave a known point."""
    rows, inside = rng.normal(size=(2, n)), rng.uniform(-0.5, 0.5, n)
    A = np.vstack([np.eye(n), -np.eye(n), rows])
    return po.HPolytope(A, np.concatenate([np.ones(2 * n), rows @ inside + 0.3]))


def product(rng, n):
    return po.Product(po.VPolytope(rng.normal(size=(3, 1))), po.Box(-rng.random(n - 1), rng.random(n - 1)))


REGIONS = {
    "box": lambda rng, n: po.Box(*np.sort(rng.normal(size=(2, n)), axis=0)),
    "zonotope": lambda rng, n: po.Zonotope(rng.normal(size=n), 0.5 * rng.normal(size=(n, 3))),
    "vpolytope": lambda rng, n: po.VPolytope(rng.normal(size=(n + 2, n))),
    "hpolytope": polytope,
    "product": product,
}


def question(rng, region, n):
    """Up to three constraints near a point of the region, and an objective, half of the time on the inputs too."""
    A = rng.normal(size=(rng.integers(0, 4), n))
    b = A @ region.sample(1, rng)[0] + rng.choice([0.3, 0.05, 0.0, -0.2], size=len(A))
    return (A, b), rng.normal(size=2), rng.normal(size=n) * rng.integers(0, 2)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("kind", REGIONS)
def test_the_optimum_is_at_one_of_all_vertices(kind, part, way, blind):
    for seed in range(2):
        rng = np.random.default_rng([seed, part, len(way)])
        activation, n = ("relu", "leaky", "clip", "abs")[(seed + 2 * part) % 4], (2, 3)[part % 2]
        net, region = chain(rng, activation, (n, 4, 2)), REGIONS[kind](rng, n)
        constraints, c, p = question(rng, region, n)
        best = po.optimize(net, region, c, "min", linear_constraints=constraints, input_objective=p, time_limit=20)
        expected = least(net, region, c, p, *constraints)
        if expected == math.inf:
            assert best.status == "infeasible"
            continue
        assert best.status == "optimal"
        assert best.value == pytest.approx(expected, abs=2e-6, rel=2e-6)
        assert best.bound <= expected + 1e-9 * (1.0 + abs(expected))
        check(net, region, best, c, "min", constraints=constraints, p=p)


def by_enumeration(net, region, c, constraints):
    """The least ``c net(x)`` of a ReLU chain: a linear program for each activation pattern."""
    x0, M, G, h = image(region)
    A, b = constraints
    linear = [layer for layer in net.layers if isinstance(layer, Affine)]
    ends = np.cumsum([len(layer.bias) for layer in linear[:-1]])
    found = math.inf
    for pattern in itertools.product([0.0, 1.0], repeat=ends[-1]):
        W, v, rows, sides = M, x0, [G, A @ M], [h, b - A @ x0]
        for layer, on in zip(linear, np.split(np.array(pattern), ends[:-1]), strict=False):
            W, v = layer.weight @ W, layer.weight @ v + layer.bias
            rows.append((1.0 - 2.0 * on)[:, None] * W)
            sides.append((2.0 * on - 1.0) * v)
            W, v = on[:, None] * W, on * v
        W, v = c @ linear[-1].weight @ W, c @ (linear[-1].weight @ v + linear[-1].bias)
        program = linprog(W, np.vstack(rows), np.concatenate(sides), bounds=(None, None))
        found = min(found, program.fun + v if program.status == 0 else math.inf)
    return found


@pytest.mark.parametrize("kind", REGIONS)
def test_the_optimum_is_the_least_of_all_linear_regions(kind, way):
    rng = np.random.default_rng([len(way), 7])
    net, region = chain(rng, "relu", (2, 2, 2, 2)), REGIONS[kind](rng, 2)
    constraints, c, _ = question(rng, region, 2)
    best = po.optimize(net, region, -c, "max", linear_constraints=constraints, time_limit=20)
    expected = by_enumeration(net, region, c, constraints)
    assert best.status == ("infeasible" if expected == math.inf else "optimal")
    if expected < math.inf:
        assert best.value == pytest.approx(-expected, abs=2e-6, rel=2e-6)


@cache
def by_milp(name, sense, constrained, solver="highs"):
    net = NETWORKS[name]
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1.0, 1.0))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x)
    if constrained:
        m.rows = pyo.ConstraintList()
        A, b = rows_of(net.input_size)
        for row, limit in zip(A, b, strict=True):
            m.rows.add(sum(float(a) * x for a, x in zip(row, m.x.values(), strict=True)) <= float(limit))
    direction = pyo.maximize if sense == "max" else pyo.minimize
    m.objective = pyo.Objective(expr=sum(float(w) * v for w, v in zip(WEIGHT, y, strict=True)), sense=direction)
    if solver == "scip":
        pyo.SolverFactory("scip_direct", options={"display/verblevel": 0, "limits/gap": 1e-9}).solve(m)
        return pyo.value(m.objective)
    result = po.solve(m)
    assert result.status == "optimal"
    return result.objective


WEIGHT = np.array([1.0, -0.5])


def rows_of(n):
    rng = np.random.default_rng(n)
    return rng.normal(size=(2, n)), np.array([0.2, 0.3])


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_optimum_is_that_of_the_milp(name, way):
    net, sense = NETWORKS[name], ("min", "max")[len(name) % 2]
    constraints = rows_of(net.input_size)
    box = po.Box([-1.0] * net.input_size, [1.0] * net.input_size)
    best = po.optimize(net, box, WEIGHT, sense, time_limit=60, linear_constraints=constraints)
    check(net, box, best, WEIGHT, sense, constraints=constraints)
    assert best.status == "optimal"
    assert best.value == pytest.approx(by_milp(name, sense, True), abs=1e-5)


@pytest.mark.parametrize("name", ["relu", "residual", "maxout"])
def test_the_optimum_is_scip_s(name):
    pytest.importorskip("pyscipopt", reason="pyscipopt is not installed")
    net = NETWORKS[name]
    box = po.Box([-1.0] * 3, [1.0] * 3)
    best = po.optimize(net, box, WEIGHT, "max", time_limit=60)
    check(net, box, best, WEIGHT, "max")
    assert best.value == pytest.approx(by_milp(name, "max", False, "scip"), abs=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_finds_the_same(way):
    rng = np.random.default_rng(3)
    net, box, c = chain(rng, "relu", (4, 10, 10, 2)), po.Box(-np.ones(4), np.ones(4)), rng.normal(size=2)
    here, there = (po.optimize(net, box, c, time_limit=30, device=device) for device in ("cpu", "cuda"))
    assert here.status == there.status == "optimal"
    assert there.value == pytest.approx(here.value, rel=1e-5)
    prop = po.Property(box, unsafe=[po.HPolytope(-c[None], [-here.value - 1e-3])])
    assert po.verify(net, prop, time_limit=30, device="cuda").status == "verified"


def test_a_bound_that_is_not_yet_the_optimum_holds():
    """Pooled leaky units have wide relaxations: this takes minutes to solve."""
    net = NETWORKS["convolution"]
    box = po.Box([-1.0] * 12, [1.0] * 12)
    best = po.optimize(net, box, WEIGHT, "min", time_limit=1)
    check(net, box, best, WEIGHT, "min")
    assert best.bound <= by_milp("convolution", "min", False) + 1e-6


def test_a_smooth_network_against_a_grid():
    rng = np.random.default_rng(5)
    layers = [Affine(rng.normal(size=(4, 2)), rng.normal(size=4)), Tanh(), Affine(rng.normal(size=(1, 4)), None)]
    net = po.Network.sequential(layers, (2,))
    rows = np.array([[1.0, 1.0]]), np.array([0.5])
    best = po.optimize(net, po.Box([-1.0, -1.0], [1.0, 1.0]), [1.0], gap=1e-3, linear_constraints=rows)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), axis=-1).reshape(-1, 2)
    values = net(grid[grid.sum(1) <= 0.5])
    assert best.status == "optimal"
    assert best.value >= values.max() * (1.0 - 1e-3)
    assert best.bound >= values.max()


def test_units_that_all_are_decided_leave_a_linear_program(monkeypatch):
    monkeypatch.setattr(branching, "FEW_INPUTS", 0)
    monkeypatch.setattr(branching, "MANY_INPUTS", 0)
    net = po.Network.sequential([Affine([[1.0, 2.0]], [10.0]), ReLU(), Affine([[3.0]], None)], (2,))
    best = po.optimize(net, po.Box([-1.0, -1.0], [1.0, 2.0]), [1.0])
    assert best.value == pytest.approx(45.0, abs=1e-9)
    np.testing.assert_allclose(best.x, [1.0, 2.0])


def test_a_network_without_activations(way):
    net = po.Network.sequential([Affine([[1.0, -2.0]], [0.5])], (2,))
    best = po.optimize(net, po.Box([0.0, 0.0], [1.0, 1.0]), [1.0], "min")
    assert (best.status, best.value) == ("optimal", pytest.approx(-1.5))
    rows = np.array([[1.0, 1.0]]), np.array([0.5])
    best = po.optimize(net, po.Box([0.0, 0.0], [1.0, 1.0]), [1.0], "min", linear_constraints=rows)
    assert (best.status, best.value) == ("optimal", pytest.approx(-0.5))


def test_flat_polytopes_hold_up_to_rounding(way):
    """The segment x + y = 1 in the unit square, as rows, as constraints, as a hull of points."""
    net = po.Network.sequential([Affine([[1.0, -1.0], [-1.0, 1.0]], [0.0, -0.5]), ReLU()], (2,))
    square = po.Box([0.0, 0.0], [1.0, 1.0])
    equal = np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([1.0, -1.0])
    A = np.vstack([np.eye(2), -np.eye(2), equal[0]])
    region = po.HPolytope(A, np.concatenate([np.ones(2), np.zeros(2), equal[1]]))
    answers = [
        po.optimize(net, square, [1.0, 1.0], linear_constraints=equal),
        po.optimize(net, region, [1.0, 1.0]),
        po.optimize(net, po.VPolytope([[1.0, 0.0], [0.0, 1.0]]), [1.0, 1.0]),
    ]
    for best in answers:
        assert (best.status, best.value) == ("optimal", pytest.approx(1.0, abs=1e-6))
        np.testing.assert_allclose(best.x, [1.0, 0.0], atol=1e-6)


def test_one_point():
    net = po.Network.sequential([ReLU()], (2,))
    for region in (
        po.Box([0.5, -1.0], [0.5, -1.0]),
        po.VPolytope([[0.5, -1.0]]),
        po.Zonotope([0.5, -1.0], [[0.0]] * 2),
    ):
        best = po.optimize(net, region, [1.0, 1.0])
        assert (best.status, best.value) == ("optimal", 0.5)
        np.testing.assert_array_equal(best.x, [0.5, -1.0])


def test_no_point_is_a_proof():
    net = po.Network.sequential([ReLU()], (2,))
    box, rows = po.Box([0.0, 0.0], [1.0, 1.0]), np.array([[1.0, 1.0], [-1.0, -1.0]])
    best = po.optimize(net, box, [1.0, 0.0], linear_constraints=(rows, [0.5, -0.6]))
    assert (best.status, best.x, best.value, best.bound, best.gap) == ("infeasible", None, -np.inf, -np.inf, np.inf)
    best = po.optimize(net, box, [1.0, 0.0], "min", linear_constraints=(rows, [0.5, -0.5]))
    assert (best.status, best.value) == ("optimal", pytest.approx(0.0))


def test_points_are_moved_to_where_rows_hold():
    rng = np.random.default_rng(0)
    box = po.Box([-1.0] * 4, [1.0] * 4)
    G, h = rng.normal(size=(5, 4)), rng.random(5) * 0.2
    inside = Inside(box, G, h, abs(G).sum(1) + h, 4)
    points = box.sample(1000, rng)
    moved = inside(points)
    assert (moved @ G.T <= h).all()
    assert box.contains(moved).all()
    held = (points @ G.T <= h - 1e-9).all(1)
    assert 0 < held.sum() < 900
    np.testing.assert_array_equal(moved[held], points[held])
    assert not Inside(box, G, h, abs(G).sum(1) + h, 4).proven_empty
    assert Inside(box, np.vstack([G, -G]), np.append(h, -h - 1e-6), np.tile(abs(G).sum(1) + h, 2), 4).proven_empty


DEEP = chain(np.random.default_rng(0), "relu", sizes=(6, 24, 24, 1))
CUBE = po.Box([-1.0] * 6, [1.0] * 6)


@cache
def deepest():
    best = po.optimize(DEEP, CUBE, [1.0])
    assert best.status == "optimal"
    return best


def test_stopped_by_its_time_limit_it_returns_a_point_and_a_valid_bound(way):
    net = chain(np.random.default_rng(0), "relu", sizes=(10, 60, 60, 1))
    box = po.Box([-1.0] * 10, [1.0] * 10)
    best = po.optimize(net, box, [1.0], time_limit=0.5)
    assert best.status == "time limit"
    assert best.seconds < 3
    check(net, box, best, np.ones(1), "max")
    assert best.bound <= po.crown(net, box).output.upper[0] + 1e-9 or best.bound == np.inf


def test_long_steps_keep_the_limit_too():
    """A step of ascent on 2 x 400 units takes seconds."""
    net = chain(np.random.default_rng(0), "relu", sizes=(50, 400, 400, 1))
    box = po.Box([-1.0] * 50, [1.0] * 50)
    best = po.optimize(net, box, [1.0], time_limit=0.3)
    assert best.status == "time limit"
    assert best.seconds < 2.5
    check(net, box, best, np.ones(1), "max")


@pytest.mark.parametrize("steps", [0, 4])
def test_stopped_by_hand_it_returns_a_point_and_a_valid_bound(steps, monkeypatch):
    calls, step = [], search.Search.step

    def stop(self):
        calls.append(self)
        if len(calls) > steps:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(search.Search, "step", stop)
    best = po.optimize(DEEP, CUBE, [1.0])
    assert len(calls) == steps + 1
    assert best.status == "interrupted"
    check(DEEP, CUBE, best, np.ones(1), "max")
    assert (best.bound < np.inf) == (steps > 0)


def test_what_only_rounding_leaves_open_is_not_called_optimal(way):
    net = chain(np.random.default_rng(1), "relu", sizes=(2, 4, 1))
    best = po.optimize(net, po.Box([-1.0, -1.0], [1.0, 1.0]), [1.0], gap=0.0, time_limit=5)
    assert best.status in ("stuck", "time limit")
    assert best.value <= best.bound <= best.value + 1e-9


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_stopped_and_resumed_it_ends_at_the_same_optimum(share):
    stopped = po.optimize(DEEP, CUBE, [1.0], time_limit=max(0.05, share * deepest().seconds), keep=True)
    state = pickle.loads(pickle.dumps(stopped.state))
    best = po.optimize(DEEP, CUBE, [1.0], resume=state)
    assert (best.status, best.value) == ("optimal", pytest.approx(deepest().value, rel=2e-6, abs=2e-6))
    check(DEEP, CUBE, best, np.ones(1), "max")
    assert best.branches >= stopped.branches


def test_a_state_goes_on_step_by_step(monkeypatch):
    """Stopped after every step, and resumed each time, the search still ends, at the same optimum."""
    step, state, bounds = search.Search.step, None, []

    def once(self):
        if getattr(self, "stepped", False):
            raise KeyboardInterrupt
        self.stepped = self.branching is not None
        step(self)

    monkeypatch.setattr(search.Search, "step", once)
    for _ in range(100):
        best = po.optimize(DEEP, CUBE, [1.0], keep=True, resume=state)
        state = best.state
        bounds.append(best.bound)
        if best.status != "interrupted":
            break
    assert len(bounds) > 3
    assert (best.status, best.value) == ("optimal", pytest.approx(deepest().value, rel=2e-6, abs=2e-6))
    assert min(bounds) >= deepest().value - 1e-9


def test_a_state_belongs_to_its_question():
    stopped = po.optimize(DEEP, CUBE, [1.0], time_limit=0.1, keep=True)
    with pytest.raises(ValueError, match="of another network, region, objective or sense"):
        po.optimize(DEEP, CUBE, [1.0], "min", resume=stopped.state)


# --- executors


@pytest.fixture
def shared(many_parts, monkeypatch):
    """The answers that come in for many small parts."""
    answers, take = [], sharing.Shared._take

    def counted(self, future, branching):
        answers.append(future)
        return take(self, future, branching)

    monkeypatch.setattr(sharing.Shared, "_take", counted)
    return answers


def assert_same(best):
    assert (best.status, best.value) == ("optimal", pytest.approx(deepest().value, rel=2e-6, abs=2e-6))
    check(DEEP, CUBE, best, np.ones(1), "max")


def test_processes_share_the_work_and_one_that_dies_loses_nothing(shared, monkeypatch, tmp_path):
    monkeypatch.setattr(sharing, "work", partial(deadly, str(tmp_path / "flag")))
    with Reviving() as executor, pytest.warns(RuntimeWarning, match="failed with BrokenProcessPool"):
        assert_same(po.optimize(DEEP, CUBE, [1.0], executor=executor))
    worked = [future.exception() is None for future in shared]
    assert not all(worked)
    assert sum(worked) > 1


def test_an_executor_that_never_works_leaves_the_search_as_it_was(shared):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.warns(RuntimeWarning, match="failed with RuntimeError.*shutdown"):
        assert_same(po.optimize(DEEP, CUBE, [1.0], executor=executor))
    assert not shared


def test_threads_with_constraints_stop_at_the_time_limit_and_resume(shared):
    rows = np.ones((1, 6)), np.array([-0.5])
    alone = po.optimize(DEEP, CUBE, [1.0], linear_constraints=rows)
    with ThreadPoolExecutor(2) as executor:
        ask = partial(po.optimize, DEEP, CUBE, [1.0], linear_constraints=rows, executor=executor)
        stopped = ask(time_limit=0.5 * alone.seconds, keep=True)
        check(DEEP, CUBE, stopped, np.ones(1), "max", constraints=rows)
        best = ask(resume=stopped.state)
    assert (best.status, best.value) == ("optimal", pytest.approx(alone.value, rel=2e-6, abs=2e-6))
    check(DEEP, CUBE, best, np.ones(1), "max", constraints=rows)


# --- arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": [1.0, 2.0]}, r"objective has shape \(2,\)"),
        ({"objective": [np.nan]}, "finite"),
        ({"input_objective": [1.0]}, r"input_objective has shape \(1,\)"),
        ({"sense": "maximize"}, "choose 'max' or 'min'"),
        ({"region": po.Box([0.0], [1.0])}, "1 dimensions, but the network has 2 inputs"),
        ({"region": po.Box(np.zeros((3, 2)), np.ones((3, 2)))}, "a batch of 3 boxes"),
        ({"region": po.Ellipsoid([0.0, 0.0], np.eye(2))}, "an Ellipsoid is no polytope"),
        ({"region": po.HPolytope([[1.0, 0.0]], [1.0])}, "unbounded"),
        ({"time_limit": 0.0}, "positive seconds"),
        ({"gap": -1.0}, "must not be negative"),
        ({"linear_constraints": [1.0]}, r"a pair \(A, b\)"),
        ({"linear_constraints": ([[1.0]], [1.0])}, r"shapes \(1, 1\) and \(1,\), but must be \(m, 2\)"),
        ({"linear_constraints": ([[1.0, 1.0]], [np.inf])}, "must be finite"),
    ],
)
def test_bad_arguments_are_named(change, message):
    net = po.Network.sequential([Affine([[1.0, 1.0]], None), ReLU()], (2,))
    arguments = {"region": po.Box([0.0, 0.0], [1.0, 1.0]), "objective": [1.0]} | change
    with pytest.raises(ValueError, match=message):
        po.optimize(net, **arguments)


def test_a_layer_that_jumps_is_refused():
    net = NETWORKS["sign"]
    with pytest.raises(ValueError, match=r"layer '1' \(Sign\) jumps"):
        po.optimize(net, po.Box([-1.0] * 3, [1.0] * 3), [1.0, 0.0])
