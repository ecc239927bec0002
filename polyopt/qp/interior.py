"""Mehrotra's predictor-corrector method on a batch, each problem with its own steps and its own end.

An iteration factors the Newton system of (4) at (z, s, lam, nu) once and solves it twice (equations 9 and 10):

    affine:      aims at s_i lam_i = 0;  the step alpha that it allows gives  sigma = (mu(alpha) / mu)^3
    corrected:   aims at s_i lam_i = sigma mu - ds_i dlam_i (affine)

and goes a share of the way to the boundary s, lam >= 0, with one step length for all variables. The Newton systems are
in `polyopt.qp.newton`. Solved problems leave the batch; whether there are any is asked in each iteration on a CPU, and
in every fourth elsewhere, as the question makes the host wait.

Source: Mattingley and Boyd, CVXGEN: a code generator for embedded convex optimization, Optimization and Engineering 13,
2012, section 5; Amos and Kolter, OptNet, 2017, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from polyopt.qp.linalg import largest

SHARE = 0.99  # of the way to the boundary
PATIENCE = 15  # iterations without progress


class Newton(Protocol):
    """The linear equations of a batch; a point is (s, lam, *others), ``off`` what its equations lack: all (B, size)."""

    def start(self) -> tuple[Tensor, ...]:
        """A first point, with s, lam > 0."""
        ...

    def off(self, point: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """What the equations lack at a point, and how much that is beside what they add up: (B, 1)."""
        ...

    def factor(self, s: Tensor, lam: Tensor, regularisation: Tensor) -> Factored:
        """Factor the Newton system."""
        ...

    def take(self, index: Tensor) -> Newton:
        """Some problems of the batch."""
        ...


class Factored(Protocol):
    """The Newton system at a point."""

    failed: Tensor  # (B,)

    def direction(self, off: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, ...]:
        """The step after which the linear equations hold and s lam has changed by ``target``, to first order."""
        ...


@dataclass(frozen=True)
class Point:
    """Where the method ended."""

    values: tuple[Tensor, ...]  # s, lam and the others, each (B, size)
    iterations: Tensor  # (B,)


def interior(newton: Newton, limit: int) -> Point:
    """Run the method from its start for at most ``limit`` iterations."""
    point = newton.start()
    batch, device, dtype = len(point[0]), point[0].device, point[0].dtype
    precision = 1e-9 if dtype == torch.float64 else 1e-4
    least = torch.finfo(dtype).eps
    final = tuple(x.clone() for x in point)
    iterations = torch.zeros(batch, dtype=torch.int64, device=device)
    index = torch.arange(batch, device=device)
    regularisation = point[0].new_full((batch, 1), least)
    best, waited = point[0].new_full((batch,), torch.inf), torch.zeros_like(index)
    wait = 1 if device.type == "cpu" else 4
    for iteration in range(limit + 1):
        off, error = newton.off(point)
        error = torch.maximum(error, (point[0] * point[1]).mean(-1, keepdim=True))[:, 0]
        waited = torch.where(error < 0.9 * best, 0, waited + 1)
        best = torch.minimum(best, error)
        going = (error > precision) & (waited < PATIENCE) & (regularisation[:, 0] < 1e-2)
        if iteration % wait == 0 or iteration == limit:
            for whole, part in zip(final, point, strict=True):
                whole[index] = part
            kept = going.nonzero()[:, 0]
            if not len(kept) or iteration == limit:
                break
            if len(kept) <= 0.8 * len(index):
                newton, point, off = newton.take(kept), tuple(x[kept] for x in point), tuple(x[kept] for x in off)
                index, regularisation, going = index[kept], regularisation[kept], going[kept]
                best, waited = best[kept], waited[kept]
        step, regularisation = advance(newton, point, off, regularisation)
        # a problem that is solved stays where it is until it leaves
        point = tuple(torch.where(going[:, None], x + dx, x) for x, dx in zip(point, step, strict=True))
        iterations[index] += going
    return Point(final, iterations)


def advance(
    newton: Newton, point: tuple[Tensor, ...], off: tuple[Tensor, ...], regularisation: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The step from a point, and the regularisation of the next; where the factor failed, no step and a larger one."""
    s, lam = point[:2]
    mu = (s * lam).mean(-1, keepdim=True)
    factored = newton.factor(s, lam, regularisation)
    ds, dlam = factored.direction(off, -s * lam)[:2]
    alpha = reach(s, lam, ds, dlam).clamp(max=1)
    sigma = (((s + alpha * ds) * (lam + alpha * dlam)).mean(-1, keepdim=True) / mu) ** 3
    direction = factored.direction(off, sigma * mu - ds * dlam - s * lam)
    alpha = (SHARE * reach(s, lam, *direction[:2])).clamp(max=1)
    finite = torch.isfinite(torch.cat([largest(dx) for dx in direction], -1)).all(-1)
    failed = (factored.failed | ~finite)[:, None]
    step = tuple(torch.where(failed, 0, alpha * dx) for dx in direction)
    return step, torch.where(failed, 100 * regularisation, regularisation)


def reach(s: Tensor, lam: Tensor, ds: Tensor, dlam: Tensor) -> Tensor:
    """How far one can go until a component of s or lam is 0: (B, 1)."""
    ratios = torch.cat([-s / ds, -lam / dlam], -1)
    return torch.where(torch.cat([ds, dlam], -1) < 0, ratios, torch.inf).amin(-1, keepdim=True)
