"""Bounds hold for the exact numbers: against rational arithmetic, where a bound is attained and half an ulp counts."""

import itertools
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from polyopt.activations import LeakyReLU, ReLU
from polyopt.bounds import backward
from polyopt.bounds.crown import crown, propagate
from polyopt.bounds.interval import interval
from polyopt.layers import Affine, Conv2d, Reshape
from polyopt.network import INPUT, Network
from polyopt.regions import Box, HPolytope, Product, VPolytope, Zonotope
from polyopt.regions.rational import dot, fractions

METHODS = [
    interval,
    crown,
    lambda net, region: crown(net, region, dtype=torch.float32),
]


def exact(net, x):
    """The outputs at a point, in rationals."""
    values = fractions(x)
    for node in net.nodes:
        if isinstance(node.layer, LeakyReLU | ReLU):
            slope = Fraction(getattr(node.layer, "slope", 0.0))
            values = np.array([max(v, slope * v) for v in values], dtype=object)
        elif not isinstance(node.layer, Reshape):
            (operator,) = node.layer.operators(*node.input_shapes)
            values = dot(operator, values[:, None])[:, 0] + fractions(node.layer.offset(*node.input_shapes))
    return values


def assert_holds(net, found, points):
    for x in points:
        for j, value in enumerate(exact(net, x)):
            assert Fraction(found.lower[j]) <= value <= Fraction(found.upper[j])


def regions(rng, n):
    center = rng.normal(size=n)
    radius = 0.1 * rng.uniform(size=n)
    box = Box(center - radius, center + radius)
    return {
        "box": (box, box.vertices()),
        "point": (Box(center, center), center[None]),
        "vpolytope": (VPolytope(points := rng.normal(size=(6, n))), points),
        "hpolytope": (HPolytope(np.vstack([np.eye(n), -np.eye(n)]), np.r_[box.upper, -box.lower]), box.vertices()),
        "product": (Product(Box(box.lower[:1], box.upper[:1]), Box(box.lower[1:], box.upper[1:])), box.vertices()),
        "zonotope": (Zonotope(np.zeros(n), np.diag(radius)), Box(-radius, radius).vertices()),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["box", "point", "vpolytope", "hpolytope", "product", "zonotope"])
def test_a_linear_layer_attains_its_bounds_at_a_vertex(method, seed, kind):
    rng = np.random.default_rng(seed)
    net = Network.sequential([Affine(rng.normal(size=(5, 3)), rng.normal(size=5))], (3,))
    region, points = regions(rng, 3)[kind]
    assert_holds(net, method(net, region).output, points)


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("seed", range(20))
def test_active_units_attain_their_bounds_behind_many_layers(method, seed):
    rng = np.random.default_rng(seed)
    layers = []
    for size, count in ((3, 6), (6, 6), (6, 6)):
        layers += [Affine(rng.normal(size=(count, size)), 50.0 + 100.0 * rng.uniform(size=count)), ReLU()]
    net = Network.sequential([*layers, Affine(rng.normal(size=(4, 6)), None)], (3,))
    box = Box.ball(rng.normal(size=3), 0.01)
    found = method(net, box)
    assert all((pre.lower > 0).all() for pre in found.pre[:1])
    assert_holds(net, found.output, box.vertices())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(20))
def test_chords_are_attained_at_the_ends(method, slope, seed):
    """Of one input, where units rise and are added up: all bounds are attained."""
    rng = np.random.default_rng(seed)
    activation = LeakyReLU(slope) if slope else ReLU()
    layers = [Affine(rng.uniform(size=(6, 1)), 0.3 * rng.normal(size=6)), activation]
    net = Network.sequential([*layers, Affine(rng.uniform(size=(3, 6)), None), activation], (1,))
    box = Box(-rng.uniform(size=1), rng.uniform(size=1))
    assert_holds(net, method(net, box).output, box.vertices())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-39, 1e-46, 1e-200])
@pytest.mark.parametrize("seed", range(5))
def test_weights_that_underflow_in_single_precision(method, scale, seed):
    rng = np.random.default_rng(seed)
    layers = [Affine(scale * rng.uniform(size=(6, 1)), scale * rng.normal(size=6)), ReLU()]
    net = Network.sequential([*layers, Affine(rng.uniform(size=(3, 6)), None)], (1,))
    box = Box(-rng.uniform(size=1), rng.uniform(size=1))
    assert_holds(net, method(net, box).output, box.vertices())


@pytest.mark.parametrize("method", METHODS)
def test_convolutions(method):
    rng = np.random.default_rng(0)
    layers = [
        Reshape((2, 4, 4)),
        Conv2d(rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3), padding=((1, 1), (1, 1))),
        Reshape((48,)),
    ]
    net = Network.sequential(layers, (32,))
    center = rng.normal(size=32)
    (W,) = net.nodes[1].layer.operators(*net.nodes[1].input_shapes)
    box = Box.ball(center, 0.01)
    signs = np.sign(W.toarray()[:10])
    assert_holds(
        net, method(net, box).output, np.vstack([center + 0.01 * signs, center - 0.01 * signs]).clip(*_sides(box))
    )


def _sides(box):
    return box.lower, box.upper


@pytest.mark.parametrize("method", METHODS)
def test_without_the_subtraction_bounds_fail(method, monkeypatch):
    """The oracle is sharp enough to notice."""
    for name in ("gamma", "down"):
        monkeypatch.setattr(backward, name, getattr(_Nearest, name))
    monkeypatch.setattr(sys.modules[interval.__module__], "U", 0.0)
    with pytest.raises(AssertionError):
        _chords(method, range(40))


def _chords(method, seeds):
    for seed in seeds:
        test_chords_are_attained_at_the_ends(method, 0.1, seed)


class _Nearest:
    @staticmethod
    def gamma(count, dtype):
        return 0.0

    @staticmethod
    def down(values):
        return values


def test_rows_of_single_units_pay_for_weights_of_single_precision():
    rng = np.random.default_rng(0)
    net = Network.sequential([Affine(rng.normal(size=(6, 4)), rng.normal(size=6))], (4,))
    single = backward.Backward(net, dtype=torch.float32)
    propagate(single, net, Box(-np.ones(4), np.ones(4)))
    units, signs = torch.arange(6).repeat(2), torch.tensor([1.0, -1.0]).repeat_interleave(6)
    rows, constant = single.signed(net.nodes[0].name, units, signs)
    for corner in itertools.product([-1.0, 1.0], repeat=4):
        values = exact(net, np.array(corner))
        below = dot(rows[INPUT][:, 0].double().numpy(), fractions(np.array(corner))[:, None])[:, 0]
        below = below + fractions(constant[:, 0].double().numpy())
        assert (below <= np.concatenate([values, -values])).all()
