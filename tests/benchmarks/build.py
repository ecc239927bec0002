"""From a network in memory to a loaded HiGHS instance: polyopt against OMLT, seconds and peak memory.

    python tests/benchmarks/build.py [--runs 5] [--json]

The network is rand_784_256_256_10 from the shared data, or one of that shape drawn afresh. Each run is a process of
its own; the tools take turns. Time and memory count from the moment when the weights are loaded and everything is
imported, and end when the solver holds the model. Both use interval bounds, so that the models are of one kind.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
from bench_common import DATA, omlt_network, versions

import polyopt as po

SHARED = DATA / "nets" / "rand_784_256_256_10.npz"


def weights():
    if SHARED.exists():
        data = np.load(SHARED)
        return [(data[f"W{i}"], data[f"b{i}"]) for i in range(len(data.files) // 2)]
    rng = np.random.default_rng(0)
    sizes = [(256, 784), (256, 256), (10, 256)]
    return [(rng.uniform(-1, 1, s) / s[1] ** 0.5, rng.uniform(-1, 1, s[0]) / s[1] ** 0.5) for s in sizes]


def reset_peak() -> float:
    """Forget the peak so far (Linux); returns the resident megabytes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{field} is not in /proc/self/status")


def polyopt(bounds: str):
    from polyopt.activations import ReLU
    from polyopt.highs import to_highs
    from polyopt.layers import Affine
    from polyopt.program import to_program

    layers = [layer for w, b in weights() for layer in (Affine(w, b), ReLU())][:-1]
    net = po.Network.sequential(layers, (784,))
    if bounds == "crown":
        po.crown(po.Network.sequential(layers[:1], (784,)), po.Box(np.zeros(784), np.ones(784)))  # import torch

    def build():
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(784), bounds=(0, 1))
        m.net = pyo.Block()
        y = po.add_network(m.net, net, m.x, bounds=bounds)
        m.objective = pyo.Objective(expr=y[0])
        return to_highs(to_program(m))

    return build, lambda solver: (solver.getNumRow(), solver.getNumCol(), solver.getNumNz())


def omlt():
    from omlt import OmltBlock
    from omlt.neuralnet import ReluBigMFormulation
    from pyomo.contrib.appsi.solvers.highs import Highs

    layers, box = weights(), po.Box(np.zeros(784), np.ones(784))

    def build():
        m = pyo.ConcreteModel()
        m.net = OmltBlock()
        m.net.build_formulation(ReluBigMFormulation(omlt_network(layers, box)))
        m.objective = pyo.Objective(expr=m.net.outputs[0])
        solver = Highs()
        solver.set_instance(m)
        return solver

    def size(solver):
        inner = solver._solver_model
        return inner.getNumRow(), inner.getNumCol(), inner.getNumNz()

    return build, size


TOOLS = {"polyopt, interval": lambda: polyopt("interval"), "polyopt, crown": lambda: polyopt("crown"), "OMLT": omlt}


def measure(tool: str) -> dict:
    build, size = TOOLS[tool]()
    before = reset_peak()
    start = time.perf_counter()
    solver = build()
    seconds = time.perf_counter() - start
    rows, columns, nonzeros = size(solver)
    return {
        "seconds": seconds,
        "peak_mb": memory("VmHWM") - before,
        "rows": rows,
        "columns": columns,
        "nonzeros": nonzeros,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    runs = {tool: [] for tool in TOOLS}
    for _ in range(options.runs):
        for tool, found in runs.items():
            command = [sys.executable, __file__, "--measure", tool]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(output.splitlines()[-1]))
    medians = {t: {k: statistics.median(run[k] for run in found) for k in found[0]} for t, found in runs.items()}
    ours, theirs = medians["polyopt, interval"], medians["OMLT"]
    ratios = {key: theirs[key] / ours[key] for key in ("seconds", "peak_mb")}
    if options.json:
        about = versions("pyomo", "highspy", "omlt", "numpy", "torch")
        print(json.dumps({"versions": about, "runs": runs, "medians": medians, "ratios": ratios}, indent=1))
        return
    print("| tool | seconds | peak MB | rows | columns | nonzeros |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for tool, row in medians.items():
        sizes = " | ".join(str(row[key]) for key in ("rows", "columns", "nonzeros"))
        print(f"| {tool} | {row['seconds']:.3f} | {row['peak_mb']:.1f} | {sizes} |")
    print(
        f"OMLT / polyopt (interval): {ratios['seconds']:.1f} times the time, {ratios['peak_mb']:.1f} times the memory"
    )


if __name__ == "__main__":
    main()
