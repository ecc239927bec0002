"""Bound tightening over a whole Pyomo model: its other constraints decide units that a network's own inputs leave open.

The model is relaxed to one polyhedron: its linear rows, integers between their bounds, and every network in it as
`polyopt.tighten.relaxed` writes it. Cheapest first,

    1.  min and max of every network's inputs, then CROWN over the ranges found, which decides units without a program;
    2.  layer by layer, in all networks at once: min and max of the inputs of the units still undecided; the relaxation
        is then written anew with what was found;

but where a network's inputs follow from another one's outputs, as in a closed loop, it waits for that one. All is done
again for as long as that decides a tenth of the units left: what lies behind a layer has narrowed what lies before it.

Every program sees the whole model: a budget over many networks, what lies behind an output, other networks. Each bound
is what a program's dual solution proves (`polyopt.tighten.certificate`), whatever the solver's tolerances. It holds for
all points that satisfy the model's linear rows in exact arithmetic, with outputs that are the networks' own.

The networks' blocks are then written anew with these bounds, on the variables that stand for inputs and outputs so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from pyomo.common.gc_manager import PauseGC
from tqdm import tqdm

from formulations import Hull
from polyopt.bounds.result import Bounds
from polyopt.embed import rewrite
from polyopt.embedding import check_domains
from polyopt.tighten.bounding import OutOfTime, Programs, bound_elsewhere, bound_here
from polyopt.tighten.instance import Instance
from polyopt.tighten.placed import Placed, bound_again, placed_networks, waves
from polyopt.tighten.polyhedron import Polyhedron
from polyopt.tighten.relaxed import Forms, columns_as_forms, stacked

AGAIN = 0.1  # the share of the undecided units that a round decides if another one is to follow
CROSSED = 1e-9  # relative; bounds that cross by more are no rounding


@dataclass(frozen=True)
class Tightened:
    """What `obbt` made of one network in a model: ``undecided`` units before and after."""

    name: str
    bounds: Bounds
    undecided_before: int
    undecided: int


@dataclass(frozen=True)
class ModelBounds:
    """What `obbt` found in a model: of each network, in the model's order; ``programs`` is how many there were.

    ``complete`` says that nothing stopped it.
    """

    networks: tuple[Tightened, ...]
    programs: int
    seconds: float
    complete: bool


@dataclass
class _Effort:
    """How the programs are run, and how many there were."""

    hull: Hull | None
    exact: bool
    deadline: float
    executor: Executor | None
    bar: tqdm
    programs: int = 0

    def tick(self, units: int) -> None:
        self.programs += 2 * units
        self.bar.update(units)


def tighten_model(
    model, hull: Hull | None, exact: bool, time_limit: float | None, executor: Executor | None, progress: bool
) -> ModelBounds:
    """What `obbt` does with a model: see there."""
    begin = time.monotonic()
    check_domains(model)
    around, placed = placed_networks(model)
    if not placed:
        raise ValueError("obbt: the model holds no network whose layers are rows; put some on it with add_network")
    before = [_count(one) for one in placed]
    deadline = math.inf if time_limit is None else begin + time_limit
    complete = False
    with suppress(OutOfTime, KeyboardInterrupt), tqdm(disable=not progress, unit=" units", leave=False) as bar:
        effort = _Effort(hull, exact, deadline, executor, bar)
        _refuse_infeasible(_relaxation(around, placed)[0], deadline)
        order, undecided = waves(around, placed), math.inf
        while 0 < (left := sum(map(_count, placed))) <= (1.0 - AGAIN) * undecided:
            undecided = left
            for wave in order:
                _bound_inputs(around, placed, wave, effort)
                for k in range(max(len(one.layers) for one in wave)):
                    _bound_layer(around, placed, wave, k, effort)
        complete = time.monotonic() < deadline
    found = [one.bounds() for one in placed]
    with PauseGC():
        for one, bounds in zip(placed, found, strict=True):
            rewrite(one.block, bounds)
    networks = [
        Tightened(one.block.name, bounds, count, _count(one))
        for one, bounds, count in zip(placed, found, before, strict=True)
    ]
    return ModelBounds(tuple(networks), effort.programs, time.monotonic() - begin, complete)


def _bound_inputs(around: Polyhedron, placed: list[Placed], wave: list[Placed], effort: _Effort) -> None:
    """The inputs of the wave's networks with undecided units, then CROWN."""
    polyhedron, _, _ = _relaxation(around, placed)
    effort.bar.set_description("inputs")
    inputs = [one.inputs for one in wave if _count(one)]
    columns = np.unique(np.concatenate([*inputs, np.empty(0, int)])).astype(int)
    columns = columns[around.lower[columns] < around.upper[columns]]
    lower, upper = around.lower[columns], around.upper[columns]
    try:
        _run(polyhedron, [], columns_as_forms(columns, len(polyhedron.lower)), lower, upper, effort)
    finally:
        around.lower[columns], around.upper[columns] = lower, upper
        _refuse_crossed(lower, upper)
        bound_again(around, wave)


