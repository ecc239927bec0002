"""The plain module at the end of training, ``b <- b + c``: the region costs nothing any more (Algorithm 1, test time).

Where each shift has a bias to go into (a linear layer's, or a normalisation's of flat values, if it is used once) the
result is a copy of the module with these biases. A convolution has one bias for each channel, a shift one number for
each place, so no bias can take it; nor the shift before a maximum, or after a sum. Then the result is a
``torch.fx.GraphModule`` of the module's operations, with a small `Shift` before each of these activations.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polyopt.police.graph import DEVICE, DTYPE, Graph, fill

Shifts = dict[str, tuple[Tensor, ...]]  # of each activation's operands, (1, *shape), by the name of the step


class Shift(nn.Module):
    """``x + shift`` with a fixed tensor (1, *shape).

    >>> Shift(torch.tensor([[1.0, 2.0]]))(torch.zeros(2, 2))
    tensor([[1., 2.],
            [1., 2.]])
    """

    def __init__(self, shift: Tensor):
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.shift


def fold(module: nn.Module, graph: Graph, biased: Mapping[str, str], shifts: Shifts, values: Mapping[str, Any]):
    """A copy of the module with these shifts, in evaluation mode: what `polyopt.police.POLICE.fold` returns.

    ``biased`` names the step whose bias may take an activation's shift, ``values`` holds the tensors of the graph.

    >>> from polyopt import Box, police
    >>> layers = nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)
    >>> police.POLICE(nn.Sequential(*layers), Box.ball([0.0] * 4, 1.0)).fold()
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=1, bias=True)
    )
    """
    plain = copy.deepcopy(module).eval()
    with torch.no_grad():
        left = {k: v for k, v in shifts.items() if not (k in biased and _put(plain, graph, biased[k], v[0][0]))}
    return _inserted(plain, graph, left, values) if left else plain


def _put(module: nn.Module, graph: Graph, source: str, shift: Tensor) -> bool:
    """Add the shift to the bias of step ``source``; False where it has none that is a parameter and its own."""
    (step,) = (step for step in graph.steps if step.name == source)
    _, weight, bias = (*step.args[:3], None)[:3]
    parameters, uses = dict(module.named_parameters(remove_duplicate=False)), graph.uses()
    name = getattr(bias or weight, "name", None)
    path = graph.parameters.get(name)
    if path not in parameters or uses[name] > 1 or _tied(parameters, path):
        return False
    owner = module.get_submodule(path.rpartition(".")[0])
    if bias is None and not isinstance(owner, nn.Linear):
        return False
    if bias is None:
        owner.bias = nn.Parameter(shift.clone())
    else:
        parameters[path].add_(shift)
    return True


def _tied(parameters: dict[str, nn.Parameter], path: str) -> bool:
    return sum(parameter is parameters[path] for parameter in parameters.values()) > 1


def _inserted(module: nn.Module, graph: Graph, shifts: Shifts, tensors: Mapping[str, Any]) -> torch.fx.GraphModule:
    """The graph as a module with this module's parameters, and with a `Shift` before each of these activations."""
    made = torch.fx.Graph()
    x = made.placeholder("x")
    batch = made.call_method("size", (x, 0))
    values = {graph.input: x} | {name: tensors[name] for name in (DTYPE, DEVICE)}
    for name, path in graph.parameters.items():
        values[name] = made.get_attr(path)
    for name in graph.tensors:
        module.register_buffer(f"constant_{name}", tensors[name].clone())
        values[name] = made.get_attr(f"constant_{name}")
    for step in graph.steps:
        args = list(fill(step.args, values, batch))
        for k, shift in enumerate(shifts.get(step.name, ())):
            module.add_module(f"shift_{step.name}_{k}", Shift(shift))
            args[k] = made.call_module(f"shift_{step.name}_{k}", (args[k],))
        values[step.name] = made.call_function(step.target, tuple(args), fill(dict(step.kwargs), values, batch))
    made.output(values[graph.output])
    plain = torch.fx.GraphModule(module, made).eval()
    plain.graph.eliminate_dead_code()  # most graphs do not ask for the batch size
    plain.recompile()
    return plain
