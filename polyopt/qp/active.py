"""The system of an active set, factored once: it finishes a solution to machine precision, and differentiates it.

    [ H   C_a' ] [dz]   [r1]                 K_a dy = C_a H^-1 r1 - r2
    [ C_a  0   ] [dy] = [r2]       so        dz = H^-1 (r1 - C_a' dy)

where C_a are the equalities and the active inequalities, and K_a = C_a H^-1 C_a'. Each problem of the batch has a set
of its own; the sets are padded to the same size by rows of the identity.

Where the rows depend on each other (duplicates, more active rows than variables), K_a is singular; then 1e-11 of its
mean diagonal is added to it, and refinement against the true system takes the error out again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyopt.qp.linalg import cholesky_solve
from polyopt.qp.problem import Problem

REGULARISATION = 1e-11  # of the mean diagonal; with 1e-13 duplicated rows give NaN


@dataclass(frozen=True)
class ActiveSystem:
    """K_a = L L' of each problem, and which rows it stands for."""

    rows: Tensor  # (B, a): the active rows of each problem, then some others
    real: Tensor  # (B, a): which are active
    L: Tensor  # (B, a, a)
    regularised: Tensor  # (B,)
    count: int  # r, the number of all rows

    def multipliers(self, right: Tensor) -> Tensor:
        """The solution dy (B, r) of K_a dy = right, for right (B, r); 0 in other rows."""
        found = cholesky_solve(self.L, right.gather(1, self.rows) * self.real).masked_fill(~self.real, 0)
        return right.new_zeros(len(right), self.count).scatter(1, self.rows, found)

    def solve(self, problem: Problem, L: Tensor, r1: Tensor, r2: Tensor | None) -> tuple[Tensor, Tensor]:
        """The solution dz (B, n), dy (B, r) of the whole system, for H = L L'; r2 None is zero."""
        image = problem.apply(cholesky_solve(L, r1))
        dy = self.multipliers(image if r2 is None else image - r2)
        return cholesky_solve(L, r1 - problem.pull(dy)), dy


def factor(K: Tensor, active: Tensor, index: Tensor | None = None) -> ActiveSystem:
    """Factor K_a for the sets (B, r), as booleans; of the problems ``index`` (B,) where K is of more than these."""
    sizes = active.sum(-1)
    order = active.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    rows = order[:, : int(sizes.max())]
    real = torch.arange(rows.shape[1], device=rows.device) < sizes[:, None]
    M = principal(K, rows, torch.arange(len(rows), device=rows.device) if index is None else index)
    M.masked_fill_(~(real[:, :, None] & real[:, None, :]), 0)
    diagonal = M.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.sum(-1) / sizes.clamp(min=1)
    mean = torch.where(mean > 0, mean, 1.0)[:, None]
    diagonal.copy_(torch.where(real, diagonal, mean))
    L, info = torch.linalg.cholesky_ex(M)
    epsilon = torch.finfo(K.dtype).eps
    singular = (info > 0) | ~(L.diagonal(dim1=-2, dim2=-1).square() > 1e3 * epsilon * diagonal).all(-1)
    if singular.any():
        again = M[singular]
        again.diagonal(dim1=-2, dim2=-1).add_(max(REGULARISATION, 1e3 * epsilon) * mean[singular])
        L[singular] = torch.linalg.cholesky_ex(again)[0]
    return ActiveSystem(rows, real, L, singular, active.shape[1])


def principal(K: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """The rows and columns (B, a) of K[index], as (B, a, a)."""
    count, (batch, size) = K.shape[-1], rows.shape
    first = rows if len(K) == 1 else rows + count * index[:, None]
    across = K.flatten(0, 1).index_select(0, first.flatten()).view(batch, size, count)
    return across.gather(2, rows[:, None, :].expand(-1, size, -1))
