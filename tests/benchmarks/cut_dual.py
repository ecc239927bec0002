"""How much of what cuts add to the triangle's linear program the dual's ascent finds, and how fast.

    python tests/benchmarks/cut_dual.py --data ../shared/data [--json]

``--data`` holds nets/: digits_64_64_64_10, margins of the label against all nine other classes within 0.1 of the first
correctly classified test image, cut with [0, 1], and minus the output of ackley_10_64_64_1 on [-1, 1]^10. The linear
programs, one a row, are Pyomo models on CROWN's bounds solved by HiGHS: "triangle", and "hull" with rounds of cuts
until none is violated. "share" is the median over the rows of (bound - triangle) / (hull - triangle). One thread.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
import torch
from bench_common import first_digit, model, parser, report

import polyopt as po
from polyopt.bounds.cut_dual import cut_dual_bounds

STEPS = (0, 25, 50, 100, 200)


def main() -> None:
    options = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    results = {name: measured(*case) for name, *case in cases(options.data / "nets")}
    report(results, ("highspy", "pyomo", "torch"), options.json)


def cases(nets: Path):
    """Name, network, box and rows."""
    net, box, label = first_digit(nets, 0.1)
    yield "digits, eps 0.1", net, box, np.delete(np.eye(10)[label] - np.eye(10), label, axis=0)
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
    m, y = model(net, box, formulation, "crown")
    m.objective = pyo.Objective(expr=sum(c * v for c, v in zip(row, y, strict=True)))
    solver = pyo.SolverFactory("appsi_highs")
    solver.solve(m)
    while isinstance(formulation, po.Hull) and po.separate(m.net):
        solver.solve(m)
    return pyo.value(m.objective)


if __name__ == "__main__":
    main()
