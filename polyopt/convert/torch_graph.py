"""The walk over an exported torch graph; it imports torch, so `polyopt.convert.from_torch` imports it only when called.

A value of the graph is either constant or a `Flow`, which depends on the network's input. Operations on constants are
evaluated; an operation on flows has a rule in `polyopt.convert.torch_ops`, which adds layers through the `Reader`.

Two mechanisms serve many operations at once, by applying the operation f itself:

- `Reader.moved`: f copies, drops, repeats and arranges numbers and fills in constants, ``f(x) = P x + f(0)`` with a
  selection P, which ``f((1, 2, 3, …)) - f(0)`` shows;
- `Reader.linear_map`: ``f(x) = W x + f(0)``, where column i of W is ``f(e_i) - f(0)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch.fx.node import map_aggregate, map_arg

from polyopt.layers import Affine, Concat, Constant, Layer, Reshape, Shape, selection
from polyopt.network import INPUT, Network, UnsupportedLayer

BATCH = 1009  # the batch size of the recorded graph; it marks the batch, so it is one that nothing else has
CHUNK = 2**22  # the numbers of a batch of unit vectors, 32 MiB


@dataclass(frozen=True)
class Flow:
    """A value that depends on the network's input: the layer that yields it, and its shape without the batch."""

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)


