"""The three questions: maximise the one output of a trained ReLU network over a box.

Where the project's shared networks are at hand they are used, elsewhere networks of the same shapes are trained afresh.
The objective is the network's only output, so every tool is given the same matrices: for the classifier the last layer
is one row, the runner-up's logit minus the true one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine

NETS = Path(__file__).resolve().parents[3] / "shared" / "data" / "nets"
EPS = 0.05  # of the ball around the digit
EPOCHS = 40
SAMPLES = 20_000  # random forward passes, of which the best is the MIP start


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise ``net`` (one output) over ``box``; ``start`` is the best of the random points."""

    name: str
    net: po.Network
    box: po.Box
    start: np.ndarray

    @property
    def affine(self) -> list[Affine]:
        """The affine layers, with a ReLU between each two."""
        return [layer for layer in self.net.layers if isinstance(layer, Affine)]

    def value(self, x) -> float:
        """The objective at a point (n,)."""
        return float(self.net(np.asarray(x, dtype=np.float64)[None])[0, 0])

    def save(self, path: Path) -> None:
        """Write the problem to an .npz file."""
        layers = {f"{name}{k}": a for k, w in enumerate(self.affine) for name, a in (("W", w.weight), ("b", w.bias))}
        np.savez(path, name=self.name, lower=self.box.lower, upper=self.box.upper, start=self.start, **layers)

    @classmethod
    def load(cls, path: Path) -> Problem:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(
                str(arrays["name"]), relu_network(arrays), po.Box(arrays["lower"], arrays["upper"]), arrays["start"]
            )


def relu_network(arrays) -> po.Network:
    """The network of the matrices W0, W1, … and biases b0, b1, …"""
    count = sum(key.startswith("W") for key in arrays)
    layers = [layer for k in range(count) for layer in (Affine(arrays[f"W{k}"], arrays[f"b{k}"]), ReLU())]
    return po.Network.sequential(layers[:-1], (arrays["W0"].shape[1],))


def problems(small: bool) -> list[Problem]:
    """All three, or only peaks with a network so small that every formulation solves it in a second."""
    return [peaks("peaks_2_10_10_1")] if small else [peaks("peaks_2_50_50_1"), ackley(), digits()]


def peaks(name: str) -> Problem:
    """MATLAB's peaks function on [-3, 3]^2."""

    def function(p):
        x, y = p.T
        first = 3 * (1 - x) ** 2 * np.exp(-(x**2) - (y + 1) ** 2)
        second = 10 * (x / 5 - x**3 - y**5) * np.exp(-(x**2) - y**2)
        return first - second - np.exp(-((x + 1) ** 2) - y**2) / 3

    return _regression(name, po.Box([-3.0] * 2, [3.0] * 2), function)


def ackley() -> Problem:
    """Ackley's function of 2x on [-1, 1]^10."""

    def function(x):
        bowl = -20 * np.exp(-0.2 * np.sqrt(np.mean((2 * x) ** 2, axis=1)))
        return bowl - np.exp(np.mean(np.cos(4 * np.pi * x), axis=1)) + 20 + np.e

    return _regression("ackley_10_64_64_1", po.Box([-1.0] * 10, [1.0] * 10), function)


def digits() -> Problem:
    """Runner-up minus true logit around the first test image that is classified correctly."""
    name = "digits_64_64_64_10"
    if (NETS / f"{name}.npz").exists():
        arrays = dict(np.load(NETS / f"{name}.npz"))
        with np.load(NETS / "digits_test.npz") as test:
            images, labels = test["X"], test["y"]
    else:
        images, labels, arrays = _train_digits(name)
    logits = relu_network(arrays)(images)
    first = np.flatnonzero(logits.argmax(1) == labels)[0]
    second, true = logits[first].argsort()[-2:]
    for last in ("W2", "b2"):
        arrays[last] = np.float64(arrays[last][[second]]) - arrays[last][[true]]
    return _with_start(name, relu_network(arrays), po.Box.ball(images[first], EPS, 0.0, 1.0))


def _regression(name: str, box: po.Box, function) -> Problem:
    if (NETS / f"{name}.npz").exists():
        with np.load(NETS / f"{name}.npz") as arrays:
            return _with_start(name, relu_network(arrays), box)
    x = box.sample(4096, np.random.default_rng(0))
    return _with_start(name, relu_network(_train(name, x, function(x)[:, None], "mse_loss")), box)


def _train_digits(name: str) -> tuple[np.ndarray, np.ndarray, dict]:
    """Test images, their classes, and a classifier's weights."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x, test_x, y, test_y = train_test_split(data.data / 16.0, data.target, test_size=360, random_state=0)
    return test_x, test_y, _train(name, x, y, "cross_entropy")


def _train(name: str, x, y, loss: str) -> dict[str, np.ndarray]:
    """Weights W0, b0, W1, … of a network of the widths in its name, trained with Adam."""
    import torch

    print(f"{name}: the shared networks are not at hand, training one of this shape")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    widths = [int(width) for width in name.split("_")[1:]]
    layers = [layer for pair in pairwise(widths) for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers[:-1])
    targets = torch.tensor(y, dtype=torch.long if loss == "cross_entropy" else torch.float32)
    inputs = torch.tensor(x, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(128):
            optimizer.zero_grad()
            getattr(torch.nn.functional, loss)(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    parts = ((f"W{k}", f"b{k}", layer) for k, layer in enumerate(linear))
    return {key: p.detach().numpy() for w, b, layer in parts for key, p in ((w, layer.weight), (b, layer.bias))}


def _with_start(name: str, net: po.Network, box: po.Box) -> Problem:
    points = box.sample(SAMPLES, np.random.default_rng(0))
    return Problem(name, net, box, points[net(points)[:, 0].argmax()])
