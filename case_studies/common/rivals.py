"""One Pyomo model for three contenders: polyopt with HiGHS, OMLT with HiGHS, PySCIPOpt-ML with SCIP.

A study writes its model once, as a function of how networks are embedded: ``embed(block, net, inputs)`` adds outputs
``net(inputs)`` to a block and returns them, for dense ReLU networks and inputs that are variables with bounds. All that
surrounds the networks is then the same, row by row. Each contender bounds the networks in its own way: CROWN in
polyopt, interval arithmetic in the two others. One thread and one relative gap for all.

    with HiGHS   times include the translation of the Pyomo model, by polyopt's or Pyomo's own code
    with SCIP    the model without the networks goes to SCIP as arrays and PySCIPOpt-ML adds them; neither is counted

Limits are wall time. What is compared is the time that the process was at work, which other jobs do not lengthen.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pyomo.environ as pyo
from common.translations import omlt_definition, torch_sequential

import polyopt as po
from polyopt.program import Program, to_program

GAP = 1e-6  # relative


@dataclass(frozen=True)
class Answer:
    """``status`` is "optimal", "time limit" or what else the solver says; ``binaries`` are those before presolve.

    ``work`` are the seconds that the process was at work, out of ``seconds`` of wall time.
    PySCIPOpt-ML's SOS1 constraints have no binaries; its big-M formulation has.
    """

    status: str
    objective: float | None
    bound: float | None
    nodes: int
    binaries: int
    seconds: float
    work: float


class Clock:
    """Wall time, and the time that the process was at work, in seconds since it was made."""

    def __init__(self):
        self._begin = time.perf_counter(), time.process_time()

    def __call__(self) -> tuple[float, float]:
        return time.perf_counter() - self._begin[0], time.process_time() - self._begin[1]


class Polyopt:
    """`polyopt.add_network` and `polyopt.solve`; ``settings`` are those of `add_network`."""

    name, package = "polyopt + HiGHS", "polyopt"

    def __init__(self, **settings):
        self.settings = settings

    def embed(self, block, net: po.Network, inputs: list) -> list:
        return po.add_network(block, net, inputs, **self.settings)

    def solve(self, m: pyo.ConcreteModel, limit: float, warm_start: bool = False) -> Answer:
        clock = Clock()
        found = po.solve(m, time_limit=limit, gap=GAP, threads=1, warm_start=warm_start)
        return Answer(found.status, found.objective, found.bound, found.nodes, binaries(m), *clock())


class Omlt:
    """OMLT's big-M formulation, solved by HiGHS through Pyomo's own interface, which takes no start."""

    name, package = "OMLT + HiGHS", "omlt"

    def embed(self, block, net: po.Network, inputs: list) -> list:
        from omlt import OmltBlock
        from omlt.neuralnet import ReluBigMFormulation

        logging.getLogger("pyomo").setLevel(logging.ERROR)  # it starts variables at 0, outside their bounds
        block.omlt = OmltBlock()
        block.omlt.build_formulation(ReluBigMFormulation(omlt_definition(net, [v.bounds for v in inputs])))
        block.link = pyo.Constraint(range(len(inputs)), rule=lambda _, i: block.omlt.inputs[i] == inputs[i])
        return [block.omlt.outputs[i] for i in range(net.output_size)]

    def solve(self, m: pyo.ConcreteModel, limit: float) -> Answer:
        from pyomo.contrib.solver.common.factory import SolverFactory

        settings = {"time_limit": limit, "threads": 1, "rel_gap": GAP}
        quiet = {"load_solutions": False, "raise_exception_on_nonoptimal_result": False}
        clock = Clock()
        found = SolverFactory("highs").solve(m, **settings, **quiet)
        spent = clock()
        kinds = {"convergenceCriteriaSatisfied": "optimal", "maxTimeLimit": "time limit"}
        status = kinds.get(found.termination_condition.name, found.termination_condition.name)
        bound = found.objective_bound
        bound = bound if bound is not None and np.isfinite(bound) else None
        nodes = max(found.extra_info.mip_node_count, 0)
        return Answer(status, found.incumbent_objective, bound, nodes, binaries(m), *spent)


class Scip:
    """PySCIPOpt-ML's formulation "sos", its default, or "bigm", solved by SCIP."""

    name, package = "PySCIPOpt-ML + SCIP", "pyscipopt_ml"

    def __init__(self, formulation: str = "sos"):
        self.formulation, self.networks = formulation, []

    def embed(self, block, net: po.Network, inputs: list) -> list:
        block.output = pyo.Var(range(net.output_size))
        outputs = list(block.output.values())
        self.networks.append((net, inputs, outputs))
        return outputs

    def solve(self, m: pyo.ConcreteModel, limit: float) -> Answer:
        from pyscipopt_ml.add_predictor import add_predictor_constr

        scip, columns = _to_scip(to_program(m))
        for k, (net, inputs, outputs) in enumerate(self.networks):
            x, y = (np.array([_column(scip, columns, v) for v in side], dtype=object) for side in (inputs, outputs))
            prefix, formulation = f"net{k}_", self.formulation
            add_predictor_constr(
                scip, torch_sequential(net), x, y, unique_naming_prefix=prefix, formulation=formulation
            )
        for name, value in (("limits/gap", GAP), ("limits/time", limit), ("lp/threads", 1)):
            scip.setParam(name, value)
        size, clock = scip.getNBinVars(), Clock()
        scip.optimize()
        spent = clock()
        status = {"timelimit": "time limit", "gaplimit": "optimal"}.get(scip.getStatus(), scip.getStatus())
        objective = scip.getObjVal() if scip.getNSols() else None
        bound = None if scip.isInfinity(abs(scip.getDualbound())) else scip.getDualbound()
        return Answer(status, objective, bound, scip.getNTotalNodes(), size, *spent)


