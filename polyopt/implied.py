"""Bounds that a network's own rows imply: HiGHS is not told of them, so that its presolve sees through the network.

A unit that is linear on its bounds is a variable ``v = w x + b``, and so is an output. Interval and CROWN bounds on v
are combinations of the network's rows and of the bounds on its inputs and undecided units: they cut off nothing, not
even of the linear relaxation. But presolve eliminates a variable by its equation only where this one equation implies
its bounds, and CROWN's are tighter than that. So v would stay and the input be eliminated in its place, by v's
equation; what other rows say about the input would no longer reach the units. In the normal band of
case_studies/power_dispatch, 3 steps, 123 binaries are left so, and 12 without these bounds.

They stay in the Pyomo model: formulations, cuts and networks behind this one draw on them. They also stay in the
program where they say more than the rows do: where the caller gave them, where `obbt` found them, and where they hold
on a region that is no box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyomo.environ as pyo

from formulations import Row, Rows
from polyopt.activations import PiecewiseLinear
from polyopt.embedding import Embedding, is_embedded
from polyopt.program import Program


def without_implied(program: Program, model) -> Program:
    """The program of a model without the bounds that the rows of its networks imply.

    Bounds are left out as they were written: those that someone has changed since are a condition of the model. A
    linear program is left as it is.

    >>> from polyopt import Network, add_network
    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.program import to_program
    >>> layers = [Affine([[1.0], [1.0]], [0.0, 2.0]), ReLU(), Affine([[1.0, 1.0]], None)]
    >>> m = pyo.ConcreteModel()
    >>> m.x, m.net = pyo.Var(bounds=(-1, 1)), pyo.Block()
    >>> y = add_network(m.net, Network.sequential(layers, (1,)), [m.x])
    >>> program = without_implied(to_program(m), m)
    >>> sorted(v.name for v, low in zip(program.variables, program.lower) if low == -np.inf)
    ['net.layer[0].linear[1]', 'net.output[0]']
    """
    if not program.integer.any():
        return program
    lower, upper = program.lower.copy(), program.upper.copy()
    places = {id(variable): j for j, variable in enumerate(program.variables)}
    for block in model.block_data_objects(active=True):
        if is_embedded(block) and _implies(block):
            for variables, low, high in _stated(block.embedding):
                columns = np.array([places[id(variable)] for variable in variables], dtype=int)
                free = columns[(lower[columns] == low) & (upper[columns] == high)]
                lower[free], upper[free] = -np.inf, np.inf
    return replace(program, lower=lower, upper=upper)


def _implies(block) -> bool:
    """Whether the block's rows imply the bounds of its linear units and outputs, and are all there."""
    held = block.embedding
    if not held.implied or not all(isinstance(part.node.layer, PiecewiseLinear) for part in held.parts):
        return False  # the rows of a smooth unit or a maximum may be wider than the lines of CROWN
    rows = [row for one in block.component_objects(pyo.Constraint) if isinstance(one, Rows) for row in one.values()]
    return all(one.active for one in block.block_data_objects()) and all(type(r) is Row and r.active for r in rows)


def _stated(held: Embedding) -> Iterator[tuple[list, np.ndarray, np.ndarray]]:
    """Linear units and outputs as variables, with the bounds that were written."""
    for part in held.parts:
        yield list(part.block.linear.values()), *part.ends
    yield held.outputs, held.bounds.output.lower, held.bounds.output.upper
