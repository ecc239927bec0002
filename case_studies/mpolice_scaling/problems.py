"""The networks that regions are enforced on, and the regions: disks as polygons, on a ring or scattered."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import torch
from torch import nn

import polyopt as po
from polyopt.training import fit

POINTS = 1024
SCATTERED = 8  # vertices


def spiral(x: np.ndarray) -> np.ndarray:
    """The background field at points (B, 2) of the square, in [-1, 1], (B, 1)."""
    radius, angle = np.hypot(x[:, 0], x[:, 1]), np.arctan2(x[:, 1], x[:, 0])
    return np.sin(2.5 * np.pi * radius - angle)[:, None]


@cache
def trained(width: int, depth: int, epochs: int, seed: int) -> nn.Sequential:
    """A ReLU network with ``depth`` hidden layers, fitted to the spiral on [-1, 1]^2, in float32."""
    torch.manual_seed(seed)
    sizes = [2, *[width] * depth, 1]
    pairs = [(nn.Linear(*pair), nn.ReLU()) for pair in itertools.pairwise(sizes)]
    network = nn.Sequential(*itertools.chain.from_iterable(pairs[:-1]), pairs[-1][0])
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, (POINTS, 2)).astype(np.float32)
    y = spiral(x).astype(np.float32)
    fit(network, x, y, nn.functional.mse_loss, epochs=epochs, lr=1e-2, seed=seed, progress=False)
    return network.eval()


def disk(middle: np.ndarray, radius: float, vertices: int) -> po.VPolytope:
    turns = 2.0 * np.pi * np.arange(vertices) / vertices
    return po.VPolytope(middle + radius * np.column_stack([np.cos(turns), np.sin(turns)]))


def ring(count: int, vertices: int, size: float = 1.0, shift: float = 0.0) -> list[po.VPolytope]:
    """Disjoint disks around the middle of the square, or of a smaller one that is shifted out of it."""
    turns = 2.0 * np.pi * np.arange(count) / count + 0.4
    middles = 0.55 * np.column_stack([np.cos(turns), np.sin(turns)])
    radius = 0.33 * np.sin(np.pi / count)
    return [disk(size * middle + shift, size * radius, vertices) for middle in middles]


def scattered(count: int, seed: int) -> list[po.VPolytope]:
    """Disks of random sizes at random places in the square, at least 0.05 apart, which some network can tell apart."""
    rng = np.random.default_rng([count, seed])
    while True:
        middles, radii = rng.uniform(-0.8, 0.8, (count, 2)), rng.uniform(0.1, 0.3, count)
        gaps = [
            np.linalg.norm(middles[i] - middles[j]) - radii[i] - radii[j]
            for i, j in itertools.combinations(range(count), 2)
        ]
        regions = [disk(middle, radius, SCATTERED) for middle, radius in zip(middles, radii, strict=True)]
        if min(gaps) > 0.05 and po.police.separable(regions):
            return regions
