"""Solving a Pyomo model with HiGHS: statuses said plainly, the best point always loaded, starts, limits, progress.

The model reaches HiGHS as arrays (`polyopt.program`) and not through Pyomo's own interface to it, which takes no start
and makes every coefficient of a matrix-backed row a Python object again.

HiGHS answers to tolerances (1e-6 on rows, 1e-6 on integrality): its points and bounds are candidates. `replay_error`
says how far a network block is from the network at the loaded point; `polyopt.verify` recomputes what a verdict rests
on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import highspy
import numpy as np
from tqdm import tqdm

from polyopt.cut_rounds import cut_rounds
from polyopt.embedding import check_domains
from polyopt.implied import without_implied
from polyopt.program import Program, to_highs, to_program

_Status = highspy.HighsModelStatus
_STATUS = {
    _Status.kOptimal: "optimal",
    _Status.kInfeasible: "infeasible",
    _Status.kUnbounded: "unbounded",
    _Status.kTimeLimit: "time limit",
    _Status.kInterrupt: "interrupted",
}


@dataclass(frozen=True)
class Result:
    """What a solve found.

    ``status`` is "optimal", "infeasible", "unbounded", "time limit", "interrupted" or "error". ``objective`` is the
    value of the point now loaded in the model, ``bound`` the proven bound on the optimum; None where there is none.
    ``gap`` is ``|objective - bound| / max(1, |objective|)``, infinite without a point or a bound. ``nodes`` counts
    branch-and-bound nodes, ``seconds`` is wall time with the translation of the model.
    """

    status: str
    objective: float | None
    bound: float | None
    gap: float
    nodes: int
    seconds: float


def solve(
    model,
    time_limit: float | None = None,
    gap: float = 1e-6,
    threads: int | None = None,
    warm_start: bool = False,
    progress: bool = False,
) -> Result:
    """Solve a linear, mixed-integer linear or convex quadratic Pyomo model with HiGHS and load the best point found.

    ``time_limit`` in seconds; ``gap`` the relative gap at which a MILP counts as optimal; ``threads`` for HiGHS;
    ``warm_start`` offers the values now in the variables as a first point (see `set_point`); ``progress`` shows a bar.
    The point is loaded also at a time limit and after Ctrl-C. Raises ValueError for a model that is not of these
    kinds, and where a network's inputs have been given wider bounds than it was added for.

    >>> import pyomo.environ as pyo
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(bounds=(0, 4), domain=pyo.Integers)
    >>> m.row = pyo.Constraint(expr=2 * m.x <= 7)
    >>> m.obj = pyo.Objective(expr=m.x, sense=pyo.maximize)
    >>> result = solve(m)
    >>> result.status, result.objective, result.bound
    ('optimal', 3.0, 3.0)
    """
    start = time.perf_counter()
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"solve: time_limit is {time_limit}, but must be positive seconds")
    program = to_program(model)
    check_domains(model)

    def remaining() -> float:
        return math.inf if time_limit is None else time_limit - (time.perf_counter() - start)

    point = [variable.value for variable in program.variables]
    if cut_rounds(model, lambda: _relax(to_program(model), remaining(), threads)):
        program = to_program(model)
    for variable, value in zip(program.variables, point, strict=True):  # which the relaxations have overwritten
        if not variable.fixed:
            variable.set_value(value, skip_validation=True)
    if (program.lower > program.upper).any():
        return Result("infeasible", None, None, math.inf, 0, time.perf_counter() - start)
    program = without_implied(program, model)
    solver = to_highs(program)
    solver.setOptionValue("mip_rel_gap", float(gap))
    _set_threads(solver, threads)
    if warm_start:
        _set_start(solver, program)
    if time_limit is not None:
        solver.setOptionValue("time_limit", max(remaining(), 1e-3))
    _run(solver, progress)
    return _result(solver, program, start, remaining)


def _relax(program: Program, time_limit: float, threads: int | None) -> float | None:
    """The optimum of the linear relaxation, whose point is loaded; None where it is not found in time."""
    if time_limit <= 0:
        return None
    solver = to_highs(replace(program, integer=np.zeros_like(program.integer)))
    _set_threads(solver, threads)
    solver.setOptionValue("time_limit", float(time_limit))
    _run(solver, progress=False)
    if solver.getModelStatus() != _Status.kOptimal:
        return None
    _load(solver, program)
    return solver.getInfo().objective_function_value


def _set_threads(solver: highspy.Highs, threads: int | None) -> None:
    """HiGHS shares its threads between all instances, and takes another number only after a reset."""
    if threads is not None:
        highspy.Highs.resetGlobalScheduler(True)
        solver.setOptionValue("threads", int(threads))


def _set_start(solver: highspy.Highs, program: Program) -> None:
    """Offer the variables' values; HiGHS completes what is missing."""
    known = [j for j, variable in enumerate(program.variables) if variable.value is not None]
    values = np.array([program.variables[j].value for j in known], dtype=np.float64)
    solver.setSolution(len(known), np.array(known, dtype=np.int32), values)


def _run(solver: highspy.Highs, progress: bool) -> None:
    """Run; Ctrl-C stops the solver, which keeps its best point."""
    solver.HandleKeyboardInterrupt = True
    with tqdm(disable=not progress, bar_format="{desc} [{elapsed}]", leave=False) as bar:

        def show(event):
            found, bound = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
            bar.set_description_str(
                f"HiGHS: best {found:.6g}, bound {bound:.6g}, {event.data_out.mip_node_count} nodes"
            )

        if progress:
            solver.cbMipInterrupt.subscribe(show)
        solver.solve()


def _result(solver: highspy.Highs, program: Program, start: float, remaining: Callable[[], float]) -> Result:
    status = _STATUS.get(solver.getModelStatus(), "error")
    if solver.getModelStatus() == _Status.kUnboundedOrInfeasible:
        status = _infeasible_or_unbounded(program, remaining())
    info = solver.getInfo()
    objective = bound = None
    is_mip = bool(program.integer.any())
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible and status not in (
        "infeasible",
        "unbounded",
    ):
        _load(solver, program)
        objective = info.objective_function_value
    if is_mip and math.isfinite(info.mip_dual_bound) and status not in ("infeasible", "unbounded", "error"):
        bound = info.mip_dual_bound
    elif not is_mip and status == "optimal":
        bound = objective
    gap = math.inf if objective is None or bound is None else abs(objective - bound) / max(1.0, abs(objective))
    return Result(status, objective, bound, gap, max(int(info.mip_node_count), 0), time.perf_counter() - start)


def _load(solver: highspy.Highs, program: Program) -> None:
    for variable, value in zip(program.variables, list(solver.getSolution().col_value), strict=True):
        if not variable.fixed:
            variable.set_value(value, skip_validation=True)


def _infeasible_or_unbounded(program: Program, time_limit: float) -> str:
    """Where presolve did not tell the two apart: without its objective an unbounded problem is feasible."""
    feasibility = replace(program, cost=np.zeros(len(program.variables)), quadratic=None, offset=0.0)
    solver = to_highs(feasibility)
    solver.setOptionValue("time_limit", max(time_limit, 1e-3))
    _run(solver, progress=False)
    found = {_Status.kOptimal: "unbounded", _Status.kInfeasible: "infeasible"}
    return found.get(solver.getModelStatus(), _STATUS.get(solver.getModelStatus(), "error"))
