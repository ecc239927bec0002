"""Units as disjunctions of pyomo.gdp, for users who choose among Pyomo's own transformations of them.

A unit is the disjunction over its linear pieces, for a ReLU

    [ h = 0, a <= 0 ]  or  [ h = a, a >= 0 ],

which the survey's section 4.3 starts from: gdp.bigm makes a big-M formulation of it, gdp.hull the extended formulation
in the space (a, h) (Balas 1998). A unit with the breakpoints ``t_1 <= ... <= t_k`` between its bounds has k + 1
alternatives, ``h = s_j a + c_j`` with ``t_j <= a <= t_{j+1}``, and a maximum one for each member,
``y = a_j, y >= a_i`` for all i. Pre-activations and outputs have finite bounds, from which the transformations compute
their M. Models with disjunctions are not solved as they are: transform them first (Chen et al. 2022, Pyomo.GDP).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from pyomo.gdp import Disjunct, Disjunction

from formulations.layer import MaxLayer, PiecewiseLinearLayer, not_defined
from formulations.rows import add_variables, set_variables


@dataclass(frozen=True)
class GDP:
    """Exact for piecewise-linear activations and maxima, as ``block.choice`` between the disjuncts ``block.piece``.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.a = pyo.Var(bounds=(-1, 3))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[1.0]], [0.0], [m.a], [-1.0], [3.0],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> h = GDP().add(m.unit, relu)
    >>> for piece in m.unit.choice[0].disjuncts:
    ...     print([str(row.expr) for row in piece.component_data_objects(pyo.Constraint)])
    ['unit.post[0]  ==  0.0', 'a  <=  0.0']
    ['a  ==  unit.post[0]', '0.0  <=  a']
    """

    def add(self, block, layer) -> list:
        """Add the layer's variables and disjunctions to the block; returns the variables of its outputs."""
        if isinstance(layer, PiecewiseLinearLayer):
            return _add_pieces(block, layer)
        if isinstance(layer, MaxLayer):
            return _add_members(block, layer)
        raise not_defined(self, layer, "piecewise-linear activations and maxima")

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables and indicators to what pre-activations (p,) make of them."""
        if isinstance(layer, MaxLayer):
            chosen = np.array([group[pre[group].argmax()] for group in layer.groups])
            set_variables(block.post, pre[chosen])
            _choose(block, zip(layer.units, (layer.labels[j] for j in chosen), strict=True))
            return
        lowest, highest = _range_of_pieces(layer)
        units, chosen = np.arange(layer.size), np.clip((layer.breakpoints < pre).sum(0), lowest, highest)
        set_variables(block.post, layer.slopes[chosen, units] * pre + layer.intercepts[chosen, units])
        _choose(block, zip(layer.labels, chosen.tolist(), strict=True))


def _range_of_pieces(layer: PiecewiseLinearLayer) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (p,) of each unit's lowest and highest piece between its bounds."""
    return layer.passed.sum(0), (layer.passed | layer.crossed).sum(0)


def _add_pieces(block, layer: PiecewiseLinearLayer) -> list:
    a = layer.add_pre(block)
    post = add_variables(block, "post", layer.labels, *layer.range())
    lowest, highest = _range_of_pieces(layer)
    pieces = [(i, j) for i in range(layer.size) for j in range(lowest[i], highest[i] + 1)]
    disjuncts = _add_disjuncts(block, [(layer.labels[i], j) for i, j in pieces])
    for piece, (i, j) in zip(disjuncts, pieces, strict=True):
        slope, intercept = float(layer.slopes[j, i]), float(layer.intercepts[j, i])
        piece.value = pyo.Constraint(expr=post[i] == (slope * a[i] + intercept if slope else intercept))
        if j > lowest[i]:
            piece.least = pyo.Constraint(expr=a[i] >= float(layer.breakpoints[j - 1, i]))
        if j < highest[i]:
            piece.most = pyo.Constraint(expr=a[i] <= float(layer.breakpoints[j, i]))
    return post


def _add_members(block, layer: MaxLayer) -> list:
    a = layer.add_pre(block)
    ends = ([bound[group].max() for group in layer.groups] for bound in (layer.lower, layer.upper))
    post = add_variables(block, "post", layer.units, *ends)
    members = [(i, j) for i, group in enumerate(layer.groups) for j in group.tolist()]
    disjuncts = _add_disjuncts(block, [(layer.units[i], layer.labels[j]) for i, j in members])
    for piece, (i, j) in zip(disjuncts, members, strict=True):
        piece.value = pyo.Constraint(expr=post[i] == a[j])
        piece.wins = pyo.ConstraintList(rule=(post[i] >= a[k] for k in layer.groups[i] if k != j))
    return post


def _add_disjuncts(block, labels: list[tuple]) -> list:
    """The disjuncts ``piece``, labelled (unit, alternative), and for each unit the choice of exactly one."""
    block.piece = Disjunct(labels)
    of_unit = defaultdict(list)
    for label in labels:
        of_unit[label[0]].append(block.piece[label])
    block.choice = Disjunction(list(of_unit), rule=lambda _, unit: of_unit[unit])
    return list(block.piece.values())


def _choose(block, labels) -> None:
    """Set the indicators of these disjuncts, and no others."""
    labels = set(labels)
    for label, piece in block.piece.items():
        piece.indicator_var.set_value(label in labels)
