"""polyopt beside Marabou: the same instances of ACAS Xu, drawn at random, in the same run and each on one thread.

Marabou (Katz et al. 2019, Wu et al. 2024) decides by simplex and case splits, with bounds of DeepPoly; its Python
package is `pip install maraboupy`. Properties of one polytope of unsafe outputs are asked for, as its queries are
conjunctions. It gets the network's file, the input's box and the rows of the outputs, and a process that is killed
when it overstays the limit.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import itertools
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import markdown
from run import DATA, HERE

from polyopt import read_vnnlib
from polyopt.instances import read_instances, verify_files

SAYS = {"sat": "falsified", "unsat": "verified"}


def ask_polyopt(onnx: Path, vnnlib: Path, limit: float) -> str:
    """The verdict of `po.verify`."""
    return verify_files(onnx, vnnlib, limit, threads=1).status


def ask_marabou(onnx: Path, vnnlib: Path, limit: float) -> str:
    """Marabou's answer in the same words."""
    from maraboupy import Marabou, MarabouCore

    prop = read_vnnlib(vnnlib)
    (unsafe,) = prop.unsafe
    net = Marabou.read_onnx(str(onnx))
    inputs, outputs = net.inputVars[0].ravel(), net.outputVars[0].ravel()
    box = prop.region.bounding_box()
    for variable, low, high in zip(inputs.tolist(), box.lower.tolist(), box.upper.tolist(), strict=True):
        net.setLowerBound(variable, low)
        net.setUpperBound(variable, high)
    for row, side in zip(unsafe.A.tolist(), unsafe.b.tolist(), strict=True):
        net.addInequality(outputs.tolist(), row, side)
    options = Marabou.createOptions(timeoutInSeconds=max(int(limit), 1), verbosity=0)
    answer, _, _ = MarabouCore.solve(net.getInputQuery(), options, os.devnull)
    return SAYS.get(answer, "unknown")


def timed(ask, onnx: Path, vnnlib: Path, limit: float) -> tuple[str, float]:
    """The answer of a process of its own, and its wall seconds from the reading of the files."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(ask, onnx, vnnlib, limit, sender), daemon=True)
    process.start()
    receiver.recv()  # its imports are done
    answered = receiver.poll(limit + 5.0)
    answer = receiver.recv() if answered else ("unknown", limit)
    process.kill()
    process.join()
    return answer


def _answer(ask, onnx: Path, vnnlib: Path, limit: float, sender) -> None:
    for module in ("polyopt.search.decide", "polyopt.verification.attack", "maraboupy.Marabou"):
        importlib.import_module(module)
    sender.send("ready")
    begin = time.perf_counter()
    status = ask(onnx, vnnlib, limit)
    sender.send((status, time.perf_counter() - begin))


def drawn(table: Path, count: int, seed: int) -> list[tuple[Path, Path]]:
    """So many of the instances with one polytope of unsafe outputs."""
    instances = read_instances(table)
    random.Random(seed).shuffle(instances)
    files = ((table.parent / instance.onnx, table.parent / instance.vnnlib) for instance in instances)
    return list(itertools.islice((pair for pair in files if _is_conjunction(pair[1])), count))


def _is_conjunction(vnnlib: Path) -> bool:
    cases = read_vnnlib(vnnlib).cases
    return len(cases) == 1 and len(cases[0].unsafe) == 1


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=DATA, help="the folder with instances.csv")
    arguments.add_argument("--instances", type=int, default=20)
    arguments.add_argument("--limit", type=float, default=60.0, help="seconds for each of the two (default 60)")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    rows = []
    for onnx, vnnlib in drawn(options.data / "instances.csv", options.instances, options.seed):
        ours, theirs = (timed(ask, onnx, vnnlib, options.limit) for ask in (ask_polyopt, ask_marabou))
        rows.append([onnx.name.removeprefix("ACASXU_run2a_").removesuffix("_batch_2000.onnx"), vnnlib.stem])
        rows[-1] += [ours[0], f"{ours[1]:.2f}", theirs[0], f"{theirs[1]:.2f}"]
        print(*rows[-1], flush=True)
        if {ours[0], theirs[0]} == {"verified", "falsified"}:
            raise RuntimeError(f"{onnx.name}, {vnnlib.name}: the two contradict each other")
    print(markdown(["network", "property", "polyopt", "s", "Marabou", "s"], rows))
    ratios = [float(row[5]) / float(row[3]) for row in rows]
    print(f"Marabou's seconds over ours, its limit where it has no answer: median {statistics.median(ratios):.1f}")
    with open(HERE / "results" / "marabou.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["network", "property", "polyopt", "seconds", "marabou", "its seconds"], *rows])
    versions = {name: version(name) for name in ("maraboupy", "torch", "numpy")}
    print(json.dumps({"versions": versions, "limit": options.limit, "seed": options.seed}))


if __name__ == "__main__":
    main()
