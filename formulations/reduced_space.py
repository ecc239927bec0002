"""The network as nested expressions of its inputs, without variables or rows of its own.

Each activation layer is a named Pyomo expression of the one before, ``h^l = f(W h^{l-1} + b)``, down to the inputs;
solvers that differentiate (or branch in the space of the inputs alone) then see as many variables as there are
inputs. A unit that has pieces between its bounds has no such expression without a binary or a nonsmooth function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp

from formulations.layer import SmoothLayer, not_defined
from formulations.smooth import smooth_expressions


@dataclass(frozen=True)
class ReducedSpace:
    """Exact for smooth activations, and for whatever else the bounds decide; for a whole network at a time.

    ``layer.inputs`` may be expressions, and so are the outputs.

    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 1))
    >>> m.unit = pyo.Block()
    >>> tanh = SmoothLayer("hidden", "Tanh", [0], [[2.0]], [0.5], [m.x], [-1.5], [2.5])
    >>> (h,) = ReducedSpace().add(m.unit, tanh)
    >>> print(h.expr)
    -1 + 2/(1 + exp(-2*(0.5 + 2.0*x)))
    """

    def add(self, block, layer) -> list:
        """Add ``block.post``, an expression for each unit, and return them."""
        if not isinstance(layer, SmoothLayer):
            raise not_defined(self, layer, "smooth activations, and for units that the bounds decide")
        a = affine_expressions(layer.weight, layer.bias, layer.inputs)
        values = zip(layer.labels, smooth_expressions(layer, a), strict=True)
        block.post = pyo.Expression(layer.labels, initialize=dict(values))
        return list(block.post.values())

    def set_values(self, block, layer, pre: np.ndarray) -> None:
        """Nothing to set: the values follow from the inputs."""


def affine_expressions(weight, bias: np.ndarray, inputs: list) -> list:
    """``W x + b`` row by row, of expressions x and a sparse W."""
    weight = sp.csr_array(weight)
    ends = zip(weight.indptr[:-1], weight.indptr[1:], bias.tolist(), strict=True)
    entries = list(zip(weight.data.tolist(), weight.indices.tolist(), strict=True))
    return [sum((w * inputs[j] for w, j in entries[start:end]), start=b) for start, end, b in ends]
