"""Random networks and regions for tests: every layer kind, in chains, residual graphs and convolutional networks."""

from __future__ import annotations

import math
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import scipy.sparse as sp
import torch

from polyopt.activations import (
    Abs,
    Clip,
    HardSigmoid,
    LeakyReLU,
    Max,
    Maxout,
    MaxPool2d,
    PReLU,
    ReLU,
    Sigmoid,
    Sign,
    Softplus,
    Step,
    Tanh,
)
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Constant, Conv2d, Reshape, Scale
from polyopt.network import INPUT, Network
from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope

# name -> maker of the activation for an input of a given shape
PIECEWISE = {
    "relu": lambda shape, rng: ReLU(),
    "leaky": lambda shape, rng: LeakyReLU(0.1),
    "leaky_steep": lambda shape, rng: LeakyReLU(2.0),
    "prelu": lambda shape, rng: PReLU(rng.normal(size=(shape[0],) + (1,) * (len(shape) - 1))),
    "clip": lambda shape, rng: Clip(-0.5, 1.0),
    "clip_above": lambda shape, rng: Clip(upper=0.7),
    "clip_nowhere": lambda shape, rng: Clip(),
    "hard_sigmoid": lambda shape, rng: HardSigmoid(),
    "abs": lambda shape, rng: Abs(),
    "sign": lambda shape, rng: Sign(),
    "step": lambda shape, rng: Step(0.5),
    "step_high": lambda shape, rng: Step(3.0),
}
SMOOTH = {
    "sigmoid": lambda shape, rng: Sigmoid(),
    "tanh": lambda shape, rng: Tanh(),
    "softplus": lambda shape, rng: Softplus(2.0),
}
ACTIVATIONS = PIECEWISE | SMOOTH


def affine(rng, n_in: int, n_out: int, shift: float = 0.0, sparse: bool = False) -> Affine:
    """Weights of standard deviation 1 / sqrt(n_in), biases about ``shift``; a sparse one keeps a third of them."""
    weight = rng.normal(size=(n_out, n_in)) / math.sqrt(n_in)
    if sparse:
        weight = sp.csr_array(np.where(rng.random(weight.shape) < 1 / 3, weight, 0.0))
    return Affine(weight, shift + 0.5 * rng.normal(size=n_out))


def chain(rng, activation="relu", sizes=(3, 5, 4, 2), shift: float = 0.0, sparse: bool = False) -> Network:
    """Affine layers with an activation between each two."""
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [affine(rng, n_in, n_out, shift, sparse), ACTIVATIONS[activation]((n_out,), rng)]
    return Network.sequential(layers[:-1], (sizes[0],))


def residual(rng, activation="relu", size: int = 4) -> Network:
    """Two residual blocks, one around an activation and one around a linear layer, and a scaled way past both."""

    def unit(shape=(size,)):
        return ACTIVATIONS[activation](shape, rng)

    layers = [
        ("in", affine(rng, 3, size), [INPUT]),
        ("act1", unit(), ["in"]),
        ("fc1", affine(rng, size, size), ["act1"]),
        ("sum1", Add(), ["fc1", "in", "act1"]),
        ("act2", unit(), ["sum1"]),
        ("shortcut", affine(rng, size, size, sparse=True), ["in"]),
        ("twice", Add(), ["act2", "act2"]),
        ("sum2", Add(), ["twice", "shortcut"]),
        ("past", Scale(rng.normal(size=3), 0.5), [INPUT]),
        ("constant", Constant(rng.normal(size=2)), []),
        ("all", Concat(), ["sum2", "past", "constant"]),
        ("act3", unit((size + 5,)), ["all"]),
        ("out", affine(rng, size + 5, 2), ["act3"]),
    ]
    return Network(layers, (3,))


def maxima(rng, activation="relu", size: int = 3) -> Network:
    """A maximum of three branches, one of them a constant, and one over groups of four entries."""
    layers = [
        ("a", affine(rng, 3, size), [INPUT]),
        ("b", affine(rng, 3, size, 0.5), [INPUT]),
        ("act", ACTIVATIONS[activation]((size,), rng), ["b"]),
        ("floor", Constant(rng.normal(size=size)), []),
        ("max", Max(), ["a", "act", "floor"]),
        ("wide", affine(rng, size, 8), ["max"]),
        ("maxout", Maxout(4), ["wide"]),
        ("out", affine(rng, 2, 2), ["maxout"]),
    ]
    return Network(layers, (3,))


