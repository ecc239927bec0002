"""Global optima of three networks by the exact search, beside the mixed-integer solvers that install.

    python tests/benchmarks/search.py --data ../shared/data [--seconds 60] [--device cpu] [--rivals] [--json]

``--data`` holds nets/. Peaks is maximised over [-3, 3]^2 to 1e-6, Ackley over [-1, 1]^10 for ``--seconds``. Digits are
the first 20 correctly classified test images, each within 0.1, cut with [0, 1]: the worst margin (true class minus
rival) is minimised for each of the 9 rivals, and the worst of these counts. Boxes are those bounded, a second.

``--rivals`` solves the same with Gurobi (gurobi-machinelearning; its size-limited licence allows these), SCIP
(PySCIPOpt-ML, big-M) and, for digits, OMLT's big-M in HiGHS, each with ``--rival-seconds`` for a program, digits for
the first ``--rival-images``; and with Marabou, where ``--marabou`` is the python of an environment with maraboupy, onnx
and onnxruntime: it is asked whether the output exceeds the optimum found here by 1e-3. What is not installed is left
out, with a note.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
import torch
from bench_common import omlt_network, parser, versions

import polyopt as po
from polyopt.layers import Affine

PACKAGES = ("torch", "numpy", "gurobipy", "gurobi-machinelearning", "pyscipopt", "pyscipopt-ml", "omlt", "highspy")
EPS, IMAGES = 0.1, 20


def main() -> None:
    line = parser(__doc__)
    line.add_argument("--seconds", type=float, default=60.0, help="limit for Ackley")
    line.add_argument("--image-seconds", type=float, default=30.0, help="limit for each class of an image")
    line.add_argument("--images", type=int, default=IMAGES)
    line.add_argument("--runs", type=int, default=5, help="of peaks; the median counts")
    line.add_argument("--threads", type=int, default=2)
    line.add_argument("--device", default=None)
    line.add_argument("--rivals", action="store_true")
    line.add_argument("--rival-seconds", type=float, default=60.0)
    line.add_argument("--rival-images", type=int, default=2)
    line.add_argument("--marabou", help="a python that can import maraboupy, onnx and onnxruntime")
    options = line.parse_args()
    torch.set_num_threads(options.threads)

    nets = options.data / "nets"
    peaks, ackley = (po.from_onnx(nets / f"{name}.onnx") for name in ("peaks_2_50_50_1", "ackley_10_64_64_1"))
    cases = {
        "peaks": (peaks, po.Box([-3.0] * 2, [3.0] * 2)),
        "ackley": (ackley, po.Box([-1.0] * 10, [1.0] * 10)),
    }
    results = {
        "peaks": row(*cases["peaks"], np.ones(1), options, runs=options.runs),
        "ackley": row(*cases["ackley"], np.ones(1), options, seconds=options.seconds),
        "digits": digits(nets, options),
    }
    if options.rivals:
        for name, (net, box) in cases.items():
            for solver, solve in RIVALS.items():
                results[f"{name}, {solver}"] = attempt(solve, net, box, options)
        results["digits, OMLT and HiGHS"] = attempt(digits_by_omlt, nets, options)
    if options.marabou:
        for name, (_, box) in cases.items():
            path = nets / {"peaks": "peaks_2_50_50_1.onnx", "ackley": "ackley_10_64_64_1.onnx"}[name]
            results[f"{name}, Marabou"] = attempt(by_marabou, path, box, results[name]["value"] + 1e-3, options)
    about = versions(*PACKAGES) | {"threads": options.threads, "device": str(options.device or "cpu")}
    if options.json:
        print(json.dumps({"results": results, "versions": about}))
        return
    print(about)
    for name, found in results.items():
        print(f"{name:24}", "   ".join(f"{key} {shown(value)}" for key, value in found.items()))


def shown(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def row(net, box, c, options, seconds=None, runs=1) -> dict:
    """The optimum; of several runs the median time."""
    po.optimize(net, box, c, time_limit=0.2, device=options.device)  # imports and first calls
    found = [po.optimize(net, box, c, time_limit=seconds, device=options.device) for _ in range(runs)]
    best, times = found[-1], [each.seconds for each in found]
    return {
        "status": best.status,
        "value": best.value,
        "bound": best.bound,
        "gap": best.gap,
        "seconds": statistics.median(times),
        "boxes": best.branches,
        "boxes_per_second": best.branches / best.seconds,
    }


def questions(nets: Path, count: int):
    """For each image: the network, the box, and the objectives of all rivals."""
    net, test = po.from_onnx(nets / "digits_64_64_64_10.onnx"), np.load(nets / "digits_test.npz")
    for i in test["first_correct"][:count]:
        label = int(test["y"][i])
        box = po.Box.ball(test["X"][i].astype(np.float64), EPS, lower=0.0, upper=1.0)
        eye = np.eye(net.output_size)
        yield net, box, [eye[label] - eye[rival] for rival in range(net.output_size) if rival != label]


def digits(nets: Path, options) -> dict:
    """The worst margin of each image over all classes, and how long that takes."""
    rows = []
    for net, box, objectives in questions(nets, options.images):
        begin = time.perf_counter()
        limit = {"time_limit": options.image_seconds, "device": options.device}
        found = [po.optimize(net, box, c, "min", **limit) for c in objectives]
        seconds = time.perf_counter() - begin
        rows.append((seconds, min(f.value for f in found), all(f.status == "optimal" for f in found)))
    times = [seconds for seconds, _, _ in rows]
    return {
        "median_seconds": statistics.median(times),
        "most_seconds": max(times),
        "worst_margins": [round(value, 6) for _, value, _ in rows],
        "optimal": sum(optimal for _, _, optimal in rows),
        "images": len(rows),
    }


def attempt(solve, *arguments) -> dict:
    try:
        return solve(*arguments)
    except ImportError as error:
        return {"note": f"not installed: {error.name}"}


def sequential(net: po.Network) -> torch.nn.Sequential:
    """A chain of affine layers and ReLUs as the rivals read it."""
    modules: list[torch.nn.Module] = []
    for layer in net.layers:
        if isinstance(layer, Affine):
            module = torch.nn.Linear(*layer.weight.shape[::-1])
            module.weight.data, module.bias.data = (torch.tensor(a).float() for a in (layer.weight, layer.bias))
            modules.append(module)
        else:
            modules.append(torch.nn.ReLU())
    return torch.nn.Sequential(*modules)


def by_gurobi(net, box, options) -> dict:
    import gurobipy as gp
    from gurobi_ml import add_predictor_constr

    begin = time.perf_counter()
    with gp.Env(params={"OutputFlag": 0}) as environment, gp.Model(env=environment) as model:
        x = model.addMVar(box.size, lb=box.lower, ub=box.upper)
        y = model.addMVar(1, lb=-gp.GRB.INFINITY)
        add_predictor_constr(model, sequential(net), x, y)
        model.setObjective(y[0], gp.GRB.MAXIMIZE)
        model.Params.TimeLimit, model.Params.MIPGap, model.Params.Threads = options.rival_seconds, 1e-6, options.threads
        model.optimize()
        value = model.ObjVal if model.SolCount else None
        return ended(model.Status == gp.GRB.OPTIMAL, value, model.ObjBound, time.perf_counter() - begin)


def by_scip(net, box, options) -> dict:
    from pyscipopt import Model
    from pyscipopt_ml.add_predictor import add_predictor_constr

    begin, model = time.perf_counter(), Model()
    model.hideOutput()
    x = np.array([[model.addVar(lb=lower, ub=upper) for lower, upper in zip(box.lower, box.upper, strict=True)]])
    y = np.array([[model.addVar(lb=None, ub=None)]])
    add_predictor_constr(model, sequential(net), x, y, formulation="bigm")
    model.setObjective(y[0, 0], "maximize")
    model.setParam("limits/time", options.rival_seconds)
    model.setParam("limits/gap", 1e-6)
    model.optimize()
    value = model.getObjVal() if model.getNSols() else None
    optimal = model.getStatus() in ("optimal", "gaplimit")
    return ended(optimal, value, model.getDualbound(), time.perf_counter() - begin)


RIVALS = {"Gurobi": by_gurobi, "SCIP": by_scip}


def ended(optimal: bool, value: float | None, bound: float, seconds: float) -> dict:
    gap = None if value is None else abs(bound - value) / max(1.0, abs(value))
    status = "optimal" if optimal else "time limit"
    return {"status": status, "value": value, "bound": bound, "gap": gap, "seconds": seconds}


def digits_by_omlt(nets: Path, options) -> dict:
    """All classes of the first images: OMLT's big-M with its interval bounds, in HiGHS."""
    from omlt import OmltBlock
    from omlt.neuralnet import ReluBigMFormulation

    logging.getLogger("pyomo.core").setLevel(logging.ERROR)  # it sets each input to 0, and is told that this is outside
    times, margins, optimal = [], [], 0
    for net, box, objectives in questions(nets, options.rival_images):
        begin = time.perf_counter()
        layers = [(layer.weight, layer.bias) for layer in net.layers if isinstance(layer, Affine)]
        definition = omlt_network(layers, box)
        m = pyo.ConcreteModel()
        m.net = OmltBlock()
        m.net.build_formulation(ReluBigMFormulation(definition))
        found = []
        for c in objectives:
            m.objective = pyo.Objective(expr=sum(float(w) * m.net.outputs[i] for i, w in enumerate(c)))
            found.append(po.solve(m, time_limit=options.rival_seconds))
            m.del_component("objective")
        times.append(time.perf_counter() - begin)
        margins.append(min((round(each.objective, 6) for each in found if each.objective is not None), default=None))
        optimal += all(each.status == "optimal" for each in found)
    return {
        "median_seconds": statistics.median(times),
        "worst_margins": margins,
        "optimal": optimal,
        "images": len(times),
    }


MARABOU = """
import sys, time
from maraboupy import Marabou
path, lower, upper, value, seconds = sys.argv[1], *map(float, sys.argv[2:])
net = Marabou.read_onnx(path)
for x in net.inputVars[0].flatten():
    net.setLowerBound(x, lower)
    net.setUpperBound(x, upper)
net.setLowerBound(net.outputVars[0].flatten()[0], value)
begin = time.perf_counter()
found = net.solve(options=Marabou.createOptions(verbosity=0, timeoutInSeconds=int(seconds)), verbose=False)
print(found[0], time.perf_counter() - begin)
"""


def by_marabou(path: Path, box: po.Box, value: float, options) -> dict:
    arguments = [str(path), *map(str, (box.lower[0], box.upper[0], value, options.rival_seconds))]
    done = subprocess.run([options.marabou, "-c", MARABOU, *arguments], capture_output=True, text=True)
    if done.returncode:
        return {"note": done.stderr.strip().splitlines()[-1]}
    answer, seconds = done.stdout.split()[-2:]
    return {"status": answer, "asked": value, "seconds": float(seconds)}


if __name__ == "__main__":
    main()
