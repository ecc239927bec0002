"""The partition-based formulation of Tsay et al. 2021, survey eq. (6), for every piecewise-linear unit.

The terms of ``w x`` are put into parts S_1, ..., S_P and ``xhat_p = sum over S_p of w_j x_j``. A unit is a
disjunction over its pieces: in piece k the pre-activation lies in ``[alpha_k, beta_k]`` and ``h = s_k a + c_k``. The
convex hull of the disjunction in the directions xhat_p has a copy of each for every piece, with ``lambda_k`` = 1 in
piece k:

    xhat_p = sum_k xhat_p^k                                                               (6a)
    alpha_k lambda_k <= sum_p xhat_p^k + b lambda_k <= beta_k lambda_k                    (6b, 6c)
    Mhat_{p,-}^k lambda_k <= xhat_p^k <= Mhat_{p,+}^k lambda_k                            (6d, 6e)
    h = sum_k s_k (sum_p xhat_p^k + b lambda_k) + c_k lambda_k,   sum_k lambda_k = 1

For a ReLU there are two, ``lambda_1 = sigma`` and ``lambda_0 = 1 - sigma``, and this is (6). The copies of the lowest
piece are eliminated by (6a). The parts' bounds follow from the incoming variables' and, as the survey remarks, from
the piece itself: in piece k, ``xhat_p = a - b - (the other parts)``, so

    Mhat_{p,-}^k = max(min xhat_p, alpha_k - b - sum_{q != p} max xhat_q),   Mhat_{p,+}^k likewise.

One part gives the tightness of big-M, as many parts as inputs that of the extended formulation (5).

A part that is one input j gives copies of that input, ``x_j^k = xhat_p^k / w_j``. Where the input is in one of the
layer's simplices, these obey the rows of `formulations.simplices`, in every piece:

    sum over the j in the simplex that are parts of their own of x_j^k <= lambda_k                    (simplices)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations.layer import MaxLayer, PiecewiseLinearLayer, not_defined
from formulations.maxout import add_max_binaries, set_max_values
from formulations.pieces import Pieces, pieces
from formulations.rows import Rows, add_variables, set_variables
from formulations.simplices import simplex_sums

SMALL = 1e-4  # solvers know xhat_j^k to about 1e-7, so with a smaller weight x_j^k would be known to no three digits


@dataclass(frozen=True)
class Partition:
    """Exact for piecewise-linear activations, with ``parts`` auxiliary variables a unit and piece; maxima as in `BigM`.

    ``by`` says what goes together: "weight", equal-size parts of the sorted weights; "range", of the sorted weighted
    ranges ``|w_j| (U_j - L_j)``; or the groups themselves, as sequences of positions among the layer's incoming
    variables that name each once (``parts`` is then not used). Partitions by weight or range are nested where one
    number of parts divides the other.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(-1, 1))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[2.0, -1.0]], [0.5], list(m.x.values()), [-2.5], [3.5],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> h = Partition(2).add(m.unit, relu)
    >>> for row in m.unit.part_below.values():
    ...     print(row.expr)
    -1.0  <=  - x[1] - unit.part[0,0] - unit.sigma[0]
    -2.0  <=  2.0*x[0] - unit.part[0,1] - 2.0*unit.sigma[0]
    """

    parts: int = 2
    by: str | Sequence[Sequence[int]] = "weight"

    def __post_init__(self):
        if self.parts < 1:
            raise ValueError(f"Partition: parts is {self.parts}, but there must be at least one")
        if isinstance(self.by, str) and self.by not in ("weight", "range"):
            raise ValueError(f"Partition: by={self.by!r} is unknown; choose 'weight', 'range', or give the groups")

    def add(self, block, layer) -> list:
        """Add the layer's variables and rows to the block; returns the variables of its outputs."""
        if isinstance(layer, MaxLayer):
            return add_max_binaries(block, layer)
        if not isinstance(layer, PiecewiseLinearLayer):
            raise not_defined(self, layer, "piecewise-linear activations and maxima")
        return _add(block, layer, pieces(layer), _parts(layer, self))

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) and the incoming variables' values make of them."""
        if isinstance(layer, MaxLayer):
            set_max_values(block, layer, pre)
            return
        cut, parts = pieces(layer), _parts(layer, self)
        x = np.array([variable.value for variable in layer.inputs])
        copy = _copies(cut, parts)
        set_variables(block.sigma, cut.passed(pre))
        set_variables(block.part, (parts.matrix @ x)[copy.part] * (cut.inside() @ cut.passed(pre))[copy.segment])
        set_variables(block.post, cut.value(pre))