class Reader:
    """Visits the nodes of an exported graph in order and collects layers.

    ``rules`` maps the name of an operation to a function of the reader and all the operation's arguments, which
    returns a Flow, or a tuple of them where the operation has several results. ``leaves`` are the paths of modules
    whose names layers may bear.
    """

    def __init__(self, program: torch.export.ExportedProgram, rules: Mapping[str, Callable], leaves: set[str]):
        self.graph, self.signature, self.rules, self.leaves = program.graph, program.graph_signature, rules, leaves
        tensors = {
            name: value.detach() if isinstance(value, torch.Tensor) else value
            for name, value in {**program.constants, **program.state_dict}.items()
        }
        self.values = {spec.arg.name: tensors.get(spec.target) for spec in self.signature.input_specs}
        self.layers: dict[str, tuple[str, Layer, list[str]]] = {}

    def network(self) -> Network:
        """The network that the graph computes."""
        nodes = {node.name: node for node in self.graph.nodes}
        self.node = nodes[self.signature.user_inputs[0]]
        self.values[self.node.name] = source = Flow(INPUT, self.sample_shape(self.node.meta["val"]))
        for node in self.graph.nodes:
            if node.op == "call_function":
                self.node = node
                self.values[node.name] = self.visit()
        self.node = nodes[self.signature.user_outputs[0]]
        output = self.flow(self.values[self.node.name], self.sample_shape(self.node.meta["val"]))
        if output == source:
            output = self.add(Reshape(source.shape), source)
        return Network(self.layers.values(), source.shape, output.name)

    def visit(self):
        """The value of the current node: a Flow, a constant, or a tuple of these."""
        value = self.node.meta.get("val")
        if value is None and not self.node.users:  # an assertion
            return None
        self.args, self.kwargs = map_arg((self.node.args, self.node.kwargs), lambda node: self.values.get(node.name))
        if not self.flows():
            return self.constant()
        name = str(self.node.target).removeprefix("aten.").partition(".")[0]
        if name == "<built-in function getitem>":
            return self.args[0][self.args[1]]
        if name not in self.rules:
            self.fail(f"has no rule; there are rules for {', '.join(sorted(self.rules))}")
        if isinstance(value, torch.Tensor) and value.dtype != torch.float64:
            self.fail(f"yields {value.dtype}; only float64 is known")
        return self.rules[name](self, *self.arguments())

    def constant(self):
        """The operation's result where all arguments are constants."""
        try:
            return self.node.target(*self.args, **self.kwargs)
        except Exception as error:  # the places of maxima, for one, are no values here
            self.fail(f"cannot be evaluated on {self.args}: {error}")

    def arguments(self) -> list:
        """All arguments of the operation in the order of its schema, defaults included."""
        schema = self.node.target._schema.arguments
        given = dict(zip((argument.name for argument in schema), self.args, strict=False)) | self.kwargs
        return [given.get(argument.name, argument.default_value) for argument in schema]

    def flows(self) -> list[Flow]:
        """The distinct flows among the arguments."""
        found = {}
        map_aggregate((self.args, self.kwargs), lambda a: found.setdefault(a) if isinstance(a, Flow) else None)
        return list(found)

    def apply(self, *tensors: torch.Tensor):
        """The operation's result with these tensors, batch first, in place of its flows."""
        given = dict(zip(self.flows(), tensors, strict=True))
        batch = len(tensors[0])

        def value(argument):
            if isinstance(argument, Flow):
                return given[argument]
            if isinstance(argument, int) and argument == BATCH:
                return batch
            if isinstance(argument, torch.Tensor) and argument.shape[:1] == (BATCH,):
                return argument[:1].expand(batch, *argument.shape[1:])
            return argument

        args, kwargs = map_aggregate((self.args, self.kwargs), value)
        return self.node.target(*args, **kwargs)

    @property
    def shape(self) -> Shape:
        """The shape of the operation's result, or of the first of several, without the batch dimension."""
        value = self.node.meta["val"]
        return self.sample_shape(value[0] if isinstance(value, tuple | list) else value)

    def sample_shape(self, value: torch.Tensor | None) -> Shape:
        """The shape of a traced tensor without its batch dimension, which must come first."""
        if not isinstance(value, torch.Tensor):
            self.fail("yields no tensor")
        if value.shape[:1] != (BATCH,):
            self.mixes(f"its result has shape {tuple(value.shape)}, where {BATCH} is the batch size")
        return tuple(value.shape[1:])

    def mixes(self, found: str) -> None:
        """Raise ValueError: the operation does not treat the samples of a batch one by one."""
        raise ValueError(
            f"from_torch: {self.described()} does not keep the samples of a batch apart: {found}. The first dimension "
            "must remain the batch throughout; write x.flatten(1) to flatten"
        )

    def fail(self, reason: str) -> None:
        """Raise UnsupportedLayer for the current node."""
        raise UnsupportedLayer(f"from_torch: {self.described()} {reason}")

    def described(self) -> str:
        """The current node in words."""
        place = f"in module {self.path!r}" if self.path else "in the outermost module"
        return f"operation {self.node.target} (node {self.node.name!r} {place})"

    @property
    def path(self) -> str:
        """The path of the innermost module to which the current node belongs."""
        stack = self.node.meta.get("nn_module_stack") or {"": ("",)}
        return next(reversed(stack.values()))[0]

    def add(self, layer: Layer, *flows: Flow) -> Flow:
        """A new layer on these flows."""
        inside = f"{self.path}.{self.node.name}".removeprefix(".")
        names = [inside, *(f"{inside}.{i}" for i in range(1, len(self.layers) + 2))]
        if self.path in self.leaves:
            names.insert(0, self.path)
        name = next(name for name in names if name not in self.layers and name != INPUT)
        self.layers[name] = (name, layer, [flow.name for flow in flows])
        return Flow(name, tuple(layer.output_shape(*(flow.shape for flow in flows))))

    def reshaped(self, flow: Flow, shape: Shape) -> Flow:
        """The same numbers in this shape."""
        return flow if flow.shape == shape else self.add(Reshape(shape), flow)

    def flow(self, value, shape: Shape) -> Flow:
        """A constant or a flow, broadcast to this shape."""
        if not isinstance(value, Flow):
            return self.add(Constant(np.broadcast_to(self.array(value, shape), shape)))
        if value.shape == shape:
            return value
        if len(value.shape) != len(shape):
            self.mixes(f"samples of shape {value.shape} are combined with samples of shape {shape}")
        return self.moved(lambda x: x.expand(-1, *shape), [value], shape)

    def array(self, value, shape: Shape) -> np.ndarray:
        """A constant in float64 that broadcasts to samples of this shape."""
        array = torch.as_tensor(value, dtype=torch.float64).numpy()
        if array.ndim <= len(shape):
            return array
        if (array != array[0]).any():
            self.mixes("its constants differ between samples")
        return array[0]

    def moved(self, function: Callable[..., torch.Tensor], flows: list[Flow], shape: Shape) -> Flow:
        """What a function yields that only moves the flows' numbers about and fills in constants."""
        total = sum(flow.size for flow in flows)
        ends = np.cumsum([flow.size for flow in flows])[:-1].tolist()
        numbers = torch.arange(1.0, 2 * total + 1, dtype=torch.float64).view(2, total)  # another range in each sample
        parts = numbers.tensor_split(ends, 1)
        marks = [part.reshape(2, *flow.shape) for part, flow in zip(parts, flows, strict=True)]
        filled = function(*map(torch.zeros_like, marks))
        if not torch.isfinite(filled).all():
            self.fail("fills in numbers that are not finite")
        first, second = (function(*marks) - filled).reshape(2, -1).numpy().astype(int)
        if not np.array_equal(second, np.where(first > 0, first + total, 0)):
            self.mixes("one sample's result holds another sample's numbers")
        if len(flows) == 1 and not filled.any() and np.array_equal(first, np.arange(1, total + 1)):
            return self.reshaped(flows[0], shape)
        if len(flows) > 1:
            joined = self.add(Concat(0), *(self.reshaped(flow, (flow.size,)) for flow in flows))
        else:
            joined = flows[0]
        matrix = selection(first - 1, total)
        return self.reshaped(self.add(Affine(matrix, filled[0].reshape(-1).numpy()), joined), shape)

    def linear_map(self) -> Flow:
        """What the operation yields where it is affine in one flow; a matrix with many zeros is stored sparse."""
        if len(self.flows()) > 1:
            self.fail("multiplies values that depend on the input; it is known only with constants for all but one")
        (flow,) = self.flows()
        zero = self.apply(torch.zeros(1, *flow.shape, dtype=torch.float64)).reshape(-1)
        step = max(1, CHUNK // max(flow.size, len(zero)))
        rows = []
        for start in range(0, flow.size, step):
            count = min(step, flow.size - start)
            units = torch.zeros(count, flow.size, dtype=torch.float64)
            units[:, start : start + count].fill_diagonal_(1.0)
            rows.append(sp.csr_array((self.apply(units.view(count, *flow.shape)).reshape(count, -1) - zero).numpy()))
        weight = sp.vstack(rows).T.tocsr()
        if 2 * weight.nnz > math.prod(weight.shape):
            weight = weight.toarray()
        return self.reshaped(self.add(Affine(weight, zero.numpy()), flow), self.shape)


def arrays(*tensors: torch.Tensor | None) -> list[np.ndarray | None]:
    """Constant tensors as arrays; a missing one stays missing."""
    return [None if tensor is None else tensor.numpy() for tensor in tensors]
