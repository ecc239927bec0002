"""Unit commitment and dispatch on the IEEE 14-bus network, with networks for what each unit burns and emits.

The networks are affine on three bands of power each, proven, and keep the maker's law in the normal one. The same day
is solved with the whole networks and with their proven affine maps, and against OMLT + HiGHS and PySCIPOpt-ML + SCIP;
then without each line that may be lost, by `polyopt.solve_many`.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, write
from dispatch import Day, build, certified
from fleet import BANDS, FLEET, REGIONS
from grid import grid
from measure import lose_a_line, race
from picture import draw

import polyopt as po

HERE = Path(__file__).resolve().parent
LIMIT, STEPS, DRAWN = 120.0, (3, 6, 24), 12  # seconds, and steps of the day


def learn(hidden: tuple[int, ...], points: int, epochs: int, seed: int) -> tuple[list, list[dict]]:
    """The units with their networks, and how well these do; what is proven is printed."""
    fleet, rows = [], []
    for k, unit in enumerate(FLEET):
        surrogate = unit.learn(hidden, points, epochs, seed + k)
        report, x = surrogate.report, REGIONS[1].sample(1000, np.random.default_rng(seed))
        print(f"unit at bus {unit.bus}:", report, sep="\n")
        fleet.append((unit, surrogate))
        rows.append(
            {
                "bus": unit.bus,
                "rmse": report.held_out.rmse.tolist(),
                "at full load": unit.truth(np.array([[1.0, 15.0]]))[0].tolist(),
                "r2": report.held_out.r2.tolist(),
                "from the law, seen": abs(surrogate(x) - unit.by_law(x)).max(),
                "from the law, proven": report.violations[0].bound,
                "margins": [one.margin for one in report.certificates],
                "seconds": report.seconds,
            }
        )
    return fleet, rows


def table(races: list[dict]) -> str:
    head = ["steps, bands", "contender", "binaries", "rows", "nodes", "build s", "CPU s", "wall s", "cost, $", "gap"]
    lines = []
    for one in races:
        for name, row in one["rows"].items():
            cost, bound = row["objective"], row["bound"]
            gap = "-" if cost is None or bound is None else f"{abs(cost - bound) / max(1.0, abs(cost)):.1%}"
            seconds = f"{row['work']:.1f}" if row["status"] == "optimal" else f"> {row['work']:.0f}"
            size = "-" if "SCIP" in name else row["rows"]
            first = f"{one['hours']}, {len(one['bands'])}"
            found = "-" if cost is None else f"{cost:.2f}"
            build, wall = f"{row['build']:.1f}", f"{row['seconds']:.0f}"
            lines.append([first, name, row["binaries"], size, row["nodes"], build, seconds, wall, found, gap])
    return markdown(head, lines)


def main() -> None:
    options = parser(__doc__, "two steps of a day, small networks, three lines")
    options.add_argument("--limit", type=float, default=LIMIT, help="seconds for each contender and model")
    options = options.parse_args()
    torch.set_num_threads(1)
    small = options.small
    hidden, points, epochs = ((12, 12), 200, 30) if small else ((16, 16), 1000, 150)
    limit, steps, most, workers = (1.0, (2,), 3, 1) if small else (options.limit, STEPS, None, os.cpu_count() or 1)
    graph, out = grid(), folder(HERE, small)
    fleet, learnt = learn(hidden, points, epochs, options.seed)
    races = []
    for count in steps:
        for bands in (["normal"], list(BANDS)):
            races.append(race(Day.of(count), graph, fleet, bands, limit))
    outages = lose_a_line(Day.of(steps[len(steps) // 2]), graph, fleet, most, limit, 1e-4, workers)
    day = Day.of(steps[0] if small else DRAWN)
    m = build(day, graph, fleet, list(BANDS), certified)
    begin, shown = time.perf_counter(), po.solve(m, time_limit=limit, gap=1e-3, threads=1)
    print(f"the day that is drawn: {shown}, {time.perf_counter() - begin:.1f} s")
    draw(m, day, graph, fleet, outages, out / "dispatch.png")
    write(out / "results.json", options, {"limit": limit, "units": learnt, "races": races, "outages": outages})
    print(table(races))
    print(f"\n{len(outages['rows'])} models in {outages['seconds']:.0f} s by {workers} workers")


if __name__ == "__main__":
    main()
