"""The big-M formulation, survey eq. (4), for every piecewise-linear unit.

For a ReLU with ``M_- = lower <= a <= upper = M_+`` and z = sigma it is

    h >= a                      (4a)
    h <= a - M_- (1 - sigma)    (4b)
    h <= M_+ sigma              (4c)
    h >= 0                      (4d),   sigma in {0, 1}  (4e)

Read ``h`` as the part of ``a`` above the breakpoint 0 and ``a - h`` as the part below, and (4) says: the part below
is full before the part above begins. Read so it holds for any f with breakpoints ``t_1 <= ... <= t_k`` between the
bounds: cut ``[lower, upper]`` at them, let ``d_j`` be the length of segment j, ``above_j`` in [0, d_j] how much of it
is filled, and sigma_j = 1 when a has passed t_j,

    above_j <= d_j sigma_j,    above_j >= d_j sigma_{j+1}       j = 1..k
    a - sum_j above_j <= t_1,  a - sum_j above_j >= lower + (t_1 - lower) sigma_1
    f(a) = s_0 a + c_0 + sum_j (s_j - s_0) above_j + sum_j J_j sigma_j

with slopes s_j, intercept c_0 of the first piece, and jumps J_j of f at t_j. This is the incremental formulation
(Markowitz and Manne 1957), ideal in (a, f(a)): its linear relaxation is the convex hull of the graph of f, for a ReLU
the triangle (8). At a jump both sides are feasible, as is any value listed between them: Sign is -1, 0 or 1 at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo

from formulations.layer import MaxLayer, PiecewiseLinearLayer, not_defined
from formulations.maxout import add_max_binaries, set_max_values
from formulations.pieces import Pieces, pieces
from formulations.rows import Rows, add_variables, set_variables


@dataclass(frozen=True)
class BigM:
    """Exact for piecewise-linear activations and maxima: one binary for each breakpoint between the bounds.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(-1, 1))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[2.0, -1.0]], [0.5], list(m.x.values()), [-2.5], [3.5],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> h = BigM().add(m.unit, relu)
    >>> for row in m.unit.component_data_objects(pyo.Constraint):
    ...     print(row.expr)
    unit.pre[0] - 2.0*x[0] + x[1]  ==  0.5
    unit.pre[0] - unit.post[0]  <=  0.0
    -2.5  <=  unit.pre[0] - unit.post[0] - 2.5*unit.sigma[0]
    unit.post[0] - 3.5*unit.sigma[0]  <=  0.0
    """

    def add(self, block, layer) -> list:
        """Add the layer's variables and rows to the block; returns the variables of its outputs."""
        if isinstance(layer, PiecewiseLinearLayer):
            return _add_pieces(block, layer)
        if isinstance(layer, MaxLayer):
            return add_max_binaries(block, layer)
        raise not_defined(self, layer, "piecewise-linear activations and maxima")

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        if isinstance(layer, MaxLayer):
            set_max_values(block, layer, pre)
            return
        cut = pieces(layer)
        if block.component("above"):
            set_variables(block.above, cut.filled(pre))
        set_variables(block.sigma, cut.passed(pre))
        set_variables(block.post, cut.value(pre))


def _add_pieces(block, layer: PiecewiseLinearLayer) -> list:
    a = layer.add_pre(block)
    cut = pieces(layer)
    # where f is 0 below its only breakpoint and climbs with slope 1, as a ReLU, the segment is the output
    is_output = (cut.count == layer.size) & (cut.base_slope == 0) & (cut.base_intercept == 0)
    is_output = is_output & (cut.slope[cut.first] == 1) & (cut.jump[cut.first] == 0)

    name = "post" if is_output.all() else "above"
    above = add_variables(block, name, cut.labels, np.zeros(cut.count), cut.length)
    sigma = add_variables(block, "sigma", cut.labels, domain=pyo.Binary)
    _add_filling_order(block, layer, cut, a, above, sigma)
    if is_output.all():
        return above

    post = add_variables(block, "post", layer.labels, *layer.range())
    terms = [
        (1.0, post),
        (-cut.base_slope, a),
        (-cut.per_unit(cut.gain), above),
        (-cut.per_unit(cut.jump), sigma),
    ]
    block.post_rows = Rows(terms, lower=cut.base_intercept, upper=cut.base_intercept)
    return post


def _add_filling_order(block, layer: PiecewiseLinearLayer, cut: Pieces, a, above, sigma) -> None:
    """The segment below the breakpoints is full before the first above begins, and so on upwards."""
    filled = cut.per_unit()
    lowest = cut.start[cut.first]
    first_sigma = [s for s, first in zip(sigma, cut.first, strict=True) if first]
    block.below_most = Rows([(1.0, a), (-filled, above)], upper=lowest)
    block.below_full = Rows([(1.0, a), (-filled, above), (layer.lower - lowest, first_sigma)], lower=layer.lower)
    block.above_off = Rows([(1.0, above), (-cut.length, sigma)], upper=0.0)
    later = np.flatnonzero(~cut.first)
    if len(later):
        here, before = [sigma[s] for s in later], [above[s - 1] for s in later]
        block.above_full = Rows([(1.0, before), (-cut.length[later - 1], here)], lower=0.0)
        block.sigma_order = Rows([(1.0, [sigma[s - 1] for s in later]), (-1.0, here)], lower=0.0)
