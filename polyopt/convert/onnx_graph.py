"""What the ONNX reader has in hand while it reads: the layers made so far, tensors, and one node at a time.

**The batch axis.** A file's input either has a free (symbolic) first axis, or none. In a file with a free batch axis
every tensor that depends on the input keeps that axis first, and an operator under which the points of a batch do not
stay separate is refused; the reader takes a definite size for the axis, and compares what it reads with two of them.
In any other file the graph is a function of one point, all axes are as good as each other, and a leading axis of size
one is merely left out of the layers' shapes.

**Moving numbers.** Transposing, slicing, padding, gathering and their like do not look at the numbers they move, so
moving an array of indices tells what they do: row i of the matrix picks the entry whose index arrives at place i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from polyopt.layers import Affine, Constant, Layer, Reshape, Shape, selection
from polyopt.network import UnsupportedLayer

if TYPE_CHECKING:
    from onnx import NodeProto

INPUT_SOURCE = -1
FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")  # ONNX's names of floating-point types


@dataclass(frozen=True)
class Tensor:
    """The output of layer number ``source``, or the network's input; ``shape`` is ONNX's, batch axis included."""

    source: int
    shape: Shape


Value = Tensor | np.ndarray  # what depends on the input, and what does not


@dataclass(frozen=True)
class Call:
    """An ONNX node, and the values of its inputs (None where an optional one is left out)."""

    node: NodeProto
    opset: int
    inputs: list[Value | None]

    @property
    def name(self) -> str:
        """The node's name, else its first output's."""
        return self.node.name or self.node.output[0]

    @cached_property
    def attributes(self) -> dict:
        """The node's attributes by name."""
        from onnx.helper import get_attribute_value

        values = {attribute.name: get_attribute_value(attribute) for attribute in self.node.attribute}
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}

    def tensor(self, i: int) -> Tensor:
        """Input i, which has to depend on the network's input."""
        if not isinstance(self.inputs[i], Tensor):
            raise self.unsupported(f"with a constant as input {i} ({self.node.input[i]!r})")
        return self.inputs[i]

    def constant(self, i: int, default=None) -> np.ndarray:
        """Input i, which must not depend on the network's input; the default where it is left out."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if isinstance(value, Tensor):
            raise self.unsupported(f"with an input {i} ({self.node.input[i]!r}) that depends on the network's input")
        return default if value is None else value

    def parameter(self, i: int, name: str, default=None):
        """Input i, or in older opsets the attribute of this name."""
        return self.constant(i, self.attributes.get(name, default))

    def number(self, name: str, default: float) -> float:
        """An attribute that is one number; these are float32, and so are ONNX's defaults."""
        return float(np.float32(self.attributes.get(name, default)))

    def evaluate(self, *inputs: np.ndarray | None) -> list[np.ndarray]:
        """The node's outputs on these arrays, by ONNX's own definition."""
        from onnx import NodeProto, helper
        from onnx.reference import ReferenceEvaluator

        node = NodeProto()
        node.CopyFrom(self.node)
        node.domain = ""  # the evaluator knows the standard operators by this one of their two names
        names = [name for name in node.input if name]
        graph = helper.make_graph(
            [node],
            "node",
            [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names)],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        feed = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        try:
            return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feed)]
        except Exception as error:  # the evaluator lets through whatever numpy or its own code raises
            raise ValueError(f"its value cannot be computed: {error}") from error

    def unsupported(self, what: str) -> UnsupportedLayer:
        """The error for a use of a known operator that no layer expresses."""
        return UnsupportedLayer(f"from_onnx: node {self.name!r}: {self.node.op_type} {what} is not supported")


