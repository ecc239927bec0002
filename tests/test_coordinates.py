"""Regions in coordinates of boxes: no point is lost, none but ellipsoids gain any, and networks follow."""

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import polyopt as po
from polyopt.search.coordinates import coordinates
from polyopt.verification.coordinates import questions
from polyopt.verification.property import Case

drawn = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def least(region, direction, slack=1e-9):
    """The least ``direction x`` over the points c + M (e + E z), and whether there are any."""
    c, M, e, E, box, R, s = coordinates(region)
    room = slack * (1.0 + abs(s))
    rows = {"A_ub": R, "b_ub": s + room} if len(s) else {}
    found = linprog(direction @ M @ E, bounds=np.stack([box.lower, box.upper], 1), **rows)
    assert found.status == 0
    return found.fun + direction @ (c + M @ e)


@drawn
@given(strategies.regions(3), seeds)
def test_they_reach_as_far_as_the_region(region, seed):
    rng = np.random.default_rng(seed)
    for direction in rng.normal(size=(5, 3)):
        expected = -region.support(-direction[None])[0]
        size = 1.0 + abs(np.concatenate([region.bounding_box().lower, region.bounding_box().upper])).max()
        found = least(region, direction)
        assert found <= expected + 1e-6 * size
        if not isinstance(region, po.Ellipsoid | po.Product):
            assert found >= expected - 1e-6 * size


def test_a_parallelepiped_stands_for_an_ellipsoid():
    disc = po.Ellipsoid([1.0, 0.0], np.eye(2))
    assert least(disc, np.array([1.0, 1.0])) == pytest.approx(-1.0)
    assert least(po.Product(disc, po.Box([2.0], [3.0])), np.array([1.0, 1.0, 1.0])) == pytest.approx(1.0)


def test_the_box_of_an_h_polytope_is_rounded_outwards():
    rng = np.random.default_rng(0)
    for _ in range(20):
        A = np.vstack([rng.normal(size=(6, 3)), np.eye(3), -np.eye(3)])
        region = po.HPolytope(A, np.concatenate([rng.random(6), np.full(6, 1 / 3)]))
        box = coordinates(region).box
        x = np.clip(region.sample(50, rng), -1 / 3, 1 / 3)
        assert box.contains(x).all()
        assert (box.upper - region.bounding_box().upper < 1e-6).all()


@pytest.mark.parametrize("kind", ["chain", "residual", "convolutional"])
def test_networks_in_these_coordinates(kind):
    rng = np.random.default_rng(3)
    net = getattr(strategies, kind)(rng, "relu")
    n, m = net.input_size, net.output_size
    unsafe = po.HPolytope(rng.normal(size=(2, m)), rng.normal(size=2))
    point = po.VPolytope(rng.normal(size=(4, n)))
    (question,) = questions(net, [Case(point, (unsafe,))])
    weights = rng.dirichlet(np.ones(4), 10)
    z, x = weights[:, 1:], weights @ point.points
    found = question.net(z)
    np.testing.assert_allclose(found, np.column_stack([net(x), z.sum(1)]), atol=1e-12)
    np.testing.assert_allclose([question.point(w) for w in z], x, atol=1e-12)
    margins = found @ question.cases[0].unsafe[0].A.T - question.cases[0].unsafe[0].b
    np.testing.assert_allclose(margins[:, :2], net(x) @ unsafe.A.T - unsafe.b, atol=1e-12)
    np.testing.assert_allclose(margins[:, 2], z.sum(1) - 1.0, atol=1e-12)


def test_boxes_make_one_question():
    net = strategies.chain(np.random.default_rng(0), "relu", (1, 3, 1))
    unsafe, box = (po.HPolytope([[1.0]], [0.0]),), po.Box([0.0], [1.0])
    cases = [Case(box, unsafe), Case(po.Zonotope([0.0], [[1.0]]), unsafe), Case(box, unsafe)]
    assert [question.indices for question in questions(net, cases)] == [[0, 2], [1]]
    assert questions(net, cases)[0].net is net
