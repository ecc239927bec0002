"""Between its activations a network is affine: each layer's pre-activation as a map of the activations before it.

Composing the linear layers along every path of the DAG gives, for activation layer k,

    a_k = sum_s W_{k,s} h_s + b_k

where s runs over the network's input and earlier activation layers. This is all that an embedding needs of the linear
layers: residual connections are further terms of the sum, convolutions and pooling are sparse matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from polyopt.layers import Linear
from polyopt.network import INPUT, Network


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``sum_s terms[s] @ h_s + offset``; s is "input" or an activation layer's name, h_s its flattened value."""

    terms: dict[str, np.ndarray | sp.csr_array]
    offset: np.ndarray


def affine_maps(net: Network) -> tuple[list[AffineMap], AffineMap]:
    """The maps to the joined, flattened inputs of ``net.activations``, in order, and the map to the output.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine, Scale
    >>> net = Network.sequential([Scale(2.0), Affine([[1.0, 3.0]], [1.0]), ReLU(), Scale(1.0, -1.0)], (2,))
    >>> (pre,), output = affine_maps(net)
    >>> pre.terms["input"], pre.offset, output.terms.keys(), output.offset
    (array([[2., 6.]]), array([1.]), dict_keys(['2']), array([-1.]))
    """
    maps = {INPUT: _identity(INPUT, net.input_size)}
    pre = []
    for node in net.nodes:
        inputs = [maps[name] for name in node.inputs]
        if isinstance(node.layer, Linear):
            matrices = node.layer.operators(*node.input_shapes)
            maps[node.name] = _combine(matrices, inputs, node.layer.offset(*node.input_shapes))
        else:
            sizes = [math.prod(shape) for shape in node.input_shapes]
            pre.append(inputs[0] if len(inputs) == 1 else _combine(_stacking(sizes), inputs, np.zeros(sum(sizes))))
            maps[node.name] = _identity(node.name, node.size)
    return pre, maps[net.nodes[-1].name]


def _identity(name: str, size: int) -> AffineMap:
    return AffineMap({name: sp.eye_array(size, format="csr")}, np.zeros(size))


def _combine(matrices, maps: list[AffineMap], offset: np.ndarray) -> AffineMap:
    """``sum_k matrices[k] @ maps[k] + offset``."""
    terms: dict = {}
    for matrix, part in zip(matrices, maps, strict=True):
        offset = offset + matrix @ part.offset
        for name, term in part.terms.items():
            product = matrix @ term
            terms[name] = terms[name] + product if name in terms else product
    return AffineMap(terms, offset)


def _stacking(sizes: list[int]) -> list[sp.csr_array]:
    """The matrices that put vectors of these sizes end to end."""
    place = sp.eye_array(sum(sizes), format="csc")
    ends = np.cumsum(sizes)
    return [place[:, end - size : end].tocsr() for size, end in zip(sizes, ends, strict=True)]
