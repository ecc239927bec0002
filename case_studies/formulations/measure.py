"""One measurement: one formulation of one problem, built, relaxed and solved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pyomo.environ as pyo
import torch
from problems import Problem

import polyopt as po
from polyopt.program import to_program

GAP = 1e-6  # the relative gap at which every solver may stop


@dataclass
class Measurement:
    """What came of it; None is what was not reached."""

    problem: str
    name: str
    status: str  # "optimal", "time limit", "killed", "failed" or what else the solver says
    rows: int | None = None
    columns: int | None = None
    nonzeros: int | None = None
    binaries: int | None = None
    lp_bound: float | None = None  # of the relaxation without integrality
    build_seconds: float | None = None  # from the network in memory to the model, bounds included
    seconds: float | None = None  # of the solver, translation included
    objective: float | None = None
    bound: float | None = None
    nodes: int | None = None
    error: float | None = None  # |objective - network at the point found|

    @property
    def gap(self) -> float:
        """``|objective - bound| / max(1, |objective|)``, as in `polyopt.Result`."""
        if self.objective is None or self.bound is None:
            return math.inf
        return abs(self.objective - self.bound) / max(1.0, abs(self.objective))


@dataclass(frozen=True)
class Limits:
    """What every solver is held to."""

    seconds: float
    threads: int


def measure_polyopt(problem: Problem, name: str, formulation, bounds: str, start: bool, limits: Limits) -> Measurement:
    """Embed with `polyopt.add_network`, solve with `polyopt.solve`; bounds "crown + lp" are CROWN's tightened by LP."""
    method, _, tighten = bounds.partition(" + ")

    def build() -> pyo.ConcreteModel:
        m = pyo.ConcreteModel()
        lower, upper = problem.box.lower.tolist(), problem.box.upper.tolist()
        m.x = pyo.Var(range(problem.net.input_size), bounds=lambda _, i: (lower[i], upper[i]))
        m.net = pyo.Block()
        (y,) = po.add_network(m.net, problem.net, m.x, formulation=formulation, bounds=method, tighten=tighten or None)
        m.objective = pyo.Objective(expr=y, sense=pyo.maximize)
        return m

    getattr(po, method)(problem.net, problem.box)  # crown loads torch, which is not to be counted
    m, found = measured_model(problem, name, build, limits)
    if start:
        po.set_point(m.net, problem.start)
    result = po.solve(m, time_limit=limits.seconds, gap=GAP, threads=limits.threads, warm_start=start)
    found.status, found.objective, found.bound = result.status, result.objective, result.bound
    found.seconds, found.nodes = result.seconds, result.nodes
    if result.objective is not None:
        found.error = po.replay_error(m.net)
    return found


def measure_search(problem: Problem, name: str, limits: Limits) -> Measurement:
    """The question answered by `polyopt.optimize`, without a model."""
    torch.set_num_threads(limits.threads)
    po.crown(problem.net, problem.box)  # what torch loads at first use is not to be counted
    best = po.optimize(problem.net, problem.box, [1.0], time_limit=limits.seconds, gap=GAP)
    found = Measurement(problem.name, name, best.status, build_seconds=0.0, seconds=best.seconds)
    found.objective, found.bound, found.nodes = best.value, best.bound, best.branches
    found.error = abs(problem.value(best.x) - best.value)
    return found


def measured_model(
    problem: Problem, name: str, build: Callable[[], pyo.ConcreteModel], limits: Limits
) -> tuple[pyo.ConcreteModel, Measurement]:
    """A Pyomo model with one network, and its size, LP bound and building time.

    The relaxation is solved on a model of its own, which cut rounds may enlarge.
    """
    start = time.perf_counter()
    m = build()
    seconds = time.perf_counter() - start
    relaxed = build()
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(relaxed)
    bound = po.solve(relaxed, time_limit=limits.seconds, threads=limits.threads).bound
    program, cut = to_program(m), to_program(relaxed)
    rows, columns = cut.matrix.shape
    return m, Measurement(
        problem=problem.name,
        name=name,
        status="unsolved",
        rows=rows,
        columns=columns,
        nonzeros=cut.matrix.nnz,
        binaries=int(program.integer.sum()),
        lp_bound=bound,
        build_seconds=seconds,
    )


def as_json(found: Measurement) -> dict:
    """The fields, with None for numbers that are not finite."""
    values = asdict(found)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
