"""Rules for the ATen operations that look at images through windows; see `polyopt.convert.torch_ops`."""

from __future__ import annotations

from polyopt.activations import MaxPool2d
from polyopt.convert.torch_graph import Flow, Reader, arrays
from polyopt.layers import AvgPool2d, Conv2d, Pair


def conv2d(read: Reader, x, weight, bias, stride, padding, dilation, groups) -> Flow:
    """Cross-correlation with zero padding; ``padding`` may be "valid" or "same"."""
    if len(read.flows()) > 1 or not isinstance(x, Flow):
        return read.linear_map()
    dilation = pair(dilation)
    if padding == "same":  # an odd number goes to the end
        spare = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = tuple((n // 2, n - n // 2) for n in spare)
    else:
        padding = both([0] if padding == "valid" else padding)
    return read.add(Conv2d(*arrays(weight, bias), pair(stride), padding, dilation, groups), x)


def max_pool2d(read: Reader, x: Flow, kernel, stride, padding, dilation, ceil_mode) -> Flow:
    """The maximum over windows; a window that reaches beyond the padding is the maximum of what it covers."""
    kernel, stride, dilation = pair(kernel), pair(stride or kernel), pair(dilation)
    sides = []
    for size, out, k, s, d, (before, after) in zip(
        x.shape[1:], read.shape[1:], kernel, stride, dilation, both(padding), strict=True
    ):
        reach = (out - 1) * s + d * (k - 1) + 1
        sides.append((before, max(after, reach - size - before)))
    return read.add(MaxPool2d(kernel, stride, tuple(sides), dilation), x)


def avg_pool2d(read: Reader, x: Flow, kernel, stride, padding, ceil_mode, count_include_pad, divisor) -> Flow:
    """The mean over windows."""
    if ceil_mode or divisor is not None:
        return read.linear_map()
    kernel = pair(kernel)
    return read.add(AvgPool2d(kernel, pair(stride or kernel), both(padding), count_include_pad), x)


def adaptive_avg_pool2d(read: Reader, x: Flow, *_) -> Flow:
    """Windows of one size where the output's size divides the input's."""
    sizes, outs = x.shape[1:], read.shape[1:]
    if any(size % out for size, out in zip(sizes, outs, strict=True)):
        return read.linear_map()
    kernel = tuple(size // out for size, out in zip(sizes, outs, strict=True))
    return read.add(AvgPool2d(kernel, kernel), x)


def pair(values: list[int]) -> Pair:
    """Two integers, where one stands for both."""
    return tuple((*values, *values)[:2])


def both(padding: list[int]) -> tuple[Pair, Pair]:
    """The same padding before and after, along each axis."""
    return tuple((n, n) for n in pair(padding))
