"""Lagrangian bounds against samples of the domain, and of what is below a cutoff."""

import numpy as np
import pytest
import torch
from strategies import chain, residual

import polyopt as po
from polyopt.affine import affine_maps
from polyopt.bounds.backward import Backward
from polyopt.bounds.climb import Reduced
from polyopt.bounds.crown import propagate
from polyopt.bounds.lagrangian import Mixture, ascend
from polyopt.bounds.refine import Boxes
from polyopt.bounds.rounding import size
from polyopt.bounds.units import Units
from polyopt.search.cutoff import Below, tightened
from polyopt.search.question import Question, Target

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


def networks():
    for seed, kind in enumerate(KINDS):
        rng = np.random.default_rng(seed)
        yield pytest.param(chain(rng, kind, sizes=(3, 6, 5, 2)), rng, id=kind)
        yield pytest.param(residual(rng, kind), rng, id=f"{kind}-residual")


def prepared(net, box):
    """A backward pass, what the free units see of the network, and the size of its output."""
    backward = Backward(net)
    last = propagate(backward, net, box)[net.nodes[-1].name]
    return backward, Reduced(Units(net, backward), *affine_maps(net)), torch.tensor(size(last).ravel())


def over(box, count):
    return Boxes(*(torch.tensor(side).expand(count, -1) for side in (box.lower, box.upper)))


@pytest.mark.parametrize(("net", "rng"), list(networks()))
@pytest.mark.parametrize("steps", [0, 5])
def test_no_sample_of_a_domain_is_below_its_bound_whatever_the_multipliers(net, rng, steps):
    box, batch = po.Box([-1.0] * 3, [1.0] * 3), 12
    backward, reduced, reach = prepared(net, box)
    x = box.sample(4000, rng)
    a = pre_activations(net, x)
    sides = crown_sides(net, box).unsqueeze(1).repeat(1, batch, 1)
    splits = a[rng.integers(len(a), size=batch)]  # so that domains hold samples: units on one side of a sample's value
    split = rng.random(splits.shape) < 0.2
    side = rng.integers(2, size=splits.shape)
    for s, sign in ((0, 1.0), (1, -1.0)):
        sides[s] = torch.where(torch.tensor(split & (side == s)), torch.tensor(sign * splits), sides[s])
    start = torch.tensor(rng.uniform(-1.0, 2.0, size=sides.shape)), torch.tensor(rng.normal(size=splits.shape))
    rows, limits = rng.normal(size=(batch, 2, 2)), rng.normal(size=(batch, 2))
    mixture = Mixture(torch.tensor(rows), torch.tensor(limits), torch.full((batch, 2), 0.5).double(), reach)
    found = ascend(backward, reduced, sides, over(box, batch), steps, mixture=mixture, start=start, growth=1.0)
    values = (np.einsum("brn,mn->mbr", rows, net(x)) - limits).max(2)
    inside = ((a[:, None] >= sides[0].numpy() - 1e-12) & (a[:, None] <= -sides[1].numpy() + 1e-12)).all(2)
    assert inside.any(0).all()
    assert (found.bound.numpy() <= np.where(inside, values, np.inf).min(0) + 1e-9).all()


@pytest.mark.parametrize("kind", ["relu", "clip", "abs"])
def test_tightened_sides_hold_all_points_below_the_cutoff(kind):
    rng = np.random.default_rng(1)
    net = chain(rng, kind, sizes=(3, 8, 6, 1))
    box = po.Box([-1.0] * 3, [1.0] * 3)
    question = Question(net, [Target(box, np.ones((1, 1)), np.zeros(1))], gap=1e-6)
    units = question.units
    x = box.sample(20000, rng)
    values = net(x)[:, 0]
    limit = torch.tensor([float(np.quantile(values, 0.02))], dtype=torch.float64)
    reduced = Reduced(units, question.maps, question.output_map)
    first = sides = question.sides.transpose(0, 1)[:, :, units.kept]
    bound = torch.tensor(po.crown(net, box).output.lower[:1])
    for _ in range(4):
        below = Below(torch.ones(1, 1, dtype=torch.float64), limit, bound, over(box, 1))
        tight = tightened(question, reduced, sides, below)
        assert (tight >= sides).all()
        sides = tight
    a = pre_activations(question.form, x[values <= float(limit)])[:, units.kept.numpy()]
    assert (a >= sides[0, 0].numpy() - 1e-9).all()
    assert (a <= -sides[1, 0].numpy() + 1e-9).all()
    assert (-sides.sum(0)).sum() < 0.99 * (-first.sum(0)).sum()
