"""From a `Network` to a torch module: for training, for gradients and for the GPU.

Where a layer is one of torch's own modules it becomes that module, and a chain of these becomes a plain
``nn.Sequential``. Every other network becomes a ``torch.fx.GraphModule``, whose generated code reads like the network.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from polyopt import activations as act
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Constant, Conv2d, Reshape, Scale
from polyopt.network import INPUT, Network, Node
from polyopt.squares import Square

if TYPE_CHECKING:
    import torch

SOFTPLUS_THRESHOLD = 40.0  # from here on, the softplus is the identity in float64


def to_torch(net: Network, dtype: torch.dtype | None = None, device=None) -> torch.nn.Module:
    """The module, in evaluation mode, that maps (batch, *net.input_shape) to (batch, *net.output_shape) like ``net``.

    ``dtype`` is float64 unless told otherwise. The numbers of all layers are parameters, so the module can be trained.
    Every layer can be differentiated; Sign has gradient zero, Step none. ``from_torch(to_torch(net), net.input_shape)``
    is the same function as ``net`` for all layers, though a layer that is no torch module may come back as several.

    >>> net = Network.sequential([Affine([[1.0, -1.0]], [0.5]), act.ReLU()], (2,))
    >>> to_torch(net)
    Sequential(
      (0): Linear(in_features=2, out_features=1, bias=True)
      (1): ReLU()
    )
    """
    import torch

    parts = [MODULES.get(type(node.layer), _no_module)(node, torch.nn) for node in net.nodes]
    if all(parts):  # every layer has one input, so they form a chain
        module = torch.nn.Sequential(*(part for several in parts for part in several))
    else:
        module = _graph(net, parts)
    return module.to(device=device, dtype=dtype or torch.float64).eval()


def _graph(net: Network, parts: list[list[torch.nn.Module]]) -> torch.fx.GraphModule:
    """The network as a graph of these modules, and of expressions for the layers that have none."""
    import torch

    root, graph = torch.nn.Module(), torch.fx.Graph()
    proxy = functools.partial(torch.fx.Proxy, tracer=torch.fx.proxy.GraphAppendingTracer(graph))
    values = {INPUT: proxy(graph.placeholder("x"))}
    numbers = itertools.count()

    def constant(array, trained: bool = True):
        """An array as a parameter of the module, or as a buffer."""
        name = f"constant{next(numbers)}"
        tensor = torch.tensor(np.asarray(array))
        if trained:
            root.register_parameter(name, torch.nn.Parameter(tensor))
        else:
            root.register_buffer(name, tensor)
        return proxy(graph.get_attr(name))

    for k, (node, modules) in enumerate(zip(net.nodes, parts, strict=True)):
        inputs = [values[name] for name in node.inputs or [INPUT]]
        if modules:
            root.add_module(f"layer{k}", modules[0] if len(modules) == 1 else torch.nn.Sequential(*modules))
            values[node.name] = proxy(graph.call_module(f"layer{k}", (inputs[0].node,)))
        else:
            values[node.name] = EXPRESSIONS[type(node.layer)](node, constant, *inputs)
    graph.output(values[net.nodes[-1].name].node)
    return torch.fx.GraphModule(root, graph)


# Torch modules: each function returns those that do in turn what the layer does, or none.


def _no_module(node: Node, nn) -> list:
    return []


def _filled(module, **arrays):
    """The module with these parameters in place of its own, which it was built without."""
    import torch

    for name, array in arrays.items():
        setattr(module, name, torch.nn.Parameter(torch.tensor(array)))
    return module


def _linear(node: Node, nn) -> list:
    weight = node.layer.weight
    if sp.issparse(weight):
        return []
    linear = nn.Linear(*weight.shape[::-1], device="meta")
    flatten = [nn.Flatten()] if len(node.input_shapes[0]) > 1 else []
    return [*flatten, _filled(linear, weight=weight, bias=node.layer.bias)] if node.input_shapes[0] else []


def _conv2d(node: Node, nn) -> list:
    layer = node.layer
    channels = node.input_shapes[0][0], node.shape[0]
    options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups, "device": "meta"}
    arrays = {"weight": layer.weight, "bias": layer.bias}
    if _symmetric(layer):
        return [_filled(nn.Conv2d(*channels, layer.kernel, padding=_symmetric(layer), **options), **arrays)]
    return [nn.ZeroPad2d(_sides(layer)), _filled(nn.Conv2d(*channels, layer.kernel, **options), **arrays)]


def _avg_pool2d(node: Node, nn) -> list:
    layer = node.layer
    if not _fits_pool(layer):
        return []
    return [nn.AvgPool2d(layer.kernel, layer.stride, _symmetric(layer), count_include_pad=layer.count_include_pad)]


def _max_pool2d(node: Node, nn) -> list:
    layer = node.layer
    if not _fits_pool(layer):
        return []
    return [nn.MaxPool2d(layer.kernel, layer.stride, _symmetric(layer), layer.dilation)]


def _reshape(node: Node, nn) -> list:
    if len(node.shape) == 1 and node.input_shapes[0]:
        return [nn.Flatten()]
    return [nn.Unflatten(1, node.shape)] if len(node.input_shapes[0]) == 1 and node.shape else []


def _prelu(node: Node, nn) -> list:
    slope = node.layer.slope
    channels = slope.ndim == len(node.shape) and slope.size == slope.shape[0]
    if slope.size > 1 and not channels:
        return []
    return [_filled(nn.PReLU(slope.size, device="meta"), weight=slope.reshape(-1))]


def _hardtanh(node: Node, nn) -> list:
    lower, upper = node.layer.lower, node.layer.upper
    return [nn.Hardtanh(lower, upper)] if lower < upper else []


def _hardsigmoid(node: Node, nn) -> list:
    return [nn.Hardsigmoid()] if (node.layer.alpha, node.layer.beta) == (1 / 6, 0.5) else []


def _symmetric(layer) -> tuple[int, ...]:
    """The padding along each axis, where it is the same before and after; else nothing."""
    return tuple(before for before, _ in layer.padding) if all(a == b for a, b in layer.padding) else ()


def _fits_pool(layer) -> bool:
    """Whether torch's pooling has this padding: on both sides, and at most half of the kernel."""
    padding = _symmetric(layer)
    return bool(padding) and all(2 * p <= k for p, k in zip(padding, layer.kernel, strict=True))


