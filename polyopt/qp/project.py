"""Projections on polyhedral cones and their translates: many points, each on a polyhedron with the same rows.

    minimize |u - u0|^2   subject to   s_i v_i'u >= margin_i,   s_i = +1 or -1

With x = u - u0 this is a least distance (`polyopt.qp.least_distance`): n_i = v_i / |v_i| and signed distances
e_i = (s_i margin_i - v_i'u0) / |v_i|. On its active rows A the solution obeys u = u0 + V_A't and V_A u = c, c_i = s_i
margin_i. The implicit function theorem gives, for the gradient g of a loss by u,

    q = (V_A V_A')^-1 V_A g,   g - V'q by u0,   s q by margin,   t (g - V'q)' - q u' by V,

with q = t = 0 beyond A, and the sum over the batch where V is shared. Where a row is active with multiplier 0, this is
an element of the generalised Jacobian.

Source: Amos and Kolter, OptNet: differentiable optimization as a layer in neural networks, ICML 2017, equations 6 to 8;
Lawson and Hanson, Solving least squares problems, 1974, chapter 23.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.qp.least_distance import least_distance
from polyopt.qp.linalg import outer, times, transposed_times
from polyopt.qp.problem import Status


class Projection(NamedTuple):
    """The points of a batch, without the batch dimension where u0 had none.

    Where ``status`` is OPTIMAL, u - u0 is the sum of lam_i s_i v_i. Where it is INFEASIBLE, u is NaN and lam proves it:
    lam >= 0, the sum of lam_i s_i v_i is 0 and that of lam_i margin_i is 1. At ITERATION_LIMIT both are NaN. Problems
    that are not solved get no gradient, and harm no other.
    """

    u: Tensor  # (B, n)
    lam: Tensor  # (B, m)
    status: Tensor  # (B,), codes of `Status`
    iterations: Tensor  # (B,)


def project(
    u0: Tensor, V: Tensor, signs: Tensor, margin: Tensor | float = 0.0, *, max_iterations: int | None = None
) -> Projection:
    """Project each u0 on the points u with s_i v_i'u >= margin_i.

    u0 is (B, n), or (n,) for one problem; V (m, n), shared by all, or (B, m, n); signs +1 and -1 (m,) or (B, m); margin
    a number, (m,) or (B, m). The work is done in float64, and u has the type of u0. Each iteration takes in up to 4
    rows; there are at most ``max_iterations``, 10 + 2 m if it is None. Gradients flow to u0, V and margin, once.

    ValueError for shapes that do not fit, signs other than +1 and -1, and numbers that are not finite.

    Source: as this file says.

    >>> u0 = torch.tensor([[-1.0, 2.0], [-1.0, -1.0]], dtype=torch.float64)
    >>> project(u0, torch.eye(2, dtype=torch.float64), torch.tensor([1.0, -1.0]), margin=0.5).u
    tensor([[ 0.5000, -0.5000],
            [ 0.5000, -1.0000]], dtype=torch.float64)
    """
    points, rows, signs, margin = _read(u0, V, signs, margin)
    limit = 10 + 2 * rows.shape[1] if max_iterations is None else max_iterations
    with torch.autocast(points.device.type, enabled=False):
        u, lam, status, iterations = _Project.apply(points.double(), rows.double(), signs, margin, limit)
    found = Projection(u.to(u0.dtype), lam.to(u0.dtype), status, iterations)
    return found if u0.dim() == 2 else Projection(*(x[0] for x in found))


def _read(u0: Tensor, V: Tensor, signs: Tensor, margin: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u0 (B, n), V (1 or B, m, n), signs and margin (B, m), the last two in float64; ValueError for anything else."""
    if not isinstance(u0, Tensor) or not u0.is_floating_point() or u0.dim() not in (1, 2):
        raise ValueError(f"u0 is {_about(u0)}; project takes a tensor (B, n) or (n,) of floats")
    points = u0 if u0.dim() == 2 else u0[None]
    batch, n = points.shape
    if not isinstance(V, Tensor) or V.dim() not in (2, 3) or V.shape[-1] != n or (V.dim() == 3 and len(V) != batch):
        raise ValueError(
            f"V is {_about(V)}; with u0 of shape {tuple(u0.shape)} it must be (m, {n}) or ({batch}, m, {n})"
        )
    m = V.shape[-2]
    like = {"dtype": torch.float64, "device": u0.device}
    wanted = [("signs", torch.as_tensor(signs, **like)), ("margin", torch.as_tensor(margin, **like))]
    for name, x in wanted:
        shapes = [(m,), (batch, m)] + [()] * (name == "margin")
        if tuple(x.shape) not in shapes:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be one of {', '.join(map(str, shapes))}")
    signs, margin = (x.expand(batch, m) for _, x in wanted)
    for name, x in (("u0", u0), ("V", V), ("margin", margin)):
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} holds {int((~torch.isfinite(x)).sum())} numbers that are not finite; remove them")
    if not bool((signs.abs() == 1).all()):
        wrong = signs[signs.abs() != 1][0].item()
        raise ValueError(f"signs holds {wrong:g}; a sign is +1 or -1, and a row without a sign has to be left out")
    return points, V if V.dim() == 3 else V[None], signs, margin


def _about(x: object) -> str:
    return f"a {x.dtype} tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


class _Project(torch.autograd.Function):
    """u, lam, status and iterations, in float64, for u0 (B, n), V (1 or B, m, n), s and margin (B, m)."""

    @staticmethod
    def forward(ctx, u0, V, s, margin, limit):
        length = torch.linalg.vector_norm(V, dim=2)
        length = torch.where(length > 0, length, 1.0)
        N = V / length[:, :, None]
        found = least_distance(N, (s * margin - times(V, u0)) / length, s, limit)
        optimal = (found.status == Status.OPTIMAL)[:, None]
        x = transposed_times(N, torch.where(optimal, found.t, 0.0))
        t = found.t / length
        ctx.save_for_backward(N, length, s, u0 + x, torch.where(optimal, t, 0.0), found.rows, found.L, optimal)
        lam = s * t
        proved = (found.status == Status.INFEASIBLE)[:, None]
        lam = torch.where(proved, lam / (lam * margin).sum(1, keepdim=True), torch.where(optimal, lam, torch.nan))
        ctx.mark_non_differentiable(lam, found.status, found.iterations)
        return torch.where(optimal, u0 + x, torch.nan), lam, found.status, found.iterations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g, *_):
        N, length, s, u, t, rows, L, optimal = ctx.saved_tensors
        g = torch.where(optimal, g, 0.0)
        Ng = torch.nn.functional.pad(times(N, g), (0, 1))
        held = torch.cholesky_solve(Ng.gather(1, rows)[:, :, None], L)[:, :, 0]
        q = torch.zeros_like(Ng).scatter(1, rows, held)[:, :-1]
        free = g - transposed_times(N, q)
        q = q / length
        by_V = outer(t, free, -q, u, N.shape) if ctx.needs_input_grad[1] else None
        return free, by_V, None, s * q if ctx.needs_input_grad[3] else None, None
