"""The windows of an image that a convolution or a pooling layer sees.

A layer with ``kernel``, ``stride``, ``padding`` and ``dilation`` places its kernel at regular steps over the padded
image. Output entry (i, j) depends on the window placed there.
"""

from __future__ import annotations

import math

import numpy as np

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right))


def windows_shape(layer, shape: Shape) -> Pair:
    """Output height and width of a layer with kernel, stride, padding and dilation on images of this shape."""
    if len(shape) != 3:
        raise ValueError(f"{type(layer).__name__}: needs an input (channels, height, width), but gets {shape}")
    sizes = []
    for size, kernel, stride, pad, dilation in zip(
        shape[1:], layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True
    ):
        room = size + sum(pad) - dilation * (kernel - 1) - 1
        if room < 0:
            raise ValueError(f"{type(layer).__name__}: kernel {layer.kernel} does not fit an input {shape}")
        sizes.append(room // stride + 1)
    return tuple(sizes)


def windows(layer, x: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """All windows of a batch of images: a view of shape (batch, C, H', W', kernel height, kernel width)."""
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel, strict=True)]
    padded = np.pad(x, ((0, 0), (0, 0), *layer.padding), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    (sy, sx), (dy, dx) = layer.stride, layer.dilation
    return view[:, :, ::sy, ::sx, ::dy, ::dx]


def window_indices(layer, shape: Shape) -> np.ndarray:
    """The flat input index of each entry of each window, -1 in the padding: (C, H', W', kh, kw)."""
    return windows(layer, np.arange(math.prod(shape)).reshape(1, *shape), fill=-1)[0]
