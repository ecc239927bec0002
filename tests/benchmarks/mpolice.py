"""What a layer of mPOLICE and `polyopt.police.enforce` cost, beside the paper's pipeline where cvxpy is installed.

    python tests/benchmarks/mpolice.py [--runs 11] [--threads 1] [--time-limit 60] [--json]

N polygons of P vertices lie on a ring. "first" is a layer of 2 inputs, "second" one of as many inputs as units behind
it, "apart" a first layer far from the ring, of which hardly a unit separates any of them; "boxes" lie in a grid, more
of them than a table of sign vectors has room for, or in 784 dimensions. The contenders are
`polyopt.police.solve_layer` with exact signs and with majority, and the paper's pipeline: majority signs, then one
quadratic program a layer in cvxpy with SCS, as published; it is left out if cvxpy is not installed. Times are medians
in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn

import polyopt as po
from polyopt.police.hulls import hulls
from polyopt.police.solve_layer import solve_layer

MARGIN = 1e-3
LAYERS = [  # kind, regions, units, vertices
    ("first", 2, 64, 64),
    ("second", 2, 64, 64),
    ("first", 4, 64, 64),
    ("second", 4, 64, 64),
    ("apart", 4, 64, 64),
    ("apart", 8, 64, 8),
    ("apart", 12, 256, 8),
]

BOXES = [(16, 1, 64, 0.2), (24, 1, 64, 0.2), (16, 2, 64, 0.2), (24, 2, 64, 0.2), (24, 3, 64, 0.2), (2, 784, 64, 0.05)]


def ring(count: int, vertices: int, shift: float) -> list[po.VPolytope]:
    turns = np.linspace(0.0, 2 * np.pi, vertices, endpoint=False)
    circle = np.column_stack([np.cos(turns), np.sin(turns)])
    angles = 2 * np.pi * np.arange(count) / count
    middles = 2.0 * np.column_stack([np.cos(angles), np.sin(angles)])
    size = 0.5 if shift else 1.0
    return [po.VPolytope(size * (middle + 0.9 * np.sin(np.pi / count) * circle) + shift) for middle in middles]


def linear(inputs: int, units: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, units).double()
    return layer.weight.detach(), layer.bias.detach()


def case(kind: str, count: int, units: int, vertices: int):
    images = hulls(ring(count, vertices, 5.0 if kind == "apart" else 0.0))
    weight, bias = linear(2, units, 0)
    if kind != "second":
        return weight, bias, images
    found = solve_layer(weight, bias, images, MARGIN)
    behind = [
        image.through(found.weight, found.bias, (s > 0).double()) for image, s in zip(images, found.signs, strict=True)
    ]
    return *linear(units, units, 1), behind


def published(weight, bias, images):
    """Majority signs and min |dW|^2 + |db|^2 in cvxpy, by SCS."""
    import cvxpy as cp

    points = [image.points.numpy() for image in images]
    W0, b0 = weight.numpy(), bias.numpy()
    W, b = cp.Variable(W0.shape), cp.Variable(b0.shape)
    rows = []
    for p in points:
        z = p @ W0.T + b0
        s = np.where(2 * (z >= 0).sum(0) >= len(p), 1.0, -1.0)
        rows.append(cp.multiply(p @ W.T + np.ones((len(p), 1)) @ cp.reshape(b, (1, len(b0)), order="C"), s) >= MARGIN)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(W - W0) + cp.sum_squares(b - b0)), rows)
    problem.solve(solver=cp.SCS)
    return problem.value


def boxes(count: int, inputs: int, units: int, radius: float):
    """Boxes near the points of a grid and a layer that separates some of them."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(count ** (1 / inputs)))
    places = rng.random((count, inputs)) if inputs > 64 else grid(rng.permutation(side**inputs)[:count], side, inputs)
    regions = [po.Box.ball(place, radius) for place in places]
    scale = inputs**-0.5
    weight, bias = rng.uniform(-scale, scale, (units, inputs)), rng.uniform(-scale, scale, units)
    return torch.tensor(weight), torch.tensor(bias), hulls(regions)


def grid(places: np.ndarray, side: int, dimensions: int) -> np.ndarray:
    return np.stack(np.unravel_index(places, (side,) * dimensions), 1).astype(float)


def many(count: int, inputs: int, units: int, radius: float, time_limit: float) -> dict:
    found = solve_layer(*boxes(count, inputs, units, radius), MARGIN, time_limit=time_limit)
    row = {"kind": "boxes", "regions": count, "inputs": inputs, "units": units, "time_limit": time_limit}
    return row | {"ms": 1000 * found.seconds, "cost": found.cost, "bound": found.bound, "status": found.status}


def timed(function, runs: int) -> tuple[float, object]:
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        found = function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:]), found


def measure(kind: str, count: int, units: int, vertices: int, runs: int) -> dict:
    given = case(kind, count, units, vertices)
    row = {"kind": kind, "regions": count, "units": units, "vertices": vertices}
    for rule in ("exact", "majority"):
        ms, found = timed(lambda rule=rule: solve_layer(*given, MARGIN, signs=rule), runs)
        row[rule] = {"ms": ms, "cost": found.cost, "bound": found.bound, "status": found.status}
    if find_spec("cvxpy"):
        ms, cost = timed(lambda: published(*given), min(runs, 3))
        row["published"] = {"ms": ms, "cost": None if cost is None or not np.isfinite(cost) else float(cost)}
    return row


def whole(count: int, width: int, runs: int) -> dict:
    """`enforce` on a network of two hidden layers, proofs included."""

    def once():
        torch.manual_seed(0)
        mlp = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        return po.police.enforce(mlp.double(), ring(count, 8, 0.0))

    ms, report = timed(once, runs)
    return {"regions": count, "width": width, "ms": ms, "cost": report.cost, "bound": report.bound}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds, for boxes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layers, networks = [], []
    for kind, count, units, vertices in LAYERS:
        row = measure(kind, count, units, vertices, options.runs if count < 8 else 1)
        layers.append(row)
        if not options.json:
            cells = "  ".join(
                f"{name} {row[name]['ms']:.1f} ms, cost {row[name]['cost']}"
                for name in ("exact", "majority", "published")
                if name in row
            )
            print(f"{kind}: N={count} units={units} P={vertices}: {cells}", flush=True)
    for shape in BOXES:
        layers.append(many(*shape, options.time_limit))
        if not options.json:
            row = layers[-1]
            print(
                f"boxes: N={shape[0]} inputs={shape[1]} units={shape[2]}: {row['ms']:.0f} ms, {row['status']}, "
                f"cost {row['cost']}, bound {row['bound']}",
                flush=True,
            )
    for count, width in ((2, 64), (4, 64), (12, 256)):
        row = whole(count, width, min(options.runs, 3))
        networks.append(row)
        if not options.json:
            print(f"enforce: N={count} two layers of {width}: {row['ms']:.1f} ms, cost {row['cost']}", flush=True)
    if options.json:
        about = {"torch": torch.__version__, "threads": options.threads, "machine": platform.processor()}
        print(json.dumps({"runs": options.runs, **about, "layers": layers, "networks": networks}))


if __name__ == "__main__":
    main()
