"""What every kind of region promises, against oracles that know the kinds only by their definitions."""

import itertools
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from strategies import REGIONS, hpolytope, regions

from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope
from polyopt.regions import region as shared

each_kind = pytest.mark.parametrize("kind", ["box", *REGIONS])
drawn = settings(max_examples=20, deadline=None, derandomize=True)
SIZES = st.integers(1, 4)
SLACK = 1e-8


def rows_of(size, count=6, seed=0):
    """Rows of length one, the first two along a coordinate."""
    rows = np.random.default_rng(seed).normal(size=(count, size))
    rows[:2] = [np.eye(size)[0], -np.eye(size)[-1]]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def maximizer(region: Region, a: np.ndarray) -> np.ndarray:
    """A point where ``a x`` is greatest, from the definition of the kind."""
    match region:
        case Box():
            return np.where(a > 0, region.upper, region.lower)
        case Zonotope():
            return region.center + region.generators @ np.sign(a @ region.generators)
        case Ellipsoid():
            u = a @ region.factor
            return region.center + region.factor @ (u / (np.linalg.norm(u) or 1.0))
        case VPolytope():
            return max(region.points, key=lambda point: point @ a)
        case HPolytope():
            found = linprog(-a, A_ub=region.A, b_ub=region.b, bounds=(None, None), method="highs-ds")
            assert found.status == 0, found.message
            return found.x
        case Product():
            parts = np.split(a, np.cumsum([part.size for part in region.regions])[:-1])
            return np.concatenate([maximizer(*pair) for pair in zip(region.regions, parts, strict=True)])
    raise AssertionError


def distance(region: Region, x: np.ndarray) -> float:
    """How far a single point is outside: 0 inside; in the maximum norm but for rows and ellipsoids."""
    match region:
        case Box():
            return abs(np.clip(x, region.lower, region.upper) - x).max()
        case HPolytope():
            return max(0.0, ((region.A @ x - region.b) / np.linalg.norm(region.A, axis=1)).max())
        case Ellipsoid():
            u = np.linalg.lstsq(region.factor, x - region.center, rcond=1e-12)[0]
            return abs(region.center + region.factor @ u / max(1.0, np.linalg.norm(u)) - x).max()
        case Zonotope():
            count = region.generators.shape[1]
            return farthest(region.generators, x - region.center, (-1, 1), np.zeros((1, count)), 0.0)
        case VPolytope():
            count = len(region.points)
            return farthest((region.points - x).T, np.zeros(region.size), (0, 1), np.ones((1, count)), 1.0)
        case Product():
            parts = np.split(x, np.cumsum([part.size for part in region.regions])[:-1])
            return max(distance(*pair) for pair in zip(region.regions, parts, strict=True))
    raise AssertionError


def farthest(matrix, x, limits, sums, total) -> float:
    """The least ``t`` with ``|M z - x| <= t`` for a z within the limits, by scipy's linear program."""
    n, k = matrix.shape
    A = np.block([[matrix, -np.ones((n, 1))], [-matrix, -np.ones((n, 1))]])
    found = linprog(
        np.append(np.zeros(k), 1.0),
        A_ub=A,
        b_ub=np.concatenate([x, -x]),
        A_eq=np.hstack([sums, [[0.0]]]),
        b_eq=[total],
        bounds=[*[limits] * k, (0, None)],
    )
    assert found.status == 0, found.message
    return found.fun


@each_kind
@drawn
@given(data=st.data(), size=SIZES)
def test_support_is_attained_and_no_sample_exceeds_it(kind, data, size):
    region = data.draw(regions(size, [kind]))
    rows = 3.0 * rows_of(size)
    found = region.support(rows)
    best = np.array([maximizer(region, row) for row in rows])
    np.testing.assert_allclose(found, (rows * best).sum(1), rtol=1e-9, atol=SLACK)
    assert region.contains(best, tol=SLACK).all()
    x = region.sample(50, np.random.default_rng(1))
    assert (x @ rows.T <= found + SLACK).all()
    np.testing.assert_allclose(
        region.support(rows[None, 2:].repeat(2, 0)), [found[2:], found[2:]], rtol=1e-12, atol=1e-12
    )


