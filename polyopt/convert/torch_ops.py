"""One rule for every ATen operation that `polyopt.convert.from_torch` reads; imports torch, so it is imported only
there.

A rule takes the `polyopt.convert.torch_graph.Reader` and all arguments of the operation in the order of its schema.
Those that are a `Flow` depend on the network's input, the others are constants. The table RULES is at the foot of the
file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import numpy as np
import scipy.sparse as sp
import torch

from polyopt import activations as act
from polyopt.convert.torch_graph import Flow, Reader, arrays
from polyopt.convert.torch_windows import adaptive_avg_pool2d, avg_pool2d, conv2d, max_pool2d
from polyopt.layers import Add, Affine, Concat, Layer, Scale

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


def linear(read: Reader, x: Flow, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Flow:
    """``x W^T + b`` along the last axis."""
    if len(read.flows()) > 1 or not isinstance(x, Flow) or len(x.shape) > 1:
        return read.linear_map()
    return read.add(Affine(*arrays(weight, bias)), x)


def batch_norm(read: Reader, x: Flow, weight, bias, mean, var, *rest) -> Flow:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` with fixed statistics.

    ``rest`` is (training, momentum, eps, cudnn_enabled), or (momentum, eps) for the form that never trains.
    """
    *training, _, eps = rest[: 3 if len(rest) == 4 else 2]
    if any(training) or mean is None:
        read.mixes("it normalises with the statistics of the batch; use track_running_stats=True")
    scale = (1.0 if weight is None else weight) / torch.sqrt(var + eps)
    shift = (0.0 if bias is None else bias) - mean * scale
    result = read.add(Scale(channelwise(read, scale, x), channelwise(read, shift, x)), x)
    return result if len(rest) == 4 else (result,)


def dropout(read: Reader, x: Flow, probability: float, training: bool) -> Flow:
    """The identity, unless dropout is on even in evaluation mode."""
    if training and probability:
        read.fail("is random even in evaluation mode; call F.dropout(x, training=self.training)")
    return x


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


def grouped(read: Reader, x: Flow, axes) -> tuple[Flow, int]:
    """The flat value whose consecutive numbers, so many at a time, lie along one axis or several of x."""
    _ = read.shape  # refuses what does not keep the batch, such as all axes together
    axes = [axis % (len(x.shape) + 1) for axis in (axes if isinstance(axes, list | tuple) else [axes])]
    last = tuple(range(-len(axes), 0))
    flat = read.moved(lambda v: v.movedim(tuple(axes), last).flatten(1), [x], (x.size,))
    return flat, math.prod(x.shape[axis - 1] for axis in axes)


def maximum_along(read: Reader, x: Flow, axes, keepdim: bool = False) -> Flow:
    """The maximum along axes, as in maxout."""
    groups, size = grouped(read, x, axes)
    return read.reshaped(read.add(act.Maxout(size), groups), read.shape)


def weighted_sum(weight: Callable[[int], float]) -> Callable:
    """The rule of a sum along axes, where each of n numbers has weight(n)."""

    def rule(read: Reader, x: Flow, axes, *_) -> Flow:
        groups, size = grouped(read, x, axes)
        matrix = sp.kron(sp.eye_array(groups.size // size), np.full((1, size), weight(size)), format="csr")
        return read.reshaped(read.add(Affine(matrix, None), groups), read.shape)

    return rule


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


FILLS = "fill full_like new_full new_ones new_zeros ones_like zeros_like".split()

MOVES = """alias channel_shuffle chunk clone constant_pad_nd contiguous copy detach diagonal expand expand_as flatten
flip index index_select lift_fresh_copy mT masked_fill moveaxis movedim narrow pad permute pixel_shuffle
pixel_unshuffle repeat repeat_interleave reshape roll rot90 select select_scatter slice slice_scatter split
split_with_sizes squeeze stack swapaxes swapdims t tensor_split tile transpose tril triu unbind unflatten
unfold unsqueeze upsample_nearest1d upsample_nearest2d view view_as""".split()

LINEAR_MAPS = """adaptive_avg_pool1d adaptive_avg_pool3d addmm addmv avg_pool1d avg_pool3d baddbmm bmm conv1d conv3d
conv_transpose1d conv_transpose2d conv_transpose3d cumsum diff einsum matmul mm mv
upsample_bilinear2d upsample_linear1d""".split()

RULES = {
    **dict.fromkeys(FILLS, fills),
    **dict.fromkeys(MOVES, moves),
    **dict.fromkeys(LINEAR_MAPS, lambda read, *_: read.linear_map()),
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
    "sum": weighted_sum(lambda n: 1.0),
    "mean": weighted_sum(lambda n: 1.0 / n),
    "cat": concatenate,
}
