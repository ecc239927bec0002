"""How far constraints are violated on a region: fractions at vertices, linear programs over all patterns, samples."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.spatial import ConvexHull
from strategies import REGIONS, chain, convolutional, maxima, residual

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.regions.rational import dot, fractions, root
from polyopt.regions.rounding import Ball
from polyopt.verification.attained import attained, inside
from polyopt.verification.violation import slope_violation, violation

RNG = np.random.default_rng(0)
POLYTOPES = {
    "box": po.Box([-0.1, 0.2], [0.7, 0.9]),
    "zonotope": po.Zonotope([0.5, 0.5], [[0.3, 0.2, 0.1], [0.1, -0.3, 0.15]]),
    "vpolytope": po.VPolytope([[0.1, 0.2], [0.9, 0.3], [0.6, 0.8], [0.2, 0.7]]),
    "hpolytope": po.HPolytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]], [0.1, 0.3, 1.7]),
    "product": po.Product(po.Box([0.1], [0.8]), po.VPolytope([[0.3], [0.7]])),
}
ALL = POLYTOPES | {"ellipsoid": po.Ellipsoid([0.5, 0.4], [[0.3, 0.0], [0.2, 0.25]])}
E = np.array([[1.0, -0.7, 0.3], [0.2, 1.1, -2.0]])


def mlp(seed, sizes=(2, 6, 5, 3), far=0.0):
    """Weights and biases; ``far`` moves the kinks away from the regions above, half of them to either side."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(n, m)) / np.sqrt(m) for m, n in itertools.pairwise(sizes)]
    biases = [rng.normal(size=len(w)) + far * rng.choice([-1.0, 1.0], len(w)) for w in weights]
    return weights, biases


def network(weights, biases):
    layers = [part for w, b in zip(weights, biases, strict=True) for part in (Affine(w, b), ReLU())]
    return po.Network.sequential(layers[:-1], (weights[0].shape[1],))


def exact_values(weights, biases, points):
    """The network at points (m, n), floats or fractions, in fractions: (m, n_out)."""
    values = np.array(points, dtype=object).T if points.dtype == object else fractions(points).T
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        values = dot(w, np.maximum(values, 0) if k else values) + fractions(b)[:, None]
    return values.T


def exact_map(weights, biases, center):
    """Value (n_out,) and Jacobian (n_out, n) at a point, by differences that see no kink."""
    points = fractions(center) + fractions(2.0**-20 * np.vstack([np.zeros(len(center)), np.eye(len(center))]))
    value, *moved = exact_values(weights, biases, points)
    return value, (np.array(moved) - value).T * 2**20


def exact_excess(values, E, f, kind):
    excess = dot(E, values.T).T - fractions(f)
    return (abs(excess) if kind == "eq" else excess).max()


def exact_violation(weights, biases, region, f, kind):
    """Of a network that is affine on the region."""
    if not isinstance(region, po.Ellipsoid):
        return exact_excess(exact_values(weights, biases, region.vertices()), E, f, kind)
    value, jacobian = exact_map(weights, biases, region.center)
    middle, rows = dot(E, value[:, None])[:, 0] - fractions(f), dot(E, jacobian) @ fractions(region.factor)
    return ((abs(middle) if kind == "eq" else middle) + [root(square) for square in (rows**2).sum(1)]).max()


# Networks that are affine on the region


