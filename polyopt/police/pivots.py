"""Projections with few rows, all at once by pivoting: a handful of operations on the whole batch.

The multipliers t of ``min |x - x0|^2 subject to A x >= c`` solve, with K = A A' and e = c - A x0, the problem

    t >= 0,   w = K t - e >= 0,   t w = 0                                                                          (1)

and ``x = x0 + A't``. A set F of rows is guessed; ``K_FF t_F = e_F`` and t = 0 beyond F leave some t < 0 in F or w < 0
beyond. The former leave F all at once, and where there are none, the least of the latter joins. What this does not
solve in a few iterations, because it has no solution or rows that depend on each other, is for `polyopt.qp.project`.

Source: Portugal, Judice and Vicente, A comparison of block pivoting and interior-point algorithms for linear least
squares problems with nonnegative variables, Mathematics of Computation 63, 1994.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIVOTS = 10
EXACT = 1e-13  # of the terms of (1)
LONG = 1e4  # times the largest e, for multipliers that rounding errors may have made


def pivoted(x: Tensor, A: Tensor, c: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points (B, n) and multipliers (B, m) for x0 (B, n), A (B, m, n) and c (B, m), and which are solved, (B,) bool.

    Rows of A have length one, or are zero with a negative c. ``inside`` (B, m) is the first guess of F.

    >>> x, A = torch.tensor([[-1.0, 2.0]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)[None]
    >>> pivoted(x, A, torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([[True, True]]))[::2]
    (tensor([[0.5000, 2.0000]], dtype=torch.float64), tensor([True]))
    """
    K, e = A @ A.mT, c - (A @ x[:, :, None])[:, :, 0]
    eye, most = torch.eye(K.shape[1], dtype=K.dtype, device=K.device), abs(e).amax(1, keepdim=True)
    for _ in range(PIVOTS):
        M = torch.where(inside[:, :, None] & inside[:, None], K, eye)
        t = torch.linalg.solve_ex(M, (e * inside)[:, :, None])[0]
        w = (K @ t)[:, :, 0] - e
        t = t[:, :, 0]
        terms = most + abs(t).sum(1, keepdim=True)
        wrong = torch.where(inside, t, w) < -EXACT * terms
        sound = (abs(w) <= EXACT * terms) | ~inside
        solved = (sound & ~wrong).all(1) & (terms <= LONG * most)[:, 0]
        if solved.all():
            break
        leave = inside & wrong
        least = torch.where(inside, torch.inf, w).argmin(1, keepdim=True)
        joins = wrong.gather(1, least) & ~leave.any(1, keepdim=True)
        inside = (inside & ~leave).scatter(1, least, joins)
    t = t.clamp(min=0)
    return x + (A.mT @ t[:, :, None])[:, :, 0], t, solved
