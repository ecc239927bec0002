"""Writing a network to an ONNX file: each layer kind is a small expression of ONNX operators."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from polyopt import activations, layers
from polyopt.network import INPUT, Network, Node, UnsupportedLayer

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR_VERSION = 17, 8  # of 2022: old enough for the runtimes in use


def to_onnx(net: Network, path: str | os.PathLike | None = None, dtype: str = "float32") -> ModelProto:
    """The network as an ONNX model, written to ``path`` where one is given; the batch axis is free.

    With ``dtype="float32"`` every weight is rounded to the nearest float32, and a runtime computes in float32: the
    written network is another one, which differs by about 1e-7 of the sizes of the numbers that it adds up, and what
    was proven about ``net`` need not hold for it. ``"float64"`` keeps every number, and `from_onnx` reads the same
    function back, but runtimes lack kernels for some operators (onnxruntime 1.31: Conv, AveragePool and Softplus).
    Sparse weights are written densely.

    >>> from polyopt.activations import LeakyReLU
    >>> from polyopt.convert.from_onnx import from_onnx
    >>> net = Network.sequential([layers.Affine([[0.1, 0.2]], [0.3]), LeakyReLU(0.1)], (2,))
    >>> model = to_onnx(net, dtype="float64")
    >>> [node.op_type for node in model.graph.node]
    ['Gemm', 'PRelu']
    >>> from_onnx(model)(np.array([[1.0, 1.0]])) == net(np.array([[1.0, 1.0]]))
    array([[ True]])
    """
    import onnx
    from onnx import helper

    if dtype not in ("float32", "float64"):
        raise ValueError(f"to_onnx: dtype is {dtype!r}, but must be 'float32' or 'float64'")
    writer = Writer(net, dtype)
    for node in net.nodes:
        rule = RULES.get(type(node.layer))
        if rule is None:
            raise UnsupportedLayer(f"to_onnx: layer {node.name!r} is a {type(node.layer).__name__}, which is not known")
        writer.write(rule(node, *node.inputs), node.name)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        writer.nodes,
        "network",
        [helper.make_tensor_value_info(INPUT, kind, ["batch", *net.input_shape])],
        [helper.make_tensor_value_info(net.nodes[-1].name, kind, ["batch", *net.output_shape])],
        writer.arrays,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="polyopt"
    )
    if path is not None:
        onnx.save(model, path)
    return model


class Op(NamedTuple):
    """An operator applied to the names of tensors, to arrays and to other operators."""

    kind: str
    inputs: tuple[Op | np.ndarray | str, ...]
    attributes: dict


def op(kind: str, *inputs: Op | np.ndarray | str, **attributes) -> Op:
    """An operator on its inputs."""
    return Op(kind, inputs, attributes)


class Writer:
    """The ONNX nodes and stored arrays written so far."""

    def __init__(self, net: Network, dtype: str):
        self.dtype = dtype
        self.nodes = []
        self.arrays = []
        self.names = {INPUT, *(node.name for node in net.nodes)}

    def write(self, expression: Op, name: str) -> str:
        """Write an operator under this name, and what it is applied to under names derived from it."""
        from onnx import helper

        inputs = [self.operand(operand, name) for operand in expression.inputs]
        self.nodes.append(helper.make_node(expression.kind, inputs, [name], name, **expression.attributes))
        return name

    def operand(self, value: Op | np.ndarray | str, owner: str) -> str:
        """The name of an operator's input, which is written where it is not a name already."""
        if isinstance(value, str):
            return value
        name = next(name for i in itertools.count(1) if (name := f"{owner}.{i}") not in self.names)
        self.names.add(name)
        return self.write(value, name) if isinstance(value, Op) else self.store(value, name, owner)

    def store(self, value: np.ndarray, name: str, owner: str) -> str:
        """Store an array; whole numbers (shapes, axes) stay whole."""
        from onnx import numpy_helper

        value = np.asarray(value)
        if value.dtype.kind == "f":
            with np.errstate(over="ignore"):
                value = value.astype(self.dtype)
            if not np.isfinite(value).all():
                raise ValueError(f"to_onnx: {owner!r} holds numbers beyond {self.dtype}; pass dtype='float64'")
        self.arrays.append(numpy_helper.from_array(value, name))
        return name


