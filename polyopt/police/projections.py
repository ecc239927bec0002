"""The least change of units that puts regions on given sides: projections on cones with a margin, in batches.

For a unit u = (w, b) and a sign s_i for each region i,

    c(u, s) = min |u' - u|^2   subject to   s_i u' v~ >= margin   for all points v of region i                  (1)

A region has as many constraints as vertices, but few bind. Those are found by rows: (1) with the point of each region
that the unit violates most, then also with those that the solution violates most, and so on until it violates none and
solves (1). The rows so far are a relaxation, so a Farkas proof that they have no solution, ``lam >= 0`` with ``sum
lam_p s_p v~_p = 0``, proves that (1) has none, for any sign vector that agrees with s, or with -s, on the regions of
these rows: the hulls of both sides have a point in common.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, section 2.6; Lawson and Hanson, Solving least squares problems, 1974,
chapter 23.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.police.hulls import Hull
from polyopt.police.pivots import pivoted
from polyopt.qp import Status, solve
from polyopt.qp.project import project

VIOLATED = 1e-12  # of the terms that a pre-activation is summed from
ACCEPTED = 1e-9  # of the same, where rounding errors allow no better
PATIENCE = 30  # rounds, after which they count as accepted
MOST_ROUNDS = 500


class Projections(NamedTuple):
    """The solutions of (1); where there is none, u is NaN, the cost infinite, and ``proof`` holds Farkas weights."""

    u: Tensor  # (B, n + 1)
    cost: Tensor  # (B,)
    status: Tensor  # (B,), codes of `polyopt.qp.Status`
    proof: Tensor  # (B, N): how much weight the rows of each region have in the proof


def projections(regions: Sequence[Hull], u: Tensor, signs: Tensor, margin: float) -> Projections:
    """Project units u (B, n + 1) for signs (B, N), in float64.

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


class _Rounds:
    """The problems that still violate a point, with their rows so far."""

    def __init__(self, regions: Sequence[Hull], u: Tensor, signs: Tensor, margin: float):
        self.regions, self.start, self.signs, self.margin = regions, u, signs, margin
        self.u = u.clone()
        self.status = torch.full((len(u),), Status.ITERATION_LIMIT, device=u.device)
        self.proof = torch.zeros_like(signs)
        self.open = torch.arange(len(u), device=u.device)
        self.rows, self.needs = u.new_zeros(len(u), 0, u.shape[1]), u.new_zeros(len(u), 0)
        self.weights, self.guess = self.needs, self.needs > 0  # a guess at the rows that bind
        self.look()

    def look(self) -> None:
        """Add the points violated most to the rows; problems without any are solved."""
        lowest, lack, known = self.lowest()
        violated = VIOLATED if self.rows.shape[1] < PATIENCE * len(self.regions) else ACCEPTED
        if (stuck := ((lack > violated) & known).any(1)).any():
            self.polish(stuck, lack.amax(1))
            lowest, lack, known = self.lowest()
        new = (lack > violated) & ~known
        # a row of zeros with a negative margin asks for nothing
        rows = torch.cat([self.rows, lowest * new[:, :, None]], 1)
        needs = torch.cat([self.needs, torch.where(new, lack.new_tensor(self.margin), -1.0)], 1)
        solved = ~new.any(1) & (lack <= ACCEPTED).all(1)
        self.status[self.open[solved]] = Status.OPTIMAL
        worst = torch.zeros_like(new).scatter(1, lack.masked_fill(~new, 0.0).argmax(1, keepdim=True), True)
        self.guess = torch.cat([self.weights > 0, new & worst], 1)
        self.keep(new.any(1), rows, needs)

    def lowest(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each open problem the point of each region that is violated most, (b, N, n + 1).

        By how much, of the terms of its pre-activation, and whether it is a row already, (b, N).
        """
        u, s = self.u[self.open], self.signs[self.open]
        turned = s[:, :, None] * u[:, None]
        lowest = torch.stack([each.lowest(turned[:, i]) for i, each in enumerate(self.regions)], 1)
        terms = (abs(lowest) * abs(u[:, None])).sum(2) + self.margin
        known = (lowest[:, None] == self.rows.unflatten(1, (-1, lowest.shape[1]))).all(3).any(1)
        return lowest, (self.margin - (lowest * turned).sum(2)) / terms, known

    def polish(self, which: Tensor, lack: Tensor) -> None:
        """Put solutions on their binding rows by least squares, where that makes what they lack less."""
        at, before = self.open[which], self.u.clone()
        binding = self.weights[which] > 0
        rows = self.rows[which] * binding[:, :, None]
        gap = self.row_signs(at) * self.needs[which] * binding - (rows @ self.u[at][:, :, None])[:, :, 0]
        self.u[at] += (torch.linalg.pinv(rows) @ gap[:, :, None])[:, :, 0]
        worse = self.open[self.lowest()[1].amax(1) > lack]
        self.u[worse] = before[worse]

    def step(self) -> None:
        """Project on the rows there are."""
        signs = self.row_signs(self.open)
        u, self.weights, status = _project(self.start[self.open], self.rows, signs, self.needs, self.guess)
        self.u[self.open], self.status[self.open] = u, status
        proved = status == Status.INFEASIBLE
        self.proof[self.open[proved]] = self.weights[proved].unflatten(1, (-1, len(self.regions))).sum(1)
        self.keep(status == Status.OPTIMAL, self.rows, self.needs)
        if len(self.open):
            self.status[self.open] = Status.ITERATION_LIMIT  # until no point is violated
            self.look()

    def row_signs(self, problems: Tensor) -> Tensor:
        """The sign of each row's region: each round has added a row for each region."""
        return self.signs[problems].repeat(1, self.rows.shape[1] // len(self.regions))

    def keep(self, which: Tensor, rows: Tensor, needs: Tensor) -> None:
        """Leave the others out."""
        self.open, self.rows, self.needs = self.open[which], rows[which], needs[which]
        self.weights, self.guess = self.weights[which], self.guess[which]

    def found(self) -> Projections:
        """The answer."""
        solved = self.status == Status.OPTIMAL
        u = torch.where(solved[:, None], self.u, torch.nan)
        cost = torch.where(solved, (self.u - self.start).square().sum(1), torch.inf)
        return Projections(u, cost, self.status, self.proof)


def _project(u: Tensor, rows: Tensor, signs: Tensor, needs: Tensor, guess: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points, multipliers and status, of each problem by the first method that solves it."""
    length = torch.linalg.vector_norm(rows, dim=2)
    length = torch.where(length > 0, length, 1.0)
    x, weights, solved = pivoted(u, rows * (signs / length)[:, :, None], needs / length, guess)
    weights = weights / length
    status = torch.where(solved, Status.OPTIMAL, Status.ITERATION_LIMIT)
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
