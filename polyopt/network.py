"""A trained network as a directed acyclic graph of layers, in float64 numpy.

The graph is immutable and checked when it is built: names, shapes, order, finite weights. What reads networks
(`from_torch`, `from_onnx`) produces one, what bounds and embeds networks consumes one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import scipy.sparse as sp

from polyopt.compose import compose, fold
from polyopt.layers import Layer, Linear, Shape, flat

INPUT = "input"  # the name by which layers refer to the network's input


class UnsupportedLayer(NotImplementedError):
    """A reader met an operation that it does not know; the message names it and what is known."""


@dataclass(frozen=True, eq=False)
class Node:
    """A layer in its place: its name, the names of its inputs, and all shapes (without the batch dimension)."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    shape: Shape

    @property
    def size(self) -> int:
        """The number of entries of the output."""
        return math.prod(self.shape)

    @property
    def input_size(self) -> int:
        """The number of entries of all inputs together."""
        return sum(map(math.prod, self.input_shapes))


class Network:
    """A small immutable DAG of layers; call it on an array (batch, n_in) to evaluate it in float64.

    ``layers`` holds (name, layer, names of inputs) in any order; "input" names the network's input. What does not
    reach ``output`` (by default the last entry) is left out. Raises ValueError for cycles, unknown or repeated names,
    shapes that do not fit, weights that are not finite, and empty networks, naming the layer.

    >>> from polyopt.layers import Affine
    >>> from polyopt.activations import ReLU
    >>> net = Network([("hidden", Affine([[1.0], [-1.0]], [0.0, 0.0]), ["input"]),
    ...                ("relu", ReLU(), ["hidden"]),
    ...                ("sum", Affine([[1.0, 1.0]], [0.0]), ["relu"])], input_shape=(1,))
    >>> net(np.array([[-2.0], [3.0]]))
    array([[2.],
           [3.]])
    """

    def __init__(
        self, layers: Iterable[tuple[str, Layer, Sequence[str]]], input_shape: Shape, output: str | None = None
    ):
        layers = list(layers)
        self.input_shape: Shape = tuple(int(n) for n in input_shape)
        if not layers:
            raise ValueError("Network: there are no layers; a network needs at least one")
        if math.prod(self.input_shape) < 1:
            raise ValueError(f"Network: input shape {self.input_shape} holds no numbers")
        last = layers[-1][0] if output is None else output
        self.nodes: tuple[Node, ...] = tuple(_place(layers, self.input_shape, last))
        self.source: Any = None  # the ONNX file or model that it was read from: `polyopt.from_onnx` says so

    @classmethod
    def sequential(cls, layers: Iterable[Layer], input_shape: Shape) -> Network:
        """A chain of layers, named "0", "1", ….

        >>> from polyopt.layers import Scale
        >>> Network.sequential([Scale(2.0)], (3,)).output_size
        3
        """
        layers = list(layers)
        inputs = [INPUT, *map(str, range(len(layers)))]
        return cls([(str(i), layer, [inputs[i]]) for i, layer in enumerate(layers)], input_shape)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in an order in which each comes after its inputs."""
        return tuple(node.layer for node in self.nodes)

    @cached_property
    def activations(self) -> tuple[Node, ...]:
        """The nonlinear layers' nodes, in order: the k-th belongs to ``bounds.pre[k]``."""
        return tuple(node for node in self.nodes if not isinstance(node.layer, Linear))

    @property
    def output_shape(self) -> Shape:
        """The shape of the output without the batch dimension."""
        return self.nodes[-1].shape

    @property
    def input_size(self) -> int:
        """The number of inputs."""
        return math.prod(self.input_shape)

    @property
    def output_size(self) -> int:
        """The number of outputs."""
        return math.prod(self.output_shape)

    def __call__(self, x) -> np.ndarray:
        """The outputs (batch, n_out) at inputs of shape (batch, n_in) or (batch, *input_shape)."""
        return flat(self.values(x)[self.nodes[-1].name])

    def values(self, x) -> dict[str, np.ndarray]:
        """Every node's value (batch, *shape) by name, the input's among them."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim < 2 or x.shape[1:] not in ((self.input_size,), self.input_shape):
            raise ValueError(
                f"Network: inputs have shape {x.shape}, but must be (batch, {self.input_size})"
                + ("; pass x[None] for a single point" if x.shape in ((self.input_size,), self.input_shape) else "")
            )
        values = {INPUT: x.reshape(len(x), *self.input_shape)}
        for node in self.nodes:
            y = node.layer(*(values[name] for name in node.inputs))
            values[node.name] = y if len(y) == len(x) else np.broadcast_to(y, (len(x), *node.shape))  # of a constant
        return values

    def simplify(self) -> Network:
        """The same function with consecutive affine layers merged wherever that needs no more weights."""
        return self._merge(compose)

    def fold_scaling(self) -> Network:
        """The same function with batch normalisation and constant scaling folded into neighbouring layers."""
        return self._merge(fold)

    def _merge(self, rule) -> Network:
        """Join consecutive linear layers by ``rule(first, second, input shape)`` wherever it returns a layer."""
        layers = {node.name: (node.layer, node.inputs) for node in self.nodes}
        shapes = {INPUT: self.input_shape} | {node.name: node.shape for node in self.nodes}
        users = {name: sum(name in inputs for _, inputs in layers.values()) for name in layers}
        for node in self.nodes:
            layer, inputs = layers[node.name]
            while len(inputs) == 1 and users.get(inputs[0]) == 1:
                first, before = layers[inputs[0]]
                if len(before) != 1 or (merged := rule(first, layer, shapes[before[0]])) is None:
                    break
                del layers[inputs[0]]
                layer, inputs = layers[node.name] = (merged, before)
        return Network([(name, *rest) for name, rest in layers.items()], self.input_shape, self.nodes[-1].name)

    def __deepcopy__(self, memo) -> Network:
        """Itself: nothing in it can change, and a cloned Pyomo block may share it."""
        return self

    def __repr__(self) -> str:
        steps = "\n".join(f"  {node.name}: {type(node.layer).__name__} {node.shape}" for node in self.nodes)
        return f"Network {self.input_shape} -> {self.output_shape}\n{steps}"


def _place(layers, input_shape: Shape, output: str) -> Iterable[Node]:
    """The nodes that lead to the output, inputs first."""
    graph = nx.DiGraph()
    graph.add_node(INPUT)
    by_name = {}
    for name, layer, inputs in layers:
        if name in by_name or name == INPUT:
            raise ValueError(f"Network: two layers are named {name!r}; names must differ and not be {INPUT!r}")
        if not isinstance(layer, Layer):
            raise ValueError(f"Network: layer {name!r} is a {type(layer).__name__}; give a layer of polyopt.layers")
        by_name[name] = (layer, tuple(inputs))
        graph.add_node(name)
        graph.add_edges_from((source, name) for source in inputs)
    if unknown := [name for name in graph if name not in by_name and name != INPUT]:
        user = next(graph.successors(unknown[0]))
        raise ValueError(f"Network: layer {user!r} takes input {unknown[0]!r}, which is no layer")
    if output not in by_name:
        raise ValueError(f"Network: the output {output!r} is no layer; there are {', '.join(map(repr, by_name))}")
    try:
        order = list(nx.lexicographical_topological_sort(graph, key={n: i for i, n in enumerate(graph)}.get))
    except nx.NetworkXUnfeasible:
        cycle = " -> ".join(source for source, _ in nx.find_cycle(graph))
        raise ValueError(f"Network: the layers form a cycle: {cycle}") from None
    needed = nx.ancestors(graph, output) | {output}
    shapes = {INPUT: input_shape}
    for name in order:
        if name == INPUT or name not in needed:
            continue
        layer, inputs = by_name[name]
        _check_finite(name, layer)
        given = tuple(shapes[source] for source in inputs)
        try:
            shapes[name] = tuple(layer.output_shape(*given))
        except ValueError as error:
            raise ValueError(f"Network: layer {name!r}: {error}") from None
        yield Node(name, layer, inputs, given, shapes[name])


def _check_finite(name: str, layer: Layer) -> None:
    for field in fields(layer):
        value = getattr(layer, field.name)
        value = value.data if sp.issparse(value) else value
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"Network: layer {name!r} ({type(layer).__name__}): {field.name} is nan")
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            bad = np.argwhere(~np.isfinite(value))
            raise ValueError(
                f"Network: layer {name!r} ({type(layer).__name__}): {len(bad)} entries of {field.name} are not finite, "
                f"the first is {value[tuple(bad[0])]} at {tuple(map(int, bad[0]))}; was the training stable?"
            )
