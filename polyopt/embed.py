"""A network as part of a Pyomo model: ``outputs = net(inputs)``, written as variables and rows on a block.

Activation layer k becomes the sub-block ``block.layer[k]``. What its bounds decide needs no binary: a unit that is
linear on its bounds is one affine equation, a constant one is folded into the next layer. The rest goes to the
formulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyomo.environ as pyo
from pyomo.common.gc_manager import PauseGC
from pyomo.core.base.block import BlockData, IndexedBlock

from formulations import BigM, Formulation, ReducedSpace, Rows, add_affine
from formulations.simplices import checked_simplices, membership
from polyopt.bounds.result import Bounds
from polyopt.copies import Copy, bounds_of, naming, read_copies
from polyopt.embedding import Embedding, is_embedded
from polyopt.expressions import add_expressions
from polyopt.inputs import input_variables
from polyopt.layer_rows import Columns, Maps, add_layers
from polyopt.network import Network, Node
from polyopt.regions import Box, Region

DEFAULT = BigM()
Choice = Formulation | Mapping[str, Formulation] | Callable[[Node], Formulation]


def add_network(
    block,
    net: Network,
    inputs,
    formulation: Choice = DEFAULT,
    bounds: str | Bounds = "crown",
    tighten: str | None = None,
    simplices: Sequence[Sequence[int]] = (),
    region: Region | None = None,
) -> list | dict:
    """Add ``outputs = net(inputs)`` to a Pyomo block and return the output variables, a list of length n_out.

    An indexed block holds a copy of the network for each index (time steps, nodes of a grid): ``inputs`` is then a
    mapping from its indices to each copy's inputs, and a dict from them to the outputs is returned. Each copy has
    bounds over its own inputs' bounds, all computed in one pass; `Bounds` that are given are for every copy.

    ``inputs`` are n_in Pyomo variables or affine expressions, with finite bounds (a fixed variable without bounds
    counts as its value).

    ``bounds`` on the pre-activations are "crown", "interval", or `Bounds` that the caller computed over a box that
    contains the inputs' bounds, or over any other region: to that the inputs are then restricted, by rows that the
    block holds as ``block.region`` (for an ellipsoid a quadratic constraint). ``tighten="lp"`` improves them, where
    they leave a unit undecided, by two linear programs over the layers before and all active linear constraints that
    the model holds by now (relations between inputs, one-hot rows); these must then stay in the model.

    ``region`` restricts the inputs to a set, such as one in which the network can be trusted: a box through bounds, any
    other by rows that the block holds as ``block.region``. The bounds are computed for what lies in both, and inputs
    that have no bounds get the region's.

    ``simplices`` are groups of input positions, as of one-hot inputs, whose inputs are non-negative and sum to one.
    The block states that as ``block.simplex_rows``, and `Extended` and `CuttingPlanes` are ideal over the product of
    these simplices in every layer that reads the inputs. The bounds ignore them, but for ``tighten="lp"``.

    ``formulation`` writes the units that the bounds leave undecided. It may differ from layer to layer: a mapping
    from the names of activation layers (those it leaves out get `BigM`), or a function of the layer's `Node`;
    ``po.auto()`` chooses for each layer by its undecided units. With `ReducedSpace`, for all layers, the outputs are
    expressions of the inputs.

    Raises ValueError where the inputs' number, kind or bounds do not fit, where an input of a simplex may be negative,
    where the bounds do not belong to the network, and where the formulation is not defined for an activation, naming
    the layer and, of an indexed block, the copy. All blocks are then left as they were.

    >>> from polyopt import summary
    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], None)], (1,))
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 2))
    >>> m.net = pyo.Block()
    >>> y = add_network(m.net, net, [m.x], bounds="interval")
    >>> round(y[0].ub, 12), summary(m.net).unstable  # bounds are rounded outwards
    (3.0, 2)
    >>> m.steps = pyo.RangeSet(0, 2)
    >>> m.u, m.copies = pyo.Var(m.steps, bounds=lambda _, t: (t - 0.5, 3)), pyo.Block(m.steps)
    >>> outputs = add_network(m.copies, net, {t: [m.u[t]] for t in m.steps})
    >>> [outputs[t][0].name for t in m.steps], [summary(m.copies[t]).unstable for t in m.steps]
    (['copies[0].output[0]', 'copies[1].output[0]', 'copies[2].output[0]'], [2, 0, 0])
    """
    _check_arguments(block, net, tighten)
    if isinstance(bounds, Bounds) and not (isinstance(bounds.region, Box) or isinstance(region, Box | None)):
        raise ValueError("add_network: give region=, or bounds over a region that is no box, but not both")
    chosen = _chosen(formulation, net)
    copies = read_copies(block, net, inputs, region)
    if not copies:
        return {}
    maps, added = Maps.of(net), {}
    implied = isinstance(bounds, str) and isinstance(region, Box | None)
    try:
        with PauseGC():  # collecting amid so many new objects, none of them garbage, costs a third of the time
            for copy, own in zip(copies, bounds_of(copies, net, bounds, region), strict=True):
                added[copy.index] = copy, set(copy.block.component_map())
                with naming(copy.index):
                    _embed(copy, net, maps, chosen, own, simplices, tighten, region, implied)
    except ValueError:
        for copy, before in added.values():
            _strip(copy.block, before)
        raise
    outputs = {copy.index: copy.block.embedding.outputs for copy in copies}
    return outputs if isinstance(block, IndexedBlock) else outputs[None]


def _embed(
    copy: Copy, net: Network, maps: Maps, chosen: list, bounds: Bounds, simplices, tighten, region, implied: bool
) -> None:
    """Write one network on its block."""
    block, ranges = copy.block, copy.ranges
    simplices = _checked_simplices(simplices, copy.inputs, ranges)
    reduced = any(isinstance(choice, ReducedSpace) for choice in chosen)
    variables = copy.inputs if reduced and not simplices else input_variables(block, copy.inputs, ranges)
    region = region if isinstance(bounds.region, Box) else bounds.region
    if not isinstance(region, Box | None):  # what the bounds rest on becomes part of the model
        block.region = pyo.Block()
        region.add_to(block.region, input_variables(block.region, variables, ranges))
    if simplices:
        block.simplex_rows = Rows([(membership(simplices, len(variables)), variables)], lower=1.0, upper=1.0)
    columns = Columns.of_variables(variables, simplices)
    if reduced:
        parts, outputs = [], add_expressions(block, net, variables, chosen, bounds)
    else:
        parts, bounds, affine = add_layers(block, net, maps, columns, chosen, bounds, tighten)
        ends = (bounds.output.lower, bounds.output.upper)
        outputs = add_affine(block, "output", range(net.output_size), *affine, *ends)
    block.embedding = Embedding(net, copy.inputs, columns, outputs, bounds, chosen, parts, region, implied)


def rewrite(block: BlockData, bounds: Bounds) -> None:
    """Write the block's layers anew, with other bounds over the same region; inputs and outputs stay the variables
    they are, and the outputs' bounds become no wider.

    >>> from polyopt import Interval, summary
    >>> from polyopt.activations import ReLU
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 2))
    >>> m.net = pyo.Block()
    >>> (y,) = add_network(m.net, Network.sequential([ReLU()], (1,)), [m.x])
    >>> known = m.net.embedding.bounds
    >>> rewrite(m.net, Bounds(known.region, (Interval(np.array([0.5]), np.array([2.0])),), known.output))
    >>> summary(m.net).binaries, y is m.net.embedding.outputs[0]
    (0, True)
    """
    held = block.embedding
    for name in ("layer", "output_rows"):
        block.del_component(name)
    parts, bounds, (weight, bias, variables) = add_layers(
        block, held.net, Maps.of(held.net), held.columns, held.chosen, bounds, None
    )
    block.output_rows = Rows([(1.0, held.outputs), (-weight, variables)], lower=bias, upper=bias)
    ends = zip(held.outputs, bounds.output.lower.tolist(), bounds.output.upper.tolist(), strict=True)
    for variable, low, high in ends:
        variable.setlb(low if variable.lb is None else max(variable.lb, low))
        variable.setub(high if variable.ub is None else min(variable.ub, high))
    block.embedding = replace(held, bounds=bounds, parts=parts, implied=False)


def _strip(block: BlockData, before: set[str]) -> None:
    """Leave the block as it was."""
    for name in set(block.component_map()) - before:
        block.del_component(name)
    if is_embedded(block):
        del block.embedding


def _check_arguments(block, net, tighten) -> None:
    if not isinstance(block, BlockData | IndexedBlock) or not block.parent_component().is_constructed():
        raise ValueError(
            f"add_network: {block!r} is not a constructed Pyomo block; put pyo.Block(), or pyo.Block(indices) for "
            "copies, on a ConcreteModel"
        )
    for one in block.values() if isinstance(block, IndexedBlock) else [block]:
        if is_embedded(one):
            raise ValueError(f"add_network: block {one.name!r} already holds a network; give each its own block")
    if not isinstance(net, Network):
        raise ValueError(f"add_network: the network is a {type(net).__name__}; read it with from_torch first")
    if tighten not in (None, "lp"):
        raise ValueError(f"add_network: tighten={tighten!r} is unknown; choose 'lp' or None")


def _checked_simplices(simplices, expressions: list, ranges: np.ndarray) -> tuple[np.ndarray, ...]:
    simplices = checked_simplices(simplices, len(expressions), "add_network")
    for i in (i for group in simplices for i in group if ranges[i, 0] < 0):
        raise ValueError(
            f"add_network: input {i} ({expressions[i]}) is in a simplex, whose inputs are non-negative, but it ranges "
            f"over [{ranges[i, 0]}, {ranges[i, 1]}]; give it the lower bound 0"
        )
    return simplices


def _chosen(formulation: Choice, net: Network) -> list[Formulation]:
    """The formulation of each activation layer."""
    if isinstance(formulation, Mapping):
        names = [node.name for node in net.activations]
        if unknown := [name for name in formulation if name not in names]:
            raise ValueError(f"add_network: there is no activation layer {unknown[0]!r}; there are {names}")
        chosen = [formulation.get(name, DEFAULT) for name in names]
    elif isinstance(formulation, type | Formulation) or not callable(formulation):
        chosen = [formulation] * len(net.activations)
    else:
        chosen = [formulation(node) for node in net.activations]
    for choice in chosen:
        if isinstance(choice, type) or not isinstance(choice, Formulation):
            raise ValueError(f"add_network: formulation={choice!r} is none; give an instance such as po.BigM()")
    return chosen
