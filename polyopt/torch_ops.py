"""One rule for every ATen operation that `polyopt.from_torch` reads; imports torch, so it is imported only there.

A rule takes the `polyopt.torch_graph.Reader` and all arguments of the operation in the order of its schema. Those that
are a `Flow` depend on the network's input, the others are constants. The table RULES is at the foot of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import numpy as np
import torch

from polyopt import activations as act
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Conv2d, Layer, Pair, Scale
from polyopt.torch_graph import Flow, Reader

SOFTPLUS_THRESHOLD = 20.0  # torch's own; beyond it, torch is within 2.1e-9 / beta of the softplus


def activation(make: Callable[..., Layer]) -> Callable:
    """The rule of an elementwise function whose other arguments are numbers or missing."""

    def rule(read: Reader, x, *rest):
        if not isinstance(x, Flow) or not all(value is None or isinstance(value, Real) for value in rest):
            read.fail("is known only with numbers for all arguments but the first")
        return read.add(make(*rest), x)

    return rule


def clip(lower: float | None = None, upper: float | None = None) -> act.Clip:
    """A missing end is infinite."""
    return act.Clip(-math.inf if lower is None else float(lower), math.inf if upper is None else float(upper))


def softplus(read: Reader, x: Flow, beta: float, threshold: float) -> Flow:
    """Torch switches to the identity beyond a threshold, where the softplus is all but the identity."""
    if threshold < SOFTPLUS_THRESHOLD:
        read.fail(f"has threshold {threshold}; below {SOFTPLUS_THRESHOLD} it jumps, and is no softplus")
    return read.add(act.Softplus(float(beta)), x)


def prelu(read: Reader, x: Flow, slope: torch.Tensor) -> Flow:
    """One slope for all numbers, or one for each channel."""
    return read.add(act.PReLU(channelwise(read, slope, x)), x)


def heaviside(read: Reader, x: Flow, at_zero: torch.Tensor) -> Flow:
    """The step function with one value at zero."""
    if not isinstance(x, Flow) or isinstance(at_zero, Flow) or at_zero.numel() != 1:
        read.fail("is known only with one number as its value at zero")
    return read.add(act.Step(at_zero.item()), x)


def softmax(read: Reader, *_) -> None:
    """Softmax keeps the order of the logits but is not piecewise linear."""
    read.fail("is not piecewise linear; if it comes last, drop it: the logits before it have the same order")


def moves(read: Reader, *_) -> Flow | tuple[Flow, ...]:
    """Operations that move numbers about, with one result or several."""
    value = read.node.meta["val"]
    if isinstance(value, torch.Tensor):
        return read.moved(read.apply, read.flows(), read.shape)
    return tuple(
        read.moved(lambda *x, k=k: read.apply(*x)[k], read.flows(), read.sample_shape(part))
        for k, part in enumerate(value)
    )


def fills(read: Reader, *_) -> torch.Tensor:
    """Operations that use a value for its shape alone; the result is a constant."""
    one = read.apply(*(torch.zeros(1, *flow.shape, dtype=torch.float64) for flow in read.flows()))
    return one.expand(read.node.meta["val"].shape)


def linear_maps(read: Reader, *_) -> Flow:
    """Operations that are linear in one argument."""
    if len(read.flows()) != 1:
        read.fail(
            "is known only with constants for all arguments but one: it multiplies values that depend on the input"
        )
    return read.linear_map(read.apply, read.flows()[0], read.shape)


def linear(read: Reader, x: Flow, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Flow:
    """``x W^T + b`` along the last axis."""
    if len(read.flows()) > 1 or not isinstance(x, Flow) or len(x.shape) > 1:
        return linear_maps(read)
    return read.add(Affine(numpy(weight), numpy(bias)), x)


def conv2d(read: Reader, x, weight, bias, stride, padding, dilation, groups) -> Flow:
    """Cross-correlation with zero padding; ``padding`` may be "valid" or "same"."""
    if len(read.flows()) > 1 or not isinstance(x, Flow):
        return linear_maps(read)
    dilation = pair(dilation)
    if padding == "same":  # an odd number goes to the end
        spare = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = tuple((n // 2, n - n // 2) for n in spare)
    else:
        padding = both([0] if padding == "valid" else padding)
    return read.add(Conv2d(numpy(weight), numpy(bias), pair(stride), padding, dilation, groups), x)


def batch_norm(read: Reader, x: Flow, weight, bias, mean, var, *rest) -> Flow:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` with fixed statistics.

    ``rest`` is (training, momentum, eps, cudnn_enabled), or (momentum, eps) for the form that never trains.
    """
    *training, _, eps = rest[: 3 if len(rest) == 4 else 2]
    if any(training) or mean is None:
        read.mixes("it normalises with the statistics of the batch; use track_running_stats=True")
    scale = (1.0 if weight is None else numpy(weight)) / np.sqrt(numpy(var) + eps)
    shift = (0.0 if bias is None else numpy(bias)) - numpy(mean) * scale
    result = read.add(Scale(channelwise(read, scale, x), channelwise(read, shift, x)), x)
    return result if len(rest) == 4 else (result,)


