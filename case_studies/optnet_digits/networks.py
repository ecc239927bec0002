"""The two networks of the paper's appendix A, for images of 64 pixels and 10 classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import polyopt as po

EPSILON = 1e-4


class Program(nn.Module):
    """z = argmin 1/2 z'Qz + x'z subject to G z <= h, for inputs x (B, n), where all but x is learned.

    Q = L L' + 1e-4 I with L lower triangular, and h = G z0 + s0, so that z0 is feasible while s0 is not negative, which
    its parametrisation by softplus ensures. As in the published code, G begins uniform on [-1, 1], z0 as 0, s0 as 1,
    and L uniform on [0, 1], which makes Q nearly singular; ``identity`` begins with L = I instead.

    >>> Program(10, 30, identity=True)(torch.zeros(4, 10)).shape
    torch.Size([4, 10])
    """

    def __init__(self, n: int, rows: int, *, identity: bool):
        super().__init__()
        self.L = nn.Parameter(torch.eye(n) if identity else torch.rand(n, n).tril())
        self.G = nn.Parameter(torch.empty(rows, n).uniform_(-1.0, 1.0))
        self.z0 = nn.Parameter(torch.zeros(n))
        self.s0 = nn.Parameter(torch.full((rows,), 1.0).expm1().log())
        self.solve = po.qp.QPLayer()

    def program(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, p, G, h in double precision."""
        L, G, x = self.L.tril().double(), self.G.double(), x.double()
        Q = L @ L.T + EPSILON * torch.eye(len(L), dtype=L.dtype, device=L.device)
        return Q, x, G, G @ self.z0.double() + nn.functional.softplus(self.s0.double())

    def forward(self, x: Tensor) -> Tensor:
        """z (B, n)."""
        return self.solve(*self.program(x)).to(x.dtype)


def network(last: nn.Module, pixels: int = 64, width: int = 600, classes: int = 10) -> nn.Sequential:
    """FC600-FC10 and a last layer; softmax belongs to the loss."""
    return nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes), nn.ReLU(), last)
