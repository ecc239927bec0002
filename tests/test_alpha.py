"""alpha- and beta-CROWN against samples, CROWN, and the linear programs that they are dual to."""

import hypothesis.strategies as st
import numpy as np
import pyomo.environ as pyo
import pytest
import torch
from hypothesis import given, settings
from strategies import chain, residual

import polyopt as po
from polyopt.activations import MaxPool2d, ReLU
from polyopt.bounds import lagrangian
from polyopt.bounds.alpha import alpha_crown, beta_crown
from polyopt.bounds.result import Interval
from polyopt.layers import Affine, AvgPool2d, Conv2d, Reshape
from polyopt.network import Network

KINDS = ["relu", "leaky_steep", "prelu", "clip", "hard_sigmoid", "abs", "sign", "tanh", "sigmoid", "softplus"]
BOX = po.Box([-1.0] * 3, [1.0] * 3)


def inputs(net, x):
    """The inputs of all activations (m, n), layer by layer."""
    values = net.values(x)
    return [np.concatenate([values[i].reshape(len(x), -1) for i in node.inputs], 1) for node in net.activations]


def hold(bounds, values, tolerance=1e-9):
    """Whether intervals hold values (m, n)."""
    return ((values >= bounds.lower - tolerance) & (values <= bounds.upper + tolerance)).all()


def convolutional(rng):
    layers = [
        Reshape((1, 4, 4)),
        Conv2d(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2), padding=((1, 1), (1, 1))),
        ReLU(),
        MaxPool2d((2, 2), (2, 2)),
        Conv2d(rng.normal(size=(3, 2, 2, 2)), rng.normal(size=3)),
        ReLU(),
        AvgPool2d((1, 1), (1, 1)),
        Reshape((3,)),
        Affine(rng.normal(size=(2, 3)), rng.normal(size=2)),
    ]
    return Network.sequential(layers, (16,))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**16), kind=st.sampled_from(KINDS), shape=st.sampled_from(["chain", "residual"]))
def test_bounds_hold_all_samples_and_are_no_wider_than_crowns(seed, kind, shape):
    rng = np.random.default_rng(seed)
    net = chain(rng, kind, sizes=(3, 6, 5, 2)) if shape == "chain" else residual(rng, kind)
    lower = rng.uniform(-1.0, 0.5, size=(2, 3))
    for region in (BOX, po.Box(lower, lower + rng.uniform(0.0, 1.0, size=(2, 3)))):
        found, base = alpha_crown(net, region, 5), po.crown(net, region)
        pairs = zip([*found.pre, found.output], [*base.pre, base.output], strict=True)
        assert all((new.lower >= old.lower).all() and (new.upper <= old.upper).all() for new, old in pairs)
        for i, (low, high) in enumerate(zip(*map(np.atleast_2d, (region.lower, region.upper)), strict=True)):
            x = po.Box(low, high).sample(300, rng)
            values = [*inputs(net, x), net(x)]
            sides = [
                Interval(*(np.atleast_2d(side)[i] for side in (b.lower, b.upper))) for b in [*found.pre, found.output]
            ]
            assert all(hold(b, v) for b, v in zip(sides, values, strict=True))


def test_convolution_pooling_and_maxima():
    rng = np.random.default_rng(0)
    net, region = convolutional(rng), po.Box([0.0] * 16, [0.4] * 16)
    found, base = alpha_crown(net, region), po.crown(net, region)
    x = region.sample(2000, rng)
    assert all(hold(b, v) for b, v in zip([*found.pre, found.output], [*inputs(net, x), net(x)], strict=True))
    assert (found.output.upper - found.output.lower < base.output.upper - base.output.lower - 1e-3).any()


