"""What rounding may cost a linear bound: for each step of a backward pass, in units of its coefficients.

A pass (`polyopt.bounds.backward`) holds rows R, numbers as they are, with ``R y`` to be bounded from below. At a linear
node y = W h + b it computes P near R W and s near R b, and goes on from P h + s, whose distance from R y is at most

    |R W - P| |h| + |R b - s|  <=  gamma |R| (|W| |h| + |b|),           gamma = k u / (1 - k u)

for sums of fewer than k terms, in any order, with the unit roundoff u. At a nonlinear node, with lines of slope s below
and above that hold up to their own rounding, the same holds with ``2 S |a| + |y|`` in the place of ``|W| |h| + |b|``,
where S >= |s| is the activation's steepest slope, |a| the size of its input. What stands there, times gamma, is this
node's *toll* t, a vector that depends on no row: were |R| t subtracted at each node, the bound would be one for the
exact numbers. It costs nothing. A nonlinear node multiplies the positive part of R by the intercepts of the lines below
and the negative part by those above: with ``toll + |s| t`` taken from the one and added to the other, where t is the
toll of the linear node before it, that product has paid for both nodes. Only where linear nodes follow each other,
and for the rows that a pass begins with, is |R| t computed.

Numbers and products that underflow lose up to the least normal number each, whatever their size, and no more than
that times ``|h|`` in the end: this is the node's *floor*, and counts without R for products, with R for weights.

Sizes come from bounds on the nodes, which are rounded outwards in turn, so that errors do not add up unnoticed.

Sources: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition 2002, lemma 3.1 and equation (3.13).
Cf. Jia and Rinard, Exploiting verified neural networks via floating point numerical error, SAS 2021, for what happens
to verdicts without it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyopt.activations import PiecewiseLinear
from polyopt.bounds.result import Interval
from polyopt.layers import Concat, Linear, Reshape
from polyopt.network import Node
from polyopt.squares import Square

STEEPEST = 1e6  # of chords over a jump, which would enlarge the rounding errors of their input
SPARE = 64  # roundings that are not counted one by one: of lines, of values of smooth functions, of the sums of shifts


def gamma(count: int, dtype: torch.dtype) -> float:
    """``k u / (1 - k u)`` with the roundings that are not counted; infinite where the sum is too long for the type."""
    share = (count + SPARE) * torch.finfo(dtype).eps / 2
    return share / (1.0 - share) if share < 0.5 else float("inf")


def size(bounds: Interval) -> np.ndarray:
    """The greatest ``|a|`` of each entry over all boxes of a batch."""
    return np.maximum(abs(bounds.lower), abs(bounds.upper)).max(0)


@np.errstate(over="ignore", invalid="ignore")
def charge(
    count: int, dtype: torch.dtype, node: Node, inputs: list[np.ndarray], output: np.ndarray | None = None
) -> np.ndarray:
    """What each unit of a row on the node may lose (node.size,), in sums of ``count`` terms.

    It comes from the sizes of the node's inputs and, where it is not linear, of its output, and is infinite where
    numbers are too large: with it a bound is infinite or NaN, which says that nothing is known.
    """
    if isinstance(node.layer, (Reshape, Concat)):  # nothing is computed
        return np.zeros(node.size)
    amount = gamma(count, dtype) * _toll(node, inputs, output) + floor(1, dtype, inputs)
    return np.where(np.isnan(amount), np.inf, amount)


@np.errstate(over="ignore")
def floor(count: int, dtype: torch.dtype, inputs: list[np.ndarray]) -> float:
    """What underflow may cost ``count`` terms of each sum, from the sizes of what the sums are multiplied by."""
    return 8.0 * count * torch.finfo(dtype).tiny * (1.0 + sum(float(each.sum()) for each in inputs))


def _toll(node: Node, inputs: list[np.ndarray], output: np.ndarray | None) -> np.ndarray:
    """The node's toll (node.size,)."""
    layer = node.layer
    if isinstance(layer, Linear):
        reach = layer.absolute()(*(each[None] for each in inputs))[0]
        return reach.ravel() + abs(layer.offset(*node.input_shapes))
    if isinstance(layer, PiecewiseLinear):
        return 2.0 * steepest(node) * inputs[0].ravel() + output.ravel()
    if isinstance(layer, Square):  # its slopes are no greater than 2 |a|
        return 4.0 * np.square(inputs[0].ravel()) + output.ravel()
    # smooth functions and maxima have slopes of at most 1
    return 2.0 * max((each.max(initial=0.0) for each in inputs), default=0.0) + output.ravel()


@np.errstate(over="ignore", invalid="ignore")
def steepest(node: Node) -> np.ndarray:
    """The greatest slope (n,) of a line below or above a piecewise-linear activation: a chord over a jump has any."""
    pieces = node.layer.pieces(node.shape)
    sizes = abs(pieces.slopes).max(0)
    return np.where(pieces.jumps, np.maximum(sizes, STEEPEST), sizes)


def down(values: Tensor) -> Tensor:
    """Less than the exact sum of two numbers whose rounded sum these are; -inf where that is infinite or NaN."""
    return (values - torch.finfo(values.dtype).eps * values.detach().abs()).nan_to_num(-torch.inf, neginf=-torch.inf)
