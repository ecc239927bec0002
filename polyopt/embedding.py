"""What `add_network` leaves on a block, and what can be asked of it: size, error, a starting point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from pyomo.core.base.block import IndexedBlock

from formulations import Formulation, Layer, Rows, set_variables
from polyopt.bounds.result import Bounds, Interval
from polyopt.inputs import input_ranges, is_variable
from polyopt.network import INPUT, Network, Node
from polyopt.regions import Box, Region


@dataclass(eq=False)
class Part:
    """What became of one activation layer on its block: its linear units, and the layer given to the formulation."""

    node: Node
    block: object
    formulation: object
    linear: np.ndarray  # numbers of the units that are affine equations
    ends: tuple[np.ndarray, np.ndarray]  # between which these lie
    constant: np.ndarray
    unstable: np.ndarray
    layer: Layer | None  # what the formulation was given, None where no unit is unstable
    rows: np.ndarray  # its entries among the layer's pre-activations


@dataclass
class Columns:
    """A flattened value whose entries are Pyomo variables or constants."""

    variables: list
    live: np.ndarray  # entries that are variables, in the order of `variables`
    constants: np.ndarray  # the value of the other entries, 0 elsewhere
    simplices: tuple[np.ndarray, ...] = ()  # positions among the variables

    @classmethod
    def of_variables(cls, variables: list, simplices=()) -> Columns:
        """All entries are variables."""
        return cls(variables, np.arange(len(variables)), np.zeros(len(variables)), simplices)


@dataclass(eq=False)
class Embedding:
    """What `add_network` leaves on a block as ``block.embedding``."""

    net: Network
    inputs: list  # as the caller gave them
    columns: Columns  # the variables that stand for them
    outputs: list
    bounds: Bounds  # with which the layers are written
    chosen: list[Formulation]  # of each activation layer, before an automatic choice
    parts: list[Part]
    region: Region | None = None  # to which the inputs are restricted; any but a box by the rows of block.region
    implied: bool = False  # whether the rows imply the bounds: those of intervals and of CROWN on a box

    @classmethod
    def of_outputs(cls, net: Network, inputs: list, variables: list, outputs: list, box: Box) -> Embedding:
        """That of a network of which nothing but the outputs is written, for inputs in a box."""
        bounds = Bounds(box, (), Interval(*np.array([output.bounds for output in outputs]).T))
        return cls(net, inputs, Columns.of_variables(variables), outputs, bounds, [], [], box)


@dataclass(frozen=True)
class Summary:
    """Size of an embedded network: units by what their bounds decide, and the block's rows, columns and nonzeros.

    ``formulations`` says by which formulation each layer with undecided units is written; where the copies of an
    indexed block differ, a tuple.
    """

    active: int
    inactive: int
    unstable: int
    binaries: int
    rows: int
    columns: int
    nonzeros: int
    formulations: dict[str, object]


def summary(block) -> Summary:
    """How large the embedded network is, or all copies of an indexed block together; ``active`` units are affine
    equations, ``inactive`` ones constants.

    >>> from polyopt import add_network, Network
    >>> from polyopt.activations import ReLU
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 2))
    >>> m.net = pyo.Block()
    >>> y = add_network(m.net, Network.sequential([ReLU()], (1,)), [m.x])
    >>> summary(m.net)
    Summary(active=0, inactive=0, unstable=1, binaries=1, rows=4, columns=3, nonzeros=9, formulations={'0': BigM()})
    """
    parts = [part for one in _each(block) for part in embedding(one).parts]
    rows = [row for one in _each(block) for row in one.component_data_objects(pyo.Constraint, active=True)]
    variables = [variable for one in _each(block) for variable in one.component_data_objects(pyo.Var)]
    matrices = {id(row.parent_component()): row.parent_component() for row in rows}.values()
    written: dict[str, list] = {}
    for part in parts:
        names = written.setdefault(part.node.name, [])
        if part.layer is not None and part.formulation not in names:
            names.append(part.formulation)
    return Summary(
        active=sum(len(part.linear) for part in parts),
        inactive=sum(len(part.constant) for part in parts),
        unstable=sum(len(part.unstable) for part in parts),
        binaries=sum(variable.is_binary() for variable in variables),
        rows=len(rows),
        columns=len(variables),
        nonzeros=sum(component.matrix.nnz for component in matrices if isinstance(component, Rows)),
        formulations={name: f[0] if len(f) == 1 else tuple(f) for name, f in written.items() if f},
    )


def replay_error(block) -> float:
    """``max |block output - net(block input)|`` at the values now loaded in the model's variables, over all copies of
    an indexed block.

    >>> from polyopt import add_network, Network
    >>> from polyopt.activations import ReLU
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 2))
    >>> m.net = pyo.Block()
    >>> y = add_network(m.net, Network.sequential([ReLU()], (1,)), [m.x])
    >>> m.x.value, y[0].value = 1.5, 1.0
    >>> replay_error(m.net)
    0.5
    """
    if isinstance(block, IndexedBlock):
        return max(map(replay_error, block.values()), default=0.0)
    held = embedding(block)
    x = [pyo.value(expression, exception=False) for expression in held.inputs]
    y = [pyo.value(output, exception=False) for output in held.outputs]
    if None in x or None in y:
        raise ValueError(f"block {block.name!r} has variables without values; solve the model, or set_point, first")
    x, y = np.array([x]), np.array([y])
    return float(abs(y - held.net(x)).max())


def set_point(block, x) -> None:
    """Set the network's variables to its forward pass at ``x`` (n_in,), as a start for ``solve(..., warm_start=True)``.

    Inputs that are expressions of the caller's variables are left to the caller. For an indexed block ``x`` is a
    mapping from its indices to such points.

    >>> from polyopt import add_network, Network
    >>> from polyopt.activations import ReLU
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(-1, 2))
    >>> m.net = pyo.Block()
    >>> y = add_network(m.net, Network.sequential([ReLU()], (1,)), [m.x])
    >>> set_point(m.net, [1.5])
    >>> m.x.value, m.net.layer[0].sigma[0].value, y[0].value
    (1.5, 1.0, 1.5)
    """
    if isinstance(block, IndexedBlock):
        for index in block:
            set_point(block[index], x[index])
        return
    held = embedding(block)
    values = held.net.values(np.asarray(x, dtype=np.float64)[None])
    for expression, value in zip(held.inputs, values[INPUT].ravel().tolist(), strict=True):
        if is_variable(expression) and not expression.fixed:
            expression.set_value(value, skip_validation=True)
    if block.component("input"):
        set_variables(block.input, values[INPUT].ravel()[list(block.input)])
    if not isinstance(held.region, Box | None):
        held.region.set_values(block.region, values[INPUT].ravel())
        if block.region.component("input"):
            set_variables(block.region.input, values[INPUT].ravel()[list(block.region.input)])
    for part in held.parts:
        pre = np.concatenate([values[name].ravel() for name in part.node.inputs])
        set_variables(part.block.linear, values[part.node.name].ravel()[part.linear])
        if part.layer is not None:
            part.layer.set_pre(part.block, pre[part.rows])
            part.formulation.set_values(part.block, part.layer, pre[part.rows])
    if isinstance(block.output, pyo.Var):
        set_variables(block.output, values[held.net.nodes[-1].name].ravel())


def _each(block) -> list:
    """The block itself, or all entries of an indexed one."""
    return list(block.values()) if isinstance(block, IndexedBlock) else [block]


def is_embedded(block) -> bool:
    """Whether `add_network` has put a network on the block."""
    return hasattr(block, "embedding")


def embedding(block) -> Embedding:
    """What `add_network` left on the block; ValueError if it left nothing."""
    if not is_embedded(block):
        raise ValueError(f"block {block.name!r} holds no network; call add_network on it first")
    return block.embedding


def check_domains(model) -> None:
    """ValueError if a network's input may by now leave the region for which its rows were written."""
    for block in model.block_data_objects(active=True):
        if not is_embedded(block):
            continue
        held = block.embedding
        if not isinstance(held.region, Box | None):
            _check_region(block)
        region = held.bounds.region
        if not isinstance(region, Box):
            continue
        for i, (low, high) in enumerate(input_ranges(held.inputs, held.region).tolist()):
            slack = 1e-9 * (1.0 + abs(region.lower[i]) + abs(region.upper[i]))
            if low < region.lower[i] - slack or high > region.upper[i] + slack:
                raise ValueError(
                    f"block {block.name!r}: input {i} ({held.inputs[i]}) now ranges over [{low}, {high}], but the "
                    f"network was added for [{region.lower[i]}, {region.upper[i]}] and its rows hold there only; add "
                    "it again"
                )


def _check_region(block) -> None:
    """The rows that keep the inputs in the region must be there and active: then any bounds of the inputs will do."""
    rows = block.component("region")
    if rows is None or not rows.active or not all(row.active for row in rows.component_data_objects(pyo.Constraint)):
        raise ValueError(
            f"block {block.name!r}: the network's rows hold only where block.region keeps its inputs, but this is "
            "deleted or not active as a whole; activate it, or add the network with bounds over a box"
        )