def rivals() -> list[type[Omlt] | type[Scip]]:
    """Those that are installed; of the others it is said that they are not."""
    missing = [rival.name for rival in (Omlt, Scip) if find_spec(rival.package) is None]
    if missing:
        print("not installed, and left out:", ", ".join(missing))
    return [rival for rival in (Omlt, Scip) if rival.name not in missing]


def binaries(m: pyo.ConcreteModel) -> int:
    """How many binary variables a model has."""
    return sum(v.is_binary() for v in m.component_data_objects(pyo.Var, active=True))


def _to_scip(program: Program):
    """A linear program with integer variables in SCIP, and its columns by the ids of Pyomo's variables."""
    from pyscipopt import Model, quicksum

    m = Model()
    m.hideOutput()
    kinds = np.where(program.integer, "I", "C").tolist()
    ends = [[None if np.isinf(v) else float(v) for v in side] for side in (program.lower, program.upper)]
    columns = [m.addVar(lb=low, ub=high, vtype=kind) for low, high, kind in zip(*ends, kinds, strict=True)]
    sides = zip(program.row_lower.tolist(), program.row_upper.tolist(), strict=True)
    for k, (low, high) in enumerate(sides):
        row = program.matrix[[k]].tocoo()
        value = quicksum(a * columns[j] for a, j in zip(row.data.tolist(), row.coords[1].tolist(), strict=True))
        if low == high:
            m.addCons(value == low)
            continue
        if np.isfinite(low):
            m.addCons(value >= low)
        if np.isfinite(high):
            m.addCons(value <= high)
    cost = quicksum(c * columns[j] for j, c in enumerate(program.cost.tolist()) if c)
    m.setObjective(cost + program.offset, "maximize" if program.maximize else "minimize")
    return m, {id(v): column for v, column in zip(program.variables, columns, strict=True)}


def _column(scip, columns: dict, variable):
    """The SCIP variable of a Pyomo variable, new where no row has it."""
    if id(variable) not in columns:
        columns[id(variable)] = scip.addVar(lb=variable.lb, ub=variable.ub)
    return columns[id(variable)]
