"""The linear layers of a network: every map of the form ``y = W x + b``, and what each one can say about itself.

A layer is an immutable value. It does not know its place in a network; a `polyopt.network.Node` gives it a name, its
inputs and their shapes. Shapes never include the batch dimension: an image is ``(channels, height, width)``, a batch
of images ``(batch, channels, height, width)``.

Every linear layer answers three questions, and everything built on networks asks only these:

- ``layer(*arrays)``: the value on a batch,
- ``layer.operators(*shapes)``: the matrices ``W_k`` (one for each input, dense or scipy sparse) on flattened arrays,
- ``layer.absolute()``: the layer with ``|W|`` in place of ``W`` and without ``b``, which maps radii to radii.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from polyopt.windows import Padding, Pair, Shape, window_indices, windows, windows_shape


def frozen(values) -> np.ndarray:
    """A read-only float64 copy, so that a network cannot be changed behind the bounds computed from it."""
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


def flat(x: np.ndarray) -> np.ndarray:
    """Each point of a batch as one row, also where the batch is empty."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def broadcasts(shape: Shape, *arrays: np.ndarray) -> bool:
    """Whether arrays broadcast to this very shape."""
    try:
        return np.broadcast_shapes(shape, *(array.shape for array in arrays)) == tuple(shape)
    except ValueError:
        return False


class Layer:
    """A function from the arrays of one or more inputs to one array, batch dimension first."""

    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape of the output for inputs of these shapes; ValueError where they do not fit."""
        raise NotImplementedError

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The values, shape (batch, *output_shape), at inputs of shape (batch, *shape)."""
        raise NotImplementedError


class Linear(Layer):
    """A layer ``y = sum_k W_k x_k + b`` on flattened inputs ``x_k``."""

    def operators(self, *shapes: Shape) -> tuple[np.ndarray | sp.csr_array, ...]:
        """The matrices ``W_k`` of shape (output size, size of input k)."""
        raise NotImplementedError

    def offset(self, *shapes: Shape) -> np.ndarray:
        """The vector ``b`` of shape (output size,)."""
        return self(*(np.zeros((1, *shape)) for shape in shapes)).reshape(-1)

    def absolute(self) -> Linear:
        """The layer ``y = sum_k |W_k| x_k``."""
        return self


@dataclass(frozen=True, eq=False)
class Affine(Linear):
    """``y = W x + b`` on the flattened input; ``weight`` (n_out, n_in) is dense or scipy sparse, ``bias`` (n_out,).

    >>> Affine([[1.0, -2.0]], [3.0])(np.array([[1.0, 1.0]]))
    array([[2.]])
    """

    weight: np.ndarray | sp.csr_array
    bias: np.ndarray

    def __post_init__(self):
        sparse = sp.issparse(self.weight)
        weight = sp.csr_array(self.weight, dtype=np.float64) if sparse else frozen(self.weight)
        if weight.ndim != 2:
            raise ValueError(f"Affine: weight has shape {weight.shape}, but must be (n_out, n_in)")
        bias = frozen(np.zeros(weight.shape[0]) if self.bias is None else self.bias)
        if bias.shape != (weight.shape[0],):
            raise ValueError(
                f"Affine: bias has shape {bias.shape}, weight {weight.shape}; they must be (n_out,), (n_out, n_in)"
            )
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)

    def output_shape(self, *shapes):
        (shape,) = shapes
        if math.prod(shape) != self.weight.shape[1]:
            raise ValueError(f"Affine: weight {self.weight.shape} does not apply to {math.prod(shape)} inputs")
        return (self.weight.shape[0],)

    def __call__(self, *arrays):
        (x,) = arrays
        # a sparse matrix multiplies from the left only
        y = (self.weight @ flat(x).T).T if sp.issparse(self.weight) else flat(x) @ self.weight.T
        return y + self.bias

    def operators(self, *shapes):
        return (self.weight,)

    def absolute(self):
        return Affine(abs(self.weight), None)


