"""Pattern certificates: every unit keeps to one linear piece on the whole region, so the network is affine there.

As long as all units so far keep to one piece, the pre-activation of unit i is an affine map of the input, and its range
over the region is

    [b_i - h(-A_i), b_i + h(A_i)],        h(a) = max a x over the region.

A unit whose range lies in one piece of its activation (`polyopt.verification.pieces`) continues the map with that
piece's slope and intercept; a maximum with the map of a member j that wins everywhere, for all other members k
``h(A_k - A_j) + b_k - b_j <= 0``. The *margin* is the least distance of all these ranges to the ends of their pieces,
and of all differences to 0. That all ranges are exact makes the test sharp: where it fails at one unit and nowhere
before, that unit does change its piece on the region, up to rounding. The network may be affine all the same.

Source: Balestriero and LeCun, POLICE: provably optimal linear constraint enforcement for deep neural networks, 2023,
theorem 1, whose condition is sufficient.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from polyopt.activations import GroupMax, PiecewiseLinear
from polyopt.layers import AvgPool2d, Linear, selection
from polyopt.network import INPUT, Network, Node
from polyopt.verification.arithmetic import AtPoint, Exact, Rounded
from polyopt.verification.pieces import choose


class Pattern(NamedTuple):
    """``|f(x) - (A x + c)|_inf <= error`` on the region, where f is affine with this margin.

    f itself is a map [A c] whose rounding to floats, or computation in floats, is the error.
    """

    A: np.ndarray
    c: np.ndarray
    margin: float
    error: float


def pattern(
    net: Network, numbers: Rounded | Exact | AtPoint, out_of_time: Callable[[], bool] = lambda: False
) -> Pattern | None:
    """The affine map that the network is if every unit keeps to one piece; None where one does not or time is out.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], [1.0, -3.0]), ReLU(), Affine([[2.0, 5.0]], None)], (1,))
    >>> found = pattern(net, Rounded(Box([-0.5], [4.0])))
    >>> found.A, found.c, round(found.margin, 12)
    (array([[2.]]), array([2.]), 0.5)
    >>> pattern(net, Rounded(Box([-1.5], [4.0]))) is None
    True
    """
    found = only_piece(net, numbers, out_of_time)
    if found is None:
        return None
    A, c, error = numbers.to_floats(found.map)
    return Pattern(A, c, _down(found.margin), error) if math.isfinite(error) else None


class Piece(NamedTuple):
    """The network's map [A c] on the region, in the numbers it was computed in, and its margin."""

    map: Any
    margin: Any


def only_piece(net: Network, numbers: Rounded | Exact | AtPoint, out_of_time: Callable[[], bool]) -> Piece | None:
    """`pattern` before its map is rounded to floats.

    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Affine([[0.1], [1.0]], [3.0, 0.0])], (1,))
    >>> only_piece(net, Rounded(Box([0.0], [1.0])), lambda: False).map
    Ball(mid=array([[0.1, 3. ],
           [1. , 0. ]]), radius=array([[0., 0.],
           [0., 0.]]))
    """
    maps: dict[str, Any] = {INPUT: numbers.identity()}
    margin = math.inf
    for node in net.nodes:
        if out_of_time():
            return None
        inputs = [maps[name] for name in node.inputs]
        if isinstance(node.layer, Linear):
            shapes, reciprocal = node.input_shapes, isinstance(node.layer, AvgPool2d)
            maps[node.name] = numbers.combine(
                node.layer.operators(*shapes), inputs, node.layer.offset(*shapes), reciprocal
            )
            continue
        before = numbers.stack(inputs)
        found = _kept(node, before, numbers)
        if found is None or not found.margin >= 0:
            return None
        margin = min(margin, found.margin)
        maps[node.name] = numbers.combine([found.matrix], [before], found.offset)
    return Piece(maps[net.nodes[-1].name], margin)


class _Kept(NamedTuple):
    """A layer as the affine map that it is while its units keep to these pieces."""

    matrix: sp.csr_array
    offset: np.ndarray
    margin: Any


def _kept(node: Node, before, numbers) -> _Kept | None:
    for kind, rule in _RULES.items():
        if isinstance(node.layer, kind):
            return rule(node, before, numbers)
    return None


def _piecewise(node: Node, before, numbers) -> _Kept:
    pieces = node.layer.pieces(node.input_shapes[0])
    piece, margin = choose(pieces, numbers.lower(before), numbers.upper(before))
    units = np.arange(node.size)
    slopes = sp.csr_array(sp.diags_array(pieces.slopes[piece, units]))
    slopes.eliminate_zeros()
    return _Kept(slopes, pieces.intercepts[piece, units], margin.min())


def _maximum(node: Node, before, numbers) -> _Kept:
    groups = node.layer.groups(*node.input_shapes)
    winners = groups[np.arange(len(groups)), numbers.at_center(before)[groups].argmax(1)]
    group, place = np.nonzero(groups != winners[:, None])
    others, size = groups[group, place], node.input_size
    differences = selection(others, size) - selection(winners[group], size)
    ahead = -numbers.upper(numbers.combine([differences], [before], np.zeros(len(others))))
    return _Kept(selection(winners, size), np.zeros(node.size), ahead.min(initial=np.inf))


def _down(margin) -> float:
    """The greatest float that is no greater, or the one below it."""
    if isinstance(margin, float) or not margin:
        return float(margin)
    return math.nextafter(float(min(margin, sys.float_info.max)), 0.0)


_RULES = {PiecewiseLinear: _piecewise, GroupMax: _maximum}
