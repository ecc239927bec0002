"""What a formulation is handed: the units of one layer whose behaviour is not already decided by their bounds.

The pre-activations are ``a = W x + b`` with incoming Pyomo variables ``x`` and finite bounds ``lower <= a <= upper``.
Whoever embeds a network drops stable units first: where no breakpoint lies inside the bounds the unit is an affine
equation or a constant (Serra et al. 2020), needs no binary and never comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from formulations.rows import Rows, add_variables
from formulations.simplices import checked_simplices


@dataclass(frozen=True, eq=False)
class Layer:
    """Pre-activations ``a = W x + b`` of p units, and their bounds.

    ``name`` and ``kind`` are for messages ("conv1.relu", "ReLU"), ``labels`` (p) index the Pyomo variables; ``weight``
    (p, m) dense or sparse, ``bias`` (p,), ``inputs`` (m) Pyomo variables, ``lower`` and ``upper`` (p,) bound ``a``.
    ``simplices`` are disjoint groups of positions among the inputs that are known to be non-negative and to sum to one.
    Raises ValueError where a bound is missing: there is no default M.
    """

    name: str
    kind: str
    labels: Sequence
    weight: sp.csr_array
    bias: np.ndarray
    inputs: Sequence
    lower: np.ndarray
    upper: np.ndarray
    simplices: Sequence[np.ndarray] = field(default=(), kw_only=True)

    def __post_init__(self):
        object.__setattr__(self, "weight", sp.csr_array(self.weight, dtype=np.float64))
        for name in ("bias", "lower", "upper"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        shapes = {self.bias.shape, self.lower.shape, self.upper.shape, (len(self.labels),)}
        if shapes != {(self.weight.shape[0],)} or self.weight.shape[1] != len(self.inputs):
            raise ValueError(
                f"layer {self.name!r} ({self.kind}): weight {self.weight.shape} against {len(self.inputs)} inputs, "
                f"{len(self.labels)} labels, bias {self.bias.shape}, bounds {self.lower.shape}, {self.upper.shape}"
            )
        bad = np.flatnonzero(~(np.isfinite(self.lower) & np.isfinite(self.upper) & (self.lower <= self.upper)))
        if len(bad):
            raise ValueError(_bad_bounds(self, bad[0]))
        where = f"layer {self.name!r} ({self.kind})"
        object.__setattr__(self, "simplices", checked_simplices(self.simplices, len(self.inputs), where))

    @property
    def size(self) -> int:
        """The number of pre-activations."""
        return len(self.bias)

    @property
    def input_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds (m,) of the incoming variables; ValueError, naming it, where one has none."""
        ends = [(v.value, v.value) if v.fixed and None in v.bounds else v.bounds for v in self.inputs]
        free = [v.name for v, end in zip(self.inputs, ends, strict=True) if None in end]
        if free:
            raise ValueError(
                f"layer {self.name!r} ({self.kind}): variable {free[0]!r} has no finite bounds; give it both"
            )
        low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T
        return low, high

    def add_pre(self, block) -> list:
        """Add ``block.pre`` and the rows ``a = W x + b`` to the block; returns the p variables.

        A pre-activation that is a single incoming variable is that variable: it gets no copy.
        """
        own = np.flatnonzero(self._copied < 0)
        labels = [self.labels[i] for i in own]
        weight = self.weight if len(own) == self.size else self.weight[own]
        add_affine(block, "pre", labels, weight, self.bias[own], self.inputs, self.lower[own], self.upper[own])
        return self.pre_variables(block)

    def pre_variables(self, block) -> list:
        """The p variables that `add_pre` gave."""
        pairs = zip(self._copied, self.labels, strict=True)
        return [self.inputs[j] if j >= 0 else block.pre[label] for j, label in pairs]

    @cached_property
    def _copied(self) -> np.ndarray:
        """For each pre-activation that is a single incoming variable the number of that, else -1."""
        starts = self.weight.indptr
        copied = np.full(self.size, -1)
        single = np.flatnonzero((np.diff(starts) == 1) & (self.bias == 0))
        single = single[self.weight.data[starts[single]] == 1.0]
        copied[single] = self.weight.indices[starts[single]]
        return copied

    def set_pre(self, block, values: np.ndarray) -> None:
        """Set the pre-activations that have variables of their own to these values (p,)."""
        if block.component("pre") is None:
            return
        for label, value in zip(self.labels, values.tolist(), strict=True):
            if label in block.pre:
                block.pre[label].set_value(value, skip_validation=True)


