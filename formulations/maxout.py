"""Maxima over groups (Maxout, MaxPool, max of two branches): survey section 4.5.2, after Anderson et al. 2020, Prop.
10.

``y = max_j a_j`` with ``L_j <= a_j <= U_j``:

    y >= a_j,   y <= a_j + M_j (1 - z_j),   sum_j z_j = 1,   z_j in {0, 1},   M_j = max_{k != j} U_k - L_j.

The survey asks for ``M_j >= max a_j``, which does not suffice: with z_k = 1 the row of j must hold at y = a_k for
the least a_j, hence the M above. Without binaries, with ``L = max_j L_j``, t the member of greatest upper bound and
``U' = max(L_t, max_{k != t} U_k)``,

    y <= L + sum_j (U_j - L)^+ / (U_j - L_j) (a_j - L_j)
    y <= U_t - (U_t - U') / (U_t - L_t) (U_t - a_t)

for at each vertex of the box the right sides are at least the greatest coordinate, and a convex function lies below a
linear one on a box if it does so at the vertices. For two members these rows are the convex hull.
"""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations.layer import MaxLayer
from formulations.rows import Rows, add_variables, set_variables


def add_max_relaxation(block, layer: MaxLayer) -> list:
    """Add y with ``y >= a_j`` and the rows of the concave envelope; returns the variables y."""
    return _add_relaxation(block, layer)[1]


def add_max_binaries(block, layer: MaxLayer) -> list:
    """Add y, the relaxation, and one binary for each member of a group; returns the variables y."""
    a, post = _add_relaxation(block, layer)
    unit, member = _memberships(layer)
    labels = [(layer.units[i], layer.labels[j]) for i, j in zip(unit, member, strict=True)]
    sigma = add_variables(block, "sigma", labels, domain=pyo.Binary)

    high = layer.upper[member]
    top, second = _two_greatest(unit, high)
    others = np.where(np.isin(np.arange(len(unit)), top), high[second][unit], high[top][unit])
    big_m = others - layer.lower[member]
    terms = [(1.0, [post[i] for i in unit]), (-1.0, [a[j] for j in member]), (big_m, sigma)]
    block.at_most = Rows(terms, upper=big_m)
    members = sp.csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))))
    block.one_attains = Rows([(members, sigma)], lower=1.0, upper=1.0)
    return post


def set_max_values(block, layer: MaxLayer, pre: np.ndarray) -> None:
    """Set y, and the binaries where there are any, to what pre-activations (p,) make of them."""
    unit, member = _memberships(layer)
    best = np.maximum.reduceat(pre[member], _starts(unit))
    set_variables(block.post, best)
    if block.component("sigma"):
        attains = np.zeros(len(unit))
        attains[_two_greatest(unit, pre[member])[0]] = 1.0
        set_variables(block.sigma, attains)


def _add_relaxation(block, layer: MaxLayer) -> tuple[list, list]:
    a = layer.add_pre(block)
    unit, member = _memberships(layer)
    low, high = layer.lower[member], layer.upper[member]
    best = np.maximum.reduceat(low, _starts(unit))
    post = add_variables(block, "post", layer.units, best, np.maximum.reduceat(high, _starts(unit)))

    width = np.where(high > low, high - low, 1.0)

    block.at_least = Rows([(1.0, [post[i] for i in unit]), (-1.0, [a[j] for j in member])], lower=0.0)
    slope = np.maximum(high - best[unit], 0.0) / width
    envelope = sp.csr_array((slope, (unit, member)), shape=(len(post), layer.size))
    block.from_below = Rows([(1.0, post), (-envelope, a)], upper=best - np.bincount(unit, slope * low))

    top, second = _two_greatest(unit, high)
    fall = (high[top] - np.maximum(low[top], high[second])) / width[top]
    block.from_above = Rows([(1.0, post), (-fall, [a[j] for j in member[top]])], upper=high[top] - fall * high[top])
    return a, post


def _memberships(layer: MaxLayer) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (unit, member), unit by unit."""
    sizes = [len(group) for group in layer.groups]
    return np.repeat(np.arange(len(sizes)), sizes), np.concatenate(layer.groups)


def _starts(unit: np.ndarray) -> np.ndarray:
    """Where each unit's run of pairs begins."""
    return np.flatnonzero(np.diff(unit, prepend=-1))


def _two_greatest(unit: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each unit the places of its greatest and second greatest value; every unit has at least two."""
    order = np.lexsort((-values, unit))
    return order[_starts(unit)], order[_starts(unit) + 1]
