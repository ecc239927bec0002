"""Maxima as ReLUs: ``max(a, b) = b + relu(a - b)``, and a maximum of more numbers as a tournament of such pairs.

What knows only activations of one number, such as the splitting of units in `polyopt.search`, needs nothing else for
networks with maxima.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from polyopt.activations import GroupMax, ReLU
from polyopt.layers import Add, Affine, Concat, Layer, Reshape
from polyopt.network import Network, Node


def maxima_as_relus(net: Network) -> Network:
    """The same function, up to rounding, without maxima.

    >>> from polyopt.activations import Maxout
    >>> net = maxima_as_relus(Network.sequential([Maxout(3)], (3,)))
    >>> net(np.array([[1.0, 3.0, 2.0]])), len(net.activations)
    (array([[3.]]), 2)
    """
    layers = []
    for node in net.nodes:
        layers.extend(_tournament(node) if isinstance(node.layer, GroupMax) else [(node.name, node.layer, node.inputs)])
    return Network(layers, net.input_shape, net.nodes[-1].name)


def _tournament(node: Node) -> Iterator[tuple[str, Layer, list[str]]]:
    """The layers that stand for a node; the last has its name."""
    groups = node.layer.groups(*node.input_shapes)
    flat = [f"{node.name}.flat{i}" for i in range(len(node.inputs))]
    for name, source, shape in zip(flat, node.inputs, node.input_shapes, strict=True):
        yield name, Reshape((math.prod(shape),)), [source]
    yield f"{node.name}.joined", Concat(), flat
    values = f"{node.name}.0"
    yield values, _affine(sp.eye_array(node.input_size, format="csr")[groups.ravel()]), [f"{node.name}.joined"]
    left, match = groups.shape[1], 0
    while left > 1:
        match += 1
        name = f"{node.name}.{match}"
        # of each group the entries 0, 2, … meet 1, 3, …; with an odd one out, which waits for the next match
        entries = np.arange(len(groups) * left).reshape(len(groups), left)
        first, second = entries[:, 0 : left - 1 : 2], entries[:, 1::2]
        stays = np.hstack([second, entries[:, left - left % 2 :]])
        eye = sp.eye_array(entries.size, format="csr")
        yield f"{name}.difference", _affine(eye[first.ravel()] - eye[second.ravel()]), [values]
        yield f"{name}.relu", ReLU(), [f"{name}.difference"]
        places = np.arange(stays.size).reshape(stays.shape)[:, : second.shape[1]].ravel()
        yield f"{name}.gain", _affine(sp.eye_array(stays.size, format="csr")[:, places]), [f"{name}.relu"]
        yield f"{name}.stays", _affine(eye[stays.ravel()]), [values]
        yield name, Add(), [f"{name}.gain", f"{name}.stays"]
        values, left = name, stays.shape[1]
    yield node.name, Reshape(node.shape), [values]


def _affine(weight) -> Affine:
    return Affine(sp.csr_array(weight), None)
