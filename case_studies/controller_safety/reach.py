"""k-step reachability: how far the closed loop can be in each direction after k steps, by mixed-integer programming.

For directions d_1 ... d_m, the support values

    h_i(k) = max { d_i'x_k :  x_0 in X_0,  u_j = net(x_j),  x_{j+1} = A x_j + B u_j,  j < k }

give the outer polytope ``R_k = {x : d_i'x <= h_i(k)}`` of all states at step k. The model has one block of the network
for each step. It needs bounds on each state; those of ``x_j`` come from R_j, proven one step earlier, whose rows it
holds too. With ``tighten="lp"`` polyopt draws on all of these rows where CROWN leaves a unit undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from common.rivals import Answer, Clock, Polyopt
from loop import Loop

import polyopt as po


@dataclass(frozen=True, eq=False)
class Reached:
    """The support values (m,) of one step, what they took, and how long the process built the model for all of them."""

    step: int
    values: np.ndarray  # attained, (m,)
    bounds: np.ndarray  # proven by the solver, (m,)
    answers: list[Answer]
    build: float


def directions(count: int, radius: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """``count`` directions (count, n) around a plane of coordinates, in units of ``radius`` (n,)."""
    angles = 2 * np.pi * np.arange(count) / count
    found = np.zeros((count, len(radius)))
    found[:, plane[0]], found[:, plane[1]] = np.cos(angles), np.sin(angles)
    return found.round(12) / radius


def model(loop: Loop, steps: int, hulls: list[po.HPolytope], embed: Callable) -> pyo.ConcreteModel:
    """The closed loop over ``steps`` steps; ``hulls[j]`` contains all states that are reachable at step j."""
    A, B, n = loop.plant.A, loop.plant.B, loop.size
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(steps + 1), range(n))
    m.controller = pyo.Block(range(steps))
    m.hull, m.dynamics = pyo.ConstraintList(), pyo.ConstraintList()
    for k in range(steps):
        box = hulls[k].bounding_box()
        for i in range(n):
            m.x[k, i].bounds = float(box.lower[i]), float(box.upper[i])
        for row, limit in zip(hulls[k].A.tolist(), hulls[k].b.tolist(), strict=True):
            m.hull.add(sum(a * m.x[k, i] for i, a in enumerate(row) if a) <= limit)
        (u,) = embed(m.controller[k], loop.net, [m.x[k, i] for i in range(n)])
        for i in range(n):
            drift = sum(float(A[i, j]) * m.x[k, j] for j in range(n))
            m.dynamics.add(m.x[k + 1, i] == drift + float(B[i, 0]) * u)
    m.objective = pyo.Objective(expr=0.0, sense=pyo.maximize)
    return m


def support(
    loop: Loop, steps: int, hulls: list[po.HPolytope], toward: np.ndarray, contender, limit: float, starts=None
) -> Reached:
    """The support values in directions ``toward`` (m, n) by one contender, one MILP each."""
    clock = Clock()
    m = model(loop, steps, hulls, contender.embed)
    _, build = clock()
    answers = []
    for direction in toward:
        m.objective.expr = sum(float(d) * m.x[steps, i] for i, d in enumerate(direction) if d)
        if isinstance(contender, Polyopt):
            start(m, starts[:, (starts[-1] @ direction).argmax()])
            answers.append(contender.solve(m, limit, warm_start=True))
        else:
            answers.append(contender.solve(m, limit))
    numbers = [[np.nan if v is None else v for v in (a.objective, a.bound)] for a in answers]
    values, bounds = np.array(numbers).T
    return Reached(steps, values, bounds, answers, build)


def start(m: pyo.ConcreteModel, path: np.ndarray) -> None:
    """Set all variables to a simulated trajectory (steps + 1, n)."""
    for k, state in enumerate(path.tolist()):
        for i, value in enumerate(state):
            m.x[k, i].set_value(value, skip_validation=True)
        if k < len(path) - 1:
            po.set_point(m.controller[k], state)
