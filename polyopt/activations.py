"""The nonlinear layers: piecewise-linear and smooth functions of one number, and maxima over groups.

A piecewise-linear function with breakpoints ``t_1 <= ... <= t_k`` is ``slopes[i] * a + intercepts[i]`` between
``t_i`` and ``t_{i+1}`` (with ``t_0 = -inf``, ``t_{k+1} = inf``). Bounds and formulations work from these
numbers alone, so a new function of this kind needs nothing but its `Pieces`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from polyopt.layers import Layer, broadcasts, flat, frozen
from polyopt.windows import Padding, Pair, Shape, window_indices, windows_shape


class Pieces(NamedTuple):
    """The linear pieces of n functions: breakpoints (k, n), slopes (k + 1, n), intercepts (k + 1, n).

    Equal breakpoints enclose a piece of length zero: the value of a discontinuous function at its jump.
    """

    breakpoints: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The values (k, n) at the breakpoints by the pieces before them and by those after them."""
        with np.errstate(over="ignore", invalid="ignore"):
            before = self.slopes[:-1] * self.breakpoints + self.intercepts[:-1]
            return before, self.slopes[1:] * self.breakpoints + self.intercepts[1:]

    @property
    def jumps(self) -> np.ndarray:
        """Which functions (n,) are discontinuous, beyond rounding."""
        before, after = self.ends
        apart = np.isfinite(self.breakpoints) & (before != after)
        if apart.any():
            apart &= ~np.isclose(before, after, rtol=1e-9, atol=1e-12)
        return apart.any(0)


class Activation(Layer):
    """A function applied to each number by itself."""

    def output_shape(self, *shapes):
        return shapes[0]


class PiecewiseLinear(Activation):
    """An activation with finitely many linear pieces."""

    def pieces(self, shape: Shape) -> Pieces:
        """The pieces of each entry of a flattened input of this shape."""
        raise NotImplementedError


def _pieces(shape: Shape, breakpoints, slopes, intercepts) -> Pieces:
    """Scalars or arrays of the input's shape as the columns of a Pieces."""
    size = math.prod(shape)

    def rows(values):
        each = [np.broadcast_to(np.asarray(v, dtype=np.float64), shape).ravel() for v in values]
        return np.array(each).reshape(len(each), size)

    tables = breakpoints, slopes, intercepts
    if any(np.ndim(value) for table in tables for value in table):
        return Pieces(*map(rows, tables))
    return _equal_pieces(size, *(tuple(map(float, table)) for table in tables))


@lru_cache(maxsize=256)
def _equal_pieces(size: int, *tables: tuple[float, ...]) -> Pieces:
    """The pieces of so many equal functions; they are asked for again and again."""
    return Pieces(*(frozen(np.repeat(np.array(table)[:, None], size, axis=1)) for table in tables))


@dataclass(frozen=True, eq=False)
class ReLU(PiecewiseLinear):
    """``max(a, 0)``."""

    def __call__(self, *arrays):
        return np.maximum(arrays[0], 0.0)

    def pieces(self, shape):
        return _pieces(shape, [0.0], [0.0, 1.0], [0.0, 0.0])


@dataclass(frozen=True, eq=False)
class LeakyReLU(PiecewiseLinear):
    """``a`` where positive, ``slope * a`` elsewhere."""

    slope: float = 0.01

    def __call__(self, *arrays):
        return np.where(arrays[0] > 0, arrays[0], self.slope * arrays[0])

    def pieces(self, shape):
        return _pieces(shape, [0.0], [self.slope, 1.0], [0.0, 0.0])


@dataclass(frozen=True, eq=False)
class PReLU(PiecewiseLinear):
    """``a`` where positive, ``slope * a`` elsewhere, with slopes that broadcast to the input's shape."""

    slope: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "slope", frozen(self.slope))

    def output_shape(self, *shapes):
        if not broadcasts(shapes[0], self.slope):
            raise ValueError(f"PReLU: slopes of shape {self.slope.shape} do not broadcast to the input's {shapes[0]}")
        return shapes[0]

    def __call__(self, *arrays):
        return np.where(arrays[0] > 0, arrays[0], self.slope * arrays[0])

    def pieces(self, shape):
        return _pieces(shape, [0.0], [self.slope, 1.0], [0.0, 0.0])


@dataclass(frozen=True, eq=False)
class Clip(PiecewiseLinear):
    """``min(max(a, lower), upper)``; either end may be infinite. ReLU6 is ``Clip(0, 6)``, HardTanh ``Clip(-1, 1)``."""

    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self):
        if not self.lower <= self.upper:
            raise ValueError(f"Clip: lower {self.lower} must not exceed upper {self.upper}")

    def __call__(self, *arrays):
        return np.clip(arrays[0], self.lower, self.upper)

    def pieces(self, shape):
        breakpoints, slopes, intercepts = [], [1.0], [0.0]
        if math.isfinite(self.lower):
            breakpoints, slopes, intercepts = [self.lower], [0.0, 1.0], [self.lower, 0.0]
        if math.isfinite(self.upper):
            breakpoints, slopes, intercepts = [*breakpoints, self.upper], [*slopes, 0.0], [*intercepts, self.upper]
        return _pieces(shape, breakpoints, slopes, intercepts)


