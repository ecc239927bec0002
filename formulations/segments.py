"""Smooth activations between piecewise-linear bounds, as mixed-integer linear rows (survey section 4.5.2).

On the bounds ``[lower, upper]`` of a unit with ``h = f(a)``, g is a continuous piecewise-linear function with n
segments, and

    h = g(a) + e,   -e_- <= e <= e_+,      -e_- = min f - g,   e_+ = max f - g  over [lower, upper],

so that every point of the graph is kept, and every h is within ``e_- + e_+`` of f(a). Breakpoints are spread over
[lower, upper] by the integral of ``sqrt |f''|``, which makes the errors of the segments equal as n grows (de Boor
1973), with a tenth as much evenly. With u = tanh(c a), c = 1/2 for Sigmoid, 1 for Tanh, beta/2 for Softplus, the
integral is an incomplete beta function,

    sign(a) I_{u^2}(3/4, 1/2) for Sigmoid and Tanh,    sign(a) I_{u^2}(1/2, 1/2) for Softplus.

g first interpolates f; then its value at each breakpoint is raised by half the greatest error of the segments it
joins, which halves the error. On a segment of slope s, f - g is extreme at the ends or where f' = s:

    Sigmoid, Tanh    cosh(c a)^-2 = s / f'(0),         Softplus    1 / (1 + exp(-beta a)) = s.

The error falls as 1/n^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.special import betainc, logit

from formulations.bigm import BigM
from formulations.layer import Formulation, PiecewiseLinearLayer, SmoothLayer
from formulations.pieces import pieces
from formulations.rows import Rows, add_variables, set_variables
from formulations.smooth import smooth_value, steepness

DEFAULT = BigM()
NARROW = 1e-6  # between bounds this close f is written as its range alone; solvers' tolerances are no smaller


@dataclass(frozen=True)
class PiecewiseLinear:
    """Encloses smooth activations with ``segments`` linear pieces each; other activations are left as they are.

    ``formulation`` writes the piecewise-linear functions: with an exact one every output is within `max_error` of the
    activation, layer by layer, and bounds on the outputs are bounds on the network's. The outputs are ``block.smooth``,
    the errors ``block.error``; the rest belongs to ``formulation``, whose outputs are the g.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.a = pyo.Var(bounds=(-1, 1))
    >>> m.unit = pyo.Block()
    >>> layer = SmoothLayer("hidden", "Tanh", [0], [[1.0]], [0.0], [m.a], [-1.0], [1.0])
    >>> h = PiecewiseLinear(segments=4).add(m.unit, layer)
    >>> for row in m.unit.smooth_rows.values():
    ...     print(row.expr)
    unit.smooth[0] - unit.error[0] - unit.post[0]  ==  0.0
    >>> PiecewiseLinear(4).max_error(layer).round(4), PiecewiseLinear(40).max_error(layer).round(6)
    (array([0.029]), array([0.000224]))
    """

    segments: int = 8
    formulation: Formulation = DEFAULT

    def __post_init__(self):
        if self.segments < 2:
            raise ValueError(f"PiecewiseLinear: segments is {self.segments}, but must be at least 2")

    def add(self, block, layer) -> list:
        """Add the layer's variables and rows to the block; returns the variables of its outputs."""
        if not isinstance(layer, SmoothLayer):
            return self.formulation.add(block, layer)
        wide, approximation, low, high = _enclosure(layer, self.segments)
        g = self.formulation.add(block, approximation) if len(wide) else approximation.add_pre(block)
        error = add_variables(block, "error", layer.labels, low, high)
        smooth = add_variables(block, "smooth", layer.labels, *_range(layer))
        place = sp.csr_array((np.ones(len(wide)), (wide, np.arange(len(wide)))), shape=(layer.size, len(wide)))
        block.smooth_rows = Rows([(1.0, smooth), (-1.0, error), (-place, g)], lower=0.0, upper=0.0)
        return smooth

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        if not isinstance(layer, SmoothLayer):
            self.formulation.set_values(block, layer, pre)
            return
        wide, approximation, _, _ = _enclosure(layer, self.segments)
        error = value = smooth_value(layer, pre)
        if len(wide):
            self.formulation.set_values(block, approximation, pre[wide])
            error = value.copy()
            error[wide] -= pieces(approximation).value(pre[wide])
        set_variables(block.error, error)
        set_variables(block.smooth, value)

    def max_error(self, layer: SmoothLayer) -> np.ndarray:
        """The greatest ``|h - f(a)|`` (p,) that the rows of each unit allow."""
        _, _, low, high = _enclosure(layer, self.segments)
        return high - low


