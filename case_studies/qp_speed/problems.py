"""Batches of random quadratic programs min 1/2 z'Qz + p'z subject to G z <= h: the paper's, and projections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MARGIN = 1e-3
REGIONS = 4


class Case(NamedTuple):
    """What is solved; a tensor without a batch dimension is shared. ``V`` and ``signs`` only for projections."""

    Q: Tensor  # (B, n, n) or (n, n)
    p: Tensor  # (B, n)
    G: Tensor  # (B, m, n)
    h: Tensor  # (B, m) or (m,)
    learned: tuple[str, ...]  # the arguments that gradients are asked of
    V: Tensor | None = None  # (m, n)
    signs: Tensor | None = None  # (B, m)

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, m, n."""
        return tuple(self.G.shape)

    def first(self, count: int) -> Case:
        """Only the first problems of the batch."""
        wide = {name: x[:count] for name, x in self._asdict().items() if name in self.batched}
        return self._replace(**wide)

    @property
    def batched(self) -> list[str]:
        """The tensors with a batch dimension."""
        single = {"Q": 2, "p": 1, "G": 2, "h": 1, "V": 2, "signs": 1}
        return [name for name, dim in single.items() if isinstance(x := getattr(self, name), Tensor) and x.dim() > dim]

    def to(self, device: str, dtype: torch.dtype) -> Case:
        return Case(*(x.to(device, dtype) if isinstance(x, Tensor) else x for x in self))


def paper(n: int, batch: int, seed: int) -> Case:
    """The paper's footnote 4: U uniform, Q = U'U + 1e-3 I, G normal, h = G z0 + s0, z0 normal, s0 uniform; m = n."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    U, G = torch.rand(batch, n, n, **options), torch.randn(batch, n, n, **options)
    z, s = torch.randn(batch, n, **options), torch.rand(batch, n, **options)
    Q = U.mT @ U + 1e-3 * torch.eye(n, dtype=torch.float64)
    return Case(Q, torch.randn(batch, n, **options), G, (G @ z[..., None])[..., 0] + s, ("Q", "p", "G", "h"))


def police(n: int, m: int, batch: int, seed: int) -> Case:
    """mPOLICE's: each neuron's weights and bias u0 to the nearest u with s_i V_i u >= margin.

    The m rows of V are vertices of a few regions, with a 1 for the bias; a neuron's sign is that of its mean on the
    region.
    """
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    centers = torch.randn(REGIONS, 1, n - 1, **options)
    vertices = centers + 0.3 * torch.randn(REGIONS, m // REGIONS, n - 1, **options)
    V = torch.cat([vertices.flatten(0, 1), torch.ones(m, 1, dtype=torch.float64)], 1)
    u0 = torch.randn(batch, n, **options) / n**0.5
    means = (u0 @ V.T).unflatten(1, (REGIONS, -1)).mean(2)
    signs = means.sign().repeat_interleave(m // REGIONS, 1)
    h = torch.full((m,), -MARGIN, dtype=torch.float64)
    return Case(torch.eye(n, dtype=torch.float64), -u0, -signs[..., None] * V, h, ("p", "G"), V, signs)
