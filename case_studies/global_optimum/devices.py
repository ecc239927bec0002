"""Boxes a second on a CPU and on a GPU: ackley to 1e-3, and the two hardest of the ACAS Xu properties."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import markdown, write
from problems import ackley

import polyopt as po
from polyopt.bounds import batches
from polyopt.search.branching import BATCH

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
NETWORKS = ("3_3", "4_2")  # for which property 2 takes most boxes
ON_GPU = (2**14, 2**16)  # boxes at a time

Answer = dict[str, str | float]


def questions(data: Path, seconds: float) -> Iterator[tuple[str, Callable[[str], tuple[str, float, int]]]]:
    """What is asked, and a function of the device that gives the status, the gap or margin, and the boxes."""
    problem = ackley(data / "nets", 1e-3)

    def optimum(device: str):
        options = {"time_limit": seconds, "gap": problem.gap, "device": device}
        best = po.optimize(problem.net, problem.box, problem.objective, **options)
        return best.status, best.gap, best.branches

    yield "ackley", optimum
    for name in NETWORKS:
        net = po.from_onnx(data / "vnn" / "acasxu" / f"ACASXU_run2a_{name}_batch_2000.onnx")
        prop = po.read_vnnlib(data / "vnn" / "acasxu" / "prop_2.vnnlib")

        def verdict(device: str, net=net, prop=prop):
            found = po.verify(net, prop, time_limit=seconds, device=device)
            return found.status, found.bound, found.branches

        yield f"ACAS Xu {name}, property 2", verdict


def answered(name: str, ask: Callable, device: str, size: int) -> Answer:
    """One question on one device."""
    begin = time.perf_counter()
    status, value, boxes = ask(device)
    seconds = time.perf_counter() - begin
    return {
        "question": name,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, threads: {torch.get_num_threads()}",
        "batch": size,
        "status": status,
        "gap or margin": value,
        "boxes": boxes,
        "seconds": seconds,
        "boxes a second": boxes / seconds,
    }


def table(answers: list[Answer]) -> str:
    """One row an answer."""
    forms = {"gap or margin": ".3g", "seconds": ".2f", "boxes a second": ".0f"}
    return markdown(list(answers[0]), [[format(v, forms.get(k, "")) for k, v in one.items()] for one in answers])


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--data", type=Path, default=DATA, help="the folder with nets/ and vnn/acasxu/")
    made.add_argument("--seconds", type=float, default=60.0, help="for each question (default 60)")
    made.add_argument("--threads", type=int, default=1, help="on the CPU (default 1)")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    data = options.data
    del options.data  # a path of this machine, which belongs in no table
    ways = [("cpu", BATCH)]
    if torch.cuda.is_available():
        ways += [("cuda", size) for size in ON_GPU]
        net = po.from_onnx(data / "nets" / "peaks_2_50_50_1.onnx")
        po.optimize(net, po.Box([-3.0] * 2, [3.0] * 2), [1.0], device="cuda")  # loads CUDA's kernels
    answers = []
    for name, ask in tqdm(list(questions(data, options.seconds))):
        for device, size in ways:
            batches.GPU = size // BATCH
            answers.append(answered(name, ask, device, size))
    print(table(answers))
    write(HERE / "results" / "devices.json", options, {"answers": answers})


if __name__ == "__main__":
    main()
