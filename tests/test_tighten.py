"""Tightened bounds against brute force, linear programs written independently, models, samples and fractions."""

import itertools
import math
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pyomo.environ as pyo
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from strategies import (
    ACTIVATIONS,
    PIECEWISE,
    REGIONS,
    assert_bounds_hold,
    assert_inside,
    chain,
    convolutional,
    maxima,
    networks,
    points,
    regions,
    residual,
)

import polyopt as po
from polyopt.activations import Maxout, ReLU
from polyopt.layers import Add, Affine, AvgPool2d, Conv2d, Reshape, Scale
from polyopt.network import INPUT, Network, Node
from polyopt.regions.rational import fractions
from polyopt.regions.rounding import gamma
from polyopt.tighten.certificate import Form, lower_bound
from polyopt.tighten.cuts import separate
from polyopt.tighten.domain import domain
from polyopt.tighten.envelope import envelope
from polyopt.tighten.instance import Instance
from polyopt.tighten.maps import maps_to
from polyopt.tighten.polyhedron import Polyhedron
from polyopt.tighten.relaxed import Relaxed
from polyopt.tighten.targets import targets


def box_of(size):
    return po.Box([-1.0] * size, [1.0] * size)


def sides(bounds):
    return [*bounds.pre, bounds.output]


# --- linear programs and enumerations of dense ReLU networks, written without polyopt's relaxation


def coordinates(region):
    """The region as equality rows, inequality rows and bounds of variables (x, z), and the number of z."""
    n = region.size
    if isinstance(region, po.Box):
        return (
            np.zeros((0, n)),
            np.zeros(0),
            np.zeros((0, n)),
            np.zeros(0),
            list(np.stack([region.lower, region.upper], axis=1)),
            0,
        )
    if isinstance(region, po.HPolytope):
        return np.zeros((0, n)), np.zeros(0), region.A, region.b, [(None, None)] * n, 0
    if isinstance(region, po.Zonotope):
        k = region.generators.shape[1]
        rows = np.hstack([np.eye(n), -region.generators])
        return rows, region.center, np.zeros((0, n + k)), np.zeros(0), [(None, None)] * n + [(-1, 1)] * k, k
    k = len(region.points)
    rows = np.block([[np.eye(n), -region.points.T], [np.zeros((1, n)), np.ones((1, k))]])
    return rows, np.append(np.zeros(n), 1.0), np.zeros((0, n + k)), np.zeros(0), [(None, None)] * n + [(0, 1)] * k, k


def weights_of(net):
    return [(layer.weight, layer.bias) for layer in net.layers if isinstance(layer, Affine)]


def extremes(cost, constant, A_eq, b_eq, A_ub, b_ub, limits):
    """The least and the greatest value of ``cost v + constant``, or None where there is no point."""
    ends = []
    for sign in (1.0, -1.0):
        found = linprog(sign * cost, A_ub=A_ub, b_ub=b_ub, A_eq=A_eq, b_eq=b_eq, bounds=limits, method="highs")
        if found.status == 2:
            return None
        assert found.status == 0, found.message
        ends.append(sign * found.fun + constant)
    return ends


def appended(matrix, *blocks):
    """The matrix with new columns that its rows do not use, and new rows."""
    rows = np.hstack(blocks)
    return np.vstack([np.pad(matrix, ((0, 0), (0, rows.shape[1] - matrix.shape[1]))), rows])


