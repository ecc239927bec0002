"""The Newton systems of the interior point, reduced to the smaller of two sizes.

With w = lam / s, a step that makes the linear equations hold and changes s lam by t satisfies

    [ Q   G'   A' ] [ dz   ]     [ r_d       ]      r_d = -(Q z + p + G'lam + A'nu),
    [ G  -1/w  0  ] [ dlam ]  =  [ r_p - t/lam ]    r_p = h - G z - s,   r_e = b - A z,
    [ A   0    0  ] [ dnu  ]     [ r_e       ]      ds  = (t - s dlam) / lam

`Primal` eliminates dlam, then dz, and is left with n x n (and k x k):

    M = Q + G' diag(w) G + rho A'A,     M dz + A'dnu = r_d + G'(w (r_p - t/lam)) + rho A' r_e,     A dz = r_e

`Dual` starts from the condensed problem, s = q + K lam, in which z has been eliminated beforehand, and is left with
m x m: (K + diag(1/w)) dlam = -(q + K lam - s) + t/lam. Nothing but the diagonal changes between iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyopt.qp.condense import Condensed
from polyopt.qp.linalg import cholesky_solve, half_solve, largest, take, times, transposed_times
from polyopt.qp.problem import Problem


def shift(x: Tensor) -> Tensor:
    """x moved up, all entries alike, until the least is 1."""
    return x + (1 - x.amin(-1, keepdim=True)).clamp(min=0)


class Dual:
    """s = q + K lam, in units in which K has a diagonal of ones at most, and q a largest entry of 1."""

    def __init__(self, K: Tensor, q: Tensor):
        self.K, self.q = K, q

    @classmethod
    def of(cls, condensed: Condensed, equalities: int) -> tuple[Dual, Tensor]:
        """The system of the inequalities, and the unit of lam (B, m)."""
        K, q = reduce(condensed, equalities)
        scale = condensed.scale[:, equalities:]
        K, q = K / (scale[:, :, None] * scale[:, None, :]), q / scale
        top = largest(q)
        top = torch.where(top > 0, top, 1.0)
        return cls(K, q / top), top / scale

    def take(self, index: Tensor) -> Dual:
        """Some problems of the batch."""
        return Dual(take(self.K, index), self.q[index])

    def start(self) -> tuple[Tensor, Tensor]:
        """lam - s solves the system for w = 1; then both are moved to where they are positive."""
        one = torch.ones_like(self.q)
        (_, x) = self.factor(one, one, self.q.new_zeros(len(self.q), 1)).direction((self.q,), torch.zeros_like(one))
        return shift(-x), shift(x)

    def off(self, point: tuple[Tensor, ...]) -> tuple[tuple[Tensor], Tensor]:
        """q + K lam - s, and its largest entry."""
        s, lam = point
        off = self.q + transposed_times(self.K, lam) - s
        return (off,), largest(off)

    def factor(self, s: Tensor, lam: Tensor, regularisation: Tensor) -> DualFactored:
        """K + diag(s / lam) = L L'."""
        M = self.K.expand(len(self.q), -1, -1).clone()
        M.diagonal(dim1=-2, dim2=-1).add_(s / lam + regularisation)
        L, info = torch.linalg.cholesky_ex(M)
        return DualFactored(s, lam, L, info > 0)


@dataclass(frozen=True)
class DualFactored:
    """`Dual` at a point."""

    s: Tensor
    lam: Tensor
    L: Tensor
    failed: Tensor

    def direction(self, off: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, Tensor]:
        """ds, dlam."""
        dlam = cholesky_solve(self.L, target / self.lam - off[0])
        return (target - self.s * dlam) / self.lam, dlam


def reduce(condensed: Condensed, equalities: int) -> tuple[Tensor, Tensor]:
    """K (1 or B, m, m) and q (B, m) of the inequalities, the multipliers of the equalities eliminated."""
    k, K, q = equalities, condensed.K, condensed.q
    if not k:
        return K, q
    block = K[:, :k, :k].clone()
    ridge(block)
    L = torch.linalg.cholesky_ex(block)[0]
    half = half_solve(L, K[:, k:, :k])
    return K[:, k:, k:] - half.mT @ half, q[:, k:] - times(K[:, k:, :k], cholesky_solve(L, q[:, :k]))


