"""Affine maps between activations, as `polyopt.affine`, with a bound on what rounding costs in composing them.

Where linear layers follow each other, ``a = W2 (W1 h + b1) + b2``, a network's map is a product that floats hold only
nearly: with k roundings one after the other each entry is within ``gamma_k`` times the same product of magnitudes,
``|W2| |W1|``, of the exact one. A map that reads activations through one layer alone has seen none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from polyopt.layers import AvgPool2d, Linear, Reshape
from polyopt.network import INPUT, Network, Node


@dataclass(frozen=True, eq=False)
class Map:
    """``sum_s terms[s] @ h_s + offset``; ``sizes`` and ``offset_size`` hold the magnitudes, with so many roundings.

    s is "input" or the name of an activation, h_s its flattened value.
    """

    terms: dict[str, sp.csr_array]
    sizes: dict[str, sp.csr_array]
    offset: np.ndarray
    offset_size: np.ndarray
    roundings: int = 0
    plain: bool = False  # whether it is a single h_s itself


def maps_to(net: Network, names: list[str]) -> dict[str, Map]:
    """The maps to the flattened values of these nodes.

    >>> from polyopt.layers import Affine, Scale
    >>> net = Network.sequential([Affine([[0.1, 3.0]], [1.0]), Scale(2.0)], (2,))
    >>> maps = maps_to(net, ["0", "1"])
    >>> maps["1"].terms["input"].toarray(), maps["1"].offset, [found.roundings for found in maps.values()]
    (array([[0.2, 6. ]]), array([2.]), [0, 3])
    """
    maps = {INPUT: _identity(INPUT, net.input_size)}
    for node in net.nodes:
        if isinstance(node.layer, Linear):
            maps[node.name] = _composed(node, [maps[name] for name in node.inputs])
        else:
            maps[node.name] = _identity(node.name, node.size)
    return {name: maps[name] for name in names}


def _identity(name: str, size: int) -> Map:
    eye = sp.csr_array(sp.eye_array(size, format="csr"))
    return Map({name: eye}, {name: eye}, np.zeros(size), np.zeros(size), plain=True)


def _composed(node: Node, parts: list[Map]) -> Map:
    if isinstance(node.layer, Reshape) and parts[0].plain:
        return parts[0]
    matrices = [sp.csr_array(matrix) for matrix in node.layer.operators(*node.input_shapes)]
    offset = node.layer.offset(*node.input_shapes)
    terms, sizes, offset_size = {}, {}, abs(offset)
    for matrix, part in zip(matrices, parts, strict=True):
        size = abs(matrix)
        offset, offset_size = offset + matrix @ part.offset, offset_size + size @ part.offset_size
        for name in part.terms:
            _accumulate(terms, name, matrix @ part.terms[name])
            _accumulate(sizes, name, size @ part.sizes[name])
    roundings = max((part.roundings for part in parts), default=0)
    if not (all(part.plain for part in parts) and len(terms) == len(parts)):
        longest = max(np.diff(matrix.indptr).max(initial=0) for matrix in matrices)
        roundings += int(longest) + len(parts) + 1
    roundings += isinstance(node.layer, AvgPool2d)  # 1/3 is no float
    return Map(terms, sizes, offset, offset_size, roundings)


def _accumulate(terms: dict[str, sp.csr_array], name: str, term: sp.csr_array) -> None:
    terms[name] = terms[name] + term if name in terms else term
