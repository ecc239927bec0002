"""How the steps of a torch module are found: by the reader of `polyopt.from_torch`.

It walks the module's graph of ATen operations, on a copy in evaluation mode, and says for each of them what it depends
on and what kind of layer it is; here the operation itself is noted, with the names of its arguments. What that reader
refuses is refused here too, and the steps are compared with the module at random points.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from polyopt.activations import GroupMax, MaxPool2d, PiecewiseLinear, Smooth
from polyopt.convert.from_torch import AGREEMENT, SAMPLES, _double_copy, _export, _leaves, _run
from polyopt.convert.torch_graph import BATCH, Flow, Reader
from polyopt.convert.torch_ops import RULES
from polyopt.layers import Layer, Shape
from polyopt.network import INPUT, UnsupportedLayer
from polyopt.police.graph import (
    DEVICE,
    DTYPE,
    Affine,
    Constant,
    Graph,
    Maximum,
    Pointwise,
    Step,
    Value,
    mapped,
    names,
    tensors,
)


def read(module: torch.nn.Module, shape: Shape) -> Graph:
    """The steps that the module takes in evaluation mode on inputs of shape (batch, *shape).

    >>> graph = read(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(), torch.nn.ReLU()), (2,))
    >>> [(type(step).__name__, step.op) for step in graph.steps]
    [('Affine', 'linear'), ('Pointwise', 'relu')]
    """
    with torch.no_grad():
        double = _double_copy(module).eval()
        points = torch.from_numpy(np.random.default_rng(0).normal(size=(SAMPLES, *shape)))
        wanted = _run(double, points)
        recorder = _Recorder(_export(double, shape), RULES, _leaves(double))
        recorder.network()
        graph = recorder.recorded(double)
        found = graph.run(tensors(graph, double, points) | graph.tensors | {graph.input: points}, SAMPLES)
    if not (found - wanted).abs().max() <= AGREEMENT * max(1.0, wanted.abs().max()):
        raise ValueError(
            f"POLICE: the operations recorded from {type(module).__name__} do not give what the module gives at a "
            "random input; it may depend on the size of the batch, be random or change from call to call"
        )
    return graph


class _Recorder(Reader):
    """The reader, which also notes each operation as a step."""

    def __init__(self, program: torch.export.ExportedProgram, *rest):
        super().__init__(program, *rest)
        self.program = program
        self.steps: list[Step] = []
        self.homes = {INPUT: self.signature.user_inputs[0]}  # layer -> the node that yields it
        self.aliases: dict[str, str] = {}  # node that changes nothing, as dropout -> its argument
        self.batched: set[str] = set()  # nodes whose values depend on the batch's size, but not on the input

    def visit(self):
        before = len(self.layers)
        value = super().visit()
        if value is not None:
            self._record(value, [layer for _, layer, _ in list(self.layers.values())[before:]])
        return value

    def recorded(self, module: torch.nn.Module) -> Graph:
        """What was recorded."""
        used = {name for step in self.steps for name in names((step.args, step.kwargs))}
        paths = {spec.arg.name: spec.target for spec in self.signature.input_specs if spec.arg.name in used}
        owned = dict(module.named_parameters(remove_duplicate=False)) | dict(
            module.named_buffers(remove_duplicate=False)
        )
        constants = self.program.constants
        output = self.signature.user_outputs[0]
        return Graph(
            tuple(self.steps),
            self.signature.user_inputs[0],
            self.aliases.get(output, output),
            {name: path for name, path in paths.items() if path in owned},
            {name: constants[path] for name, path in paths.items() if path in constants and path not in owned},
        )

    def _record(self, value, layers: list[Layer]) -> None:
        node, aten = self.node, torch.ops.aten
        target, args = node.target, mapped(node.args, self._argument)
        if target is aten._native_batch_norm_legit_no_training.default:
            (value,), target, (*args, momentum, eps) = value, aten.batch_norm.default, args
            args = *args, False, momentum, eps, False
        if isinstance(value, Flow):
            if value.name in self.homes and target is not aten.detach.default:
                self.aliases[node.name] = self.homes[value.name]
                return
            self.homes[value.name] = node.name
        op = target.__name__.partition(".")[0]
        parts = node.name, op, target, args, mapped(dict(node.kwargs), self._argument)
        self.steps.append(self._step(parts, layers))

    def _argument(self, leaf):
        if isinstance(leaf, Node):
            return Value(self.aliases.get(leaf.name, leaf.name))
        if leaf is torch.float64:
            return Value(DTYPE)
        return Value(DEVICE) if isinstance(leaf, torch.device) else leaf

    def _step(self, parts, layers: list[Layer]) -> Step:
        if any(isinstance(layer, Smooth) for layer in layers):
            raise UnsupportedLayer(
                f"POLICE: {self.described()} is smooth, so no shift makes it affine on a region; use a "
                "piecewise-linear activation, such as LeakyReLU"
            )
        if parts[1] == "diff":  # signs that are no constants of the operation hide how large its summands are
            raise UnsupportedLayer(f"POLICE: {self.described()} has no rule; write x[:, 1:] - x[:, :-1]")
        if any(isinstance(layer, GroupMax) for layer in layers):
            return Maximum(*parts, *self._groups(layers))
        for layer in layers:
            if isinstance(layer, PiecewiseLinear):
                return Pointwise(*parts, layer, self.shape)
        return (Affine if self.flows() or self._is_batched(parts) else Constant)(*parts)

    def _is_batched(self, parts) -> bool:
        name, _, _, *arguments = parts
        sizes = []
        mapped(arguments, lambda leaf: sizes.append(isinstance(leaf, int) and leaf == BATCH))
        if any(sizes) or self.batched.intersection(names(arguments)):
            self.batched.add(name)
        return name in self.batched

    def _groups(self, layers):
        """The fields of the current maximum."""
        first, second = (*self.args, None)[:2]
        sign = -1 if self.node.target.__name__.startswith(("min", "amin")) else 1
        several = isinstance(self.node.meta["val"], tuple | list)
        for layer in layers:
            if isinstance(layer, MaxPool2d):
                return layer.groups(first.shape), (first.shape,), self.shape, sign, several
        if isinstance(second, Flow | torch.Tensor):
            shapes = [x.shape if isinstance(x, Flow) else self.shape for x in (first, second)]
            total = [int(np.prod(shape)) for shape in shapes]
            places = np.arange(total[0]).reshape(shapes[0]), total[0] + np.arange(total[1]).reshape(shapes[1])
            groups = np.stack([np.broadcast_to(place, self.shape).ravel() for place in places], 1)
            return groups, tuple(shapes), self.shape, sign, several
        axes = second if isinstance(second, list | tuple) else [second]
        axes = [axis % (len(first.shape) + 1) - 1 for axis in axes]
        places = np.moveaxis(np.arange(first.size).reshape(first.shape), axes, range(-len(axes), 0))
        groups = places.reshape(-1, int(np.prod([first.shape[axis] for axis in axes])))
        return groups, (first.shape,), self.shape, sign, several
