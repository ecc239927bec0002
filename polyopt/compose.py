"""Merging two consecutive linear layers into one: ``W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from polyopt.layers import Affine, Conv2d, Linear, Reshape, Scale, Shape


def fold(first: Linear, second: Linear, shape: Shape) -> Linear | None:
    """One layer for ``second(first(x))`` where one of the two is a scaling or needs no other; None where there is none.

    >>> fold(Scale(2.0), Affine([[1.0, 1.0]], [0.5]), (2,)).weight
    array([[2., 2.]])
    """
    if isinstance(first, Reshape) and isinstance(second, Affine):
        return second  # which flattens its input itself, and may now meet a scaling
    if isinstance(first, Scale) and isinstance(second, Scale):
        return Scale(first.scale * second.scale, second.scale * first.shift + second.shift)
    if isinstance(first, Affine) and isinstance(second, Scale):
        scale, shift = _spread(second, (len(first.bias),))
        return Affine(_rows(first.weight, scale), scale * first.bias + shift)
    if isinstance(first, Scale) and isinstance(second, Affine):
        scale, shift = _spread(first, shape)
        return Affine(_columns(second.weight, scale), second.weight @ shift + second.bias)
    if isinstance(first, Conv2d) and isinstance(second, Scale):
        channels = _per_channel(second, len(first.bias))
        if channels is not None:
            scale, shift = channels
            return replace(first, weight=first.weight * scale[:, None, None, None], bias=scale * first.bias + shift)
    if isinstance(first, Scale) and isinstance(second, Conv2d):
        return _scale_before_conv(first, second)
    return None


def compose(first: Linear, second: Linear, shape: Shape) -> Linear | None:
    """One layer for ``second(first(x))`` where it needs no more weights than the two; None where there is none.

    >>> compose(Affine([[1.0], [2.0]], [0.0, 1.0]), Affine([[1.0, 1.0]], [0.5]), (1,)).bias
    array([1.5])
    """
    if isinstance(second, Reshape) and isinstance(first, Reshape):
        return second
    if isinstance(first, Affine) and isinstance(second, Affine):
        weight = second.weight @ first.weight
        if _count(weight) <= _count(first.weight) + _count(second.weight):
            return Affine(weight, second.weight @ first.bias + second.bias)
        return None
    return fold(first, second, shape)


def _count(weight) -> int:
    return weight.nnz if sp.issparse(weight) else weight.size


def _rows(weight, scale):
    return sp.diags_array(scale) @ weight if sp.issparse(weight) else scale[:, None] * weight


def _columns(weight, scale):
    return weight @ sp.diags_array(scale) if sp.issparse(weight) else weight * scale


def _spread(layer: Scale, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    return np.broadcast_to(layer.scale, shape).ravel(), np.broadcast_to(layer.shift, shape).ravel()


def _per_channel(layer: Scale, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of each channel, where they depend on the channel alone."""
    scale, shift = (part.reshape((1,) * (3 - part.ndim) + part.shape) for part in (layer.scale, layer.shift))
    if {*scale.shape[1:], *shift.shape[1:]} != {1}:
        return None
    return _spread(Scale(scale[:, 0, 0], shift[:, 0, 0]), (channels,))


def _scale_before_conv(first: Scale, second: Conv2d) -> Conv2d | None:
    """Zero padding follows the scaling, so a shift can be folded only where nothing is padded."""
    per_group = second.weight.shape[1]
    channels = _per_channel(first, per_group * second.groups)
    if channels is None or (np.any(channels[1]) and np.any(second.padding)):
        return None
    copies = len(second.bias) // second.groups
    scale, shift = (np.repeat(part.reshape(second.groups, -1), copies, axis=0) for part in channels)
    return replace(
        second,
        weight=second.weight * scale[:, :, None, None],
        bias=second.bias + np.einsum("ocij,oc->o", second.weight, shift),
    )
