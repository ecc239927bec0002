"""The least change of units that puts regions on given sides: projections on cones with a margin, in batches.

For a unit u = (w, b) and a sign s_i for each region i,

    c(u, s) = min |u' - u|^2   subject to   s_i u' v~ >= margin   for all points v of region i                  (1)

A region has as many constraints as vertices, but few bind. Those are found by rows: (1) with the point of each region
that the unit violates most, then also with those that the solution violates most, and so on until it violates none and
solves (1). The rows so far are a relaxation, so a Farkas proof that they have no solution, ``lam >= 0`` with ``sum
lam_p s_p v~_p = 0``, proves that (1) has none, for any sign vector that agrees with s, or with -s, on the regions of
these rows: the hulls of both sides have a point in common. Where s_i is 0, region i asks for nothing.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, section 2.6; Lawson and Hanson, Solving least squares problems, 1974,
chapter 23.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.police.hulls import Hull, Stack, stack
from polyopt.police.pivots import pivoted
from polyopt.qp import Status, solve
from polyopt.qp.project import project

VIOLATED = 1e-12  # of the terms that a pre-activation is summed from
ACCEPTED = 1e-9  # of the same, where rounding errors allow no better
SAME = 1e-14  # of the same, between pre-activations of the same point
TAKEN = 8  # rows at once
PATIENCE = 30  # rounds, after which they count as accepted
MOST_ROUNDS = 500
ZERO = 1e-14  # of the terms that add up to it
POLISHED = 1e-4  # of all its weights, by which a proof may change


class Projections(NamedTuple):
    """The solutions of (1); where there is none, u is NaN, the cost infinite, and ``proof`` holds Farkas weights."""

    u: Tensor  # (B, n + 1)
    cost: Tensor  # (B,)
    status: Tensor  # (B,), codes of `polyopt.qp.Status`
    proof: Tensor  # (B, N): how much weight the rows of each region have in the proof


def projections(regions: Sequence[Hull] | Stack, u: Tensor, signs: Tensor, margin: float) -> Projections:
    """Project units u (B, n + 1) for signs (B, N), +1, -1 or 0, in float64.

    >>> from polyopt import Box
    >>> from polyopt.police.hulls import hulls
    >>> regions = hulls([Box([0.0], [1.0]), Box([3.0], [4.0])])
    >>> units = torch.tensor([[1.0, 0.0], [1.0, -2.0]], dtype=torch.float64)  # x and x - 2
    >>> found = projections(regions, units, torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64), 0.5)
    >>> found.u
    tensor([[ 0.5000, -1.0000],
            [ 1.0000, -2.0000]], dtype=torch.float64)
    """
    rounds = _Rounds(regions, u, signs, margin)
    for _ in range(MOST_ROUNDS):
        if not len(rounds.open):
            break
        rounds.step()
    return rounds.found()


def alone(regions: Sequence[Hull] | Stack, u: Tensor, margin: float) -> Tensor:
    """What each side of each region costs at least, (B, N, 2), side +1 first: the distance to one point's halfspace.

    If u is the projection for some of the regions, at the cost c, no projection for these and one more costs less than
    c and that region's entry: all units allowed are in the halfspace of which u is the nearest point.
    """
    both = u.new_tensor([1.0, -1.0]).repeat_interleave(len(u))[:, None].expand(-1, len(regions))
    v = stack(regions).lowest(u.repeat(2, 1), both)
    missing = (margin - both * (u.repeat(2, 1)[:, None] * v).sum(2)).clamp(min=0)
    return (missing.square() / v.square().sum(2)).unflatten(0, (2, -1)).movedim(0, 2)


class _Rounds:
    """The problems that still violate a point, with their rows so far."""

    def __init__(self, regions: Sequence[Hull] | Stack, u: Tensor, signs: Tensor, margin: float):
        self.regions, self.start, self.signs, self.margin = stack(regions), u, signs, margin
        self.u = u.clone()
        self.status = torch.full((len(u),), Status.ITERATION_LIMIT, device=u.device)
        self.proof = torch.zeros_like(signs)
        self.open = torch.arange(len(u), device=u.device)
        self.rows, self.needs = u.new_zeros(len(u), 0, u.shape[1]), u.new_zeros(len(u), 0)
        self.of = self.open.new_zeros(len(u), 0)  # the region of each row
        self.round = 0
        self.weights, self.guess = self.needs, self.needs > 0  # a guess at the rows that bind
        if len(u):
            self.look()

    def look(self) -> None:
        """Add the points violated most to the rows; problems without any are solved."""
        self.round += 1
        lowest, lack, known = self.lowest()
        violated = VIOLATED if self.round < PATIENCE else ACCEPTED
        if (stuck := ((lack > violated) & known).any(1)).any():
            self.polish(stuck, lack.amax(1))
            lowest, lack, known = self.lowest()
        self.forget()
        new = (lack > violated) & ~known
        solved = ~new.any(1) & (lack <= ACCEPTED).all(1)
        self.status[self.open[solved]] = Status.OPTIMAL
        count = min(TAKEN, int(new.sum(1).max()))
        worst, region = lack.masked_fill(~new, 0.0).topk(count, 1)
        asks = worst > 0
        rows = lowest.gather(1, region[:, :, None].expand(-1, -1, lowest.shape[2])) * asks[:, :, None]
        self.rows = torch.cat([self.rows, rows], 1)
        # a row of zeros with a negative margin asks for nothing
        self.needs = torch.cat([self.needs, torch.where(asks, lack.new_tensor(self.margin), -1.0)], 1)
        self.of = torch.cat([self.of, region], 1)
        first = torch.arange(count, device=asks.device) == 0
        self.guess = torch.cat([self.weights > 0, asks & first], 1)
        self.keep(new.any(1))

    def lowest(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each open problem the point of each region that is violated most, (b, N, n + 1).

        By how much, of the terms of its pre-activation, and whether a row asks for the same already, (b, N).
        """
        u, s = self.u[self.open], self.signs[self.open]
        lowest = self.regions.lowest(u, s)
        products = lowest * u[:, None]
        terms = abs(products).sum(2) + self.margin
        value = s * products.sum(2)
        lack = ((self.margin - value) / terms).masked_fill(s == 0, -1.0)
        asked = self.row_signs() * (self.rows @ u[:, :, None])[:, :, 0]
        asked = asked.masked_fill(self.needs < 0, torch.inf)
        known = torch.full_like(value, torch.inf).scatter_reduce(1, self.of, asked, "amin") <= value + SAME * terms
        return lowest, lack, known

    def polish(self, which: Tensor, lack: Tensor) -> None:
        """Put solutions on their binding rows by least squares, where that makes what they lack less."""
        at, before = self.open[which], self.u.clone()
        binding = self.weights[which] > 0
        rows = self.rows[which] * binding[:, :, None]
        gap = self.row_signs()[which] * self.needs[which] * binding - (rows @ self.u[at][:, :, None])[:, :, 0]
        self.u[at] += (torch.linalg.pinv(rows) @ gap[:, :, None])[:, :, 0]
        worse = self.open[self.lowest()[1].amax(1) > lack]
        self.u[worse] = before[worse]

    def step(self) -> None:
        """Project on the rows there are."""
        signs = self.row_signs()
        u, self.weights, status = _project(self.start[self.open], self.rows, signs, self.needs, self.guess)
        self.u[self.open], self.status[self.open] = u, status
        proved = (status == Status.INFEASIBLE).nonzero()[:, 0]
        if len(proved):
            self.prove(proved, status, signs)
        self.keep(status == Status.OPTIMAL)
        if len(self.open):
            self.status[self.open] = Status.ITERATION_LIMIT  # until no point is violated
            self.look()

    def prove(self, which: Tensor, status: Tensor, signs: Tensor) -> None:
        """Keep the proofs that hold; what is said to have no solution without one has the iteration limit's status."""
        exact, holds = _exact(self.rows[which] * signs[which, :, None], self.weights[which])
        failed, which = which[~holds], which[holds]
        status[failed] = self.status[self.open[failed]] = Status.ITERATION_LIMIT
        nothing = torch.zeros_like(self.proof[: len(which)])
        self.proof[self.open[which]] = nothing.scatter_add(1, self.of[which], exact[holds])

    def row_signs(self) -> Tensor:
        """The sign of each row's region."""
        signs = self.signs[self.open].gather(1, self.of)
        return torch.where(signs < 0, -1.0, 1.0).to(signs.dtype)

    def forget(self) -> None:
        """Leave rows out that did not bind: the solution is the same, and only farther ones follow."""
        binds = self.weights > 0
        most = int(binds.sum(1).max())
        if most == binds.shape[1]:
            return
        order = binds.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        self.rows = self.rows.gather(1, order[:, :, None].expand(-1, -1, self.rows.shape[2]))
        self.needs, self.of, self.weights = (x.gather(1, order) for x in (self.needs, self.of, self.weights))
        self.rows = self.rows * (self.weights > 0)[:, :, None]
        self.needs = torch.where(self.weights > 0, self.needs, -1.0)

    def keep(self, which: Tensor) -> None:
        """Leave the others out."""
        if not which.all():
            for name in ("open", "rows", "needs", "of", "weights", "guess"):
                setattr(self, name, getattr(self, name)[which])

    def found(self) -> Projections:
        """The answer."""
        solved = self.status == Status.OPTIMAL
        u = torch.where(solved[:, None], self.u, torch.nan)
        cost = torch.where(solved, (self.u - self.start).square().sum(1), torch.inf)
        return Projections(u, cost, self.status, self.proof)