def _sides(layer) -> tuple[int, ...]:
    """The padding in torch's order: left, right, top, bottom."""
    return (*layer.padding[1], *layer.padding[0])


MODULES = {
    Affine: _linear,
    Conv2d: _conv2d,
    AvgPool2d: _avg_pool2d,
    Reshape: _reshape,
    act.ReLU: lambda node, nn: [nn.ReLU()],
    act.LeakyReLU: lambda node, nn: [nn.LeakyReLU(node.layer.slope)],
    act.PReLU: _prelu,
    act.Clip: _hardtanh,
    act.HardSigmoid: _hardsigmoid,
    act.Sigmoid: lambda node, nn: [nn.Sigmoid()],
    act.Tanh: lambda node, nn: [nn.Tanh()],
    act.Softplus: lambda node, nn: [nn.Softplus(node.layer.beta, SOFTPLUS_THRESHOLD)],
    act.MaxPool2d: _max_pool2d,
}


# Expressions, for the layers that are no torch module: functions of the node, of `constant` and of the inputs.


def _flat(x):
    return x.reshape(x.shape[0], -1)


def _sparse(node: Node, constant, x):
    """``y_i = sum_k values[i, k] * x[columns[i, k]] + b_i``, where rows with few entries are filled up with zeros."""
    weight = node.layer.weight
    counts = np.diff(weight.indptr)
    values = np.zeros((len(counts), counts.max(initial=1)))
    columns = np.zeros(values.shape, dtype=int)
    filled = np.arange(values.shape[1]) < counts[:, None]
    values[filled], columns[filled] = weight.data, weight.indices
    gathered = _flat(x)[:, constant(columns, trained=False)]
    return (gathered * constant(values)).sum(-1) + constant(node.layer.bias)


def _dense(node: Node, constant, x):
    """An affine layer of a single number without axes, which ``nn.Linear`` does not take."""
    return _flat(x) @ constant(node.layer.weight.T) + constant(node.layer.bias)


def _mean_over_windows(node: Node, constant, x):
    """The mean over windows with any padding: pad first, then correct the divisor."""
    import torch

    layer = node.layer
    padded = torch.nn.functional.pad(x, _sides(layer))
    y = torch.nn.functional.avg_pool2d(padded, layer.kernel, layer.stride)
    counts = layer.counts(node.input_shapes[0])
    return y * constant(math.prod(layer.kernel) / counts, trained=False)


def _group_maximum(node: Node, constant, *inputs):
    import torch

    joined = torch.cat([_flat(x) for x in inputs], 1)
    groups = node.layer.groups(*node.input_shapes)
    return joined[:, constant(groups, trained=False)].amax(-1).reshape(inputs[0].shape[0], *node.shape)


def _slopes(node: Node, constant, x):
    return x.relu() - constant(node.layer.slope) * (-x).relu()


def _step(node: Node, constant, x):
    # torch cannot differentiate heaviside
    return x.detach().heaviside(constant(node.layer.at_zero, trained=False))


def _concatenate(node: Node, constant, *inputs):
    import torch

    return torch.cat(inputs, node.layer.axis + 1)


EXPRESSIONS = {
    Affine: lambda node, constant, x: (_sparse if sp.issparse(node.layer.weight) else _dense)(node, constant, x),
    Scale: lambda node, constant, x: x * constant(node.layer.scale) + constant(node.layer.shift),
    AvgPool2d: _mean_over_windows,
    Reshape: lambda node, constant, x: x.reshape(x.shape[0], *node.shape),
    Add: lambda node, constant, *inputs: functools.reduce(operator.add, inputs),
    Concat: _concatenate,
    Constant: lambda node, constant, x: constant(node.layer.value).expand(x.shape[0], *node.shape),
    act.PReLU: _slopes,
    act.Clip: lambda node, constant, x: x.clamp(node.layer.lower, node.layer.upper),
    act.HardSigmoid: lambda node, constant, x: (node.layer.alpha * x + node.layer.beta).clamp(0.0, 1.0),
    act.Abs: lambda node, constant, x: x.abs(),
    act.Sign: lambda node, constant, x: x.sign(),
    act.Step: _step,
    Square: lambda node, constant, x: x * x,
    act.Max: _group_maximum,
    act.Maxout: _group_maximum,
    act.MaxPool2d: _group_maximum,
}
