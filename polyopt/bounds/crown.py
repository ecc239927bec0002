"""CROWN: bounds from linear relaxations carried back to the input, one layer's bounds after the other.

For each nonlinear layer in turn, its input ``a = W h + b`` is bounded by a pass from ``a`` back to the network's input
(`polyopt.bounds.backward`) through the relaxations of the layers before it (`polyopt.bounds.relaxation`), whose bounds
are known by then; from its own bounds follows its own relaxation. Interval arithmetic from the bounds on the layers
before costs next to nothing and is at times tighter: every bound is the better of the two.

A backward pass eliminates the variables of one layer after the other from the inequalities of the relaxations:
Fourier-Motzkin elimination that keeps, for each variable, the one inequality that the sign of its coefficient asks for.

All bounds are rounded outwards (`polyopt.bounds.rounding`), on any device and in any precision: in float64 by about
1e-14 times the magnitudes ``|A| |x|`` met in a pass, in float32 by about 1e-5 times.

Source: Zhang et al., "Efficient neural network robustness certification with general activation functions",
NeurIPS 2018, theorem 3.2; Tjandraatmadja et al., "The convex relaxation barrier, revisited", NeurIPS 2020, section 4.
"""

from __future__ import annotations

import numpy as np
import torch

from polyopt.bounds.backward import Backward
from polyopt.bounds.interval import Values, collect, joined, start, step
from polyopt.bounds.relaxation import relax
from polyopt.bounds.result import Bounds, Interval
from polyopt.layers import Linear, Reshape, Scale
from polyopt.network import INPUT, Network
from polyopt.regions import Box, Region


@torch.no_grad()
def crown(net: Network, region: Region, device=None, dtype: torch.dtype = torch.float64) -> Bounds:
    """CROWN bounds on every layer of ``net`` over a region, or over each box of a batch, all at once.

    The passes run on ``device`` in ``dtype``; the results are numpy float64. Nowhere are they wider than
    `polyopt.bounds.interval.interval`'s, up to rounding.

    >>> from polyopt.layers import Affine
    >>> from polyopt.activations import ReLU
    >>> hidden = Affine([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0])
    >>> net = Network.sequential([hidden, ReLU(), Affine([[1.0, 1.0]], [0.0])], (2,))
    >>> crown(net, Box([-1.0, -1.0], [1.0, 1.0])).output.upper.round(12)
    array([3.])
    >>> from polyopt.regions import Zonotope
    >>> crown(net, Zonotope([0.0, 0.0], [[1.0], [-1.0]])).output.upper.round(12)
    array([2.])
    """
    return collect(net, region, propagate(Backward(net, device, dtype), net, region))


def propagate(backward: Backward, net: Network, region: Region) -> Values:
    """The bounds on all nodes of ``net``, which ``backward`` was made of: that is reused from region to region."""
    values = start(net, region)
    backward.observe(INPUT, values[INPUT])
    wanted = {name for node in net.activations for name in node.inputs} | {net.nodes[-1].name}
    # the nodes whose entries vary each by itself: a linear layer's interval bounds on them are exact
    independent = {INPUT} if isinstance(region, Box) else set()
    for node in net.nodes:
        linear = isinstance(node.layer, Linear)
        if not linear:
            before = joined(node, values)
            lines = relax(node, backward.tensor(before.lower), backward.tensor(before.upper))
        values[node.name] = step(node, values)
        # the range of a function of one bounded number is exact: a pass through its relaxation adds nothing
        exact = not linear or (len(node.inputs) == 1 and node.inputs[0] in independent)
        if exact and isinstance(node.layer, (Reshape, Scale)):
            independent.add(node.name)
        if node.name in wanted and not exact:
            found = (side.cpu().numpy().astype(np.float64) for side in backward.bounds(node, region))
            values[node.name] = _better(values[node.name], *(side.reshape(-1, *node.shape) for side in found))
        backward.observe(node.name, values[node.name])
        if not linear:
            backward.relaxations[node.name] = backward.widened(node, lines)
    return values


def _better(known: Interval, lower: np.ndarray, upper: np.ndarray) -> Interval:
    """The intersection; bounds that are not finite numbers count for nothing."""
    lower = np.maximum(known.lower, np.where(np.isfinite(lower), lower, -np.inf))
    upper = np.minimum(known.upper, np.where(np.isfinite(upper), upper, np.inf))
    return Interval(lower, upper)
