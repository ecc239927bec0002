"""Every operator that from_onnx reads against onnxruntime, and its errors."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from polyopt.convert.from_onnx import from_onnx
from polyopt.convert.onnx_ops import OPERATORS
from polyopt.network import UnsupportedLayer

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RNG = np.random.default_rng(0)
# operators that onnxruntime has in float32 only; up to the given opset where there is one
FLOAT32_ONLY = {"AveragePool": 99, "Conv": 99, "GlobalAveragePool": 99, "GlobalMaxPool": 99}
FLOAT32_ONLY |= {"HardSigmoid": 99, "Softplus": 99, "PRelu": 15, "Clip": 11}


def rand(*shape):
    return RNG.normal(size=shape)


def ints(*values):
    return np.array(values, dtype=np.int64)


class N:
    """A node: operands are "x", "k.j" (output j of node k of the same model), arrays, or None where left out."""

    def __init__(self, op, *operands, outputs=1, **attributes):
        self.op, self.operands, self.outputs, self.attributes = (
            op,
            operands or ("x",) * (op != "Constant"),
            outputs,
            attributes,
        )


def build(nodes, shape, opset=17, dtype=np.float64, name="", kind=None):
    """A model with the input "x" of this shape, batch axis included, and the last node's first output."""
    made, stored = [], {}
    for k, node in enumerate(nodes):
        names = []
        for i, operand in enumerate(node.operands):
            if isinstance(operand, np.ndarray):
                stored[f"c{k}.{i}"] = operand.astype(dtype) if operand.dtype == np.float64 else operand
                operand = f"c{k}.{i}"
            names.append(operand or "")
        outputs = [f"{k}.{j}" for j in range(node.outputs)]
        made.append(helper.make_node(node.op, names, outputs, name, **node.attributes))
    kind = kind or helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        made,
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(made[-1].output[0], kind, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def runtime(model):
    """The model in onnxruntime, as a function of one array."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString() if isinstance(model, onnx.ModelProto) else model, options
    )
    return lambda x: session.run(None, {session.get_inputs()[0].name: np.asarray(x)})[0]


@dataclass
class Case:
    """A model that tests an operator; ``shape`` is its input's without the batch axis, which is free or 1."""

    op: str
    shape: tuple
    nodes: tuple
    free: bool = True
    opset: int = 17


def one(op, shape, *operands, free=True, opset=17, **attributes):
    return Case(op, shape, (N(op, *operands, **attributes),), free, opset)


def chain(op, shape, *nodes, **options):
    return Case(op, shape, nodes, **options)


IMAGE = (2, 6, 7)
KERNEL = rand(4, 2, 3, 2)
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceSum")
POOLING = [
    {},
    {"strides": [2, 3]},
    {"strides": [2, 2], "pads": [1, 0, 2, 1]},
    {"strides": [2, 4], "ceil_mode": 1},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [2, 2], "pads": [1, 1, 2, 1], "ceil_mode": 1},
]
CASES = [
    *(one(op, (5,)) for op in ("Abs", "Identity", "Neg", "Relu", "Sigmoid", "Sign", "Softplus", "Tanh")),
    one("Identity", IMAGE),
    # arithmetic
    *(
        one(op, shape, *operands)
        for op in ("Add", "Sub", "Mul")
        for shape, operands in [
            ((5,), ("x", rand(5))),
            ((5,), (rand(1, 5), "x")),
            (IMAGE, (rand(2, 1, 1), "x")),
            (IMAGE, ("x", rand(1, 2, 1, 7))),
            ((3, 1), ("x", rand(4))),
        ]
    ),
    *(chain(op, (5,), N("Relu"), N(op, "0.0", "x")) for op in ("Add", "Sub", "Max", "Min", "Sum")),
    *(chain(op, (3, 4), N("Slice", "x", ints(1), ints(2), ints(1)), N(op, "0.0", "x")) for op in ("Add", "Sub", "Max")),
    one("Add", (5,), "x", "x"),
    one("Sum", (5,), "x", rand(5), "x", rand(1)),
    one("Sum", (5,)),
    one("Div", (5,), "x", rand(5)),
    one("Div", IMAGE, "x", rand(2, 1, 1)),
    one("Max", (5,), "x", rand(5)),
    one("Max", (5,), "x", np.zeros(5)),
    one("Max", (5,), np.array(0.25), "x", np.array(-1.0)),
    one("Max", (3, 1), np.array([0.25, -0.5]), "x"),
    one("Min", (5,), "x", rand(5)),
    one("Min", IMAGE, "x", np.array(0.5)),
    one("MatMul", (5,), "x", rand(5, 3)),
    one("MatMul", (2, 4, 5), "x", rand(5, 3)),
    one("MatMul", (2, 4, 5), "x", rand(1, 5, 3)),
    one("MatMul", (2, 4, 5), "x", rand(5)),
    one("MatMul", (2, 4, 5), rand(3, 4), "x"),
    one("MatMul", (2, 4, 5), rand(4), "x"),
    one("MatMul", (4, 1), rand(3, 4), "x"),
    one("MatMul", (4,), rand(3, 1), "x", free=False),
    one("Gemm", (5,), "x", rand(5, 3), rand(3)),
    one("Gemm", (5,), "x", rand(3, 5), rand(1, 3), transB=1, alpha=0.5, beta=-2.0),
    one("Gemm", (5,), "x", rand(5, 3), rand(1)),
    one("Gemm", (5,), "x", rand(5, 3)),
    one("Gemm", (5,), "x", rand(1, 3), rand(3), transA=1, free=False),
    one("Gemm", (3,), rand(2, 1), "x", free=False),
    chain("Gemm", (4,), N("Gemm", "x", rand(4, 3)), N("Gemm", "x", rand(4, 3), "0.0", beta=0.5)),
    one("BatchNormalization", IMAGE, "x", rand(2), rand(2), rand(2), rand(2) ** 2),
    one("BatchNormalization", (3,), "x", rand(3), rand(3), rand(3), rand(3) ** 2, epsilon=0.1, opset=9),
    chain("BatchNormalization", IMAGE, N("Conv", "x", KERNEL), N("BatchNormalization", "0.0", *(rand(4) ** 2,) * 4)),
    # functions of one number
    one("LeakyRelu", (5,)),
    one("LeakyRelu", (5,), alpha=0.3),
    one("HardSigmoid", (5,)),
    one("HardSigmoid", (5,), alpha=0.7, beta=0.1),
    one("PRelu", (5,), "x", np.array([0.2])),
    one("PRelu", (5,), "x", rand(5)),
    one("PRelu", IMAGE, "x", rand(2, 1, 1)),
    one("PRelu", IMAGE, "x", rand(1, 2, 1, 1), opset=9),
    one("Clip", (5,), opset=9, min=-0.5, max=0.75),
    one("Clip", (5,), opset=9, max=0.75),
    one("Clip", (5,), opset=9),
    one("Clip", (5,), "x", np.array(-0.5), np.array(0.75), opset=11),
    one("Clip", (5,), "x", None, np.array(0.75)),
    one("Clip", (5,), "x", np.array(0.0)),
    one("Clip", (5,), "x"),
    one("Cast", (5,), to=TensorProto.DOUBLE),
    one("Dropout", (5,)),
    one("Dropout", (5,), opset=10, ratio=0.3),
    one("Dropout", (5,), "x", np.array(0.5), np.array(False)),
    *(
        chain(op, (5,), N(op, *operands), N("Cast", "0.0", to=TensorProto.DOUBLE))
        for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        for operands in [("x", np.array(0.5)), (np.arange(5.0) / 2 - 1, "x")]
    ),
    chain("Where", (5,), N("Greater", "x", np.array(0.5)), N("Where", "0.0", rand(5), np.array(-2.0))),
    # moving numbers
    one("Flatten", IMAGE),
    one("Flatten", IMAGE, axis=-3),
    one("Flatten", (1, 1, 6), axis=3),
    one("Flatten", IMAGE, axis=0, free=False),
    one("Reshape", IMAGE, "x", ints(0, -1)),
    one("Reshape", IMAGE, "x", ints(-1, 14, 6)),
    one("Reshape", IMAGE, "x", ints(1, -1), free=False),
    one("Reshape", IMAGE, "x", ints(7, 12), free=False),
    one("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    one("Transpose", (3, 4), perm=[2, 0, 1], free=False),
    one("Squeeze", (3, 1, 2, 1), "x", ints(2, -1)),
    one("Squeeze", (3, 1, 2, 1), opset=11, axes=[2]),
    one("Squeeze", (3, 1), "x", ints(0), free=False),
    one("Unsqueeze", (3, 2), "x", ints(1, -1)),
    one("Unsqueeze", (3, 2), opset=11, axes=[2]),
    one("Unsqueeze", (3, 2), "x", ints(0), free=False),
    one("Slice", IMAGE, "x", ints(1, -1), ints(5, -8), ints(2, 3), ints(1, -2)),
    one("Slice", IMAGE, "x", ints(0, 1), ints(9, 2), ints(-1, 1)),
    one("Slice", IMAGE, opset=9, starts=[1, 2], ends=[4, 100], axes=[2, 3]),
    chain("Split", (5, 2), N("Split", "x", ints(2, 3), outputs=2, axis=1), N("Concat", "0.1", "0.0", axis=1)),
    chain("Split", (5, 4), N("Split", outputs=2, axis=-1), N("Sub", "0.0", "0.1")),
    chain("Split", (4, 2), N("Split", outputs=2, axis=1)),
    chain("Split", (5,), N("Split", outputs=2, axis=1, split=[1, 4]), N("Add", "0.0", "0.1"), opset=11),
    chain("Split", (5,), N("Split", outputs=2, axis=1, num_outputs=2), N("Concat", "0.1", "0.0", axis=1), opset=18),
    one("Gather", (5, 3), "x", ints(3, 0, -1, 3), axis=1),
    one("Gather", (5, 3), "x", np.array(2), axis=2),
    one("Gather", (5, 3), "x", np.array([[0, 1], [2, 0]]), axis=-1),
    one("Gather", (5, 3), "x", np.array(0), free=False),
    one("Expand", (3, 1), "x", ints(1, 1, 4)),
    one("Expand", (3, 1), "x", ints(2, 1, 3, 4), free=False),
    one("Pad", (3, 4), "x", ints(0, 1, 2, 0, 0, 1)),
    one("Pad", (3, 4), "x", ints(0, 1, -1, 0, -1, 2), np.array(0.5)),
    one("Pad", (3, 4), "x", ints(0, 1, 2, 0, 2, 1), mode="reflect"),
    one("Pad", (3, 4), "x", ints(0, 1, 2, 0, 2, 1), mode="edge"),
    one("Pad", (3, 4), "x", ints(2, 1), None, ints(-1), opset=18),
    one("Pad", (3, 4), opset=10, pads=[0, 1, 2, 0, 0, 1], value=0.25),
    one("Concat", (3, 4), "x", "x", axis=2),
    chain("Concat", (3, 4), N("Relu"), N("Concat", "x", "0.0", "x", axis=-2)),
    one("Concat", (3, 4), rand(1, 2, 4), "x", rand(1, 1, 4), axis=1, free=False),
    one("Concat", (3, 4), "x", rand(2, 3, 4), "x", axis=0, free=False),
    chain("Concat", (3,), N("Unsqueeze", "x", ints(1)), N("Concat", "0.0", "0.0", axis=1)),
    chain(
        "Concat",
        (3,),
        N("Shape"),
        N("ConstantOfShape", "0.0", value=numpy_helper.from_array(np.array([0.5]))),
        N("Concat", "1.0", "x", axis=1),
    ),
    # what exporters write for x.view(x.size(0), -1)
    chain(
        "Shape",
        IMAGE,
        N("Shape"),
        N("Gather", "0.0", np.array(0)),
        N("Unsqueeze", "1.0", ints(0)),
        N("Constant", value=numpy_helper.from_array(ints(-1))),
        N("Concat", "2.0", "3.0", axis=0),
        N("Reshape", "x", "4.0"),
    ),
    # reductions
    *(one(op, IMAGE, opset=12, axes=[1, -1]) for op in REDUCTIONS),
    *(one(op, IMAGE, opset=12, axes=[2], keepdims=0) for op in REDUCTIONS),
    *(one(op, IMAGE, "x", ints(3, 1), opset=18, keepdims=0) for op in REDUCTIONS),
    *(one(op, IMAGE, opset=18, noop_with_empty_axes=1) for op in REDUCTIONS),
    *(one(op, IMAGE, opset=13, free=False) for op in ("ReduceMax", "ReduceMean")),
    *(one(op, shape) for op in ("GlobalAveragePool", "GlobalMaxPool") for shape in (IMAGE, (2, 6))),
    # windows
    one("Conv", IMAGE, "x", KERNEL),
    one("Conv", IMAGE, "x", KERNEL, rand(4), strides=[2, 1], pads=[0, 1, 2, 0], dilations=[1, 2]),
    one("Conv", IMAGE, "x", rand(4, 1, 3, 2), rand(4), group=2),
    *(
        one("Conv", IMAGE, "x", KERNEL, auto_pad=auto, strides=[2, 3])
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    ),
    one("Conv", (3, 9), "x", rand(2, 3, 4), rand(2), strides=[2], pads=[1, 2]),
    *(one("MaxPool", IMAGE, kernel_shape=[3, 2], **geometry) for geometry in POOLING),
    one("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3], strides=[2, 2], ceil_mode=1),
    one("MaxPool", (2, 9), kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1),
    *(one("AveragePool", IMAGE, kernel_shape=[3, 2], **geometry) for geometry in POOLING),
    *(one("AveragePool", IMAGE, kernel_shape=[3, 2], count_include_pad=1, **geometry) for geometry in POOLING[:-1]),
    one("AveragePool", (2, 9), kernel_shape=[3], strides=[2], pads=[1, 1]),
    one("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 4], ceil_mode=1, count_include_pad=1),
]


def agree(model, net, points, single, tolerance):
    """The network's values equal onnxruntime's; a model without a free batch axis is run point by point."""
    run = runtime(model)
    expected = np.stack([run(x) for x in points]) if single else run(points)
    assert net.output_shape in (expected.shape[1:], expected.shape[2:] if single else None)
    expected = expected.reshape(len(points), -1)
    found = net(points.reshape(len(points), -1))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, abs(expected).max()))


def kernels(case):
    """The dtype in which onnxruntime has the operators, and the accuracy to ask for."""
    single = any(case.opset <= FLOAT32_ONLY.get(node.op, 0) for node in case.nodes)
    return (np.float32, 1e-5) if single else (np.float64, 1e-12)


@pytest.mark.parametrize(
    ("case", "batch"),
    [
        pytest.param(case, batch, id=f"{case.op}-{batch}")
        for case in CASES
        for batch in (["batch", 1] if case.free else [1])
    ],
)
def test_operator(case, batch):
    dtype, tolerance = kernels(case)
    model = build(case.nodes, [batch, *case.shape], case.opset, dtype)
    net = from_onnx(model)
    assert net.input_shape == case.shape
    points = np.random.default_rng(1).normal(size=(3, *[1] * (batch == 1), *case.shape)).astype(dtype)
    points[0] = 0.0  # where steps jump
    agree(model, net, points, batch == 1, tolerance)


def test_every_operator_of_the_table_is_tested():
    assert {case.op for case in CASES} == set(OPERATORS)


def kinds(net):
    return [type(layer).__name__ for layer in net.layers]


@pytest.mark.parametrize(
    ("nodes", "shape", "expected"),
    [
        ([N("Conv", "x", KERNEL), N("BatchNormalization", "0.0", *(rand(4) ** 2,) * 4)], IMAGE, ["Conv2d"]),
        ([N("MatMul", "x", rand(5, 3)), N("Add", "0.0", rand(3)), N("Relu", "1.0")], (5,), ["Affine", "ReLU"]),
        ([N("Max", "x", np.zeros(1))], (5,), ["ReLU"]),
        ([N("Clip", "x", np.array(0.0))], (5,), ["ReLU"]),
        ([N("Min", "x", np.array(6.0)), N("Relu", "0.0")], (5,), ["Scale", "Clip", "Scale", "ReLU"]),
        ([N("PRelu", "x", np.array([0.5]))], (5,), ["LeakyReLU"]),
        (
            [N("Unsqueeze", "x", ints(1)), N("Squeeze", "0.0", ints(1)), N("Abs", "1.0")],
            (5,),
            ["Reshape"] * 2 + ["Abs"],
        ),
        ([N("Transpose", "x", perm=[0, 2, 1]), N("Abs", "0.0")], (1, 5), ["Reshape", "Abs"]),
        ([N("ReduceMax", "x", axes=[1], keepdims=0)], (4, 3), ["Affine", "Maxout"]),
        ([N("MaxPool", "x", kernel_shape=[2, 2])], IMAGE, ["MaxPool2d"]),
    ],
)
def test_the_layers_are_the_plain_ones(nodes, shape, expected):
    assert kinds(from_onnx(build(nodes, ["batch", *shape]))) == expected


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        ([5], [N("MatMul", "x", rand(5, 3)), N("Relu", "0.0")]),
        ([1], [N("MatMul", "x", rand(1, 1)), N("Add", "0.0", rand(1))]),
        ([5, 1], [N("MatMul", rand(3, 5), "x"), N("Add", "0.0", rand(3, 1))]),
        ([5, 2], [N("Gemm", "x", rand(5, 3), transA=1)]),
        ([3, 4], [N("Transpose", "x", perm=[1, 0]), N("Softplus", "0.0")]),
        ([2, 6, 7], [N("Unsqueeze", "x", ints(0)), N("Conv", "0.0", KERNEL), N("Flatten", "1.0")]),
        ([], [N("Mul", "x", rand(3)), N("Relu", "0.0")]),
    ],
    ids=lambda value: str(value) if not value or isinstance(value[0], int) else "",
)
def test_an_input_without_a_batch_axis_is_one_point(shape, nodes):
    model = build(nodes, shape, dtype=np.float32)
    net = from_onnx(model)
    assert net.input_shape == tuple(shape)
    agree(model, net, np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32), True, 1e-5)


