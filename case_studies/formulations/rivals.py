"""The same questions to other packages: OMLT with HiGHS, PySCIPOpt-ML with SCIP.

Each computes its own bounds, by interval arithmetic, and is given the network, the box, a time limit, the number of
threads and a gap. Neither offers a MIP start from a forward pass.
"""

from __future__ import annotations

import logging
import time

import numpy as np
import pyomo.environ as pyo
from measure import GAP, Limits, Measurement, measured_model
from problems import Problem


def omlt(problem: Problem, name: str, formulation: str, limits: Limits) -> Measurement:
    """One of OMLT's formulations, by the name of its class, solved by HiGHS through Pyomo's own interface."""
    import omlt.neuralnet
    from omlt import OmltBlock
    from pyomo.contrib.solver.common.factory import SolverFactory

    logging.getLogger("pyomo").setLevel(logging.ERROR)  # OMLT starts variables at 0, outside their bounds

    def build() -> pyo.ConcreteModel:
        m = pyo.ConcreteModel()
        m.net = OmltBlock()
        m.net.build_formulation(getattr(omlt.neuralnet, formulation)(_omlt_definition(problem)))
        m.objective = pyo.Objective(expr=m.net.outputs[0], sense=pyo.maximize)
        return m

    m, found = measured_model(problem, name, build, limits)
    start = time.perf_counter()
    result = SolverFactory("highs").solve(
        m,
        time_limit=limits.seconds,
        threads=limits.threads,
        rel_gap=GAP,
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
    )
    found.seconds = time.perf_counter() - start
    kinds = {"convergenceCriteriaSatisfied": "optimal", "maxTimeLimit": "time limit"}
    found.status = kinds.get(result.termination_condition.name, result.termination_condition.name)
    found.objective, found.bound = result.incumbent_objective, result.objective_bound
    found.nodes = max(result.extra_info.mip_node_count, 0)
    if found.objective is not None:
        result.solution_loader.load_vars()
        found.error = abs(problem.value([v.value for v in m.net.inputs.values()]) - found.objective)
    return found


def _omlt_definition(problem: Problem):
    """The network as OMLT describes it."""
    from omlt.neuralnet import NetworkDefinition
    from omlt.neuralnet.layer import DenseLayer, InputLayer

    ends = zip(problem.box.lower.tolist(), problem.box.upper.tolist(), strict=True)
    definition = NetworkDefinition(scaled_input_bounds=dict(enumerate(ends)))
    previous = InputLayer([problem.net.input_size])
    definition.add_layer(previous)
    for layer in problem.affine:
        n_out, n_in = layer.weight.shape
        activation = "linear" if layer is problem.affine[-1] else "relu"
        dense = DenseLayer([n_in], [n_out], layer.weight.T, layer.bias, activation=activation)
        definition.add_layer(dense)
        definition.add_edge(previous, dense)
        previous = dense
    return definition


def scip(problem: Problem, name: str, formulation: str, limits: Limits) -> Measurement:
    """PySCIPOpt-ML's "sos" or "bigm" formulation, solved by SCIP."""
    network = _torch_sequential(problem)  # loads torch, which is not to be counted
    start = time.perf_counter()
    m, x = _scip_model(problem, network, formulation)
    build_seconds = time.perf_counter() - start
    constraints = m.getConss()
    kinds = [c.getConshdlrName() for c in constraints]
    found = Measurement(
        problem=problem.name,
        name=name,
        status="unsolved",
        rows=m.getNConss(),
        columns=m.getNVars(),
        nonzeros=sum(len(m.getValsLinear(c)) for c, kind in zip(constraints, kinds, strict=True) if kind == "linear"),
        binaries=m.getNBinVars(),
        lp_bound=_scip_lp_bound(problem, network, formulation, limits),
        build_seconds=build_seconds,
    )
    _limit(m, limits)
    start = time.perf_counter()
    m.optimize()
    found.seconds = time.perf_counter() - start
    found.status = {"timelimit": "time limit", "gaplimit": "optimal"}.get(m.getStatus(), m.getStatus())
    found.nodes = m.getNTotalNodes()
    found.bound = m.getDualbound() if not m.isInfinity(abs(m.getDualbound())) else None
    if m.getNSols():
        found.objective = m.getObjVal()
        found.error = abs(problem.value([m.getVal(v) for v in x]) - found.objective)
    return found


def _scip_model(problem: Problem, network, formulation: str):
    """The model and its input variables."""
    from pyscipopt import Model
    from pyscipopt_ml.add_predictor import add_predictor_constr

    m = Model()
    m.hideOutput()
    m.setParam("limits/gap", GAP)
    ends = zip(problem.box.lower.tolist(), problem.box.upper.tolist(), strict=True)
    x = np.array([m.addVar(lb=low, ub=high) for low, high in ends], dtype=object)
    y = np.array([m.addVar(lb=None, ub=None)], dtype=object)
    add_predictor_constr(m, network, x, y, formulation=formulation)
    m.setObjective(y[0], sense="maximize")
    return m, x


def _torch_sequential(problem: Problem):
    import torch

    layers = []
    for layer in problem.affine:
        linear = torch.nn.Linear(*layer.weight.shape[::-1], dtype=torch.float64)
        linear.load_state_dict({"weight": torch.tensor(layer.weight), "bias": torch.tensor(layer.bias)})
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _scip_lp_bound(problem: Problem, network, formulation: str, limits: Limits) -> float | None:
    """The bound of the linear rows alone: binaries between 0 and 1, SOS1 constraints dropped."""
    m, _ = _scip_model(problem, network, formulation)
    for constraint in m.getConss():
        if constraint.getConshdlrName() == "SOS1":
            m.delCons(constraint)
    m.relax()
    _limit(m, limits)
    m.optimize()
    return m.getObjVal() if m.getStatus() == "optimal" else None


def _limit(m, limits: Limits) -> None:
    m.setParam("limits/time", limits.seconds)
    m.setParam("lp/threads", limits.threads)


RIVALS = {  # name -> package that must be there, function, formulation
    "OMLT big-M, HiGHS": ("omlt", omlt, "ReluBigMFormulation"),
    "OMLT partition(2), HiGHS": ("omlt", omlt, "ReluPartitionFormulation"),
    "PySCIPOpt-ML SOS1, SCIP": ("pyscipopt_ml", scip, "sos"),
    "PySCIPOpt-ML big-M, SCIP": ("pyscipopt_ml", scip, "bigm"),
}
