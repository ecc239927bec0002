"""The ONNX operators that `from_onnx` reads: a table from the operator's name to the function that adds its layers.

A function is handed the graph read so far and one node, and returns the node's first output, or a list of all. It is
called only where an input depends on the network's input: nodes on constants alone are evaluated, whatever they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce

import numpy as np
import scipy.sparse as sp

from polyopt.activations import Abs, Clip, HardSigmoid, LeakyReLU, Max, PReLU, ReLU, Sigmoid, Sign, Softplus, Step, Tanh
from polyopt.convert.onnx_graph import FLOATS, Call, Graph, Tensor, Value
from polyopt.convert.onnx_windows import (
    average_pool,
    convolution,
    global_pool,
    group_maximum,
    max_pool,
    reduction,
    weighted_sum,
)
from polyopt.layers import Add, Concat, Layer, Scale

# Arithmetic. These work on values, so that one operator can be composed of others.


def scaled(graph: Graph, x: Tensor, scale=1.0, shift=0.0) -> Tensor:
    """``scale * x + shift``, all broadcast against each other."""
    shape = np.broadcast_shapes(x.shape, np.shape(scale), np.shape(shift))
    x = graph.expand(x, shape)
    scale, shift = graph.per_point(scale, shape), graph.per_point(shift, shape)
    return x if (scale == 1).all() and not shift.any() else graph.add(Scale(scale, shift), x)


def negative(graph: Graph, value: Value) -> Value:
    """``-x``."""
    return scaled(graph, value, -1.0) if isinstance(value, Tensor) else -value


def total(graph: Graph, *values: Value) -> Tensor:
    """The sum of tensors and constants."""
    x, constant = joined(graph, Add(), np.add, values)
    return x if constant is None else scaled(graph, x, shift=constant)


def difference(graph: Graph, a: Value, b: Value) -> Tensor:
    """``a - b``."""
    return total(graph, a, negative(graph, b))


def maximum(graph: Graph, *values: Value) -> Tensor:
    """The elementwise maximum of tensors and constants: ``max(x, c) = relu(x - c) + c``."""
    x, constant = joined(graph, Max(), np.maximum, values)
    if constant is None:
        return x
    if constant.size == 1 and constant.ndim <= len(x.shape):
        return bounded(graph, x, lower=constant.item())
    return scaled(graph, graph.add(ReLU(), scaled(graph, x, shift=-constant)), shift=constant)


def minimum(graph: Graph, *values: Value) -> Tensor:
    """The elementwise minimum: ``min(a, b) = -max(-a, -b)``."""
    return negative(graph, maximum(graph, *(negative(graph, value) for value in values)))


def joined(graph: Graph, layer: Layer, operation, values: Iterable[Value]) -> tuple[Tensor, np.ndarray | None]:
    """All tensors joined by a layer, and all constants joined by the same operation in numpy."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    constants = [np.asarray(value, dtype=np.float64) for value in values if not isinstance(value, Tensor)]
    x = graph.add(layer, *graph.align(*tensors)) if len(tensors) > 1 else tensors[0]
    return x, reduce(operation, constants) if constants else None


def bounded(graph: Graph, x: Tensor, lower: float = -math.inf, upper: float = math.inf) -> Tensor:
    """``min(max(x, lower), upper)``; the largest float32 stands for infinity in older files."""
    largest = float(np.finfo(np.float32).max)
    lower, upper = -math.inf if lower <= -largest else lower, math.inf if upper >= largest else upper
    return graph.add(ReLU() if (lower, upper) == (0.0, math.inf) else Clip(lower, upper), x)


def product(graph: Graph, call: Call) -> Tensor:
    """Mul, where one factor is a constant."""
    left = call.inputs[0]
    if isinstance(left, Tensor):
        return scaled(graph, left, call.constant(1))
    return scaled(graph, call.tensor(1), left)


def quotient(graph: Graph, call: Call) -> Tensor:
    """Div by a constant."""
    divisor = np.asarray(call.constant(1), dtype=np.float64)
    if not divisor.all():
        raise ValueError(f"it divides by zero: {np.count_nonzero(divisor == 0)} of {divisor.size} divisors are 0")
    return scaled(graph, call.tensor(0), 1.0 / divisor)


def compare(graph: Graph, call: Call, at_zero: float, swap: bool = False) -> Tensor:
    """``a > b`` (at_zero 0) or ``a >= b`` (at_zero 1), as 0 or 1: a step of ``a - b``. ``swap`` makes them < and <=."""
    a, b = reversed(call.inputs) if swap else call.inputs
    return graph.add(Step(at_zero), difference(graph, a, b))


