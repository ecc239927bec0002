"""Affinity on a region: certificates against vertices and exact arithmetic, witnesses by evaluation, honest doubt."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PIECEWISE, REGIONS, chain, convolutional, maxima, regions, residual

import polyopt as po
from polyopt.activations import Abs, Clip, HardSigmoid, LeakyReLU, Max, Maxout, Pieces, ReLU, Sign, Step, Tanh
from polyopt.layers import Add, Affine, AvgPool2d, Reshape
from polyopt.regions.rational import dot, fractions, root
from polyopt.regions.rounding import Ball, product
from polyopt.regions.support import Support
from polyopt.verification.arithmetic import Exact, Rounded
from polyopt.verification.pattern import pattern
from polyopt.verification.pieces import choose
from polyopt.verification.witness import enclose, most_bent

SQUARE = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
UNIT_SQUARES = {
    "box": po.Box([0.0, 0.0], [1.0, 1.0]),
    "zonotope": po.Zonotope([0.5, 0.5], [[0.5, 0.0], [0.0, 0.5]]),
    "vpolytope": po.VPolytope(SQUARE),
    "hpolytope": po.HPolytope([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, 1.0, 0.0, 0.0]),
    "product": po.Product(po.Box([0.0], [1.0]), po.VPolytope([[0.0], [1.0]])),
}
ALL = UNIT_SQUARES | {"ellipsoid": po.Ellipsoid([0.5, 0.5], [[0.5, 0.0], [0.2, 0.4]])}


def pairs(rng, n_in, count, kink=0.0):
    """``sum_k v_k (relu(z_k) - (1 + kink) relu(-z_k))`` for z = W x + b, and the map that it is without a kink."""
    W, b, v = rng.normal(size=(count, n_in)), 0.1 * rng.normal(size=count), rng.normal(size=(2, count))
    head = Affine(np.hstack([v, -(1.0 + kink) * v]), [0.5, -3.0])
    layers = [Affine(np.vstack([W, -W]), np.concatenate([b, -b])), ReLU(), head]
    return po.Network.sequential(layers, (n_in,)), v @ W, v @ b + head.bias


def shifted(region, center, radius):
    """A small copy of one of the regions above about a point."""
    middle = np.full(2, 0.5)
    match region:
        case po.Box() | po.Product():
            return po.Box(center - radius / 2, center + radius / 2)
        case po.Zonotope():
            return po.Zonotope(center, radius * region.generators)
        case po.Ellipsoid():
            return po.Ellipsoid(center, radius * region.factor)
        case po.VPolytope():
            return po.VPolytope(center + radius * (region.points - middle))
    return po.HPolytope(region.A, radius * (region.b - region.A @ middle) + region.A @ center)


def slope_at(net, x, step=1e-6):
    """The Jacobian by central differences."""
    shifts = step * np.eye(len(x))
    return ((net(x + shifts) - net(x - shifts)) / (2 * step)).T


def check_witness(net, region, certificate, threshold):
    """The rows are points of the region on a line, and their images are not."""
    x, z, y = certificate.witness
    assert region.contains(certificate.witness, 1e-8).all()
    np.testing.assert_allclose(z, (x + y) / 2, rtol=1e-15, atol=1e-15)
    f = net(certificate.witness)
    assert abs(f[1] - (f[0] + f[2]) / 2).max() > threshold


def check_affine(net, region, certificate, slack=1e-12):
    """A x + c is the network at samples of the region, up to the tolerance."""
    x = region.sample(500, np.random.default_rng(7))
    assert abs(net(x) - x @ certificate.A.T - certificate.c).max() <= certificate.tolerance + slack


# What the demand names


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("count", [1, 4])
def test_differences_of_opposite_relus_are_affine(kind, count):
    net, A, c = pairs(np.random.default_rng(count), 2, count)
    region = shifted(ALL[kind], np.zeros(2), 2.0)
    certificate = po.affine_on(net, region)
    assert (certificate.status, certificate.margin) == ("affine", None)
    np.testing.assert_allclose(certificate.A, A, atol=1e-12)
    np.testing.assert_allclose(certificate.c, c, atol=1e-12)
    assert 0 < certificate.tolerance < 1e-5
    check_affine(net, region, certificate)


def test_an_ellipsoid_may_be_a_factor():
    net, A, _ = pairs(np.random.default_rng(0), 3, 2)
    certificate = po.affine_on(net, po.Product(po.Box([-1.0], [1.0]), po.Ellipsoid([0.0, 0.0], np.eye(2))))
    assert (certificate.status, certificate.margin) == ("affine", None)
    np.testing.assert_allclose(certificate.A, A, atol=1e-12)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("count", [1, 4])
def test_a_kink_of_a_thousandth_is_not_affine(kind, count):
    net, *_ = pairs(np.random.default_rng(count), 2, count, kink=1e-3)
    region = shifted(ALL[kind], np.zeros(2), 2.0)
    certificate = po.affine_on(net, region)
    assert certificate.status == "not affine"
    check_witness(net, region, certificate, 1e-5)


def test_a_kink_under_a_large_constant_is_not_affine():
    net = po.Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, -1.001]], [1e6])], (1,))
    certificate = po.affine_on(net, po.Box([-1.0], [1.0]))
    assert certificate.status == "not affine"


@pytest.mark.parametrize("height", [0.3, -0.3])
def test_a_kink_that_samples_miss_is_found_by_the_programs(height):
    """A corner of 2^-20 of the cube: 512 points see nothing, the deviation's maximiser lies there."""
    n = 20
    weight = np.vstack([np.ones(n), np.eye(n)])
    layers = [
        Affine(weight, np.append(-(n - 0.5), np.zeros(n))),
        ReLU(),
        Affine([[height, *np.arange(1.0, n + 1)]], None),
    ]
    net, box = po.Network.sequential(layers, (n,)), po.Box(np.zeros(n), np.ones(n))
    certificate = po.affine_on(net, box)
    assert certificate.status == "not affine"
    check_witness(net, box, certificate, 1e-3)