@pytest.mark.parametrize("kind", ["le", "eq"])
@pytest.mark.parametrize("name", [name for name in ALL if name != "ellipsoid"])
def test_a_slope_of_the_right_hand_side_is_moved_over(name, kind):
    """Exactly at the vertices, and by the programs."""
    weights, biases = mlp(4, far=30.0)
    net, region, f, S = network(weights, biases), ALL[name], np.array([0.5, -1.0]), np.array([[3.0, -0.7], [0.1, 2.0]])
    points = region.vertices()
    excess = dot(E, exact_values(weights, biases, points).T).T - fractions(f) - dot(S, fractions(points).T).T
    exact = (abs(excess) if kind == "eq" else excess).max()
    found = violation(net, region, E, f, kind, slope=S)
    scale = (abs(E) @ abs(net(points)).max(0) + abs(f)).max()
    assert float(exact) == pytest.approx(found.bound, abs=1e-12 * scale)
    assert exact <= found.bound + Fraction(1e-13 * scale) * isinstance(region, po.HPolytope)  # vertices are rounded
    assert exact - found.value <= 1e-7 * scale
    assert exact <= found.milp_bound <= exact + 1e-6 * scale


@pytest.mark.parametrize("kind", ["le", "eq"])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_all_numbers_are_those_of_the_vertices(name, kind, seed):
    weights, biases = mlp(seed, far=30.0)
    net, region, f = network(weights, biases), ALL[name], np.array([0.5, -1.0])
    exact = exact_violation(weights, biases, region, f, kind)
    found = violation(net, region, E, f, kind)
    scale = (abs(E) @ abs(net(region.sample(99, RNG))).max(0) + abs(f)).max()
    slack = Fraction(1e-13 * scale) * isinstance(region, po.HPolytope)  # its vertices are rounded
    assert found.value - slack <= exact <= found.bound + slack
    assert found.bound - exact <= 3e-14 * scale
    assert exact - found.value <= 1e-7 * scale
    assert exact <= found.milp_bound <= exact + 1e-6 * scale
    assert region.contains(found.witness)
    there = exact_excess(exact_values(weights, biases, found.witness[None]), E, f, kind)
    assert found.value <= there <= found.value + 1e-7 * scale


@pytest.mark.parametrize("name", ALL)
def test_what_holds_with_equality_is_satisfied_to_the_last_digits(name):
    """``E f(x) = f`` with weights that make both sides equal: f_1 = f_0 + 3."""
    weights, biases = mlp(1, (2, 16, 16, 2), far=20.0)
    weights[-1][1], biases[-1][1] = weights[-1][0], biases[-1][0] + 3.0
    net, rows = network(weights, biases), [[-1.0, 1.0]]
    found = violation(net, ALL[name], rows, [3.0], "eq")
    assert found.status == "satisfied"
    scale = 2 * abs(net(ALL[name].sample(99, RNG))).max() + 3.0
    assert 0 <= found.bound <= 1e-13 * scale
    assert found.milp_bound <= 1e-6 * scale
    assert violation(net, ALL["box"], rows, [3.0 - 1e-5], "eq").status == "violated"
    assert violation(net, ALL["box"], rows, [3.0 + 1e-5], "eq").status == "violated"
    assert violation(net, ALL["box"], rows, [3.0 + 1e-5], "le").status == "satisfied"
    assert violation(net, ALL["box"], rows, [3.0 - 1e-5], "le").status == "violated"


def test_certificates_spare_the_map_and_say_the_same():
    weights, biases = mlp(2, far=30.0)
    net, box = network(weights, biases), ALL["box"]
    known = violation(net, box, E, [0.0, 0.0], milp=False)
    for exact in (False, True):
        found = violation(net, box, E, [0.0, 0.0], certificate=po.affine_on(net, box, exact=exact), milp=False)
        assert found.bound == pytest.approx(known.bound, rel=1e-13)
        assert found.value == pytest.approx(known.value, rel=1e-13)
    wider = violation(net, box, E, [0.0, 0.0], certificate=replace(po.affine_on(net, box), tolerance=0.25), milp=False)
    assert known.bound < wider.bound <= known.bound + 0.25 * abs(E).sum(1).max() + 1e-9
    assert wider.bound >= known.bound + 0.25 * abs(E).sum(1).min() - 1e-9
    assert known.milp_bound == np.inf


