"""Networks without units that are 0 on a region: the same function there."""

import numpy as np
import pytest
from cases import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chain

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.live import live


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_the_function_on_the_region_is_the_same(seed, radius):
    rng = np.random.default_rng(seed)
    net = chain(rng, "relu", sizes=(3, 8, 8, 2))
    box = po.Box.ball(rng.normal(size=3), radius)
    smaller = live(net, po.crown(net, box))
    x = box.sample(100, rng)
    np.testing.assert_allclose(smaller(x), net(x), rtol=1e-12, atol=1e-12)
    assert sum(node.size for node in smaller.activations) <= sum(node.size for node in net.activations)


def test_dead_units_are_gone_for_a_batch_only_where_all_boxes_agree():
    net = po.Network.sequential([Affine([[1.0], [-1.0], [1.0]], [0.0, 0.0, -5.0]), ReLU()], (1,))
    net = po.Network.sequential([*net.layers, Affine([[1.0, 1.0, 1.0]], [0.0])], (1,))
    both = live(net, po.crown(net, po.Box([[1.0], [-2.0]], [[2.0], [-1.0]])))
    one = live(net, po.crown(net, po.Box([1.0], [2.0])))
    assert [both.activations[0].size, one.activations[0].size] == [2, 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_other_layers_stay_as_they_are(name):
    net = NETWORKS[name]
    box = po.Box([-1.0] * net.input_size, [1.0] * net.input_size)
    x = box.sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(live(net, po.crown(net, box))(x), net(x), rtol=1e-12, atol=1e-12)
