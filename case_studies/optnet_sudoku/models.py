"""The two networks of the paper's section 4.4. Both map puzzles (batch, 4, 4, 4) to scores of the same shape."""

from __future__ import annotations

import itertools

import torch
from puzzles import rules
from torch import Tensor, nn

import polyopt as po


class OptNet(nn.Module):
    """A quadratic program that is told nothing of the rules, and learns A and z0:

        argmin 0.1/2 |z|^2 - x'z   subject to   A z = A exp(log z0),  z >= 0

    exp(log z0) is feasible whatever is learned. A (40, 64) begins uniform, log z0 at 0, as in the published code.
    """

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.rand(40, 64, dtype=torch.float64))
        self.log_z0 = nn.Parameter(torch.zeros(64, dtype=torch.float64))
        self.register_buffer("eye", torch.eye(64, dtype=torch.float64))
        self.register_buffer("h", torch.zeros(64, dtype=torch.float64))
        self.layer = po.qp.QPLayer()

    def forward(self, x: Tensor) -> Tensor:
        b = self.A @ self.log_z0.exp()
        return self.layer(0.1 * self.eye, -x.flatten(1), -self.eye, self.h, self.A, b).view_as(x)


class Convolutions(nn.Module):
    """Ten 3x3 convolutions with ReLU between them and one more, to a softmax over the digits of each cell.

    The digits are the channels.
    """

    def __init__(self, filters: int):
        super().__init__()
        sizes, layers = [4, *[filters] * 10], []
        for pair in itertools.pairwise(sizes):
            layers += [nn.Conv2d(*pair, kernel_size=3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(filters, 4, kernel_size=3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).softmax(-1)


def knowing() -> OptNet:
    """The same program with the rules in place of what is learned."""
    model, basis = OptNet(), row_space(torch.tensor(rules()))
    with torch.no_grad():
        model.A.copy_(basis)
        model.log_z0.fill_(0.25).log_()
    return model


def row_space(A: Tensor) -> Tensor:
    """An orthonormal basis (40, 64) of what the rows span, of the 40 leading directions."""
    return torch.linalg.svd(A.detach(), full_matrices=False).Vh[:40]