def test_without_a_margin_a_certificate_proves_nothing():
    layers = [Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, -1.0]], [2.0])]  # x + 2, by programs
    net, box = po.Network.sequential(layers, (1,)), po.Box([-1.0], [1.0])
    certificate = po.affine_on(net, box)
    assert (certificate.status, certificate.margin) == ("affine", None)
    found = violation(net, box, [[1.0]], [3.5], certificate=certificate)
    assert (found.status, found.bound) == ("unknown", np.inf)
    assert found.milp_bound == pytest.approx(-0.5, abs=1e-5)
    found = violation(net, box, [[1.0]], [2.5], certificate=certificate)
    assert (found.status, found.bound) == ("violated", np.inf)


def test_the_certificate_of_another_network_is_contradicted():
    weights, biases = mlp(4, far=30.0)
    certificate = po.affine_on(network(weights, biases), ALL["box"])
    biases[-1] = biases[-1] + [2.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="another network or region"):
        violation(network(weights, biases), ALL["box"], [[1.0, 0.0, 0.0]], [0.0], certificate=certificate)


def test_a_value_is_one_of_the_network_whatever_the_certificate_says():
    weights, biases = mlp(4, far=30.0)
    net, known = network(weights, biases), po.affine_on(network(weights, [*biases[:-1], biases[-1] + 2.0]), ALL["box"])
    found = violation(net, ALL["box"], [[1.0, 0.0, 0.0]], [0.0], certificate=known)
    assert found.value <= violation(net, ALL["box"], [[1.0, 0.0, 0.0]], [0.0]).bound <= found.bound - 1.9


@pytest.mark.parametrize("affine", [False, True])
def test_points_beside_a_flat_region_attain_nothing(affine):
    """On the segment ``1e6 (y - x - 1/2)`` is 0; at points that count as its points, anything up to 1e-3."""
    steep = Affine([[-1e6, 1e6]], [-5e5])
    net, segment = (
        po.Network.sequential([steep] if affine else [steep, ReLU()], (2,)),
        po.VPolytope([[0, 0.5], [1, 1.5]]),
    )
    points = segment.sample(50, RNG) + 1e-10 * RNG.uniform(-1, 1, (50, 2))
    assert net(points).max() > 1e-5
    known = Ball(np.array([[-1e6, 1e6, -5e5]]), np.zeros((1, 3))) if affine else None
    value, point = attained(net, segment, points, known)
    assert value <= 0
    assert point is not None


def test_one_point_at_a_kink_is_judged_by_its_certificate():
    net, point = po.Network.sequential([Affine([[3.0]], [-0.3]), ReLU()], (1,)), po.Box([0.1], [0.1])
    assert violation(net, point, [[1.0]], [0.0], tolerance=1e-15).bound == np.inf
    found = violation(net, point, [[1.0]], [0.0], certificate=po.affine_on(net, point), tolerance=1e-15)
    assert found.status == "satisfied"


# Networks that are not


def pattern_violation(weights, biases, polytope, f, kind):
    """With one hidden layer: the greatest maximum of a row over the cells of all patterns, by linear programs."""
    (w, v), (b, c) = weights, biases
    best = -np.inf
    signs = [1.0, -1.0] if kind == "eq" else [1.0]
    for pattern in itertools.product([0.0, 1.0], repeat=len(w)):
        active = np.array(pattern)
        side = (1.0 - 2.0 * active)[:, None]
        rows = np.vstack([polytope.A, side * w])
        sides = np.concatenate([polytope.b, -side[:, 0] * b])
        slope, offset = E @ v @ (active[:, None] * w), E @ (v @ (active * b) + c) - f
        for sign in signs:
            for row, constant in zip(sign * slope, sign * offset, strict=True):
                solution = linprog(-row, A_ub=rows, b_ub=sides, bounds=(None, None))
                best = max(best, constant - solution.fun) if solution.status == 0 else best
    return best


