"""From an active set to a solution at machine precision, accepted only if it solves the problem.

The equations of the active set (`polyopt.qp.active`) give z and y; refinement against the true Q and C takes out the
errors of the factors, of a shifted Q and of dependent rows. The point is accepted if every condition (4) holds relative
to the magnitude of what it adds up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyopt.qp.active import ActiveSystem, factor
from polyopt.qp.condense import Condensed
from polyopt.qp.linalg import cholesky_solve, largest, transposed_times
from polyopt.qp.problem import Problem

STEPS = 12
ORIGIN = 1e-2  # the share of z0 beside which a solution z = 0 is judged


@dataclass(frozen=True)
class Polished:
    """The points of the active sets, and which of them are solutions."""

    z: Tensor  # (B, n)
    y: Tensor  # (B, r)
    accepted: Tensor  # (B,)
    system: ActiveSystem


def polish(problem: Problem, condensed: Condensed, active: Tensor, floor: float) -> Polished:
    """Solve the equations of the active sets (B, r), refined, and judge the points.

    ``floor`` is a magnitude beside which stationarity may be judged: 0 unless the problem is scaled.
    """
    system = factor(condensed.K, active)
    y = system.multipliers(-condensed.q)
    z = condensed.z0 - cholesky_solve(condensed.L, problem.pull(y))
    epsilon = torch.finfo(z.dtype).eps
    before = z.new_full((len(z),), torch.inf)
    for step in range(STEPS):
        Qz, pull, gap = transposed_times(problem.Q, z), problem.pull(y), problem.d - problem.apply(z)
        off = -(Qz + problem.p + pull)
        error = torch.maximum(
            largest(off)
            / (floor + largest(Qz) + largest(problem.p) + largest(pull)).clamp(min=torch.finfo(z.dtype).tiny),
            _violation(problem, condensed, active, z, Qz, gap),
        )[:, 0]
        hopeful = (error > 1e2 * epsilon) & (error < 0.5 * before)
        if step == STEPS - 1 or not hopeful.any():
            break
        before = error
        dz, dy = system.solve(problem, condensed.L, off, gap)
        z, y = z + dz, y + dy
    accepted = (error <= epsilon**0.625) & (y[:, problem.equalities :] >= 0).all(-1)
    return Polished(z, y, accepted, system)


def _violation(problem: Problem, condensed: Condensed, active: Tensor, z: Tensor, Qz: Tensor, gap: Tensor) -> Tensor:
    """The largest violation of a row, or slack of an active one, relative to |d_i| + |C_i| |z|, in the norm of H."""
    norm = (z * (Qz + condensed.delta * z)).sum(-1, keepdim=True).clamp(min=0).sqrt()
    unit = problem.d.abs() + condensed.scale * norm + ORIGIN * condensed.q.abs()
    unit = unit.clamp(min=torch.finfo(z.dtype).tiny)
    return largest(torch.where(active, gap, gap.clamp(max=0)) / unit)