def convolutional(rng, activation="relu", pool: str = "max") -> Network:
    """Convolutions with asymmetric padding, stride, dilation and groups; pooling with padding; channels joined."""
    first = Conv2d(rng.normal(size=(4, 2, 3, 2)) / 3, rng.normal(size=4), (2, 1), ((1, 0), (0, 2)))
    grouped = Conv2d(rng.normal(size=(4, 2, 2, 2)) / 3, rng.normal(size=4), dilation=(1, 2), groups=2)
    padding = ((1, 0), (0, 1))
    pools = {
        "max": MaxPool2d((2, 2), (2, 1), padding),
        "mean": AvgPool2d((2, 3), (1, 2), padding),
        "mean_inside": AvgPool2d((2, 2), (2, 1), padding, count_include_pad=False),
    }
    shapes = {"first": first.output_shape((2, 6, 5))}
    shapes["grouped"] = grouped.output_shape(shapes["first"])
    shapes["pool"] = pools[pool].output_shape(shapes["grouped"])
    size = 2 * math.prod(shapes["pool"])
    layers = [
        ("image", Reshape((2, 6, 5)), [INPUT]),
        ("first", first, ["image"]),
        ("act", ACTIVATIONS[activation](shapes["first"], rng), ["first"]),
        ("norm", Scale(rng.normal(size=(4, 1, 1)), rng.normal(size=(4, 1, 1))), ["act"]),
        ("grouped", grouped, ["norm"]),
        ("pool", pools[pool], ["grouped"]),
        ("mirror", Scale(-1.0), ["pool"]),
        ("both", Concat(axis=1), ["pool", "mirror"]),
        ("relu", ReLU(), ["both"]),
        ("out", affine(rng, size, 2), ["relu"]),
    ]
    return Network(layers, (60,))


@st.composite
def networks(draw) -> Network:
    """A network of one of the kinds above; chains also with one unit a layer, zero weights or no active unit."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    activation = draw(st.sampled_from(sorted(ACTIVATIONS)))
    match draw(st.sampled_from(["chain", "residual", "maxima", "convolutional"])):
        case "chain":
            sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
            return chain(rng, activation, sizes, draw(st.sampled_from([0.0, -20.0, 20.0])), draw(st.booleans()))
        case "residual":
            return residual(rng, activation)
        case "maxima":
            return maxima(rng, activation)
        case _:
            return convolutional(rng, activation, draw(st.sampled_from(["max", "mean", "mean_inside"])))


@st.composite
def boxes(draw, size: int, batch: int | None = None) -> Box:
    """A box, or a batch of boxes, of random centres and radii; some are points, some have sides of length zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (size,) if batch is None else (batch, size)
    radius = draw(st.sampled_from([0.0, 1e-9, 1e-3, 0.3, 3.0])) * rng.random(shape) * (rng.random(shape) < 0.8)
    center = draw(st.sampled_from([0.0, 1.0])) * rng.normal(size=shape)
    return Box(center - radius, center + radius)


def zonotope(rng, size: int) -> Zonotope:
    """More or fewer generators than dimensions, at times none, one of zeros, or one twice."""
    generators = rng.normal(size=(size, rng.integers(0, size + 3)))
    if generators.shape[1] > 1:
        generators[:, 0] = rng.choice([0.0, 1.0, 1.0, 1.0]) * generators[:, rng.integers(2)]
    return Zonotope(rng.normal(size=size), generators)


def ellipsoid(rng, size: int) -> Ellipsoid:
    """Factors of every rank, with axes of very different lengths."""
    factor = rng.normal(size=(size, rng.integers(0, size + 2)))
    return Ellipsoid(rng.normal(size=size), factor * 10.0 ** -rng.integers(0, 4, factor.shape[1]))


def vpolytope(rng, size: int) -> VPolytope:
    """One to many points, in a subspace, some of them twice."""
    span = rng.normal(size=(rng.integers(0, size + 1), size))
    points = rng.normal(size=size) + rng.normal(size=(rng.integers(1, 2 * size + 4), len(span))) @ span
    return VPolytope(points[rng.integers(0, len(points), len(points) + 2)])


