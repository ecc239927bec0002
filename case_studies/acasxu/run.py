"""Is an airborne collision avoidance system safe? The 186 instances of ACAS Xu, by `polyopt bench`."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, save, write
from encounter import draw, find
from toy import write_toy

import polyopt as po
from polyopt.bench import Row, read_rows, wrong

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data" / "vnn" / "acasxu"
SMALL = (("1_1", 1), ("2_1", 2), ("1_1", 4), ("1_7", 3), ("1_9", 4), ("2_9", 8))  # networks and properties
MET = ("ACASXU_run2a_2_9_batch_2000.onnx", "prop_8.vnnlib")  # the encounter that is drawn
SOLVED = ("verified", "falsified")


def chosen(data: Path, out: Path) -> Path:
    """The table of the instances of a small run, with files found from where it is."""
    wanted = {(f"ACASXU_run2a_{net}_batch_2000.onnx", f"prop_{number}.vnnlib") for net, number in SMALL}
    with open(data / "instances.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    head = [line for line in lines[:1] if "onnx" in line]  # the competitions publish it without
    kept = [line for line in lines if (Path(line[0]).name, Path(line[1]).name) in wanted]
    table = out / "instances.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        paths = [[os.path.relpath(data / name, out) for name in line[:2]] + line[2:] for line in kept]
        csv.writer(file).writerows([*head, *paths])
    return table


def run_bench(table: Path, results: Path, options: argparse.Namespace) -> None:
    """`polyopt bench`, as on the command line; RuntimeError where it fails, a wrong verdict shows in the table."""
    command = [sys.executable, "-m", "polyopt", "bench", str(table), "--out", str(results)]
    command += ["--jobs", str(options.jobs), "--threads", str(options.threads)]
    command += ["--time-limit", str(options.time_limit)] if options.time_limit else []
    command += ["--resume"] if options.resume else []
    if subprocess.run(command).returncode not in (0, 10):
        raise RuntimeError("polyopt bench did not come to its end; go on with --resume")


def published(table: Path) -> dict[tuple[str, str], float]:
    """The seconds of the fastest tool of the competitions on each instance, where the table has them."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if ":" in (row.get("fastest") or "")]
    return {(row["onnx"], row["vnnlib"]): float(row["fastest"].rpartition(":")[2]) for row in rows}


def by_property(rows: list[Row]) -> str:
    """The table: what became of the instances of each property, and of all."""
    groups = {}
    for row in rows:
        groups.setdefault(int(re.search(r"(\d+)\.vnnlib", row["vnnlib"])[1]), []).append(row)
    lines = [_cells(str(number), group) for number, group in sorted(groups.items())]
    head = ["property", "instances", "verified", "falsified", "unknown", "error", "wrong", "median s", "largest s"]
    return markdown(head, [*lines, _cells("all", rows)])


def _cells(name: str, rows: list[Row]) -> list:
    counts = [sum(row["status"] == status for row in rows) for status in (*SOLVED, "unknown", "error")]
    seconds = [float(row["seconds"]) for row in rows]
    return [name, len(rows), *counts, len(wrong(rows)), f"{statistics.median(seconds):.3f}", f"{max(seconds):.2f}"]


def cactus(rows: list[Row], fastest: dict[tuple[str, str], float], path: Path) -> None:
    """How many instances are solved within so many seconds."""
    solved = [row for row in rows if row["status"] in SOLVED]
    figure, axis = plt.subplots(figsize=(7.0, 4.4), layout="constrained")
    _steps(axis, (float(row["seconds"]) for row in solved), "polyopt, files to verdict", "#0072b2", "-")
    _steps(axis, (float(row["wall"]) for row in solved), "polyopt, process to answer", "#56b4e9", "-")
    if fastest:
        _steps(axis, fastest.values(), "fastest tool on each instance, as published", "#d55e00", "--")
    axis.axhline(len(rows), color="0.7", linewidth=0.8)
    axis.set(xscale="log", xlabel="seconds", ylabel="instances solved within")
    axis.legend(frameon=False, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def _steps(axis: plt.Axes, seconds: Iterable[float], label: str, color: str, style: str) -> None:
    seconds = sorted(seconds)
    axis.step(seconds, range(1, len(seconds) + 1), style, where="post", color=color, label=label)


def comparison(rows: list[Row], fastest: dict[tuple[str, str], float]) -> dict:
    """In how many of the instances that both solve polyopt took less than the fastest tool, and the median ratio."""
    pairs = [
        (fastest[row["onnx"], row["vnnlib"]], float(row["wall"]))
        for row in rows
        if row["status"] in SOLVED and (row["onnx"], row["vnnlib"]) in fastest
    ]
    ratios = [theirs / ours for theirs, ours in pairs]
    return {"both": len(pairs), "sooner": sum(r > 1 for r in ratios), "ratio": statistics.median(ratios or [0.0])}


def meet(table: Path, rows: list[Row], path: Path) -> dict | None:
    """The encounter of property 8, drawn; without it, that of the last instance that is falsified."""
    unsafe = [[table.parent / row[name] for name in ("onnx", "vnnlib")] for row in rows if row["status"] == "falsified"]
    if not unsafe:
        return None
    wanted = [pair for pair in unsafe if tuple(file.name for file in pair) == MET]
    onnx, vnnlib = (wanted or unsafe)[-1]
    net = po.from_onnx(onnx)
    met = find(net, onnx, vnnlib)
    if met is None:
        return None
    draw(net, met, path)
    return met.to_json()


def main() -> None:
    arguments = parser(__doc__, "six instances, of a network of its own where there is no data")
    arguments.add_argument("--data", type=Path, default=DATA, help="the folder with instances.csv")
    arguments.add_argument("--time-limit", type=float, help="seconds an instance; by default the table's own")
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=1, help="of each job (default 1)")
    arguments.add_argument("--resume", action="store_true", help="go on where a run that was stopped left results/")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    there = (options.data / "instances.csv").exists()
    if not there and not options.small:
        print("no instances.csv in the folder of --data: nothing is measured (see README.md for where it is published)")
        return
    out = folder(HERE, options.small)
    results = out / "results"
    results.mkdir(exist_ok=True)
    if there:
        table = chosen(options.data, out) if options.small else options.data / "instances.csv"
    else:
        print("there is no data: a network of its own")
        table = write_toy(out / "toy", options.seed)
    if not options.resume:
        (results / "acasxu.csv").unlink(missing_ok=True)
    run_bench(table, results / "acasxu.csv", options)

    rows, fastest = read_rows(results / "acasxu.csv"), published(table)
    print(by_property(rows))
    cactus(rows, fastest, out / "cactus.png")
    summary = {"published": comparison(rows, fastest) if fastest else None}
    summary["encounter"] = meet(table, rows, out / "encounter.png")
    print(json.dumps(summary, indent=1))
    del options.data  # a path of this machine
    write(results / "summary.json", options, summary)
    bad = wrong(rows) + [row for row in rows if row["status"] == "error"]
    if bad:
        sys.exit("\n".join(f"{r['onnx']}, {r['vnnlib']}: {r['status']} {r['error']}" for r in bad))


if __name__ == "__main__":
    main()