@pytest.mark.parametrize("kind", ["le", "eq"])
@pytest.mark.parametrize("name", POLYTOPES)
@pytest.mark.parametrize("seed", range(2))
def test_programs_find_the_maximum_over_all_patterns(name, kind, seed):
    weights, biases = mlp(seed, (2, 5, 3))
    biases[0] = -(weights[0] @ [0.5, 0.5])  # all kinks cross every region
    net, region, f = network(weights, biases), POLYTOPES[name], np.array([0.5, -1.0])
    hull = ConvexHull(region.vertices()).equations
    known = pattern_violation(weights, biases, po.HPolytope(hull[:, :-1], -hull[:, -1]), f, kind)
    found = violation(net, region, E, f, kind)
    assert found.bound == np.inf
    assert known - 1e-8 <= found.milp_bound <= known + 1e-5
    assert known - 1e-6 <= found.value <= known + 1e-8
    assert found.status == ("violated" if known > 1e-6 else "unknown")
    shifted = violation(net, region, E, f + 2 * found.milp_bound, kind="le")
    assert (shifted.status, shifted.bound) == ("unknown", np.inf)
    assert shifted.milp_bound < 0


def test_over_an_ellipsoid_the_programs_see_a_box_and_points_are_inside():
    net = network(*mlp(0, (2, 6, 3)))
    disc = ALL["ellipsoid"]
    found = violation(net, disc, E, [0.0, 0.0])
    around = violation(net, disc.bounding_box(), E, [0.0, 0.0])
    samples = (net(disc.sample(20000, RNG)) @ E.T).max()
    assert disc.contains(found.witness)
    assert found.value <= found.milp_bound <= around.milp_bound + 1e-6
    assert samples <= found.milp_bound
    assert found.value > samples - 0.1


@pytest.mark.parametrize("make", [residual, maxima, convolutional, chain])
@pytest.mark.parametrize("activation", ["relu", "hard_sigmoid", "abs", "sign", "tanh"])
def test_every_kind_of_network_gets_ordered_numbers(make, activation):
    rng = np.random.default_rng(1)
    net = make(rng, activation)
    center = rng.normal(size=net.input_size)
    radius = 0.02 if make is convolutional else 0.4
    box = po.Box(center - radius, center + radius)
    found = violation(net, box, [[1.0, -1.0]], [0.25], "eq", time_limit=10.0)
    seen = abs(net(box.sample(2000, rng)) @ [1.0, -1.0] - 0.25).max()
    assert found.value <= min(found.bound, found.milp_bound)
    assert seen <= min(found.bound, found.milp_bound) + 1e-12
    assert found.milp_bound < np.inf
    assert box.contains(found.witness)
    assert abs(net(found.witness[None]) @ [1.0, -1.0] - 0.25) >= found.value


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("seed", range(4))
def test_flat_and_odd_regions_get_ordered_numbers(kind, seed):
    rng = np.random.default_rng(seed)
    region = REGIONS[kind](rng, 3)
    net = chain(rng, "leaky", sizes=(3, 3, 2))
    for one in ("le", "eq"):
        found = violation(net, region, [[1.0, 2.0]], [0.5], one)
        assert found.value <= min(found.bound, found.milp_bound)
        seen = net(region.sample(100, rng)) @ [1.0, 2.0] - 0.5
        seen = (abs(seen) if one == "eq" else seen).max()
        assert seen <= min(found.bound, found.milp_bound) + 1e-7 * isinstance(region, po.HPolytope | po.Product) + 1e-9


# Slopes


