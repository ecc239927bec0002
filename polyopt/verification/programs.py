"""Looking for a counterexample by mixed-integer linear programs, one for each unsafe set ``{y : C y <= d}``:

    min t   subject to   C y - t <= d,   y = f(x),   x in X,

whose optimum is the least margin ``max_r (C f(x) - d)_r`` over the region X. Only the sign of t matters: a program
stops at the first point that is accepted as a counterexample, and where its bound says that t > 0. The network is
written as `polyopt.embed.add_network` does, on CROWN's bounds over X; ellipsoids are replaced by their bounding boxes.

HiGHS answers to tolerances: its points are candidates, and its bounds are what it says, rounded by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import highspy
import numpy as np
import pyomo.environ as pyo

from formulations import Rows
from polyopt.bounds.crown import crown
from polyopt.embed import add_network
from polyopt.network import Network
from polyopt.program import to_highs, to_program
from polyopt.regions import HPolytope
from polyopt.verification.deviation import without_quadratics
from polyopt.verification.property import Case


class Found(NamedTuple):
    """A counterexample (n,) and its case, or neither; HiGHS's bound on all margins; whether Ctrl-C was the end."""

    x: np.ndarray | None
    case: int | None
    bound: float
    interrupted: bool


def solve_programs(
    net: Network,
    cases: Sequence[Case],
    accept: Callable[[np.ndarray, int], bool],
    remaining: Callable[[], float] = lambda: math.inf,
) -> Found:
    """Go through the unsafe sets; each may take its share of the seconds that ``remaining()`` gives.

    Raises ValueError for activations that no mixed-integer program describes, as `add_network` does.

    >>> from polyopt.activations import Abs
    >>> from polyopt.regions import Box
    >>> cases = [Case(Box([-1.0], [3.0]), (HPolytope([[-1.0]], [-2.5]), HPolytope([[-1.0]], [-4.0])))]  # |x| >= 2.5, 4
    >>> net = Network.sequential([Abs()], (1,))
    >>> solve_programs(net, cases, lambda x, case: abs(x[0]) >= 2.5).x
    array([3.])
    >>> round(solve_programs(net, cases, lambda x, case: False).bound, 6)
    -0.5
    """
    bound, left = math.inf, sum(len(case.unsafe) for case in cases)
    for k, case in enumerate(cases):
        m = _model(net, case)
        for polytope in case.unsafe:
            if not (seconds := remaining() / left) > 0:
                return Found(None, None, -math.inf, False)
            found = _solve(m, polytope, lambda x, k=k: accept(x, k), seconds)
            if found.x is not None or found.interrupted:
                return Found(found.x, None if found.x is None else k, -math.inf, found.interrupted)
            bound, left = min(bound, found.bound), left - 1
    return Found(None, None, bound, False)


def _model(net: Network, case: Case):
    """The network on the case's region, and t to be minimised."""
    region = without_quadratics(case.region)
    box = region.bounding_box()
    m = pyo.ConcreteModel()
    ends = list(zip(box.lower.tolist(), box.upper.tolist(), strict=True))
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, i: ends[i], initialize=lambda _, i: ends[i][0])
    m.net, m.t = pyo.Block(), pyo.Var()
    m.outputs = add_network(m.net, net, m.x, bounds=crown(net, region))
    m.objective = pyo.Objective(expr=m.t)
    return m


def _solve(m, polytope: HPolytope, accept: Callable[[np.ndarray], bool], seconds: float) -> Found:
    """The program of one unsafe set."""
    m.unsafe = Rows([(polytope.A, m.outputs), (np.full((len(polytope.b), 1), -1.0), [m.t])], upper=polytope.b)
    program, inputs = to_program(m), list(m.x.values())
    m.del_component("unsafe")
    solver = to_highs(program)
    accepted, errors, stopped = [], [], []

    def look(values) -> None:
        for variable, value in zip(program.variables, values, strict=True):
            variable.set_value(value, skip_validation=True)
        x = np.array([variable.value for variable in inputs], dtype=np.float64)
        if accept(x):
            accepted.append(x)

    def improved(event) -> None:
        try:
            look(event.data_out.mip_solution)
        except Exception as error:  # which cannot pass through HiGHS
            errors.append(error)

    def stop(event) -> None:
        if accepted or errors or event.data_out.mip_dual_bound > 0:
            stopped.append(True)
            event.interrupt()

    solver.cbMipImprovingSolution.subscribe(improved)
    solver.cbMipInterrupt.subscribe(stop)
    solver.HandleKeyboardInterrupt = True
    solver.setOptionValue("mip_rel_gap", 0.0)  # the sign of a small margin is asked for
    if math.isfinite(seconds):
        solver.setOptionValue("time_limit", seconds)
    solver.solve()
    if errors:
        raise errors[0]
    status, info = solver.getModelStatus(), solver.getInfo()
    optimal = status == highspy.HighsModelStatus.kOptimal
    if optimal and not accepted:  # the callbacks are those of programs with integers
        look(solver.getSolution().col_value)
    bound = info.mip_dual_bound if program.integer.any() else info.objective_function_value if optimal else -math.inf
    interrupted = status == highspy.HighsModelStatus.kInterrupt and not stopped
    return Found(accepted[0] if accepted else None, None, bound if math.isfinite(bound) else -math.inf, interrupted)