def dropout(read: Reader, x: Flow, probability: float, training: bool) -> Flow:
    """The identity, unless dropout is on even in evaluation mode."""
    if training and probability:
        read.fail("is random even in evaluation mode; call F.dropout(x, training=self.training)")
    return x


def max_pool2d(read: Reader, x: Flow, kernel, stride, padding, dilation, ceil_mode) -> Flow:
    """The maximum over windows; a window that reaches beyond the padding is the maximum of what it covers."""
    kernel, stride, dilation = pair(kernel), pair(stride or kernel), pair(dilation)
    sides = []
    for size, out, k, s, d, (before, after) in zip(
        x.shape[1:], read.shape[1:], kernel, stride, dilation, both(padding), strict=True
    ):
        reach = (out - 1) * s + d * (k - 1) + 1
        sides.append((before, max(after, reach - size - before)))
    return read.add(act.MaxPool2d(kernel, stride, tuple(sides), dilation), x)


def avg_pool2d(read: Reader, x: Flow, kernel, stride, padding, ceil_mode, count_include_pad, divisor) -> Flow:
    """The mean over windows."""
    if ceil_mode or divisor is not None:
        return linear_maps(read)
    kernel = pair(kernel)
    return read.add(AvgPool2d(kernel, pair(stride or kernel), both(padding), count_include_pad), x)


