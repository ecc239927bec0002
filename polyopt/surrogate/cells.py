"""A network whose inputs lie in one of several boxes, as where a choice is made from a list.

A *cover* is a batch of boxes and as many *picks*: pick w_k is 1 where the inputs lie in box k, else 0. With bounds
``L_k <= net(x) <= U_k`` for all x of ``box_k = [l_k, u_k]``,

    sum_k w_k = 1,    sum_k l_k w_k <= x <= sum_k u_k w_k,    sum_k L_k w_k <= y <= sum_k U_k w_k

hold for ``y = net(x)``, and a unit that the boxes' bounds leave on one piece, all boxes together, needs no binary:

    min_k L_k <= a <= max_k U_k    for its pre-activation a.

Over boxes that are points the rows leave, relaxed, the convex hull of the points (x, net(x)), up to rounding; the
smaller the boxes, the closer to that. Several covers of the same inputs, such as one for each two of the inputs, hold
together.

They are the disjunction of the boxes of inputs and outputs, whose copies of x and y are summed: Balas, "Disjunctive
programming", Annals of Discrete Mathematics 1979 (see `polyopt.surrogate.union`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyomo.environ as pyo
from pyomo.core.base.block import BlockData, IndexedBlock

from formulations import Rows
from polyopt.bounds.alpha import alpha_crown
from polyopt.bounds.crown import crown
from polyopt.bounds.result import Bounds, Interval, both
from polyopt.embed import DEFAULT, Choice, add_network
from polyopt.inputs import input_ranges, is_variable
from polyopt.network import Network
from polyopt.regions import Box

Cover = tuple[Box, Sequence]


def add_cells(block: BlockData, net: Network, inputs, covers: Sequence[Cover], formulation: Choice = DEFAULT) -> list:
    """Add ``outputs = net(inputs)`` to a Pyomo block, the inputs in one box of each cover; returns the outputs, n_out.

    ``covers`` is a list of pairs: a batch of boxes (K, n_in) of the inputs, and K Pyomo variables, the picks, which the
    model makes 0 or 1: binaries, or variables in [0, 1] that equations with binaries force to that. The block states,
    as ``block.cells[c]`` for cover c, that one pick is 1, that the inputs lie in its box, and that the outputs keep to
    the bounds over it: by CROWN where all boxes are points, else by alpha-CROWN. The network's rows rest on that, so it
    must stay in the model. ``block.cells[c].bounds`` are these bounds, a batch over the boxes, for other rows.

    ``inputs`` and ``formulation`` are those of `polyopt.add_network`, and so are `polyopt.summary`,
    `polyopt.replay_error` and, for all variables but the picks, `polyopt.set_point` for the block. Inputs that have
    no bounds get those of the boxes.

    Raises ValueError where a cover is not a batch of boxes with a pick in [0, 1] for each, where boxes and inputs do
    not fit each other or the network, and where `add_network` does. The block is then left as it was.

    >>> from polyopt import summary
    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], None)], (1,))  # |x|
    >>> m = pyo.ConcreteModel()
    >>> m.x, m.net, m.pick = pyo.Var(), pyo.Block(), pyo.Var(range(3), domain=pyo.Binary)
    >>> prices = [[-2.0], [-1.0], [3.0]]
    >>> (y,) = add_cells(m.net, net, [m.x], [(Box(prices, prices), m.pick)])
    >>> summary(m.net).unstable, m.net.cells[0].bounds.output.upper.ravel().round(12)
    (2, array([2., 1., 3.]))
    """
    covers = _checked(block, net, covers)
    inputs = list(inputs.values()) if isinstance(inputs, pyo.Var) else list(inputs)
    if len(inputs) != net.input_size:
        raise ValueError(f"add_cells: {len(inputs)} inputs are given, but the network has {net.input_size}")
    around = _around([boxes for boxes, _ in covers])
    found = bounds_over(net, [boxes for boxes, _ in covers])
    bounds = crown(net, Box(*input_ranges(inputs, around).T))
    for batch in found:
        bounds = both(bounds, _of_all(batch))
    outputs = add_network(block, net, inputs, formulation, bounds, region=around)
    block.cells = pyo.Block(range(len(covers)))
    for (_, picks), batch, cell in zip(covers, found, block.cells.values(), strict=True):
        add_rows(cell, picks, batch, block.embedding.columns.variables, outputs)
    return outputs


def bounds_over(net: Network, batches: Sequence[Box]) -> list[Bounds]:
    """Bounds over each box of some batches of boxes, all in one pass."""
    boxes = Box(*(np.concatenate(sides) for sides in zip(*((one.lower, one.upper) for one in batches), strict=True)))
    points = np.array_equal(boxes.lower, boxes.upper)  # there CROWN is exact up to rounding, and slopes change nothing
    found = crown(net, boxes) if points else alpha_crown(net, boxes)
    ends = np.cumsum([0, *(len(one.lower) for one in batches)])
    return [_part(found, one, slice(*end)) for one, end in zip(batches, itertools.pairwise(ends), strict=True)]


def _part(found: Bounds, boxes: Box, at: slice) -> Bounds:
    *pre, output = (Interval(side.lower[at], side.upper[at]) for side in (*found.pre, found.output))
    return Bounds(boxes, tuple(pre), output)


def add_rows(block, picks: list, bounds: Bounds, inputs: list, outputs: list) -> None:
    """What the picks of a cover, with bounds over its boxes, say about inputs and outputs."""
    block.bounds = bounds
    block.one = Rows([(np.ones((1, len(picks))), picks)], 1.0, 1.0)
    for name, variables, side in (("input", inputs, bounds.region), ("output", outputs, bounds.output)):
        block.add_component(f"{name}_above", Rows([(-1.0, variables), (side.lower.T, picks)], upper=0.0))
        block.add_component(f"{name}_below", Rows([(1.0, variables), (-side.upper.T, picks)], upper=0.0))


def _of_all(batch: Bounds) -> Bounds:
    """Bounds over the union of a batch of boxes."""
    *pre, output = (Interval(side.lower.min(0), side.upper.max(0)) for side in (*batch.pre, batch.output))
    return Bounds(batch.region, tuple(pre), output)


def _around(batches: list[Box]) -> Box:
    """A box around all inputs that every cover allows."""
    lower = np.max([boxes.lower.min(0) for boxes in batches], axis=0)
    upper = np.min([boxes.upper.max(0) for boxes in batches], axis=0)
    if len(apart := np.flatnonzero(lower > upper)):
        i = apart[0]
        raise ValueError(
            f"add_cells: one cover keeps input {i} above {lower[i]}, another below {upper[i]}; nothing satisfies both"
        )
    return Box(lower, upper)


def _checked(block, net: Network, covers: Sequence[Cover]) -> list[tuple[Box, list]]:
    """The covers, with their picks as lists."""
    if isinstance(block, IndexedBlock):
        raise ValueError(
            f"add_cells: {block.name!r} is an indexed block; add each copy to a block of its own, block[i]"
        )
    if not isinstance(net, Network):
        raise ValueError(f"add_cells: the network is a {type(net).__name__}; read it with from_torch first")
    if not covers:
        raise ValueError("add_cells: no cover is given; name one or more, [(boxes, picks)], or use add_network")
    checked = []
    for c, (boxes, picks) in enumerate(covers):
        picks = list(picks.values()) if isinstance(picks, pyo.Var) else list(picks)
        if not isinstance(boxes, Box) or boxes.lower.ndim != 2 or boxes.lower.shape != (len(picks), net.input_size):
            what = f"of shape {boxes.lower.shape}" if isinstance(boxes, Box) else f"a {type(boxes).__name__}"
            raise ValueError(
                f"add_cells: cover {c} has {len(picks)} picks and boxes {what}, but needs a po.Box whose ends "
                f"have shape (picks, inputs) = ({len(picks)}, {net.input_size})"
            )
        for pick in picks:
            if not is_variable(pick) or None in pick.bounds or pick.lb < 0 or pick.ub > 1:
                found = f"with bounds {pick.bounds}" if is_variable(pick) else f"a {type(pick).__name__}"
                raise ValueError(
                    f"add_cells: pick {pick} of cover {c} is {found}; give a variable in [0, 1], as a binary"
                )
        checked.append((boxes, picks))
    return checked