def _range(layer: SmoothLayer) -> tuple[np.ndarray, np.ndarray]:
    """f at the bounds (p,), rounded outwards."""
    low, high = smooth_value(layer, layer.lower), smooth_value(layer, layer.upper)
    margin = 1e-12 * (1.0 + np.maximum(abs(low), abs(high)))
    return low - margin, high + margin


def _enclosure(layer: SmoothLayer, segments: int) -> tuple[np.ndarray, PiecewiseLinearLayer, np.ndarray, np.ndarray]:
    """The units that are not narrow, their g, and bounds (p,) on f - g for all units, with g = 0 for narrow ones."""
    low, high = _range(layer)
    margin = 1e-12 * (1.0 + np.maximum(abs(low), abs(high)))
    wide = np.flatnonzero(layer.upper - layer.lower > NARROW)
    nodes = _nodes(layer, layer.lower[wide], layer.upper[wide], segments)
    values = smooth_value(layer, nodes)
    least, most = _errors(layer, nodes, values)
    greatest = np.where(-least > most, least, most)
    values = values + (np.vstack([greatest[:1], greatest]) + np.vstack([greatest, greatest[-1:]])) / 4
    least, most = _errors(layer, nodes, values)
    low[wide], high[wide] = least.min(0) - margin[wide], most.max(0) + margin[wide]
    rows = {name: getattr(layer, name)[wide] for name in ("weight", "bias", "lower", "upper")}
    approximation = PiecewiseLinearLayer(
        layer.name,
        layer.kind,
        [layer.labels[i] for i in wide],
        inputs=layer.inputs,
        **rows,
        breakpoints=nodes[1:-1],
        **dict(zip(("slopes", "intercepts"), _lines(nodes, values), strict=True)),
    )
    return wide, approximation, low, high


def _lines(nodes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts (n, p) of the lines between neighbouring points (n + 1, p)."""
    slopes = np.diff(values, axis=0) / np.diff(nodes, axis=0)
    return slopes, values[:-1] - slopes * nodes[:-1]


def _errors(layer: SmoothLayer, nodes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest f - g (n, p) on each segment."""
    slopes, intercepts = _lines(nodes, values)
    inner = np.clip(_stationary(layer, slopes), nodes[:-1], nodes[1:])
    points = np.stack([nodes[:-1], nodes[1:], *inner])
    errors = smooth_value(layer, points) - (slopes * points + intercepts)
    return errors.min(0), errors.max(0)


def _stationary(layer: SmoothLayer, slopes: np.ndarray) -> np.ndarray:
    """The points (one or two, n, p) where f has these slopes; infinite or 0 where it never has."""
    if layer.kind == "Softplus":
        return logit(np.clip(slopes, 0.0, 1.0))[None] / layer.beta
    steepest = 1.0 if layer.kind == "Tanh" else 0.25
    tiny = np.finfo(float).tiny
    point = np.arccosh(np.clip(slopes / steepest, tiny, 1.0) ** -0.5) / (steepness(layer) / 2)
    return np.stack([point, -point])


def _nodes(layer: SmoothLayer, lower: np.ndarray, upper: np.ndarray, segments: int) -> np.ndarray:
    """The ends and breakpoints (n + 1, p), found by bisection."""

    def curvature(a):
        u = np.tanh(steepness(layer) / 2 * a)
        return np.sign(u) * betainc(0.5 if layer.kind == "Softplus" else 0.75, 0.5, u * u)

    start, total = curvature(lower), curvature(upper) - curvature(lower) + 1e-12

    def position(a):
        return curvature(a) - start + 0.1 * total * (a - lower) / (upper - lower)

    target = position(upper) * np.arange(1, segments)[:, None] / segments
    below, above = np.broadcast_to(lower, target.shape), np.broadcast_to(upper, target.shape)
    for _ in range(60):
        middle = (below + above) / 2
        short = position(middle) < target
        below, above = np.where(short, middle, below), np.where(short, above, middle)
    return np.vstack([lower, (below + above) / 2, upper])