@dataclass(frozen=True, eq=False)
class HardSigmoid(PiecewiseLinear):
    """``min(max(alpha * a + beta, 0), 1)`` with ``alpha > 0``."""

    alpha: float = 1 / 6
    beta: float = 0.5

    def __post_init__(self):
        if not self.alpha > 0:
            raise ValueError(f"HardSigmoid: alpha is {self.alpha}, but must be positive")

    def __call__(self, *arrays):
        return np.clip(self.alpha * arrays[0] + self.beta, 0.0, 1.0)

    def pieces(self, shape):
        ends = [-self.beta / self.alpha, (1.0 - self.beta) / self.alpha]
        return _pieces(shape, ends, [0.0, self.alpha, 0.0], [0.0, self.beta, 1.0])


@dataclass(frozen=True, eq=False)
class Abs(PiecewiseLinear):
    """``|a|``."""

    def __call__(self, *arrays):
        return abs(arrays[0])

    def pieces(self, shape):
        return _pieces(shape, [0.0], [-1.0, 1.0], [0.0, 0.0])


@dataclass(frozen=True, eq=False)
class Sign(PiecewiseLinear):
    """-1, 0 or 1."""

    def __call__(self, *arrays):
        return np.sign(arrays[0])

    def pieces(self, shape):
        return _pieces(shape, [0.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Step(PiecewiseLinear):
    """0 where negative, 1 where positive, ``at_zero`` at zero (a linear threshold unit)."""

    at_zero: float = 1.0

    def __call__(self, *arrays):
        return np.heaviside(arrays[0], self.at_zero)

    def pieces(self, shape):
        return _pieces(shape, [0.0, 0.0], [0.0, 0.0, 0.0], [0.0, self.at_zero, 1.0])


class Smooth(Activation):
    """An increasing differentiable activation."""


@dataclass(frozen=True, eq=False)
class Sigmoid(Smooth):
    """``1 / (1 + exp(-a))``."""

    def __call__(self, *arrays):
        return expit(arrays[0])


@dataclass(frozen=True, eq=False)
class Tanh(Smooth):
    """``tanh(a)``."""

    def __call__(self, *arrays):
        return np.tanh(arrays[0])


@dataclass(frozen=True, eq=False)
class Softplus(Smooth):
    """``log(1 + exp(beta * a)) / beta`` with ``beta > 0``."""

    beta: float = 1.0

    def __post_init__(self):
        if not self.beta > 0:
            raise ValueError(f"Softplus: beta is {self.beta}, but must be positive")

    def __call__(self, *arrays):
        return np.logaddexp(0.0, self.beta * arrays[0]) / self.beta


class GroupMax(Layer):
    """``y_i = max of x_j over j in group i``, on the flattened inputs joined end to end."""

    def groups(self, *shapes: Shape) -> np.ndarray:
        """Indices (output size, k) into the joined inputs; a smaller group repeats one of its members."""
        raise NotImplementedError

    def __call__(self, *arrays):
        joined = np.concatenate([flat(x) for x in arrays], axis=1)
        shapes = [x.shape[1:] for x in arrays]
        return joined[:, self.groups(*shapes)].max(-1).reshape(len(joined), *self.output_shape(*shapes))


@dataclass(frozen=True, eq=False)
class Max(GroupMax):
    """The elementwise maximum of two or more inputs of one shape."""

    def output_shape(self, *shapes):
        if len(set(map(tuple, shapes))) != 1:
            raise ValueError(f"Max: the inputs must have one shape, but have {', '.join(map(str, shapes))}")
        return shapes[0]

    def groups(self, *shapes):
        return np.arange(len(shapes) * math.prod(shapes[0])).reshape(len(shapes), -1).T


@dataclass(frozen=True, eq=False)
class Maxout(GroupMax):
    """The maximum over ``pieces`` consecutive entries of a flat input, (n * pieces,) to (n,)."""

    pieces: int

    def output_shape(self, *shapes):
        (shape,) = shapes
        if len(shape) != 1 or self.pieces < 1 or shape[0] % self.pieces:
            raise ValueError(f"Maxout: an input of shape {shape} does not split into groups of {self.pieces}")
        return (shape[0] // self.pieces,)

    def groups(self, *shapes):
        return np.arange(shapes[0][0]).reshape(-1, self.pieces)


@dataclass(frozen=True, eq=False)
class MaxPool2d(GroupMax):
    """The maximum over windows; the padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)

    def output_shape(self, *shapes):
        return (shapes[0][0], *windows_shape(self, shapes[0]))

    def groups(self, *shapes):
        members = window_indices(self, shapes[0]).reshape(-1, math.prod(self.kernel))
        if (members.max(1) < 0).any():
            raise ValueError(f"MaxPool2d: padding {self.padding} leaves windows of kernel {self.kernel} empty")
        return np.where(members < 0, members.max(1, keepdims=True), members)
