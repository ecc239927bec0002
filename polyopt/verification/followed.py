"""A network with an affine layer behind it and one beside it: ``C f(x) - d`` or ``C f(x) - S x - d`` as a network."""

from __future__ import annotations

from polyopt.layers import Add, Affine
from polyopt.network import INPUT, Network


def followed(net: Network, behind: Affine, beside: Affine | None = None) -> Network:
    """``behind(net(x)) + beside(x)``.

    >>> net = Network.sequential([Affine([[2.0]], None)], (1,))
    >>> float(followed(net, Affine([[1.0]], [-0.5]))([[3.0]])[0, 0])
    5.5
    >>> float(followed(net, Affine([[1.0]], [-0.5]), Affine([[-1.0]], None))([[3.0]])[0, 0])
    2.5
    """
    layers = [(node.name, node.layer, node.inputs) for node in net.nodes]
    name = "_" + max((node.name for node in net.nodes), key=len)  # longer than all others, and thus a new one
    layers.append((name, behind, [net.nodes[-1].name]))
    if beside is not None and beside.weight.any():
        layers += [(f"{name}_", beside, [INPUT]), (f"{name}__", Add(), [name, f"{name}_"])]
    return Network(layers, net.input_shape)