@dataclass(frozen=True, eq=False)
class Scale(Linear):
    """``y = scale * x + shift`` elementwise; both are broadcast to the input's shape, as (C, 1, 1) to an image.

    BatchNorm in evaluation mode and arithmetic with constants are of this kind until they are folded into a neighbour.

    >>> Scale(2.0, 1.0)(np.array([[1.0, 2.0]]))
    array([[3., 5.]])
    """

    scale: np.ndarray
    shift: np.ndarray = 0.0

    def __post_init__(self):
        object.__setattr__(self, "scale", frozen(self.scale))
        object.__setattr__(self, "shift", frozen(self.shift))

    def output_shape(self, *shapes):
        (shape,) = shapes
        if not broadcasts(shape, self.scale, self.shift):
            raise ValueError(f"Scale: {self.scale.shape} and {self.shift.shape} do not broadcast to {shape}")
        return shape

    def __call__(self, *arrays):
        return arrays[0] * self.scale + self.shift

    def operators(self, *shapes):
        return (sp.diags_array(np.broadcast_to(self.scale, shapes[0]).ravel(), format="csr"),)

    def absolute(self):
        return Scale(abs(self.scale))


@dataclass(frozen=True, eq=False)
class Conv2d(Linear):
    """Two-dimensional cross-correlation with zero padding, as torch and ONNX define it.

    ``weight`` (out channels, in channels / groups, kernel height, kernel width), ``bias`` (out channels,).
    ``padding`` is ((top, bottom), (left, right)).
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    stride: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self):
        weight = frozen(self.weight)
        if weight.ndim != 4 or weight.shape[0] % self.groups:
            raise ValueError(
                f"Conv2d: weight has shape {weight.shape} with groups={self.groups}, but must be "
                "(out channels, in channels / groups, height, width) with out channels a multiple of groups"
            )
        bias = frozen(np.zeros(len(weight)) if self.bias is None else self.bias)
        if bias.shape != (len(weight),):
            raise ValueError(f"Conv2d: bias has shape {bias.shape}, but there are {len(weight)} output channels")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)

    @property
    def kernel(self) -> Pair:
        """Height and width of the kernel."""
        return self.weight.shape[2:]

    def output_shape(self, *shapes):
        (shape,) = shapes
        channels = self.weight.shape[1] * self.groups
        if len(shape) != 3 or shape[0] != channels:
            raise ValueError(f"Conv2d: needs an input ({channels}, height, width), but gets {shape}")
        return (len(self.weight), *windows_shape(self, shape))

    def __call__(self, *arrays):
        patches = windows(self, arrays[0])  # (batch, C, H', W', kh, kw)
        grouped = patches.reshape(len(patches), self.groups, self.weight.shape[1], *patches.shape[2:])
        kernels = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
        y = np.einsum("bgchwij,gocij->bgohw", grouped, kernels, optimize=True)
        return y.reshape(len(y), len(self.weight), *y.shape[3:]) + self.bias[:, None, None]

    def operators(self, *shapes):
        (shape,) = shapes
        source = window_indices(self, shape)  # (C, H', W', kh, kw)
        source = source.reshape(self.groups, 1, -1, *source.shape[1:])
        kernels = self.weight.reshape(self.groups, -1, self.weight.shape[1], 1, 1, *self.kernel)
        full = np.broadcast_shapes(source.shape, kernels.shape)  # (g, o, c, H', W', kh, kw)
        target = np.arange(math.prod(self.output_shape(shape))).reshape(full[0], full[1], 1, *full[3:5], 1, 1)
        return (_sparse(kernels, target, source, full, (target.size, math.prod(shape))),)

    def absolute(self):
        return replace(self, weight=abs(self.weight), bias=None)


@dataclass(frozen=True, eq=False)
class AvgPool2d(Linear):
    """Mean over windows; ``count_include_pad`` says whether zeros of the padding count in the mean."""

    kernel: Pair
    stride: Pair
    padding: Padding = ((0, 0), (0, 0))
    count_include_pad: bool = True
    dilation = (1, 1)

    def output_shape(self, *shapes):
        shape = (shapes[0][0], *windows_shape(self, shapes[0]))
        if not np.all(self.counts(shapes[0])):
            raise ValueError(f"AvgPool2d: padding {self.padding} leaves windows of kernel {self.kernel} empty")
        return shape

    def __call__(self, *arrays):
        total = windows(self, arrays[0]).sum((-1, -2))
        return total / self.counts(arrays[0].shape[1:])

    def counts(self, shape: Shape) -> np.ndarray:
        """The divisor of each window: (height, width) of the output, or a scalar where all are equal."""
        if self.count_include_pad:
            return np.asarray(float(math.prod(self.kernel)))
        return windows(self, np.ones((1, 1, *shape[1:]))).sum((-1, -2))[0, 0]

    def operators(self, *shapes):
        (shape,) = shapes
        source = window_indices(self, shape)
        target = np.arange(math.prod(self.output_shape(shape))).reshape(*source.shape[:3], 1, 1)
        entries = np.broadcast_to(1.0 / self.counts(shape), source.shape[1:3])[:, :, None, None]
        return (_sparse(entries, target, source, source.shape, (target.size, math.prod(shape))),)


@dataclass(frozen=True, eq=False)
class Reshape(Linear):
    """The same numbers, in row-major order, in another shape; flattening is ``Reshape((n,))``."""

    shape: Shape

    def output_shape(self, *shapes):
        (shape,) = shapes
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"Reshape: {math.prod(shape)} numbers of shape {shape} do not fill {self.shape}")
        return tuple(self.shape)

    def __call__(self, *arrays):
        return arrays[0].reshape(len(arrays[0]), *self.shape)

    def operators(self, *shapes):
        return (sp.eye_array(math.prod(shapes[0]), format="csr"),)


@dataclass(frozen=True, eq=False)
class Add(Linear):
    """The sum of two or more inputs of one shape, as at the end of a residual block."""

    def output_shape(self, *shapes):
        if len(set(map(tuple, shapes))) != 1:
            raise ValueError(f"Add: the inputs must have one shape, but have {', '.join(map(str, shapes))}")
        return shapes[0]

    def __call__(self, *arrays):
        return sum(arrays[1:], start=arrays[0])

    def operators(self, *shapes):
        return tuple(sp.eye_array(math.prod(shape), format="csr") for shape in shapes)


@dataclass(frozen=True, eq=False)
class Concat(Linear):
    """The inputs side by side along ``axis`` (0 is the first axis after the batch)."""

    axis: int = 0

    def output_shape(self, *shapes):
        rest = {(*shape[: self.axis], *shape[self.axis + 1 :]) for shape in shapes}
        if len(rest) != 1 or not 0 <= self.axis < len(shapes[0]):
            raise ValueError(f"Concat: shapes {', '.join(map(str, shapes))} do not join along axis {self.axis}")
        return (*shapes[0][: self.axis], sum(s[self.axis] for s in shapes), *shapes[0][self.axis + 1 :])

    def __call__(self, *arrays):
        return np.concatenate(arrays, axis=self.axis + 1)

    def operators(self, *shapes):
        size = math.prod(self.output_shape(*shapes))
        place = np.arange(size).reshape(self.output_shape(*shapes))
        parts = np.split(place, np.cumsum([s[self.axis] for s in shapes])[:-1], axis=self.axis)
        return tuple(selection(part.ravel(), size).T.tocsr() for part in parts)


@dataclass(frozen=True, eq=False)
class Constant(Linear):
    """A fixed array; it has no inputs."""

    value: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "value", frozen(self.value))

    def output_shape(self, *shapes):
        return self.value.shape

    def __call__(self, *arrays):
        return self.value[None]

    def operators(self, *shapes):
        return ()

    def absolute(self):
        return Constant(np.zeros_like(self.value))


def selection(indices: np.ndarray, size: int) -> sp.csr_array:
    """The matrix whose row i picks entry ``indices[i]`` of a vector of length ``size``, or nothing if it is negative.

    Transposing, slicing, gathering and zero-padding an array are this matrix on the flattened array.

    >>> selection(np.array([2, -1, 0]), 3).toarray()
    array([[0., 0., 1.],
           [0., 0., 0.],
           [1., 0., 0.]])
    """
    rows = np.flatnonzero(indices >= 0)
    entries = (np.ones(len(rows)), (rows, indices[rows]))
    return sp.csr_array(entries, shape=(len(indices), size))


def _sparse(entries, rows, columns, full: Shape, shape: Pair) -> sp.csr_array:
    """A matrix from entries, rows and columns that broadcast to one shape; column -1 is the padding."""
    entries, rows, columns = (np.broadcast_to(part, full).ravel() for part in (entries, rows, columns))
    inside = columns >= 0
    return sp.csr_array((entries[inside], (rows[inside], columns[inside])), shape=shape)
