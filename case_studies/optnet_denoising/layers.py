"""The denoisers of the paper's Table 1 as torch modules.

Total variation, and what is learned from it, is one quadratic program with a box of multipliers: the dual of (12),

    z = argmin 1/2 |z - v|^2 + sum_i w_i |D_i z|
      = v - D'u,    u = argmin 1/2 |D'u - v|^2   subject to   -w <= u <= w

with as many variables as D has rows (99), where the paper's layer, which bounds each |D_i z| by a variable of its own,
has 199 variables and 198 inequalities. Its Q = D D' and p = -D v are differentiable in D and v, and h = [w; w] in w.

The paper's layer also learns an affine map before the program and its Q and G. Of these, what keeps the form of (12) is
v = V y + c before, and a linear map M after: with z = M'x, Q = M M', the objective 1/2 x'Q x - x'M v is 1/2 |z - v|^2
but for a constant.

Everything is learned in coordinates in which signals are round: D = D_0 + S W, V = I + A W and M' = I + B W, where W is
the inverse root of the signals' second moments, times the deviation of the noise. The mean of a signal has a variance
of 3000 times the noise's, so that without W no one rate of learning suits all directions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import polyopt as po

METHOD = "active-set"  # few of the bounds are active at a time


class TotalVariation(nn.Module):
    """Signals y (B, n) to z (B, n), by D (k, n) and one weight for all rows to begin with.

    ``learned`` names what is not fixed, of S (D), w (the logarithm of its weights), A, c (the map before) and B (the
    map after). W (n, n) is the identity unless given.

    >>> y = torch.tensor([[0.0, 1.0, 9.0, 8.0]], dtype=torch.float64)
    >>> TotalVariation(differences(4), 0.5)(y).detach()
    tensor([[0.5000, 1.0000, 8.2500, 8.2500]], dtype=torch.float64)
    """

    def __init__(self, D: Tensor, weight: float, learned: str = "", W: Tensor | None = None):
        super().__init__()
        rows, n = D.shape
        eye = torch.eye(rows, dtype=D.dtype)
        self.register_buffer("D0", D)
        self.register_buffer("W", torch.eye(n, dtype=D.dtype) if W is None else W)
        self.register_buffer("box", torch.cat([eye, -eye]))
        logarithm = D.new_full((rows,), weight).log()
        zeros = {"S": D.new_zeros(rows, n), "A": D.new_zeros(n, n), "c": D.new_zeros(n), "B": D.new_zeros(n, n)}
        for name, value in (zeros | {"w": logarithm}).items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=name in learned))
        self.solve = po.qp.QPLayer(METHOD)

    @property
    def D(self) -> Tensor:
        """The difference operator (k, n)."""
        return self.D0 + self.S @ self.W

    def input(self, y: Tensor) -> Tensor:
        """v (B, n)."""
        return y + y @ self.W @ self.A.T + self.c

    def program(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, p, G, h of the program for u."""
        D, w = self.D, self.w.exp()
        return D @ D.T, -v @ D.T, self.box, torch.cat([w, w])

    def forward(self, y: Tensor) -> Tensor:
        """M'(v - D'u), (B, n)."""
        v = self.input(y)
        z = v - self.solve(*self.program(v)) @ self.D
        return z + z @ self.W @ self.B.T


def whitening(y: Tensor, deviation: float) -> Tensor:
    """W (n, n), so that W y has second moments ``deviation``^2 I."""
    values, vectors = torch.linalg.eigh(y.T @ y / len(y))
    return deviation * (vectors / values.sqrt()) @ vectors.T


def differences(n: int) -> Tensor:
    """D (n - 1, n) with rows e_i - e_{i+1}.

    >>> differences(3)
    tensor([[ 1., -1.,  0.],
            [ 0.,  1., -1.]], dtype=torch.float64)
    """
    eye = torch.eye(n, dtype=torch.float64)
    return eye[:-1] - eye[1:]


def connected(n: int, width: int) -> nn.Sequential:
    """A fully connected network with one hidden layer."""
    return nn.Sequential(nn.Linear(n, width), nn.ReLU(), nn.Linear(width, n))
