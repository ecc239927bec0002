"""Whether regions can be told apart at all, and what to cut where they cannot."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

import polyopt as po

PINWHEEL = [[[1.0, 0.0], [6.0, 0.0]], [[4.0, 1.0], [2.0, 6.0]], [[2.0, 4.0], [-1.0, -2.0]]]


def bars(width=0.05):
    """Thin boxes about the pinwheel's lines."""
    found = []
    for a, b in np.array(PINWHEEL):
        along = (b - a) / np.linalg.norm(b - a)
        across = width / 2 * np.array([-along[1], along[0]])
        found.append(po.Zonotope((a + b) / 2, np.column_stack([(b - a) / 2, across])))
    return found


def disjoint(first, second):
    """Whether the hulls of two sets of points have no point in common."""
    n = first.shape[1]
    rows = np.zeros((n + 2, len(first) + len(second)))
    rows[:n] = np.hstack([first.T, -second.T])
    rows[n, : len(first)] = rows[n + 1, len(first) :] = 1.0
    return linprog(np.zeros(rows.shape[1]), A_eq=rows, b_eq=np.append(np.zeros(n), [1.0, 1.0])).status == 2


def by_definition(regions):
    """Every set of two or more has a split: all subsets, all sides."""
    corners = [region.vertices() for region in regions]
    for size in range(2, len(regions) + 1):
        for members in itertools.combinations(range(len(regions)), size):
            sides = (s for s in itertools.product([0, 1], repeat=size) if 0 < sum(s) < size)
            if not any(
                disjoint(
                    *(np.vstack([corners[i] for i, s in zip(members, side, strict=True) if s == k]) for k in (0, 1))
                )
                for side in sides
            ):
                return False
    return True


def test_each_pair_of_the_pinwheel_is_separable_but_not_all_three():
    for pair in itertools.combinations(bars(), 2):
        assert po.police.separable(pair)
    answer = po.police.separable(bars())
    assert not answer
    assert answer.together == (0, 1, 2)
    assert "every hyperplane" in answer.reason
    assert "subdivide" in answer.reason
    assert answer.cut.region in answer.together


def test_the_pinwheel_is_found_among_others():
    others = [po.Box([10.0 + k, 0.0], [10.5 + k, 1.0]) for k in range(3)]
    regions = [others[0], bars()[0], others[1], *bars()[1:], others[2]]
    assert po.police.separable(regions).together == (1, 3, 4)


@pytest.mark.parametrize("width", [0.0, 0.05, 0.2])
def test_a_subdivided_pinwheel_is_separable(width):
    regions = bars(width)
    cut = po.police.separable(regions).cut
    parts = po.subdivide(regions[cut.region], cut.normal, cut.offset)
    assert po.police.separable([*parts, *(each for k, each in enumerate(regions) if k != cut.region)])


def test_regions_that_meet_or_touch_are_named():
    boxes = [po.Box([0.0], [1.0]), po.Box([5.0], [6.0]), po.Box([1.0], [2.0])]
    answer = po.police.separable(boxes)
    assert (answer.together, answer.cut) == ((0, 2), None)
    assert "meet or touch" in answer.reason
    assert po.police.separable([boxes[0], boxes[1], po.Box([1.001], [2.0])])


def check_by_definition(regions):
    answer = po.police.separable(regions)
    assert bool(answer) == by_definition(regions)
    if not answer:
        assert not by_definition([regions[i] for i in answer.together])
        for i in answer.together:
            assert by_definition([regions[j] for j in answer.together if j != i])
    return len(answer.together)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_the_definition_says(seed):
    rng = np.random.default_rng(seed)
    regions = [po.VPolytope(rng.normal(size=2) + rng.choice([0.2, 0.6]) * rng.normal(size=(2, 2))) for _ in range(5)]
    check_by_definition(regions)


def test_pinwheels_bent_at_random_are_what_the_definition_says():
    rng = np.random.default_rng(0)
    sizes = [
        check_by_definition([po.VPolytope(np.array(bar) + rng.normal(size=(2, 2))) for bar in PINWHEEL])
        for _ in range(60)
    ]
    assert {0, 2, 3} <= set(sizes)


def test_high_dimensional_boxes_need_no_corners():
    rng = np.random.default_rng(0)
    boxes = [po.Box.ball(center, 0.3) for center in rng.normal(size=(4, 100))]
    assert po.police.separable(boxes)
    assert not po.police.separable([*boxes, boxes[2]])


REGIONS = {
    "box": po.Box([0.0, -1.0, 0.0], [1.0, 3.0, 1.0]),
    "zonotope": po.Zonotope([0.0, 0.0, 1.0], [[1.0, 0.2], [0.0, 2.0], [1.0, 0.0]]),
    "vpolytope": po.VPolytope(np.random.default_rng(0).normal(size=(9, 3))),
    "hpolytope": po.HPolytope(np.vstack([np.eye(3), -np.eye(3), np.ones((1, 3))]), [1, 2, 3, 0, 0, 0, 4.0]),
    "flat": po.Zonotope([0.0, 0.0, 1.0], [[1.0, 0.2, 0.5, 0.1], [0.0, 2.0, 1.0, 0.3], [1.0, 0.0, 0.2, 1.0]]),
    "product": po.Product(po.VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), po.Box([0.0], [5.0])),
}


@pytest.mark.parametrize("kind", REGIONS)
def test_parts_are_apart_and_the_region_without_a_gap(kind):
    region, rng = REGIONS[kind], np.random.default_rng(1)
    parts = po.subdivide(region, gap=0.02)
    assert po.police.separable(parts)
    for part in parts:
        assert region.contains(part.sample(200, rng), 1e-9).all()
    inside = [part.contains(region.sample(2000, rng), 1e-9) for part in parts]
    assert np.mean(inside[0]) + np.mean(inside[1]) > 0.85


@pytest.mark.parametrize("kind", REGIONS)
def test_parts_are_what_a_plane_leaves(kind):
    region, rng, normal = REGIONS[kind], np.random.default_rng(1), np.array([1.0, -2.0, 0.5])
    offset, x = float(normal @ region.center), region.sample(2000, rng)
    parts = po.subdivide(region, normal, offset, gap=0.1)
    height, gap = x @ normal - offset, 0.05 * width(region, normal)
    for part, wanted in zip(parts, (height <= -gap, height >= gap), strict=True):
        np.testing.assert_array_equal(part.contains(x, 1e-9), wanted)


def width(region, normal):
    return float(region.support(normal[None])[0] + region.support(-normal[None])[0])


def test_what_cannot_be_cut_is_refused():
    box = po.Box([0.0, 0.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="ellipsoid"):
        po.subdivide(po.Ellipsoid([0.0], [[1.0]]))
    with pytest.raises(ValueError, match="single point"):
        po.subdivide(po.Box([1.0], [1.0]))
    with pytest.raises(ValueError, match="leaves nothing"):
        po.subdivide(box, [1.0, 0.0], 3.0)
    with pytest.raises(ValueError, match="both normal and offset"):
        po.subdivide(box, [1.0, 0.0])
    with pytest.raises(ValueError, match="gap"):
        po.subdivide(box, gap=0.0)
    with pytest.raises(ValueError, match="ellipsoid"):
        po.police.separable([po.Ellipsoid([0.0], [[1.0]])])
    with pytest.raises(ValueError, match="dimensions"):
        po.police.separable([box, po.Box([0.0], [1.0])])
