"""A network as part of a Pyomo model: ``outputs = net(inputs)``, written as variables and rows on a block.

Activation layer k becomes the sub-block ``block.layer[k]``. What its bounds decide needs no binary: a unit that is
linear on its bounds is one affine equation, a constant one is folded into the next layer. The rest goes to the
formulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp
from pyomo.core.base.block import BlockData

from formulations import (
    Auto,
    BigM,
    Formulation,
    Layer,
    MaxLayer,
    PiecewiseLinearLayer,
    ReducedSpace,
    Rows,
    SmoothLayer,
    add_affine,
)
from formulations.simplices import checked_simplices, membership
from polyopt.activations import GroupMax, PiecewiseLinear
from polyopt.affine import AffineMap, affine_maps
from polyopt.bounds.interval import interval
from polyopt.bounds.result import Bounds
from polyopt.decided import possible_winners, smooth_beta
from polyopt.embedding import Embedding, Part, is_embedded
from polyopt.expressions import add_expressions
from polyopt.inputs import input_range, input_variables
from polyopt.lp_bounds import lp_bounds
from polyopt.network import INPUT, Network, Node
from polyopt.program import to_relaxation
from polyopt.regions import Box

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
) -> list:
    """Add ``outputs = net(inputs)`` to a Pyomo block and return the output variables, a list of length n_out.

    ``inputs`` are n_in Pyomo variables or affine expressions, with finite bounds (a fixed variable without bounds
    counts as its value).

    ``bounds`` on the pre-activations are "crown", "interval", or `Bounds` that the caller computed over a box that
    contains the inputs' bounds, or over any other region: to that the inputs are then restricted, by rows that the
    block holds as ``block.region`` (for an ellipsoid a quadratic constraint). ``tighten="lp"`` improves them, where
    they leave a unit undecided, by two linear programs over the layers before and all active linear constraints that
    the model holds by now (relations between inputs, one-hot rows); these must then stay in the model.

    ``simplices`` are groups of input positions, as of one-hot inputs, whose inputs are non-negative and sum to one.
    The block states that as ``block.simplex_rows``, and `Extended` and `CuttingPlanes` are ideal over the product of
    these simplices in every layer that reads the inputs. The bounds ignore them, but for ``tighten="lp"``.

    ``formulation`` writes the units that the bounds leave undecided. It may differ from layer to layer: a mapping
    from the names of activation layers (those it leaves out get `BigM`), or a function of the layer's `Node`;
    ``po.auto()`` chooses for each layer by its undecided units. With `ReducedSpace`, for all layers, the outputs are
    expressions of the inputs.

    Raises ValueError where the inputs' number, kind or bounds do not fit, where an input of a simplex may be negative,
    where the bounds do not belong to the network, and where the formulation is not defined for an activation, naming
    the layer.

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
    """
    _check_arguments(block, net, tighten)
    chosen = _chosen(formulation, net)
    expressions = list(inputs.values()) if isinstance(inputs, pyo.Var) else list(inputs)
    if len(expressions) != net.input_size:
        raise ValueError(f"add_network: {len(expressions)} inputs are given, but the network has {net.input_size}")
    ranges = np.array([input_range(i, expression) for i, expression in enumerate(expressions)])
    bounds = _checked(bounds, net, Box(ranges[:, 0], ranges[:, 1]))
    simplices = _checked_simplices(simplices, expressions, ranges)
    reduced = any(isinstance(choice, ReducedSpace) for choice in chosen)
    before = set(block.component_map())
    try:
        variables = expressions if reduced and not simplices else input_variables(block, expressions, ranges)
        if not isinstance(bounds.region, Box):  # what the bounds rest on becomes part of the model
            block.region = pyo.Block()
            bounds.region.add_to(block.region, input_variables(block.region, variables, ranges))
        if simplices:
            block.simplex_rows = Rows([(membership(simplices, len(variables)), variables)], lower=1.0, upper=1.0)
        if reduced:
            parts, outputs = [], add_expressions(block, net, variables, chosen, bounds)
        else:
            columns = _Columns.of_variables(variables, simplices)
            parts, outputs = _add_layers(block, net, columns, chosen, bounds, tighten)
    except ValueError:  # leave the block as it was
        for name in set(block.component_map()) - before:
            block.del_component(name)
        raise
    block.embedding = Embedding(net, expressions, outputs, bounds, parts)
    return outputs


def _check_arguments(block, net, tighten) -> None:
    if not isinstance(block, BlockData) or not block.parent_component().is_constructed():
        raise ValueError(
            f"add_network: {block!r} is not a constructed Pyomo block; put pyo.Block() on a ConcreteModel, "
            "and give one entry of an indexed block, as in m.net[0]"
        )
    if is_embedded(block):
        raise ValueError(f"add_network: block {block.name!r} already holds a network; give each its own block")
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


def _add_layers(
    block, net: Network, inputs: _Columns, chosen: list, bounds: Bounds, tighten
) -> tuple[list[Part], list]:
    """Write all activation layers and the output equations."""
    columns = {INPUT: inputs}
    maps, output_map = affine_maps(net)
    block.layer = pyo.Block(range(len(net.activations)))
    parts = []
    for k, (node, formulation) in enumerate(zip(net.activations, chosen, strict=True)):
        pre = (*_pull(maps[k], columns), bounds.pre[k].lower, bounds.pre[k].upper)
        pre = _tightened(block, node, pre) if tighten else pre
        simplices = _pulled_simplices(maps[k], columns)
        part, columns[node.name] = _add_activation(block.layer[k], node, formulation, pre, simplices)
        parts.append(part)
    weight, bias, variables = _pull(output_map, columns)
    labels = range(net.output_size)
    outputs = add_affine(block, "output", labels, weight, bias, variables, bounds.output.lower, bounds.output.upper)
    return parts, outputs


def _tightened(block, node: Node, pre: tuple) -> tuple:
    """The pre-activations with bounds, where units are undecided, by the linear relaxation of the model so far."""
    weight, bias, inputs, lower, upper = pre
    if isinstance(node.layer, PiecewiseLinear):
        pieces = node.layer.pieces(node.input_shapes[0])
        rows = PiecewiseLinearLayer(node.name, "", range(node.size), *pre, *pieces).crossed.any(0).nonzero()[0]
    else:
        rows = np.arange(len(lower))
    program, columns = to_relaxation(block.model(), inputs)
    lower, upper = lower.copy(), upper.copy()
    lower[rows], upper[rows] = lp_bounds(program, weight[rows], bias[rows], columns, lower[rows], upper[rows])
    return weight, bias, inputs, lower, upper


@dataclass
class _Columns:
    """A flattened value whose entries are Pyomo variables or constants."""

    variables: list
    live: np.ndarray  # entries that are variables, in the order of `variables`
    constants: np.ndarray  # the value of the other entries, 0 elsewhere
    simplices: tuple[np.ndarray, ...] = ()  # positions among the variables

    @classmethod
    def of_variables(cls, variables: list, simplices=()) -> _Columns:
        return cls(variables, np.arange(len(variables)), np.zeros(len(variables)), simplices)


def _checked(bounds: str | Bounds, net: Network, box: Box) -> Bounds:
    if bounds == "interval":
        return interval(net, box)
    if bounds == "crown":
        from polyopt.bounds.crown import crown  # torch

        return crown(net, box)
    if not isinstance(bounds, Bounds):
        raise ValueError(f"add_network: bounds={bounds!r} is unknown; choose 'crown', 'interval' or give Bounds")
    sizes = [len(layer.lower) for layer in (*bounds.pre, bounds.output)]
    expected = [node.input_size for node in net.activations] + [net.output_size]
    if sizes != expected or bounds.region.size != net.input_size:
        raise ValueError(f"add_network: the bounds are for layers of sizes {sizes}, but the network has {expected}")
    if not isinstance(bounds.region, Box):
        return bounds
    outside = np.flatnonzero((box.lower < bounds.region.lower) | (box.upper > bounds.region.upper))
    if len(outside):
        i = outside[0]
        raise ValueError(
            f"add_network: input {i} ranges over [{box.lower[i]}, {box.upper[i]}], but the bounds were computed "
            f"for [{bounds.region.lower[i]}, {bounds.region.upper[i]}]; compute them over the inputs' own bounds"
        )
    return bounds


def _pull(affine: AffineMap, columns: dict[str, _Columns]) -> tuple[sp.csr_array, np.ndarray, list]:
    """Weight, bias and variables of an affine map, with constants folded into the bias."""
    matrices, variables, bias = [], [], affine.offset
    for name, term in affine.terms.items():
        source = columns[name]
        bias = bias + term @ source.constants
        matrices.append(sp.csr_array(term[:, source.live]))
        variables.extend(source.variables)
    weight = sp.csr_array(sp.hstack(matrices)) if matrices else sp.csr_array((len(bias), 0))
    weight.eliminate_zeros()
    return weight, bias, variables


def _pulled_simplices(affine: AffineMap, columns: dict[str, _Columns]) -> tuple[np.ndarray, ...]:
    """The simplices among the variables that `_pull` gives."""
    sources = [columns[name] for name in affine.terms]
    starts = np.cumsum([0, *(len(source.variables) for source in sources)])
    return tuple(start + group for start, source in zip(starts, sources, strict=False) for group in source.simplices)


def _add_activation(block, node: Node, formulation, pre: tuple, simplices) -> tuple[Part, _Columns]:
    """Write one activation layer; ``pre`` is weight, bias, incoming variables and bounds of its pre-activations."""
    if isinstance(node.layer, PiecewiseLinear):
        return _add_piecewise_linear(block, node, formulation, pre, simplices)
    if isinstance(node.layer, GroupMax):
        return _add_max(block, node, formulation, pre, simplices)
    layer = SmoothLayer(node.name, type(node.layer).__name__, range(node.size), *pre, beta=smooth_beta(node))
    everything, none = np.arange(node.size), np.empty(0, int)
    variables = _add_linear(block, none, layer.weight, layer.bias, layer.inputs, layer.lower, layer.upper)
    formulation = _resolved(formulation, layer)
    post = variables + formulation.add(block, layer)
    return Part(node, block, formulation, none, none, everything, layer, everything), _Columns.of_variables(post)


def _add_piecewise_linear(block, node: Node, formulation, pre: tuple, simplices) -> tuple[Part, _Columns]:
    kind, functions = type(node.layer).__name__, node.layer.pieces(node.input_shapes[0])
    layer = PiecewiseLinearLayer(node.name, kind, range(node.size), *pre, *functions, simplices=simplices)
    crossed = layer.crossed.any(0)
    units = np.arange(node.size)
    piece = layer.passed.sum(0)  # the only one, if no breakpoint is crossed
    slope, intercept = layer.slopes[piece, units], layer.intercepts[piece, units]
    linear, constant = units[~crossed & (slope != 0)], units[~crossed & (slope == 0)]
    weight, bias = sp.diags_array(slope) @ layer.weight, slope * layer.bias + intercept
    lower, upper = layer.range()
    variables = _add_linear(block, linear, weight, bias, layer.inputs, lower, upper)
    unstable = units[crossed]
    rest = layer.take(unstable) if len(unstable) else None
    if rest:
        formulation = _resolved(formulation, rest)
        variables += formulation.add(block, rest)
    part = Part(node, block, formulation, linear, constant, unstable, rest, unstable)
    constants = np.zeros(node.size)
    constants[constant] = intercept[constant]
    return part, _Columns(variables, np.concatenate([linear, unstable]), constants)


def _add_max(block, node: Node, formulation, pre: tuple, simplices) -> tuple[Part, _Columns]:
    weight, bias, inputs, lower, upper = pre
    members = possible_winners(node.layer.groups(*node.input_shapes), lower, upper)
    decided = np.array([len(group) == 1 for group in members])
    linear, unstable = np.flatnonzero(decided), np.flatnonzero(~decided)
    winners = np.array([members[i][0] for i in linear], dtype=int)
    variables = _add_linear(block, linear, weight, bias, inputs, lower, upper, rows=winners)
    rest, rows = None, np.empty(0, int)
    if len(unstable):
        rows, places = np.unique(np.concatenate([members[i] for i in unstable]), return_inverse=True)
        groups = np.split(places, np.cumsum([len(members[i]) for i in unstable])[:-1])
        some = (weight[rows], bias[rows], inputs, lower[rows], upper[rows])
        kind = type(node.layer).__name__
        rest = MaxLayer(node.name, kind, rows, *some, groups, unstable, simplices=simplices)
        formulation = _resolved(formulation, rest)
        variables += formulation.add(block, rest)
    part = Part(node, block, formulation, linear, np.empty(0, int), unstable, rest, rows)
    return part, _Columns(variables, np.concatenate([linear, unstable]), np.zeros(node.size))


def _resolved(formulation: Formulation, layer: Layer) -> Formulation:
    """The formulation itself, or what it chooses."""
    return formulation.choose(layer) if isinstance(formulation, Auto) else formulation


def _add_linear(block, units, weight, bias, inputs, lower, upper, rows=None) -> list:
    """The decided units as equations ``block.linear = W x + b``, taken from these rows (by default the units' own)."""
    rows = units if rows is None else rows
    return add_affine(block, "linear", units, weight[rows], bias[rows], inputs, lower[rows], upper[rows])
