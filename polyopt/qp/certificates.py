"""Why a problem has no solution: nothing is feasible, or the objective falls for ever in some direction.

Both are projections on a cone, strictly convex problems that always have a solution, which is 0 if there is no proof:

    infeasible:  y = [nu; lam] with C'y = 0, lam >= 0, d'y < 0        nearest to -d: then d'y = -|y|^2
    unbounded:   x with Q x = 0, A x = 0, G x <= 0, p'x < 0           nearest to -p: then p'x = -|x|^2

(Farkas' lemma; for an unbounded problem a feasible point is asked for too, the one nearest to 0.) A proof counts if it
holds numerically: what should be 0 is that small beside the terms that it adds up. All is done in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.qp.core import answer
from polyopt.qp.linalg import largest, times
from polyopt.qp.problem import Problem, alike
from polyopt.qp.scaling import equilibrate

SMALL = 1e-9
LIMIT = 60


def farkas(problem: Problem) -> tuple[Tensor, Tensor]:
    """The proof y (B, k + m) with d'y = -1 that each problem is infeasible, and where it holds (B,)."""
    scaled, scaling = equilibrate(_double(problem))
    k, m, C, d = scaled.equalities, scaled.inequalities, scaled.C, scaled.d.expand(problem.batch, -1)
    eye, zero = _identity(d), C.new_zeros(1, C.shape[2])
    unit = largest(d)
    target = d / torch.where(unit > 0, unit, 1.0)
    found = answer(Problem(eye, target, -eye[:, k:], C.new_zeros(1, m), C.mT, zero), LIMIT)
    y = torch.cat([found.z[:, :k], found.z[:, k:].clamp(min=0)], -1)
    value, terms = (d * y).sum(-1, keepdim=True), (d * y).abs().sum(-1, keepdim=True)
    # the second keeps every z out whose entries, scaled, add up to less than 1 / SMALL
    off = largest(scaled.pull(y))
    holds = (value < -SMALL * terms) & (off <= SMALL * -value)
    return y * torch.cat(alike(scaling.F, scaling.E), -1) / -value, holds[:, 0]


def ray(problem: Problem) -> tuple[Tensor, Tensor]:
    """The direction x (B, n) with p'x = -1 in which each problem is unbounded, and where it holds (B,)."""
    scaled, scaling = equilibrate(_double(problem))
    p, flat = scaled.p.expand(problem.batch, -1), torch.cat(alike(scaled.Q, scaled.A), 1)
    eye, zero = _identity(p), flat.new_zeros(1, flat.shape[1])
    nearest = answer(Problem(eye, zero.new_zeros(1, p.shape[1]), scaled.G, scaled.h, scaled.A, scaled.b), LIMIT)
    x = answer(Problem(eye, p, scaled.G, torch.zeros_like(scaled.h), flat, zero), LIMIT).z
    value = (p * x).sum(-1, keepdim=True)
    off = torch.maximum(largest(times(flat, x)), largest(times(scaled.G, x).clamp(min=0)))
    holds = (off <= SMALL * largest(x)) & (value < -SMALL * largest(p) * largest(x))
    return x * scaling.D * scaling.c / -value, holds[:, 0] & nearest.solved


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device)[None]


def _double(problem: Problem) -> Problem:
    return Problem(*(x.double() for x in problem.tensors))