def hpolytope(rng, size: int) -> HPolytope:
    """A cube cut by random half-spaces that leave a known point, and at times by pairs that leave a plane."""
    rows = rng.normal(size=(rng.integers(0, 5), size))
    flat = rng.normal(size=(rng.choice([0, 0, 1, size]), size))
    inside = rng.uniform(-1.0, 1.0, size)
    room = np.concatenate([rng.choice([0.0, 1.0], len(rows)) * rng.random(len(rows)), np.zeros(2 * len(flat))])
    cuts = np.vstack([rows, flat, -flat])
    A, b = np.vstack([np.eye(size), -np.eye(size), cuts]), np.concatenate([np.ones(2 * size), cuts @ inside + room])
    scale = 10.0 ** rng.integers(-2, 3, len(b))
    return HPolytope(scale[:, None] * A, scale * b)


def product(rng, size: int) -> Product:
    """A segment, and a region of another kind on the other coordinates."""
    lower, upper = np.sort(rng.normal(size=(2, 1)), axis=0)
    if size == 1:
        return Product(Box(lower, upper))
    make = [zonotope, ellipsoid, vpolytope, hpolytope][rng.integers(4)]
    return Product(Box(lower, upper), make(rng, size - 1))


REGIONS = {
    "zonotope": zonotope,
    "ellipsoid": ellipsoid,
    "vpolytope": vpolytope,
    "hpolytope": hpolytope,
    "product": product,
}


@st.composite
def regions(draw, size: int, kinds=("box", *REGIONS)) -> Region:
    """A region of one of the kinds, flat ones and points among them."""
    kind = draw(st.sampled_from(kinds))
    if kind == "box":
        return draw(boxes(size))
    return REGIONS[kind](np.random.default_rng(draw(st.integers(0, 2**32 - 1))), size)


def points(region: Region, count: int, rng) -> np.ndarray:
    """Random points of a region, as many (of a box) or some of its extreme points, and its centre."""
    if isinstance(region, Box):
        ends = np.where(rng.random((count, region.size)) < 0.5, region.lower, region.upper)
    else:
        ends = torch.tensor(rng.normal(size=(20, region.size)), requires_grad=True)
        region.support(ends).sum().backward()  # the gradient of the support function is where it is attained
        ends = ends.grad.numpy()
    return np.concatenate([region.sample(count, rng), ends, region.center[None]])


def assert_bounds_hold(net: Network, bounds, x: np.ndarray) -> None:
    """The bounds of one box hold at the points ``x``, up to 1e-9 of the magnitudes."""
    values = net.values(x)
    known = [([*node.inputs], pre) for node, pre in zip(net.activations, bounds.pre, strict=True)]
    for names, side in [*known, ([net.nodes[-1].name], bounds.output)]:
        found = np.concatenate([values[name].reshape(len(x), -1) for name in names], axis=1)
        slack = 1e-9 * (1 + abs(found))
        assert side.lower.shape == side.upper.shape == found.shape[1:]
        assert (found >= side.lower - slack).all(), names
        assert (found <= side.upper + slack).all(), names


def assert_inside(inner, outer) -> None:
    """Every interval of ``inner`` lies in that of ``outer``, up to 1e-9 of the magnitudes."""
    for a, b in zip([*inner.pre, inner.output], [*outer.pre, outer.output], strict=True):
        assert (a.lower <= a.upper).all()
        assert (a.lower >= b.lower - 1e-9 * (1 + abs(b.lower))).all()
        assert (a.upper <= b.upper + 1e-9 * (1 + abs(b.upper))).all()


def assert_same(one, two, tolerance: float = 1e-9) -> None:
    """All intervals agree up to ``tolerance`` of the magnitudes."""
    for a, b in zip([*one.pre, one.output], [*two.pre, two.output], strict=True):
        np.testing.assert_allclose(a.lower, b.lower, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(a.upper, b.upper, rtol=tolerance, atol=tolerance)


def single(bounds, i: int):
    """The bounds on the i-th box of a batch."""
    parts = [type(side)(side.lower[i], side.upper[i]) for side in [*bounds.pre, bounds.output]]
    box = Box(bounds.region.lower[i], bounds.region.upper[i])
    return type(bounds)(box, tuple(parts[:-1]), parts[-1])