@pytest.mark.parametrize("kind", ["le", "eq"])
@pytest.mark.parametrize("name", ALL)
def test_slopes_are_those_of_fractions(name, kind):
    weights, biases = mlp(7, far=30.0)
    net, region = network(weights, biases), ALL[name]
    steps = np.array([[1.0, 0.0], [0.0, 1.0], [0.3, -0.7]])
    _, jacobian = exact_map(weights, biases, region.center)
    g = np.random.default_rng(0).normal(size=(2, 3))
    exact = dot(E, jacobian) @ fractions(steps).T - fractions(g)
    exact = (abs(exact) if kind == "eq" else exact).max()
    found = slope_violation(net, region, E, steps, g, kind)
    assert Fraction(found.value) <= exact <= Fraction(found.bound)
    assert found.bound - found.value <= 1e-12
    assert found.status == ("violated" if exact > 0 else "satisfied")
    assert (found.witness, found.milp_bound) == (None, np.inf)


@pytest.mark.parametrize("seed", range(10))
def test_all_rounding_of_slopes_is_counted(seed):
    """Rows and directions that round nothing, and others."""
    weights, biases = mlp(seed, (2, 12, 12, 3), far=40.0)
    net, box = network(weights, biases), ALL["box"]
    _, jacobian = exact_map(weights, biases, box.center)
    rng = np.random.default_rng(seed)
    for rows, steps, g in [
        (np.eye(3)[:1], np.eye(2)[:1], 0.0),
        (rng.normal(size=(1, 3)), rng.normal(size=(1, 2)), 0.3),
    ]:
        exact = (dot(rows, jacobian) @ fractions(steps).T - Fraction(g)).item()
        found = slope_violation(net, box, rows, steps, g)
        assert Fraction(found.value) <= exact <= Fraction(found.bound)


def test_points_outside_are_moved_to_the_boundary():
    disc, rng = ALL["ellipsoid"], np.random.default_rng(0)
    points = disc.center + 5.0 * rng.normal(size=(20, 2))
    moved = inside(disc, points)
    before, lengths = (
        np.linalg.norm(np.linalg.solve(disc.factor, (x - disc.center).T), axis=0) for x in (points, moved)
    )
    np.testing.assert_allclose(lengths, np.minimum(1.0, before), atol=1e-6)
    along = (moved - disc.center) / (points - disc.center)
    np.testing.assert_allclose(along[:, 0], along[:, 1])


def test_slopes_that_are_as_demanded():
    net = po.Network.sequential([Affine([[0.1, 0.7]], [5.0]), ReLU(), Affine([[0.3], [0.3]], None)], (2,))
    box, units = ALL["box"], np.eye(2)
    assert slope_violation(net, box, [[1.0, -1.0]], units, 0.0, "eq").status == "satisfied"
    assert slope_violation(net, box, [[1.0, 0.0]], units, [[0.03, 0.21]], "eq").status == "satisfied"
    assert slope_violation(net, box, [[1.0, 0.0]], units, [[0.03, 0.21]]).status == "unknown"  # a tie in floats
    assert slope_violation(net, box, [[1.0, 0.0]], units, [[0.03, 0.21]], tolerance=1e-15).status == "satisfied"
    assert slope_violation(net, box, [[1.0, 0.0]], units, [[0.03, 0.2099999]]).status == "violated"
    assert slope_violation(net, box, [[1.0, 0.0]], -units, 0.0).status == "satisfied"  # monotone
    assert slope_violation(net, box, [[1.0, 0.0]], [[0.0, 1.0]], 0.2100001, "eq").status == "violated"


def test_slopes_of_what_is_not_affine_are_unknown():
    net = po.Network.sequential([Affine([[1.0]], None), ReLU()], (1,))
    found = slope_violation(net, po.Box([-1.0], [1.0]), [[1.0]], [[1.0]], 2.0)
    assert (found.status, found.bound, found.value) == ("unknown", np.inf, -np.inf)


# Limits, large numbers, errors


def test_out_of_time_crown_is_known():
    net = chain(np.random.default_rng(0), "relu", sizes=(20, 80, 80, 2))
    box = po.Box(-np.ones(20), np.ones(20))
    bound = po.crown(net, box).output.upper.max()
    found = violation(net, box, np.eye(2), [0.0, 0.0], time_limit=1e-6)
    assert bound <= found.milp_bound <= bound + 1e-4
    assert (found.bound, found.witness is not None) == (np.inf, True)
    found = violation(net, box, np.eye(2), [0.0, 0.0], time_limit=2.0)
    assert found.seconds < 12
    assert found.value <= found.milp_bound <= bound + 1e-4


