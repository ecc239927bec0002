import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    ACTIVATIONS,
    PIECEWISE,
    REGIONS,
    affine,
    assert_bounds_hold,
    assert_inside,
    assert_same,
    boxes,
    chain,
    convolutional,
    maxima,
    networks,
    points,
    regions,
    residual,
    single,
)

from polyopt.activations import GroupMax, Max, PiecewiseLinear, PReLU, ReLU
from polyopt.bounds import backward
from polyopt.bounds.crown import crown
from polyopt.bounds.interval import interval
from polyopt.bounds.relaxation import relax
from polyopt.layers import Add, Affine, AvgPool2d, Conv2d, Linear, Reshape, Scale
from polyopt.network import INPUT, Network, Node
from polyopt.regions import Box, Ellipsoid, HPolytope, Product, VPolytope, Zonotope

SAME = 1e-7  # steep chords over jumps enlarge what rounding may cost

INTERVALS = [
    (-2.0, 3.0),
    (-3.0, 0.5),
    (-1.0, 1.0),
    (0.0, 1.5),
    (-1.5, 0.0),
    (0.1, 0.4),
    (-4.0, -3.5),
    (-5.0, 8.0),
    (2.0, 6.0),
]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(networks(), st.data())
def test_samples_lie_in_crown_and_crown_in_interval(net, data):
    box = data.draw(boxes(net.input_size))
    found = crown(net, box)
    assert_inside(found, interval(net, box))
    assert_bounds_hold(net, found, points(box, 200, np.random.default_rng(0)))


@pytest.mark.parametrize("kind", REGIONS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(networks(), st.data())
def test_samples_of_a_region_lie_in_crown_and_crown_in_interval(kind, net, data):
    region = data.draw(regions(net.input_size, [kind]))
    found = crown(net, region)
    assert found.region is region
    assert_inside(found, interval(net, region))
    assert_bounds_hold(net, found, points(region, 50, np.random.default_rng(0)))


@pytest.mark.parametrize("seed", range(5))
def test_a_zonotope_gives_narrower_bounds_than_its_bounding_box(seed):
    rng = np.random.default_rng(seed)
    net = chain(rng, "relu", (6, 10, 10, 3))
    region = Zonotope(rng.normal(size=6), 0.3 * rng.normal(size=(6, 2)))
    found, around = crown(net, region), crown(net, region.bounding_box())
    for side, outer in zip([*found.pre, found.output], [*around.pre, around.output], strict=True):
        assert (side.lower >= outer.lower - 1e-9).all()
        assert (side.upper <= outer.upper + 1e-9).all()
        assert (side.upper - side.lower).mean() < 0.75 * (outer.upper - outer.lower).mean()


def test_a_box_written_as_another_region_gives_the_same_bounds():
    rng = np.random.default_rng(3)
    net = residual(rng)
    box = Box.ball(rng.normal(size=3), 0.4)
    half = Box(box.lower[:1], box.upper[:1])
    others = [
        Zonotope(box.center, np.diag(box.radius)),
        VPolytope(box.vertices()),
        HPolytope(np.vstack([np.eye(3), -np.eye(3)]), np.concatenate([box.upper, -box.lower])),
        Product(half, Ellipsoid(box.center[1:2], [box.radius[1:2]]), Box(box.lower[2:], box.upper[2:])),
    ]
    for region in others:
        assert_same(crown(net, region), crown(net, box))


@pytest.mark.parametrize("make", [chain, residual, maxima, convolutional])
def test_ten_thousand_points(make):
    rng = np.random.default_rng(5)
    net = make(rng)
    box = Box.ball(rng.normal(size=net.input_size), 0.2)
    assert_bounds_hold(net, crown(net, box), points(box, 5000, rng))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(networks(), st.data())
def test_a_batch_gives_what_its_boxes_give(net, data):
    box = data.draw(boxes(net.input_size, batch=3))
    found = crown(net, box)
    for i in range(3):
        one = single(found, i)
        assert_same(one, crown(net, one.region), tolerance=SAME)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(networks(), st.data())
def test_every_linear_layer_counts_as_its_matrix(net, data):
    box = data.draw(boxes(net.input_size))
    assert_same(crown(net, box), crown(dense(net), box), tolerance=SAME)


@pytest.mark.parametrize("make", [chain, residual, convolutional])
def test_more_rows_than_fit_are_bounded_in_parts(make, monkeypatch):
    rng = np.random.default_rng(2)
    net = make(rng)
    box = Box.ball(rng.normal(size=(2, net.input_size)), 0.3)
    whole = crown(net, box)
    monkeypatch.setattr(backward, "ENTRIES", 500)
    assert_same(crown(net, box), whole)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [0.05, 0.5, 3.0])
