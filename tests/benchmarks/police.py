"""What POLICE costs in training: forward and backward passes, as in Table 1 of the paper.

    python tests/benchmarks/police.py [--runs 20] [--threads 2] [--all] [--json]

Each column of the table is a leaky-ReLU network of D inputs, L linear layers and one width, and a batch of 1024. The
contenders take turns in one process: the network as it is, the paper's Algorithm 1 as it is published (the vertices are
put into the batch, and pass through each layer before and after the shift), POLICE on the same vertices, and POLICE on
a box. The vertices are those of the simplex, and of the square where D = 2. Columns that take more than a few seconds a
pass on a CPU are left out but for ``--all``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time

import numpy as np
import torch
from torch import nn

import polyopt as po
from polyopt.police import POLICE

# inputs, linear layers and width of the paper's columns, and of one more, (2, 4, 256)
COLUMNS = [(2, 2, 256), (2, 4, 256), (2, 4, 64), (784, 2, 1024), (784, 8, 1024)]
LARGE = [(2, 4, 4096), (3072, 6, 4096)]
BATCH = 1024


class Published(nn.Module):
    """Algorithm 1 in the way of the published code, with integer votes."""

    def __init__(self, network: nn.Sequential, vertices: np.ndarray):
        super().__init__()
        self.network = network
        self.register_buffer("vertices", torch.tensor(vertices, dtype=torch.float32))

    def forward(self, x):
        count = len(self.vertices)
        x = torch.cat([x, self.vertices])
        layers = list(self.network)
        for linear, activation in zip(layers[:-1:2], layers[1::2], strict=True):
            h = linear(x[-count:])
            sign = torch.where(2 * (h > 0).sum(0) >= count, 1.0, -1.0)
            shift = (-h * sign).relu().amax(0) * sign
            x = activation(nn.functional.linear(x, linear.weight, linear.bias + shift))
        return layers[-1](x[:-count])


def network(inputs: int, depth: int, width: int) -> nn.Sequential:
    sizes = [inputs] + [width] * (depth - 1) + [10]
    layers = [(nn.Linear(*pair), nn.LeakyReLU()) for pair in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain.from_iterable(layers[:-1]), layers[-1][0])


def vertices(inputs: int) -> np.ndarray:
    if inputs == 2:
        return np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    return np.vstack([np.zeros(inputs), np.eye(inputs)])


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    model(x).square().mean().backward()
    return time.perf_counter() - start


def column(inputs: int, depth: int, width: int, runs: int) -> dict:
    torch.manual_seed(0)
    plain, corners = network(inputs, depth, width), vertices(inputs)
    models = {
        "none": plain,
        "published": Published(plain, corners),
        "vertices": POLICE(plain, po.VPolytope(corners)),
        "box": POLICE(plain, po.Box(np.zeros(inputs), np.full(inputs, 1.0))),
    }
    x = torch.randn(BATCH, inputs)
    times = {name: [] for name in models}
    for run in range(runs + 2):
        for name, model in models.items():
            taken = seconds(model, x)
            if run >= 2:  # the first two warm up
                times[name].append(1000 * taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--all", action="store_true", help="the large columns too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = []
    for inputs, depth, width in COLUMNS + LARGE * options.all:
        medians = column(inputs, depth, width, options.runs)
        ratios = {name: taken / medians["none"] for name, taken in medians.items()}
        found.append({"D": inputs, "L": depth, "width": width, "ms": medians, "ratio": ratios})
        if not options.json:
            cells = "  ".join(f"{name} {medians[name]:8.2f} ms x{ratios[name]:.2f}" for name in medians)
            print(f"D={inputs} L={depth} width={width}: {cells}", flush=True)
    if options.json:
        about = {"torch": torch.__version__, "threads": options.threads, "machine": platform.processor()}
        print(json.dumps({"runs": options.runs, "batch": BATCH, **about, "columns": found}))


if __name__ == "__main__":
    main()
