"""The exact search, by halved inputs and by split units, against MILP, grids and samples."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, SIGN_KINDS
from strategies import chain

import polyopt as po
from polyopt.activations import ReLU, Tanh
from polyopt.layers import Affine
from polyopt.search import branching, search

CONTINUOUS = [name for name in NETWORKS if name not in (*SIGN_KINDS, "convolution")]
WAYS = {"inputs": 10**6, "phases": 0}  # the number of inputs up to which boxes are halved


def by_milp(net, box, weight, sense):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, i: (float(box.lower[i]), float(box.upper[i])))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x)
    direction = pyo.maximize if sense == "max" else pyo.minimize
    m.objective = pyo.Objective(expr=sum(float(w) * v for w, v in zip(weight, y, strict=True)), sense=direction)
    result = po.solve(m)
    assert result.status == "optimal"
    return result.objective


def check(net, box, best, weight, sense, gap=1e-6):
    """What any answer must satisfy: the point lies in the box and has its value, no sample beats the bound."""
    sign = 1.0 if sense == "max" else -1.0
    assert box.contains(best.x)
    assert best.value == pytest.approx(float(net(best.x[None])[0] @ weight), abs=1e-12)
    assert sign * best.bound >= sign * best.value - 1e-12
    assert (sign * (net(box.sample(2000, np.random.default_rng(1))) @ weight)).max() <= sign * best.bound + 1e-9
    if best.status == "optimal":
        assert best.gap <= gap * (1 + 1e-9)


@pytest.mark.parametrize("sense", ["max", "min"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_optimum_is_that_of_the_milp(name, way, sense, monkeypatch):
    monkeypatch.setattr(branching, "FEW_INPUTS", WAYS[way])
    net = NETWORKS[name]
    box, weight = po.Box([-1.0] * net.input_size, [1.0] * net.input_size), np.array([1.0, -0.5])
    best = po.optimize(net, box, weight, sense, time_limit=60)
    check(net, box, best, weight, sense)
    assert best.status == "optimal"
    assert best.value == pytest.approx(by_milp(net, box, weight, sense), abs=1e-5)


def test_a_bound_that_is_not_yet_the_optimum_holds():
    """Pooled leaky units have wide relaxations: this takes minutes to solve."""
    net = NETWORKS["convolution"]
    box, weight = po.Box([-1.0] * 12, [1.0] * 12), np.array([1.0, -0.5])
    best = po.optimize(net, box, weight, "min", time_limit=2)
    check(net, box, best, weight, "min")
    assert best.bound <= by_milp(net, box, weight, "min") + 1e-6


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed, way, monkeypatch):
    monkeypatch.setattr(branching, "FEW_INPUTS", WAYS[way])
    rng = np.random.default_rng(seed)
    kind = ("relu", "leaky", "clip", "abs")[seed % 4]
    net = chain(rng, kind, sizes=(3, 8, 8, 2))
    center = rng.normal(size=3)
    box, weight = po.Box(center - rng.random(3), center + rng.random(3)), rng.normal(size=2)
    sense = ("max", "min")[seed % 2]
    best = po.optimize(net, box, weight, sense, time_limit=20)
    check(net, box, best, weight, sense)
    assert best.status == "optimal"
    assert best.value == pytest.approx(by_milp(net, box, weight, sense), abs=1e-5)


def test_a_smooth_network_against_a_grid():
    rng = np.random.default_rng(5)
    layers = [Affine(rng.normal(size=(6, 2)), rng.normal(size=6)), Tanh(), Affine(rng.normal(size=(1, 6)), None)]
    net = po.Network.sequential(layers, (2,))
    best = po.optimize(net, po.Box([-1.0, -1.0], [1.0, 1.0]), [1.0], gap=1e-4)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), axis=-1).reshape(-1, 2)
    assert best.status == "optimal"
    assert best.value >= net(grid).max() - 1e-4
    assert best.bound >= net(grid).max()


def test_units_that_all_are_decided_leave_a_linear_program(monkeypatch):
    monkeypatch.setattr(branching, "FEW_INPUTS", 0)
    net = po.Network.sequential([Affine([[1.0, 2.0]], [10.0]), ReLU(), Affine([[3.0]], None)], (2,))
    best = po.optimize(net, po.Box([-1.0, -1.0], [1.0, 2.0]), [1.0])
    assert best.value == pytest.approx(45.0, abs=1e-9)
    np.testing.assert_allclose(best.x, [1.0, 2.0])


@pytest.mark.parametrize("way", WAYS)
def test_a_network_without_activations(way, monkeypatch):
    monkeypatch.setattr(branching, "FEW_INPUTS", WAYS[way])
    net = po.Network.sequential([Affine([[1.0, -2.0]], [0.5])], (2,))
    best = po.optimize(net, po.Box([0.0, 0.0], [1.0, 1.0]), [1.0], "min")
    assert (best.status, best.value) == ("optimal", pytest.approx(-1.5))


@pytest.mark.parametrize("way", WAYS)
def test_stopped_by_its_time_limit_it_returns_a_point_and_a_valid_bound(way, monkeypatch):
    monkeypatch.setattr(branching, "FEW_INPUTS", WAYS[way])
    net = chain(np.random.default_rng(0), "relu", sizes=(10, 60, 60, 1))
    box = po.Box([-1.0] * 10, [1.0] * 10)
    best = po.optimize(net, box, [1.0], time_limit=0.5)
    assert best.status == "time limit"
    assert best.seconds < 5
    check(net, box, best, np.ones(1), "max")
    assert best.bound <= po.crown(net, box).output.upper[0] + 1e-9


def test_stopped_by_hand_it_returns_a_point_and_a_valid_bound(monkeypatch):
    calls = []

    def stop(self):
        calls.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(search.Search, "step", stop)
    net = chain(np.random.default_rng(0), "relu", sizes=(4, 20, 20, 1))
    box = po.Box([-1.0] * 4, [1.0] * 4)
    best = po.optimize(net, box, [1.0])
    assert len(calls) == 1
    assert best.status == "interrupted"
    check(net, box, best, np.ones(1), "max")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": [1.0, 2.0]}, r"objective has shape \(2,\)"),
        ({"objective": [np.nan]}, "finite"),
        ({"sense": "maximize"}, "choose 'max' or 'min'"),
        ({"region": po.Box([0.0], [1.0])}, "2 dimensions"),
        ({"region": po.Box(np.zeros((3, 2)), np.ones((3, 2)))}, "one Box"),
        ({"time_limit": 0.0}, "positive seconds"),
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
