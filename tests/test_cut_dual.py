"""The dual of the cut relaxation against samples, MILPs, rational numbers, and the linear programs it is dual to."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pyomo.environ as pyo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chain, networks, points, regions

import polyopt as po
from polyopt.activations import ReLU
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.cut_dual import Planes, cut_dual_bounds
from polyopt.layers import Affine, Conv2d, Reshape

BOX3 = po.Box([-1.0] * 3, [1.0] * 3)
CLOSED = 0.9  # of the gap between the two linear programs, in 150 steps


def convolution(rng):
    first = Conv2d(rng.normal(size=(2, 1, 2, 2)), rng.normal(size=2), padding=((1, 0), (0, 1)))
    second = Conv2d(rng.normal(size=(2, 2, 2, 2)), rng.normal(size=2))
    size = 2 * 2 * 2
    end = Affine(rng.normal(size=(1, size)), rng.normal(size=1))
    return po.Network.sequential([first, ReLU(), second, ReLU(), Reshape((size,)), end], (1, 3, 3))


def program(net, box, formulation):
    """A model of the least first output, its integers relaxed where the formulation has any."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, j: (float(box.lower[j]), float(box.upper[j])))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x, formulation=formulation, bounds="crown")
    m.objective = pyo.Objective(expr=y[0])
    return m


def relaxed(net, box, formulation):
    """The relaxation's optimum, with all cuts that its point violates."""
    m = program(net, box, formulation)
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
    for _ in range(60):
        pyo.SolverFactory("appsi_highs").solve(m)
        if isinstance(formulation, po.Triangle) or not po.separate(m.net):
            return pyo.value(m.objective)
    raise AssertionError("the rounds of cuts do not end")


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_no_point_of_any_region_is_below_the_bounds(data):
    net = data.draw(networks())
    region = data.draw(regions(net.input_size))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = rng.normal(size=(3, net.nodes[-1].size))
    found = cut_dual_bounds(net, region, rows, data.draw(st.sampled_from([0, 1, 7])))
    values = net(points(region, 200, rng)).reshape(-1, rows.shape[1]) @ rows.T
    assert (found <= values + 1e-9 * (1.0 + abs(values))).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_do_not_exceed_the_optimum_of_the_milp(seed, dtype):
    net = chain(np.random.default_rng(seed), "relu", sizes=(3, 8, 6, 1))
    best = po.solve(program(net, BOX3, po.BigM())).objective
    found = cut_dual_bounds(net, BOX3, [[1.0]], 60, dtype=dtype)
    assert found.dtype == np.float64
    assert found[0] <= best + 1e-6


PLANES = {
    "dense": lambda rng: chain(rng, "relu", (3, 7, 6, 1)),
    "sparse": lambda rng: chain(rng, "relu", (3, 16, 12, 1), sparse=True),
    "convolution": convolution,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", PLANES)
def test_every_plane_is_above_its_unit_whatever_the_multipliers(kind, seed):
    """At points of the box of x where a is between its bounds, most of which no input of the network leads to."""
    rng = np.random.default_rng(seed)
    net = PLANES[kind](rng)
    backward = Backward(net)
    values = propagate(backward, net, po.Box([-1.0] * net.input_size, [1.0] * net.input_size))
    node = net.activations[1]
    (source,) = (each for each in net.nodes if each.name == node.inputs[0])
    layer = Planes(backward, node, source, values)
    layer.start(30)
    layer.weights = torch.tensor(rng.choice([0.0, 0.3, 0.9, 1.0], size=layer.weights.shape))
    layer.masks = torch.tensor(rng.choice([0.0, 0.2, 1.0], size=layer.masks.shape))
    share, constant = layer.planes()
    lower, upper = (side.ravel() for side in (values[source.inputs[0]].lower, values[source.inputs[0]].upper))
    mix = np.vstack([rng.random((2000, len(lower))), rng.integers(2, size=(2000, len(lower)))])
    x = torch.tensor(lower + mix * (upper - lower))
    x = x.unsqueeze(1).expand(-1, *layer.weight.shape) if layer.index is None else x[:, layer.index]
    a = (layer.weight * x).sum(2) + layer.bias
    above = torch.einsum("kup,nup->knu", share * layer.weight, x) + constant.unsqueeze(1)
    gaps = (above - a.clamp(min=0.0))[:, (a >= layer.lower) & (a <= layer.upper)]
    assert gaps.numel()
    assert gaps.min() >= -1e-9
    assert gaps.min() < 1e-3  # and some are attained


@pytest.mark.parametrize("seed", range(3))
def test_it_starts_from_crowns_triangles_and_only_gets_better(seed):
    net = chain(np.random.default_rng(seed), "relu", sizes=(3, 8, 6, 2))
    rows = np.vstack([np.eye(2), -np.eye(2)])
    output = po.crown(net, BOX3).output
    bounds = [np.concatenate([output.lower, -output.upper])]
    bounds += [cut_dual_bounds(net, BOX3, rows, steps) for steps in (0, 10, 40)]
    np.testing.assert_allclose(bounds[1], bounds[0], rtol=1e-9, atol=1e-9)
    assert all((after >= before - 1e-9).all() for before, after in pairwise(bounds))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(4, 10, 1), (3, 8, 6, 1), (4, 10, 8, 1)])