def dense(name="", **options):
    """Two inputs, a hidden unit, two outputs."""
    nodes = [N("Gemm", "x", rand(2, 1), rand(1)), N("Relu", "0.0"), N("Gemm", "1.0", rand(1, 2), rand(2))]
    return build(nodes, ["batch", 2], name=name, **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("", ["0.0", "1.0", "2.0"]), ("fc", ["fc", "fc.1", "fc.3"]), ("input", ["input.1", "input.3", "input.5"])],
)
def test_layers_bear_the_names_of_the_nodes(name, expected):
    names = [node.name for node in from_onnx(dense(name)).nodes]
    assert len(set(names)) == 3
    if not name:
        assert names == expected
    assert all(found.startswith(name) for found in names)


def test_a_node_of_several_layers_gives_its_name_to_the_last():
    net = from_onnx(build([N("MaxPool", "x", kernel_shape=[2])], [1, 2, 6], name="pool"))
    assert [node.name for node in net.nodes] == ["pool.1", "pool.2", "pool"]


@pytest.mark.parametrize("source", ["path", "str", "gz", "model"])
def test_sources(tmp_path, source):
    model = dense()
    path = tmp_path / ("net.onnx.gz" if source == "gz" else "net.onnx")
    data = model.SerializeToString()
    path.write_bytes(gzip.compress(data) if source == "gz" else data)
    net = from_onnx({"model": model, "str": str(path)}.get(source, path))
    agree(model, net, rand(3, 2), False, 1e-12)


