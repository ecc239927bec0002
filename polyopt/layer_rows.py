"""All activation layers of a network as variables and rows, one sub-block each, and the output equations.

Layer k reads the layers before it through an affine map (`polyopt.affine`). A unit that its bounds leave on one piece
is one affine equation; a constant one is folded into whatever reads it; the rest goes to the formulation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations import Auto, Formulation, Layer, MaxLayer, PiecewiseLinearLayer, SmoothLayer, add_affine
from polyopt.activations import GroupMax, PiecewiseLinear
from polyopt.affine import AffineMap, affine_maps
from polyopt.bounds.result import Bounds, Interval
from polyopt.decided import possible_winners, smooth_beta
from polyopt.embedding import Columns, Part
from polyopt.lp_bounds import lp_bounds
from polyopt.network import INPUT, Network, Node
from polyopt.program import to_relaxation


class Maps(NamedTuple):
    """The affine maps to each activation's input and to the output: of all copies of a network the same."""

    pre: list[AffineMap]
    output: AffineMap

    @classmethod
    def of(cls, net: Network) -> Maps:
        """Those of a network, as sparse matrices."""
        pre, output = affine_maps(net)
        return cls([_sparse(map_) for map_ in pre], _sparse(output))


def add_layers(
    block, net: Network, maps: Maps, inputs: Columns, chosen: list[Formulation], bounds: Bounds, tighten: str | None
) -> tuple[list[Part], Bounds, tuple]:
    """Write all activation layers as ``block.layer``.

    Returns what became of them, the bounds with which they are written, and the outputs as weight, bias and variables.
    """
    columns = {INPUT: inputs}
    block.layer = pyo.Block(range(len(net.activations)))
    parts, used = [], []
    for k, (node, formulation) in enumerate(zip(net.activations, chosen, strict=True)):
        pre = (*_pull(maps.pre[k], columns), bounds.pre[k].lower, bounds.pre[k].upper)
        pre = _tightened(block, node, pre) if tighten else pre
        used.append(Interval(*pre[3:]))
        simplices = _pulled_simplices(maps.pre[k], columns)
        part, columns[node.name] = _add_activation(block.layer[k], node, formulation, pre, simplices)
        parts.append(part)
    return parts, Bounds(bounds.region, tuple(used), bounds.output), _pull(maps.output, columns)


def _sparse(map_: AffineMap) -> AffineMap:
    return AffineMap({name: sp.csr_array(term) for name, term in map_.terms.items()}, map_.offset)


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


def _pull(affine: AffineMap, columns: dict[str, Columns]) -> tuple[sp.csr_array, np.ndarray, list]:
    """Weight, bias and variables of an affine map, with constants folded into the bias."""
    matrices, variables, bias = [], [], affine.offset
    for name, term in affine.terms.items():
        source = columns[name]
        bias = bias + term @ source.constants
        as_it_is = np.array_equal(source.live, np.arange(term.shape[1]))
        matrices.append(term if as_it_is else term[:, source.live])
        variables.extend(source.variables)
    weight = sp.hstack(matrices, format="csr") if matrices else sp.csr_array((len(bias), 0))
    weight.eliminate_zeros()
    return weight, bias, variables


def _pulled_simplices(affine: AffineMap, columns: dict[str, Columns]) -> tuple[np.ndarray, ...]:
    """The simplices among the variables that `_pull` gives."""
    sources = [columns[name] for name in affine.terms]
    starts = np.cumsum([0, *(len(source.variables) for source in sources)])
    return tuple(start + group for start, source in zip(starts, sources, strict=False) for group in source.simplices)


def _add_activation(block, node: Node, formulation, pre: tuple, simplices) -> tuple[Part, Columns]:
    """Write one activation layer; ``pre`` is weight, bias, incoming variables and bounds of its pre-activations."""
    if isinstance(node.layer, PiecewiseLinear):
        return _add_piecewise_linear(block, node, formulation, pre, simplices)
    if isinstance(node.layer, GroupMax):
        return _add_max(block, node, formulation, pre, simplices)
    layer = SmoothLayer(node.name, type(node.layer).__name__, range(node.size), *pre, beta=smooth_beta(node))
    everything, none = np.arange(node.size), np.empty(0, int)
    add_affine(block, "linear", none, layer.weight[none], none, layer.inputs, none, none)
    formulation = _resolved(formulation, layer)
    post = formulation.add(block, layer)
    part = Part(node, block, formulation, none, (none, none), none, everything, layer, everything)
    return part, Columns.of_variables(post)


def _add_piecewise_linear(block, node: Node, formulation, pre: tuple, simplices) -> tuple[Part, Columns]:
    kind, functions = type(node.layer).__name__, node.layer.pieces(node.input_shapes[0])
    layer = PiecewiseLinearLayer(node.name, kind, range(node.size), *pre, *functions, simplices=simplices)
    crossed = layer.crossed.any(0)
    units = np.arange(node.size)
    piece = layer.passed.sum(0)  # the only one, if no breakpoint is crossed
    slope, intercept = layer.slopes[piece, units], layer.intercepts[piece, units]
    linear, constant = units[~crossed & (slope != 0)], units[~crossed & (slope == 0)]
    weight, bias = _scaled(layer.weight[linear], slope[linear]), (slope * layer.bias + intercept)[linear]
    lower, upper = layer.range()
    ends = lower[linear], upper[linear]
    variables = add_affine(block, "linear", linear, weight, bias, layer.inputs, *ends)
    unstable = units[crossed]
    rest = layer.take(unstable) if len(unstable) else None
    if rest:
        formulation = _resolved(formulation, rest)
        variables += formulation.add(block, rest)
    part = Part(node, block, formulation, linear, ends, constant, unstable, rest, unstable)
    constants = np.zeros(node.size)
    constants[constant] = intercept[constant]
    return part, Columns(variables, np.concatenate([linear, unstable]), constants)


def _add_max(block, node: Node, formulation, pre: tuple, simplices) -> tuple[Part, Columns]:
    weight, bias, inputs, lower, upper = pre
    members = possible_winners(node.layer.groups(*node.input_shapes), lower, upper)
    decided = np.array([len(group) == 1 for group in members])
    linear, unstable = np.flatnonzero(decided), np.flatnonzero(~decided)
    winners = np.array([members[i][0] for i in linear], dtype=int)
    ends = lower[winners], upper[winners]
    variables = add_affine(block, "linear", linear, weight[winners], bias[winners], inputs, *ends)
    rest, rows = None, np.empty(0, int)
    if len(unstable):
        rows, places = np.unique(np.concatenate([members[i] for i in unstable]), return_inverse=True)
        groups = np.split(places, np.cumsum([len(members[i]) for i in unstable])[:-1])
        some = (weight[rows], bias[rows], inputs, lower[rows], upper[rows])
        kind = type(node.layer).__name__
        rest = MaxLayer(node.name, kind, rows, *some, groups, unstable, simplices=simplices)
        formulation = _resolved(formulation, rest)
        variables += formulation.add(block, rest)
    part = Part(node, block, formulation, linear, ends, np.empty(0, int), unstable, rest, rows)
    return part, Columns(variables, np.concatenate([linear, unstable]), np.zeros(node.size))


def _resolved(formulation: Formulation, layer: Layer) -> Formulation:
    """The formulation itself, or what it chooses."""
    return formulation.choose(layer) if isinstance(formulation, Auto) else formulation


def _scaled(matrix: sp.csr_array, factors: np.ndarray) -> sp.csr_array:
    """Each row times its factor."""
    data = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
