"""A network with the squares that make a quadratic objective a linear one.

With the rows F on outputs and inputs, (y; x), the objective

    c y + p x - |F (y; x) - g|^2

is linear in the outputs of ``x -> (f(x), s(x))`` and x, where ``s = (F (f(x); x) - g)^2`` entry by entry: it is concave
for any F. What the search needs of a square is one line below it, the tangent, and one above it, the chord, whose
distance shrinks with the square of the range; so do the gaps that halved boxes leave.
"""

from __future__ import annotations

import numpy as np

from polyopt.layers import Affine, Concat, Reshape
from polyopt.network import INPUT, Network
from polyopt.squares import Square


def squared(net: Network, F: np.ndarray, g: np.ndarray) -> Network:
    """``x -> (f(x), (F (f(x); x) - g)^2)`` for F (m, n_out + n_in) and g (m,).

    >>> net = Network.sequential([Affine([[1.0, 2.0]], None)], (2,))
    >>> squared(net, np.array([[1.0, 0.0, -1.0]]), np.array([3.0]))(np.array([[1.0, 5.0]]))
    array([[11.,  9.]])
    """
    name = max((node.name for node in net.nodes), key=len) + "_"  # longer than all others, and thus a new one
    y, x, both, rows, squares = (name + part for part in ("y", "x", "both", "rows", "squares"))
    layers = [
        *((node.name, node.layer, node.inputs) for node in net.nodes),
        (y, Reshape((net.output_size,)), [net.nodes[-1].name]),
        (x, Reshape((net.input_size,)), [INPUT]),
        (both, Concat(), [y, x]),
        (rows, Affine(F, -g), [both]),
        (squares, Square(), [rows]),
        (name + "all", Concat(), [y, squares]),
    ]
    return Network(layers, net.input_shape)


def read_quadratic(quadratic, net: Network) -> tuple[np.ndarray, np.ndarray]:
    """The rows F (m, n_out + n_in) and the numbers g (m,); none where there is no quadratic part."""
    size = net.output_size + net.input_size
    if quadratic is None:
        return np.zeros((0, size)), np.zeros(0)
    try:
        F, g = (np.asarray(part, dtype=np.float64) for part in quadratic)
    except (TypeError, ValueError):
        raise ValueError("optimize: quadratic must be a pair (F, g) of arrays, for |F [y; x] - g|^2") from None
    if F.ndim != 2 or F.shape[1] != size or g.shape != (len(F),):
        raise ValueError(
            f"optimize: quadratic has shapes {F.shape} and {g.shape}, but must be (m, {net.output_size} outputs + "
            f"{net.input_size} inputs) and (m,)"
        )
    if not (np.isfinite(F).all() and np.isfinite(g).all()):
        raise ValueError("optimize: quadratic must hold finite numbers")
    return F, g