def test_relu_chains_give_the_bounds_of_the_paper(seed, eps):
    rng = np.random.default_rng(seed)
    net = chain(rng, "relu", (3, 6, 5, 4, 2))
    box = Box.ball(rng.normal(size=3), eps)
    for found, expected in zip([*(b := crown(net, box)).pre, b.output], by_the_paper(net, box), strict=True):
        np.testing.assert_allclose([found.lower, found.upper], expected, rtol=1e-9, atol=1e-9)


def test_crown_is_tighter_than_interval_where_layers_depend_on_each_other():
    net = Network.sequential([Affine([[1.0], [1.0]], None), ReLU(), Affine([[1.0, -1.0]], None)], (1,))
    box = Box([1.0], [2.0])
    assert interval(net, box).output.upper[0] == pytest.approx(1.0)
    assert abs(crown(net, box).output.upper[0]) < 1e-12


def test_interval_arithmetic_helps_where_it_is_tighter():
    # h = relu(x) on [-1, 2] is relaxed from below by x, but it is not negative
    net = Network.sequential([ReLU(), Affine([[1.0]], None), ReLU(), Affine([[3.0]], None)], (1,))
    assert abs(crown(net, Box([-1.0], [2.0])).pre[1].lower[0]) < 1e-12


@pytest.mark.parametrize(
    "layers",
    [
        [Affine([[1.0, 2.0], [1.0, 2.0]], [0.5, 1.0]), Affine([[1.0, -1.0]], [0.0])],
        [Reshape((1, 1, 2)), Conv2d([[[[1.0, 2.0]]], [[[1.0, 1.0]]]]), Reshape((2,)), Affine([[1.0, -1.0]], None)],
        [
            Scale([2.0, -1.0], 1.0),
            Affine([[1.0, 1.0], [0.0, 1.0]], None),
            Scale([1.0, -3.0]),
            Affine([[1.0, 1.0]], None),
        ],
        [
            Reshape((1, 1, 2)),
            AvgPool2d((1, 2), (1, 1), ((0, 0), (1, 1)), False),
            Reshape((3,)),
            Affine([[1.0, -2.0, 1.0]], [1.0]),
        ],
    ],
)
def test_before_the_first_activation_the_bounds_are_exact(layers):
    net = Network.sequential([*layers, ReLU()], (2,))
    linear = Network.sequential(layers, (2,))
    b = linear(np.zeros((1, 2)))[0]
    W = (linear(np.eye(2)) - b).T
    box = Box([-1.0, 0.5], [2.0, 0.75])
    found = crown(net, box).pre[0]
    np.testing.assert_allclose(found.upper, box.support(W) + b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.lower, -box.support(-W) + b, rtol=1e-12, atol=1e-12)


def test_two_linear_ways_from_the_input_may_cancel():
    net = Network([("minus", Scale(-1.0), [INPUT]), ("sum", Add(), [INPUT, "minus"]), ("relu", ReLU(), ["sum"])], (2,))
    found = crown(net, Box([-1.0, 2.0], [1.0, 3.0])).pre[0]
    np.testing.assert_allclose([found.lower, found.upper], 0.0, atol=1e-12)


