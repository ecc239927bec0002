"""A network in reduced space: nested expressions of its inputs, one for each output."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations import MaxLayer, PiecewiseLinearLayer, ReducedSpace, SmoothLayer, affine_expressions
from polyopt.activations import GroupMax, PiecewiseLinear
from polyopt.affine import AffineMap, affine_maps
from polyopt.bounds.result import Bounds
from polyopt.decided import possible_winners, smooth_beta
from polyopt.network import INPUT, Network, Node


def add_expressions(block, net: Network, inputs: list, chosen: list, bounds: Bounds) -> list:
    """Write every layer as named expressions of the layers before; returns those of the outputs.

    Raises ValueError where a unit is not decided by its bounds, or where not all layers are in reduced space.
    """
    if not all(isinstance(choice, ReducedSpace) for choice in chosen):
        raise ValueError("ReducedSpace writes a whole network; give it for every activation layer or for none")
    values = {INPUT: inputs}
    maps, output_map = affine_maps(net)
    block.layer = pyo.Block(range(len(net.activations)))
    for k, (node, affine) in enumerate(zip(net.activations, maps, strict=True)):
        pre = (*_joined(affine, values), bounds.pre[k].lower, bounds.pre[k].upper)
        values[node.name] = _layer(block.layer[k], node, pre)
    block.output = _named(affine_expressions(*_joined(output_map, values)))
    return list(block.output.values())


def _layer(block, node: Node, pre: tuple) -> list:
    weight, bias, inputs, lower, upper = pre
    kind, units = type(node.layer).__name__, np.arange(node.size)
    if isinstance(node.layer, PiecewiseLinear):
        layer = PiecewiseLinearLayer(node.name, kind, range(node.size), *pre, *node.layer.pieces(node.input_shapes[0]))
        if layer.crossed.any():
            return ReducedSpace().add(block, layer.take(units[layer.crossed.any(0)]))
        piece = layer.passed.sum(0)
        slope, intercept = layer.slopes[piece, units], layer.intercepts[piece, units]
        post = affine_expressions(sp.diags_array(slope) @ weight, slope * bias + intercept, inputs)
    elif isinstance(node.layer, GroupMax):
        members = possible_winners(node.layer.groups(*node.input_shapes), lower, upper)
        if any(len(group) > 1 for group in members):
            return ReducedSpace().add(block, MaxLayer(node.name, kind, range(len(lower)), *pre, members, units))
        winners = np.concatenate(members)
        post = affine_expressions(weight[winners], bias[winners], inputs)
    else:
        return ReducedSpace().add(block, SmoothLayer(node.name, kind, range(node.size), *pre, beta=smooth_beta(node)))
    block.post = _named(post)
    return list(block.post.values())


def _joined(affine: AffineMap, values: dict[str, list]) -> tuple[sp.csr_array, np.ndarray, list]:
    """Weight, bias and inputs of an affine map."""
    inputs = [expression for name in affine.terms for expression in values[name]]
    matrices = [sp.csr_array(term) for term in affine.terms.values()]
    weight = sp.csr_array(sp.hstack(matrices)) if matrices else sp.csr_array((len(affine.offset), 0))
    weight.eliminate_zeros()
    return weight, affine.offset, inputs


def _named(expressions: list) -> pyo.Expression:
    return pyo.Expression(range(len(expressions)), initialize=dict(enumerate(expressions)))
