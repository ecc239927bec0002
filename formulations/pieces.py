"""The pieces of a layer's units between their bounds: what big-M, partition and cut formulations all work from.

Unit i is linear with slope ``s_0`` and intercept ``c_0`` below its first crossed breakpoint. Each crossed breakpoint
t_j begins a segment, up to the next one or to the unit's upper bound, with slope ``s_j`` and intercept ``c_j``. The
binary sigma_j is 1 when a has passed t_j, so that ``lambda_j = sigma_j - sigma_{j+1}`` says that a lies in segment j,
and ``lambda_0 = 1 - sigma_1`` that it lies below all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from formulations.layer import PiecewiseLinearLayer


@dataclass(frozen=True, eq=False)
class Pieces:
    """The segments of all units, unit by unit in ascending order: arrays (s,), or (p,) where of the units."""

    labels: list  # of the segments' variables
    unit: np.ndarray
    start: np.ndarray
    length: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    jump: np.ndarray  # by which f jumps at the start
    first: np.ndarray  # whether a segment is its unit's lowest
    base_slope: np.ndarray  # (p,) below all segments
    base_intercept: np.ndarray  # (p,)

    @property
    def count(self) -> int:
        """The number of segments."""
        return len(self.unit)

    @property
    def gain(self) -> np.ndarray:
        """How much steeper than the unit's lowest piece each segment is."""
        return self.slope - self.base_slope[self.unit]

    @property
    def last(self) -> np.ndarray:
        """Whether a segment is its unit's highest."""
        return np.append(self.first[1:], True)

    def per_unit(self, coefficients=1.0) -> sp.csr_array:
        """The matrix (p, s) that sums the segments of each unit with these coefficients."""
        entries = np.broadcast_to(coefficients, self.unit.shape)
        shape = (len(self.base_slope), self.count)
        return sp.csr_array((entries, (self.unit, np.arange(self.count))), shape=shape)

    def inside(self) -> sp.csr_array:
        """The matrix (s, s) that makes of the sigmas the lambdas."""
        next_one = sp.diags_array((~self.last[:-1]).astype(float), offsets=1, shape=(self.count, self.count))
        return sp.csr_array(sp.eye_array(self.count) - next_one)

    def from_here(self) -> sp.csr_array:
        """The matrix (s, s) that sums for each segment all of its unit's from it upwards: the inverse of `inside`."""
        step = sp.eye_array(self.count, format="csr") - self.inside()
        total = power = sp.eye_array(self.count, format="csr")
        for _ in range(np.bincount(self.unit).max(initial=1) - 1):
            power = power @ step
            total = total + power
        return total

    def passed(self, pre: np.ndarray) -> np.ndarray:
        """The sigmas (s,) of pre-activations (p,)."""
        return (pre[self.unit] > self.start).astype(float)

    def filled(self, pre: np.ndarray) -> np.ndarray:
        """How much of each segment (s,) lies below pre-activations (p,)."""
        return np.clip(pre[self.unit] - self.start, 0.0, self.length)

    def value(self, pre: np.ndarray) -> np.ndarray:
        """f (p,) of pre-activations (p,), taken from below where it jumps."""
        rise = self.gain * self.filled(pre) + self.jump * self.passed(pre)
        return self.base_slope * pre + self.base_intercept + self.per_unit() @ rise


def pieces(layer: PiecewiseLinearLayer) -> Pieces:
    """The pieces of a layer all of whose units cross a breakpoint."""
    unit, number = np.nonzero(layer.crossed.T)
    start = layer.breakpoints[number, unit]
    first = np.insert(unit[1:] != unit[:-1], 0, True)
    end = np.where(np.append(first[1:], True), layer.upper[unit], np.append(start[1:], 0.0))
    lowest, units = number[first], np.arange(layer.size)
    single = len(layer.breakpoints) == 1
    labels = [layer.labels[i] if single else (layer.labels[i], int(j) + 1) for i, j in zip(unit, number, strict=True)]
    return Pieces(
        labels=labels,
        unit=unit,
        start=start,
        length=end - start,
        slope=layer.slopes[number + 1, unit],
        intercept=layer.intercepts[number + 1, unit],
        jump=layer.jumps[number, unit],
        first=first,
        base_slope=layer.slopes[lowest, units],
        base_intercept=layer.intercepts[lowest, units],
    )
