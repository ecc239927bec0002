"""What every bound method returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyopt.regions import Region


@dataclass(frozen=True, eq=False)
class Interval:
    """``lower <= a <= upper`` entry by entry, two float64 arrays of one shape."""

    lower: np.ndarray
    upper: np.ndarray

    @property
    def center(self) -> np.ndarray:
        """The midpoints."""
        return 0.5 * self.lower + 0.5 * self.upper

    @property
    def radius(self) -> np.ndarray:
        """Half the widths."""
        return 0.5 * self.upper - 0.5 * self.lower


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds on a network over ``region``: arrays of shape (n,), or (batch, n) where the region is a batch.

    ``pre[k]`` bounds the input of the k-th nonlinear layer, ``net.activations[k]``: its inputs flattened and, where it
    has several, joined end to end. ``output`` bounds the flattened output.
    """

    region: Region
    pre: tuple[Interval, ...]
    output: Interval


def both(one: Bounds, other: Bounds) -> Bounds:
    """The better of two bounds everywhere; they hold on what the two regions share, and name the first one's."""
    pre = tuple(_meet(a, b) for a, b in zip(one.pre, other.pre, strict=True))
    return Bounds(one.region, pre, _meet(one.output, other.output))


def _meet(one: Interval, other: Interval) -> Interval:
    lower, upper = np.maximum(one.lower, other.lower), np.minimum(one.upper, other.upper)
    return Interval(np.minimum(lower, upper), np.maximum(lower, upper))  # where the regions share nothing, in order
