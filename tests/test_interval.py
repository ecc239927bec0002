import sys
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    ACTIVATIONS,
    PIECEWISE,
    REGIONS,
    assert_bounds_hold,
    assert_inside,
    assert_same,
    boxes,
    chain,
    convolutional,
    networks,
    points,
    regions,
    residual,
    single,
)

from polyopt.activations import Max, ReLU, Step
from polyopt.bounds.interval import interval
from polyopt.layers import Affine, Layer, Scale
from polyopt.network import INPUT, Network, UnsupportedLayer
from polyopt.regions import Box


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks(), st.data())
def test_no_sampled_value_lies_outside(net, data):
    box = data.draw(boxes(net.input_size))
    assert_bounds_hold(net, interval(net, box), points(box, 200, np.random.default_rng(0)))


@pytest.mark.parametrize("kind", REGIONS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(networks(), st.data())
def test_no_value_on_a_region_lies_outside_and_no_bound_outside_those_of_its_box(kind, net, data):
    region = data.draw(regions(net.input_size, [kind]))
    found = interval(net, region)
    assert found.region is region
    assert_bounds_hold(net, found, points(region, 50, np.random.default_rng(0)))
    assert_inside(found, interval(net, region.bounding_box()))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(networks(), st.data())
def test_a_batch_gives_what_its_boxes_give(net, data):
    box = data.draw(boxes(net.input_size, batch=3))
    bounds = interval(net, box)
    for i in range(3):
        one = single(bounds, i)
        assert_same(one, interval(net, one.region))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize(
    ("lower", "upper"), [(-2.0, 3.0), (0.0, 1.0), (-1.0, 0.0), (0.2, 0.4), (-9.0, -8.0), (0.6, 0.6)]
)
def test_the_range_of_one_unit_is_exact(name, lower, upper):
    net = Network.sequential([ACTIVATIONS[name]((1,), np.random.default_rng(3))], (1,))
    found = interval(net, Box([lower], [upper])).output
    # both sides of a jump, also where the interval only reaches it
    near = (
        []
        if name not in PIECEWISE
        else [t + s for t in net.layers[0].pieces((1,)).breakpoints[:, 0] for s in (-1e-13, 0, 1e-13)]
    )
    x = np.concatenate([np.linspace(lower, upper, 101), [t for t in near if lower - 1e-12 <= t <= upper + 1e-12]])
    y = net(x[:, None])
    np.testing.assert_allclose([found.lower[0], found.upper[0]], [y.min(), y.max()], rtol=1e-12, atol=1e-12)


def test_a_jump_counts_with_both_sides_and_its_own_value():
    net = Network.sequential([Step(3.0)], (1,))
    found = interval(net, Box([[-1.0], [0.0], [1e-9]], [[-1e-9], [0.0], [1.0]])).output
    np.testing.assert_allclose(np.hstack([found.lower, found.upper]), [[0, 0], [0, 3], [1, 1]], rtol=1e-12)


@pytest.mark.parametrize("make", [convolutional, residual, chain])
@pytest.mark.parametrize("kind", ["box", *REGIONS])
def test_a_linear_layer_on_the_input_is_exact(make, kind, monkeypatch):
    monkeypatch.setattr(sys.modules[interval.__module__], "ENTRIES", 500)  # so that large ones are taken in parts
    rng = np.random.default_rng(1)
    net = make(rng)
    size = net.input_size
    region = Box.ball(rng.normal(size=size), 0.5) if kind == "box" else REGIONS[kind](rng, size)
    first = net.activations[0].inputs[0]
    node = next(node for node in net.nodes if node.name == first)
    (W,) = node.layer.operators(*node.input_shapes)
    W = W.toarray() if sp.issparse(W) else W
    b = node.layer.offset(*node.input_shapes)
    found = interval(net, region).pre[0]
    np.testing.assert_allclose(found.upper, region.support(W) + b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.lower, -region.support(-W) + b, rtol=1e-9, atol=1e-9)


def test_each_layer_takes_the_box_of_the_layer_before():
    net = Network.sequential([Affine([[1.0], [1.0]], [0.0, 0.0]), ReLU(), Affine([[1.0, -1.0]], [0.0])], (1,))
    found = interval(net, Box([-1.0], [2.0]))
    np.testing.assert_allclose(found.pre[0].lower, [-1, -1], rtol=1e-12)
    np.testing.assert_allclose([found.output.lower, found.output.upper], [[-2], [2]], rtol=1e-12)


def test_the_inputs_of_a_maximum_are_joined():
    net = Network([("twice", Scale(2.0), [INPUT]), ("max", Max(), [INPUT, "twice"])], (2,))
    found = interval(net, Box([-1.0, 1.0], [0.0, 2.0]))
    np.testing.assert_allclose(found.pre[0].lower, [-1, 1, -2, 2], rtol=1e-12)
    np.testing.assert_allclose(found.pre[0].upper, [0, 2, 0, 4], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose([found.output.lower, found.output.upper], [[-1, 2], [0, 4]], rtol=1e-12, atol=1e-12)


def test_numbers_too_large_for_float64_leave_nothing_known():
    big = Affine(np.full((2, 1), 1e300), None)
    net = Network.sequential([big, Affine(np.full((2, 2), 1e300), None), ReLU(), Affine([[1.0, -1.0]], None)], (1,))
    found = interval(net, Box([-1.0], [1.0]))
    assert found.output.lower[0] == -np.inf
    assert found.output.upper[0] == np.inf


def test_numbers_too_large_leave_a_relu_its_zero():
    huge = Affine([[1e200]], None)
    net = Network.sequential([huge, ReLU(), huge, ReLU()], (1,))
    found = interval(net, Box([1.0], [2.0])).output
    assert (found.lower[0], found.upper[0]) == (0.0, np.inf)
    found = interval(Network.sequential([huge, ReLU()], (1,)), Box([1e200], [1e201])).output
    assert (found.lower[0], found.upper[0]) == (0.0, np.inf)


def test_a_region_of_the_wrong_dimension_is_refused():
    with pytest.raises(ValueError, match="the region has 2 dimensions, but the network has 3 inputs"):
        interval(chain(np.random.default_rng(0)), Box([0.0, 0.0], [1.0, 1.0]))


def test_an_unknown_layer_is_refused_by_name():
    @dataclass(frozen=True, eq=False)
    class Cube(Layer):
        def output_shape(self, *shapes):
            return shapes[0]

    with pytest.raises(UnsupportedLayer, match=r"'cube' \(Cube\).*Linear"):
        interval(Network([("cube", Cube(), [INPUT])], (1,)), Box([0.0], [1.0]))
