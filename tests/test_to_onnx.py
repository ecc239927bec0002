"""Every layer kind written by to_onnx: onnxruntime and from_onnx give back the function."""

import dataclasses
import inspect

import numpy as np
import onnx
import onnxruntime
import pytest

from polyopt import activations, layers
from polyopt.activations import (
    Abs,
    Clip,
    HardSigmoid,
    LeakyReLU,
    Max,
    Maxout,
    MaxPool2d,
    PReLU,
    ReLU,
    Sigmoid,
    Sign,
    Softplus,
    Step,
    Tanh,
)
from polyopt.convert.from_onnx import from_onnx
from polyopt.convert.to_onnx import RULES, to_onnx
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Constant, Conv2d, Layer, Reshape, Scale, selection
from polyopt.network import Network, UnsupportedLayer

RNG = np.random.default_rng(0)
IMAGE = (2, 5, 6)


def rand(*shape):
    return RNG.normal(size=shape)


def chain(shape, *parts):
    return Network.sequential(parts, shape)


def branches(layer, *others, shape=(4,)):
    """A layer that joins the input with other layers on it."""
    names = [str(i) for i in range(len(others))]
    parts = [
        (name, other, ["input"] * (not isinstance(other, Constant))) for name, other in zip(names, others, strict=True)
    ]
    return Network([*parts, ("out", layer, ["input", *names])], shape)


NETS = [
    chain((4,), Affine(rand(3, 4), rand(3))),
    chain((2, 3), Affine(rand(3, 6), rand(3))),
    chain((4,), Affine(selection(np.array([3, -1, 0]), 4), rand(3))),
    chain((4,), Scale(rand(4), rand(1))),
    chain(IMAGE, Scale(rand(2, 1, 1), rand(5, 1))),
    chain(IMAGE, Conv2d(rand(4, 1, 3, 2), rand(4), (2, 1), ((1, 0), (2, 1)), (1, 2), 2)),
    chain(IMAGE, AvgPool2d((3, 2), (2, 1), ((1, 1), (0, 1)))),
    chain(IMAGE, AvgPool2d((3, 2), (2, 1), ((1, 1), (0, 1)), count_include_pad=False)),
    chain(IMAGE, MaxPool2d((3, 2), (2, 1), ((1, 2), (0, 1)), (1, 2))),
    chain(IMAGE, Reshape((6, 10))),
    chain(IMAGE, Reshape((60,))),
    chain((1,), Reshape(())),
    branches(Add(), Abs(), ReLU()),
    branches(Add(), Constant(rand(4))),
    branches(Concat(), ReLU(), Constant(rand(3))),
    branches(Concat(1), Abs(), Constant(rand(2, 4)), shape=(2, 3)),
    branches(Max(), Scale(-1.0), Constant(rand(4))),
    chain((6,), Maxout(3)),
    chain((4,), PReLU(rand(4))),
    chain(IMAGE, PReLU(rand(2, 1, 1))),
    *(
        chain((9,), layer)
        for layer in (
            *(
                ReLU(),
                Abs(),
                Sign(),
                Sigmoid(),
                Tanh(),
                Softplus(),
                Softplus(2.5),
                LeakyReLU(0.1),
                HardSigmoid(0.3, 0.1),
            ),
            *(Clip(-0.5, 0.7), Clip(-0.5), Clip(upper=0.7), Clip(), Step(), Step(0.0), Step(0.3)),
        )
    ),
]
NO_FLOAT64_KERNEL = (Conv2d, AvgPool2d, Softplus)  # in onnxruntime


def points(net):
    """Random inputs, and zeros for the layers that jump there."""
    x = np.random.default_rng(1).normal(size=(5, *net.input_shape))
    x[0] = 0.0
    return x


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"input": x})[0]