def affine(node: Node, x: str) -> Op:
    """Gemm on the flattened input."""
    flat = x if len(node.input_shapes[0]) == 1 else op("Flatten", x, axis=1)
    weight = node.layer.weight
    weight = weight.toarray() if sp.issparse(weight) else weight
    return op("Gemm", flat, weight, node.layer.bias, transB=1)


def conv(node: Node, x: str) -> Op:
    """Conv with the geometry spelt out."""
    layer = node.layer
    return op("Conv", x, layer.weight, layer.bias, group=layer.groups, dilations=layer.dilation, **window(layer))


def window(layer) -> dict:
    """The attributes that convolution and pooling share."""
    (top, bottom), (left, right) = layer.padding
    return {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": [top, left, bottom, right]}


def constant(node: Node) -> Op:
    """The value repeated for each point of the batch."""
    batch = op("Shape", INPUT, start=0, end=1)
    return op("Expand", node.layer.value[None], op("Concat", batch, np.array(node.shape, dtype=np.int64), axis=0))


def clip(node: Node, x: str) -> Op:
    """Clip, with infinite ends left out."""
    return op(
        "Clip", x, *(np.asarray(end) if math.isfinite(end) else "" for end in (node.layer.lower, node.layer.upper))
    )


def hard_sigmoid(node: Node, x: str) -> Op:
    """``min(max(alpha x + beta, 0), 1)`` spelt out, since ONNX's HardSigmoid has attributes in float32."""
    line = op("Add", op("Mul", x, np.asarray(node.layer.alpha)), np.asarray(node.layer.beta))
    return op("Clip", line, np.asarray(0.0), np.asarray(1.0))


def step(node: Node, x: str) -> Op:
    """``v [x >= 0] + (1 - v) [x > 0]`` with the value v at zero."""
    at_zero = node.layer.at_zero
    parts = [
        op("Where", op(kind, x, np.asarray(0.0)), np.asarray(height), np.asarray(0.0))
        for kind, height in (("GreaterOrEqual", at_zero), ("Greater", 1.0 - at_zero))
        if height
    ]
    return op("Add", *parts) if len(parts) == 2 else parts[0]


def softplus(node: Node, x: str) -> Op:
    """``softplus(beta x) / beta``."""
    beta = np.asarray(node.layer.beta)
    if beta == 1:
        return op("Softplus", x)
    return op("Div", op("Softplus", op("Mul", x, beta)), beta)


def maxout(node: Node, x: str) -> Op:
    """The maximum over the last axis of (batch, n, pieces)."""
    groups = np.array([-1, *node.shape, node.layer.pieces])
    return op("ReduceMax", op("Reshape", x, groups), axes=[2], keepdims=0)


RULES: dict[type, Callable[..., Op]] = {
    layers.Affine: affine,
    layers.Scale: lambda node, x: op("Add", op("Mul", x, node.layer.scale), node.layer.shift),
    layers.Conv2d: conv,
    layers.AvgPool2d: lambda node, x: op(
        "AveragePool", x, count_include_pad=int(node.layer.count_include_pad), **window(node.layer)
    ),
    layers.Reshape: lambda node, x: op("Reshape", x, np.array([-1, *node.shape])),
    layers.Add: lambda node, *xs: op("Sum", *xs),
    layers.Concat: lambda node, *xs: op("Concat", *xs, axis=node.layer.axis + 1),
    layers.Constant: constant,
    activations.ReLU: lambda node, x: op("Relu", x),
    # PRelu in place of LeakyRelu, whose slope is an attribute in float32
    activations.LeakyReLU: lambda node, x: op("PRelu", x, np.array([node.layer.slope])),
    activations.PReLU: lambda node, x: op("PRelu", x, node.layer.slope),
    activations.Clip: clip,
    activations.HardSigmoid: hard_sigmoid,
    activations.Abs: lambda node, x: op("Abs", x),
    activations.Sign: lambda node, x: op("Sign", x),
    activations.Step: step,
    activations.Sigmoid: lambda node, x: op("Sigmoid", x),
    activations.Tanh: lambda node, x: op("Tanh", x),
    activations.Softplus: softplus,
    activations.Max: lambda node, *xs: op("Max", *xs),
    activations.Maxout: maxout,
    activations.MaxPool2d: lambda node, x: op("MaxPool", x, dilations=node.layer.dilation, **window(node.layer)),
}
