"""Projections with few rows, all at once by pivoting: a handful of operations on the whole batch.

The multipliers t of ``min |x - x0|^2 subject to A x >= c`` solve, with K = A A' and e = c - A x0, the problem

    t >= 0,   w = K t - e >= 0,   t w = 0                                                                          (1)

and ``x = x0 + A't``. A set F of rows is guessed; ``K_FF t_F = e_F`` and t = 0 beyond F leave some t < 0 in F or w < 0
beyond. The former leave F all at once, and where there are none, the least of the latter joins. This may go round in
circles; so after a few iterations only the last wrong row changes sides (Murty), which ends if K is positive definite.
A small ridge makes it so. Where there is no solution, the ridge is all that bounds t, and t proves it: t >= 0, A't = 0
and e't > 0. What this does not decide is for `polyopt.qp.project`.

Sources: Portugal, Judice and Vicente, A comparison of block pivoting and interior-point algorithms for linear least
squares problems with nonnegative variables, Mathematics of Computation 63, 1994; Murty, Note on a Bard-type scheme for
solving the complementarity problem, Opsearch 11, 1974.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.qp import Status

AT_ONCE = 5  # iterations
PIVOTS = 30
RIDGE = 1e-14  # of the squared length of rows
EXACT = 1e-13  # of the terms of (1)
LONG = 1e4  # times the largest e, for multipliers that rounding errors may have made
FAR = 1e8  # times as far as the farthest violated row a feasible point would be, for a proof that there is none
SMALL = 1e-9  # of the largest multiplier of a proof


def pivoted(x: Tensor, A: Tensor, c: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points (B, n) and multipliers (B, m) for x0 (B, n), A (B, m, n) and c (B, m), and codes of `Status`, (B,).

    Rows of A have length one, or are zero with a negative c. ``inside`` (B, m) is the first guess of F.

    >>> x, A = torch.tensor([[-1.0, 2.0]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)[None]
    >>> pivoted(x, A, torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([[True, True]]))[::2]
    (tensor([[0.5000, 2.0000]], dtype=torch.float64), tensor([0]))
    """
    K, e = A @ A.mT, c - (A @ x[:, :, None])[:, :, 0]
    eye, most = torch.eye(K.shape[1], dtype=K.dtype, device=K.device), abs(e).amax(1, keepdim=True)
    for k in range(PIVOTS):
        M = torch.where(inside[:, :, None] & inside[:, None], K, eye) + RIDGE * eye
        t = torch.linalg.solve_ex(M, (e * inside)[:, :, None])[0]
        w = (K @ t)[:, :, 0] - e
        t = t[:, :, 0]
        terms = most + abs(t).sum(1, keepdim=True)
        wrong = torch.where(inside, t, w) < -EXACT * terms
        if not wrong.any():
            break
        leave = inside & wrong
        least = torch.where(inside, torch.inf, w).argmin(1, keepdim=True)
        joins = wrong.gather(1, least) & ~leave.any(1, keepdim=True)
        together = inside & ~leave | torch.zeros_like(inside).scatter(1, least, joins)
        last = wrong.flip(1).cumsum(1).flip(1) == 1
        inside = together if k < AT_ONCE else inside ^ (wrong & last)
    sound = ((abs(w) <= EXACT * terms) | ~inside).all(1) & ~wrong.any(1)
    solved = sound & (terms <= LONG * most)[:, 0]
    rest = torch.where((inside & solved[:, None]), -w, 0.0)  # of the ridge
    t = (t + torch.linalg.solve_ex(M, rest[:, :, None])[0][:, :, 0]).clamp(min=0)
    x, status = x + (A.mT @ t[:, :, None])[:, :, 0], torch.where(solved, Status.OPTIMAL, Status.ITERATION_LIMIT)
    if len(left := (~solved).nonzero()[:, 0]):
        proof = torch.linalg.solve_ex(M[left], t[left, :, None])[0][:, :, 0]  # only what K makes zero remains
        proof = proof * (proof > SMALL * proof.amax(1, keepdim=True))
        apart = torch.linalg.vector_norm((A[left].mT @ proof[:, :, None])[:, :, 0], dim=1) * most[left, 0]
        proved = FAR * apart < (e[left] * proof).sum(1)
        t[left], status[left] = proof, torch.where(proved, Status.INFEASIBLE, Status.ITERATION_LIMIT)
    return x, t, status
