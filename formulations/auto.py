"""The formulation that measurements favour for each layer, by its undecided units and their fan-in.

The measurements are those of case_studies/formulations, with HiGHS and CROWN's bounds. Of a unit with one input big-M
is the convex hull already. With more inputs cutting planes bring the extended formulation's bound, or nearly, with some
rows and no variables; they won on two networks of up to 64 units a layer and drew on the third. Where the units are
many the rounds of cuts take the time that branching needs, and the small rows of big-M are what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from formulations.bigm import BigM
from formulations.cuts import CuttingPlanes
from formulations.layer import Formulation, Layer, SmoothLayer, not_defined

FEW_UNITS = 64


@dataclass(frozen=True)
class Auto:
    """Exact, as everything it chooses from: `CuttingPlanes` and `BigM`. Not defined for smooth activations.

    ``polyopt.summary(block).formulations`` says what was chosen for each layer.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(-1, 1))
    >>> Auto().choose(Layer("hidden", "ReLU", [0], [[2.0, -1.0]], [0.5], list(m.x.values()), [-2.5], [3.5]))
    CuttingPlanes(max_rounds=10, tolerance=0.0001, per_round=None)
    """

    def choose(self, layer: Layer) -> Formulation:
        """The formulation for a layer; ValueError where there is no exact one."""
        if isinstance(layer, SmoothLayer):
            raise not_defined(self, layer, "piecewise-linear activations and maxima")
        inputs = np.diff(layer.weight.indptr).max(initial=0)
        return CuttingPlanes() if inputs > 1 and layer.size <= FEW_UNITS else BigM()

    def add(self, block, layer: Layer) -> list:
        """Add the layer's variables and rows to the block; returns the variables of its outputs."""
        return self.choose(layer).add(block, layer)

    def set_values(self, block, layer: Layer, pre: np.ndarray) -> None:
        """Set the block's variables to what pre-activations (p,) make of them."""
        self.choose(layer).set_values(block, layer, pre)


def auto() -> Auto:
    """The formulation that measurements favour for each layer, see `Auto`.

    >>> auto()
    Auto()
    """
    return Auto()
