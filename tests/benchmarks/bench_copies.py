"""A hundred copies of a 4-32-32-1 surrogate, from a network in memory to a loaded HiGHS instance: polyopt and OMLT.

    python tests/benchmarks/bench_copies.py [--copies 100] [--runs 5] [--json]

Every copy has inputs of its own. "equal" boxes are all [-1, 1]^4, "own" ones differ from copy to copy. "crown" and
"interval" are polyopt's bounds; "one by one" calls add_network for each copy instead of once for the indexed block.
OMLT's big-M formulation with its own interval bounds goes into HiGHS through Pyomo's appsi interface. The tools take
turns, each run in a process of its own; time counts from when everything is imported and the weights are loaded. Both
wall time and the process's own (cpu) are given; one thread. The aim is less than 3 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import pyomo.environ as pyo
from bench_common import omlt_network, versions

import polyopt as po

SIZES = [(32, 4), (32, 32), (1, 32)]


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=s) / s[1] ** 0.5, 0.1 * rng.normal(size=s[0])) for s in SIZES]


def lower(copy: int, copies: int, boxes: str) -> float:
    """The lower bound of each of a copy's inputs; the upper one is 1."""
    return -1.0 if boxes == "equal" else -1.0 - copy / copies


def ours(copies: int, bounds: str, boxes: str, at_once: bool = True):
    import torch

    from polyopt.activations import ReLU
    from polyopt.layers import Affine
    from polyopt.program import to_highs, to_program

    torch.set_num_threads(1)
    net = po.Network.sequential([layer for w, b in weights() for layer in (Affine(w, b), ReLU())][:-1], (4,))
    po.crown(net, po.Box([-1.0] * 4, [1.0] * 4))  # imports

    def build():
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(copies), range(4), bounds=lambda _, t, i: (lower(t, copies, boxes), 1.0))
        m.net = pyo.Block(range(copies))
        inputs = {t: [m.x[t, i] for i in range(4)] for t in m.net}
        if at_once:
            y = po.add_network(m.net, net, inputs, bounds=bounds)
        else:
            y = {t: po.add_network(m.net[t], net, inputs[t], bounds=bounds) for t in m.net}
        m.objective = pyo.Objective(expr=sum(y[t][0] for t in m.net))
        return to_highs(to_program(m))

    return build, lambda solver: solver


def omlt(copies: int, boxes: str):
    from omlt import OmltBlock
    from omlt.neuralnet import ReluBigMFormulation
    from pyomo.contrib.appsi.solvers.highs import Highs

    layers = weights()

    def build():
        m = pyo.ConcreteModel()
        m.net = OmltBlock(range(copies))
        for t in range(copies):
            box = po.Box([lower(t, copies, boxes)] * 4, [1.0] * 4)
            m.net[t].build_formulation(ReluBigMFormulation(omlt_network(layers, box)))
        m.objective = pyo.Objective(expr=sum(m.net[t].outputs[0] for t in range(copies)))
        solver = Highs()
        solver.set_instance(m)
        return solver

    return build, lambda solver: solver._solver_model


TOOLS = {
    "polyopt, crown, equal": lambda n: ours(n, "crown", "equal"),
    "polyopt, crown, own": lambda n: ours(n, "crown", "own"),
    "polyopt, crown, own, one by one": lambda n: ours(n, "crown", "own", at_once=False),
    "polyopt, interval, own": lambda n: ours(n, "interval", "own"),
    "OMLT, own": lambda n: omlt(n, "own"),
}


def measure(tool: str, copies: int) -> dict:
    build, inner = TOOLS[tool](copies)
    wall, cpu = time.perf_counter(), time.process_time()
    solver = build()
    seconds, own = time.perf_counter() - wall, time.process_time() - cpu
    solver = inner(solver)
    size = {"rows": solver.getNumRow(), "columns": solver.getNumCol(), "nonzeros": solver.getNumNz()}
    return {"seconds": seconds, "cpu": own} | size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.copies)))
        return
    runs: dict[str, list[dict]] = {tool: [] for tool in TOOLS}
    for _ in range(options.runs):
        for tool, found in runs.items():
            command = [sys.executable, __file__, "--copies", str(options.copies), "--measure", tool]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            found.append(json.loads(output.splitlines()[-1]))
    medians = {t: {k: statistics.median(run[k] for run in found) for k in found[0]} for t, found in runs.items()}
    if options.json:
        about = versions("pyomo", "highspy", "omlt", "numpy", "scipy", "torch")
        print(json.dumps({"versions": about, "copies": options.copies, "runs": runs, "medians": medians}, indent=1))
        return
    print("| tool | seconds | cpu | rows | columns | nonzeros |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for tool, row in medians.items():
        sizes = " | ".join(str(row[key]) for key in ("rows", "columns", "nonzeros"))
        print(f"| {tool} | {row['seconds']:.2f} | {row['cpu']:.2f} | {sizes} |")


if __name__ == "__main__":
    main()
