"""Reading a network from an ONNX file."""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polyopt.convert.onnx_graph import FLOATS, INPUT_SOURCE, Call, Graph, Tensor, Value
from polyopt.convert.onnx_ops import OPERATORS
from polyopt.layers import Reshape, Shape
from polyopt.network import INPUT, Network, UnsupportedLayer

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

OLDEST_OPSET = 7  # before it, arithmetic broadcast by other rules
STANDARD = ("", "ai.onnx")  # the two names of ONNX's own operators
BATCHES = (2, 3)  # sizes taken for a free batch axis: a number in the file may happen to be one of them, but not both
RANDOM = ("Random", "Bernoulli", "Multinomial")


def from_onnx(source: str | os.PathLike | ModelProto) -> Network:
    """The network in an ONNX file (``.onnx``, or gzipped ``.onnx.gz``) or model, with constant scaling folded in.

    Evaluation is in float64 of the numbers that the file stores. A first axis of the input that is free or 1 is the
    batch axis and does not appear in the network's shapes; a file without one is read as a function of one point.
    Operators on constants alone are evaluated, nodes that do not reach the output are left out, and layers bear the
    names of the ONNX nodes (or of their first outputs). The network's outputs are the graph's, in row-major order.
    ``source`` stays with it, as ``net.source``: `polyopt.verify` replays counterexamples through the file or model.

    Raises ValueError for what is not a valid network, `UnsupportedLayer` for operators outside
    `polyopt.convert.onnx_ops.OPERATORS`.

    >>> from onnx import helper, numpy_helper, TensorProto
    >>> graph = helper.make_graph(
    ...     [helper.make_node("MatMul", ["x", "W"], ["a"]), helper.make_node("Relu", ["a"], ["y"])], "net",
    ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
    ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
    ...     [numpy_helper.from_array(np.array([[1], [-2]], dtype=np.float32), "W")])
    >>> net = from_onnx(helper.make_model(graph))
    >>> net
    Network (2,) -> (1,)
      a: Affine (1,)
      y: ReLU (1,)
    >>> net(np.array([[5.0, 1.0]]))
    array([[3.]])
    """
    net = _read(load(source))
    net.source = source
    return net


def _read(model: ModelProto) -> Network:
    opset, x, output = check(model)
    shape, free_batch = input_shape(x)
    if not free_batch:
        return trace(model.graph, opset, x.name, shape, None, output)
    one, other = (trace(model.graph, opset, x.name, (n, *shape[1:]), n, output) for n in BATCHES)
    if not alike(one, other):
        raise ValueError(
            "from_onnx: the outputs depend on how many points are in a batch; fix the input's batch axis to 1"
        )
    return one


def trace(graph: GraphProto, opset: int, x: str, shape: Shape, batch: int | None, output: str) -> Network:
    """The network from x, of this ONNX shape, to the output."""
    read = Graph(batch)
    values: dict[str, Value] = {x: Tensor(INPUT_SOURCE, shape), **constants(graph)}
    for node in needed(graph.node, output):
        values.update(results(read, node, opset, values))
    result = values.get(output)
    if not isinstance(result, Tensor):
        raise ValueError(f"from_onnx: the output {output!r} does not depend on the input {x!r}")
    if result.source == INPUT_SOURCE:
        result = read.add(Reshape(read.point(shape)), result)
    names = layer_names([owner for owner, _, _ in read.layers])
    layers = [
        (name, layer, [INPUT if source == INPUT_SOURCE else names[source] for source in sources])
        for name, (_, layer, sources) in zip(names, read.layers, strict=True)
    ]
    return Network(layers, read.point(shape), names[result.source]).fold_scaling()


def alike(one: Network, other: Network) -> bool:
    """Whether all layers of two networks have the same values at some point."""
    point = np.random.default_rng(0).normal(size=(1, one.input_size))
    values, others = one.values(point), other.values(point)
    return values.keys() == others.keys() and all(np.array_equal(values[name], others[name]) for name in values)