@each_kind
@drawn
@given(data=st.data(), size=SIZES)
def test_samples_and_the_centre_lie_inside_and_what_lies_beyond_the_support_outside(kind, data, size):
    region = data.draw(regions(size, [kind]))
    x = region.sample(30, np.random.default_rng(0))
    assert x.shape == (30, size)
    assert region.contains(x, tol=SLACK if kind in ("hpolytope", "product") else 0.0).all()
    assert max(distance(region, point) for point in x[:3]) < 1e-7
    assert region.center.shape == (size,)
    assert distance(region, region.center) < 1e-7
    rows = rows_of(size)
    beyond = np.array([maximizer(region, row) for row in rows]) + 1e-3 * rows
    assert not region.contains(beyond).any()
    assert region.contains(beyond, tol=1e-3 + SLACK).all()
    assert region.contains(x.reshape(5, 6, size), tol=SLACK).shape == (5, 6)
    assert region.contains(x[0], tol=SLACK).shape == ()


@each_kind
@drawn
@given(data=st.data(), size=SIZES)
def test_membership_is_convex_and_that_of_the_definition(kind, data, size):
    region = data.draw(regions(size, [kind]))
    rng = np.random.default_rng(0)
    box = region.bounding_box()
    x = box.center + 1.2 * (box.sample(8, rng) - box.center)
    x[::2] = region.sample(4, rng) + rng.choice([0.0, 1e-4, 1e-2], (4, 1)) * rng.normal(size=(4, size))
    found = region.contains(x, tol=1e-9)
    for point, inside in zip(x, found, strict=True):
        assert distance(region, point) < 1e-6 if inside else distance(region, point) > 1e-10
    inside = x[found]
    shares = rng.random((len(inside), 1))
    assert region.contains(shares * inside + (1 - shares) * inside[::-1], tol=1e-8).all()


@each_kind
@drawn
@given(data=st.data(), size=SIZES)
def test_the_bounding_box_touches_on_every_side(kind, data, size):
    region = data.draw(regions(size, [kind]))
    box, eye = region.bounding_box(), np.eye(size)
    np.testing.assert_allclose(box.upper, [maximizer(region, row) @ row for row in eye], rtol=1e-9, atol=SLACK)
    np.testing.assert_allclose(box.lower, [maximizer(region, -row) @ row for row in eye], rtol=1e-9, atol=SLACK)


@pytest.mark.parametrize("kind", ["box", "zonotope", "vpolytope", "hpolytope", "product"])
@drawn
@given(data=st.data(), size=st.integers(1, 3))
def test_the_vertices_are_those_points_whose_hull_is_the_region(kind, data, size):
    region = data.draw(regions(size, [kind]))
    if isinstance(region, Product) and any(isinstance(part, Ellipsoid) for part in region.regions):
        return
    vertices = region.vertices()
    rows = rows_of(size, 30)
    np.testing.assert_allclose((vertices @ rows.T).max(0), region.support(rows), rtol=1e-9, atol=SLACK)
    assert region.contains(vertices, tol=SLACK).all()
    scale = 1e-3 * np.ptp(vertices, axis=0).max()
    for i in range(len(vertices) if scale > 1e-6 else 0):  # none is a mean of the others
        others = np.delete(vertices, i, axis=0)
        assert distance(VPolytope(others), vertices[i]) > 1e-9


def test_a_polytope_in_rows_has_the_vertices_that_its_rows_cross_in():
    rng = np.random.default_rng(3)
    for _ in range(20):
        region = hpolytope(rng, 3)
        expected = set()
        for chosen in itertools.combinations(range(len(region.b)), 3):
            A = region.A[list(chosen)] / np.linalg.norm(region.A[list(chosen)], axis=1, keepdims=True)
            if abs(np.linalg.det(A)) > 1e-6:
                point = np.linalg.solve(region.A[list(chosen)], region.b[list(chosen)])
                if distance(region, point) < 1e-9:
                    expected.add(tuple(np.round(point, 6) + 0.0))
        assert {tuple(np.round(point, 6) + 0.0) for point in region.vertices()} == expected


def test_a_vertex_in_which_many_rows_cross_is_listed_once():
    octahedron = HPolytope(np.array(list(itertools.product([-1.0, 1.0], repeat=3))), np.ones(8))
    expected = np.vstack([np.eye(3), -np.eye(3)])
    np.testing.assert_allclose(np.sort(octahedron.vertices(), axis=0), np.sort(expected, axis=0), atol=1e-9)


@pytest.mark.parametrize("kind", ["box", "zonotope", "ellipsoid"])
@drawn
@given(data=st.data(), size=SIZES)
def test_symmetric_regions_have_their_centre_of_symmetry(kind, data, size):
    region = data.draw(regions(size, [kind]))
    rows = rows_of(size)
    shift = rows @ region.center
    np.testing.assert_allclose(region.support(rows) - shift, region.support(-rows) + shift, rtol=1e-9, atol=1e-12)