def test_what_is_nearer_than_the_tolerance_counts_as_affine():
    net, *_ = pairs(np.random.default_rng(1), 2, 1, kink=1e-3)
    box = po.Box([-1.0, -1.0], [1.0, 1.0])
    certificate = po.affine_on(net, box, tolerance=0.1)
    assert certificate.status == "affine"
    assert 1e-5 < certificate.tolerance <= 0.1
    check_affine(net, box, certificate)


# The pattern certificate


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("activation", PIECEWISE)
@pytest.mark.parametrize("exact", [False, True])
def test_stable_networks_have_the_map_and_the_margin_of_their_vertices(kind, activation, exact):
    rng = np.random.default_rng(sorted(PIECEWISE).index(activation))
    net = chain(rng, activation, sizes=(2, 4, 3, 2))
    region = shifted(ALL[kind], rng.normal(size=2), 1e-3)
    certificate = po.affine_on(net, region, exact=exact)
    assert certificate.status == "affine"
    assert certificate.margin is not None
    np.testing.assert_allclose(certificate.A, slope_at(net, region.center, 1e-5), atol=1e-8)
    check_affine(net, region, certificate)
    if kind != "ellipsoid":
        points = region.vertices()
    else:
        turns = np.linspace(0, 2 * np.pi, 2000)
        points = region.center + np.stack([np.cos(turns), np.sin(turns)], 1) @ region.factor.T
    assert certificate.margin == pytest.approx(least_distance(net, points), abs=2e-9)


def least_distance(net, points):
    """The least distance of the units' values at points from the breakpoints."""
    values, least = net.values(points), np.inf
    for node in net.activations:
        a = values[node.inputs[0]].reshape(len(points), -1)
        for breakpoints in node.layer.pieces(node.shape).breakpoints:
            least = min(least, abs(a - breakpoints).min())
    return least


@pytest.mark.parametrize("make", [residual, maxima, convolutional])
@pytest.mark.parametrize("activation", ["relu", "hard_sigmoid", "prelu", "abs"])
def test_residual_networks_maxima_and_convolutions(make, activation):
    rng = np.random.default_rng(3)
    net = make(rng, activation)
    center = rng.normal(size=net.input_size)
    box = po.Box(center - 1e-6, center + 1e-6)
    certificate = po.affine_on(net, box)
    assert certificate.status == "affine"
    assert 0 < certificate.margin < np.inf
    np.testing.assert_allclose(certificate.A, slope_at(net, center, 1e-7), atol=1e-6)
    check_affine(net, box, certificate)
    exact = po.affine_on(net, box, exact=True)
    assert exact.margin == pytest.approx(certificate.margin, rel=1e-6)
    np.testing.assert_allclose(exact.A, certificate.A, rtol=1e-13, atol=1e-15)


