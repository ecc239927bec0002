"""Properties: what they refuse, exact membership, and robustness balls that lose no point."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyopt as po
from polyopt.layers import Affine, Reshape

BOX = po.Box([0.0, 0.0], [1.0, 1.0])
LOW = po.HPolytope([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0.0, 0.0])
drawn = settings(max_examples=200, deadline=None, derandomize=True)
numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


def linear(n=2, m=3):
    return po.Network.sequential([Affine(np.zeros((m, n)), None)], (n,))


def test_one_case():
    prop = po.Property(BOX, unsafe=[LOW, po.HPolytope([[0.0, 0.0, 1.0]], [-1.0])])
    assert (prop.input_size, prop.output_size) == (2, 3)
    assert prop.region is BOX
    assert prop.unsafe[0] is LOW
    ((region, unsafe),) = prop.cases
    assert region is BOX
    assert len(unsafe) == 2


def test_a_counterexample_has_its_input_in_a_region_and_its_output_in_an_unsafe_set_of_the_same_case():
    high = po.HPolytope([[-1.0, 0.0, 0.0]], [-5.0])
    far = po.Box([10.0, 10.0], [11.0, 11.0])
    prop = po.Property.of_cases([(BOX, [LOW]), (far, [high])], 2, 3)
    near, away, low, high = [0.5, 1.0], [10.5, 11.0], [-1.0, 0.0, 9.0], [5.0, 0.0, 0.0]
    found = [prop.falsified_by(x, y) for x in (near, away, [2.0, 2.0]) for y in (low, high)]
    assert found == [True, False, False, True, False, False]
    with pytest.raises(ValueError, match="there are 2 cases"):
        prop.region  # noqa: B018


def test_a_property_without_cases_holds():
    prop = po.Property.of_cases([], 2, 3)
    assert not prop.falsified_by([0.0, 0.0], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="there are 0 cases"):
        prop.unsafe  # noqa: B018


def test_outputs_are_judged_without_rounding():
    prop = po.Property(po.Box([0.0], [1.0]), unsafe=[po.HPolytope([[1.0, 1.0, -1.0]], [0.0])])
    tiny = 2.0**-80
    assert (1.0 + tiny) - 1.0 == 0.0  # what floats would say
    assert not prop.falsified_by([0.5], [1.0, tiny, 1.0])
    assert prop.falsified_by([0.5], [1.0, -tiny, 1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_falsifies_nothing(bad):
    assert not po.Property(BOX, unsafe=[LOW]).falsified_by([0.5, 0.5], [bad, -1.0, -1.0])
    assert not po.Property(BOX, unsafe=[LOW]).falsified_by([bad, 0.5], [-1.0, -1.0, -1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: po.Property([0.0, 1.0], [LOW]), "the region is a list"),
        (lambda: po.Property(po.Box(np.zeros((4, 2)), np.ones((4, 2))), [LOW]), "a batch of 4"),
        (lambda: po.Property(BOX, []), "unsafe is nothing"),
        (lambda: po.Property(BOX, LOW), "unsafe is HPolytope; give a list"),
        (lambda: po.Property(BOX, [LOW, BOX]), "unsafe is HPolytope, Box"),
        (lambda: po.Property(BOX, [LOW, po.HPolytope([[1.0]], [0.0])]), r"dimensions \[1, 3\]"),
        (lambda: po.Property.of_cases([(BOX, [LOW])], 2, 4), "case 0 has 2 inputs and 3 outputs"),
        (lambda: po.Property(BOX, [LOW]).falsified_by([0.0], [0.0, 0.0, 0.0]), r"x has shape \(1,\)"),
        (lambda: po.robust(linear(), [0.0], 0.1, 0), r"x has shape \(1,\)"),
        (lambda: po.robust(linear(1), 0.0, 0.1, 0), r"x has shape \(\)"),
        (lambda: po.robust(linear(), [0.0, np.nan], 0.1, 0), "x must be finite, but has nan"),
        (lambda: po.robust(linear(), [0.0, 0.0], -0.1, 0), "eps is -0.1"),
        (lambda: po.robust(linear(), [0.0, 0.0], np.inf, 0), "eps must be finite"),
        (lambda: po.robust(linear(), [0.0, 0.0], 0.1, 3), "label is 3, but the network has 3 outputs"),
        (lambda: po.robust(linear(), [0.0, 0.0], 0.1, -1), "label is -1"),
        (lambda: po.robust(linear(m=1), [0.0, 0.0], 0.1, 0), "the network has 1 outputs"),
        (lambda: po.robust(linear(), [2.0, 0.0], 0.1, 0, upper=1.0), "lower must not exceed upper"),
        (lambda: po.robust(linear(), [1e308, 0.0], 1.7e308, 0), "must be finite"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_robust_says_that_no_other_class_scores_as_high():
    prop = po.robust(linear(m=4), [0.25, 0.5], 0.25, label=np.int64(2))
    np.testing.assert_array_equal([prop.region.lower, prop.region.upper], [[0.0, 0.25], [0.5, 0.75]])
    rng = np.random.default_rng(0)
    outputs = rng.integers(-2, 3, (500, 4)).astype(float)  # with ties
    unsafe = [bool((np.delete(y, 2) >= y[2]).any()) for y in outputs]
    assert [prop.falsified_by([0.25, 0.5], y) for y in outputs] == unsafe
    assert 0 < sum(unsafe) < 500


def test_robust_takes_points_shaped_like_the_input_and_a_radius_and_limits_for_each_entry():
    net = po.Network.sequential([Reshape((4,)), Affine(np.zeros((2, 4)), None)], (1, 2, 2))
    x = np.array([[[0.0, 0.5], [0.75, 1.0]]])
    prop = po.robust(net, x, np.array([0.5, 0.25, 0.0, 0.5]), 0, lower=0.0, upper=np.ones((1, 2, 2)))
    np.testing.assert_array_equal(prop.region.lower, [0.0, 0.25, 0.75, 0.5])
    np.testing.assert_array_equal(prop.region.upper, [0.5, 0.75, 0.75, 1.0])


@drawn
@given(x=st.lists(numbers, min_size=1, max_size=4), eps=st.floats(0.0, 1e3, allow_subnormal=False))
def test_the_ball_is_inside_the_box_which_is_a_float_wider_at_most(x, eps):
    box = po.robust(linear(len(x)), x, eps, 0).region
    for center, low, high in zip(x, box.lower, box.upper, strict=True):
        assert Fraction(low) <= Fraction(center) - Fraction(eps) < Fraction(np.nextafter(low, np.inf))
        assert Fraction(np.nextafter(high, -np.inf)) < Fraction(center) + Fraction(eps) <= Fraction(high)
