"""ONNX operators that make one number of many: convolutions and poolings (of windows), reductions (of whole axes)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from polyopt.activations import Maxout, MaxPool2d
from polyopt.convert.onnx_graph import Call, Graph, Tensor
from polyopt.layers import AvgPool2d, Conv2d, Layer


def reduction(make: Callable[..., Tensor]) -> Callable[[Graph, Call], Tensor]:
    """The rule of an operator that reduces axes by ``make(graph, x, members, shape)``; see `grouped`."""

    def rule(graph: Graph, call: Call) -> Tensor:
        x, axes = call.tensor(0), np.atleast_1d(call.parameter(1, "axes", []))
        if not axes.size and call.attributes.get("noop_with_empty_axes"):
            return x
        axes = axes if axes.size else np.arange(len(x.shape))
        return grouped(graph, x, axes, call.attributes.get("keepdims", 1), make)

    return rule


def global_pool(make: Callable[..., Tensor]) -> Callable[[Graph, Call], Tensor]:
    """The rule of an operator that reduces all axes but batch and channels."""
    return lambda graph, call: grouped(graph, x := call.tensor(0), np.arange(2, len(x.shape)), True, make)


def grouped(graph: Graph, x: Tensor, axes: np.ndarray, keepdims: bool, make: Callable[..., Tensor]) -> Tensor:
    """``make`` on the groups of entries that differ in these axes alone: one row of ``members`` for each output."""
    rank = len(x.shape)
    axes = sorted(int(axis) % rank for axis in axes)
    if graph.free_batch and 0 in axes:
        raise graph.mixed("it reduces the batch axis")
    members = np.moveaxis(graph.indices(x), axes, range(rank - len(axes), rank))
    members = members.reshape(-1, math.prod(x.shape[axis] for axis in axes))
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
    return make(graph, x, members, shape)


def weighted_sum(graph: Graph, x: Tensor, members: np.ndarray, shape, mean: bool) -> Tensor:
    """The sum or mean of each group."""
    n, k = members.shape
    weights = np.full(n * k, 1.0 / k if mean else 1.0)
    matrix = sp.csr_array((weights, (np.repeat(np.arange(n), k), members.ravel())), shape=(n, n * k))
    return graph.affine(x, matrix, np.zeros(n), shape)


def group_maximum(graph: Graph, x: Tensor, members: np.ndarray, shape) -> Tensor:
    """The maximum of each group."""
    x = graph.pick(x, members, graph.full((members.size,)))
    return graph.view(graph.add(Maxout(members.shape[1]), x), shape)


def convolution(graph: Graph, call: Call) -> Tensor:
    """Conv."""
    weight = call.constant(1)
    bias = call.constant(2, np.zeros(len(weight)))
    groups = call.attributes.get("group", 1)

    def make(kernel, **geometry):
        return Conv2d(weight.reshape(*weight.shape[:2], *kernel), bias, groups=groups, **geometry)

    return windowed(graph, call, weight.shape[2:], make)


def average_pool(graph: Graph, call: Call) -> Tensor:
    """AveragePool; without padding, what hangs over the end in ceil mode never counts."""
    include = bool(call.attributes.get("count_include_pad", 0))
    padded = any(call.attributes.get("pads", [])) or call.attributes.get("auto_pad", "NOTSET").startswith("SAME")
    if include and padded and call.attributes.get("ceil_mode"):
        raise call.unsupported("with ceil_mode and padding that counts")

    def make(kernel, stride, padding, dilation):
        if dilation != (1, 1):
            raise call.unsupported(f"with dilation {dilation}")
        return AvgPool2d(kernel, stride, padding, include and padded)

    return windowed(graph, call, call.attributes["kernel_shape"], make)


def max_pool(graph: Graph, call: Call) -> Tensor:
    """MaxPool, without the indices."""
    return windowed(graph, call, call.attributes["kernel_shape"], MaxPool2d)


def windowed(graph: Graph, call: Call, kernel, make: Callable[..., Layer]) -> Tensor:
    """A layer on windows of an image; a signal (channels, length) is an image of height one."""
    x, rank = call.tensor(0), len(kernel)
    point = graph.point(x.shape)
    if rank > 2:
        raise call.unsupported(f"in {rank} dimensions")
    if len(x.shape) != rank + 2 or len(point) != rank + 1:
        raise ValueError(f"its input has shape {x.shape}, but must be a batch of one with channels and {rank} axes")
    flat = (1,) * (2 - rank)
    stride, dilation = (tuple(call.attributes.get(name, [1] * rank)) for name in ("strides", "dilations"))
    padding = paddings(call, point[1:], kernel, stride, dilation)
    layer = make(
        (*flat, *kernel),
        stride=(*flat, *stride),
        padding=(*((0, 0) for _ in flat), *padding),
        dilation=(*flat, *dilation),
    )
    y = graph.add(layer, graph.view(x, graph.full((point[0], *flat, *point[1:]))))
    return graph.view(y, (*y.shape[:2], *y.shape[4 - rank :]))


def paddings(call: Call, sizes, kernel, stride, dilation) -> list[tuple[int, int]]:
    """Zeros before and after each axis; ceil mode is more of them after it, for a last window that starts inside."""
    rank = len(sizes)
    auto, ceil = call.attributes.get("auto_pad", "NOTSET"), call.attributes.get("ceil_mode", 0)
    given = call.attributes.get("pads", [0] * 2 * rank) if auto == "NOTSET" else [0] * 2 * rank
    result = []
    for i in range(rank):
        before, after = given[i], given[i + rank]
        reach = dilation[i] * (kernel[i] - 1) + 1
        if auto.startswith("SAME"):
            wanted = max((math.ceil(sizes[i] / stride[i]) - 1) * stride[i] + reach - sizes[i], 0)
            less, more = wanted // 2, wanted - wanted // 2
            before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
        elif ceil:
            last = math.ceil((before + sizes[i] + after - reach) / stride[i]) * stride[i]
            last -= stride[i] * (last >= before + sizes[i])
            after = max(last + reach - before - sizes[i], 0)
        result.append((before, after))
    return result
