import copy
import math

import numpy as np
import pytest
import scipy.sparse as sp

from polyopt.activations import Clip, ReLU
from polyopt.layers import Add, Affine, Concat, Constant, Conv2d, Reshape, Scale
from polyopt.network import Network

DOUBLE, SHIFT = Scale(2.0), Scale(1.0, 1.0)


def affine(n_out, n_in, value=1.0):
    return Affine(np.full((n_out, n_in), value), np.zeros(n_out))


@pytest.fixture
def diamond():
    """2x + relu(x + 1), with layers given backwards and one that nothing needs."""
    return Network(
        [
            ("sum", Add(), ["double", "relu"]),
            ("relu", ReLU(), ["shift"]),
            ("unused", affine(5, 3), ["relu"]),
            ("double", DOUBLE, ["input"]),
            ("shift", SHIFT, ["input"]),
        ],
        (3,),
        output="sum",
    )


def test_layers_are_ordered_inputs_first(diamond):
    names = [node.name for node in diamond.nodes]
    assert sorted(names) == ["double", "relu", "shift", "sum"]
    for place, node in enumerate(diamond.nodes):
        assert set(node.inputs) <= {"input", *names[:place]}


def test_values(diamond):
    x = np.array([[-2.0, 0.0, 3.0], [0.5, -0.5, -1.0]])
    np.testing.assert_array_equal(diamond(x), 2 * x + np.maximum(x + 1, 0))
    values = diamond.values(x)
    np.testing.assert_array_equal(values["shift"], x + 1)
    np.testing.assert_array_equal(values["input"], x)


def test_nodes_know_shapes_and_sizes():
    net = Network(
        [("flat", Reshape((12,)), ["input"]), ("both", Concat(), ["flat", "flat"]), ("out", affine(5, 24), ["both"])],
        (3, 2, 2),
    )
    both = net.nodes[1]
    assert (both.input_shapes, both.shape, both.input_size, both.size) == (((12,), (12,)), (24,), 24, 24)
    assert (net.input_size, net.output_size, net.input_shape, net.output_shape) == (12, 5, (3, 2, 2), (5,))


def test_the_output_may_be_any_layer(diamond):
    layers = [(node.name, node.layer, node.inputs) for node in diamond.nodes]
    net = Network(layers, (3,), output="shift")
    assert [node.name for node in net.nodes] == ["shift"]
    assert net.output_shape == (3,)


def test_activations_are_the_nonlinear_layers_in_order():
    net = Network.sequential([affine(2, 3), ReLU(), DOUBLE, Clip(0.0, 1.0)], (3,))
    assert [node.name for node in net.activations] == ["1", "3"]


def test_constants_are_repeated_for_each_sample():
    net = Network([("c", Constant([1.0, 2.0]), []), ("both", Concat(), ["c", "input"])], (1,))
    np.testing.assert_array_equal(net([[5.0], [6.0]]), [[1.0, 2.0, 5.0], [1.0, 2.0, 6.0]])
    only = Network([("c", Constant([1.0, 2.0]), [])], (1,))
    assert only(np.zeros((4, 1))).shape == (4, 2)


def test_images_are_taken_flat_or_in_shape():
    net = Network.sequential([Conv2d(np.ones((2, 3, 2, 2)))], (3, 4, 4))
    x = np.random.default_rng(0).normal(size=(5, 3, 4, 4))
    y = net(x)
    assert y.shape == (5, net.output_size) == (5, 18)
    np.testing.assert_array_equal(net(x.reshape(5, 48)), y)
    assert net(x.astype(np.float32)).dtype == np.float64


GOOD = ("a", DOUBLE, ["input"])
BAD = {
    "no layers": ([], (2,), None, "there are no layers"),
    "empty input": ([GOOD], (0, 3), None, r"input shape \(0, 3\) holds no numbers"),
    "repeated name": ([GOOD, GOOD], (2,), None, "two layers are named 'a'"),
    "reserved name": ([("input", DOUBLE, ["input"])], (2,), None, "two layers are named 'input'"),
    "unknown input": ([("a", DOUBLE, ["b"])], (2,), None, "'a' takes input 'b', which is no layer"),
    "unknown output": ([GOOD], (2,), "z", "the output 'z' is no layer; there are 'a'"),
    "cycle": (
        [("a", Add(), ["input", "c"]), ("b", DOUBLE, ["a"]), ("c", DOUBLE, ["b"])],
        (2,),
        None,
        "form a cycle: (a -> b -> c|b -> c -> a|c -> a -> b)",
    ),
    "cycle of one": ([("a", Add(), ["input", "a"])], (2,), None, "form a cycle: a"),
    "wrong shape": ([GOOD, ("wide", affine(1, 3), ["a"])], (2,), None, r"layer 'wide': Affine: .*\(1, 3\).* 2 inputs"),
    "NaN": (
        [GOOD, ("bad", affine(2, 2, math.nan), ["a"])],
        (2,),
        None,
        r"'bad' \(Affine\): 4 .*weight.*nan at \(0, 0\)",
    ),
    "inf": ([("bad", Scale([1.0, math.inf]), ["input"])], (2,), None, r"'bad' \(Scale\): 1 .*scale.*inf at \(1,\)"),
    "NaN in a sparse matrix": (
        [("bad", Affine(sp.csr_array([[0.0, math.nan]]), [0.0]), ["input"])],
        (2,),
        None,
        r"'bad' \(Affine\): 1 .*weight.*nan",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_networks_are_refused(name):
    layers, shape, output, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        Network(layers, shape, output)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(6), r"shape \(6,\), but must be \(batch, 6\); pass x\[None\]"),
        (np.zeros((2, 3)), r"shape \(2, 3\), but must be \(batch, 6\); pass x\[None\]"),
        (np.zeros((4, 5)), r"shape \(4, 5\), but must be \(batch, 6\)$"),
        (np.zeros((4, 3, 2)), r"shape \(4, 3, 2\)"),
        (0.0, r"shape \(\)"),
    ],
)
def test_inputs_of_the_wrong_shape_are_refused(x, message):
    net = Network.sequential([DOUBLE], (2, 3))
    with pytest.raises(ValueError, match=message):
        net(x)


def test_a_clip_may_be_infinite():
    assert Network.sequential([Clip(lower=0.0)], (1,))([[-1.0]]) == 0.0


def test_a_network_cannot_change(diamond):
    node = diamond.nodes[0]
    with pytest.raises(AttributeError):
        node.name = "other"
    with pytest.raises(AttributeError):
        node.layer.scale = 3.0
    with pytest.raises(ValueError, match="read-only"):
        diamond.nodes[0].layer.scale[()] = 3.0
    assert isinstance(diamond.nodes, tuple)


def test_calls_do_not_change_their_input(diamond):
    x = np.array([[-2.0, 0.0, 3.0]])
    diamond(x)
    np.testing.assert_array_equal(x, [[-2.0, 0.0, 3.0]])


def test_a_copy_is_the_network_itself(diamond):
    assert copy.deepcopy({"net": diamond})["net"] is diamond


def test_repr_lists_the_layers(diamond):
    assert repr(diamond).startswith("Network (3,) -> (3,)\n")
    assert "  relu: ReLU (3,)" in repr(diamond)
