"""Units by special ordered sets of type 1, of whose members at most one is not zero: no binaries and no M.

Cut the pre-activation's range at the breakpoints ``t_1 < ... < t_k`` of f, as in `formulations.bigm`: ``above_j`` is
how much of segment j is filled, and ``room_j`` what is free below it, up to t_1 or in the segment before. A segment is
filled only when there is no room below it:

    a - sum_j above_j + room_1 = t_1,     above_j + room_{j+1} = d_j,     {room_j, above_j} is an SOS1
    f(a) = s_0 a + c_0 + sum_j (s_j - s_0) above_j

For a ReLU, ``h = above`` and ``room = h - a``: one of the two is zero (as in PySCIPOpt-ML, Turner et al. 2023). For a
maximum ``y = max_j a_j`` the sets are ``{share_j, y - a_j}`` with ``sum_j share_j = 1``. SCIP and Gurobi branch on such
sets; HiGHS does not take them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations.complementarity import hinges
from formulations.layer import MaxLayer, PiecewiseLinearLayer
from formulations.pieces import Pieces
from formulations.rows import Rows, add_variables, set_variables


@dataclass(frozen=True)
class SOS1:
    """Exact for continuous piecewise-linear activations and maxima; not defined where a function jumps (Sign, Step).

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.a = pyo.Var(bounds=(-1, 3))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[1.0]], [0.0], [m.a], [-1.0], [3.0],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> h = SOS1().add(m.unit, relu)
    >>> for row in m.unit.component_data_objects(pyo.Constraint):
    ...     print(row.expr)
    a - unit.above[0] + unit.room[0]  ==  0.0
    unit.post[0] - unit.above[0]  ==  0.0
    >>> [v.name for v in m.unit.either[0].variables]
    ['unit.room[0]', 'unit.above[0]']
    """

    def add(self, block, layer) -> list:
        """Add the layer's variables, rows and sets to the block; returns the variables of its outputs."""
        if isinstance(layer, MaxLayer):
            return _add_max(block, layer)
        return _add_pieces(block, layer, hinges(self, layer)[0])

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        if isinstance(layer, MaxLayer):
            winners = [group[pre[group].argmax()] for group in layer.groups]
            members = [(i, j, winner) for i, winner in enumerate(winners) for j in layer.groups[i]]
            set_variables(block.post, pre[winners])
            set_variables(block.share, [float(j == winner) for _, j, winner in members])
            set_variables(block.room, [pre[winner] - pre[j] for _, j, winner in members])
            return
        cut, _ = hinges(self, layer)
        set_variables(block.above, cut.filled(pre))
        set_variables(block.room, np.clip(cut.start - pre[cut.unit], 0.0, cut.start - _begins(cut, layer)))
        set_variables(block.post, cut.value(pre))


def _add_pieces(block, layer: PiecewiseLinearLayer, cut: Pieces) -> list:
    a = layer.add_pre(block)
    above = add_variables(block, "above", cut.labels, np.zeros(cut.count), cut.length)
    room = add_variables(block, "room", cut.labels, np.zeros(cut.count), cut.start - _begins(cut, layer))
    first = np.flatnonzero(cut.first)
    lowest = [(1.0, a), (-cut.per_unit(), above), (1.0, [room[s] for s in first])]
    block.below = Rows(lowest, lower=cut.start[first], upper=cut.start[first])
    later = np.flatnonzero(~cut.first)
    if len(later):
        length = cut.length[later - 1]
        block.segment = Rows([(1.0, [above[s - 1] for s in later]), (1.0, [room[s] for s in later])], length, length)
    _add_sets(block, zip(room, above, strict=True))
    post = add_variables(block, "post", layer.labels, *layer.range())
    terms = [(1.0, post), (-cut.base_slope, a), (-cut.per_unit(cut.gain), above)]
    block.post_rows = Rows(terms, lower=cut.base_intercept, upper=cut.base_intercept)
    return post


def _begins(cut: Pieces, layer: PiecewiseLinearLayer) -> np.ndarray:
    """Where the room below each segment begins."""
    return np.where(cut.first, layer.lower[cut.unit], np.roll(cut.start, 1))


def _add_max(block, layer: MaxLayer) -> list:
    a = layer.add_pre(block)
    low, high = ([bound[group].max() for group in layer.groups] for bound in (layer.lower, layer.upper))
    post = add_variables(block, "post", layer.units, low, high)
    unit = np.repeat(np.arange(len(layer.groups)), [len(group) for group in layer.groups])
    member = np.concatenate(layer.groups)
    labels = [(layer.units[i], layer.labels[j]) for i, j in zip(unit, member, strict=True)]
    share = add_variables(block, "share", labels, np.zeros(len(unit)), np.ones(len(unit)))
    room = add_variables(block, "room", labels, np.zeros(len(unit)), np.array(high)[unit] - layer.lower[member])
    block.at_least = Rows([(1.0, [post[i] for i in unit]), (-1.0, [a[j] for j in member]), (-1.0, room)], 0.0, 0.0)
    members = sp.csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))))
    block.one_attains = Rows([(members, share)], lower=1.0, upper=1.0)
    _add_sets(block, zip(room, share, strict=True))
    return post


def _add_sets(block, pairs) -> None:
    pairs = list(pairs)
    block.either = pyo.SOSConstraint(range(len(pairs)), rule=lambda _, k: (list(pairs[k]), [1, 2]), sos=1)
