"""The triangle relaxation, survey eq. (8), the convex hull of a piecewise-linear unit's graph, without binaries.

For a ReLU with ``M_- <= a <= M_+``

    h >= a                                (8a)
    h <= M_+ / (M_+ - M_-) (a - M_-)      (8b; the survey omits -M_-)
    h >= 0                                (8c)

which is the convex hull of ``{(a, max(a, 0))}``. For any f with finitely many pieces the hull is a polygon; its corners
are among the ends of the interval and the breakpoints, and its edges are the rows. At a jump both sides are corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from formulations.layer import MaxLayer, PiecewiseLinearLayer, not_defined
from formulations.maxout import add_max_relaxation, set_max_values
from formulations.rows import Rows, add_variables, set_variables


@dataclass(frozen=True)
class Triangle:
    """A relaxation of piecewise-linear activations and maxima: no binaries, bounds but not the network's own values.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 3))
    >>> m.unit = pyo.Block()
    >>> relu = PiecewiseLinearLayer("hidden", "ReLU", [0], [[1.0]], [0.0], [m.x], [-1.0], [3.0],
    ...                             breakpoints=np.array([[0.0]]), slopes=np.array([[0.0], [1.0]]),
    ...                             intercepts=np.zeros((2, 1)))
    >>> h = Triangle().add(m.unit, relu)
    >>> for row in m.unit.component_data_objects(pyo.Constraint):
    ...     print(row.expr)
    unit.post[0] - 0.75*x  <=  0.75
    0.0  <=  unit.post[0] - x
    """

    def add(self, block, layer) -> list:
        """Add the layer's variables and rows to the block; returns the variables of its outputs."""
        if isinstance(layer, MaxLayer):
            return add_max_relaxation(block, layer)
        if not isinstance(layer, PiecewiseLinearLayer):
            raise not_defined(self, layer, "piecewise-linear activations and maxima")
        a = layer.add_pre(block)
        lower, upper = layer.range()
        post = add_variables(block, "post", layer.labels, lower, upper)
        x, y = layer.corners()
        for name, sign in (("above", 1.0), ("below", -1.0)):
            unit, slope, intercept = _edges(x, sign * y)
            terms = [(1.0, [post[i] for i in unit]), (-sign * slope, [a[i] for i in unit])]
            bound = {"upper" if sign > 0 else "lower": sign * intercept + 0.0}
            block.add_component(name, Rows(terms, **bound))
        return post

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        if isinstance(layer, MaxLayer):
            set_max_values(block, layer, pre)
            return
        piece = (layer.breakpoints < pre).sum(0)
        columns = np.arange(layer.size)
        set_variables(block.post, layer.slopes[piece, columns] * pre + layer.intercepts[piece, columns])


def _edges(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges of the concave envelope of points (q, p), a column for each unit: unit, slope, intercept.

    The segment from point i to point j is an edge if no point lies above its line and none beyond its ends lies on it.
    Flat edges are left out: the range of the unit's value says as much.
    """
    edges = []
    for i, j in permutations(range(len(x)), 2):
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = (y[j] - y[i]) / (x[j] - x[i])
            over = y - (y[i] + slope * (x - x[i]))
        slack = 1e-12 * (1.0 + np.nanmax(abs(y), axis=0))
        beyond = (x < x[i]) | (x > x[j])
        is_edge = (x[i] < x[j]) & ~(over > np.where(beyond, -slack, slack)).any(0) & (slope != 0)
        unit = np.flatnonzero(is_edge)
        edges.append((unit, slope[unit], y[i, unit] - slope[unit] * x[i, unit]))
    unit, slope, intercept = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    order = np.argsort(unit, kind="stable")
    return unit[order], slope[order], intercept[order]