def adaptive_avg_pool2d(read: Reader, x: Flow, *_) -> Flow:
    """Windows of one size where the output's size divides the input's."""
    sizes, outs = x.shape[1:], read.shape[1:]
    if any(size % out for size, out in zip(sizes, outs, strict=True)):
        return linear_maps(read)
    kernel = tuple(size // out for size, out in zip(sizes, outs, strict=True))
    return read.add(AvgPool2d(kernel, kernel), x)


def add(read: Reader, x, y, alpha: float = 1) -> Flow:
    """``x + alpha * y``."""
    if not isinstance(y, Flow):
        return scaled(read, x, 1.0, alpha * read.array(y, read.shape))
    if not isinstance(x, Flow):
        return scaled(read, y, alpha, read.array(x, read.shape))
    x, y = (read.flow(part, read.shape) for part in (x, y))
    return read.add(Add(), x, y if alpha == 1 else read.add(Scale(alpha), y))


def scaled(read: Reader, x: Flow, scale, shift=0.0) -> Flow:
    """``scale * x + shift``, broadcast to the operation's shape."""
    return read.add(Scale(scale, shift), read.flow(x, read.shape))


def multiply(read: Reader, x, y) -> Flow:
    """A product with a constant."""
    x, y = (x, y) if isinstance(x, Flow) else (y, x)
    if isinstance(y, Flow):
        read.fail("multiplies two values that depend on the input; only products with constants are known")
    return scaled(read, x, read.array(y, read.shape))


def divide(read: Reader, x, y, rounding_mode=None) -> Flow:
    """A quotient with a constant below."""
    if isinstance(y, Flow) or rounding_mode is not None:
        read.fail("is known only with a constant divisor and without rounding")
    divisor = read.array(y, read.shape)
    if not divisor.all():
        read.fail("divides by zero")
    return scaled(read, x, 1.0 / divisor)


def negative(read: Reader, x: Flow) -> Flow:
    """``-x``."""
    return read.add(Scale(-1.0), x)


def maximum(read: Reader, x, y) -> Flow:
    """The elementwise maximum of two values."""
    return read.add(act.Max(), *(read.flow(part, read.shape) for part in (x, y)))


def maximum_along(read: Reader, x: Flow, axes, keepdim: bool = False) -> Flow:
    """The maximum along one axis or several, as in maxout: groups of consecutive numbers after a transposition."""
    axes = [axis % (len(x.shape) + 1) for axis in (axes if isinstance(axes, list | tuple) else [axes])]
    pieces = math.prod(x.shape[axis - 1] for axis in axes)
    last = range(-len(axes), 0)
    groups = read.moved(lambda v: v.movedim(tuple(axes), tuple(last)).flatten(1), [x], (x.size,))
    return read.reshaped(read.add(act.Maxout(pieces), groups), read.shape)


def maximum_or_along(read: Reader, x, other=None, keepdim: bool = False):
    """``torch.max`` with another value, or along an axis, where it yields the places too."""
    if isinstance(other, Flow | torch.Tensor):
        return maximum(read, x, other)
    return maximum_along(read, x, other, keepdim), None


def minimum(rule: Callable) -> Callable:
    """The rule of a minimum from that of a maximum: ``min(x, y, …) = -max(-x, -y, …)``."""

    def flip(read: Reader, value):
        if isinstance(value, Flow):
            return negative(read, value)
        return -value if isinstance(value, torch.Tensor) else value

    def flipped(read: Reader, *arguments):
        result = rule(read, *(flip(read, argument) for argument in arguments))
        return tuple(flip(read, part) for part in result) if isinstance(result, tuple) else flip(read, result)

    return flipped


def concatenate(read: Reader, parts, axis: int = 0) -> Flow:
    """The parts side by side; constants among them have a batch dimension too."""
    shapes = [part.shape if isinstance(part, Flow) else tuple(part.shape[1:]) for part in parts]
    flows = [read.flow(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    return read.add(Concat(axis % (len(read.shape) + 1) - 1), *flows)


def channelwise(read: Reader, values, x: Flow) -> np.ndarray:
    """One number for each entry of the first axis, in a shape that broadcasts to x; a single number stays one."""
    values = read.array(values, x.shape)
    return values.reshape(()) if values.size == 1 else values.reshape(-1, *(1,) * (len(x.shape) - 1))


def numpy(tensor: torch.Tensor | None) -> np.ndarray | None:
    """A constant tensor as an array; a missing one stays missing."""
    return None if tensor is None else tensor.detach().numpy()


def pair(values: list[int]) -> Pair:
    """Two integers, where one stands for both."""
    return tuple((*values, *values)[:2])


def both(padding: list[int]) -> tuple[Pair, Pair]:
    """The same padding before and after, along each axis."""
    return tuple((n, n) for n in pair(padding))


FILLS = "fill full_like new_full new_ones new_zeros ones_like zeros_like".split()

MOVES = """alias channel_shuffle chunk clone constant_pad_nd contiguous copy detach diagonal expand expand_as flatten
flip index index_select lift_fresh_copy mT masked_fill moveaxis movedim narrow pad permute pixel_shuffle
pixel_unshuffle repeat repeat_interleave reshape roll rot90 select select_scatter slice slice_scatter split
split_with_sizes squeeze stack swapaxes swapdims t tensor_split tile transpose tril triu unbind unflatten
unfold unsqueeze upsample_nearest1d upsample_nearest2d view view_as""".split()

LINEAR_MAPS = """adaptive_avg_pool1d adaptive_avg_pool3d addmm addmv avg_pool1d avg_pool3d baddbmm bmm conv1d conv3d
conv_transpose1d conv_transpose2d conv_transpose3d cumsum diff einsum matmul mean mm mv sum
upsample_bilinear2d upsample_linear1d""".split()

RULES = {
    **dict.fromkeys(FILLS, fills),
    **dict.fromkeys(MOVES, moves),
    **dict.fromkeys(LINEAR_MAPS, linear_maps),
    "relu": activation(act.ReLU),
    "relu6": activation(lambda: act.Clip(0.0, 6.0)),
    "leaky_relu": activation(act.LeakyReLU),
    "hardtanh": activation(clip),
    "clamp": activation(clip),
    "clip": activation(clip),
    "clamp_min": activation(clip),
    "clamp_max": activation(lambda upper: clip(upper=upper)),
    "hardsigmoid": activation(act.HardSigmoid),
    "abs": activation(act.Abs),
    "sign": activation(act.Sign),
    "sigmoid": activation(act.Sigmoid),
    "tanh": activation(act.Tanh),
    "softplus": softplus,
    "prelu": prelu,
    "heaviside": heaviside,
    "softmax": softmax,
    "log_softmax": softmax,
    "linear": linear,
    "conv2d": conv2d,
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "dropout": dropout,
    "to": lambda read, x, *_: x,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "add": add,
    "sub": lambda read, x, y, alpha=1: add(read, x, y, -alpha),
    "rsub": lambda read, x, y, alpha=1: add(read, y, x, -alpha),
    "mul": multiply,
    "div": divide,
    "neg": negative,
    "maximum": maximum,
    "max": maximum_or_along,
    "amax": maximum_along,
    "minimum": minimum(maximum),
    "min": minimum(maximum_or_along),
    "amin": minimum(maximum_along),
    "cat": concatenate,
}
