"""From a torch module to a `Network`.

``torch.export`` records what the module does as a graph of ATen operations; every operation has one rule in
`polyopt.convert.torch_ops`. So any forward that torch can export is read, in whatever way it is written: nested
modules, residual connections, functional calls, in-place operations, hooks and parametrisations. Everything happens
on a float64 copy on the CPU. The caller's module is never changed.

Two guards stand against a wrong reading: an operation that moves numbers between samples is refused where it occurs,
and the finished network is compared with the module at random points, with another batch size than the recorded one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from polyopt.network import Network

if TYPE_CHECKING:
    import torch

SAMPLES = 3  # where the network is compared with the module; from one sample, nothing could be mixed up
AGREEMENT = 1e-6  # a wrong reading is off by far more, rounding in float64 by far less


def from_torch(module: torch.nn.Module, input_shape: Sequence[int]) -> Network:
    """The network that ``module.eval().double()`` computes on inputs of shape (batch, *input_shape).

    Layers are named by the path of their module, or by path and operation where a module does more than one thing.
    Batch normalisation and arithmetic with constants are folded into their neighbours.

    Softplus is read as ``log(1 + exp(beta * a)) / beta`` for every a. Torch replaces it by a where ``beta * a`` exceeds
    the threshold (20 unless told), so the two differ there by at most ``exp(-threshold) / beta``, about 2e-9; lower
    thresholds are refused. A last softmax is refused too: drop it, the logits have the same order.

    Raises `UnsupportedLayer` for operations without a rule, ValueError for modules in training mode, for control flow
    that depends on the data, for operations across the batch, and for weights that are not finite.

    >>> import torch
    >>> linear = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, -1.0]])), linear.bias.fill_(0.5)
    >>> net = from_torch(torch.nn.Sequential(linear, torch.nn.ReLU()).eval(), input_shape=(2,))
    >>> net
    Network (2,) -> (1,)
      0: Affine (1,)
      1: ReLU (1,)
    >>> net(np.array([[3.0, 1.0], [1.0, 3.0]]))
    array([[2.5],
           [0. ]])
    """
    import torch

    from polyopt.convert.torch_graph import Reader
    from polyopt.convert.torch_ops import RULES

    shape = _check(module, input_shape)
    with torch.no_grad():
        double = _double_copy(module)
        points = torch.from_numpy(np.random.default_rng(0).normal(size=(SAMPLES, *shape)))
        wanted = _run(double, points)
        net = Reader(_export(double, shape), RULES, _leaves(double)).network().fold_scaling()
    _compare(net, points.numpy(), wanted.numpy())
    return net


def _check(module, input_shape) -> tuple[int, ...]:
    """The input shape as a tuple of integers; ValueError where module or shape cannot be read."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"from_torch: needs a torch.nn.Module, but gets {type(module).__name__}")
    if training := [name or type(module).__name__ for name, part in module.named_modules() if part.training]:
        raise ValueError(
            f"from_torch: {training[0]!r} is in training mode, where dropout and batch normalisation are random or "
            "depend on the batch; call module.eval() first"
        )
    if not isinstance(input_shape, Sequence) or not all(isinstance(n, int | np.integer) and n > 0 for n in input_shape):
        raise ValueError(
            f"from_torch: input_shape is {input_shape!r}, but must be the shape of one input without the batch "
            "dimension, such as (64,) or (3, 32, 32)"
        )
    return tuple(map(int, input_shape))


def _double_copy(module):
    """The module in float64 on the CPU, sharing nothing with the original."""
    import torch

    # a tensor that a hook computes from parameters (as in pruning) has a history, which deepcopy refuses
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).to("cpu", torch.float64)


def _run(module, points):
    """The module's outputs at the points; ValueError where it does not run or returns something else."""
    import torch

    shape = tuple(points.shape[1:])
    try:
        # a forward may write into its input
        y = module(points.clone())
    except Exception as error:
        raise ValueError(
            f"from_torch: the module does not run on inputs of shape (batch, *{shape}): {error}"
        ) from error
    if not isinstance(y, torch.Tensor) or y.ndim == 0 or len(y) != len(points) or y.dtype != torch.float64:
        found = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
        raise ValueError(
            f"from_torch: {len(points)} inputs of shape {shape} in float64 give {found}, but the module must return "
            "one float64 tensor (batch, ...)"
        )
    return y


def _export(module, shape):
    """The module as a graph of ATen operations without in-place ones, for a batch of BATCH."""
    import torch

    from polyopt.convert.torch_graph import BATCH

    example = torch.empty(BATCH, *shape, dtype=torch.float64)  # never written or read: only its shape matters
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own deprecated internals, and of tensors that hooks compute
            program = torch.export.export(module, (example,), strict=False)
            schemas = (getattr(node.target, "_schema", None) for node in program.graph.nodes)
            if any(schema.is_mutable for schema in schemas if schema):
                program = program.run_decompositions({})
    except Exception as error:
        raise ValueError(
            f"from_torch: torch.export cannot record {type(module).__name__}.forward as one graph. Likely causes: "
            "control flow that depends on the data, a batch size written into a reshape, or calls that leave torch. "
            f"torch says: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    return program


def _leaves(module) -> set[str]:
    """The paths of the modules without children: a layer may bear their names."""
    return {name for name, part in module.named_modules() if name and not any(part.children())}


def _compare(net: Network, points: np.ndarray, wanted: np.ndarray) -> None:
    """ValueError where the network is not the module at some point."""
    difference = np.max(abs(net(points) - wanted.reshape(len(wanted), -1)), initial=0.0)
    if not difference <= AGREEMENT * max(1.0, np.max(abs(wanted), initial=0.0)):
        raise ValueError(
            f"from_torch: the network read differs from the module by {difference:.3g} at a random input. Either the "
            "module mixes the samples of a batch, depends on its size, is random or changes from call to call, or "
            f"polyopt misreads one of its operations; please report the latter. The network read is\n{net}"
        )