def test_numbers_too_large_for_floats_are_not_certified():
    huge = Affine([[1e200]], None)
    net = po.Network.sequential([huge, ReLU(), huge, ReLU()], (1,))
    for kind in ("le", "eq"):
        found = violation(net, po.Box([1.0], [2.0]), [[1.0]], [0.0], kind)
        assert (found.status, found.bound, found.witness) == ("unknown", np.inf, None)
        assert slope_violation(net, po.Box([1.0], [2.0]), [[1.0]], [[1.0]], 0.0, kind).status == "unknown"


def test_gradients_switched_off_by_the_caller_do_no_harm():
    net, box = network(*mlp(2, far=30.0)), ALL["zonotope"]
    known = violation(net, box, E, [0.0, 0.0], milp=False)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert violation(net, box, E, [0.0, 0.0], milp=False).value == known.value


UNIT = po.Box([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": 3}, "the network is a int"),
        ({"region": [0.0, 1.0]}, "the region is list"),
        ({"region": po.Box(np.zeros((3, 2)), np.ones((3, 2)))}, "a batch of 3 boxes"),
        ({"region": po.Box([0.0], [1.0])}, "1 dimensions, but the network has 2"),
        ({"region": po.HPolytope([[1.0, 0.0]], [1.0])}, "unbounded"),
        ({"region": po.HPolytope([[1.0, 0.0], [-1.0, 0.0]], [0.0, -1.0])}, "empty"),
        ({"E": [1.0, 0.0, 0.0]}, "E has shape"),
        ({"E": [[1.0, 0.0]]}, r"E has shape \(1, 2\)"),
        ({"E": [[np.nan, 0.0, 0.0]]}, "E must be finite"),
        ({"f": [np.inf]}, "f must be finite"),
        ({"f": [0.0, 0.0]}, r"f \(2,\)"),
        ({"E": np.zeros((0, 3)), "f": []}, "k >= 1"),
        ({"slope": [[1.0]]}, r"slope has shape \(1, 1\), but must be \(1, 2\)"),
        ({"kind": "ge"}, "kind='ge' is unknown"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": np.inf}, "tolerance is inf"),
        ({"time_limit": 0.0}, "time_limit is 0.0"),
        ({"certificate": "wrong size"}, r"A has shape \(1, 2\), but the network 3 outputs"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"net": network(*mlp(0)), "region": UNIT, "E": [[1.0, 0.0, 0.0]], "f": [0.0]} | change
    if "certificate" in change:
        arguments["certificate"] = po.affine_on(po.Network.sequential([Affine([[1.0, 0.0]], None)], (2,)), UNIT)
    with pytest.raises(ValueError, match=message):
        violation(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"region": po.Box([0.0], [1.0])}, "1 dimensions"),
        ({"E": [[1.0]]}, r"E has shape \(1, 1\)"),
        ({"D": [[1.0, 0.0, 0.0]]}, r"D \(1, 3\)"),
        ({"D": [[np.nan, 0.0]]}, "D must be finite"),
        ({"g": [0.0, 0.0]}, r"does not broadcast to \(k, q\) = \(1, 1\)"),
        ({"g": np.nan}, "g must be finite"),
        ({"kind": "ge"}, "kind='ge' is unknown"),
    ],
)
def test_bad_slopes_are_named(change, message):
    arguments = {"net": network(*mlp(0)), "region": UNIT, "E": [[1.0, 0.0, 0.0]], "D": [[1.0, 0.0]], "g": 0.0} | change
    with pytest.raises(ValueError, match=message):
        slope_violation(**arguments)