def where(graph: Graph, call: Call) -> Tensor:
    """Where, as a choice between two constants: ``b + (a - b) [condition]``."""
    a, b = (np.asarray(call.constant(i), dtype=np.float64) for i in (1, 2))
    return scaled(graph, call.tensor(0), a - b, b)


def matmul(graph: Graph, call: Call, a: Value, b: Value) -> Tensor:
    """The product of a tensor and a constant matrix, on all axes of the tensor but the one that is summed over."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        raise call.unsupported("of two inputs that both depend on the network's input")
    left = isinstance(b, Tensor)  # the constant stands on the left
    x, weight = (b, a) if left else (a, b)
    if weight.ndim > 2 and weight.ndim <= len(x.shape) and set(weight.shape[:-2]) == {1}:
        weight = weight.reshape(weight.shape[-2:])
    vector = weight.ndim == 1
    if vector:
        weight = weight[None, :] if left else weight[:, None]
    if weight.ndim != 2:
        raise call.unsupported(f"by a constant of shape {weight.shape}")
    axis = len(x.shape) - (2 if left and len(x.shape) > 1 else 1)  # the axis summed over
    if graph.free_batch and axis == 0:
        raise graph.mixed("it sums over the batch axis")
    weight = np.asarray(weight if left else weight.T, dtype=np.float64)
    if x.shape[axis] != weight.shape[1]:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not multiply")
    shape = (*x.shape[:axis], *([] if vector else [len(weight)]), *x.shape[axis + 1 :])
    inner = math.prod(x.shape[axis + 1 :])
    outer = math.prod(graph.point(x.shape)) // (inner * weight.shape[1])
    return graph.affine(x, repeated(weight, outer, inner), np.zeros(outer * inner * len(weight)), shape)


def repeated(weight: np.ndarray, outer: int, inner: int) -> np.ndarray | sp.csr_array:
    """The matrix that acts on the middle axis of an array (outer, n, inner), once that is flattened."""
    if outer == inner == 1:
        return weight
    return sp.csr_array(sp.kron(sp.eye_array(outer), sp.kron(weight, sp.eye_array(inner))))


def gemm(graph: Graph, call: Call) -> Tensor:
    """``alpha A B + beta C`` with A or B transposed on request."""
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    a, b = (
        transposed(graph, value) if call.attributes.get(flag) else value
        for value, flag in zip(call.inputs, ("transA", "transB"), strict=False)
    )
    y = scaled(graph, matmul(graph, call, a, b), alpha)
    c = call.inputs[2] if len(call.inputs) > 2 else None
    if c is None:
        return y
    return total(graph, y, scaled(graph, c, beta) if isinstance(c, Tensor) else beta * np.asarray(c, dtype=np.float64))


def transposed(graph: Graph, value: Value) -> Value:
    """A matrix or a tensor of two axes, transposed."""
    return graph.move(value, np.transpose) if isinstance(value, Tensor) else value.T


def batch_normalization(graph: Graph, call: Call) -> Tensor:
    """``scale (x - mean) / sqrt(variance + epsilon) + shift`` with one of each for every channel."""
    if call.attributes.get("training_mode"):
        raise call.unsupported("in training mode")
    x = call.tensor(0)
    channels = (-1, *[1] * (len(x.shape) - 2))
    scale, shift, mean, variance = (
        np.asarray(call.constant(i), dtype=np.float64).reshape(channels) for i in (1, 2, 3, 4)
    )
    scale = scale / np.sqrt(variance + call.number("epsilon", 1e-5))
    return scaled(graph, x, scale, shift - scale * mean)


# Functions of one number


def elementwise(make: Callable[[Call], Layer]) -> Callable[[Graph, Call], Tensor]:
    """The rule of an operator that is one layer on one tensor."""
    return lambda graph, call: graph.add(make(call), call.tensor(0))


def clip(graph: Graph, call: Call) -> Tensor:
    """Clip; its ends are attributes up to opset 10."""
    lower, upper = (call.parameter(i, name, end) for i, name, end in ((1, "min", -math.inf), (2, "max", math.inf)))
    return bounded(graph, call.tensor(0), np.asarray(lower).item(), np.asarray(upper).item())


def prelu(graph: Graph, call: Call) -> Tensor:
    """PRelu; with one slope for all it is a leaky ReLU."""
    x, slope = call.tensor(0), call.constant(1)
    return graph.add(LeakyReLU(slope.item()) if slope.size == 1 else PReLU(graph.per_point(slope, x.shape)), x)


def cast(graph: Graph, call: Call) -> Tensor:
    """A cast to a floating-point type: evaluation is in float64 throughout."""
    from onnx import TensorProto

    kind = TensorProto.DataType.Name(call.attributes["to"])
    if kind not in FLOATS:
        raise call.unsupported(f"to {kind}")
    return call.tensor(0)


def dropout(graph: Graph, call: Call) -> Tensor:
    """Dropout does nothing outside training."""
    if np.any(call.constant(2, False)):
        raise call.unsupported("in training mode")
    return call.tensor(0)


# Moving numbers


def rearrange(graph: Graph, call: Call) -> list[Tensor]:
    """Every operator that only moves numbers: the operator itself, applied to indices, says where they go."""
    x = call.tensor(0)
    constants = [call.constant(i) for i in range(1, len(call.inputs))]
    return [
        graph.move(x, lambda indices, k=k: call.evaluate(indices, *constants)[k]) for k in range(len(call.node.output))
    ]


def pad(graph: Graph, call: Call) -> Tensor:
    """Pad; a negative width takes away, as ONNX has it."""
    x, mode = call.tensor(0), call.attributes.get("mode", "constant")
    rank = len(x.shape)
    given = np.asarray(call.parameter(1, "pads")).reshape(2, -1).T
    widths = np.zeros((rank, 2), dtype=int)
    widths[np.asarray(call.constant(3, np.arange(rank)))] = given
    grown = {"constant_values": -1} if mode == "constant" else {}
    kept = tuple(slice(max(-before, 0), min(after, 0) or None) for before, after in widths)
    value = np.asarray(call.parameter(2, "value", 0.0)).item()
    return graph.move(x, lambda i: np.pad(i, widths.clip(0), mode=mode, **grown)[kept], fill=value)


def concat(graph: Graph, call: Call) -> Tensor:
    """Concat of tensors and constants."""
    tensors = [value for value in call.inputs if isinstance(value, Tensor)]
    rank = len(tensors[0].shape)
    axis = call.attributes["axis"] % rank
    if graph.free_batch and axis == 0:
        raise graph.mixed("it joins along the batch axis")
    parts = [value if isinstance(value, Tensor) else graph.constant(value) for value in call.inputs]
    if axis and graph.point(parts[0].shape) != parts[0].shape:
        return graph.add(Concat(axis - 1), *parts)
    y = graph.add(Concat(axis), *(graph.view(x, (1, *x.shape)) for x in parts))
    return graph.view(y, y.shape[1:])


def shape_of(graph: Graph, call: Call) -> list[np.ndarray]:
    """Shape: a constant, since all axes but the batch axis are known."""
    return call.evaluate(np.broadcast_to(0.0, call.tensor(0).shape))


Rule = Callable[[Graph, Call], Value | list[Value]]
OPERATORS: dict[str, Rule] = {
    "Abs": elementwise(lambda call: Abs()),
    "Add": lambda graph, call: total(graph, *call.inputs),
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": convolution,
    "Div": quotient,
    "Dropout": dropout,
    "Expand": rearrange,
    "Flatten": rearrange,
    "Gather": rearrange,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool(partial(weighted_sum, mean=True)),
    "GlobalMaxPool": global_pool(group_maximum),
    "Greater": partial(compare, at_zero=0.0),
    "GreaterOrEqual": partial(compare, at_zero=1.0),
    "HardSigmoid": elementwise(lambda call: HardSigmoid(call.number("alpha", 0.2), call.number("beta", 0.5))),
    "Identity": lambda graph, call: call.tensor(0),
    "LeakyRelu": elementwise(lambda call: LeakyReLU(call.number("alpha", 0.01))),
    "Less": partial(compare, at_zero=0.0, swap=True),
    "LessOrEqual": partial(compare, at_zero=1.0, swap=True),
    "MatMul": lambda graph, call: matmul(graph, call, *call.inputs),
    "Max": lambda graph, call: maximum(graph, *call.inputs),
    "MaxPool": max_pool,
    "Min": lambda graph, call: minimum(graph, *call.inputs),
    "Mul": product,
    "Neg": lambda graph, call: negative(graph, call.tensor(0)),
    "PRelu": prelu,
    "Pad": pad,
    "ReduceMax": reduction(group_maximum),
    "ReduceMean": reduction(partial(weighted_sum, mean=True)),
    "ReduceSum": reduction(partial(weighted_sum, mean=False)),
    "Relu": elementwise(lambda call: ReLU()),
    "Reshape": rearrange,
    "Shape": shape_of,
    "Sigmoid": elementwise(lambda call: Sigmoid()),
    "Sign": elementwise(lambda call: Sign()),
    "Slice": rearrange,
    "Softplus": elementwise(lambda call: Softplus()),
    "Split": rearrange,
    "Squeeze": rearrange,
    "Sub": lambda graph, call: difference(graph, *call.inputs),
    "Sum": lambda graph, call: total(graph, *call.inputs),
    "Tanh": elementwise(lambda call: Tanh()),
    "Transpose": rearrange,
    "Unsqueeze": rearrange,
    "Where": where,
}
