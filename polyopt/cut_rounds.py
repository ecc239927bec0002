"""Cutting planes at the root: solve the relaxation, add what it violates, drop what has become slack, again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import pyomo.environ as pyo

from formulations import Rows
from polyopt.embedding import Part, embedding, is_embedded

PROGRESS = 1e-4  # a round that moves the bound by less, relative to its size, is the last
SLACK = 1e-4


@runtime_checkable
class Separator(Protocol):
    """A formulation whose rows are completed by cuts."""

    max_rounds: int

    def separate(self, block, layer) -> int:
        """Add the cuts that the variables' values violate, by `add_cuts`; returns how many."""


def separate(block) -> int:
    """Add the cuts that the loaded point violates to the networks of a block or model; returns how many.

    Solve a relaxation of the model with any solver, call this, and solve again, until it returns 0 or the bound stops
    moving. A network whose formulation has no cuts gets none.

    >>> from polyopt import CuttingPlanes, Network, add_network
    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0, 1.0]], None), ReLU()], (2,))
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(-1, 1))
    >>> m.net = pyo.Block()
    >>> (y,) = add_network(m.net, net, m.x, formulation=CuttingPlanes())
    >>> m.x[0].value, m.x[1].value = 1.0, -1.0
    >>> m.net.layer[0].sigma[0].value, m.net.layer[0].post[0].value = 0.5, 1.0
    >>> separate(m.net), separate(m.net)
    (1, 1)
    """
    return sum(part.formulation.separate(part.block, part.layer) for part in separable(block))


def cut_rounds(model, relax: Callable[[], float | None]) -> int:
    """Run rounds of cuts on every network of the model that asks for them; returns how many cuts there were.

    ``relax`` solves the relaxation, loads its point and returns its objective, or None if there is none or no time.
    """
    parts = separable(model)
    rounds = max((part.formulation.max_rounds for part in parts), default=0)
    added, before = 0, None
    for k in range(rounds):
        bound = relax()
        if bound is None or (before is not None and abs(bound - before) <= PROGRESS * (1.0 + abs(bound))):
            break
        before = bound
        for part in parts:
            _drop_slack(part)
        new = sum(p.formulation.separate(p.block, p.layer) for p in parts if k < p.formulation.max_rounds)
        if not new:
            break
        added += new
    return added


def separable(model) -> list[Part]:
    """The layers of the active networks of a model, or of one block, whose formulations have cuts.

    >>> separable(pyo.ConcreteModel())
    []
    """
    networks = [embedding(block) for block in model.block_data_objects(active=True) if is_embedded(block)]
    parts = [part for network in networks for part in network.parts]
    return [part for part in parts if part.layer is not None and isinstance(part.formulation, Separator)]


def new_cuts(part: Part) -> list[Rows]:
    """Add the cuts of one layer that the loaded point violates; returns the components that hold them."""
    before = len(_cuts(part))
    part.formulation.separate(part.block, part.layer)
    return _cuts(part)[before:]


def _cuts(part: Part) -> list[Rows]:
    """All components of cuts on the layer's block, in the order in which they came."""
    components = part.block.component_objects(pyo.Constraint, descend_into=False)
    return [component for component in components if component.local_name.startswith("cuts_")]


def _drop_slack(part: Part) -> None:
    """Cuts that the relaxation's point leaves slack cost time and bound nothing."""
    for component in _cuts(part):
        for row in component.values():
            if row.active and row.uslack() > SLACK * (1.0 + abs(row.ub)):
                row.deactivate()