def multipliers(condensed: Condensed, lam: Tensor) -> Tensor:
    """y = [nu; lam] (B, r), with nu from lam (B, m): K_nu nu = -(q_nu + K_nu,lam lam)."""
    k = condensed.q.shape[1] - lam.shape[1]
    if not k:
        return lam
    block = condensed.K[:, :k, :k].clone()
    ridge(block)
    right = condensed.q[:, :k] + times(condensed.K[:, :k, k:], lam)
    return torch.cat([-cholesky_solve(torch.linalg.cholesky_ex(block)[0], right), lam], -1)


def ridge(M: Tensor, share: float = 1e-11) -> None:
    """Add a share of the mean diagonal to a matrix that may be singular."""
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    share = max(share, 1e3 * torch.finfo(M.dtype).eps)
    diagonal.add_(share * diagonal.mean(-1, keepdim=True) + torch.finfo(M.dtype).tiny)


class Primal:
    """The system in z; the problem should be scaled (`polyopt.qp.scaling`)."""

    def __init__(self, problem: Problem, batch: int):
        self.problem, self.batch = problem, batch
        self.square = problem.A.mT @ problem.A

    def take(self, index: Tensor) -> Primal:
        """Some problems of the batch."""
        return Primal(self.problem.take(index), len(index))

    def start(self) -> tuple[Tensor, ...]:
        """The solution of the system for w = 1 from nothing; then s and lam are moved to where they are positive."""
        P, B = self.problem, self.batch
        one = P.h.new_ones(B, P.inequalities)
        off = (-P.p.expand(B, -1), P.h.expand(B, -1), P.b.expand(B, -1))
        factored = self.factor(one, one, P.h.new_full((B, 1), torch.finfo(one.dtype).eps))
        _, lam, z, nu = factored.direction(off, torch.zeros_like(one))
        return shift(-lam), shift(lam), z, nu

    def off(self, point: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """r_d, r_p, r_e, and the largest entry, each relative to the terms that it adds up."""
        P, (s, lam, z, nu) = self.problem, point
        Qz, pull, Gz, Az = transposed_times(P.Q, z), P.pull(torch.cat([nu, lam], -1)), times(P.G, z), times(P.A, z)
        off = (-(Qz + P.p + pull), P.h - Gz - s, P.b - Az)
        terms = ((P.p, Qz, pull), (P.h, Gz), (P.b, Az))
        units = (1 + sum(largest(x) for x in added) for added in terms)
        return off, torch.cat([largest(x) / unit for x, unit in zip(off, units, strict=True)], -1).amax(
            -1, keepdim=True
        )

    def factor(self, s: Tensor, lam: Tensor, regularisation: Tensor) -> PrimalFactored:
        """M = L L' and A M^-1 A' = S S'."""
        P, w = self.problem, lam / s
        M = P.Q + weighted_gram(P.G, w)
        top = M.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        if P.equalities:
            M += top[..., None] * self.square
        diagonal = M.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(regularisation * (1 + diagonal))
        L, info = torch.linalg.cholesky_ex(M)
        half = half_solve(L, P.A.expand(len(M), -1, -1))
        S = half.mT @ half
        ridge(S, 1e-8)  # what this leaves of the equations is small, and taken up by the next iteration
        S, bad = torch.linalg.cholesky_ex(S)
        return PrimalFactored(P, lam, w, top, L, S, (info > 0) | (bad > 0))


@dataclass(frozen=True)
class PrimalFactored:
    """`Primal` at a point."""

    problem: Problem
    lam: Tensor
    w: Tensor
    rho: Tensor
    L: Tensor
    S: Tensor
    failed: Tensor

    def direction(self, off: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, ...]:
        """ds, dlam, dz, dnu."""
        P, (off_d, off_p, off_e) = self.problem, off
        moved = off_p - target / self.lam
        right = off_d + transposed_times(P.G, self.w * moved)
        if P.equalities:
            right = right + self.rho * transposed_times(P.A, off_e)
            dnu = cholesky_solve(self.S, times(P.A, cholesky_solve(self.L, right)) - off_e)
            dz = cholesky_solve(self.L, right - transposed_times(P.A, dnu))
        else:
            dnu, dz = off_e, cholesky_solve(self.L, right)
        ds = off_p - times(P.G, dz)
        return ds, -self.w * (ds - target / self.lam), dz, dnu


def weighted_gram(G: Tensor, w: Tensor) -> Tensor:
    """G' diag(w) G, of shape (B, n, n), for G (1 or B, m, n) and w (B, m)."""
    return (G * w[..., None]).mT @ G