def test_pooling_by_thirds_is_exact():
    """1/3 is no float: the mean of three equal numbers is that number, and a unit may touch 0 there."""
    layers = [Reshape((1, 1, 3)), AvgPool2d((1, 3), (1, 1)), Reshape((1,)), Affine([[3.0]], [-1.0]), ReLU()]
    net = po.Network.sequential(layers, (3,))
    box = po.Box(np.zeros(3), [0.25, 0.25, 0.5])
    certificate = po.affine_on(net, box, exact=True)
    assert (certificate.status, certificate.margin) == ("affine", 0.0)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_against_the_patterns_of_samples(seed):
    """On a dense sample of a square: one pattern or several, one slope or several."""
    rng = np.random.default_rng(seed)
    net = chain(rng, ["relu", "leaky", "clip", "abs"][seed % 4], sizes=(2, 3, 3, 1))
    center, radius = rng.normal(size=2), 10.0 ** -rng.integers(0, 4)
    box = po.Box(center - radius, center + radius)
    grid = box.lower + 2 * radius * np.stack(np.meshgrid(*[np.linspace(0, 1, 60)] * 2), -1).reshape(-1, 2)
    certificate = po.affine_on(net, box)
    values = net.values(grid)
    pieces = [(values[n.inputs[0]] > t[:, None].T).all(0) | (values[n.inputs[0]] <= t[:, None].T).all(0)
              for n in net.activations for t in n.layer.pieces(n.shape).breakpoints[:, :, None]]  # fmt: skip
    one_pattern = all(part.all() for part in pieces)
    assert (certificate.status == "affine" and certificate.margin is not None) <= one_pattern
    if certificate.status == "not affine":
        check_witness(net, box, certificate, 0.0)
        assert not one_pattern
    else:
        check_affine(net, box, certificate)
        slopes = np.concatenate([slope_at(net, x, 1e-7) for x in grid[::40]])
        assert certificate.status == "affine"
        assert np.ptp(slopes, axis=0).max() < 1e-4


def test_maxima_are_won_by_one_member():
    layers = [("a", Affine([[1.0]], [2.0]), ["input"]), ("max", Max(), ["a", "input"])]
    net = po.Network(layers, (1,))
    certificate = po.affine_on(net, po.Box([-5.0], [5.0]))
    assert (certificate.status, certificate.A.item(), certificate.c.item()) == ("affine", 1.0, 2.0)
    assert certificate.margin == pytest.approx(2.0)
    net = po.Network.sequential([Affine([[1.0], [-1.0]], None), Maxout(2)], (1,))
    assert po.affine_on(net, po.Box([0.0], [1.0]), exact=True).margin == 0.0
    assert po.affine_on(net, po.Box([-1e-3], [1.0])).status == "not affine"


@pytest.mark.parametrize(
    ("activation", "lower", "upper", "affine"),
    [
        (Sign(), 1e-9, 1.0, True),
        (Sign(), 0.0, 1.0, False),
        (Sign(), -1.0, -1e-9, True),
        (Step(1.0), 0.0, 1.0, True),
        (Step(1.0), -1.0, 0.0, False),
        (Step(0.0), -1.0, 0.0, True),
        (Step(0.0), 0.0, 1.0, False),
        (Step(0.5), 0.0, 1.0, False),
        (ReLU(), 0.0, 1.0, True),
        (ReLU(), -1.0, 0.0, True),
        (Abs(), -1.0, 1e-15, False),
        (Clip(0.0, 1.0), 0.0, 1.0, True),
        (HardSigmoid(0.25, 0.5), -2.0, 2.0, True),
        (HardSigmoid(0.25, 0.5), -2.0, 2.1, False),
    ],
)
def test_ends_of_pieces(activation, lower, upper, affine):
    net = po.Network.sequential([activation], (1,))
    found = pattern(net, Exact(po.Box([lower], [upper])))
    assert (found is not None) == affine
    if lower * upper == 0 and not isinstance(activation, Clip):  # what touches 0 is decided in floats too
        assert (pattern(net, Rounded(po.Box([lower], [upper]))) is not None) == affine


