import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import boxes

from polyopt.regions import Box


@settings(max_examples=40, deadline=None, derandomize=True)
@given(boxes(4))
def test_support_is_the_maximum_over_the_corners(box):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    corners = np.array(list(itertools.product(*zip(box.lower, box.upper, strict=True))))
    np.testing.assert_allclose(box.support(rows), (corners @ rows.T).max(0), rtol=1e-12, atol=1e-12)


def test_support_is_exact_where_a_centre_and_radius_would_round():
    assert Box([1e-20, 0.0], [1e-20, 1.0]).support([[1.0, 0.0]])[0] == 1e-20


@settings(max_examples=40, deadline=None, derandomize=True)
@given(boxes(3, batch=4))
def test_a_batch_is_many_boxes(box):
    rows = np.random.default_rng(0).normal(size=(5, 3))
    each = [Box(lower, upper) for lower, upper in zip(box.lower, box.upper, strict=True)]
    np.testing.assert_allclose(box.support(rows), [one.support(rows) for one in each], rtol=1e-12, atol=1e-12)
    stack = np.random.default_rng(2).normal(size=(4, 5, 3))
    own = [one.support(A) for one, A in zip(each, stack, strict=True)]
    np.testing.assert_allclose(box.support(stack), own, rtol=1e-12, atol=1e-12)
    for A in (rows, rows[None], stack):
        np.testing.assert_allclose(box.support(torch.tensor(A)), box.support(A), rtol=1e-12, atol=1e-12)
    assert box.sample(7, np.random.default_rng(1)).shape == (4, 7, 3)
    assert box.contains(box.center).shape == (4,)
    assert box.size == 3


@settings(max_examples=40, deadline=None, derandomize=True)
@given(boxes(3))
def test_samples_fill_the_box_and_stay_inside(box):
    x = box.sample(500, np.random.default_rng(0))
    assert x.shape == (500, 3)
    assert box.contains(x).all()
    assert (x.max(0) - x.min(0) >= 0.9 * (box.upper - box.lower) - 1e-15).all()
    np.testing.assert_allclose(box.center + box.radius, box.upper, rtol=1e-15, atol=1e-15)


def test_corners_are_listed_once():
    box = Box([0.0, 2.0, -1.0], [1.0, 2.0, 1.0])
    assert box.vertices().tolist() == [[0.0, 2.0, -1.0], [0.0, 2.0, 1.0], [1.0, 2.0, -1.0], [1.0, 2.0, 1.0]]
    assert len(Box(np.zeros(20), np.arange(20) < 16).vertices()) == 2**16


def test_contains_takes_a_tolerance():
    box = Box([0.0, 0.0], [1.0, 1.0])
    x = np.array([[0.5, 1.0], [0.5, 1.01], [-0.01, 0.5]])
    assert box.contains(x).tolist() == [True, False, False]
    assert box.contains(x, tol=0.02).all()
    assert box.contains(x[0])


def test_a_ball_is_cut():
    box = Box.ball([[0.0, 0.5], [1.0, 0.2]], 0.25, lower=0.0, upper=[1.0, 0.6])
    np.testing.assert_array_equal(box.lower, [[0.0, 0.25], [0.75, 0.0]])
    np.testing.assert_array_equal(box.upper, [[0.25, 0.6], [1.0, 0.45]])
    np.testing.assert_array_equal(Box.ball([3.0], 0.5).upper, [3.5])


def test_a_box_cannot_be_changed():
    lower = np.zeros(2)
    box = Box(lower, [1.0, 1.0])
    lower[0] = 5.0
    assert box.lower[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        box.lower[0] = 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box([0.0, 1.0], [1.0, 0.5]), r"1 of 2 entries.*at index 1, is lower 1\.0, upper 0\.5"),
        (lambda: Box([[0.0], [0.0]], [[1.0], [-1.0]]), r"at index \(1, 0\), is lower 0\.0, upper -1\.0"),
        (lambda: Box([0.0, -np.inf], [1.0, 1.0]), r"must be finite.*at index 1, is lower -inf"),
        (lambda: Box([0.0], [np.nan]), r"must be finite.*upper nan"),
        (lambda: Box([0.0], [1.0, 2.0]), r"\(1,\).*\(2,\)"),
        (lambda: Box(0.0, 1.0), r"shape \(\)"),
        (lambda: Box([], []), r"n >= 1"),
        (lambda: Box.ball([0.0], -0.1), r"eps is -0\.1"),
        (lambda: Box.ball([0.0], np.nan), r"eps is nan"),
        (lambda: Box.ball([2.0], 0.1, 0.0, 1.0), r"lower 1\.9, upper 1\.0"),
        (lambda: Box([0.0], [1.0]).support(np.ones((2, 3))), r"\(2, 3\).*\(k, 1\)"),
        (lambda: Box([0.0], [1.0]).contains(np.ones(3)), r"\(3,\)"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(make, message):
    with pytest.raises(ValueError, match=message):
        make()
