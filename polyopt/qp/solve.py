"""`solve`: the solutions of a batch, with a status each and proofs where there are none."""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.qp.certificates import farkas, ray
from polyopt.qp.core import Answer, Method, check_method
from polyopt.qp.problem import Problem, Solution, Status, read
from polyopt.qp.shares import answers, joined


def solve(
    Q: Tensor,
    p: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    *,
    method: Method = "auto",
    max_iterations: int = 60,
) -> Solution:
    """Solve the problems min 1/2 z'Qz + p'z subject to G z <= h and A z = b, all at once.

    Q is (n, n), positive semidefinite (only its symmetric part matters), p (n,), G (m, n), h (m,), A (k, n), b (k,),
    and any of them with a batch dimension B in front; one without it is shared by all problems. G and h, and A and b,
    may be None. At least float32 is used, and the finest precision given; float64 gives solutions to machine precision.

    ``method`` "auto" chooses by shape, and daqp for small problems where it is installed; "active-set" begins with the
    dual active set, for which Q must be positive definite; "interior" is the interior point for all, whose iterations
    ``max_iterations`` bounds. No gradients flow; see `QPLayer`. ValueError for shapes that do not fit, numbers that are
    not finite, and Q that is not positive semidefinite. Problems without a solution say so in their status, with a
    proof, see `Solution`, and do no harm to the others.

    Source: Amos and Kolter, OptNet, ICML 2017, section 3.1; the parts of the method are listed in `polyopt.qp.core`.

    >>> Q, p = torch.eye(2, dtype=torch.float64), torch.tensor([-2.0, -2.0], dtype=torch.float64)
    >>> G, h = torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0], [9.0]], dtype=torch.float64)
    >>> solution = solve(Q, p, G, h)  # two problems, which differ in h
    >>> solution.z
    tensor([[0.5000, 0.5000],
            [2.0000, 2.0000]], dtype=torch.float64)
    >>> solution.lam, solution.names
    (tensor([[1.5000],
            [0.0000]], dtype=torch.float64), ['optimal', 'optimal'])
    """
    check_method(method)
    problem, batched = read(Q, p, G, h, A, b)
    with torch.no_grad(), torch.autocast(problem.p.device.type, enabled=False):
        problem = problem.symmetric()
        solution = finish(problem, answers(problem, max_iterations, method))
    return solution if batched else solution.squeeze()


def finish(problem: Problem, found: list[Answer]) -> Solution:
    """The solution of the answers to a batch, with proofs for the problems that were not solved."""
    k, (z, lam, nu, solved, iterations) = problem.equalities, joined(found, "z", "lam", "nu", "solved", "iterations")
    s = problem.h - problem.apply(z)[:, k:]
    s = torch.where(lam > 0, s, s.clamp(min=0))
    status = torch.where(solved, Status.OPTIMAL, Status.ITERATION_LIMIT)
    directions = torch.full_like(z, torch.nan)
    left = (~solved).nonzero()[:, 0]
    if len(left):
        y, holds = farkas(problem.take(left))
        where = left[holds]
        status[where] = Status.INFEASIBLE
        nu[where], lam[where] = y[holds][:, :k].to(z.dtype), y[holds][:, k:].to(z.dtype)
        left = left[~holds]
    if len(left):
        x, holds = ray(problem.take(left))
        where = left[holds]
        status[where] = Status.UNBOUNDED
        directions[where] = x[holds].to(z.dtype)
        nu[where], lam[where] = torch.nan, torch.nan
    pointless = (status == Status.INFEASIBLE) | (status == Status.UNBOUNDED)
    z[pointless], s[pointless] = torch.nan, torch.nan
    residual = torch.where(pointless, torch.nan, problem.residual(z, torch.cat([nu, lam], -1)))
    return Solution(z, lam, nu, s, status, iterations, residual, directions)
