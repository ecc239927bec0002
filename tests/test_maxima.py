"""Networks with maxima, and the same with ReLUs in their stead."""

import numpy as np
import pytest
from cases import NETWORKS
from strategies import convolutional, maxima

from polyopt.activations import GroupMax, Max, Maxout
from polyopt.layers import Scale
from polyopt.maxima import maxima_as_relus
from polyopt.network import Network


@pytest.mark.parametrize(
    "net",
    [
        NETWORKS["maxout"],
        NETWORKS["residual"],
        NETWORKS["convolution"],
        maxima(np.random.default_rng(0)),
        convolutional(np.random.default_rng(0)),
        *(Network.sequential([Maxout(k)], (2 * k,)) for k in range(1, 8)),
        Network([("a", Scale(2.0), ["input"]), ("max", Max(), ["a", "input"])], (2, 3)),
    ],
)
def test_the_function_is_the_same(net):
    same = maxima_as_relus(net)
    x = np.random.default_rng(1).normal(size=(100, net.input_size))
    assert not any(isinstance(layer, GroupMax) for layer in same.layers)
    assert same.output_shape == net.output_shape
    np.testing.assert_allclose(same(x), net(x), rtol=1e-13, atol=1e-13)


def test_a_network_without_maxima_stays_as_it_is():
    net = NETWORKS["relu"]
    assert maxima_as_relus(net).layers == net.layers
