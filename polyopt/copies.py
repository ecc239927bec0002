"""Copies of one network, one for each index of a Pyomo block: their inputs, and bounds on all of them at once.

Time steps, units of a plant and nodes of a grid often share one surrogate. Its affine maps are then composed once, and
the bounds of all copies are one batch: one pass through the network over an array of boxes. Copies whose inputs range
over the same box share one row of that batch, and its result.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from pyomo.core.base.block import BlockData, IndexedBlock

from polyopt.bounds.interval import interval
from polyopt.bounds.result import Bounds, Interval, both
from polyopt.inputs import input_ranges
from polyopt.network import Network
from polyopt.regions import Box, Region


@dataclass(eq=False)
class Copy:
    """One block and the inputs of its network; ``ranges`` (n_in, 2). A block by itself has no index."""

    block: BlockData
    index: Hashable
    inputs: list
    ranges: np.ndarray

    @property
    def box(self) -> Box:
        """The box of the inputs' bounds."""
        return Box(*self.ranges.T)


@contextmanager
def naming(index: Hashable) -> Iterator[None]:
    """Within it a ValueError says which copy it is about."""
    try:
        yield
    except ValueError as error:
        if index is None:
            raise
        raise ValueError(f"copy {index!r}: {error}") from error


def read_copies(block: BlockData | IndexedBlock, net: Network, inputs, region: Region | None = None) -> list[Copy]:
    """The copies that a block, or each block of an indexed one, is to hold; ValueError where inputs do not fit.

    >>> from polyopt.activations import ReLU
    >>> m = pyo.ConcreteModel()
    >>> m.x, m.net = pyo.Var(range(2), bounds=(-1, 1)), pyo.Block(range(2))
    >>> net = Network.sequential([ReLU()], (1,))
    >>> [copy.block.name for copy in read_copies(m.net, net, {t: [m.x[t]] for t in m.net})]
    ['net[0]', 'net[1]']
    """
    if not isinstance(block, IndexedBlock):
        return [_read(block, None, net, inputs, region)]
    if not isinstance(inputs, Mapping):
        raise ValueError(
            f"add_network: {block.name!r} is an indexed block, but inputs is a {type(inputs).__name__}; give a mapping "
            "from its indices to the inputs of each copy, as in {t: [m.x[t, 0], m.x[t, 1]] for t in m.net}"
        )
    for index in [*inputs, *block]:
        if index not in inputs or index not in block:
            there, missing = ("inputs", "the block") if index in inputs else ("the block", "inputs")
            raise ValueError(f"add_network: {there} has index {index!r}, but {missing} has not; give equal indices")
    copies = []
    for index in block:
        with naming(index):
            copies.append(_read(block[index], index, net, inputs[index], region))
    return copies


def bounds_of(copies: list[Copy], net: Network, bounds: str | Bounds, region: Region | None) -> list[Bounds]:
    """The bounds of each copy, over its own box: computed as `add_network` is told, or those it was given, checked."""
    if isinstance(bounds, Bounds):
        for copy in copies:
            with naming(copy.index):
                _check(bounds, net, copy.box)
        return [bounds] * len(copies)
    found = bounds_over(net, np.stack([copy.ranges for copy in copies]), bounds)
    if isinstance(region, Box | None):
        return found
    within = _method(bounds)(net, region)
    return [both(own, within) for own in found]


def bounds_over(net: Network, ranges: np.ndarray, method: str = "crown") -> list[Bounds]:
    """Bounds over each of the boxes ``ranges`` (k, n_in, 2), one batch for all that differ; equal boxes share theirs.

    >>> from polyopt.activations import ReLU
    >>> net = Network.sequential([ReLU()], (1,))
    >>> one, other, again = bounds_over(net, np.array([[[-1.0, 1.0]], [[-2.0, 0.5]], [[-1.0, 1.0]]]), "interval")
    >>> one.output, other.output, one is again
    (Interval(lower=array([0.]), upper=array([1.])), Interval(lower=array([0.]), upper=array([0.5])), True)
    """
    boxes, which = np.unique(ranges, axis=0, return_inverse=True)
    found = _method(method)(net, Box(boxes[..., 0], boxes[..., 1]))
    each = [_entry(found, k) for k in range(len(boxes))]
    return [each[k] for k in which.ravel()]


def _read(block: BlockData, index: Hashable, net: Network, inputs, region: Region | None) -> Copy:
    expressions = list(inputs.values()) if isinstance(inputs, pyo.Var) else list(inputs)
    if len(expressions) != net.input_size:
        raise ValueError(f"add_network: {len(expressions)} inputs are given, but the network has {net.input_size}")
    return Copy(block, index, expressions, input_ranges(expressions, region))


def _method(name: str):
    if name == "interval":
        return interval
    if name == "crown":
        from polyopt.bounds.crown import crown  # torch

        return crown
    raise ValueError(f"add_network: bounds={name!r} is unknown; choose 'crown', 'interval' or give Bounds")


def _entry(batch: Bounds, k: int) -> Bounds:
    """The bounds over one box of a batch."""
    box = Box(batch.region.lower[k], batch.region.upper[k])
    *pre, output = (Interval(side.lower[k], side.upper[k]) for side in (*batch.pre, batch.output))
    return Bounds(box, tuple(pre), output)


def _check(bounds: Bounds, net: Network, box: Box) -> None:
    """ValueError where bounds that the caller gives do not fit the network or its inputs."""
    sizes = [len(layer.lower) for layer in (*bounds.pre, bounds.output)]
    expected = [node.input_size for node in net.activations] + [net.output_size]
    if sizes != expected or bounds.region.size != net.input_size:
        raise ValueError(f"add_network: the bounds are for layers of sizes {sizes}, but the network has {expected}")
    if not isinstance(bounds.region, Box):
        return
    outside = np.flatnonzero((box.lower < bounds.region.lower) | (box.upper > bounds.region.upper))
    if len(outside):
        i = outside[0]
        raise ValueError(
            f"add_network: input {i} ranges over [{box.lower[i]}, {box.upper[i]}], but the bounds were computed "
            f"for [{bounds.region.lower[i]}, {bounds.region.upper[i]}]; compute them over the inputs' own bounds"
        )
