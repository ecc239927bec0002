"""The same network on a region with fewer units: those that are 0 everywhere on it are left out.

A unit whose bounds keep it to a piece ``0 a + 0`` adds nothing to the layer after it: its row in the linear layer
before it and its column in the one after it can go, and not a bit of the function on the region changes. Of a ReLU
network on a small region this is often more than half of all units.

Source: Serra, Kumar and Ramalingam, "Lossless compression of deep neural networks", CPAIOR 2020, section 4.
"""

from __future__ import annotations

from polyopt.activations import ReLU
from polyopt.bounds.interval import Values
from polyopt.bounds.result import Interval
from polyopt.layers import Affine
from polyopt.network import Network


def live(net: Network, values: Values) -> tuple[Network, Values]:
    """The network without inactive ReLUs between affine layers, and what is left of the bounds on its input and nodes.

    A unit is inactive that no box of the batch can make positive.

    >>> import numpy as np
    >>> from polyopt.bounds.interval import start, step
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], None)], (1,))
    >>> values = start(net, Box([1.0], [2.0]))
    >>> for node in net.nodes:
    ...     values[node.name] = step(node, values)
    >>> smaller, kept = live(net, values)
    >>> smaller
    Network (1,) -> (1,)
      0: Affine (1,)
      1: ReLU (1,)
      2: Affine (1,)
    >>> values["0"].upper, kept["0"].upper
    (array([[ 2., -1.]]), array([[2.]]))
    """
    layers, values = {node.name: node.layer for node in net.nodes}, dict(values)
    nodes = {node.name: node for node in net.nodes}
    users: dict[str, list[str]] = {name: [] for name in layers}
    for node in net.nodes:
        for name in node.inputs:
            users.get(name, []).append(node.name)
    for node in net.activations:
        before, after = node.inputs[0], users[node.name]
        if not isinstance(node.layer, ReLU) or len(after) != 1 or len(users.get(before, ())) != 1:
            continue
        if not all(isinstance(layers[name], Affine) and len(nodes[name].inputs) == 1 for name in (before, *after)):
            continue
        kept = values[before].upper.max(0) > 0
        kept[:1] |= not kept.any()  # a layer keeps one unit at least
        first, last = layers[before], layers[after[0]]
        layers[before] = Affine(first.weight[kept], first.bias[kept])
        layers[after[0]] = Affine(last.weight[:, kept], last.bias)
        for name in (before, node.name):
            values[name] = Interval(values[name].lower[:, kept], values[name].upper[:, kept])
    return Network([(node.name, layers[node.name], node.inputs) for node in net.nodes], net.input_shape), values
