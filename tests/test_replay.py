"""Replaying counterexamples: what float32 makes of a point, which original is asked, and that all three must agree."""

import gzip

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.verification import replay as module
from polyopt.verification.replay import Replay, nearest_float32, original

drawn = settings(max_examples=300, deadline=None, derandomize=True)
doubles = st.floats(-1e6, 1e6)
singles = st.floats(-1e6, 1e6, width=32)


@drawn
@given(doubles, st.one_of(st.just(0.0), st.floats(0.0, 1e-6), st.floats(0.0, 10.0)), st.floats(-0.5, 1.5))
def test_a_box_gives_its_nearest_float32_or_none(lower, width, share):
    box = po.Box([lower], [lower + width])
    x = np.array([lower + share * width])
    (found,) = nearest_float32(box, x)
    assert box.lower[0] <= found <= box.upper[0]
    (inside,) = np.clip(x, box.lower, box.upper)
    near = np.float32(inside)
    around = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)] + [near]
    around = [float(single) for single in around if box.lower[0] <= float(single) <= box.upper[0]]
    if around:
        assert float(np.float32(found)) == found
        assert abs(found - inside) == min(abs(single - inside) for single in around)
    else:
        assert found == inside


@drawn
@given(singles, singles)
def test_a_box_between_float32_is_rounded_to_its_inside(one, other):
    box = po.Box([min(one, other)], [max(one, other)])
    for x in (box.lower, box.upper, box.center):
        (found,) = nearest_float32(box, x)
        assert float(np.float32(found)) == found


def test_numbers_beyond_float32():
    box = po.Box([1e39], [2e39])
    assert nearest_float32(box, np.array([1.5e39])) == [1.5e39]
    net = po.Network.sequential([Affine([[1.0]], None)], (1,))
    prop = po.Property(box, [po.HPolytope([[-1.0]], [0.0])])
    assert not Replay(net, prop.cases)(box.center, 0)  # infinite in float32


def scale(factor):
    return po.Network.sequential([Affine([[factor]], None), ReLU()], (1,))


def read_from(net, original):
    """``net``, said to be read from a file of another network."""
    made = po.Network([(node.name, node.layer, node.inputs) for node in net.nodes], net.input_shape)
    made.source = po.to_onnx(original)
    return made


@pytest.fixture
def prop():
    return po.Property(po.Box([0.0], [1.0]), [po.HPolytope([[-1.0]], [-1.0])])  # y >= 1


def test_the_network_and_the_original_must_both_be_unsafe(prop):
    x = np.array([0.75])
    for net, source, expected in [(2, 2, True), (2, 1, False), (1, 2, False), (1, 1, False)]:
        assert Replay(read_from(scale(float(net)), scale(float(source))), prop.cases)(x, 0) == expected


def test_the_original_is_float32(prop):
    """0.1 is less than its nearest float32: what is unsafe by less than that is safe in float64, and the converse."""
    exact = po.Network.sequential([Affine([[0.1]], None)], (1,))
    single = float(np.float32(0.1))
    above = po.Property(po.Box([1.0], [1.0]), [po.HPolytope([[-1.0]], [-single])])  # y >= 0.1f
    below = po.Property(po.Box([1.0], [1.0]), [po.HPolytope([[1.0]], [0.1])])  # y <= 0.1
    for property_, doubles, singles in [(above, False, True), (below, True, False)]:
        assert property_.falsified_by([1.0], exact([[1.0]])[0]) == doubles
        for net in (exact, read_from(exact, exact)):
            assert property_.falsified_by([1.0], original(net)(np.array([1.0]))) == singles
            assert not Replay(net, property_.cases)(np.array([1.0]), 0)


@pytest.mark.parametrize("suffix", [".onnx", ".onnx.gz"])
def test_files(prop, tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    data = po.to_onnx(scale(2.0)).SerializeToString()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert Replay(po.from_onnx(path), prop.cases)(np.array([0.5]), 0)
    assert Replay(po.from_onnx(str(path)), prop.cases)(np.array([0.5]), 0)


@pytest.mark.parametrize("shape", [["batch", 1, 2], [1, 1, 2], [2]])
def test_input_shapes(shape):
    flat = onnx.helper.make_node("Reshape", ["x", "shape"], ["r"])
    nodes = [flat, onnx.helper.make_node("MatMul", ["r", "W"], ["y"])]
    stored = {"shape": np.array([-1, 2]), "W": np.array([[1.0], [10.0]], dtype=np.float32)}
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    assert original(po.from_onnx(model))(np.array([1.0, 2.0])).tolist() == [21.0]


def test_without_onnxruntime_torch_is_asked(prop, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert Replay(read_from(scale(2.0), scale(1.0)), prop.cases)(np.array([0.75]), 0)  # the source is not run


def test_points_outside_are_moved_inside():
    net = po.Network.sequential([Affine([[1.0, 1.0]], None)], (2,))
    disc = po.Ellipsoid([0.0, 0.0], np.eye(2))
    replay = Replay(net, po.Property(disc, [po.HPolytope([[-1.0]], [-1.2])]).cases)
    assert disc.contains(replay.point(np.array([3.0, 3.0]), 0))
    assert replay(np.array([3.0, 3.0]), 0)
    assert not replay(np.array([3.0, 0.0]), 0)
