"""Cuts that bring the triangles of single units to their convex hulls over the box of their inputs: survey eq. (9).

Of a unit with one kink, ``h`` is piece 0 or 1 of ``s_j a + c_j`` with ``a = w x + b``. Let it be convex (else turn it
over: sign = -1). For any row m whatever, and every x between its bounds,

    h - m x  <=  max_j  c_j + s_j b + max_x (s_j w - m) x,

one sum over the columns for each piece. The best m at a point x* follows from the concave envelope of the hinge
``max(0, v x + d)``, v = (s_1 - s_0) w, which Tjandraatmadja et al. 2020 (section 3) find by a sort: with Lo_k the end
of column k's range where v_k x_k is least, and top the hinge's greatest value, take the columns in ascending order of
``v_k (x*_k - Lo_k) / width_k``; those whose widths top still covers count in full, the next one with what is left, the
others not. `formulations.Hull` writes the same cuts in a model. Here the right-hand side is computed anew from m, which
may be rounded as it likes, and its own rounding is the row's slack.

Source: Tjandraatmadja et al., "The convex relaxation barrier, revisited", NeurIPS 2020; Anderson et al. 2020.
"""

from __future__ import annotations

import numpy as np

from formulations import Hull
from polyopt.regions.rounding import TINY, gamma
from polyopt.tighten.polyhedron import Polyhedron
from polyopt.tighten.relaxed import Hinges


def separate(polyhedron: Polyhedron, hinges: list[Hinges], point: np.ndarray, hull: Hull) -> int:
    """Add the cuts that a point (n,) violates, of each layer no more than the hull asks for; returns how many.

    >>> columns = Polyhedron()
    >>> h = columns.add_columns([-1.0, -1.0, 0.0], [1.0, 1.0, 2.0])[2:]
    >>> import scipy.sparse as sp
    >>> from polyopt.tighten.relaxed import Forms
    >>> forms = Forms(sp.csr_array([[1.0, 1.0, 0.0]]), np.zeros(1), np.zeros(1))
    >>> relu = Hinges(forms, h, np.array([[0.0], [1.0]]), np.zeros((2, 1)))
    >>> separate(columns, [relu], np.array([1.0, -1.0, 1.0]), Hull())
    1
    >>> columns.matrix.toarray(), columns.row_upper
    (array([[ 0., -1.,  1.]]), array([1.]))
    """
    added = 0
    for layer in hinges:
        if not len(layer.columns):
            continue
        read = np.unique(layer.forms.matrix.indices)
        sign = np.where(layer.slopes[1] > layer.slopes[0], 1.0, -1.0)
        low, high = polyhedron.lower[read], polyhedron.upper[read]
        slopes, intercepts, weight = sign * layer.slopes, sign * layer.intercepts, layer.forms.matrix[:, read].toarray()
        rows = _tightest(weight, layer.forms.offset, slopes, intercepts, low, high, point[read])
        bound, size = _right_side(rows, weight, layer.forms, slopes, intercepts, low, high)
        slack = 2.0 * gamma(len(read) + 8) * size + abs(slopes).max(0) * layer.forms.slack + TINY * (len(read) + 4)
        excess = sign * point[layer.columns] - rows @ point[read] - bound
        order = np.argsort(-excess)
        chosen = order[(excess > hull.tolerance * (1.0 + size))[order]][: hull.per_round]
        if len(chosen):
            matrix = np.zeros((len(chosen), len(point)))
            matrix[:, read] = -rows[chosen]
            matrix[np.arange(len(chosen)), layer.columns[chosen]] = sign[chosen]
            polyhedron.add_rows(matrix, -np.inf, bound[chosen], slack[chosen])
        added += len(chosen)
    return added


def _tightest(weight, offset, slopes, intercepts, low, high, x) -> np.ndarray:
    """Of each unit the row m (p, k) of the tightest cut at x."""
    turn = slopes[1] - slopes[0]
    v = turn[:, None] * weight
    width = abs(v) * (high - low)
    top = np.maximum(v * low, v * high).sum(1) + turn * offset + intercepts[1] - intercepts[0]
    rise = v * x - np.minimum(v * low, v * high)
    share = np.divide(rise, width, out=np.ones_like(width), where=width > 0)
    order = np.argsort(share, axis=1, kind="stable")
    sorted_width = np.take_along_axis(width, order, 1)
    left = top[:, None] - (np.cumsum(sorted_width, axis=1) - sorted_width)
    taken = np.divide(left, sorted_width, out=np.ones_like(left), where=sorted_width > 0).clip(0.0, 1.0)
    full = np.empty_like(taken)
    np.put_along_axis(full, order, taken, 1)
    return slopes[0][:, None] * weight + full * v


def _right_side(rows, weight, forms, slopes, intercepts, low, high) -> tuple[np.ndarray, np.ndarray]:
    """The right-hand side for these rows, and the size (p,) of the numbers in it."""
    reach = np.maximum(abs(low), abs(high))
    values, sizes = [], []
    for slope, intercept in zip(slopes, intercepts, strict=True):
        rest = slope[:, None] * weight - rows
        values.append(intercept + slope * forms.offset + np.maximum(rest * low, rest * high).sum(1))
        sizes.append(abs(intercept) + abs(slope * forms.offset) + (abs(slope[:, None] * weight) + abs(rows)) @ reach)
    return np.maximum(*values), np.maximum(*sizes)
