"""A quadratic program as a layer: its solution, differentiable in every argument.

At the solution, the active rows C_a, those with positive multipliers, hold with equality and stay active nearby, so
that

    Q z + p + C_a' y_a = 0,   C_a z = d_a

defines z as a function of all arguments (implicit function theorem). With g = dl/dz, equations 7 and 8 of the paper
become

    [ Q  C_a' ] [d_z]     [g]        dl/dp = d_z                         dl/dd = -d_y
    [ C_a  0  ] [d_y] = - [0],       dl/dQ = (d_z z' + z d_z') / 2       dl/dC = d_y z' + y d_z'

and 0 for the other rows; a shared argument collects the sum over the batch. The system is the one that the solution was
polished with, already factored. The paper's system (7), with D(lam) and D(G z - h) in it, is the same where each row
has either a multiplier or slack. A row with neither is left out here: the derivative is that of the nearby problems in
which its slack is positive, an element of Clarke's subdifferential.

Source: Amos and Kolter, OptNet, ICML 2017, section 3, Theorem 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polyopt.qp.core import Adjoint, Method, check_method, spread
from polyopt.qp.linalg import outer, transposed_times
from polyopt.qp.problem import Problem, read
from polyopt.qp.shares import answers, at_once, joined

REFINEMENTS = 8


class QPLayer(nn.Module):
    """z = argmin 1/2 z'Qz + p'z subject to G z <= h and A z = b, differentiable in all six arguments.

    Arguments, methods and errors are those of `polyopt.qp.solve`; z is (B, n), or (n,) where no argument has a batch
    dimension. Under autocast, and for half precision, the problem is solved in float32 all the same. Under
    torch.compile the layer is a graph break.

    Where a problem has no solution, or none was found, its z is NaN, and it gives no gradient to anything, so that
    ``loss[~z.isnan().any(-1)].sum()`` goes on without it; `polyopt.qp.solve` says what is wrong. Second derivatives are
    not there: a second backward pass raises RuntimeError.

    >>> p = torch.tensor([[-2.0, -2.0]], dtype=torch.float64, requires_grad=True)
    >>> ones = torch.ones(1, 2, dtype=torch.float64)
    >>> z = QPLayer()(torch.eye(2, dtype=torch.float64), p, ones, ones[0, :1])  # onto z1 + z2 <= 1
    >>> z[0, 0].backward()
    >>> z.detach(), p.grad
    (tensor([[0.5000, 0.5000]], dtype=torch.float64), tensor([[-0.5000,  0.5000]], dtype=torch.float64))
    """

    def __init__(self, method: Method = "auto", max_iterations: int = 60):
        super().__init__()
        check_method(method)
        self.method, self.max_iterations = method, max_iterations

    @torch.compiler.disable
    def forward(
        self,
        Q: Tensor,
        p: Tensor,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
    ) -> Tensor:
        """The solutions."""
        problem, batched = read(Q, p, G, h, A, b)
        with torch.autocast(problem.p.device.type, enabled=False):
            z = _Argmin.apply((self.max_iterations, self.method), *problem.tensors)
        return z if batched else z[0]


class _Argmin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, options, *tensors):
        problem = Problem(*tensors).symmetric()
        found = answers(problem, *options)
        z, lam, nu, ctx.solved = joined(found, "z", "lam", "nu", "solved")
        if any(ctx.needs_input_grad):
            ctx.adjoints, ctx.sizes = [one.adjoint for one in found], [len(one.z) for one in found]
        # the arguments only so that torch notices if they are changed in place before the backward pass
        ctx.save_for_backward(z, lam, nu, *tensors)
        ctx.shapes = [x.shape for x in tensors]
        return torch.where(ctx.solved[:, None], z, torch.nan)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        good = ctx.solved[:, None]
        z, lam, nu = (torch.where(good, x, 0) for x in ctx.saved_tensors[:3])
        with torch.autocast(z.device.type, enabled=False):
            shares = torch.where(good, g, 0).split(ctx.sizes)
            steps = at_once(lambda adjoint, g: differentials(adjoint, g, lam.shape[1]), ctx.adjoints, shares)
            dz, dlam, dnu = (torch.where(good, torch.cat(x), 0) for x in zip(*steps, strict=True))
            makers = (
                lambda shape: outer(dz / 2, z, z / 2, dz, shape),
                lambda shape: total(dz, shape),
                lambda shape: outer(dlam, z, lam, dz, shape),
                lambda shape: total(-dlam, shape),
                lambda shape: outer(dnu, z, nu, dz, shape),
                lambda shape: total(-dnu, shape),
            )
            needed = zip(makers, ctx.shapes, ctx.needs_input_grad[1:], strict=True)
            return None, *(make(shape) if need else None for make, shape, need in needed)


def differentials(adjoint: Adjoint, g: Tensor, inequalities: int) -> tuple[Tensor, Tensor, Tensor]:
    """d_z (B, n), d_lam (B, m) and d_nu (B, k) of equation 7, for g (B, n)."""
    problem, system, L, scaling = adjoint.problem, adjoint.system, adjoint.condensed.L, adjoint.scaling
    k = problem.equalities
    g = g * scaling.D
    dz, dy = system.solve(problem, L, -g, None)
    inexact = system.regularised.any() or (adjoint.condensed.delta > 0).any()
    for _ in range(REFINEMENTS if inexact else 1):
        off = -g - transposed_times(problem.Q, dz) - problem.pull(dy)
        more = system.solve(problem, L, off, -problem.apply(dz))
        dz, dy = dz + more[0], dy + more[1]
    dy = spread(dy, adjoint.rows, k, inequalities)
    return dz * scaling.D * scaling.c, dy[:, k:] * scaling.E, dy[:, :k] * scaling.F


def total(x: Tensor, shape: torch.Size) -> Tensor:
    """x (B, ...), or its sum over the batch where the argument is shared."""
    return x if shape[0] == len(x) else x.sum(0, keepdim=True)
