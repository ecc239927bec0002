"""polyopt's search, and the mixed-integer programs of other packages, asked the same questions.

Rivals get the network, the box, a gap, a time limit and one thread; only their solver's time is counted, not that of
building the model. Each has bounds of its own: SCIP's and Gurobi's presolve, interval arithmetic in OMLT.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from common.translations import omlt_definition, torch_sequential
from problems import Problem

import polyopt as po

OURS, CUDA = "polyopt", "polyopt, GPU"
TOO_LARGE = "too large for the licence"


@dataclass
class Answer:
    """``steps`` are boxes (polyopt) or nodes; ``work`` the seconds that the process was at work, out of ``seconds``."""

    problem: str
    contender: str
    status: str
    value: float | None
    bound: float | None
    steps: int
    seconds: float
    work: float

    @property
    def gap(self) -> float:
        """``(bound - value) / max(1, |value|)``; infinite where one of them is missing."""
        if self.value is None or self.bound is None:
            return np.inf
        return max(0.0, self.bound - self.value) / max(1.0, abs(self.value))


class Clock:
    """Wall time, and the time that the process was at work, from its making on."""

    def __init__(self):
        self._begin = time.perf_counter(), time.process_time()

    def __call__(self) -> tuple[float, float]:
        return time.perf_counter() - self._begin[0], time.process_time() - self._begin[1]


def polyopt(problem: Problem, limit: float, device: str | None = None) -> Answer:
    """`polyopt.optimize`."""
    clock = Clock()
    best = po.optimize(problem.net, problem.box, problem.objective, time_limit=limit, gap=problem.gap, device=device)
    name = CUDA if device else OURS
    return Answer(problem.name, name, best.status, best.value, best.bound, best.branches, *clock())


def scip(problem: Problem, limit: float) -> Answer:
    """PySCIPOpt-ML's big-M rows, solved by SCIP."""
    from pyscipopt import Model
    from pyscipopt_ml.add_predictor import add_predictor_constr

    m = Model()
    m.hideOutput()
    x = np.array([m.addVar(lb=low, ub=high) for low, high in _ends(problem)], dtype=object)
    y = np.array([m.addVar(lb=None, ub=None) for _ in problem.objective], dtype=object)
    add_predictor_constr(m, torch_sequential(problem.net), x, y, formulation="bigm")
    m.setObjective(sum(w * v for w, v in zip(problem.objective.tolist(), y, strict=True) if w), sense="maximize")
    for name, value in (("limits/gap", problem.gap), ("limits/time", limit), ("lp/threads", 1)):
        m.setParam(name, value)
    clock = Clock()
    m.optimize()
    spent = clock()
    status = {"timelimit": "time limit", "gaplimit": "optimal"}.get(m.getStatus(), m.getStatus())
    value = m.getObjVal() if m.getNSols() else None
    bound = m.getDualbound() if not m.isInfinity(abs(m.getDualbound())) else None
    return Answer(problem.name, "PySCIPOpt-ML, SCIP", status, value, bound, m.getNTotalNodes(), *spent)


def gurobi(problem: Problem, limit: float) -> Answer:
    """gurobi-machinelearning's model, solved by Gurobi; its free licence ends at 2000 variables and rows."""
    import gurobipy
    from gurobi_ml import add_predictor_constr

    name = "gurobi-ml, Gurobi"
    with gurobipy.Env(params={"OutputFlag": 0}) as environment, gurobipy.Model(env=environment) as m:
        x = m.addMVar(problem.net.input_size, lb=problem.box.lower, ub=problem.box.upper)
        y = m.addMVar(problem.net.output_size, lb=-gurobipy.GRB.INFINITY)
        add_predictor_constr(m, torch_sequential(problem.net), x, y)
        m.setObjective(problem.objective @ y, gurobipy.GRB.MAXIMIZE)
        m.Params.MIPGap, m.Params.TimeLimit, m.Params.Threads = problem.gap, limit, 1
        clock = Clock()
        try:
            m.optimize()
        except gurobipy.GurobiError as error:
            if error.errno != gurobipy.GRB.Error.SIZE_LIMIT_EXCEEDED:
                raise
            return Answer(problem.name, name, TOO_LARGE, None, None, 0, *clock())
        spent = clock()
        kinds = {gurobipy.GRB.OPTIMAL: "optimal", gurobipy.GRB.TIME_LIMIT: "time limit"}
        value = m.ObjVal if m.SolCount else None
        bound = m.ObjBound if np.isfinite(m.ObjBound) and abs(m.ObjBound) < 1e100 else None
        status = kinds.get(m.Status, str(m.Status))
        return Answer(problem.name, name, status, value, bound, int(m.NodeCount), *spent)


def omlt(problem: Problem, limit: float) -> Answer:
    """OMLT's big-M rows, solved by HiGHS."""
    import pyomo.environ as pyo
    from omlt import OmltBlock
    from omlt.neuralnet import ReluBigMFormulation
    from pyomo.contrib.solver.common.factory import SolverFactory

    logging.getLogger("pyomo").setLevel(logging.ERROR)  # OMLT starts variables at 0, outside their bounds
    m = pyo.ConcreteModel()
    m.net = OmltBlock()
    m.net.build_formulation(ReluBigMFormulation(omlt_definition(problem.net, _ends(problem))))
    weighed = [float(w) * m.net.outputs[k] for k, w in enumerate(problem.objective) if w]
    m.objective = pyo.Objective(expr=sum(weighed), sense=pyo.maximize)
    clock = Clock()
    result = SolverFactory("highs").solve(
        m,
        time_limit=limit,
        threads=1,
        rel_gap=problem.gap,
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
    )
    spent = clock()
    kinds = {"convergenceCriteriaSatisfied": "optimal", "maxTimeLimit": "time limit"}
    status = kinds.get(result.termination_condition.name, result.termination_condition.name)
    nodes = max(result.extra_info.mip_node_count, 0)
    value, bound = result.incumbent_objective, result.objective_bound
    bound = bound if bound is not None and np.isfinite(bound) else None
    return Answer(problem.name, "OMLT, HiGHS", status, value, bound, nodes, *spent)


def rivals() -> dict[str, Callable[[Problem, float], Answer]]:
    """Those that are installed, by their package; of the others it is said that they are not."""
    known = {"pyscipopt_ml": scip, "gurobi_ml": gurobi, "omlt": omlt}
    missing = [package for package in known if find_spec(package) is None]
    print("not installed, and left out:", ", ".join(missing) or "none")
    return {package: solve for package, solve in known.items() if package not in missing}


def _ends(problem: Problem) -> list[tuple[float, float]]:
    return list(zip(problem.box.lower.tolist(), problem.box.upper.tolist(), strict=True))
