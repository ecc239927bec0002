"""How much of what cuts add to the triangle's linear program the dual's ascent finds, and how fast.

    python tests/benchmarks/cut_dual.py --data ../shared/data [--json]

``--data`` holds nets/: digits_64_64_64_10, margins of the label against all nine other classes within 0.1 of the first
correctly classified test image, cut with [0, 1], and minus the output of ackley_10_64_64_1 on [-1, 1]^10. The linear
programs, one a row, are Pyomo models on CROWN's bounds solved by HiGHS: "triangle", and "hull" with rounds of cuts
until none is violated. "share" is the median over the rows of (bound - triangle) / (hull - triangle). One thread.

                        digits, 9 rows: least, share, seconds     ackley, 1 row
    triangle                -5.994              7.10             -24.866              0.29
    hull                    -3.995             82.62             -24.643              3.75
    dual, 25 steps          -4.098    0.966     1.03             -24.664    0.907     0.58
    dual, 50 steps          -4.004    1.000     1.72             -24.651    0.964     0.85
    dual, 100 steps         -3.996    1.000     3.31             -24.646    0.988     2.03
    dual, 200 steps         -3.996    1.000     7.41             -24.643    0.999     4.15

with torch 2.13.0 on the CPU, HiGHS 1.15.1 and Pyomo 6.10.1, on two hyperthreads that were busy with other programs.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import highspy
import numpy as np
import pyomo
import pyomo.environ as pyo
import torch

import polyopt as po
from polyopt.bounds.cut_dual import cut_dual_bounds

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STEPS = (0, 25, 50, 100, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with nets/")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = {
        "python": platform.python_version(),
        "highspy": highspy.Highs().version(),
        "pyomo": pyomo.__version__,
        "torch": torch.__version__,
    }
    results = {name: measured(*case) for name, *case in cases(options.data / "nets")}
    if options.json:
        print(json.dumps({"results": results, "versions": versions}))
        return
    print(versions)
    for name, rows in results.items():
        print(name)
        for method, row in rows.items():
            print(f"  {method:9}", "   ".join(f"{key} {value}" for key, value in row.items()))


def cases(nets: Path):
    """Name, network, box and rows."""
    test = np.load(nets / "digits_test.npz")
    image = test["X"][test["first_correct"][0]]
    net = po.from_onnx(nets / "digits_64_64_64_10.onnx")
    label = int(net(image[None])[0].argmax())
    margins = np.delete(np.eye(10)[label] - np.eye(10), label, axis=0)
    yield "digits, eps 0.1", net, po.Box.ball(image, 0.1, lower=0.0, upper=1.0), margins
    ackley = po.from_onnx(nets / "ackley_10_64_64_1.onnx")
    yield "ackley", ackley, po.Box([-1.0] * 10, [1.0] * 10), -np.ones((1, 1))


def measured(net: po.Network, box: po.Box, rows: np.ndarray) -> dict[str, dict]:
    optima, found = {}, {}
    for name, formulation in (("triangle", po.Triangle()), ("hull", po.Hull(tolerance=1e-6))):
        start = time.perf_counter()
        optima[name] = np.array([optimum(net, box, row, formulation) for row in rows])
        found[name] = {"least": round(optima[name].min(), 4), "seconds": round(time.perf_counter() - start, 2)}
    cut_dual_bounds(net, box, rows, 1)  # imports and first calls
    for steps in STEPS:
        start = time.perf_counter()
        bounds = cut_dual_bounds(net, box, rows, steps)
        seconds = time.perf_counter() - start
        share = (bounds - optima["triangle"]) / (optima["hull"] - optima["triangle"])
        found[f"{steps} steps"] = {
            "least": round(bounds.min(), 4),
            "seconds": round(seconds, 2),
            "share": round(float(np.median(share)), 3),
        }
    return found


def optimum(net: po.Network, box: po.Box, row: np.ndarray, formulation) -> float:
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, j: (float(box.lower[j]), float(box.upper[j])))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x, formulation=formulation, bounds="crown")
    m.objective = pyo.Objective(expr=sum(c * v for c, v in zip(row, y, strict=True)))
    solver = pyo.SolverFactory("appsi_highs")
    solver.solve(m)
    while isinstance(formulation, po.Hull) and po.separate(m.net):
        solver.solve(m)
    return pyo.value(m.objective)


if __name__ == "__main__":
    main()
