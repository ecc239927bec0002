"""Cuts inside Gurobi's branch and cut: where it has solved a relaxation, it is handed the cuts that this one violates.

`polyopt.solve` adds its rounds of cuts before the MILP. Here they come between Gurobi's own, as user cuts: all of them
hold at every integer point, and which ones it uses is its choice.

The callback is one for Pyomo's ``gurobi_persistent`` (tried with Pyomo 6.10.1 and gurobipy 13.0.3). Pyomo's
``appsi_gurobi`` and ``gurobi_persistent_v2`` take it too, but not where a variable of the model is in no row: they do
not know it, and the error is silenced. Importing this needs no Gurobi.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pyomo.environ as pyo

from polyopt.cut_rounds import new_cuts, separable


def cut_callback(model, nodes: int = 0) -> Callable:
    """A callback for ``gurobi_persistent`` that separates the cuts of every network in the model, e.g. `CuttingPlanes`.

    Where Gurobi has solved the relaxation of the root, or of one of the first ``nodes`` nodes after it, the values go
    into the model's variables and the cuts that they violate to Gurobi, in up to ``max_rounds`` rounds a node. Set
    Gurobi's PreCrush to 1, as its presolve may otherwise leave it no way to use them.

    The cuts stay on the networks' blocks, as after `separate`. This run of Gurobi has them as cuts and not as rows;
    an instance that is set afterwards, or `polyopt.solve`, takes them as rows. Make a callback for each run.

    >>> from polyopt import CuttingPlanes, Network, add_network
    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0, 1.0]], None), ReLU()], (2,))
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(-1, 1))
    >>> m.net = pyo.Block()
    >>> (y,) = add_network(m.net, net, m.x, formulation=CuttingPlanes())
    >>> m.obj = pyo.Objective(expr=y - m.x[0], sense=pyo.maximize)
    >>> callback = cut_callback(m)
    >>> solver = pyo.SolverFactory("gurobi_persistent")
    >>> solver.set_instance(m)  # doctest: +SKIP
    >>> solver.set_gurobi_param("PreCrush", 1)  # doctest: +SKIP
    >>> solver.set_callback(callback)
    >>> result = solver.solve()  # doctest: +SKIP
    """
    parts, variables = separable(model), list(model.component_data_objects(pyo.Var, active=True))
    rounds = Counter()

    def callback(_, solver, where) -> None:
        node = _solved_node(solver, where)
        if node is None or node > nodes:
            return
        rounds[node] += 1
        solver.cbGetNodeRel(variables)
        for part in parts:
            if rounds[node] <= part.formulation.max_rounds:
                for cuts in new_cuts(part):
                    for row in cuts.values():
                        solver.cbCut(row)

    return callback


def _solved_node(solver, where: int) -> int | None:
    """How many nodes came before the one whose relaxation has just been solved; None elsewhere in Gurobi's run."""
    from gurobipy import GRB

    if where != GRB.Callback.MIPNODE or solver.cbGet(GRB.Callback.MIPNODE_STATUS) != GRB.OPTIMAL:
        return None
    return int(solver.cbGet(GRB.Callback.MIPNODE_NODCNT))