def test_a_piece_of_two_ends_where_its_second_part_ends():
    """0 up to 1, in two parts, and 1 from there on: the value at the jump belongs to no piece."""
    pieces = Pieces(np.array([[0.0], [1.0]]), np.zeros((3, 1)), np.array([[0.0], [0.0], [1.0]]))
    assert choose(pieces, np.array([-1.0]), np.array([0.75]))[1] == pytest.approx(0.25)
    assert not choose(pieces, np.array([-1.0]), np.array([1.0]))[1] >= 0


def test_rounded_breakpoints_are_known_to_be_rounded():
    """The float 1/6 is less than 1/6, so that the hard sigmoid's breakpoints lie just beyond -3 and 3."""
    pieces = HardSigmoid(1 / 6, 0.5).pieces((1,))
    assert pieces.breakpoints.ravel().tolist() == [-3.0, 3.0]
    exact = pattern(po.Network.sequential([HardSigmoid(1 / 6, 0.5)], (1,)), Exact(po.Box([-3.0], [3.0])))
    assert 1e-16 < exact.margin < 2e-16
    for low, high in [(-3.0, 0.0), (0.0, 3.0)]:
        assert choose(pieces, np.array([low]), np.array([high]))[1] < 0
        inside = choose(pieces, np.array([low * (1 - 1e-14)]), np.array([high * (1 - 1e-14)]))
        assert (inside[0].item(), inside[1] > 0) == (1, True)


def test_the_radius_of_a_map_widens_its_range():
    ball = Ball(np.array([[1.0, 3.0]]), np.array([[0.5, 0.25]]))
    numbers = Rounded(po.Box([-1.0], [2.0]))
    assert numbers.upper(ball) == pytest.approx(2.0 + 3.0 + 0.5 * 2.0 + 0.25)
    assert numbers.lower(ball) == pytest.approx(-1.0 + 3.0 - 0.5 * 2.0 - 0.25)


def test_neighbouring_pieces_on_one_line_are_one_piece():
    for activation in (Clip(), LeakyReLU(1.0)):
        certificate = po.affine_on(po.Network.sequential([activation], (1,)), po.Box([-3.0], [2.0]))
        assert (certificate.status, certificate.margin) == ("affine", np.inf)


# Rounding


def test_a_margin_below_rounding_is_decided_by_fractions():
    net = po.Network.sequential([Affine([[1.0, 1e-18]], [-1.0]), ReLU()], (2,))
    box = po.Box([1.0, 1.0], [2.0, 2.0])
    certificate = po.affine_on(net, box)
    assert certificate.margin is None  # floats cannot see it
    certificate = po.affine_on(net, box, exact=True)
    assert certificate.status == "affine"
    assert 0.99e-18 < certificate.margin <= 1e-18
    crossing = po.Network.sequential([Affine([[1.0, -1e-18]], [-1.0]), ReLU()], (2,))
    assert po.affine_on(crossing, box, exact=True).margin is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_products_contain_the_exact_ones(seed, sparse):
    rng = np.random.default_rng(seed)
    k, m, p = rng.integers(1, 6, 3)
    W = rng.choice([0.0, 1.0, 1e-160, 1.0], size=(k, m)) * rng.normal(size=(k, m)) * 10.0 ** rng.integers(-9, 9, (k, m))
    W[0] = rng.choice([0.0, 1.0, -1.0], m)
    mid = rng.choice([0.0, 1.0, 1e-170], size=(m, p)) * rng.normal(size=(m, p))
    radius = rng.choice([0.0, 1e-10]) * rng.random((m, p))
    found = product(po.layers.sp.csr_array(W) if sparse else W, Ball(mid, radius))
    ends = fractions(mid) + rng.choice([-1, 1], (m, p)) * fractions(radius)
    error = abs(dot(W, ends) - fractions(found.mid))
    assert (error <= fractions(found.radius)).all()
    assert (found.radius <= 1e-14 * (abs(W) @ abs(mid)) + 1.001 * (abs(W) @ radius) + 1e-300).all()