@dataclass(frozen=True, eq=False)
class PiecewiseLinearLayer(Layer):
    """Units ``h = f(a)`` with f piecewise linear: ``slopes[j] a + intercepts[j]`` between breakpoints j and j + 1.

    ``breakpoints`` (k, p) ascending along the first axis, ``slopes`` and ``intercepts`` (k + 1, p).
    """

    breakpoints: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray

    @cached_property
    def jumps(self) -> np.ndarray:
        """The height (k, p) by which f jumps at each breakpoint; 0 where it is continuous."""
        left = self.slopes[:-1] * self.breakpoints + self.intercepts[:-1]
        jumps = self.slopes[1:] * self.breakpoints + self.intercepts[1:] - left
        return np.where(abs(jumps) <= 1e-12 * (1.0 + abs(left)), 0.0, jumps)  # rounding is no jump

    @cached_property
    def crossed(self) -> np.ndarray:
        """Which breakpoints (k, p) a can cross between its bounds, so that f has a piece on either side.

        A jump counts at the ends too, but of two equal breakpoints, which enclose the value at the jump, only the one
        towards the other end.
        """
        twins = self.breakpoints[1:] == self.breakpoints[:-1]
        none = np.zeros((1, self.size), dtype=bool)
        begins, ends = np.vstack([twins, none]), np.vstack([none, twins])
        at_lower, at_upper = self.breakpoints == self.lower, self.breakpoints == self.upper
        inside = (self.lower <= self.breakpoints) & (self.breakpoints <= self.upper)
        return inside & ~(at_lower & (begins | (self.jumps == 0))) & ~(at_upper & (ends | (self.jumps == 0)))

    @cached_property
    def passed(self) -> np.ndarray:
        """Which breakpoints (k, p) lie below a wherever it is between its bounds."""
        twins = np.vstack([np.zeros((1, self.size), dtype=bool), self.breakpoints[1:] == self.breakpoints[:-1]])
        stuck = twins & (self.breakpoints == self.upper)  # a is a point, and its value is what the twins enclose
        return (self.breakpoints <= self.lower) & ~self.crossed & ~stuck

    def take(self, units: np.ndarray) -> PiecewiseLinearLayer:
        """The layer of some of the units alone."""
        if np.array_equal(units, np.arange(self.size)):
            return self
        rows = {name: getattr(self, name)[units] for name in ("weight", "bias", "lower", "upper")}
        pieces = {name: getattr(self, name)[:, units] for name in ("breakpoints", "slopes", "intercepts")}
        return replace(self, labels=[self.labels[i] for i in units], **rows, **pieces)

    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and greatest value (p,) of each unit between its bounds."""
        _, values = self.corners()
        return np.nanmin(values, axis=0), np.nanmax(values, axis=0)

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Points (2 k + 2, p) of the graph whose convex hull contains it: the ends, and both sides of each crossed
        breakpoint.

        Missing points are NaN; the right side of a breakpoint is missing where f is continuous.
        """
        first, last = self.passed.sum(0), (self.passed | self.crossed).sum(0)
        columns = np.arange(self.size)
        ends = [
            self.slopes[j, columns] * a + self.intercepts[j, columns]
            for j, a in ((first, self.lower), (last, self.upper))
        ]
        at = np.where(self.crossed, self.breakpoints, np.nan)
        jumped = np.where(self.jumps != 0, at, np.nan)
        left = self.slopes[:-1] * at + self.intercepts[:-1]
        right = self.slopes[1:] * jumped + self.intercepts[1:]
        points = np.vstack([self.lower, at, jumped, self.upper])
        return points, np.vstack([ends[0], left, right, ends[1]])


@dataclass(frozen=True, eq=False)
class MaxLayer(Layer):
    """Units ``y_i = max of a_j over j in groups[i]``; ``units`` are the labels of their variables."""

    groups: Sequence[np.ndarray]
    units: Sequence


@dataclass(frozen=True, eq=False)
class SmoothLayer(Layer):
    """Units ``h = f(a)`` with f smooth and increasing: ``kind`` is "Sigmoid", "Tanh", or "Softplus" with ``beta``."""

    beta: float = 1.0


@runtime_checkable
class Formulation(Protocol):
    """How a layer becomes variables and rows: what `BigM` and its like have in common."""

    def add(self, block, layer: Layer) -> list:
        """Add the layer's variables and rows to the block; returns the variables of its outputs."""

    def set_values(self, block, layer: Layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""


def add_affine(block, name: str, labels, weight, bias, inputs, lower, upper) -> list:
    """Add variables ``block.name`` with bounds and the rows ``name = W x + b`` as ``block.name_rows``."""
    variables = add_variables(block, name, labels, lower, upper)
    block.add_component(f"{name}_rows", Rows([(1.0, variables), (-weight, inputs)], lower=bias, upper=bias))
    return variables


def not_defined(formulation, layer: Layer, defined_for: str) -> ValueError:
    """The error for a formulation that cannot express a layer."""
    return ValueError(
        f"layer {layer.name!r} ({layer.kind}) has no {type(formulation).__name__} formulation, which is defined for "
        f"{defined_for}; choose another formulation, or train with a piecewise-linear activation"
    )


def _bad_bounds(layer: Layer, i: int) -> str:
    message = (
        f"layer {layer.name!r} ({layer.kind}): unit {layer.labels[i]} has bounds [{layer.lower[i]}, {layer.upper[i]}]"
    )
    columns = layer.weight.indices[layer.weight.indptr[i] : layer.weight.indptr[i + 1]]
    free = [v.name for v in (layer.inputs[j] for j in columns) if v.lb is None or v.ub is None]
    if free:
        return f"{message}, because variable {free[0]!r} has no finite bounds; give it both, there is no default M"
    return f"{message}; they must be finite and in order"
