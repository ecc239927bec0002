"""Ruiz equilibration: all rows and columns of [Q C'; C 0] to the largest magnitude 1, and then the objective.

    z = D z~,        lam = E lam~ / c,   nu = F nu~ / c
    Q~ = c D Q D,    G~ = E G D,         A~ = F A D
    p~ = c D p,      h~ = E h,           b~ = F b

Sources: Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices, RAL-TR-2001-034; Stellato et
al., OSQP, Mathematical Programming Computation 12, 2020, section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyopt.qp.problem import Problem

ROUNDS = 8


@dataclass(frozen=True)
class Scaling:
    """The factors: D (1 or B, n), E (1 or B, m), F (1 or B, k) and c (1 or B, 1)."""

    D: Tensor
    E: Tensor
    F: Tensor
    c: Tensor


def unscaled(problem: Problem) -> Scaling:
    """All factors 1."""
    sizes = (problem.p.shape[1], problem.inequalities, problem.equalities, 1)
    return Scaling(*(problem.p.new_ones(1, size) for size in sizes))


def equilibrate(problem: Problem) -> tuple[Problem, Scaling]:
    """The problem in scaled variables and rows, and the factors."""
    Q, G, A = problem.Q, problem.G, problem.A
    scaling = unscaled(problem)
    D, E, F = scaling.D, scaling.E, scaling.F
    for _ in range(ROUNDS):
        column = torch.maximum(_top(Q, 1), torch.maximum(_top(G, 1), _top(A, 1)))
        d, e, f = _inverse_root(column), _inverse_root(_top(G, 2)), _inverse_root(_top(A, 2))
        D, E, F = D * d, E * e, F * f
        Q = Q * d[:, :, None] * d[:, None, :]
        G, A = G * e[:, :, None] * d[:, None, :], A * f[:, :, None] * d[:, None, :]
    p = problem.p * D
    size = torch.maximum(_top(Q, 1).mean(-1, keepdim=True), p.abs().amax(-1, keepdim=True))
    c = torch.where(size > 0, 1 / size, 1.0)
    return Problem(c[..., None] * Q, c * p, G, problem.h * E, A, problem.b * F), Scaling(D, E, F, c)


def _top(M: Tensor, dim: int) -> Tensor:
    """The largest magnitude along a dimension; 0 where there is none."""
    if M.shape[dim]:
        return M.abs().amax(dim)
    return M.new_zeros(1, M.shape[3 - dim])


def _inverse_root(x: Tensor) -> Tensor:
    """x^-1/2, and 1 for zeros."""
    return torch.where(x > 0, x, 1.0).rsqrt()
