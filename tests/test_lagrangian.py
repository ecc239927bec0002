"""Lagrangian bounds against samples of the domain, CROWN, and the linear relaxation that they are dual to."""

import numpy as np
import pyomo.environ as pyo
import pytest
import torch
from strategies import chain, residual

import polyopt as po
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.lagrangian import Cutoff, ascend
from polyopt.bounds.units import Units
from polyopt.network import INPUT
from polyopt.search.cutoff import tightened
from polyopt.search.question import Question

KINDS = ["relu", "leaky_steep", "prelu", "clip", "hard_sigmoid", "abs", "sign", "step", "tanh", "softplus"]


def pre_activations(net, x):
    """All pre-activations (m, n) at points, end to end."""
    values = net.values(x)
    return np.concatenate([values[node.inputs[0]].reshape(len(x), -1) for node in net.activations], axis=1)


def crown_sides(net, box):
    bounds = po.crown(net, box)
    lower = np.concatenate([pre.lower for pre in bounds.pre])
    upper = np.concatenate([pre.upper for pre in bounds.pre])
    return torch.tensor(np.stack([lower, -upper]))


def over(box):
    center, radius = torch.tensor(box.center), torch.tensor(box.radius)
    return lambda A: (A @ center - A.abs() @ radius, center - radius * A.sign())


def networks():
    for seed, kind in enumerate(KINDS):
        rng = np.random.default_rng(seed)
        yield pytest.param(chain(rng, kind, sizes=(3, 6, 5, 2)), rng, id=kind)
        yield pytest.param(residual(rng, kind), rng, id=f"{kind}-residual")


@pytest.mark.parametrize(("net", "rng"), list(networks()))
@pytest.mark.parametrize("steps", [0, 5])
def test_no_sample_of_a_domain_is_below_its_bound_whatever_the_multipliers(net, rng, steps):
    box = po.Box([-1.0] * 3, [1.0] * 3)
    backward = Backward(net)
    propagate(backward, net, box)
    units = Units(net, backward)
    x = box.sample(4000, rng)
    a = pre_activations(net, x)
    batch = 12
    sides = crown_sides(net, box).unsqueeze(1).repeat(1, batch, 1)
    splits = a[
        rng.integers(len(a), size=batch)
    ]  # domains that hold samples: some units on one side of a sample's value
    split = rng.random(splits.shape) < 0.2
    side = rng.integers(2, size=splits.shape)
    for s, sign in ((0, 1.0), (1, -1.0)):
        sides[s] = torch.where(torch.tensor(split & (side == s)), torch.tensor(sign * splits), sides[s])
    slopes = torch.tensor(rng.uniform(-1.0, 2.0, size=(2, batch, sum(units.sizes))))
    prices = torch.tensor(np.maximum(rng.normal(size=sides.shape), 0.0))
    on_output, on_input = rng.normal(size=(batch, 2)), rng.normal(size=(batch, 3))
    rows = {net.nodes[-1].name: torch.tensor(on_output), INPUT: torch.tensor(on_input)}
    found = ascend(backward, units, rows, sides, over(box), steps, start=(slopes, prices))
    values = net(x) @ on_output.T + x @ on_input.T
    low, high = sides[0].numpy(), -sides[1].numpy()
    inside = ((a[:, None] >= low - 1e-12) & (a[:, None] <= high + 1e-12)).all(2)
    assert inside.any(0).all()
    least = np.where(inside, values, np.inf).min(0)
    assert (found.bound.numpy() <= least + 1e-9).all()
    assert torch.equal(torch.fmax(found.bound, found.last), found.bound)


@pytest.mark.parametrize(("net", "rng"), list(networks()))
def test_a_cutoff_bounds_those_samples_that_keep_to_it(net, rng):
    box = po.Box([-1.0] * 3, [1.0] * 3)
    backward = Backward(net)
    propagate(backward, net, box)
    x = box.sample(4000, rng)
    values = net(x)
    cutoff = float(np.quantile(values[:, 0], 0.1))
    sides = crown_sides(net, box).unsqueeze(1).repeat(1, 6, 1)
    weight, output = rng.normal(size=(6, 2)), net.nodes[-1].name
    scale = torch.tensor(rng.uniform(0.0, 3.0, size=6))
    limit = Cutoff({output: torch.tensor([1.0, 0.0], dtype=torch.float64)}, cutoff, scale)
    found = ascend(backward, Units(net, backward), {output: torch.tensor(weight)}, sides, over(box), 8, limit)
    better = values[values[:, 0] <= cutoff]
    assert (found.bound.numpy() <= (better @ weight.T).min(0) + 1e-9).all()


@pytest.mark.parametrize("kind", ["relu", "leaky", "clip", "abs"])
def test_ascent_ends_at_the_optimum_of_the_triangles_linear_program(kind):
    net = chain(np.random.default_rng(3), kind, sizes=(3, 6, 5, 1))
    box = po.Box([-1.0] * 3, [1.0] * 3)
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.net = pyo.Block()
    (y,) = po.add_network(m.net, net, m.x, formulation=po.Triangle())
    m.objective = pyo.Objective(expr=y)
    best = po.solve(m).objective
    backward = Backward(net)
    propagate(backward, net, box)
    one = torch.ones(1, 1, dtype=torch.float64)
    sides = crown_sides(net, box).unsqueeze(1)
    first, last = (
        float(ascend(backward, Units(net, backward), {net.nodes[-1].name: one}, sides, over(box), steps).bound)
        for steps in (0, 300)
    )
    assert first <= last <= best + 1e-6
    assert last == pytest.approx(best, abs=2e-3 + 0.1 * (best - first))


@pytest.mark.parametrize("kind", ["relu", "clip", "abs"])
def test_tightened_sides_hold_all_better_points(kind):
    rng = np.random.default_rng(1)
    net = chain(rng, kind, sizes=(3, 8, 6, 1))
    question = Question(net, po.Box([-1.0] * 3, [1.0] * 3), np.ones(1), gap=1e-6)
    x = question.box.sample(20000, rng)
    values = net(x)[:, 0]
    question.value = float(np.quantile(values, 0.02))
    sides, bound = crown_sides(net, question.box), float(po.crown(net, question.box).output.lower[0])
    for _ in range(4):
        tight, new = tightened(question, sides, over(question.box), bound)
        assert (tight >= sides).all()
        assert new >= bound
        sides, bound = tight, new
    a = pre_activations(net, x[values <= question.cutoff])
    assert (a >= sides[0].numpy() - 1e-9).all()
    assert (a <= -sides[1].numpy() + 1e-9).all()
    assert bound <= values.min()
    assert (-sides.sum(0)).sum() < 0.99 * (-crown_sides(net, question.box).sum(0)).sum()
