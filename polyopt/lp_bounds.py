"""Bounds on linear expressions over the linear relaxation of a Pyomo model.

For each row ``a = w x + b`` the least and greatest value over everything the model says about x: constraints that tie
inputs to each other, integer variables relaxed to intervals, layers already written. One HiGHS instance serves all
rows: only its cost changes, and it continues from the last basis.

The numbers are HiGHS's optimal values, which it reaches to tolerances of 1e-7. Each is moved outwards by ``MARGIN``
times the size of its row; that is a precaution, not a proof. A bound that is no better than the one known is dropped.
"""

from __future__ import annotations

import highspy
import numpy as np

from polyopt.program import Program, to_highs

MARGIN = 1e-6


def lp_bounds(program: Program, weight, bias, columns, lower, upper) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (p,) on ``weight x + bias``, x being the program's columns ``columns`` (m), no wider than lower and upper.

    ``program`` is a relaxation without integer variables, ``weight`` (p, m) is sparse. Raises ValueError where the
    relaxation is infeasible: then there is nothing to embed.

    >>> import pyomo.environ as pyo, scipy.sparse as sp
    >>> from polyopt.program import to_relaxation
    >>> m = pyo.ConcreteModel()
    >>> m.x = pyo.Var(range(2), bounds=(0, 1))
    >>> m.row = pyo.Constraint(expr=m.x[0] + m.x[1] <= 1)
    >>> program, columns = to_relaxation(m, list(m.x.values()))
    >>> low, high = lp_bounds(program, sp.csr_array([[1.0, 1.0]]), [0.0], columns, [0.0], [2.0])
    >>> low.round(4), high.round(4)
    (array([0.]), array([1.]))
    """
    lower, upper = np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64)
    count = len(program.variables)
    solver = to_highs(program)
    everything = np.arange(count, dtype=np.int32)
    for i in range(len(lower)):
        row = weight[[i]]
        cost = np.zeros(count)
        np.add.at(cost, np.asarray(columns, dtype=int)[row.indices], row.data)
        margin = MARGIN * (1.0 + abs(bias[i]) + abs(row.data).sum())
        solver.changeColsCost(count, everything, cost)
        for sense, side in ((highspy.ObjSense.kMinimize, lower), (highspy.ObjSense.kMaximize, upper)):
            solver.changeObjectiveSense(sense)
            solver.run()
            status = solver.getModelStatus()
            if status == highspy.HighsModelStatus.kInfeasible:
                raise ValueError(
                    "the model's constraints exclude every input of the network; look at its bounds and rows"
                )
            if status == highspy.HighsModelStatus.kOptimal:
                value = solver.getInfo().objective_function_value + bias[i]
                side[i] = max(side[i], value - margin) if side is lower else min(side[i], value + margin)
    return np.minimum(lower, upper), np.maximum(lower, upper)