def by_linprog(net, region, start):
    """Bounds on a ReLU chain by triangles, layer by layer, each unit's by two programs: variables (x, z, a1, h1, …)."""
    A_eq, b_eq, A_ub, b_ub, limits, extra = coordinates(region)
    before = np.arange(region.size)
    count = region.size + extra
    results = [np.array([side.lower, side.upper]) for side in sides(start)]
    layers = weights_of(net)
    for k, (W, b) in enumerate(layers):
        low, high = results[k]
        last = k == len(layers) - 1
        for i in range(len(b)):
            if (low[i] < 0 < high[i]) or last:
                cost = np.zeros(count)
                cost[before] = W[i]
                found = extremes(cost, b[i], A_eq, b_eq, A_ub, b_ub, limits)
                low[i], high[i] = max(low[i], found[0]), min(high[i], found[1])
        if last:
            return results
        p = len(b)

        on_before = np.zeros((p, count))
        on_before[:, before] = W
        zeros = np.zeros((p, count))
        none = np.zeros((p, p))
        A_eq, b_eq = appended(A_eq, -on_before, np.eye(p), none), np.append(b_eq, b)
        slope = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / np.where(high > low, high - low, 1.0)))
        A_ub = appended(A_ub, zeros, np.eye(p), -np.eye(p))  # a <= h
        A_ub = np.vstack([A_ub, np.hstack([zeros, -np.diag(slope), np.eye(p)])])  # h <= slope (a - min(l, 0))
        b_ub = np.concatenate([b_ub, np.zeros(p), -slope * np.minimum(low, 0.0)])
        limits = [*limits, *zip(low, high, strict=True), *[(0.0, None)] * p]
        before = np.arange(count + p, count + 2 * p)
        count += 2 * p


def by_patterns(net, region):
    """The true ranges of all pre-activations and outputs of a ReLU chain: the best of all activation patterns."""
    A_eq, b_eq, A_ub, b_ub, limits, extra = coordinates(region)
    layers = weights_of(net)
    ranges = [np.array([np.full(len(b), np.inf), np.full(len(b), -np.inf)]) for _, b in layers]

    def walk(k, A, c, A_ub, b_ub):
        """The layers from k on, whose input is ``A v + c`` where ``A_ub v <= b_ub``."""
        W, b = layers[k]
        A, c = W @ A, W @ c + b
        for i in range(len(b)):
            found = extremes(A[i], c[i], A_eq, b_eq, A_ub, b_ub, limits)
            if found is None:
                return
            ranges[k][:, i] = min(ranges[k][0, i], found[0]), max(ranges[k][1, i], found[1])
        if k + 1 < len(layers):
            for signs in itertools.product((0.0, 1.0), repeat=len(b)):
                on = np.array(signs)
                turn = (1.0 - 2.0 * on)[:, None]
                cut = np.vstack([A_ub, turn * A]), np.append(b_ub, -(turn[:, 0] * c))
                walk(k + 1, on[:, None] * A, on * c, *cut)

    walk(0, np.eye(region.size, region.size + extra), np.zeros(region.size), A_ub, b_ub)
    return ranges


