"""How far linear and mixed-integer programs tighten the bounds of three networks, and what that takes.

    python tests/benchmarks/obbt.py --data ../shared/data [--mip-units 10] [--hull-limit 60] [--json]

``--data`` holds nets/: peaks_2_50_50_1 on [-3, 3]^2, digits_64_64_64_10 within 0.05 of its first correctly classified
test image, cut with [0, 1], and ackley_10_64_64_1 on [-1, 1]^10. For each: units whose phase is open, the mean width of
all bounds on the inputs of the second layer and on the outputs, and seconds. "rebuild" runs the same linear programs as
"triangle" without keeping anything: for each unit behind the first layer (which over a box needs no program) and each
side a Pyomo model up to that unit, with triangles between the same bounds, solved by Pyomo's interface to HiGHS; its
ratio to "triangle" is given. One thread.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
import torch
from bench_common import first_digit, model, parser, report

import polyopt as po


def main() -> None:
    line = parser(__doc__)
    line.add_argument("--mip-units", type=int, default=10, help="units of each layer with MILPs")
    line.add_argument("--mip-seconds", type=float, default=1.0, help="limit of each MILP")
    line.add_argument("--hull-limit", type=float, default=60.0, help="seconds for the hulls")
    options = line.parse_args()
    torch.set_num_threads(1)
    results = {name: measured(net, box, options) for name, net, box in cases(options.data / "nets")}
    report(results, ("highspy", "pyomo", "torch"), options.json)


def cases(nets: Path):
    """Name, network and box."""
    yield "peaks", po.from_onnx(nets / "peaks_2_50_50_1.onnx"), po.Box([-3.0] * 2, [3.0] * 2)
    yield "digits, eps 0.05", *first_digit(nets, 0.05)[:2]
    yield "ackley", po.from_onnx(nets / "ackley_10_64_64_1.onnx"), po.Box([-1.0] * 10, [1.0] * 10)


def measured(net: po.Network, box: po.Box, options) -> dict[str, dict]:
    mips = {"mip_units": options.mip_units, "mip_seconds": options.mip_seconds}
    methods = {
        "interval": lambda: po.interval(net, box),
        "crown": lambda: po.crown(net, box),
        "triangle": lambda: po.obbt(net, box),
        "hull": lambda: po.obbt(net, box, formulation=po.Hull(), time_limit=options.hull_limit),
        "mip": lambda: po.obbt(net, box, **mips),
    }
    po.obbt(net, box)  # imports and first calls
    rows, found = {}, {}
    for name, method in methods.items():
        start = time.perf_counter()
        found[name] = method()
        rows[name] = row(found[name], time.perf_counter() - start)
    count, seconds, difference = rebuild(net, box, found["crown"], found["triangle"])
    rows["triangle"]["programs"] = count
    ratio = round(seconds / rows["triangle"]["seconds"], 1)
    rows["rebuild"] = {"seconds": round(seconds, 3), "ratio": ratio, "greatest difference": f"{difference:.1e}"}
    return rows


def row(bounds: po.Bounds, seconds: float) -> dict:
    unstable = [int(((pre.lower < 0) & (pre.upper > 0)).sum()) for pre in bounds.pre]
    second, output = (round(float((side.upper - side.lower).mean()), 3) for side in (bounds.pre[1], bounds.output))
    return {"unstable": unstable, "width of layer 2": second, "of outputs": output, "seconds": round(seconds, 3)}


def rebuild(net: po.Network, box: po.Box, start: po.Bounds, tight: po.Bounds) -> tuple[int, float, float]:
    """How many programs the same tightening solves, the seconds they take when each has a model of its own, and how
    far at most their optima are from ``tight``, relative to these numbers.
    """
    layers = [(node.name, node.layer, node.inputs) for node in net.nodes]
    sources = [node.inputs[0] for node in net.activations] + [net.nodes[-1].name]
    count, difference, begin = 0, 0.0, time.perf_counter()
    sides = zip(sources, [*start.pre, start.output], [*tight.pre, tight.output], strict=True)
    for k, (source, side, known) in enumerate(sides):
        if k == 0:
            continue
        part = po.Network(layers, net.input_shape, source)
        bounds = po.Bounds(box, tight.pre[:k], side)
        last = k == len(net.activations)
        for i in np.flatnonzero((side.lower < side.upper) & (last | (side.lower < 0) & (side.upper > 0))):
            for sense in (pyo.minimize, pyo.maximize):
                m, outputs = model(part, box, po.Triangle(), bounds)
                m.objective = pyo.Objective(expr=outputs[i], sense=sense)
                pyo.SolverFactory("appsi_highs").solve(m)
                count += 1
                end = float((known.lower if sense == pyo.minimize else known.upper)[i])
                difference = max(difference, abs(pyo.value(m.objective) - end) / (1.0 + abs(end)))
    return count, time.perf_counter() - begin, difference


if __name__ == "__main__":
    main()
