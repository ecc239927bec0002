"""The problem seen from its multipliers.

With H = Q (positive definite) and z0 = -H^-1 p, its minimiser without constraints, stationarity gives
z = z0 - H^-1 C'y, and the slack of all rows is linear in the multipliers:

    d - C z = q + K y,     K = C H^-1 C',     q = d - C z0

so that the conditions (4) are a linear complementarity problem in y, whose size is the number of rows. The scale of row
i is sqrt(K_ii): slack over scale is the distance of z from the row in the norm of H, multiplier times scale has the
same unit, and the two can be compared.

Where Q is only semidefinite, H = Q + delta I; the error is removed later by refinement (`polyopt.qp.active`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from polyopt.qp.linalg import cholesky_solve, half_solve, take, times
from polyopt.qp.problem import Problem

SINGULAR = 1e-10  # a pivot this small, relative to the diagonal, makes Q semidefinite
DELTA = 1e-5  # relative to the largest entry


@dataclass(frozen=True)
class Hessian:
    """H = Q + delta I = L L'."""

    L: Tensor  # (1 or B, n, n)
    delta: Tensor  # (1 or B, 1)


def factor_hessian(Q: Tensor) -> Hessian:
    """Factor Q (1 or B, n, n), shifted where it has no inverse; ValueError where it is not positive semidefinite."""
    L, info = torch.linalg.cholesky_ex(Q)
    diagonal = Q.diagonal(dim1=-2, dim2=-1)
    pivots = L.diagonal(dim1=-2, dim2=-1).square()
    small = SINGULAR if Q.dtype == torch.float64 else 2e-6
    shifted = (info > 0) | ~(pivots > small * diagonal).all(-1)
    shift = Q.new_zeros(len(Q), 1)
    if shifted.any():
        top = Q[shifted].abs().amax((-2, -1))
        delta = (DELTA if Q.dtype == torch.float64 else 1e-4) * torch.where(top > 0, top, 1.0)[:, None]
        again, info = torch.linalg.cholesky_ex(Q[shifted] + torch.diag_embed(delta.expand_as(diagonal[shifted])))
        if (info > 0).any():
            where = shifted.nonzero()[info > 0].flatten().tolist()
            raise ValueError(f"qp: Q is not positive semidefinite in problems {where[:5]} of the batch: not convex")
        L[shifted] = again
        shift[shifted] = delta
    return Hessian(L, shift)


@dataclass(frozen=True)
class Condensed:
    """K, q and what they were made of."""

    L: Tensor  # (1 or B, n, n)
    K: Tensor  # (1 or B, r, r)
    q: Tensor  # (B, r)
    z0: Tensor  # (B, n)
    scale: Tensor  # (1 or B, r), 1 for rows of zeros
    delta: Tensor  # (1 or B, 1), H - Q

    def take(self, index: Tensor) -> Condensed:
        """Some problems of the batch."""
        return Condensed(*(take(getattr(self, field.name), index) for field in fields(self)))


def condense(problem: Problem, hessian: Hessian) -> Condensed:
    """The problem seen from its multipliers."""
    V = half_solve(hessian.L, problem.C)
    K = V.mT @ V
    z0 = cholesky_solve(hessian.L, -problem.p.expand(problem.batch, -1))
    q = problem.d - torch.cat([times(problem.A, z0), times(problem.G, z0)], -1)
    scale = K.diagonal(dim1=-2, dim2=-1).sqrt()
    return Condensed(hessian.L, K, q, z0, torch.where(scale > 0, scale, 1.0), hessian.delta)