def _bound_layer(around: Polyhedron, placed: list[Placed], wave: list[Placed], k: int, effort: _Effort) -> None:
    """The k-th layer of those of the wave's networks that have undecided units there."""
    units = {i: found for i, one in enumerate(placed) if one in wave and len(found := one.undecided(k))}
    if not units:
        return
    effort.bar.set_description(f"layer {k}")
    polyhedron, forms, hinges = _relaxation(around, placed)
    sides = {i: placed[i].known[placed[i].layers[k].name] for i in units}
    some = stacked([forms[i][k].take(units[i]) for i in units], len(polyhedron.lower))
    lower, upper = (np.concatenate([getattr(sides[i], end)[units[i]] for i in units]) for end in ("lower", "upper"))
    try:
        _run(polyhedron, hinges, some, lower, upper, effort)
    finally:
        parts = np.cumsum([len(found) for found in units.values()])[:-1]
        for i, low, high in zip(units, np.split(lower, parts), np.split(upper, parts), strict=True):
            sides[i].lower[units[i]], sides[i].upper[units[i]] = low, high
        _refuse_crossed(lower, upper)


def _relaxation(around: Polyhedron, placed: list[Placed]) -> tuple[Polyhedron, list[list[Forms]], list]:
    """The model's polyhedron with all networks between the bounds now known; their layers' forms, and their hinges."""
    polyhedron = replace(around)
    written = [one.write(polyhedron) for one in placed]
    return polyhedron, [forms for forms, _ in written], [hinge for _, hinges in written for hinge in hinges]


def _run(polyhedron: Polyhedron, hinges: list, forms: Forms, lower, upper, effort: _Effort) -> None:
    """Tighten bounds on all of the forms, in place."""
    if time.monotonic() >= effort.deadline:
        raise OutOfTime
    hull = effort.hull if hinges else None
    programs = Programs(polyhedron, hinges, hull, effort.exact, effort.deadline, primal=hull is None)
    bound: Callable = partial(bound_here, Instance(programs.primal))
    if effort.executor is not None:
        bound = partial(bound_elsewhere, effort.executor)
    bound(programs, forms, np.arange(len(lower)), lower, upper, effort.tick)


def _refuse_infeasible(polyhedron: Polyhedron, deadline: float) -> None:
    instance = Instance()
    instance.grow(polyhedron)
    instance.minimize(np.zeros(len(polyhedron.lower)), max(deadline - time.monotonic(), 1e-3))
    if instance.infeasible:
        raise _infeasible()


def _refuse_crossed(lower: np.ndarray, upper: np.ndarray) -> None:
    if (lower - upper > CROSSED * (1.0 + abs(lower) + abs(upper))).any():
        raise _infeasible()


def _infeasible() -> ValueError:
    return ValueError(
        "obbt: the model is infeasible: even its linear relaxation has no point; look at its constraints, and at the "
        "bounds of its variables (solve it without objective, or with some constraints deactivated)"
    )


def _count(one: Placed) -> int:
    return sum(len(one.undecided(k)) for k in range(len(one.layers)))