def test_ascent_ends_near_the_optimum_of_all_cuts_and_never_above(sizes, seed):
    net = chain(np.random.default_rng(seed), "relu", sizes=sizes)
    box = po.Box([-1.0] * sizes[0], [1.0] * sizes[0])
    assert_closes(net, box)


@pytest.mark.parametrize("seed", range(2))
def test_so_it_does_behind_convolutions(seed):
    net = convolution(np.random.default_rng(seed))
    assert_closes(net, po.Box([-1.0] * 9, [1.0] * 9))


def assert_closes(net, box):
    triangle, hull, cuts = (
        relaxed(net, box, formulation)
        for formulation in (po.Triangle(), po.Hull(tolerance=1e-8), po.CuttingPlanes(tolerance=1e-8))
    )
    found = float(cut_dual_bounds(net, box, np.eye(1), 150)[0])
    assert triangle + 1e-3 < hull  # else there is nothing to see
    assert found <= cuts + 1e-6
    assert found >= hull - (1.0 - CLOSED) * (hull - triangle)


def test_rows_are_ascended_each_by_itself(monkeypatch):
    net = chain(np.random.default_rng(0), "relu", sizes=(3, 8, 6, 3))
    rows = np.random.default_rng(1).normal(size=(5, 3))
    together = cut_dual_bounds(net, BOX3, rows, 20)
    monkeypatch.setattr("polyopt.bounds.cut_dual.ENTRIES", 1)
    np.testing.assert_allclose(cut_dual_bounds(net, BOX3, rows, 20), together, rtol=1e-6)
    assert cut_dual_bounds(net, BOX3, rows[:0]).shape == (0,)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 1e-2)])
@pytest.mark.parametrize("seed", range(10))
def test_bounds_that_are_attained_hold_for_the_exact_numbers(seed, dtype, near):
    """Of a unit whose greatest value is a small difference of large numbers."""
    rng = np.random.default_rng(seed)
    w, (lower, upper) = rng.normal(size=20), np.sort(rng.normal(size=(2, 20)), axis=0)
    ends = np.where(w > 0, upper, lower)
    b = 1e-3 - w @ ends
    net = po.Network.sequential([Affine(w[None], [b]), ReLU(), Affine([[-1.0]], [0.0])], (20,))
    greatest = sum((Fraction(v) * Fraction(x) for v, x in zip(w, ends, strict=True)), Fraction(b))
    found = cut_dual_bounds(net, po.Box(lower, upper), [[1.0]], 5, dtype=dtype)[0]
    assert Fraction(found) <= -greatest
    assert found == pytest.approx(-float(greatest), abs=near)


def test_what_does_not_fit_is_refused():
    net = chain(np.random.default_rng(0), "relu", sizes=(3, 4, 2))
    with pytest.raises(ValueError, match=r"rows have shape \(1, 3\), but must be \(k, 2\)"):
        cut_dual_bounds(net, BOX3, [[1.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"a batch \(2,\) of boxes"):
        cut_dual_bounds(net, po.Box(-np.ones((2, 3)), np.ones((2, 3))), [[1.0, 0.0]])