def test_initialisers_may_be_inputs_too():
    model = dense()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    agree(model, from_onnx(model), rand(3, 2), False, 1e-12)


def test_softmax_can_be_cut_off_as_the_message_says():
    model = build([N("Gemm", "x", rand(2, 3)), N("Softmax", "0.0")], ["batch", 2])
    with pytest.raises(UnsupportedLayer, match=r"Softmax .*cut it off.*output\[0\].name = '0.0'"):
        from_onnx(model)
    model.graph.output[0].name = "0.0"
    agree(model, from_onnx(model), rand(3, 2), False, 1e-12)


def test_a_file_cut_short_anywhere(tmp_path):
    data = dense().SerializeToString()
    for length in range(len(data)):
        (tmp_path / "net.onnx").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"is not an ONNX file|holds no network|opset not stated"):
            from_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.onnx", b""),
        ("text.onnx", b"this is not a network\n"),
        ("half.onnx.gz", gzip.compress(dense().SerializeToString())[:150]),
        ("plain.onnx.gz", dense().SerializeToString()),
    ],
)
def test_files_that_are_no_networks(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"is not an ONNX file|holds no network"):
        from_onnx(tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    ("nodes", "shape", "message"),
    [
        ([N("MatMul", "x", rand(4, 3))], [1, 5], r"'0.0' \(MatMul\): shapes \(1, 5\) and \(4, 3\)"),
        ([N("Add", "x", rand(4))], [1, 5], r"'0.0' \(Add\): shape mismatch"),
        ([N("Reshape", "x", ints(7))], [1, 5], r"'0.0' \(Reshape\): its value cannot be computed"),
        ([N("Div", "x", np.array([1.0, 0.0]))], [1, 2], r"\(Div\): it divides by zero: 1 of 2"),
        ([N("Gemm", "x", np.full((2, 1), np.nan))], [1, 2], r"'0.0' \(Affine\): 2 entries of weight are not finite"),
        ([N("Relu", "nowhere")], [1, 2], "'0.0' .*nothing before it makes its input 'nowhere'"),
        ([N("Identity", rand(3))], [1, 2], "output '0.0' does not depend on the input 'x'"),
        ([N("Relu")], ["batch", "n"], r"input 'x' has shape \['batch', 'n'\]"),
        ([N("Relu")], ["n"], r"input 'x' has shape \['n'\]"),
        ([N("Relu")], None, "input 'x' has no shape"),
        ([N("Conv", "x", KERNEL)], [3, 2, 6, 7], r"its input has shape \(3, 2, 6, 7\), but must be a batch of one"),
        # what mixes the points of a batch
        ([N("Reshape", "x", ints(1, -1))], ["batch", 5], "mixes the points"),
        ([N("Transpose", "x", perm=[1, 0])], ["batch", 5], "mixes the points"),
        ([N("Transpose", "x", perm=[1, 0])], ["batch", 2], "mixes the points"),
        ([N("Reshape", "x", ints(2, -1))], ["batch", 6], "mixes the points"),
        ([N("Gather", "x", np.array(0))], ["batch", 5], "mixes the points"),
        ([N("ReduceSum", "x", ints(0))], ["batch", 5], "mixes the points"),
        ([N("ReduceSum", "x", ints(1), keepdims=0), N("Gather", "0.0", np.array(0))], ["batch", 5], "mixes the points"),
        ([N("Concat", "x", "x", axis=0)], ["batch", 5], "mixes the points"),
        ([N("Add", "x", rand(3, 1, 5))], ["batch", 5], "mixes the points"),
        ([N("Add", "x", rand(2, 5))], ["batch", 5], "mixes the points"),
        ([N("MatMul", rand(3, 2), "x")], ["batch", 5], "mixes the points"),
        ([N("Reshape", "x", ints(1, 2, -1)), N("Squeeze", "0.0", ints(0))], ["batch", 6], "mixes the points"),
        ([N("Add", "x", np.ones((2, 5)))], ["batch", 5], "shape mismatch"),
        (
            [N("Shape"), N("Slice", "0.0", ints(0), ints(1)), N("Cast", "1.0", to=11), N("Mul", "x", "2.0")],
            ["batch", 5],
            "depend on how many points are in a batch",
        ),
        ([N("Flatten", "x", axis=0)], ["batch", 5], "mixes the points"),
        ([N("Pad", "x", ints(1, 0, 0, 0))], ["batch", 5], "mixes the points"),
    ],
)
def test_bad_models(nodes, shape, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_onnx(build(nodes, shape))
    assert "Network:" in str(caught.value) or str(caught.value).startswith("from_onnx: ")


@pytest.mark.parametrize(
    ("nodes", "shape", "message"),
    [
        ([N("Erf")], [1, 5], r"Erf \(node '0.0'\) is not supported. Supported are Abs, Add, .*Where"),
        ([N("RandomNormal", np.zeros(1), shape=[1, 5]), N("Add", "x", "0.0")], [1, 5], "RandomNormal"),
        ([N("Mul", "x", "x")], [1, 5], "'0.0': Mul with an input 1 .'x'. that depends"),
        ([N("Div", rand(5), "x")], [1, 5], "Div with an input 1"),
        ([N("MatMul", "x", "x")], [1, 5, 5], "MatMul of two inputs"),
        ([N("MatMul", "x", rand(2, 5, 3))], [1, 2, 5], r"MatMul by a constant of shape \(2, 5, 3\)"),
        ([N("Cast", "x", to=TensorProto.INT64)], [1, 5], "Cast to INT64"),
        ([N("Dropout", "x", np.array(0.5), np.array(True))], [1, 5], "Dropout in training mode"),
        ([N("Conv", "x", rand(1, 1, 2, 2, 2))], [1, 1, 3, 3, 3], "Conv in 3 dimensions"),
        ([N("AveragePool", kernel_shape=[2], dilations=[2])], [1, 1, 5], "AveragePool with dilation"),
        (
            [N("AveragePool", kernel_shape=[2], strides=[2], pads=[1, 1], count_include_pad=1, ceil_mode=1)],
            [1, 1, 5],
            "AveragePool with ceil_mode",
        ),
    ],
)
def test_unsupported(nodes, shape, message):
    with pytest.raises(UnsupportedLayer, match=message):
        from_onnx(build(nodes, shape))


@pytest.mark.parametrize("operand", ["x", rand(5)], ids=["variable", "constant"])
def test_operators_of_another_domain_are_unknown(operand):
    model = build([N("Relu", operand), N("Add", "x", "0.0")], [1, 5])
    model.graph.node[0].domain = "ai.onnx"
    agree(model, from_onnx(model), rand(3, 1, 5), True, 1e-12)
    model.graph.node[0].domain = "com.example"
    with pytest.raises(UnsupportedLayer, match=r"com\.example\.Relu"):
        from_onnx(model)


@pytest.mark.parametrize("end", [float(np.finfo(np.float32).max), np.inf])
def test_the_largest_float32_is_no_bound(end):
    (layer,) = from_onnx(build([N("Clip", min=-end, max=end)], [1, 5], opset=9)).layers
    assert (layer.lower, layer.upper) == (-np.inf, np.inf)


def test_two_inputs_two_outputs_old_opset_and_integers():
    model = dense()
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, [1]))
    with pytest.raises(ValueError, match="one input, but has 2: 'x', 'z'"):
        from_onnx(model)
    model = dense()
    model.graph.output.append(helper.make_tensor_value_info("0.0", TensorProto.DOUBLE, None))
    with pytest.raises(ValueError, match=r"one output, but has 2: '2\.0', '0\.0'"):
        from_onnx(model)
    with pytest.raises(ValueError, match="opset 6, but must have 7 or later"):
        from_onnx(dense(opset=6))
    with pytest.raises(ValueError, match="input 'x' has type INT64"):
        from_onnx(dense(kind=TensorProto.INT64))


FILES = sorted(DATA.glob("**/*.onnx")) or [None]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path and path.stem)
def test_networks_of_the_shared_data(path):
    if path is None:
        pytest.skip(f"the shared data are absent: no *.onnx under {DATA}")
    net, graph = from_onnx(path), onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    (x,) = (x for x in graph.input if x.name not in stored)
    shape = [axis.dim_value for axis in x.type.tensor_type.shape.dim]
    free = shape[0] == 0
    points = np.random.default_rng(0).uniform(-1, 1, size=(3, *shape[free:])).astype(np.float32)
    agree(str(path), net, points, not free, 1e-5)
