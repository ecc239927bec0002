"""The ideal cutting planes of Anderson et al. 2020, survey eq. (7), separated as they are needed.

For a hinge ``R = max(0, w x + b - t)`` with sigma = 1 when ``w x + b >= t``, and with ``Lo_j`` the end of x_j's range
where ``w_j x_j`` is least, ``Up_j`` the other, every subset J of the inputs gives

    R <= sum_{j in J} w_j (x_j - Lo_j (1 - sigma)) + (b - t + sum_{j not in J} w_j Up_j) sigma         (7b)

J empty and J full are the rows of big-M over the box. At a point (x, sigma) the tightest J takes each j for which
``w_j (x_j - Lo_j (1 - sigma)) < w_j Up_j sigma``: one pass over the weights. A ReLU is a hinge; a unit with several
breakpoints t_j has a hinge at each, which is the sum of its big-M segments above t_j, so that the same cuts serve all.

Where the inputs of a simplex i sum to one, ``w x + b = sum_j (w_j - theta_i) x_j + theta_i + b`` for every theta_i, and
(7b) holds with these weights and this bias too. At a point the tightest theta is a dual solution of

    max sum_{j in i} w_j x_j^1  over  sum_{j in i} x_j^1 = sigma,
        max(L_j sigma, x_j - U_j (1 - sigma)) <= x_j^1 <= min(U_j sigma, x_j - L_j (1 - sigma)),

the best share x^1 of x that the active piece can have. It is a fractional knapsack: filled in descending order of
w_j, its critical item's weight is theta_i. With L = 0 and U = 1 the cut becomes that of Anderson et al. 2020 for
products of simplices, ``R <= sum_j max(w_j - theta_i, 0) x_j + (theta_i + b - t) sigma`` for one simplex.

The formulation starts as `BigM` with the bounds it is given, which may be tighter than the box's (CROWN, LP): these
rows then are none of (7b) and stay beside the cuts (De Palma et al. 2021, appendix F).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from formulations.bigm import BigM
from formulations.layer import PiecewiseLinearLayer
from formulations.pieces import pieces
from formulations.rows import add_cuts
from formulations.simplices import membership, simplex_of


@dataclass(frozen=True)
class CuttingPlanes:
    """Exact, as `BigM`; its relaxation gets tighter with every round of cuts, up to the extended formulation's.

    ``polyopt.solve`` runs up to ``max_rounds`` rounds before the MILP; in each, of a layer's cuts that are violated
    by more than ``tolerance`` (relative to the size of the numbers) the ``per_round`` most violated are added, None
    for all. With another solver call ``polyopt.separate(block)`` at the solution of a relaxation. Maxima keep their
    big-M.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(-1, 1))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[1.0, 1.0]], [0.0], list(m.x.values()), [-2.0], [2.0],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> (h,) = CuttingPlanes().add(m.unit, relu)
    >>> m.x[0].value, m.x[1].value, m.unit.sigma[0].value, h.value = 1.0, -1.0, 0.5, 1.0  # on the hull of big-M
    >>> CuttingPlanes().separate(m.unit, relu)
    1
    >>> print(m.unit.cuts_0[0].expr)
    unit.post[0] - x[1]  <=  1.0
    """

    max_rounds: int = 10
    tolerance: float = 1e-4
    per_round: int | None = None

    def add(self, block, layer) -> list:
        """Add the layer's variables and the rows of big-M to the block; returns the variables of its outputs."""
        return BigM().add(block, layer)

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        BigM().set_values(block, layer, pre)

    def separate(self, block, layer) -> int:
        """Add the cuts (7b) that the variables' values violate; returns how many."""
        if not isinstance(layer, PiecewiseLinearLayer):
            return 0
        cut = pieces(layer)
        above, sums = list((block.component("above") or block.post).values()), cut.from_here()
        sigma = list(block.sigma.values())
        hinge = sums @ np.array([variable.value for variable in above])
        chosen, matrix, factor, bound, excess = _violated(layer, cut, hinge, np.array([s.value for s in sigma]), self)
        best = np.argsort(-excess)[: self.per_round]
        if len(best):
            own_sigma = [sigma[s] for s in chosen[best]]
            terms = [(sums[chosen[best]], above), (-matrix[best], layer.inputs), (-factor[best], own_sigma)]
            add_cuts(block, terms, bound[best])
        return len(best)