class Graph:
    """The layers made so far, each with the ONNX node it belongs to and the numbers of the layers it reads."""

    def __init__(self, batch: int | None):
        self.batch = batch  # the size taken for a free batch axis; None where the file has no such axis
        self.layers: list[tuple[str, Layer, tuple[int, ...]]] = []
        self.owner = ""  # the name of the node that is being read

    @property
    def free_batch(self) -> bool:
        """Whether the first axis of all tensors is a free batch axis."""
        return self.batch is not None

    def point(self, shape: Shape) -> Shape:
        """The shape of a layer's output, given the ONNX shape."""
        return shape[1:] if self.free_batch or (len(shape) > 1 and shape[0] == 1) else shape

    def full(self, point: Shape) -> Shape:
        """The ONNX shape of a batch of points of this shape."""
        return (self.batch if self.free_batch else 1, *point)

    def add(self, layer: Layer, *inputs: Tensor) -> Tensor:
        """A new layer on these tensors; the batch axis stays as it is."""
        points = [self.point(x.shape) for x in inputs]
        shape = layer.output_shape(*points)
        batched = not inputs or points[0] != inputs[0].shape
        self.layers.append((self.owner, layer, tuple(x.source for x in inputs)))
        return Tensor(len(self.layers) - 1, self.full(shape) if batched else shape)

    def view(self, x: Tensor, shape: Shape) -> Tensor:
        """The same numbers in the same order, in another ONNX shape."""
        if self.point(shape) != self.point(x.shape):
            x = self.add(Reshape(self.point(shape)), x)
        return Tensor(x.source, tuple(shape))

    def affine(self, x: Tensor, weight, bias, shape: Shape) -> Tensor:
        """``W x + b`` on the numbers of one point, in this ONNX shape."""
        flat = self.add(Affine(weight, bias), x)
        return self.view(Tensor(flat.source, self.full((len(bias),))), shape)

    def constant(self, value: np.ndarray) -> Tensor:
        """A constant as a layer, for operators that join it with other tensors."""
        return Tensor(self.add(Constant(self.per_point(value, value.shape))).source, value.shape)

    def indices(self, x: Tensor) -> np.ndarray:
        """The number of each entry of one point, in x's ONNX shape with a batch axis of one."""
        shape = (1, *x.shape[1:]) if self.free_batch else x.shape
        return np.arange(math.prod(shape)).reshape(shape)

    def pick(self, x: Tensor, order: np.ndarray, shape: Shape, fill: float = 0.0) -> Tensor:
        """Entries ``order`` of a point, ``fill`` where the order is negative, in this ONNX shape."""
        size = math.prod(self.point(x.shape))
        order = order.ravel()
        if np.array_equal(order, np.arange(size)):
            return self.view(x, shape)
        return self.affine(x, selection(order, size), np.where(order < 0, fill, 0.0), shape)

    def move(self, x: Tensor, operation: Callable[[np.ndarray], np.ndarray], fill: float = 0.0) -> Tensor:
        """What an operation makes of x that moves numbers and puts ``fill`` where it yields a negative index."""
        moved = operation(np.arange(math.prod(x.shape)).reshape(x.shape))
        if not self.free_batch:
            return self.pick(x, moved, moved.shape, fill)
        first = np.atleast_1d(moved)[:1]
        starts = np.arange(self.batch).reshape(-1, *[1] * (moved.ndim - 1)) * math.prod(x.shape[1:])
        if not np.array_equal(moved, np.where(first < 0, -1, first + starts)):
            raise self.mixed(f"it makes shape {moved.shape} of {x.shape}")
        return self.pick(x, first, moved.shape, fill)

    def expand(self, x: Tensor, shape: Shape) -> Tensor:
        """The tensor broadcast to an ONNX shape."""
        return x if x.shape == tuple(shape) else self.move(x, lambda indices: np.broadcast_to(indices, shape))

    def align(self, *tensors: Tensor) -> list[Tensor]:
        """The tensors broadcast to one shape."""
        shape = np.broadcast_shapes(*(x.shape for x in tensors))
        return [self.expand(x, shape) for x in tensors]

    def per_point(self, value: np.ndarray, shape: Shape) -> np.ndarray:
        """A constant that is broadcast to an ONNX shape, without the batch axis."""
        value = np.asarray(value, dtype=np.float64)
        if value.ndim < len(shape) or self.point(shape) == tuple(shape):
            return value
        if not np.array_equal(value, np.broadcast_to(value[:1], value.shape), equal_nan=True):
            raise self.mixed("its constant differs from point to point")
        return value[0]

    def mixed(self, how: str) -> ValueError:
        """The error for an operator under which the points of a batch do not stay separate."""
        return ValueError(
            f"it mixes the points of a batch: {how}, with {self.batch} for the free batch axis. If the model is meant "
            "for single points, fix that axis: model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1"
        )
