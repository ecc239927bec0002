"""How many linear regions of a network a segment crosses, however short it is.

Between neighbouring breakpoints all units are affine along the segment, so each layer only needs its values there:

    z_k = W h_k + b        the next layer's pre-activations at the breakpoints t_k so far
    t_k + (t_{k+1} - t_k) z_k / (z_k - z_{k+1})        a new breakpoint for each unit with z_k z_{k+1} < 0

The new breakpoints' values are interpolated, and so no distance is ever taken between points that rounding could merge.
Signs are those of floats: a unit that only touches zero up to rounding may count or not.
"""

from __future__ import annotations

import itertools

import numpy as np

import polyopt as po
from polyopt.layers import Affine


def pieces_between(net: po.Network, start: np.ndarray, end: np.ndarray) -> int:
    """The number of linear regions of a sequential ReLU network on the segment between two points (n,).

    >>> from polyopt.activations import ReLU
    >>> layers = [Affine([[1.0], [2.0]], [0.0, -1.0]), ReLU(), Affine([[1.0, -2.0]], [0.0]), ReLU()]
    >>> net = po.Network.sequential(layers, (1,))  # breaks at 0 and 1/2, then at 2/3
    >>> pieces_between(net, np.array([-1.0]), np.array([1.0]))
    4
    >>> pieces_between(net, np.array([-1e-9]), np.array([1e-9]))
    2
    """
    values = np.stack([start, end]).astype(float)
    for node in net.nodes:
        values = node.layer(values if isinstance(node.layer, Affine) else _cut(values))
    return len(values) - 1


def _cut(z: np.ndarray) -> np.ndarray:
    """Pre-activations (k, units) with those at the zeros of units between neighbouring rows put in."""
    rows = [z[:1]]
    for low, high in itertools.pairwise(z):
        turns = low * high < 0.0
        shares = np.unique(low[turns] / (low[turns] - high[turns]))[:, None]
        rows += [(1.0 - shares) * low + shares * high, high[None]]
    return np.concatenate(rows)