@pytest.mark.parametrize("kind", ["box", "zonotope", "vpolytope", "hpolytope"])
@pytest.mark.parametrize("seed", range(4))
def test_linear_bounds_are_those_of_the_same_relaxation_by_scipy(kind, seed):
    rng = np.random.default_rng(seed)
    net = chain(rng, "relu", (3, 7, 6, 5, 2))
    region = box_of(3) if kind == "box" else REGIONS[kind](rng, 3)
    start = po.interval(net, region)
    for found, (low, high) in zip(sides(po.obbt(net, region, start)), by_linprog(net, region, start), strict=True):
        np.testing.assert_allclose(found.lower, low, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.upper, high, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("formulation", [po.Triangle(), po.Hull()])
@pytest.mark.parametrize("kind", ["box", "zonotope", "vpolytope", "hpolytope"])
def test_no_bound_cuts_off_what_brute_force_attains_and_milps_reach_it(kind, formulation):
    rng = np.random.default_rng(11)
    net = chain(rng, "relu", (2, 4, 3, 2))
    region = box_of(2) if kind == "box" else REGIONS[kind](rng, 2)
    true = by_patterns(net, region)
    linear = po.obbt(net, region, formulation=formulation)
    mixed = po.obbt(net, region, formulation=formulation, mip_units=10, mip_seconds=10)
    for loose, tight, (low, high) in zip(sides(linear), sides(mixed), true, strict=True):
        assert (loose.lower <= low + 1e-7).all()
        assert (loose.upper >= high - 1e-7).all()
        assert (tight.lower <= low + 1e-7).all()
        assert (tight.upper >= high - 1e-7).all()
    np.testing.assert_allclose(mixed.output.lower, true[-1][0], atol=1e-4)
    np.testing.assert_allclose(mixed.output.upper, true[-1][1], atol=1e-4)
    undecided = (linear.pre[1].lower < 0) & (linear.pre[1].upper > 0)
    np.testing.assert_allclose(mixed.pre[1].lower[undecided], true[1][0][undecided], atol=1e-4)
    np.testing.assert_allclose(mixed.pre[1].upper[undecided], true[1][1][undecided], atol=1e-4)


def by_model(net, box, bounds, formulation):
    """The ranges of the outputs over a relaxation that `add_network` has written."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, i: (float(box.lower[i]), float(box.upper[i])))
    m.net = pyo.Block()
    found = []
    for y in po.add_network(m.net, net, m.x, formulation=formulation, bounds=bounds):
        for sense in (pyo.minimize, pyo.maximize):
            m.objective = pyo.Objective(expr=y, sense=sense)
            found.append(po.solve(m).objective)
            m.del_component("objective")
    return np.array(found).reshape(-1, 2).T


@pytest.mark.parametrize("kind", PIECEWISE)
@pytest.mark.parametrize("graph", [chain, residual, convolutional])
def test_the_output_has_the_bounds_of_a_model_with_triangles(graph, kind):
    net = graph(np.random.default_rng(5), kind, *(["mean"] if graph is convolutional else []))
    box = po.Box([-0.5] * net.input_size, [0.7] * net.input_size)
    bounds = po.obbt(net, box)
    low, high = by_model(net, box, bounds, po.Triangle())
    np.testing.assert_allclose(bounds.output.lower, low, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bounds.output.upper, high, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["relu", "leaky", "leaky_steep", "prelu", "abs"])
def test_hulls_are_those_of_a_model_with_all_cuts(kind):
    net = chain(np.random.default_rng(6), kind, (4, 6, 2))
    box = box_of(4)
    hull = po.Hull(max_rounds=50, tolerance=1e-7)
    bounds = po.obbt(net, box, formulation=hull)
    # a model drops slack cuts and stops when a round gains little: ask for the rounds that remain
    low, high = by_model(net, box, bounds, hull)
    np.testing.assert_allclose(bounds.output.lower, low, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bounds.output.upper, high, rtol=1e-4, atol=1e-4)
    triangles = po.obbt(net, box)
    assert_inside(bounds, triangles)
    assert (triangles.output.upper - bounds.output.upper).max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_samples_lie_within_the_bounds_which_are_nowhere_wider_than_the_start(data):
    net = data.draw(networks())
    kinds = ("box", *REGIONS) if net.input_size < 10 else ("box", "zonotope")
    region = data.draw(regions(net.input_size, kinds))
    formulation = data.draw(st.sampled_from([po.Triangle(), po.Hull(max_rounds=2)]))
    start = data.draw(st.sampled_from([po.interval, po.crown]))(net, region)
    bounds = po.obbt(net, region, start, formulation)
    for new, old in zip(sides(bounds), sides(start), strict=True):
        assert (new.lower >= old.lower).all()
        assert (new.upper <= old.upper).all()
    assert_bounds_hold(net, bounds, points(region, 200, np.random.default_rng(0)))


@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
@pytest.mark.parametrize("graph", [residual, maxima, convolutional])
def test_every_layer_kind_on_graphs(graph, kind):
    rng = np.random.default_rng(7)
    net = graph(rng, kind)
    box = po.Box([-0.4] * net.input_size, [0.6] * net.input_size)
    start = po.crown(net, box)
    bounds = po.obbt(net, box, start)
    assert_bounds_hold(net, bounds, box.sample(2000, rng))
    assert_inside(bounds, start)


def test_members_of_a_maximum_are_bounded_where_they_may_win():
    """The first member, relu(x + y) + relu(x - y) - 1, is at most 1, by hulls; the other one too."""
    layers = [Affine([[1.0, 1.0], [1.0, -1.0]], None), ReLU(), Affine([[1.0, 1.0], [0.5, 0.0]], [-1.0, 0.0]), Maxout(2)]
    net = Network.sequential(layers, (2,))
    bounds = po.obbt(net, box_of(2), formulation=po.Hull())
    assert bounds.pre[1].upper[0] == pytest.approx(1.0, abs=1e-6)
    assert bounds.output.upper[0] == pytest.approx(1.0, abs=1e-6)
    assert po.crown(net, box_of(2)).pre[1].upper[0] == pytest.approx(2.0)


def test_a_maximum_lies_between_the_greatest_ends_of_its_members():
    """max(x + 5, 4 - x), twice: with members in [4, 6] and [3, 5] it is at least 4 and at most 6."""
    layers = [Affine([[1.0], [-1.0]], [5.0, 4.0]), Maxout(2), Affine([[1.0], [-1.0]], None)]
    bounds = po.obbt(Network.sequential(layers, (1,)), box_of(1))
    assert 4.0 - 1e-9 <= bounds.output.lower[0] <= 4.5
    assert 6.0 <= bounds.output.upper[0] <= 6.0 + 1e-9
    np.testing.assert_allclose(bounds.output.lower[1], -bounds.output.upper[0])


# --- soundness to the last bit


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), magnitude=st.sampled_from([1e-160, 1e-6, 1.0, 1e6]))
def test_certificates_are_no_greater_than_exact_ones_and_than_any_point(seed, magnitude):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 8, 2)
    polyhedron = Polyhedron()
    center, radius = rng.normal(size=n), rng.random(n) * (rng.random(n) < 0.8)
    polyhedron.add_columns(center - radius, center + radius)
    x = np.clip(center + rng.uniform(-1, 1, n) * radius, polyhedron.lower, polyhedron.upper)
    A = magnitude * rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.7)
    exact_values = [sum((Fraction(a) * Fraction(v) for a, v in zip(row, x, strict=True)), Fraction(0)) for row in A]
    slack = 1e-3 * magnitude * rng.random(m)
    # x satisfies each row with its slack, and some of them with equality up to half an ulp of the slack
    at = np.array([float(v) for v in exact_values])
    equal = rng.random(m) < 0.5
    polyhedron.add_rows(
        sp.csr_array(A),
        np.where(equal | (rng.random(m) < 0.5), at, -np.inf),
        np.where(equal | (rng.random(m) < 0.5), at, np.inf),
        slack,
    )
    form = Form(rng.normal(size=n), rng.normal(), 0.01 * rng.random())
    y = rng.normal(size=m) / magnitude
    y[rng.random(m) < 0.1] = np.nan
    rounded, exact = (lower_bound(polyhedron, form, y, exact) for exact in (False, True))
    value = sum((Fraction(c) * Fraction(v) for c, v in zip(form.cost, x, strict=True)), Fraction(form.constant))
    proven = by_weak_duality(polyhedron, form, y)
    assert rounded <= exact
    assert exact - rounded <= 1e-12 * (1.0 + n * m) * 10
    assert Fraction(exact) <= proven < Fraction(np.nextafter(exact, np.inf))
    assert proven <= value - Fraction(form.slack)


def by_weak_duality(polyhedron, form, y):
    """The bound that multipliers prove, number by number in fractions."""
    total, residual = Fraction(form.constant) - Fraction(form.slack), [Fraction(c) for c in form.cost]
    for i, row in enumerate(polyhedron.matrix.toarray()):
        side = polyhedron.row_lower[i] if y[i] > 0 else polyhedron.row_upper[i]
        if not np.isfinite(y[i]) or not np.isfinite(side):
            continue
        price = Fraction(y[i])
        total += price * Fraction(side) - abs(price) * Fraction(polyhedron.slack[i])
        residual = [r - price * Fraction(a) for r, a in zip(residual, row, strict=True)]
    ends = zip(residual, polyhedron.lower, polyhedron.upper, strict=True)
    return total + sum(min(r * Fraction(low), r * Fraction(high)) for r, low, high in ends)


@pytest.mark.parametrize("seed", range(20))
def test_what_cancels_in_floats_still_counts(seed):
    """The costs are ``y A`` as floats have it: all that is left of ``c - y A`` is rounding, which wide columns show."""
    rng = np.random.default_rng(seed)
    polyhedron = Polyhedron()
    polyhedron.add_columns(np.full(5, -1e9), np.full(5, 1e9))
    matrix, y = sp.csr_array(rng.normal(size=(4, 5))), rng.normal(size=4)
    polyhedron.add_rows(matrix, 0.0, 0.0)
    form = Form(matrix.T @ y, 0.0, 0.0)
    proven = by_weak_duality(polyhedron, form, y)
    assert Fraction(lower_bound(polyhedron, form, y)) <= proven < 0
    assert lower_bound(polyhedron, form, y) > -1e-4


def test_a_dual_solution_proves_the_optimum():
    rng = np.random.default_rng(0)
    polyhedron = Polyhedron()
    polyhedron.add_columns(np.full(6, -1.0), np.ones(6))
    A, b = rng.normal(size=(4, 6)), rng.random(4)
    polyhedron.add_rows(sp.csr_array(A), -np.inf, b)
    solver = Instance()
    solver.grow(polyhedron)
    for _ in range(20):
        cost = rng.normal(size=6)
        found = linprog(cost, A_ub=A, b_ub=b, bounds=(-1, 1))
        bound = lower_bound(polyhedron, Form(cost, 0.0, 0.0), solver.minimize(cost))
        assert found.fun - 1e-8 <= bound <= found.fun + 1e-12


def exact_value(name, layer, a, unit):
    """An activation's value in fractions, by its definition."""
    a = Fraction(a)
    match name:
        case "relu":
            return max(a, 0)
        case "leaky" | "leaky_steep":
            return a if a > 0 else Fraction(layer.slope) * a
        case "prelu":
            return a if a > 0 else Fraction(layer.slope[unit]) * a
        case "abs":
            return abs(a)
        case "hard_sigmoid":
            return min(max(Fraction(layer.alpha) * a + Fraction(layer.beta), 0), 1)
        case "sign":
            return Fraction((a > 0) - (a < 0))
        case "step" | "step_high":
            return Fraction(layer.at_zero) if a == 0 else Fraction(int(a > 0))
        case _:
            low, high = (Fraction(end) if math.isfinite(end) else end for end in (layer.lower, layer.upper))
            return min(max(a, low), high)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(PIECEWISE)))
