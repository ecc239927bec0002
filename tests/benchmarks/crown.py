"""How long CROWN takes on two networks, and how many digits it proves robust.

    python tests/benchmarks/crown.py --data ../shared/data [--json]

``--data`` holds nets/ (digits_64_64_64_10.onnx, digits_test.npz) and vnn/mnist_fc/ (of VNN-COMP's mnist_fc benchmark).
Times are for the bounds on all layers, float64, on ``--threads`` threads. An image counts as proved if the lower bounds
on all its margins (true class minus rival) are positive for all images within eps, cut with [0, 1].
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
import torch
from bench_common import parser, versions

import polyopt as po
from polyopt.bounds.crown import crown
from polyopt.convert.from_onnx import from_onnx
from polyopt.layers import Affine


def main() -> None:
    line = parser(__doc__)
    line.add_argument("--threads", type=int, default=2)
    line.add_argument("--runs", type=int, default=50)
    options = line.parse_args()
    torch.set_num_threads(options.threads)

    digits = from_onnx(options.data / "nets" / "digits_64_64_64_10.onnx")
    mnist = from_onnx(options.data / "vnn" / "mnist_fc" / "mnist-net_256x4.onnx")
    test = np.load(options.data / "nets" / "digits_test.npz")
    images, labels = test["X"][test["first_correct"]], test["y"][test["first_correct"]]
    seven = po.read_vnnlib(options.data / "vnn" / "mnist_fc" / "prop_0_0.03.vnnlib.gz").region
    noise = np.random.default_rng(0).random(mnist.input_size)  # no digit: nearly all units become unstable

    times = {
        "digits_64_64_64_10, 20 boxes, eps 0.03": timed(digits, ball(images, 0.03), options.runs),
        "mnist-net_256x4, prop_0_0.03": timed(mnist, seven, options.runs),
        "mnist-net_256x4, random image, eps 0.03": timed(mnist, ball(noise, 0.03), options.runs),
    }
    proved = {
        f"eps {eps}": {
            method.__name__: f"{count_proved(digits, method, images, labels, eps)} of {len(images)}"
            for method in (po.interval, crown)
        }
        for eps in (0.03, 0.06)
    }
    about = versions("torch", "numpy")
    if options.json:
        print(json.dumps({"times_ms": times, "proved": proved, "threads": options.threads, "versions": about}))
        return
    print(f"{about}, {options.threads} threads")
    for name, row in times.items():
        print(f"{name:45} median {row['median']:7.2f} ms   min {row['min']:7.2f} ms")
    for name, row in proved.items():
        print(f"digits proved, {name}: {row}")


def ball(center: np.ndarray, eps: float) -> po.Box:
    return po.Box.ball(center, eps, lower=0.0, upper=1.0)


def timed(net: po.Network, box: po.Box, runs: int) -> dict[str, float]:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        crown(net, box)
        seconds.append(time.perf_counter() - start)
    return {"median": 1e3 * statistics.median(seconds), "min": 1e3 * min(seconds)}


def count_proved(net: po.Network, method, images: np.ndarray, labels: np.ndarray, eps: float) -> int:
    classes = net.output_size
    difference = (np.eye(classes)[:, None] - np.eye(classes)[None]).reshape(-1, classes)  # row (true, rival)
    last = net.nodes[-1].name
    layers = [(node.name, node.layer, node.inputs) for node in net.nodes]
    margins = po.Network([*layers, ("margins", Affine(difference, None), [last])], net.input_shape).simplify()
    lower = method(margins, ball(images, eps)).output.lower.reshape(-1, classes, classes)
    own = lower[np.arange(len(images)), labels]
    own[np.arange(len(images)), labels] = np.inf
    return int((own > 0).all(1).sum())


if __name__ == "__main__":
    main()
