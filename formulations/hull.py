"""The convex hull of a unit over a box without binaries, survey eq. (9), separated as it is needed.

For a hinge ``R = max(0, w x + b - t)``, with ``Lo_k`` and ``Up_k`` the ends of x_k's range where ``w_k x_k`` is least
and greatest,

    R >= 0,  R >= w x + b - t                                                                (9a)
    R <= sum_{k in I} w_k (x_k - Lo_k) + ell(I) / (Up_h - Lo_h) (x_h - Lo_h)                 (9b)
    ell(I) = sum_{k in I} w_k Lo_k + sum_{k not in I} w_k Up_k + b - t

for all I and h with ``ell(I) >= 0 > ell(I + h)``. (9b) is the projection of the cuts (7b). The most violated one
takes the inputs in ascending order of ``(x_k - Lo_k) / (Up_k - Lo_k)`` into I as long as ell stays non-negative; the
next one is h (Tjandraatmadja et al. 2020, section 3): one sort for each unit.

A unit with breakpoints t_1 < ... < t_k has a hinge at each, ``f = s_0 a + c_0 + sum_j (s_j - s_{j-1}) R_j``. The
relaxation starts as the triangle's, and keeps its rows. Where f jumps there are no hinges, and it stays the triangle.
Simplices among the inputs are not used: over them (9b) is valid, but not the hull.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from formulations.layer import PiecewiseLinearLayer
from formulations.pieces import Pieces, pieces
from formulations.rows import Rows, add_cuts, add_variables, set_variables
from formulations.triangle import Triangle


@dataclass(frozen=True)
class Hull:
    """A relaxation without binaries that rounds of cuts bring to the convex hull of every single ReLU over its box.

    ``polyopt.solve`` runs up to ``max_rounds`` rounds; ``tolerance`` and ``per_round`` as for `CuttingPlanes`.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(-1, 1))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[1.0, 1.0]], [0.0], list(m.x.values()), [-2.0], [2.0],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> (h,) = Hull().add(m.unit, relu)
    >>> m.x[0].value, m.x[1].value, m.unit.hinge[0].value = 1.0, -1.0, 1.0  # on the triangle's upper edge
    >>> Hull().separate(m.unit, relu)
    1
    >>> print(m.unit.cuts_0[0].expr)
    unit.hinge[0] - x[1]  <=  1.0
    """

    max_rounds: int = 10
    tolerance: float = 1e-4
    per_round: int | None = None

    def add(self, block, layer) -> list:
        """Add the layer's variables and the triangle's rows to the block; returns the variables of its outputs."""
        post = Triangle().add(block, layer)
        if _has_hinges(layer):
            _add_hinges(block, layer, pieces(layer), post)
        return post

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        Triangle().set_values(block, layer, pre)
        if _has_hinges(layer):
            cut = pieces(layer)
            set_variables(block.hinge, np.maximum(pre[cut.unit] - cut.start, 0.0))

    def separate(self, block, layer) -> int:
        """Add the cuts (9b) that the variables' values violate; returns how many."""
        if not _has_hinges(layer):
            return 0
        cut = pieces(layer)
        hinge = list(block.hinge.values())
        matrix, bound, value, scale = _tightest(layer, cut)
        excess = np.array([variable.value for variable in hinge]) - value
        order = np.argsort(-excess)
        chosen = order[excess[order] > self.tolerance * scale[order]][: self.per_round]
        if len(chosen):
            add_cuts(block, [(1.0, [hinge[s] for s in chosen]), (-matrix[chosen], layer.inputs)], bound[chosen])
        return len(chosen)


def _has_hinges(layer) -> bool:
    return isinstance(layer, PiecewiseLinearLayer) and not pieces(layer).jump.any()


def _add_hinges(block, layer: PiecewiseLinearLayer, cut: Pieces, post: list) -> None:
    """R_j between (9a) and its chord, and what they make of f."""
    pre = layer.pre_variables(block)
    low, high = layer.lower[cut.unit] - cut.start, layer.upper[cut.unit] - cut.start
    hinge = add_variables(block, "hinge", cut.labels, np.zeros(cut.count), high)
    own = [pre[i] for i in cut.unit]
    chord = high / (high - low)
    block.hinge_least = Rows([(1.0, hinge), (-1.0, own)], lower=-cut.start)
    block.hinge_most = Rows([(1.0, hinge), (-chord, own)], upper=-chord * (low + cut.start))
    turn = cut.inside().T @ cut.slope  # s_j minus the slope below, for all but the lowest
    turn = np.where(cut.first, cut.gain, turn)
    terms = [(1.0, post), (-cut.base_slope, pre), (-cut.per_unit(turn), hinge)]
    block.hinge_sum = Rows(terms, lower=cut.base_intercept, upper=cut.base_intercept)


def _tightest(layer: PiecewiseLinearLayer, cut: Pieces) -> tuple[sp.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Each hinge's tightest right side of (9b) at the inputs' values: matrix, constant, value there, and scale."""
    low, high = layer.input_bounds
    x = np.array([variable.value for variable in layer.inputs])
    weight = layer.weight[cut.unit]
    segment, w, j = np.repeat(np.arange(cut.count), np.diff(weight.indptr)), weight.data, weight.indices
    least, width = np.where(w >= 0, low[j], high[j]), abs(w) * (high[j] - low[j])
    share = np.divide(w * (x[j] - least), width, out=np.ones_like(width), where=width > 0)
    order = np.lexsort((share, segment))
    top = layer.bias[cut.unit] - cut.start + np.bincount(segment, np.maximum(w * low[j], w * high[j]), cut.count)
    taken = np.cumsum(width[order])
    before = taken - width[order]
    offset = np.concatenate([[0.0], taken])[weight.indptr[:-1]][
        segment
    ]  # the sum at the beginning of the segment's run
    ell = top[segment] - (before - offset)  # ell(I) with all inputs before this one in I
    ell_next = ell - width[order]
    slope = np.empty_like(w)
    partial = np.divide(ell, width[order], out=np.zeros_like(ell), where=width[order] > 0)
    slope[order] = np.where(ell_next >= 0, 1.0, np.maximum(partial, 0.0))  # in I, h, or behind it
    matrix = sp.csr_array((w * slope, j, weight.indptr), shape=weight.shape)
    bound = -np.bincount(segment, w * slope * least, cut.count)
    scale = 1.0 + abs(top) + np.bincount(segment, width, cut.count)
    return matrix, bound, matrix @ x + bound, scale
