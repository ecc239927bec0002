"""Units as complementarity conditions of pyomo.mpec, for NLP and MPEC solvers: no binaries and no M.

A ReLU is the solution of

    0 <= h   complements   h - a >= 0        (both hold, and one of them with equality)

(Yang, Balaprakash and Leyffer 2022). A continuous piecewise-linear f with slopes s_0, ..., s_k and breakpoints t_j is
a sum of such hinges ``R_j = max(a - t_j, 0)``:

    0 <= R_j   complements   R_j - (a - t_j) >= 0
    f(a) = c_0 + s_0 a + sum_j (s_j - s_{j-1}) R_j

and ``y = max_j a_j`` is stationarity of the least upper bound, ``sum_j lambda_j = 1`` with

    0 <= lambda_j   complements   y - a_j >= 0.

All variables have finite bounds, so that TransformationFactory("mpec.simple_disjunction") followed by gdp.bigm finds
its M; mpec.simple_nonlinear makes products of the conditions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from pyomo.mpec import ComplementarityList, complements

from formulations.layer import MaxLayer, PiecewiseLinearLayer, not_defined
from formulations.pieces import Pieces, pieces
from formulations.rows import Rows, add_variables, set_variables


@dataclass(frozen=True)
class Complementarity:
    """Exact for continuous piecewise-linear activations and maxima; not defined where a function jumps (Sign, Step).

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.a = pyo.Var(bounds=(-1, 3))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[1.0]], [0.0], [m.a], [-1.0], [3.0],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> h = Complementarity().add(m.unit, relu)
    >>> print(*m.unit.condition[1]._args, sep="   complements   ")
    0  <=  unit.post[0]   complements   0  <=  unit.post[0] - a
    """

    def add(self, block, layer) -> list:
        """Add the layer's variables, rows and conditions to the block; returns the variables of its outputs."""
        if isinstance(layer, MaxLayer):
            return _add_max(block, layer)
        return _add_hinges(block, layer, *hinges(self, layer))

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        if isinstance(layer, MaxLayer):
            winners = [group[pre[group].argmax()] for group in layer.groups]
            set_variables(block.post, pre[winners])
            shares = [group == winner for group, winner in zip(layer.groups, winners, strict=True)]
            set_variables(block.share, np.concatenate(shares).astype(float))
            return
        cut, kink = hinges(self, layer)
        hinge = np.maximum(pre[cut.unit] - cut.start, 0.0)
        if block.component("hinge"):
            set_variables(block.hinge, hinge)
        set_variables(block.post, cut.base_slope * pre + cut.base_intercept + cut.per_unit(kink) @ hinge)


def hinges(formulation, layer) -> tuple[Pieces, np.ndarray]:
    """The segments of a continuous piecewise-linear layer, and by how much (s,) the slope grows at each one's start."""
    if isinstance(layer, PiecewiseLinearLayer):
        cut = pieces(layer)
        value = abs(cut.slope * cut.start) + abs(cut.intercept)
        if (abs(cut.jump) <= 1e-12 * (1.0 + value)).all():  # a continuous function's sides differ by rounding
            return cut, np.where(cut.first, cut.gain, np.diff(cut.gain, prepend=0.0))
    raise not_defined(formulation, layer, "piecewise-linear activations without jumps, and maxima")


def _add_hinges(block, layer: PiecewiseLinearLayer, cut: Pieces, kink: np.ndarray) -> list:
    a = layer.add_pre(block)
    # where f is 0 below its only breakpoint and climbs with slope 1, as a ReLU, the hinge is the output
    is_output = cut.count == layer.size and not cut.base_slope.any() and not cut.base_intercept.any()
    is_output = is_output and (kink == 1).all()
    reach = layer.upper[cut.unit] - cut.start
    hinge = add_variables(block, "post" if is_output else "hinge", cut.labels, np.zeros(cut.count), reach)
    above = zip(hinge, cut.unit, cut.start.tolist(), strict=True)
    block.condition = ComplementarityList(rule=(complements(r >= 0, r - (a[i] - t) >= 0) for r, i, t in above))
    if is_output:
        return hinge
    post = add_variables(block, "post", layer.labels, *layer.range())
    terms = [(1.0, post), (-cut.base_slope, a), (-cut.per_unit(kink), hinge)]
    block.post_rows = Rows(terms, lower=cut.base_intercept, upper=cut.base_intercept)
    return post


def _add_max(block, layer: MaxLayer) -> list:
    a = layer.add_pre(block)
    ends = ([bound[group].max() for group in layer.groups] for bound in (layer.lower, layer.upper))
    post = add_variables(block, "post", layer.units, *ends)
    members = [(i, j) for i, group in enumerate(layer.groups) for j in group.tolist()]
    labels = [(layer.units[i], layer.labels[j]) for i, j in members]
    share = add_variables(block, "share", labels, np.zeros(len(labels)), np.ones(len(labels)))
    chosen = zip(share, members, strict=True)
    block.condition = ComplementarityList(rule=(complements(s >= 0, post[i] - a[j] >= 0) for s, (i, j) in chosen))
    unit = [i for i, _ in members]
    block.one_attains = Rows([(sp.csr_array((np.ones(len(unit)), (unit, range(len(unit))))), share)], 1.0, 1.0)
    return post