@dataclass(frozen=True, eq=False)
class _Parts:
    """All parts of all units, unit by unit: arrays (g,)."""

    unit: np.ndarray
    number: np.ndarray  # of the part in its unit
    matrix: sp.csr_array  # (g, m), the parts' xhat of the incoming variables
    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True, eq=False)
class _Copies:
    """The copies xhat_p^k of the pieces above the lowest: arrays (v,) of their part and segment."""

    part: np.ndarray
    segment: np.ndarray


def _parts(layer: PiecewiseLinearLayer, partition: Partition) -> _Parts:
    weight = layer.weight
    unit = np.repeat(np.arange(layer.size), np.diff(weight.indptr))
    low, high = layer.input_bounds
    ends = weight.data * low[weight.indices], weight.data * high[weight.indices]
    if isinstance(partition.by, str):
        key = weight.data if partition.by == "weight" else abs(ends[1] - ends[0])
        rank = np.empty(len(unit), dtype=int)
        rank[np.lexsort((key, unit))] = np.arange(len(unit))
        place = rank - weight.indptr[unit]
        sizes = np.diff(weight.indptr)[unit]
        number = place * min(partition.parts, max(sizes, default=1)) // sizes
    else:
        number = _given(partition.by, layer)[weight.indices]
    keys, part = np.unique(unit * (number.max(initial=0) + 1) + number, return_inverse=True)
    count = len(keys)
    matrix = sp.csr_array((weight.data, (part, weight.indices)), shape=(count, weight.shape[1]))
    lower = np.bincount(part, np.minimum(*ends), count)
    upper = np.bincount(part, np.maximum(*ends), count)
    return _Parts(keys // (number.max(initial=0) + 1), keys % (number.max(initial=0) + 1), matrix, lower, upper)


def _given(groups, layer: PiecewiseLinearLayer) -> np.ndarray:
    """The number of the group of each incoming variable."""
    number = np.full(len(layer.inputs), -1)
    for k, group in enumerate(groups):
        number[list(group)] = k
    if sorted(j for group in groups for j in group) != list(range(len(layer.inputs))):
        raise ValueError(
            f"layer {layer.name!r} ({layer.kind}): the groups of Partition must name each of its {len(layer.inputs)} "
            f"incoming variables once, but are {groups}"
        )
    return number


def _copies(cut: Pieces, parts: _Parts) -> _Copies:
    """Every part of a unit with every segment of that unit."""
    per_unit = np.bincount(parts.unit, minlength=len(cut.base_slope))
    starts = np.concatenate([[0], np.cumsum(per_unit)])
    segment = np.repeat(np.arange(cut.count), per_unit[cut.unit])
    part = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in cut.unit])
    return _Copies(part, segment)