def load(source: str | os.PathLike | ModelProto) -> ModelProto:
    """The model in a file; ValueError where it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(source, onnx.ModelProto):
        return source
    path = Path(source)
    try:
        if path.suffix == ".gz":
            return onnx.load_model_from_string(gzip.decompress(path.read_bytes()))
        return onnx.load(path, format="protobuf")
    except (DecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"from_onnx: {path} is not an ONNX file, or it is cut short ({error})") from error


def check(model: ModelProto) -> tuple[int, ValueInfoProto, str]:
    """The opset, the only input and the name of the only output; ValueError where there is not one of each."""
    graph = model.graph
    if not graph.node:
        raise ValueError("from_onnx: the model has no nodes; the file is empty, not ONNX, or holds no network")
    opset = next((entry.version for entry in model.opset_import if entry.domain in STANDARD), 0)
    if opset < OLDEST_OPSET:
        raise ValueError(
            f"from_onnx: the model has opset {opset or 'not stated'}, but must have {OLDEST_OPSET} or later; "
            "convert it with onnx.version_converter.convert_version(model, 17)"
        )
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [x for x in graph.input if x.name not in stored]
    for kind, found in (("input", inputs), ("output", graph.output)):
        if len(found) != 1:
            names = ", ".join(repr(value.name) for value in found) or "none"
            raise ValueError(
                f"from_onnx: the model must have one {kind}, but has {len(found)}: {names}; "
                "onnx.utils.extract_model cuts a part out of a model"
            )
    return opset, inputs[0], graph.output[0].name


def constants(graph: GraphProto) -> dict[str, np.ndarray]:
    """The stored arrays by name."""
    from onnx.numpy_helper import to_array

    return {tensor.name: to_array(tensor) for tensor in graph.initializer}


def input_shape(x: ValueInfoProto) -> tuple[Shape, bool]:
    """The input's ONNX shape, and whether its first axis is a free batch axis."""
    from onnx import TensorProto

    kind = TensorProto.DataType.Name(x.type.tensor_type.elem_type)
    if kind not in FLOATS:
        raise ValueError(f"from_onnx: input {x.name!r} has type {kind}, but must be of floating-point numbers")
    if not x.type.tensor_type.HasField("shape"):
        raise ValueError(f"from_onnx: input {x.name!r} has no shape; write it into the model")
    sizes = [axis.dim_value for axis in x.type.tensor_type.shape.dim]
    free_batch = len(sizes) > 1 and sizes[0] <= 0
    if any(size <= 0 for size in sizes[free_batch:]):
        axes = [axis.dim_param or axis.dim_value for axis in x.type.tensor_type.shape.dim]
        raise ValueError(
            f"from_onnx: input {x.name!r} has shape {axes}; only the first of two or more axes may be free, "
            "so write the sizes of the others into the model"
        )
    return tuple(sizes), free_batch


def needed(nodes: Sequence[NodeProto], output: str) -> list[NodeProto]:
    """The nodes that lead to the output, in order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def results(graph: Graph, node: NodeProto, opset: int, values: dict[str, Value]) -> dict[str, Value]:
    """The values of a node's outputs."""
    label = f"from_onnx: node {node.name or node.output[0]!r} ({node.op_type})"
    if missing := [name for name in node.input if name and name not in values]:
        raise ValueError(f"{label}: nothing before it makes its input {missing[0]!r}")
    call = Call(node, opset, [values.get(name) for name in node.input])
    graph.owner = call.name
    fixed = not any(isinstance(value, Tensor) for value in call.inputs)
    if node.domain not in STANDARD or not (fixed or node.op_type in OPERATORS) or node.op_type.startswith(RANDOM):
        raise unknown(node)
    try:
        found = call.evaluate(*call.inputs) if fixed else OPERATORS[node.op_type](graph, call)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    return dict(zip(node.output, found if isinstance(found, list) else [found], strict=False))


def unknown(node: NodeProto) -> UnsupportedLayer:
    """The error for an operator that is not in the table."""
    kind = ".".join(part for part in (node.domain, node.op_type) if part)
    advice = ""
    if node.op_type in ("Softmax", "LogSoftmax"):
        advice = (
            "If it is the last operator, cut it off: the logits before it have the same order. "
            f"model.graph.output[0].name = {node.input[0]!r} makes them the output. "
        )
    return UnsupportedLayer(
        f"from_onnx: operator {kind} (node {node.name or node.output[0]!r}) is not supported. {advice}"
        f"Supported are {', '.join(sorted(OPERATORS))}, and whatever depends on constants alone."
    )


def layer_names(owners: Iterable[str]) -> list[str]:
    """Unique names: a node's last layer has the node's name, the layers before it are numbered.

    >>> layer_names(["conv", "conv", "relu", "input"])
    ['conv.1', 'conv', 'relu', 'input.1']
    """
    names = {INPUT: None}  # a dict keeps the order
    for owner, group in itertools.groupby(owners):
        last = len(list(group))
        for k in range(1, last + 1):
            wanted = itertools.chain([owner] if k == last else [], (f"{owner}.{i}" for i in itertools.count(1)))
            names[next(name for name in wanted if name not in names)] = None
    return list(names)[1:]
