"""Networks without units that are 0 on a region: the same function there."""

import numpy as np
import pytest
from cases import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chain

import polyopt as po
from polyopt.activations import ReLU
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.layers import Affine
from polyopt.live import live


def smaller(net, box):
    """The live network, whose values lie within the bounds that are left of those on the whole."""
    part, values = live(net, propagate(Backward(net), net, box))
    at = part.values(np.atleast_2d(box.center).reshape(-1, *net.input_shape))
    for name, bounds in values.items():
        assert at[name].shape == bounds.lower.shape
        assert (bounds.lower - 1e-9 <= at[name]).all()
        assert (at[name] <= bounds.upper + 1e-9).all()
    return part


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_the_function_on_the_region_is_the_same(seed, radius):
    rng = np.random.default_rng(seed)
    net = chain(rng, "relu", sizes=(3, 8, 8, 2))
    box = po.Box.ball(rng.normal(size=3), radius)
    part = smaller(net, box)
    x = box.sample(100, rng)
    np.testing.assert_allclose(part(x), net(x), rtol=1e-12, atol=1e-12)
    assert sum(node.size for node in part.activations) <= sum(node.size for node in net.activations)


def test_dead_units_are_gone_for_a_batch_only_where_all_boxes_agree():
    net = po.Network.sequential([Affine([[1.0], [-1.0], [1.0]], [0.0, 0.0, -5.0]), ReLU()], (1,))
    net = po.Network.sequential([*net.layers, Affine([[1.0, 1.0, 1.0]], [0.0])], (1,))
    both = smaller(net, po.Box([[1.0], [-2.0]], [[2.0], [-1.0]]))
    one = smaller(net, po.Box([1.0], [2.0]))
    assert [both.activations[0].size, one.activations[0].size] == [2, 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_other_layers_stay_as_they_are(name):
    net = NETWORKS[name]
    box = po.Box([-1.0] * net.input_size, [1.0] * net.input_size)
    x = box.sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(smaller(net, box)(x), net(x), rtol=1e-12, atol=1e-12)
