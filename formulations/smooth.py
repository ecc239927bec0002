"""Activations as nonlinear equations ``h = f(a)``, for NLP solvers and for spatial branch and bound such as SCIP.

Smooth activations are written with one exponential, whose sign is chosen for each unit so that it cannot overflow
between the bounds. For s = 1, or s = -1,

    Sigmoid     h = (1 - s) / 2 + s / (1 + exp(-s a))
    Tanh        h = -s + 2 s / (1 + exp(-2 s a))
    Softplus    h = (1 + s) / 2 a + log(1 + exp(-s beta a)) / beta

A continuous piecewise-linear f with slopes s_0, ..., s_k and breakpoints t_j is a sum of hinges,

    h = c_0 + s_0 a + sum_j (s_j - s_{j-1}) R(a - t_j),      R(t) = (t + sqrt(t^2 + epsilon^2)) / 2,

and a maximum is a chain of them, ``max(y, a_j) = y + R(a_j - y)``. With epsilon > 0, R is smooth, and
``0 <= R(t) - max(t, 0) <= epsilon / 2``, with the greatest error at t = 0. With epsilon = 0 it is ``(t + |t|) / 2``,
exact, for solvers that take absolute values: SCIP does, but the interface "scip_direct" of Pyomo 6.10 does not hand
them on, so that it needs epsilon > 0 for all but smooth activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from scipy.special import expit

from formulations.complementarity import hinges
from formulations.layer import MaxLayer, SmoothLayer
from formulations.pieces import Pieces
from formulations.rows import add_variables, set_variables

GREATEST_EXPONENT = 700.0  # exp(710) is beyond float64


@dataclass(frozen=True)
class Smooth:
    """Exact for smooth activations, and for piecewise-linear ones without jumps and maxima where ``epsilon`` is 0.

    With ``epsilon`` > 0 each hinge is at most epsilon / 2 too high: a ReLU by that much, any other f by that much for
    each unit of change in its slope, a maximum of k members by k - 1 times that much. The variables of an embedded
    network keep the bounds of the network itself, which a smoothed one may have to touch.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.a = pyo.Var(bounds=(-1, 3))
    >>> m.unit = pyo.Block()
    >>> h = Smooth().add(m.unit, SmoothLayer("hidden", "Tanh", [0], [[1.0]], [0.0], [m.a], [-1.0], [3.0]))
    >>> for row in m.unit.component_data_objects(pyo.Constraint):
    ...     print(row.expr)
    unit.post[0]  ==  -1 + 2/(1 + exp(-2*a))
    """

    epsilon: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.epsilon < np.inf:
            raise ValueError(f"Smooth: epsilon is {self.epsilon}, but must be 0 (exact hinges) or positive")

    def add(self, block, layer) -> list:
        """Add the layer's variables and equations to the block; returns the variables of its outputs."""
        if isinstance(layer, MaxLayer):
            return _add_max(block, layer, self.epsilon)
        if isinstance(layer, SmoothLayer):
            return _add_smooth(block, layer)
        return _add_hinges(block, layer, *hinges(self, layer), self.epsilon)

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what the equations make of pre-activations (p,)."""
        if isinstance(layer, MaxLayer):
            set_variables(block.best, [y for _, _, y in _running_maxima(layer, pre, self.epsilon)])
        elif isinstance(layer, SmoothLayer):
            set_variables(block.post, smooth_value(layer, pre))
        else:
            cut, kink = hinges(self, layer)
            set_variables(block.post, _sum_of_hinges(cut, kink, pre, self.epsilon))


def smooth_value(layer: SmoothLayer, a: np.ndarray) -> np.ndarray:
    """f of pre-activations, elementwise."""
    if layer.kind == "Softplus":
        return np.logaddexp(0.0, layer.beta * a) / layer.beta
    return np.tanh(a) if layer.kind == "Tanh" else expit(a)


def smooth_expressions(layer: SmoothLayer, a: list) -> list:
    """f of each pre-activation as a Pyomo expression in which no exponential overflows between the unit's bounds."""
    return [_expression(layer, v, sign) for v, sign in zip(a, _signs(layer), strict=True)]


