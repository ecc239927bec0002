"""What is to be maximised: a network, a box, and weights of the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import polyopt as po

EPS = 0.1


@dataclass(frozen=True)
class Problem:
    """Maximise ``objective . net(x)`` over the box, to a relative gap."""

    name: str
    net: po.Network
    box: po.Box
    objective: np.ndarray
    gap: float = 1e-6


def peaks(data: Path | None, seed: int) -> Problem:
    """MATLAB's peaks on [-3, 3]^2 as a network has learnt it; a small one, learnt on the spot, without data."""
    net = po.from_onnx(data / "peaks_2_50_50_1.onnx") if data else trained_peaks(seed)
    return Problem("peaks", net, po.Box([-3.0, -3.0], [3.0, 3.0]), np.ones(1))


def ackley(data: Path, gap: float) -> Problem:
    """Ackley's function of 2 x on [-1, 1]^10 as a network has learnt it."""
    net = po.from_onnx(data / "ackley_10_64_64_1.onnx")
    return Problem("ackley", net, po.Box(-np.ones(10), np.ones(10)), np.ones(1), gap)


@dataclass(frozen=True)
class Image:
    """A test digit that is classified as it should be, and the margins of the nine other classes within eps of it."""

    number: int
    label: int
    property: po.Property
    margins: dict[int, Problem]


def images(data: Path, count: int) -> tuple[po.Network, list[Image]]:
    """The classifier, and the first test digits that it gets right."""
    net, found = po.from_onnx(data / "digits_64_64_64_10.onnx"), np.load(data / "digits_test.npz")
    return net, [
        _image(net, int(number), found["X"][number].astype(np.float64), int(found["y"][number]))
        for number in found["first_correct"][:count]
    ]


def _image(net: po.Network, number: int, pixels: np.ndarray, label: int) -> Image:
    box, unit = po.Box.ball(pixels, EPS, 0.0, 1.0), np.eye(10)
    margins = {r: Problem(f"digit {number}, {r}", net, box, unit[r] - unit[label]) for r in range(10) if r != label}
    return Image(number, label, po.robust(net, pixels, EPS, label, 0.0, 1.0), margins)


def trained_peaks(seed: int, width: int = 16, steps: int = 200) -> po.Network:
    """A 2-16-16-1 ReLU network, fitted to peaks in about a second."""
    torch.manual_seed(seed)
    x = 6.0 * torch.rand(512, 2) - 3.0
    y = peaks_of(x[:, :1], x[:, 1:])
    model = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return po.from_torch(model.eval(), input_shape=(2,))


def peaks_of(x, y):
    """MATLAB's function of that name."""
    return (
        3.0 * (1.0 - x) ** 2 * (-(x**2) - (y + 1.0) ** 2).exp()
        - 10.0 * (x / 5.0 - x**3 - y**5) * (-(x**2) - y**2).exp()
        - (-((x + 1.0) ** 2) - y**2).exp() / 3.0
    )