def test_the_centre_of_rows_is_that_of_the_largest_ball():
    simplex = HPolytope([[-3.0, 0.0], [0.0, -1.0], [2.0, 2.0]], [0.0, 0.0, 2.0])
    np.testing.assert_allclose(simplex.center, 1 - np.sqrt(0.5), rtol=1e-9)
    line = HPolytope([[1.0, 1.0], [-1.0, -1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, -1.0, 0.0, 0.0])
    assert line.center.min() > 0.2  # and no end


@pytest.mark.parametrize("kind", [kind for kind in REGIONS if kind != "product"])
def test_samples_reach_every_part(kind):
    """Beyond every plane through the centre lie samples, far from it in low dimension."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        region = REGIONS[kind](rng, 2)
        x = region.sample(2000, rng)
        rows = rows_of(2, 20)
        width = region.support(rows) + region.support(-rows)
        reached = (x @ rows.T).max(0) - (x @ rows.T).min(0)
        assert (reached >= 0.6 * width - SLACK).all()


@each_kind
@drawn
@given(data=st.data(), size=SIZES)
def test_tensors_give_the_same_support(kind, data, size):
    region = data.draw(regions(size, [kind]))
    rows = rows_of(size)
    stack = torch.tensor(rows).reshape(2, 1, 3, size)
    found = region.support(stack)
    assert found.shape == (2, 1, 3)
    np.testing.assert_allclose(found.flatten(), region.support(rows), rtol=1e-12, atol=1e-12)
    single = region.support(stack.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.flatten(), region.support(rows), rtol=1e-4, atol=1e-4)


@each_kind
@drawn
@given(data=st.data(), size=SIZES)
def test_the_gradient_is_that_of_finite_differences(kind, data, size):
    region = data.draw(regions(size, [kind]))
    rows = torch.tensor(rows_of(size, 5, seed=5)[2:], requires_grad=True)
    assert torch.autograd.gradcheck(region.support, rows, eps=1e-6, atol=1e-5)


def test_the_gradient_of_a_row_of_zeros_is_a_point_of_the_region():
    rng = np.random.default_rng(0)
    for region in [Box([-1.0, 2.0, 3.0], [1.0, 2.0, 4.0]), *(make(rng, 3) for make in REGIONS.values())]:
        rows = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        region.support(rows).sum().backward()
        assert region.contains(rows.grad[0].numpy(), tol=SLACK)


def test_tensors_of_a_region_are_made_once_and_outlive_inference_mode():
    region = Product(Zonotope([0.0], [[1.0]]), Ellipsoid([1.0], [[2.0]]))
    rows = torch.ones(1, 2, dtype=torch.float64)
    with torch.inference_mode():
        region.support(rows)
    before = region.arrays(rows)
    assert all(
        a is b for one, two in zip(before, region.arrays(rows), strict=True) for a, b in zip(one, two, strict=True)
    )
    assert region.arrays(rows.float())[0][0].dtype == torch.float32
    weight = rows.clone().requires_grad_()
    (region.support(weight) ** 2).sum().backward()
    assert weight.grad.isfinite().all()
    kept = len(shared._TENSORS)
    del region, before
    assert len(shared._TENSORS) == kept - 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@each_kind
def test_support_on_a_gpu(kind):
    region = Box([0.0] * 3, [1.0] * 3) if kind == "box" else REGIONS[kind](np.random.default_rng(0), 3)
    found = region.support(torch.tensor(rows_of(3), device="cuda"))
    assert found.device.type == "cuda"
    np.testing.assert_allclose(found.cpu(), region.support(rows_of(3)), rtol=1e-9, atol=1e-9)


def test_regions_are_numpy_until_a_tensor_comes():
    code = (
        "import sys, numpy as np; from polyopt.regions import *; Zonotope([0.0], [[1.0]]).support([[1.0]]);"
        "print([m for m in ('torch', 'pyomo', 'scipy.spatial', 'scipy.optimize') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_images_of_784_pixels_take_milliseconds():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(256, 784))
    for region in (Box.ball(rng.random(784), 0.1), Zonotope(rng.random(784), rng.normal(size=(784, 20)))):
        start = time.perf_counter()
        found, same = region.support(rows), region.support(torch.tensor(rows))
        assert time.perf_counter() - start < 1.0
        np.testing.assert_allclose(found, same, rtol=1e-9)
        assert region.contains(region.center)


def test_points_near_a_flat_ellipsoid_are_measured_in_the_coordinates():
    thin = Ellipsoid([0.0, 0.0], [[1.0, 0.0], [0.0, 1e-13]])
    assert thin.contains([[0.5, 0.0], [1.0, 1e-12], [-1.0, 0.0]]).all()
    assert not thin.contains([[0.5, 1e-6], [1.0 + 1e-6, 0.0]]).any()
    assert thin.contains([[0.5, 1e-6], [1.0 + 1e-6, 0.0]], tol=1e-5).all()


def test_half_spaces_contain_and_are_not_a_polytope():
    half = HPolytope([[1.0, -1.0]], [0.0])
    assert half.contains([[0.0, 1.0], [1.0, 0.0]]).tolist() == [True, False]
    assert not half.contains([1e-12, 0.0])
    for ask in (lambda: half.support(np.eye(2)), half.bounding_box, lambda: half.center, half.vertices):
        with pytest.raises(ValueError, match=r"HPolytope with 1 rows in 2 dimensions: .*unbounded"):
            ask()
    empty = HPolytope([[1.0], [-1.0]], [0.0, -1.0])
    for ask in (lambda: empty.support([[1.0]]), empty.bounding_box, lambda: empty.sample(1, np.random.default_rng(0))):
        with pytest.raises(ValueError, match="the polytope is empty"):
            ask()


@each_kind
def test_regions_can_be_pickled_and_not_changed(kind):
    region = Box([0.0] * 3, [1.0] * 3) if kind == "box" else REGIONS[kind](np.random.default_rng(4), 3)
    region.support(torch.eye(3, dtype=torch.float64))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(region)).support(np.eye(3)), region.support(np.eye(3)))
    with pytest.raises(AttributeError, match="cannot assign"):
        region.lower = 0.0
    for array in [] if kind == "product" else region.arrays(np.eye(3)):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Zonotope([0.0], [1.0]), r"generators has shape \(1,\), but must be \(n, g\)"),
        (lambda: Zonotope([0.0], [[1.0], [1.0]]), r"center has shape \(1,\), generators \(2, 1\)"),
        (lambda: Zonotope([[0.0]], [[1.0]]), r"center has shape \(1, 1\), but must be \(n,\)"),
        (lambda: Zonotope([np.nan], [[1.0]]), r"center must be finite, but 1 of 1 .* index \(0,\), is nan"),
        (lambda: Zonotope(np.zeros(2), np.ones((2, 20))).vertices(), r"2\^20 combinations"),
        (lambda: Ellipsoid([0.0, 1.0], np.eye(3)), r"center has shape \(2,\), factor \(3, 3\)"),
        (lambda: Ellipsoid([0.0], [[np.inf]]), r"factor must be finite.*\(0, 0\), is inf"),
        (lambda: Ellipsoid([0.0], [[1.0]]).vertices(), "infinitely many"),
        (lambda: VPolytope([1.0, 2.0]), r"vertices has shape \(2,\), but must be \(v, n\)"),
        (lambda: VPolytope(np.zeros((0, 2))), r"\(0, 2\), but must be \(v, n\) with v, n >= 1"),
        (lambda: HPolytope([[1.0]], [1.0, 2.0]), r"A has shape \(1, 1\), b \(2,\)"),
        (lambda: HPolytope([[1.0]], [np.inf]), r"b must be finite"),
        (lambda: Product(), "no factor"),
        (lambda: Product(np.eye(2)), "factor 0 is ndarray"),
        (lambda: Product(Box([0.0], [1.0]), Box([[0.0]], [[1.0]])), "factor 1 is a batch of boxes"),
        (lambda: Product(*[Box([0.0], [1.0])] * 17).vertices(), "too many combinations"),
        (lambda: Box(np.zeros(17), np.ones(17)).vertices(), r"2\^17 corners"),
        (lambda: Box([[0.0]], [[1.0]]).vertices(), "a batch of 1 boxes"),
        (lambda: Zonotope([0.0], [[1.0]]).support(torch.ones(1, 2)), r"Zonotope.support: A has shape \(1, 2\)"),
        (lambda: VPolytope([[0.0]]).contains([[0.0, 1.0]]), r"VPolytope.contains: points have shape \(1, 2\)"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(make, message):
    with pytest.raises(ValueError, match=message):
        make()