@pytest.mark.parametrize(
    "region",
    [
        po.Zonotope([0.0, 0.1, 0.2], [[0.5, 0.1], [0.0, 0.4], [0.3, -0.3]]),
        po.Ellipsoid([0.0, 0.0, 0.0], np.diag([0.5, 0.8, 0.3])),
        po.VPolytope(np.vstack([np.eye(3), -np.eye(3)])),
        po.HPolytope(np.vstack([np.eye(3), -np.eye(3), np.ones((1, 3))]), [1.0] * 6 + [0.5]),
    ],
    ids=lambda region: type(region).__name__,
)
def test_any_region(region):
    rng = np.random.default_rng(1)
    net = chain(rng, "relu", sizes=(3, 8, 6, 2))
    found, base = alpha_crown(net, region), po.crown(net, region)
    x = region.sample(2000, rng)
    assert all(hold(b, v) for b, v in zip([*found.pre, found.output], [*inputs(net, x), net(x)], strict=True))
    assert (found.output.lower >= base.output.lower).all()
    assert (found.output.lower > base.output.lower + 1e-5).any()


@pytest.mark.parametrize("kind", ["relu", "leaky", "clip", "abs"])
def test_bounds_go_to_the_optimum_of_the_triangles_linear_program(kind):
    net = chain(np.random.default_rng(3), kind, sizes=(3, 6, 1))
    found, base = (float(b.output.lower[0]) for b in (alpha_crown(net, BOX, 200), po.crown(net, BOX)))
    best = least(net)
    assert base - 1e-9 <= found <= best + 1e-6
    assert found == pytest.approx(best, abs=2e-3 + 0.1 * (best - base))


def least(net):
    """The least output over the box by HiGHS, with each unit's Triangle."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.net = pyo.Block()
    (y,) = po.add_network(m.net, net, m.x, formulation=po.Triangle())
    m.objective = pyo.Objective(expr=y)
    return po.solve(m).objective


def halves(net, signs):
    (node,) = net.activations
    lower, upper = np.full(node.size, -np.inf), np.full(node.size, np.inf)
    for i, sign in signs.items():
        (lower if sign > 0 else upper)[i] = 0.0
    return {node.name: Interval(lower, upper)}


@pytest.mark.parametrize("seed", range(4))
def test_beta_bounds_hold_where_the_splits_do_and_reach_the_optimum_where_all_units_are_decided(seed):
    rng = np.random.default_rng(seed)
    net = chain(rng, "relu", sizes=(3, 5, 1))
    x = BOX.sample(20000, rng)
    a = inputs(net, x)[0]
    signs = dict(enumerate(np.sign(a[0])))
    found = beta_crown(net, BOX, halves(net, signs), 300)
    inside = (a * np.array(list(signs.values())) >= 0).all(1)
    assert inside.any()
    assert hold(found.output, net(x[inside]))
    hidden, last = net.nodes[0].layer, net.nodes[-1].layer
    active = np.array([sign > 0 for sign in signs.values()])
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    rows = [sum(hidden.weight[i, j] * m.x[j] for j in range(3)) + hidden.bias[i] for i in range(5)]
    m.splits = pyo.ConstraintList()
    for i, sign in signs.items():
        m.splits.add(sign * rows[i] >= 0)
    m.objective = pyo.Objective(expr=sum(last.weight[0, i] * rows[i] for i in range(5) if active[i]) + last.bias[0])
    best = po.solve(m).objective
    plain = float(alpha_crown(net, BOX).output.lower[0])
    assert found.output.lower[0] <= best + 1e-6
    assert found.output.lower[0] >= best - 0.02 * (best - plain) - 1e-2


def test_beta_bounds_without_the_prices_fees_do_not_hold(monkeypatch):
    """The test above can fail: a bound that does not pay for its prices is caught."""
    monkeypatch.setattr(lagrangian.Enclosure, "fees", lambda self: torch.zeros_like(self.sides[0, :, 0]) + 1.0)
    net = chain(np.random.default_rng(0), "relu", sizes=(3, 5, 1))
    x = BOX.sample(2000, np.random.default_rng(0))
    signs = dict(enumerate(np.sign(inputs(net, x)[0][0])))
    inside = (inputs(net, x)[0] * np.array(list(signs.values())) >= 0).all(1)
    assert not hold(beta_crown(net, BOX, halves(net, signs), 50).output, net(x[inside]))


def test_splits_of_no_activation_are_refused():
    net = chain(np.random.default_rng(0), "relu", sizes=(3, 5, 1))
    with pytest.raises(ValueError, match="no activation 'nowhere'"):
        beta_crown(net, BOX, {"nowhere": Interval(np.zeros(5), np.ones(5))})