def steepness(layer: SmoothLayer) -> float:
    """The factor of the pre-activation in the exponential of f."""
    known = {"Sigmoid": 1.0, "Tanh": 2.0, "Softplus": layer.beta}
    if layer.kind not in known:
        raise ValueError(f"layer {layer.name!r} has kind {layer.kind!r}, but must be one of {', '.join(known)}")
    return known[layer.kind]


def _hinge(t, epsilon: float):
    """R(t) of a number, an array or a Pyomo expression."""
    return 0.5 * (t + (abs(t) if epsilon == 0 else (t**2 + epsilon**2) ** 0.5))


def _add_smooth(block, layer: SmoothLayer) -> list:
    a = layer.add_pre(block)
    post = add_variables(
        block, "post", layer.labels, smooth_value(layer, layer.lower), smooth_value(layer, layer.upper)
    )
    units = zip(post, smooth_expressions(layer, a), strict=True)
    block.post_rows = pyo.ConstraintList(rule=(h == f for h, f in units))
    return post


def _signs(layer: SmoothLayer) -> list[int]:
    """The sign s of each unit with which ``exp(-s a)`` stays smaller; ValueError where it overflows either way."""
    greatest = steepness(layer) * np.minimum(-layer.lower, layer.upper)
    if (greatest > GREATEST_EXPONENT).any():
        i = int(greatest.argmax())
        raise ValueError(
            f"layer {layer.name!r} ({layer.kind}): unit {layer.labels[i]} has bounds [{layer.lower[i]}, "
            f"{layer.upper[i]}], between which exp overflows; tighten the bounds of the inputs"
        )
    return np.where(-layer.lower <= layer.upper, 1, -1).tolist()


def _expression(layer: SmoothLayer, a, s: int):
    """f(a) with ``exp(-s a)``."""
    if layer.kind == "Tanh":
        return -s + 2 * s / (1 + pyo.exp(-2 * s * a))
    if layer.kind == "Sigmoid":
        return (1 - s) // 2 + s / (1 + pyo.exp(-s * a))
    return (1 + s) // 2 * a + pyo.log(1 + pyo.exp(-s * layer.beta * a)) / layer.beta


def _add_hinges(block, layer, cut: Pieces, kink: np.ndarray, epsilon: float) -> list:
    a = layer.add_pre(block)
    low, high = layer.range()
    low = low + epsilon / 2 * (cut.per_unit(np.minimum(kink, 0.0)).sum(1))
    high = high + epsilon / 2 * (cut.per_unit(np.maximum(kink, 0.0)).sum(1))
    post = add_variables(block, "post", layer.labels, low, high)
    value = [s * v + c for s, v, c in zip(cut.base_slope.tolist(), a, cut.base_intercept.tolist(), strict=True)]
    for i, t, change in zip(cut.unit, cut.start.tolist(), kink.tolist(), strict=True):
        value[i] += change * _hinge(a[i] - t, epsilon)
    block.post_rows = pyo.ConstraintList(rule=(h == f for h, f in zip(post, value, strict=True)))
    return post


def _sum_of_hinges(cut: Pieces, kink: np.ndarray, pre: np.ndarray, epsilon: float) -> np.ndarray:
    hinge = _hinge(pre[cut.unit] - cut.start, epsilon)
    return cut.base_slope * pre + cut.base_intercept + cut.per_unit(kink) @ hinge


def _add_max(block, layer: MaxLayer, epsilon: float) -> list:
    a = layer.add_pre(block)
    low = [y for _, _, y in _running_maxima(layer, layer.lower, 0.0)]
    high = [y for _, _, y in _running_maxima(layer, layer.upper, epsilon)]
    places = [(i, j) for i, j, _ in _running_maxima(layer, layer.lower, 0.0)]
    best = add_variables(block, "best", [(layer.units[i], layer.labels[j]) for i, j in places], low, high)
    block.best_rows = pyo.ConstraintList()
    post = [a[group[0]] for group in layer.groups]
    for y, (i, j) in zip(best, places, strict=True):
        block.best_rows.add(y == post[i] + _hinge(a[j] - post[i], epsilon))
        post[i] = y
    return post


def _running_maxima(layer: MaxLayer, pre: np.ndarray, epsilon: float):
    """Unit, member and smoothed maximum up to that member, for all members but the first of each group."""
    for i, group in enumerate(layer.groups):
        best = pre[group[0]]
        for j in group[1:].tolist():
            best = best + _hinge(pre[j] - best, epsilon)
            yield i, j, best
