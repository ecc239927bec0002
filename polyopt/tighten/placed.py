"""A network where it stands in a model: which columns its inputs and outputs are, and what is known of its units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
import scipy.sparse as sp
from pyomo.core.base.block import BlockData

from polyopt.activations import GroupMax
from polyopt.bounds.result import Bounds
from polyopt.copies import bounds_over
from polyopt.embedding import Embedding, is_embedded
from polyopt.maxima import maxima_as_relus
from polyopt.network import Network
from polyopt.tighten.known import Known, as_bounds, improve, known_bounds
from polyopt.tighten.polyhedron import Polyhedron
from polyopt.tighten.relaxed import Forms, Hinges, Relaxed
from polyopt.tighten.surroundings import surroundings
from polyopt.tighten.targets import OUTPUT, Target, targets


@dataclass(eq=False)
class Placed:
    """``form`` is the network without maxima; ``inputs`` and ``outputs`` are columns of the model's polyhedron."""

    block: BlockData
    held: Embedding
    form: Network
    targets: list[Target]
    known: Known
    inputs: np.ndarray
    outputs: np.ndarray

    @property
    def layers(self) -> list[Target]:
        """What is bounded by programs, in order: all inputs of activations."""
        return [target for target in self.targets if target.node is not None and not target.is_maximum]

    def undecided(self, k: int) -> np.ndarray:
        """The entries of the k-th of these layers that their bounds leave undecided; none behind the last."""
        if k >= len(self.layers):
            return np.empty(0, int)
        side = self.known[self.layers[k].name]
        return self.layers[k].undecided(side.lower, side.upper)

    def write(self, polyhedron: Polyhedron) -> tuple[list[Forms], list[Hinges]]:
        """Add the relaxation between the bounds now known to a polyhedron; returns the forms of each of the layers."""
        relaxed, found = Relaxed(polyhedron, self.inputs), []
        for target in self.targets:
            side, forms = self.known[target.name], relaxed.forms(target.map)
            if target.is_maximum:
                relaxed.limit(forms, *target.greatest(side.lower, side.upper))
            elif target.node is not None:
                found.append(forms)
                if target.node in self.form.activations:
                    relaxed.add(target.node, forms, side.lower, side.upper)
            else:
                count = len(self.outputs)
                own = sp.csr_array(
                    (np.ones(count), (np.arange(count), self.outputs)), shape=(count, len(polyhedron.lower))
                )
                polyhedron.add_rows(own - forms.matrix, forms.offset, forms.offset, forms.slack)
        return found, relaxed.hinges

    def bounds(self) -> Bounds:
        """What is known, over the region for which the network was added."""
        return as_bounds(self.held.net, self.held.bounds.region, self.known)


def placed_networks(model) -> tuple[Polyhedron, list[Placed]]:
    """What the model says around its active networks, and these; those in reduced space are not among them.

    >>> from polyopt import add_network
    >>> from polyopt.activations import ReLU
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 2))
    >>> m.net = pyo.Block()
    >>> y = add_network(m.net, Network.sequential([ReLU()], (1,)), [m.x])
    >>> around, (net,) = placed_networks(m)
    >>> around.lower, net.inputs, net.outputs, net.undecided(0)
    (array([-1.,  0.]), array([0]), array([1]), array([0]))
    """
    blocks = [block for block in model.block_data_objects(active=True) if is_embedded(block) and _is_written(block)]
    held = [block.embedding for block in blocks]
    variables = [variable for one in held for variable in (*one.columns.variables, *one.outputs)]
    anything = np.array([-np.inf, np.inf])
    ranges = [np.broadcast_to(anything, (0, 2))]
    for one in held:
        ends = np.stack([one.bounds.output.lower, one.bounds.output.upper], axis=1)
        ranges += [np.broadcast_to(anything, (len(one.columns.variables), 2)), ends]
    layers = [layer for block in blocks for layer in block.layer.values()]
    without = [row for layer in layers for row in layer.component_objects(pyo.Constraint)]
    without += [block.output_rows for block in blocks]
    polyhedron, columns = surroundings(model, variables, np.concatenate(ranges), without)
    placed, first = [], 0
    for block, one in zip(blocks, held, strict=True):
        middle = first + len(one.columns.variables)
        last = middle + len(one.outputs)
        form = maxima_as_relus(one.net)
        known = known_bounds(one.net, form, one.bounds.region, one.bounds)
        ends = (columns[first:middle], columns[middle:last])
        placed.append(Placed(block, one, form, targets(one.net, form), known, *ends))
        first = last
    return polyhedron, placed


