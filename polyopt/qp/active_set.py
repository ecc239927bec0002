"""Strictly convex quadratic programs by a dual active set, for batches of small problems.

    minimize 1/2 z'Q z + p'z   subject to   A z = b,   G z <= h

With Q = L L', z0 = -Q^-1 p and x = L'(z - z0) the objective is 1/2 |x|^2 but for a constant, and the constraints are

    C x = b - A z0,  C = A L^-T,        -R x >= G z0 - h,  R = G L^-T.

The equalities fix the part of x in the span of the rows of C, the least solution x_E of C x = b - A z0; in what is
orthogonal to them remains a least distance with rows n = -(R - R E'E) / length, E an orthonormal basis of the span, and
e = (G z0 - h + R x_E) / length: see `polyopt.qp.least_distance`. From its multipliers t come lam = t / length and, by
Q z + p + G'lam + A'nu = 0, C'nu = -(x + R'lam). Redundant equalities are no harm: the pseudo-inverse of C is used.

Source: Goldfarb and Idnani, A numerically stable dual method for solving strictly convex quadratic programs,
Mathematical Programming 27, 1983.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.qp.least_distance import least_distance
from polyopt.qp.linalg import cholesky_solve, half_solve, largest, times, transposed_times
from polyopt.qp.problem import Status

RANK = 1e-11  # of the largest singular value of the equalities
SPANNED = 1e-10  # of the length of a row, for it to lie in the span of the equalities
CONSISTENT = 1e-10  # of the terms of an equality


def goldfarb_idnani(
    Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The solutions z (B, n), multipliers lam (B, m) and nu (B, k), status (B,) and iterations (B,).

    Q (n, n), p (n,), G (m, n), h (m,), A (k, n), b (k,) all have a leading dimension, 1 where the batch shares them, or
    B. The work is done in float64, and the results have the type of p. Each iteration takes in up to 4 rows. No
    gradients flow.

    OPTIMAL: Q z + p + G'lam + A'nu = 0, lam >= 0. INFEASIBLE: z is NaN, and lam >= 0 with G'lam + A'nu = 0 and
    h'lam + b'nu = -1 proves it. ITERATION_LIMIT: all are NaN; ``max_iterations`` was not enough, or rounding errors
    spoiled the result, and a method without active sets may do better.

    ValueError where Q is not positive definite.

    >>> Q, p = torch.eye(2)[None], torch.tensor([[-1.0, -2.0]])
    >>> G, h, A, b = torch.ones(1, 1, 2), torch.tensor([[1.0], [9.0]]), torch.zeros(1, 0, 2), torch.zeros(1, 0)
    >>> z, lam, nu, status, iterations = goldfarb_idnani(Q, p, G, h, A, b, 20)
    >>> z.round(decimals=6).abs(), lam.flatten()
    (tensor([[0., 1.],
            [1., 2.]]), tensor([1., 0.]))
    """
    batch, dtype = max(len(x) for x in (Q, p, G, h, A, b)), p.dtype
    Q, p, G, h, A, b = (x.detach().double() for x in (Q, p, G, h, A, b))
    L, info = torch.linalg.cholesky_ex(Q)
    if bool((info > 0).any()):
        raise ValueError(f"Q of problem {int(info.argmax())} is not positive definite; use the interior point")
    z0 = -cholesky_solve(L, p)
    equalities = _Equalities(
        half_solve(L, A).mT, (b - times(A, z0)).expand(batch, -1), b.abs() + times(A.abs(), z0.abs())
    )
    R = half_solve(L, G).mT
    N = -(R - (R @ equalities.E.mT) @ equalities.E)
    length, whole = (torch.linalg.vector_norm(x, dim=2) for x in (N, R))
    spanned = length <= SPANNED * whole
    length = torch.where(spanned, torch.where(whole > 0, whole, 1.0), length)
    N = torch.where(spanned[:, :, None], 0.0, N / length[:, :, None])
    e = (times(G, z0) - h + times(R, equalities.x)).expand(batch, -1)
    terms = times(G.abs(), z0.abs()) + h.abs() + times(R.abs(), equalities.x.abs())
    e = torch.where(spanned & (e.abs() <= CONSISTENT * terms), 0.0, e) / length
    found = least_distance(N, e, torch.ones_like(e), max_iterations)

    lam = found.t / length
    optimal = (found.status == Status.OPTIMAL)[:, None]
    x = equalities.x + transposed_times(N, found.t)
    nu = -equalities.multipliers(transposed_times(R, lam) + torch.where(optimal, x, 0.0))
    z = z0 + torch.linalg.solve_triangular(L.mT, x[:, :, None], upper=True)[:, :, 0]
    wrong = equalities.wrong[:, None]
    lam, nu = torch.where(wrong, 0.0, lam), torch.where(wrong, -equalities.rest, nu)
    status = torch.where(wrong[:, 0], Status.INFEASIBLE, found.status)
    proof = (status == Status.INFEASIBLE)[:, None]
    value = torch.where(proof, -(h * lam).sum(1, keepdim=True) - (b * nu).sum(1, keepdim=True), 1.0)
    return _answer(z, lam / value, nu / value, status, found.iterations, dtype)


def _answer(z: Tensor, lam: Tensor, nu: Tensor, status: Tensor, iterations: Tensor, dtype: torch.dtype):
    """The results in the type asked for, with NaN for what there is not."""
    solved, lost = (status == Status.OPTIMAL)[:, None], (status == Status.ITERATION_LIMIT)[:, None]
    z = torch.where(solved, z, torch.nan)
    lam, nu = (torch.where(lost, torch.nan, x) for x in (lam, nu))
    return *(x.to(dtype) for x in (z, lam, nu)), status, iterations


class _Equalities:
    """C x = c: C (1 or B, k, n) = U S E with orthonormal rows E, c (B, k), and terms that c was summed from."""

    def __init__(self, C: Tensor, c: Tensor, terms: Tensor):
        U, S, self.E = torch.linalg.svd(C, full_matrices=False)
        used = S > RANK * largest(S)
        self.E = torch.where(used[:, :, None], self.E, 0.0)
        self.half = U * torch.where(used, 1 / S, 0.0)[:, None]  # (1 or B, k, r)
        self.x = transposed_times(self.E, transposed_times(self.half, c))
        U = torch.where(used[:, None], U, 0.0)
        self.rest = c - times(U, transposed_times(U, c))  # what no x reaches
        self.wrong = (largest(self.rest) > CONSISTENT * largest(terms))[:, 0]

    def multipliers(self, y: Tensor) -> Tensor:
        """The least nu (B, k) with C'nu nearest to y (B, n)."""
        return times(self.half, times(self.E, y))
