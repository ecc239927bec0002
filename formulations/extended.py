"""The extended formulation, survey eq. (5): the convex hull of a unit's disjunction over a box, by copies of its
inputs.

    (h^{l-1}, h) = (x^+, y^+) + (x^-, y^-)          (5a)
    y^- = 0 >= w x^- + b (1 - sigma)                (5b)
    y^+ = w x^+ + b sigma >= 0                      (5c)
    L (1 - sigma) <= x^- <= U (1 - sigma)           (5d)
    L sigma <= x^+ <= U sigma                       (5e),   sigma in {0, 1}  (5f)

It is locally ideal. It is the partition-based formulation (6) with every input a part by itself (xhat_j = w_j x_j),
and is written as that. For ``y = max_j a_j`` with ``a_j = w_j x + b_j`` the disjunction has an alternative for each
member j, with a copy x^j of the inputs and ``z_j`` in {0, 1}, sum_j z_j = 1:

    x = sum_j x^j,   L z_j <= x^j <= U z_j,   w_j x^j + b_j z_j >= w_k x^j + b_k z_j for all k
    y = sum_j w_j x^j + b_j z_j

(Balas 1998; Anderson et al. 2020, section 2.2). Over inputs some of which form simplices, the copies of each
simplex add up to no more than the binary of their piece or alternative (`formulations.simplices`), which makes the
form ideal there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations.layer import MaxLayer
from formulations.partition import Partition
from formulations.rows import Rows, add_variables, set_variables
from formulations.simplices import simplex_sums


@dataclass(frozen=True)
class Extended:
    """Exact and locally ideal for piecewise-linear activations and maxima; one auxiliary variable for each weight.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.a = pyo.Var(range(2), bounds=(0, 1))
    >>> m.unit = pyo.Block()
    >>> layer = MaxLayer("max", "Max", [0, 1], np.eye(2), np.zeros(2), list(m.a.values()), [0, 0], [1, 1],
    ...                  groups=[np.array([0, 1])], units=[0])
    >>> y = Extended().add(m.unit, layer)
    >>> for row in m.unit.attains.values():
    ...     print(row.expr)
    0.0  <=  unit.copy[0,0,0] - unit.copy[0,0,1]
    0.0  <=  - unit.copy[0,1,0] + unit.copy[0,1,1]
    """

    def add(self, block, layer) -> list:
        """Add the layer's variables and rows to the block; returns the variables of its outputs."""
        return _add_max(block, layer) if isinstance(layer, MaxLayer) else _every_input(layer).add(block, layer)

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) and the incoming variables' values make of them."""
        if isinstance(layer, MaxLayer):
            _set_max(block, layer, pre)
        else:
            _every_input(layer).set_values(block, layer, pre)


def _every_input(layer) -> Partition:
    return Partition(parts=max(1, int(np.diff(layer.weight.indptr).max(initial=1))))


def _add_max(block, layer: MaxLayer) -> list:
    low, high = layer.input_bounds
    alternatives = _alternatives(layer)
    best = [layer.lower[group].max() for group in layer.groups], [layer.upper[group].max() for group in layer.groups]
    post = add_variables(block, "post", layer.units, *best)
    z_labels = [(layer.units[i], layer.labels[j]) for i, j, _ in alternatives]
    sigma = add_variables(block, "sigma", z_labels, domain=pyo.Binary)
    labels = [(*label, int(c)) for label, (_, _, columns) in zip(z_labels, alternatives, strict=True) for c in columns]
    copy = add_variables(block, "copy", labels)

    sizes = [len(columns) for _, _, columns in alternatives]
    owner = np.repeat(np.arange(len(alternatives)), sizes)  # the alternative of each copy
    column = np.concatenate([columns for _, _, columns in alternatives])
    unit = np.array([i for i, _, _ in alternatives])
    everything = np.arange(len(copy))
    own_sigma = [sigma[k] for k in owner]
    block.copy_least = Rows([(1.0, copy), (-low[column], own_sigma)], lower=0.0)
    block.copy_most = Rows([(1.0, copy), (-high[column], own_sigma)], upper=0.0)

    if layer.simplices:
        sums, holder = simplex_sums(layer.simplices, len(layer.inputs), owner, column)
        block.simplex_copies = Rows([(sums, copy), (-1.0, [sigma[k] for k in holder])], upper=0.0)

    pairs, place = np.unique(unit[owner] * len(layer.inputs) + column, return_inverse=True)
    split = sp.csr_array((np.ones(len(copy)), (place, everything)))
    whole = [layer.inputs[c] for c in pairs % len(layer.inputs)]
    block.split = Rows([(1.0, whole), (-split, copy)], lower=0.0, upper=0.0)
    gather = sp.csr_array((np.ones(len(sigma)), (unit, np.arange(len(sigma)))))  # sums over a unit's alternatives
    block.one_attains = Rows([(gather, sigma)], lower=1.0, upper=1.0)

    # rows (alternative k of member j, other member q) on the copies and sigma of k
    rivals = [(k, j, q) for k, (i, j, _) in enumerate(alternatives) for q in layer.groups[i] if q != j]
    which, member, other = (np.array(part) for part in zip(*rivals, strict=True))
    spread = _on_copies(layer, owner, column, which, layer.weight[member] - layer.weight[other])
    ahead = layer.bias[member] - layer.bias[other]
    bias = sp.csr_array((ahead, (np.arange(len(which)), which)), shape=(len(which), len(sigma)))
    block.attains = Rows([(spread, copy), (bias, sigma)], lower=0.0)

    members = np.array([j for _, j, _ in alternatives])
    value = _on_copies(layer, owner, column, np.arange(len(alternatives)), layer.weight[members])
    terms = [(1.0, post), (-(gather @ value), copy), (-(gather @ sp.diags_array(layer.bias[members])), sigma)]
    block.post_rows = Rows(terms, lower=0.0, upper=0.0)
    return post


def _alternatives(layer: MaxLayer) -> list[tuple[int, int, np.ndarray]]:
    """(unit, member, columns on which the unit depends), unit by unit."""
    found = []
    for i, group in enumerate(layer.groups):
        columns = np.unique(layer.weight[group].indices)
        found.extend((i, int(j), columns) for j in group)
    return found


def _on_copies(layer, owner, column, which, weight) -> sp.csr_array:
    """Rows on inputs, each belonging to an alternative, as rows on that alternative's copies."""
    dense = np.full((owner.max(initial=-1) + 1, len(layer.inputs)), -1)
    dense[owner, column] = np.arange(len(owner))
    weight = sp.coo_array(weight)
    row, source = weight.coords
    return sp.csr_array((weight.data, (row, dense[which[row], source])), shape=(weight.shape[0], len(owner)))


def _set_max(block, layer: MaxLayer, pre: np.ndarray) -> None:
    x = np.array([variable.value for variable in layer.inputs])
    winners = [group[pre[group].argmax()] for group in layer.groups]
    alternatives = _alternatives(layer)
    set_variables(block.post, pre[winners])
    set_variables(block.sigma, [float(winners[i] == j) for i, j, _ in alternatives])
    set_variables(block.copy, np.concatenate([x[columns] * (winners[i] == j) for i, j, columns in alternatives]))