def test_lines_and_ranges_hold_exactly(seed, name):
    rng = np.random.default_rng(seed)
    n = 4
    node = Node("f", PIECEWISE[name]((n,), rng), (INPUT,), ((n,),), (n,))
    breakpoints = node.layer.pieces((n,)).breakpoints
    ends = np.sort(rng.normal(size=(2, n)) * 10.0 ** rng.integers(-12, 3, (2, n)), axis=0)
    for i in range(n):  # ends on breakpoints, and next to them
        if len(breakpoints) and rng.random() < 0.5:
            ends[rng.integers(2), i] = np.nextafter(rng.choice(breakpoints[:, i]), rng.choice([-9.0, 9.0]))
    ends = np.sort(ends, axis=0)
    around = envelope(node, *ends)
    for i in range(n):
        inside = [t for t in breakpoints[:, i] if ends[0, i] <= t <= ends[1, i]]
        near = [np.nextafter(t, side) for t in inside for side in (-99.0, 99.0)]
        for a in [*ends[:, i], *inside, *near, *rng.uniform(*ends[:, i], 5)]:
            if not ends[0, i] <= a <= ends[1, i]:
                continue
            h = exact_value(name, node.layer, a, i)
            if around.linear[i]:
                assert h == Fraction(around.scale[i]) * Fraction(a) + Fraction(around.shift[i])
                continue
            assert Fraction(around.lower[i]) <= h <= Fraction(around.upper[i])
            for r in np.flatnonzero(around.unit == i):
                excess = Fraction(around.sign[r]) * h - Fraction(around.slope[r]) * Fraction(a)
                assert excess <= Fraction(around.intercept[r]) + Fraction(around.slack[r])