def _violated(layer, cut, hinge, sigma, options: CuttingPlanes) -> tuple[np.ndarray, ...]:
    """Each segment's tightest cut ``R - matrix x - factor sigma <= bound``, if it is violated, and by how much."""
    low, high = layer.input_bounds
    x = np.array([variable.value for variable in layer.inputs])
    weight = _with_whole_simplices(layer)[cut.unit]
    segment = np.repeat(np.arange(cut.count), np.diff(weight.indptr))
    j = weight.indices
    w, shift = _shifted(layer, weight.data, segment, j, x[j], sigma)
    least, most = np.minimum(w * low[j], w * high[j]), np.maximum(w * low[j], w * high[j])
    inside, outside = w * x[j] - least * (1.0 - sigma[segment]), most * sigma[segment]
    in_j = inside < outside
    bias = layer.bias[cut.unit] - cut.start + shift
    excess = hinge - bias * sigma - np.bincount(segment, np.where(in_j, inside, outside), cut.count)
    scale = 1.0 + abs(bias) + np.bincount(segment, abs(most), cut.count)
    chosen = np.flatnonzero(excess > options.tolerance * scale)
    matrix = sp.csr_array((w * in_j, j, weight.indptr), shape=weight.shape)
    factor = bias + np.bincount(segment, np.where(in_j, least, most), cut.count)
    bound = -np.bincount(segment, least * in_j, cut.count)
    return chosen, matrix[chosen], factor[chosen], bound[chosen], excess[chosen]


def _with_whole_simplices(layer) -> sp.csr_array:
    """The weights, with zeros as entries where a unit has weights on other inputs of a simplex."""
    if not layer.simplices:
        return layer.weight
    member = membership(layer.simplices, len(layer.inputs))
    unit, column = (abs(layer.weight) @ member.T @ member).nonzero()
    own = layer.weight.tocoo()
    entries = np.append(own.data, np.zeros(len(unit)))
    places = np.append(own.coords[0], unit), np.append(own.coords[1], column)
    return sp.csr_array((entries, places), shape=layer.weight.shape)


def _shifted(layer, w, segment, j, x, sigma) -> tuple[np.ndarray, np.ndarray]:
    """The weights minus the theta of their simplex, and each segment's sum of its thetas."""
    simplex = simplex_of(layer.simplices, len(layer.inputs))[j]
    (here,) = np.nonzero(simplex >= 0)
    if not len(here):
        return w, np.zeros(len(sigma))
    here = here[np.lexsort((-w[here], simplex[here], segment[here]))]
    key = segment[here] * len(layer.simplices) + simplex[here]
    begin = np.flatnonzero(np.diff(key, prepend=-1))  # of each knapsack's items
    size = np.diff(begin, append=len(here))
    knapsack = np.repeat(np.arange(len(begin)), size)

    low, high = (bound[j[here]] for bound in layer.input_bounds)
    on, x = sigma[segment[here]], x[here]
    least, most = np.maximum(low * on, x - high * (1.0 - on)), np.minimum(high * on, x - low * (1.0 - on))
    need = on[begin] - np.add.reduceat(least, begin)
    filled = np.cumsum(most - least)
    filled -= np.append(0.0, filled)[begin][knapsack]
    full = np.bincount(knapsack, filled < need[knapsack])  # items before the critical one
    theta = w[here[begin + np.minimum(full.astype(int), size - 1)]]
    shifted = w.copy()
    shifted[here] -= theta[knapsack]
    return shifted, np.bincount(segment[here[begin]], theta, len(sigma))
