"""Maxima over groups (Maxout, MaxPool, max of two branches): survey section 4.5.2, after Anderson et al. 2020, Prop.
10.

``y = max_j a_j`` with ``L_j <= a_j <= U_j``:

    y >= a_j,   y <= a_j + M_j (1 - z_j),   sum_j z_j = 1,   z_j in {0, 1},   M_j = max_{k != j} U_k - L_j.

The survey asks for ``M_j >= max a_j``, which does not suffice: with z_k = 1 the row of j must hold at y = a_k for the
least a_j, hence the M above. Without binaries the concave envelope gives, with ``L = max_j L_j``,

    y <= L + sum_j (U_j - L)^+ / (U_j - L_j) (a_j - L_j),

for at a vertex of the box with the members S at their upper bounds the right side is at least ``max(L, max_S U_j)``,
and a convex function lies below a linear one on a box if it does so at the vertices.
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

    big_m = _upper_of_others(layer, unit, member) - layer.lower[member]
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
        order = np.lexsort((-pre[member], unit))  # the first of each unit in this order attains the maximum
        attains = np.zeros(len(unit))
        attains[order[_starts(unit)]] = 1.0
        set_variables(block.sigma, attains)


def _add_relaxation(block, layer: MaxLayer) -> tuple[list, list]:
    a = layer.add_pre(block)
    unit, member = _memberships(layer)
    low, high = layer.lower[member], layer.upper[member]
    best = np.maximum.reduceat(low, _starts(unit))
    post = add_variables(block, "post", layer.units, best, np.maximum.reduceat(high, _starts(unit)))

    block.at_least = Rows([(1.0, [post[i] for i in unit]), (-1.0, [a[j] for j in member])], lower=0.0)
    slope = np.maximum(high - best[unit], 0.0) / np.where(high > low, high - low, 1.0)
    envelope = sp.csr_array((slope, (unit, member)), shape=(len(post), layer.size))
    block.envelope = Rows([(1.0, post), (-envelope, a)], upper=best - np.bincount(unit, slope * low))
    return a, post


def _memberships(layer: MaxLayer) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (unit, member), unit by unit."""
    sizes = [len(group) for group in layer.groups]
    return np.repeat(np.arange(len(sizes)), sizes), np.concatenate(layer.groups)


def _starts(unit: np.ndarray) -> np.ndarray:
    """Where each unit's run of pairs begins."""
    return np.flatnonzero(np.diff(unit, prepend=-1))


def _upper_of_others(layer: MaxLayer, unit: np.ndarray, member: np.ndarray) -> np.ndarray:
    """For each pair the greatest upper bound among the unit's other members."""
    high = layer.upper[member]
    order = np.lexsort((-high, unit))
    first = order[_starts(unit)]
    second = order[_starts(unit) + 1]  # every group has at least two members, else it would be decided
    return np.where(np.isin(np.arange(len(unit)), first), high[second][unit], high[first][unit])
