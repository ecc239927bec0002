"""Products and solves in which a matrix of leading dimension 1 is shared by the whole batch.

Vectors are (B, n), matrices (1, r, n) or (B, r, n). A shared matrix costs one plain matrix product, not B small ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def times(M: Tensor, x: Tensor) -> Tensor:
    """M x, of shape (B, r), for M (1 or B, r, n) and x (B, n)."""
    return x @ M[0].mT if len(M) == 1 else (M @ x[..., None])[..., 0]


def transposed_times(M: Tensor, y: Tensor) -> Tensor:
    """M' y, of shape (B, n), for M (1 or B, r, n) and y (B, r). The faster of the two where M is symmetric."""
    return y @ M[0] if len(M) == 1 else (y[:, None] @ M)[:, 0]


def cholesky_solve(L: Tensor, x: Tensor) -> Tensor:
    """(L L')^-1 x, of shape (B, n), for L (1 or B, n, n) and x (B, n)."""
    if len(L) == 1:
        return torch.cholesky_solve(x.mT, L[0]).mT
    # for one right-hand side a batch, torch.cholesky_solve takes twice as long
    half = torch.linalg.solve_triangular(L, x[..., None], upper=False)
    return torch.linalg.solve_triangular(L.mT, half, upper=True)[..., 0]


def half_solve(L: Tensor, C: Tensor) -> Tensor:
    """L^-1 C', of shape (1 or B, n, r), for L (1 or B, n, n) and C (1 or B, r, n)."""
    if len(L) == 1 < len(C):
        flat = torch.linalg.solve_triangular(L[0], C.flatten(0, 1).mT, upper=False)
        return flat.unflatten(1, C.shape[:2]).movedim(1, 0)
    return torch.linalg.solve_triangular(L, C.mT, upper=False)


def largest(x: Tensor) -> Tensor:
    """The largest magnitude of each row of (B, n), as (B, 1); 0 where n is 0."""
    # on a CPU torch.linalg.vector_norm takes several times as long
    return x.abs().amax(-1, keepdim=True) if x.shape[-1] else x.new_zeros(len(x), 1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """The rows of a batched tensor, and a shared one as it is."""
    return x if len(x) == 1 else x[index]


def outer(a: Tensor, x: Tensor, b: Tensor, y: Tensor, shape: torch.Size) -> Tensor:
    """a x' + b y' of vectors (B, ...), or its sum over the batch where the argument is shared."""
    if shape[0] != len(a):
        return (a.mT @ x + b.mT @ y)[None]
    return torch.stack([a, b], -1) @ torch.stack([x, y], 1)