def test_composed_maps_are_as_near_as_they_say():
    rng = np.random.default_rng(3)
    layers = [
        Conv2d(rng.normal(size=(2, 1, 2, 2)), rng.normal(size=2)),
        Scale(rng.normal(size=(2, 1, 1)), 0.1),
        AvgPool2d((3, 1), (1, 1)),
        Reshape((6,)),
        Affine(rng.normal(size=(3, 6)), rng.normal(size=3)),
    ]
    net = Network.sequential(layers, (1, 4, 4))
    found = maps_to(net, [net.nodes[-1].name])[net.nodes[-1].name]
    exact, offset = fractions(np.eye(16)), fractions(np.zeros(16))
    for node in net.nodes:
        (W,) = node.layer.operators(*node.input_shapes)
        W = fractions(W.toarray() if sp.issparse(W) else W)
        if isinstance(node.layer, AvgPool2d):
            W = np.where(W != 0, Fraction(1, 3), Fraction(0))
        exact, offset = W @ exact, W @ offset + fractions(node.layer.offset(*node.input_shapes))
    share = Fraction(gamma(found.roundings))
    error = abs(fractions(found.terms[INPUT].toarray()) - exact)
    assert (error <= 1.000001 * share * fractions(found.sizes[INPUT].toarray())).all()
    assert (abs(fractions(found.offset) - offset) <= 1.000001 * share * fractions(found.offset_size)).all()
    assert error.max() > 0


