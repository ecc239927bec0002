"""A torch module as a list of steps.

A `Step` is one ATen operation, of one of four kinds:

- `Constant` does not depend on the input, as a transposed weight;
- `Affine` is affine in its inputs, and may be applied to points and to directions as it is;
- `Pointwise` is piecewise linear in each number, with the pieces that `polyopt.activations` states;
- `Maximum` takes the largest, or the smallest, number of each group.

Steps name their arguments, so the same steps run on a batch, on a region and on the nodes of a new graph, always with
the parameters that the module has at that time. `polyopt.police.reading` makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from polyopt.activations import PiecewiseLinear
from polyopt.convert.torch_graph import BATCH
from polyopt.layers import Shape

DTYPE, DEVICE = "<dtype>", "<device>"  # names of values: what the recording calls float64 and the CPU


@dataclass(frozen=True)
class Value:
    """The result of the step of this name, as an argument of another."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation: ``target``, named ``op``, applied to arguments in which results of other steps are a `Value`."""

    name: str
    op: str
    target: Callable
    args: tuple
    kwargs: Mapping[str, Any]

    def run(self, values: Mapping[str, Any], batch, view: Callable[[Any], Any] | None = None) -> Any:
        """The result for ``view`` of these values of the other steps, and this batch size."""
        return self.target(*fill(self.args, values, batch, view), **fill(self.kwargs, values, batch, view))


class Constant(Step):
    """A step without the network's input."""


class Affine(Step):
    """A step that is affine in its inputs."""


@dataclass(frozen=True)
class Pointwise(Step):
    """A step that applies ``layer`` to each number of its first argument, which has shape ``shape``."""

    layer: PiecewiseLinear
    shape: Shape


@dataclass(frozen=True)
class Maximum(Step):
    """``y_i = sign * max over j of sign * x[groups[i, j]]``, where x holds the operands' numbers end to end.

    The first arguments are the operands, of shapes ``shapes``; y has shape ``shape`` and is the first of several
    results if ``several``.
    """

    groups: np.ndarray
    shapes: tuple[Shape, ...]
    shape: Shape
    sign: int
    several: bool


@dataclass(frozen=True)
class Graph:
    """The steps in order, and under which names they find the input, parameters and other tensors, and the output."""

    steps: tuple[Step, ...]
    input: str
    output: str
    parameters: Mapping[str, str]  # name -> path in the module, of parameters and buffers
    tensors: Mapping[str, torch.Tensor]  # those that stand in the module's code

    def uses(self) -> Counter[str]:
        """How many arguments each name is; the output counts as one."""
        return Counter([self.output, *(name for step in self.steps for name in names((step.args, step.kwargs)))])

    def run(self, values: Mapping[str, Any], batch) -> Any:
        """The output for these values of the input and the tensors."""
        values = dict(values)
        for step in self.steps:
            values[step.name] = step.run(values, batch)
        return values[self.output]


def mapped(argument, function: Callable[[Any], Any]):
    """An argument, which may be nested, with ``function(leaf)`` in place of each leaf."""
    if isinstance(argument, list | tuple | dict):
        if isinstance(argument, dict):
            return {key: mapped(part, function) for key, part in argument.items()}
        parts = [mapped(part, function) for part in argument]
        return tuple(parts) if isinstance(argument, tuple) else parts
    return function(argument)


def names(argument) -> list[str]:
    """The names of all values in an argument."""
    found = []
    mapped(argument, lambda leaf: found.append(leaf.name) if isinstance(leaf, Value) else None)
    return found


def fill(argument, values: Mapping[str, Any], batch, view: Callable[[Any], Any] | None = None):
    """An argument with ``view(value)`` in place of each `Value`, and this batch size in place of the recorded one."""
    kind = type(argument)  # called for each argument of each step in each pass: types are compared, not asked
    if kind is Value:
        value = values[argument.name]
        return value if view is None else view(value)
    if kind is tuple:
        return tuple([fill(part, values, batch, view) for part in argument])
    if kind is list:
        return [fill(part, values, batch, view) for part in argument]
    if kind is dict:
        return {key: fill(part, values, batch, view) for key, part in argument.items()}
    return batch if kind is int and argument == BATCH else argument


def tensors(graph: Graph, module: torch.nn.Module, like: torch.Tensor) -> dict[str, Any]:
    """The module's present parameters and buffers, and ``like``'s precision and device, by the names that steps use."""
    values: dict[str, Any] = {DTYPE: like.dtype, DEVICE: like.device}
    for name, path in graph.parameters.items():
        values[name] = attrgetter(path)(module)
    return values