def test_every_layer_kind_is_written_and_tested():
    kinds = {
        kind
        for module in (layers, activations)
        for _, kind in inspect.getmembers(module, dataclasses.is_dataclass)
        if issubclass(kind, Layer)
    }
    assert kinds == set(RULES)
    assert kinds == {type(layer) for net in NETS for layer in net.layers}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net.layers[-1]).__name__)
def test_onnxruntime_computes_the_same(net, dtype):
    model = to_onnx(net, dtype=dtype)
    onnx.checker.check_model(model, full_check=True)
    if dtype == "float64" and isinstance(net.layers[-1], NO_FLOAT64_KERNEL):
        dtype, model = "float32", to_onnx(net)
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    x = points(net).astype(dtype)
    y = run(model, x)
    assert y.shape == (len(x), *net.output_shape)
    np.testing.assert_allclose(y.reshape(len(x), -1), net(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net.layers[-1]).__name__)
def test_from_onnx_reads_the_same_function(net):
    back = from_onnx(to_onnx(net, dtype="float64"))
    assert (back.input_shape, back.output_shape) == (net.input_shape, net.output_shape)
    np.testing.assert_allclose(back(points(net)), net(points(net)), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "layer", [ReLU(), LeakyReLU(0.1), Step(), Step(0.0), Max(), Maxout(3), Sign()], ids=lambda x: type(x).__name__
)
def test_layers_come_back_as_what_they_were(layer):
    net = branches(layer, Abs(), shape=(6,)) if isinstance(layer, Max) else chain((6,), layer)
    back = from_onnx(to_onnx(net, dtype="float64")).activations[-1].layer
    assert type(back) is type(layer)
    assert vars(back) == vars(layer)


def test_a_deep_network_keeps_its_names():
    net = Network(
        [
            ("conv", Conv2d(rand(3, 2, 3, 3), rand(3)), ["input"]),
            ("conv.1", ReLU(), ["conv"]),
            ("pool", MaxPool2d((2, 2), (1, 1)), ["conv.1"]),
            ("flat", Reshape((18,)), ["pool"]),
            ("fc", Affine(rand(18, 18), rand(18)), ["flat"]),
            ("skip", Add(), ["fc", "flat"]),
            ("fc.2", Affine(rand(2, 18), rand(2)), ["skip"]),
        ],
        IMAGE,
    )
    model = to_onnx(net)
    onnx.checker.check_model(model, full_check=True)
    assert {node.name for node in net.nodes} <= {node.name for node in model.graph.node}
    x = points(net).astype(np.float32)
    np.testing.assert_allclose(run(model, x), net(x), rtol=1e-4, atol=1e-4)
    back = from_onnx(model)
    np.testing.assert_allclose(back(x), net(x), rtol=1e-5, atol=1e-5)
    assert [node.name for node in back.nodes] == [node.name for node in net.nodes]


def test_float32_rounds_and_float64_does_not():
    weight = np.array([[0.1, 1 / 3]])
    net = chain((2,), Affine(weight, [0.7]))
    (rounded,), (kept,) = (from_onnx(to_onnx(net, dtype=dtype)).layers for dtype in ("float32", "float64"))
    assert (rounded.weight == weight.astype(np.float32)).all()
    assert (kept.weight == weight).all()


def test_the_file(tmp_path):
    model = to_onnx(NETS[0], tmp_path / "net.onnx")
    assert onnx.load(tmp_path / "net.onnx") == model


def test_errors():
    with pytest.raises(ValueError, match="dtype is 'float16'"):
        to_onnx(NETS[0], dtype="float16")
    with pytest.raises(ValueError, match="'0' holds numbers beyond float32"):
        to_onnx(chain((1,), Affine([[1e300]], [0.0])))

    @dataclasses.dataclass(frozen=True, eq=False)
    class Square(Layer):
        def output_shape(self, *shapes):
            return shapes[0]

    with pytest.raises(UnsupportedLayer, match="'0' is a Square"):
        to_onnx(chain((1,), Square()))