def test_the_rounding_of_a_product_is_in_the_radius():
    """A sum whose float is off by all that its terms differ."""
    found = product(np.array([[1.0, 1.0, 1.0]]), Ball(np.array([[1e16], [1.0], [-1e16]]), np.zeros((3, 1))))
    assert abs(found.mid - 1.0) <= found.radius


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_supports_are_upper_bounds_in_floats_and_exact_in_fractions(data):
    region = data.draw(regions(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    A = rng.normal(size=(4, 3)) * rng.choice([0.0, 1.0, 1e-3], (4, 3))
    known = region.support(A)
    rounded, exact = Support.of(region, False), Support.of(region, True)
    assert (exact(fractions(A)) <= fractions(rounded(A)) + Fraction(1, 10**12) * isinstance(region, po.HPolytope)).all()
    slack = 1e-9 * (1 + abs(known))
    np.testing.assert_allclose(rounded(A), known, atol=slack.max())
    np.testing.assert_allclose(exact(fractions(A)).astype(float), known, atol=slack.max())
    if isinstance(region, po.HPolytope | po.Product):
        return  # a flat one may hold no float at all
    points = fractions(region.vertices()[:8] if isinstance(region, po.Box) else region.center[None])
    slack = 0 if isinstance(region, po.Box | po.Zonotope | po.Ellipsoid) else Fraction(1, 10**15)  # a mean is rounded
    assert (fractions(A) @ points.T <= exact(fractions(A))[:, None] + slack).all()
    assert (abs(points) <= exact.magnitude + slack).all()


def test_weak_duality_needs_no_optimal_multipliers(monkeypatch):
    """Whatever the solver says, the bound holds; without a good answer it is only worse."""
    from polyopt.regions import support

    region, A = UNIT_SQUARES["hpolytope"], np.array([[1.0, 2.0], [-1.0, 0.5]])
    good = support._multipliers
    assert (Support.of(region, False)(A) >= region.support(A)).all()
    known = Support.of(region, False)
    monkeypatch.setattr(support, "_multipliers", lambda p, A: np.maximum(good(p, A) - 0.25, 0.0))
    assert (known(A) > region.support(A)).all()
    monkeypatch.setattr(support, "_multipliers", lambda p, A: 0.0 * good(p, A))
    assert not np.isfinite(Support.of(region, False)(A)).any()


def test_roots_are_rounded_up():
    for value in (Fraction(2), Fraction(1, 10**60), Fraction(10**60), Fraction(9, 4), Fraction(0)):
        assert value <= root(value) ** 2 <= value * (1 + Fraction(1, 10**20))


@pytest.mark.parametrize("seed", range(6))
def test_maps_in_floats_contain_those_in_fractions(seed):
    rng = np.random.default_rng(seed)
    nets = [chain(rng, "leaky", sizes=(3, 6, 6, 2)), residual(rng, "prelu"), convolutional(rng, "relu", "mean_inside")]
    net = nets[seed % 3]
    center = rng.normal(size=net.input_size)
    box = po.Box(center - 1e-9, center + 1e-9)
    floats, exact = pattern(net, Rounded(box)), pattern(net, Exact(box))
    assert exact.error <= 1e-15 * (1 + abs(exact.A).sum() + abs(exact.c).max())
    assert floats.margin <= exact.margin
    gap = abs(fractions(floats.A) - fractions(exact.A)) @ fractions(abs(center))
    gap += abs(fractions(floats.c) - fractions(exact.c))
    assert gap.max() <= Fraction(2 * (floats.error + exact.error)) + Fraction(1, 10**20)
    assert 0 < floats.error < 1e-12


def test_enclosures_contain_the_exact_values():
    rng = np.random.default_rng(0)
    net = chain(rng, "relu", sizes=(3, 8, 8, 2))
    x = rng.normal(size=(5, 3))
    mid, radius = enclose(net, x, np.zeros_like(x))
    values = fractions(x)
    for layer in net.layers:
        relu = isinstance(layer, ReLU)
        values = np.maximum(values, 0) if relu else values @ fractions(layer.weight).T + fractions(layer.bias)
    assert (abs(fractions(mid) - values) <= fractions(radius)).all()
    assert radius.max() < 1e-13
    shifted_x = x + 1e-5 * rng.uniform(-1, 1, x.shape)
    mid, radius = enclose(net, x, np.full_like(x, 1e-5))
    assert (abs(net(shifted_x) - mid) <= radius).all()


@pytest.mark.parametrize("make", [residual, maxima, convolutional])
@pytest.mark.parametrize("activation", [*PIECEWISE, "tanh", "sigmoid", "softplus"])
def test_enclosures_contain_the_values_nearby(make, activation):
    rng = np.random.default_rng(5)
    net = make(rng, activation)
    x = rng.normal(size=(40, net.input_size))
    mid, radius = enclose(net, x, np.full_like(x, 0.02))
    near = x + 0.02 * rng.uniform(-1, 1, x.shape)
    assert (abs(net(near) - mid) <= radius).all()


@pytest.mark.parametrize("size", [1.0, 1e8])
def test_rounding_is_no_witness(size):
    net, *_ = pairs(np.random.default_rng(3), 2, 40)
    x = size * np.random.default_rng(0).normal(size=(200, 2))
    box = po.Box(x.min(0), x.max(0))
    bent = abs(net((x[1:] + x[:-1]) / 2) - (net(x[1:]) + net(x[:-1])) / 2).max()
    assert bent > 0
    assert -100 * bent < most_bent(net, box, x[1:], x[:-1]).defect <= 0


def test_points_beside_a_flat_region_are_no_witness():
    """On the segment ``relu(1e6 (y - x - 1/2))`` is 0; at points that count as its points, anything up to 1e-4."""
    net = po.Network.sequential([Affine([[-1e6, 1e6]], [-5e5]), ReLU()], (2,))
    segment, rng = po.VPolytope([[0.0, 0.5], [1.0, 1.5]]), np.random.default_rng(0)
    x = segment.sample(200, rng) + 1e-10 * rng.uniform(-1, 1, (200, 2))
    assert segment.contains(x).all()
    assert net(x).max() > 1e-5
    assert po.affine_on(net, segment).status != "not affine"
    assert most_bent(net, segment, x[1:], x[:-1]).defect <= 0


# Doubt, degenerate regions, errors


def test_out_of_time_is_unknown():
    net, *_ = pairs(np.random.default_rng(0), 2, 3)
    certificate = po.affine_on(net, po.Box([-1.0, -1.0], [1.0, 1.0]), time_limit=1e-6)
    assert (certificate.status, certificate.tolerance) == ("unknown", None)
    net, *_ = pairs(np.random.default_rng(0), 30, 200)
    certificate = po.affine_on(net, po.Box([-1.0] * 30, [1.0] * 30), time_limit=1.0)
    assert certificate.status == "unknown"
    assert certificate.seconds < 10


def test_a_kink_between_an_ellipsoid_and_its_box_is_unknown():
    """``relu(x + y - 1.8) + relu(x) - relu(-x)``: the disc does not reach the first kink, and crosses the second."""
    hidden = Affine([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], [-1.8, 0.0, 0.0])
    net = po.Network.sequential([hidden, ReLU(), Affine([[1.0, 1.0, -1.0]], None)], (2,))
    disc = po.Ellipsoid([0.0, 0.0], np.eye(2))
    certificate = po.affine_on(net, disc)
    assert certificate.status == "unknown"
    assert certificate.tolerance == pytest.approx(0.2, abs=1e-3)
    check_affine(net, disc, certificate)
    assert po.affine_on(net, po.Ellipsoid([0.5, 0.0], 0.4 * np.eye(2))).margin > 0


@pytest.mark.parametrize(
    "region",
    [
        po.Box([0.1, 0.2], [0.1, 0.2]),
        po.Zonotope([0.1, 0.2], np.zeros((2, 3))),
        po.Zonotope([0.1, 0.2], np.zeros((2, 0))),
        po.Ellipsoid([0.1, 0.2], np.zeros((2, 2))),
        po.VPolytope([[0.1, 0.2], [0.1, 0.2], [0.1, 0.2]]),
        po.Product(po.Box([0.1], [0.1]), po.Zonotope([0.2], [[0.0]])),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "sign", "tanh"])
def test_on_one_point_everything_is_affine(region, activation):
    net = chain(np.random.default_rng(0), activation, sizes=(2, 4, 2))
    certificate = po.affine_on(net, region)
    assert certificate.status == "affine"
    assert certificate.tolerance < 1e-14
    np.testing.assert_allclose(certificate.c, net([[0.1, 0.2]])[0], atol=1e-14)


def test_a_polytope_of_one_point_is_affine():
    net, *_ = pairs(np.random.default_rng(0), 2, 2, kink=0.5)
    point = po.HPolytope([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [0.1, 0.2, -0.1, -0.2])
    assert po.affine_on(net, point).status == "affine"


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("seed", range(4))
def test_flat_and_odd_regions_get_an_answer_that_holds(kind, seed):
    rng = np.random.default_rng(seed)
    region = REGIONS[kind](rng, 3)
    net = chain(rng, "relu", sizes=(3, 3, 2))
    certificate = po.affine_on(net, region, time_limit=20)
    assert certificate.status != "unknown"
    if certificate.status == "not affine":
        check_witness(net, region, certificate, 0.0)
    elif certificate.status == "affine":
        check_affine(net, region, certificate, slack=1e-7 * isinstance(region, po.HPolytope) + 1e-10)


def test_what_is_zero_up_to_rounding_is_affine():
    """``0.1 relu(z) - 0.1 relu(-z) - 0.1 z`` and 3 more of the kind, whose floats are all about 1e-17."""
    rng = np.random.default_rng(0)
    net, A, c = pairs(rng, 2, 4)
    layers = [("hidden", net.layers[0], ["input"]), ("relu", ReLU(), ["hidden"]), ("head", net.layers[2], ["relu"]),
              ("minus", Affine(-A, -c), ["input"]), ("sum", Add(), ["head", "minus"])]  # fmt: skip
    zero, box = po.Network(layers, (2,)), po.Box([-1.0, -1.0], [1.0, 1.0])
    assert 0 < abs(zero(box.sample(100, rng))).max() < 1e-14
    certificate = po.affine_on(zero, box)
    assert certificate.status == "affine"
    assert certificate.tolerance < 1e-8


def test_networks_without_activations_and_smooth_ones():
    net = po.Network.sequential([Affine([[1.0, -2.0]], [0.5])], (2,))
    certificate = po.affine_on(net, po.Box([-1.0, -1.0], [1.0, 1.0]))
    assert (certificate.status, certificate.margin, certificate.tolerance) == ("affine", np.inf, 0.0)
    smooth = po.Network.sequential([Affine([[1.0]], None), Tanh()], (1,))
    assert po.affine_on(smooth, po.Box([-1.0], [1.0])).status == "not affine"
    assert po.affine_on(smooth, po.Box([-1e-9], [1e-9])).status == "unknown"


def test_jumps_get_no_false_answer():
    net = po.Network.sequential([Affine([[1.0]], None), Step(), Affine([[2.0]], None)], (1,))
    certificate = po.affine_on(net, po.Box([-1.0], [2.0]))
    assert certificate.status == "not affine"
    check_witness(net, po.Box([-1.0], [2.0]), certificate, 0.5)


def test_numbers_too_large_for_floats_are_not_certified():
    huge = Affine([[1e200]], None)
    net = po.Network.sequential([huge, ReLU(), huge, ReLU(), Affine([[0.0]], None)], (1,))
    assert pattern(net, Rounded(po.Box([1.0], [2.0]))) is None
    assert pattern(net, Exact(po.Box([1.0], [2.0]))) is not None
    net = po.Network.sequential([huge, ReLU(), huge, ReLU()], (1,))
    for exact in (False, True):
        assert po.affine_on(net, po.Box([1.0], [2.0]), exact=exact).status == "unknown"
    assert po.affine_on(net, po.Box([-1000.0], [1.0])).status == "unknown"


def test_choose_treats_what_is_not_a_number_as_no_piece():
    _, margin = choose(ReLU().pieces((2,)), np.array([np.nan, -np.inf]), np.array([np.nan, np.inf]))
    assert not (margin >= 0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": 3}, "the network is a int"),
        ({"region": [0.0, 1.0]}, "the region is list"),
        ({"region": po.Box(np.zeros((3, 2)), np.ones((3, 2)))}, "a batch of 3 boxes"),
        ({"region": po.Box([0.0], [1.0])}, "1 dimensions, but the network has 2"),
        ({"time_limit": 0.0}, "time_limit is 0.0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": np.nan}, "tolerance is nan"),
        ({"region": po.HPolytope([[1.0, 0.0]], [1.0])}, "unbounded"),
        ({"region": po.HPolytope([[1.0, 0.0], [-1.0, 0.0]], [0.0, -1.0])}, "empty"),
    ],
)
def test_bad_arguments_are_named(change, message):
    net = po.Network.sequential([Affine([[1.0, 1.0]], None), ReLU()], (2,))
    with pytest.raises(ValueError, match=message):
        po.affine_on(**({"net": net, "region": po.Box([0.0, 0.0], [1.0, 1.0])} | change))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off_by_the_caller_do_no_harm(off):
    net = po.Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, -1.0]], None)], (1,))
    with off():
        assert po.affine_on(net, po.Box([-1.0], [1.0])).status == "affine"