def test_a_way_past_the_units_is_a_layer_of_active_units():
    """A residual block equals a chain whose identity is a ReLU on numbers that are surely positive."""
    rng = np.random.default_rng(4)
    W, V, far = rng.normal(size=(4, 3)), rng.normal(size=(3, 4)), 100.0
    block = Network(
        [
            ("W", Affine(W, None), [INPUT]),
            ("h", ReLU(), ["W"]),
            ("V", Affine(V, None), ["h"]),
            ("y", Add(), ["V", INPUT]),
        ],
        (3,),
    )
    wide = Affine(np.vstack([W, np.eye(3)]), [0.0] * 4 + [far] * 3)
    straight = Network.sequential([wide, ReLU(), Affine(np.hstack([V, np.eye(3)]), [-far] * 3)], (3,))
    box = Box.ball(rng.normal(size=3), 0.7)
    one, two = crown(block, box).output, crown(straight, box).output
    np.testing.assert_allclose([one.lower, one.upper], [two.lower, two.upper], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize(("lower", "upper"), INTERVALS)
def test_no_line_is_lower_above_or_higher_below_the_midpoint(name, lower, upper):
    layer, found = relaxed(name, [lower], [upper])
    x, low, high = graph(layer, lower, upper, 101 if name in PIECEWISE else 200_001)
    middle = (lower + upper) / 2
    above = found.upper_slope * middle + found.upper_intercept
    below = found.lower_slope * middle + found.lower_intercept
    np.testing.assert_allclose(
        [above[0], below[0]], [envelope(x, high, middle), -envelope(x, -low, middle)], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_lines_do_not_cross_the_function(name):
    rng = np.random.default_rng(7)
    ends = rng.normal(size=(400, 2)) * 10 ** rng.uniform(-9, 1.5, size=(400, 1))
    ends = np.concatenate(
        [ends, ends * [1, 0], ends[:50] + 0.7 * (rng.random((50, 1)) < 0.5), np.repeat(ends[:50, :1], 2, 1)]
    )
    ends = np.concatenate(
        [ends, [[0.0, 0.0], [-3.0, -3.0], [0.7, 0.7], [5e-324, 1e-300], [-1e-17, 1e-17], [-700.0, 800.0]]]
    )
    lower, upper = ends.min(1), ends.max(1)
    layer, found = relaxed(name, lower, upper)
    for i in range(len(ends)):
        x, low, high = graph(layer, lower[i], upper[i])
        slack = 1e-9 * (1 + abs(x) + abs(high))
        assert (found.lower_slope[i] * x + found.lower_intercept[i] <= low + slack).all(), ends[i]
        assert (found.upper_slope[i] * x + found.upper_intercept[i] >= high - slack).all(), ends[i]


@pytest.mark.parametrize("name", sorted(PIECEWISE))
def test_a_unit_inside_one_piece_is_that_piece(name):
    layer, found = relaxed(name, [7.0, 0.1, -0.3 - 1e-15], [9.0, 0.1 + 1e-12, -0.3])
    pieces = layer.pieces((1,))
    for i, a in enumerate([8.0, 0.1, -0.3]):
        piece = np.searchsorted(pieces.breakpoints[:, 0], a)
        line = [pieces.slopes[piece, 0], pieces.intercepts[piece, 0]] * 2
        np.testing.assert_array_equal([part[i] for part in found[:4]], line)


def test_the_lines_of_relu_are_those_of_crown():
    _, found = relaxed("relu", [-1.0, -3.0, 0.0, -2.0], [3.0, 1.0, 2.0, 0.0])
    np.testing.assert_allclose(found.lower_slope, [1, 0, 1, 0])
    np.testing.assert_allclose(found.upper_slope, [0.75, 0.25, 1, 0])
    np.testing.assert_allclose(found.lower_intercept, 0.0)
    np.testing.assert_allclose(found.upper_intercept, [0.75, 0.75, 0, 0])


@pytest.mark.parametrize("seed", range(20))
def test_the_lines_of_a_maximum_do_not_cross_it(seed):
    rng = np.random.default_rng(seed)
    node = Network([("a", Scale(2.0), [INPUT]), ("max", Max(), [INPUT, "a", "a"])], (4,)).nodes[-1]
    center, radius = rng.normal(size=(2, 12)) * 3, abs(rng.normal(size=(2, 12)))
    center[:, 8:] = center[:, 4:8]  # equal members
    box = Box(center - radius, center + radius)
    found = relax(node, torch.tensor(box.lower), torch.tensor(box.upper))
    x = box.sample(300, rng)
    y = x.reshape(2, 300, 3, 4).max(2)
    chosen = np.take_along_axis(x, found.source[:, None].numpy(), axis=2)
    assert (chosen <= y).all()
    above = found.upper_slope[:, None].numpy() * chosen + found.upper_intercept[:, None].numpy()
    assert (above >= y - 1e-12).all()
    for i, j in np.ndindex(2, 4):  # no line in the chosen member passes lower
        s = int(found.source[i, j])
        assert box.center[i, s] >= box.center[i, j::4].max() - 1e-9
        others = box.upper[i, [k for k in range(j, 12, 4) if k != s]].max()
        ends = np.clip([box.lower[i, s], others, box.upper[i, s]], box.lower[i, s], box.upper[i, s])
        best = envelope(ends, np.maximum(ends, others), box.center[i, s])
        height = found.upper_slope[i, j] * box.center[i, s] + found.upper_intercept[i, j]
        np.testing.assert_allclose(height, best, rtol=1e-9, atol=1e-9)


def test_a_maximum_with_a_sure_winner_is_exact():
    net = Network(
        [
            ("low", Scale(1.0, -9.0), [INPUT]),
            ("max", Max(), ["low", INPUT]),
            ("y", Affine([[1.0, -1.0]], None), ["max"]),
        ],
        (2,),
    )
    found = crown(net, Box([0.0, 0.0], [1.0, 1.0])).output
    np.testing.assert_allclose([found.lower, found.upper], [[-1], [1]], rtol=1e-12)


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_units_that_are_all_stable_leave_the_exact_linear_range(bias):
    net = chain(np.random.default_rng(0), "relu", (3, 6, 6, 2), shift=bias)
    box = Box.ball(np.zeros(3), 0.5)
    found = crown(net, box).output
    b = net(np.zeros((1, 3)))[0]
    W = (net(0.5 * np.eye(3)) - b).T / 0.5
    np.testing.assert_allclose(found.upper, box.support(W) + b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.lower, -box.support(-W) + b, rtol=1e-9, atol=1e-9)


def test_zero_weights():
    net = Network.sequential([Affine(np.zeros((3, 2)), None), ReLU(), Affine(np.zeros((1, 3)), [2.0])], (2,))
    found = crown(net, Box([-1.0, -1.0], [1.0, 1.0])).output
    assert (found.lower[0], found.upper[0]) == pytest.approx((2.0, 2.0))


def test_numbers_too_large_leave_the_interval_bounds():
    rng = np.random.default_rng(0)
    layers = [Affine(1e200 * rng.normal(size=(3, 2)), None), ReLU(), Affine(np.full((3, 3), 1e200), None), ReLU()]
    net = Network.sequential([*layers, affine(rng, 3, 2)], (2,))
    box = Box([-1.0, -1.0], [2.0, 3.0])
    found, plain = crown(net, box), interval(net, box)
    assert not any(np.isnan(side).any() for b in [*found.pre, found.output] for side in (b.lower, b.upper))
    assert_inside(found, plain)
    assert (found.pre[0].upper < 1e201).all()


@pytest.mark.parametrize("make", [chain, residual, maxima, convolutional])
def test_single_precision_is_close(make):
    rng = np.random.default_rng(6)
    net = make(rng)
    box = Box.ball(rng.normal(size=(2, net.input_size)), 0.2)
    found = crown(net, box, dtype=torch.float32)
    assert found.output.lower.dtype == np.float64
    assert_same(found, crown(net, box), tolerance=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("make", [chain, residual, maxima, convolutional])
def test_a_gpu_gives_the_same_bounds(make):
    rng = np.random.default_rng(6)
    net = make(rng)
    box = Box.ball(rng.normal(size=(2, net.input_size)), 0.2)
    assert_same(crown(net, box, device="cuda"), crown(net, box))


def test_a_region_of_the_wrong_dimension_is_refused():
    with pytest.raises(ValueError, match="the region has 2 dimensions, but the network has 3 inputs"):
        crown(chain(np.random.default_rng(0)), Box([0.0, 0.0], [1.0, 1.0]))


# The oracles.


@dataclass(frozen=True, eq=False)
class Groups(GroupMax):
    """A maximum over given groups of a flat input."""

    members: np.ndarray

    def output_shape(self, *shapes):
        return (len(self.members),)

    def groups(self, *shapes):
        return self.members


def dense(net: Network) -> Network:
    """The same network with every linear layer as matrices on flat arrays, and every maximum over one input."""
    layers = []

    def summed(name, matrices, offset, sources):
        parts = [(f"{name}:{k}", Affine(m, None), [s]) for k, (m, s) in enumerate(zip(matrices, sources, strict=True))]
        fixed = (f"{name}:fixed", Affine(np.zeros((len(offset), net.input_size)), offset), [INPUT])
        layers.extend([*parts, fixed, (name, Add(), [part for part, _, _ in [*parts, fixed]])])

    for node in net.nodes:
        layer = node.layer
        if isinstance(layer, Linear):
            matrices = [W @ np.eye(W.shape[1]) for W in layer.operators(*node.input_shapes)]
            summed(node.name, matrices, layer.offset(*node.input_shapes), node.inputs)
        elif isinstance(layer, GroupMax):
            sizes = [math.prod(shape) for shape in node.input_shapes]
            places = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
            summed(f"{node.name}:joined", places, np.zeros(sum(sizes)), node.inputs)
            layers.append((node.name, Groups(layer.groups(*node.input_shapes)), [f"{node.name}:joined"]))
        elif isinstance(layer, PReLU):
            layers.append((node.name, PReLU(np.broadcast_to(layer.slope, node.shape).ravel()), node.inputs))
        else:
            layers.append((node.name, layer, node.inputs))
    return Network(layers, (net.input_size,), net.nodes[-1].name)


def by_the_paper(net: Network, box: Box) -> list:
    """CROWN on a ReLU chain, one unit and one sign at a time, as in theorem 3.2, met with interval arithmetic."""
    linear = net.layers[::2]
    found = []
    for k, layer in enumerate(linear):
        if k == 0:
            below, above = box.lower, box.upper
        else:
            below, above = (np.maximum(side, 0) for side in found[-1])
        bounds = np.zeros((2, len(layer.bias)))
        for j, (row, shift) in enumerate(zip(layer.weight, layer.bias, strict=True)):
            for side, sign in ((0, 1.0), (1, -1.0)):
                coefficients, constant = sign * row, sign * shift
                for i in reversed(range(k)):
                    constant, coefficients = through_relu(coefficients, constant, *found[i])
                    constant += coefficients @ linear[i].bias
                    coefficients = coefficients @ linear[i].weight
                value = constant + sum(
                    c * (lo if c > 0 else up) for c, lo, up in zip(coefficients, box.lower, box.upper, strict=True)
                )
                plain = sign * shift + sum(
                    c * (lo if c > 0 else up) for c, lo, up in zip(sign * row, below, above, strict=True)
                )
                bounds[side, j] = sign * max(value, plain)
        found.append(bounds)
    return found


def through_relu(coefficients, constant, lower, upper):
    result = np.zeros_like(coefficients)
    for j, (c, lo, up) in enumerate(zip(coefficients, lower, upper, strict=True)):
        if lo >= 0:
            result[j] = c
        elif up > 0 and c > 0:
            result[j] = c if up > -lo else 0.0
        elif up > 0:
            slope = up / (up - lo)
            result[j] = c * slope
            constant -= c * slope * lo
    return constant, result


def relaxed(name, lower, upper):
    """An activation and its relaxation, as numpy arrays, of units on the given intervals."""
    layer = ACTIVATIONS[name]((1,), np.random.default_rng(3))
    node = Node("f", layer, (INPUT,), ((1,),), (1,))
    sides = (torch.tensor(side, dtype=torch.float64)[:, None] for side in (lower, upper))
    found = relax(node, *sides)
    return layer, type(found)(*(part[:, 0].numpy() for part in found[:4]))._replace(source=None)


def graph(layer, lower, upper, count=101):
    """Points of [lower, upper] and the least and greatest value near each: both sides of a jump."""
    x = np.linspace(lower, upper, count)
    if not isinstance(layer, PiecewiseLinear):
        return x, layer(x), layer(x)
    kinks = layer.pieces((1,)).breakpoints[:, 0]
    x = np.concatenate([x, kinks[(lower <= kinks) & (kinks <= upper)]])
    near = np.stack([layer(x), *(layer(x + shift * np.isin(x, kinks)) for shift in (-1e-14, 1e-14))])
    return x, near.min(0), near.max(0)


def envelope(x, y, middle) -> float:
    """The concave envelope of the points at ``middle``: the least height there of a line above them all."""
    gentle, steep = -10.0, 10.0
    for _ in range(50):
        slope = (gentle + steep) / 2
        right = x[(y - slope * x).argmax()] > middle  # the line rests on a point to the right: it must be steeper
        gentle, steep = (slope, steep) if right else (gentle, slope)
    return (y - slope * (x - middle)).max()