def exactly(net, relaxed_units, x):
    """What the columns of a chain's polyhedron stand for at x, in fractions: x, then of each layer the a and the h."""
    h = fractions(x)
    columns = list(h)
    for node in net.nodes:
        if node.name not in relaxed_units:
            (W,) = node.layer.operators(*node.input_shapes)
            h = fractions(W.toarray() if sp.issparse(W) else W) @ h + fractions(node.layer.offset(*node.input_shapes))
            continue
        linear = relaxed_units[node.name]
        columns.extend(h[~linear])
        h = np.array([exact_value("leaky", node.layer, a, i) for i, a in enumerate(h)])
        columns.extend(h[~linear])
    return np.array(columns)


@pytest.mark.parametrize("seed", range(4))
def test_the_network_itself_satisfies_all_rows_exactly(seed):
    """Also where linear layers follow each other, decided units are folded into the next layer, and of cuts."""
    rng = np.random.default_rng(seed)
    leaky = ACTIVATIONS["leaky"]((6,), rng)
    layers = []
    for size in (3, 6, 6):
        layers += [Affine(rng.normal(size=(6, size)), rng.normal(size=6)), Scale(rng.normal(size=6), 0.1), leaky]
    net = Network.sequential(layers, (3,))
    box = po.Box([-0.3] * 3, [0.4] * 3)
    bounds = po.crown(net, box)
    maps = maps_to(net, [node.inputs[0] for node in net.activations])
    relaxed, linear = Relaxed(domain(box), range(box.size)), {}
    for node, pre in zip(net.activations, bounds.pre, strict=True):
        relaxed.add(node, relaxed.forms(maps[node.inputs[0]]), pre.lower, pre.upper)
        linear[node.name] = envelope(node, pre.lower, pre.upper).linear
    polyhedron = relaxed.polyhedron
    points_ = rng.uniform(-1, 1, (40, len(polyhedron.lower)))
    cuts = sum(separate(polyhedron, relaxed.hinges, point, po.Hull()) for point in 3 * points_)
    assert cuts > 5
    assert any(part.any() for part in linear.values())
    low, high, slack = (
        np.where(np.isfinite(side), side, 0) for side in (polyhedron.row_lower, polyhedron.row_upper, polyhedron.slack)
    )
    A = fractions(polyhedron.matrix.toarray())
    touched = 0
    for x in [*box.vertices(), *box.sample(5, rng)]:
        v = exactly(net, linear, x)
        assert (v >= polyhedron.lower).all()
        assert (v <= polyhedron.upper).all()
        value = A @ v
        above, below = value - fractions(high), fractions(low) - value
        above[np.isinf(polyhedron.row_upper)] = below[np.isinf(polyhedron.row_lower)] = Fraction(-1)
        assert (above <= fractions(slack)).all()
        assert (below <= fractions(slack)).all()
        touched += ((above > 0) | (below > 0)).sum()
    assert touched > 0  # the slack is needed
    assert slack.max() < 1e-12