def _exact(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Proofs (b, R) with what is off removed, and which hold up to rounding (b,): hulls that only nearly meet do not.

    ``lam' = lam - B+ B lam``, with the rows of positive weight as the columns of B, is what B makes zero. Where the
    rows depend on each other it is lam nearly; where they do not, nothing of lam remains.
    """
    taken = weights > 0
    columns = (rows * taken[:, :, None]).mT
    polished = weights - (torch.linalg.pinv(columns) @ (columns @ weights[:, :, None]))[:, :, 0] * taken
    size, terms = weights.sum(1), (abs(columns) @ weights[:, :, None]).amax((1, 2))
    off = abs(columns @ polished[:, :, None]).amax((1, 2))
    near = abs(polished - weights).amax(1) <= POLISHED * size
    return polished.clamp(min=0), near & (off <= ZERO * terms) & ((polished >= -ZERO * size[:, None]) | ~taken).all(1)


def _project(u: Tensor, rows: Tensor, signs: Tensor, needs: Tensor, guess: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points, multipliers and status, of each problem by the first method that solves it."""
    length = torch.linalg.vector_norm(rows, dim=2)
    length = torch.where(length > 0, length, 1.0)
    x, weights, status = pivoted(u, rows * (signs / length)[:, :, None], needs / length, guess)
    weights = weights / length
    for method in (_by_active_set, _by_interior_point):
        left = (status == Status.ITERATION_LIMIT).nonzero()[:, 0]
        if len(left):
            x[left], weights[left], status[left] = method(u[left], rows[left], signs[left], needs[left])
    return x, weights, status


def _by_active_set(u: Tensor, rows: Tensor, signs: Tensor, needs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = project(u, rows, signs, needs)
    return found.u, found.lam.nan_to_num(), found.status


def _by_interior_point(u: Tensor, rows: Tensor, signs: Tensor, needs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For rows that nearly depend on each other, which stop the others."""
    found = solve(torch.eye(u.shape[1], dtype=u.dtype, device=u.device), -u, -signs[:, :, None] * rows, -needs)
    return found.z, found.lam.nan_to_num(), found.status