def _piece_bounds(layer, parts: _Parts, part, low, high) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of parts in pieces where a lies between low and high."""
    unit = parts.unit[part]
    totals = (np.bincount(parts.unit, bound, layer.size)[unit] for bound in (parts.lower, parts.upper))
    others_low, others_high = (t - bound[part] for t, bound in zip(totals, (parts.lower, parts.upper), strict=True))
    bias = layer.bias[unit]
    return np.maximum(parts.lower[part], low - bias - others_high), np.minimum(
        parts.upper[part], high - bias - others_low
    )


def _add(block, layer: PiecewiseLinearLayer, cut: Pieces, parts: _Parts) -> list:
    a = layer.add_pre(block)
    copy = _copies(cut, parts)
    labels = [(cut.labels[s], int(parts.number[g])) for g, s in zip(copy.part, copy.segment, strict=True)]
    labels = [(*label, g) if isinstance(label, tuple) else (label, g) for label, g in labels]
    part = add_variables(block, "part", labels)
    sigma = add_variables(block, "sigma", cut.labels, domain=pyo.Binary)
    post = add_variables(block, "post", layer.labels, *layer.range())

    inside = cut.inside()  # makes lambda of sigma
    bias = layer.bias[cut.unit]
    summed = sp.csr_array((np.ones(len(part)), (copy.segment, np.arange(len(part)))), shape=(cut.count, len(part)))
    end = cut.start + cut.length

    # (6d, 6e) for the segments
    low, high = _piece_bounds(layer, parts, copy.part, cut.start[copy.segment], end[copy.segment])
    block.part_least = Rows([(1.0, part), (-sp.diags_array(low) @ inside[copy.segment], sigma)], lower=0.0)
    block.part_most = Rows([(1.0, part), (-sp.diags_array(high) @ inside[copy.segment], sigma)], upper=0.0)
    # (6b, 6c) for the segments: (summed part) + (b - start) lambda >= 0 and (summed part) + (b - end) lambda <= 0
    block.piece_least = Rows([(summed, part), (sp.diags_array(bias - cut.start) @ inside, sigma)], lower=0.0)
    block.piece_most = Rows([(summed, part), (sp.diags_array(bias - end) @ inside, sigma)], upper=0.0)

    # the same for the lowest piece, whose copies are xhat_p minus all others and whose lambda is 1 - sigma_1
    lowest, first = cut.start[cut.first], np.flatnonzero(cut.first)
    first_sigma = [sigma[s] for s in first]
    everything = np.arange(len(parts.unit))
    low, high = _piece_bounds(layer, parts, everything, layer.lower[parts.unit], lowest[parts.unit])
    rest = sp.csr_array((-np.ones(len(part)), (copy.part, np.arange(len(part)))), shape=(len(everything), len(part)))
    own_sigma = [first_sigma[i] for i in parts.unit]
    block.part_below = Rows([(parts.matrix, layer.inputs), (rest, part), (low, own_sigma)], lower=low)
    block.part_under = Rows([(parts.matrix, layer.inputs), (rest, part), (high, own_sigma)], upper=high)
    spent = cut.per_unit() @ summed
    # a - spent - b (1 - lambda_0) lies between lower lambda_0 and t_1 lambda_0, with lambda_0 = 1 - sigma_1
    block.below_least = Rows([(1.0, a), (-spent, part), (layer.lower - layer.bias, first_sigma)], lower=layer.lower)
    block.below_most = Rows([(1.0, a), (-spent, part), (lowest - layer.bias, first_sigma)], upper=lowest)

    if layer.simplices:
        _add_simplices(block, layer, cut, parts, copy)
    later = np.flatnonzero(~cut.first)
    if len(later):
        block.sigma_order = Rows([(1.0, [sigma[s - 1] for s in later]), (-1.0, [sigma[s] for s in later])], lower=0.0)

    # h = s_0 a + c_0 + sum_k (s_k - s_0) (summed part_k + b lambda_k) + (c_k - c_0) lambda_k
    constant = cut.gain * bias + cut.intercept - cut.base_intercept[cut.unit]
    terms = [
        (1.0, post),
        (-cut.base_slope, a),
        (-(cut.per_unit(cut.gain) @ summed), part),
        (-(cut.per_unit(constant) @ inside), sigma),
    ]
    block.post_rows = Rows(terms, lower=cut.base_intercept, upper=cut.base_intercept)
    return post


def _add_simplices(block, layer: PiecewiseLinearLayer, cut: Pieces, parts: _Parts, copy: _Copies) -> None:
    """The rows (simplices), for the segments and for the lowest piece."""
    part, sigma = list(block.part.values()), list(block.sigma.values())
    begin = parts.matrix.indptr[:-1]
    weight = parts.matrix.data[begin]
    single = (np.diff(parts.matrix.indptr) == 1) & (abs(weight) >= SMALL)
    column = np.where(single, parts.matrix.indices[begin], -1)
    weight = np.where(single, weight, 1.0)

    sums, segment = simplex_sums(layer.simplices, len(layer.inputs), copy.segment, column[copy.part])
    terms = [(sums / weight[copy.part], part), (-cut.inside()[segment], sigma)]
    block.simplex_copies = Rows(terms, upper=0.0)

    # sum_j (x_j - sum_k x_j^k) <= 1 - sigma_1
    sums, unit = simplex_sums(layer.simplices, len(layer.inputs), parts.unit, column)
    sums = sums / weight
    spent = sp.csr_array((np.ones(len(part)), (copy.part, np.arange(len(part)))), shape=(len(weight), len(part)))
    first_sigma = [sigma[s] for s in np.flatnonzero(cut.first)[unit]]
    terms = [(sums @ parts.matrix, layer.inputs), (-(sums @ spent), part), (1.0, first_sigma)]
    block.simplex_below = Rows(terms, upper=1.0)