def test_units_that_share_a_column_are_added_up_with_slack():
    """0.1 x + 0.2 x is not 0.30000000000000004 x."""
    layers = [
        ("copies", Affine([[1.0], [1.0]], None), [INPUT]),
        ("relu", ReLU(), ["copies"]),
        ("one", Affine([[0.1, 0.2]], None), ["relu"]),
        ("two", Affine([[0.1]], None), [INPUT]),
        ("sum", Add(), ["one", "two"]),
    ]
    net = Network(layers, (1,))
    maps, relaxed = maps_to(net, ["copies", "one", "sum"]), Relaxed(domain(po.Box([1.0], [2.0])), [0])
    relaxed.add(net.activations[0], relaxed.forms(maps["copies"]), np.ones(2), 2 * np.ones(2))
    for name, weights in (("one", [0.1, 0.2]), ("sum", [0.1, 0.2, 0.1])):
        forms = relaxed.forms(maps[name])
        error = abs(sum(map(Fraction, weights)) - Fraction(forms.matrix.toarray()[0, 0]))
        assert 2 * error <= Fraction(forms.slack[0]) < 1e-14
        assert error or name == "sum"


def test_what_a_folded_unit_does_not_know_is_carried_on():
    """The first map cancels 1e8 to about 1, and is known to 1e-8 only; the layers after it have small numbers."""
    rng = np.random.default_rng(0)
    first = 1e8 * rng.normal(size=(6, 3))
    second = np.linalg.svd(first)[0][:, 3:].T
    layers = [Affine(first, None), Affine(second, 5 * np.ones(3)), ReLU(), Affine(np.eye(3), None)]
    net = Network.sequential(layers, (3,))
    maps, relaxed = maps_to(net, ["1", "3"]), Relaxed(domain(po.Box([0.5] * 3, [1.0] * 3)), range(3))
    relaxed.add(net.activations[0], relaxed.forms(maps["1"]), np.ones(3), 9 * np.ones(3))
    forms = relaxed.forms(maps["3"])
    error = abs(fractions(forms.matrix.toarray()) - fractions(second) @ fractions(first)).sum(1) / 2
    assert (error <= fractions(forms.slack)).all()
    assert error.max() > 1e-10


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_points_of_a_region_are_points_of_its_polyhedron(data):
    region = data.draw(regions(3))
    polyhedron = domain(region)
    assert np.isfinite(polyhedron.magnitude).all()
    x = points(region, 30, np.random.default_rng(0))
    scale = 1.0 + abs(x).max()
    assert (x >= polyhedron.lower[:3] - 1e-8 * scale).all()
    assert (x <= polyhedron.upper[:3] + 1e-8 * scale).all()
    box = region.bounding_box()
    for i in range(3):  # the coordinates' ranges over the polyhedron are the region's
        for sign, end in ((1.0, box.lower[i]), (-1.0, -box.upper[i])):
            cost = np.zeros(len(polyhedron.lower))
            cost[i] = sign
            solver = Instance()
            solver.grow(polyhedron)
            bound = lower_bound(polyhedron, Form(cost, 0.0, 0.0), solver.minimize(cost))
            assert bound == pytest.approx(end, abs=1e-5 * scale)


def test_fractions_prove_the_same_bounds():
    net = chain(np.random.default_rng(2), "relu", (3, 6, 5, 2))
    rounded, exact = (po.obbt(net, box_of(3), exact=exact) for exact in (False, True))
    for one, two in zip(sides(rounded), sides(exact), strict=True):
        assert (one.lower <= two.lower).all()
        assert (one.upper >= two.upper).all()
        np.testing.assert_allclose(one.lower, two.lower, atol=1e-11)
        np.testing.assert_allclose(one.upper, two.upper, atol=1e-11)


# --- how it is run


def test_stopped_by_ctrl_c_it_keeps_what_it_has_found(monkeypatch):
    net, box = chain(np.random.default_rng(4), "relu", (3, 8, 8, 2)), box_of(3)
    start, full = po.crown(net, box), po.obbt(net, box)
    solve, calls = Instance.minimize, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return solve(self, *arguments)

    monkeypatch.setattr(Instance, "minimize", interrupted)
    bounds = po.obbt(net, box)
    assert_inside(bounds, start)
    assert_inside(full, bounds)
    pairs = zip(sides(bounds), sides(start), strict=True)
    assert sum((a.lower != b.lower).sum() + (a.upper != b.upper).sum() for a, b in pairs) > 0
    assert (bounds.output.upper == start.output.upper).all()