def waves(polyhedron: Polyhedron, placed: list[Placed]) -> list[list[Placed]]:
    """The networks in an order of tightening: those of one wave at once, each behind those that its inputs follow from.

    An input follows from an output of an earlier network that it is, or with which it stands in an equation, as in
    ``x_{t+1} == A x_t + B y_t``. Whatever the order, the bounds are right.

    >>> from polyopt import add_network
    >>> from polyopt.activations import ReLU
    >>> m, net = pyo.ConcreteModel(), Network.sequential([ReLU()], (1,))
    >>> m.x, m.net = pyo.Var(range(3), bounds=(-1, 2)), pyo.Block(range(3))
    >>> y = add_network(m.net, net, {t: [m.x[t]] for t in m.net})
    >>> m.step = pyo.Constraint(expr=m.x[1] == y[0][0] - 0.5)
    >>> [[one.block.name for one in wave] for wave in waves(*placed_networks(m))]
    [['net[0]', 'net[2]'], ['net[1]']]
    """
    equations = abs(polyhedron.matrix[polyhedron.row_lower == polyhedron.row_upper])
    count = len(polyhedron.lower)
    inputs, outputs = (_members([getattr(one, name) for one in placed], count) for name in ("inputs", "outputs"))
    follows = (equations @ inputs).T @ (equations @ outputs) + inputs.T @ outputs
    follows = sp.tril(follows, -1).tocsr()  # a row for each network, of the networks before it
    number = np.zeros(len(placed), int)
    for i in range(len(placed)):
        number[i] = 1 + number[follows[[i]].indices].max(initial=-1)
    return [[placed[i] for i in np.flatnonzero(number == k)] for k in range(number.max() + 1)]


def _members(groups: list[np.ndarray], count: int) -> sp.csr_array:
    """The matrix (count, groups) that says which columns are in which group."""
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return sp.csr_array((np.ones(len(number)), (np.concatenate(groups), number)), shape=(count, len(groups)))


def bound_again(polyhedron: Polyhedron, placed: list[Placed]) -> None:
    """CROWN over the inputs' ranges as they are by now, for all copies of a network at once."""
    groups: dict[int, list[Placed]] = {}
    for one in placed:
        groups.setdefault(id(one.held.net), []).append(one)
    for copies in groups.values():
        columns = np.stack([one.inputs for one in copies])
        ends = np.sort(np.stack([polyhedron.lower[columns], polyhedron.upper[columns]], axis=-1), axis=-1)
        net = copies[0].held.net
        with_maxima = any(isinstance(node.layer, GroupMax) for node in net.activations)
        for form in [net, copies[0].form] if with_maxima else [net]:
            for one, bounds in zip(copies, bounds_over(form, ends), strict=True):
                improve(one.known, form, bounds)
    for one in placed:
        np.maximum.at(polyhedron.lower, one.outputs, one.known[OUTPUT].lower)
        np.minimum.at(polyhedron.upper, one.outputs, one.known[OUTPUT].upper)


def _is_written(block: BlockData) -> bool:
    """Whether the network's layers are rows, not expressions."""
    return isinstance(block.component("output_rows"), pyo.Constraint) and block.component("layer") is not None