def test_out_of_time_it_keeps_what_it_has_found():
    net, box = chain(np.random.default_rng(4), "relu", (3, 8, 8, 2)), box_of(3)
    start = po.crown(net, box)
    bounds = po.obbt(net, box, start, time_limit=1e-9, mip_units=3)
    for one, two in zip(sides(bounds), sides(start), strict=True):
        np.testing.assert_array_equal(one.lower, two.lower)
        np.testing.assert_array_equal(one.upper, two.upper)


@pytest.mark.parametrize("options", [{"formulation": po.Hull(tolerance=1e-9)}, {"mip_units": 60}])
def test_the_time_limit_is_kept(options):
    net, box = chain(np.random.default_rng(1), "relu", (10, 60, 60, 60, 1)), box_of(10)
    begin = time.monotonic()
    bounds = po.obbt(net, box, time_limit=1.5, **options)
    assert time.monotonic() - begin < 4.0
    assert_inside(bounds, po.crown(net, box))


@pytest.mark.parametrize("formulation", [po.Triangle(), po.Hull()])
@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_workers_find_the_same(pool, formulation):
    net, box = chain(np.random.default_rng(4), "relu", (3, 8, 8, 2)), box_of(3)
    alone = po.obbt(net, box, formulation=formulation)
    with pool(2) as executor:
        shared = po.obbt(net, box, formulation=formulation, executor=executor)
    tolerance = 1e-6 if formulation == po.Triangle() else 1e-2  # which cuts are found depends on the order
    for one, two in zip(sides(alone), sides(shared), strict=True):
        np.testing.assert_allclose(one.lower, two.lower, atol=tolerance)
        np.testing.assert_allclose(one.upper, two.upper, atol=tolerance)


def test_the_model_gets_smaller():
    net, box = chain(np.random.default_rng(9), "relu", (3, 12, 12, 12, 1)), po.Box([-0.3] * 3, [0.3] * 3)
    unstable = []
    for bounds in (po.interval(net, box), po.crown(net, box), po.obbt(net, box), po.obbt(net, box, mip_units=12)):
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(3), bounds=(-0.3, 0.3))
        m.net = pyo.Block()
        po.add_network(m.net, net, m.x, bounds=bounds)
        unstable.append(po.summary(m.net).unstable)
    assert unstable == sorted(unstable, reverse=True)
    assert unstable[2] < unstable[1]


def test_progress_is_shown(capsys):
    po.obbt(chain(np.random.default_rng(0), "relu", (3, 5, 2)), box_of(3), progress=True)
    assert "units" in capsys.readouterr().err


NET = chain(np.random.default_rng(0), "relu", (3, 5, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"region": po.Box(np.zeros((2, 3)), np.ones((2, 3)))}, "a batch of 2 boxes"),
        ({"region": box_of(4)}, "4 dimensions, but the network has 3"),
        ({"region": [0, 1]}, "the region is list"),
        ({"region": po.HPolytope([[1.0, 0, 0]], [1.0])}, "unbounded"),
        ({"region": po.HPolytope([[1.0, 0, 0], [-1.0, 0, 0]], [1.0, -2.0])}, "empty|unbounded"),
        ({"formulation": po.BigM()}, "no relaxation without binaries"),
        ({"formulation": po.CuttingPlanes()}, "give Triangle\\(\\) or Hull\\(\\)"),
        ({"start": po.crown(chain(np.random.default_rng(0), "relu", (3, 6, 2)), box_of(3))}, "compute them for this"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"mip_units": 0.5}, "mip_units is 0.5"),
        ({"mip_seconds": -1}, "mip_seconds is -1"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        po.obbt(**({"net": NET, "region": box_of(3)} | arguments))


def test_the_costliest_units_have_wide_gaps_and_great_weights():
    net = Network.sequential([ReLU(), Affine([[1.0, 5.0, 1.0, 1.0]], None)], (4,))
    first, _ = targets(net, net)
    costs = first.costs(np.array([-1.0, -1.0, -3.0, 1.0]), np.array([1.0, 1.0, 3.0, 9.0]))
    np.testing.assert_allclose(costs, [0.5, 2.5, 1.5, 0.0])


def test_smooth_activations_have_no_milp():
    with pytest.raises(ValueError, match="Tanh"):
        po.obbt(chain(np.random.default_rng(0), "tanh", (3, 5, 4, 2)), box_of(3), mip_units=1)
