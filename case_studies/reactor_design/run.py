"""Maximise the profit of a reactor through a surrogate of it: what a trust region and refinement are worth.

A network learns a van de Vusse reactor from what a plant has on record, a thin band of what is possible. With the
network for the reactor, a mixed-integer program chooses vessels, pumps, chillers and the operating point, in four trust
regions and round by round of `refine`. The reactor itself tells what each plan is worth, and global search on it what
the best one is.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, save, write
from common.rivals import Answer
from history import history
from optimum import Optimum, true_optimum
from picture import draw
from reactor import LOWER, UPPER, count_steady_states, simulate, steady_outputs, steady_state
from scipy.spatial import Delaunay
from study import FEASIBLE, REGIONS, Effort, contest, fitted, gaps, refined, worth

HERE = Path(__file__).resolve().parent
FULL, SMALL = Effort(), Effort(hidden=(10,), epochs=80, rounds=2, seeds=1, limit=5.0)
BENCHMARK, ITS_FEED = np.array([14.19, 5.1, 111.35]), 104.9  # the benchmark's main operating point, C
ALLOWANCE = 0.05  # percent and K, to find what the two limits cost
SAME = 1e-5  # relative: optima of one model, from solvers that work to 1e-6
WIDTHS = (16, 24, 32)  # of both hidden layers, for the contest of solvers


def simulator(count: int) -> dict:
    """The benchmark's point, how many steady states random points have, and how far start-up is from the equation."""
    points = np.random.default_rng(0).uniform(LOWER, UPPER, (100 * count, 3))
    some = points[:count]
    apart = abs(np.array([simulate(x) for x in some]) - steady_outputs(some))
    return {
        "benchmark": [float(part) for part in steady_state(BENCHMARK, ITS_FEED)],
        "steady states": sorted(set(count_steady_states(points).tolist())),
        "apart": float(apart.max()),
    }


def measured(seed: int, best: Optimum, effort: Effort) -> dict:
    """One plant: its record, the surrogate, and all rounds in each trust region."""
    record = history(effort.points, seed)
    surrogate = fitted(record, steady_outputs(record), effort, seed)
    runs = {}
    for name, region in tqdm(REGIONS.items(), desc=f"seed {seed}", leave=False):
        steps, stopped = refined(surrogate, region, effort)
        runs[name] = {"steps": steps, "stopped": stopped, "gaps": gaps(steps, best.profit, effort.rounds)}
    return {
        "seed": seed,
        "record": record,
        "optimum in hull": bool(Delaunay(record).find_simplex(best.x) >= 0),
        "rmse": surrogate.report.held_out.rmse.tolist(),
        "runs": runs,
    }


def contests(record: np.ndarray, seed: int, effort: Effort) -> dict[int, dict[str, Answer]]:
    """The model of the first round in the hull by each contender, for networks of several widths."""
    answers, widths = {}, effort.hidden if len(effort.hidden) == 1 else WIDTHS
    for width in tqdm(widths, desc="contest", leave=False):
        own = replace(effort, hidden=(width,) * len(effort.hidden))
        answers[width] = contest(fitted(record, steady_outputs(record), own, seed), effort.limit)
    return answers


def middle(values: Iterable[float], digits: int = 2) -> str:
    """The median, and the largest where there are several."""
    values = list(values)
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({max(values):.{digits}f})"


def plans_table(plant: dict) -> str:
    """One plant's first and best plans in each trust region: what they promised and what they are worth."""
    rows = []
    for name, run in plant["runs"].items():
        best = max(run["steps"], key=worth)
        for one in (run["steps"][0], best):
            k = run["steps"].index(one)
            point = ", ".join(f"{part:.4g}" for part in one.x)
            hired = f"{one.hired['vessels']}, {one.hired['pumps']}, {one.hired['chillers']}"
            numbers = [f"{value:.2f}" for value in (one.predicted, one.profit)]
            rows.append([name, k, *numbers, f"{one.violation:.3f}", f"{run['gaps'][k]:.2f}", point, hired])
    head = ["trust region", "round", "predicted", "true", "limit missed by", "gap, %", "dilution, feed, cooling"]
    return markdown([*head, "vessels, pumps, chillers"], rows)


def promises_table(plants: list[dict]) -> str:
    """The first plans of all seeds: how much more they promised than they are worth, and whether limits are kept."""
    rows = []
    for name in REGIONS:
        first = [plant["runs"][name]["steps"][0] for plant in plants]
        kept = sum(one.violation <= FEASIBLE for one in first)
        promised = middle(one.predicted - worth(one) for one in first)
        missed = middle((one.violation for one in first), 3)
        rows.append([name, promised, missed, f"{kept} of {len(first)}"])
    return markdown(["trust region", "promised too much, EUR/h", "limit missed by", "within the limits"], rows)


def rounds_table(plants: list[dict], rounds: int) -> str:
    """The gap after each round, the median and the worst of all seeds."""
    rows = []
    for name in REGIONS:
        columns = zip(*(plant["runs"][name]["gaps"] for plant in plants), strict=True)
        rows.append([name, *(middle(column) for column in columns)])
    return markdown(["gap, %", *(f"round {k}" for k in range(rounds))], rows)


def milp_table(plants: list[dict]) -> str:
    """Size and effort of the MILPs of all rounds."""
    rows = []
    for name in REGIONS:
        steps = [step for plant in plants for step in plant["runs"][name]["steps"]]
        optimal = sum(step.status == "optimal" for step in steps)
        sizes = sorted({step.binaries for step in steps})
        effort = [middle([step.nodes for step in steps], 0), middle(step.work for step in steps)]
        rows.append([name, f"{optimal} of {len(steps)}", f"{sizes[0]} to {sizes[-1]}", *effort])
    return markdown(["trust region", "proven optimal", "binaries", "nodes", "s at work"], rows)


def contest_table(found: dict[int, dict[str, Answer]]) -> str:
    rows = []
    for width, answers in found.items():
        ours, *_ = answers.values()
        for name, one in answers.items():
            ratio = f"{'' if one.status == 'optimal' else '> '}x{one.work / ours.work:.1f}"
            value = "-" if one.objective is None else f"{one.objective:.4f}"
            rows.append([width, name, one.status, value, one.binaries, one.nodes, f"{one.work:.2f}", ratio])
    return markdown(
        ["width", "contender", "status", "profit", "binaries", "nodes", "s at work", "times polyopt's"], rows
    )


def check(plants: list[dict], found: dict[int, dict[str, Answer]], best: Optimum) -> None:
    """End with an error where a plan is worth more than the true optimum, or contenders disagree."""
    for plant in plants:
        for name, run in plant["runs"].items():
            if (most := max(map(worth, run["steps"]))) > best.profit + 1e-6:
                sys.exit(f"seed {plant['seed']}, {name}: a plan is worth {most}, more than the optimum {best.profit}")
    for width, answers in found.items():
        optima = [answer.objective for answer in answers.values() if answer.status == "optimal"]
        if optima and max(optima) - min(optima) > SAME * max(optima):
            sys.exit(f"width {width}: one model has the optima {optima}")


def plain(plant: dict) -> dict:
    """What json takes."""
    runs = {
        name: run | {"steps": [asdict(step) for step in run["steps"]], "gaps": run["gaps"].tolist()}
        for name, run in plant["runs"].items()
    }
    return {name: value for name, value in plant.items() if name != "record"} | {"runs": runs}


def main() -> None:
    options = parser(__doc__, "a network of 10 units, 2 rounds, one seed").parse_args()
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    effort = SMALL if options.small else FULL
    facts, best = simulator(5 if options.small else 100), true_optimum()
    facts["price of the limits"] = (true_optimum(ALLOWANCE).profit - best.profit) / ALLOWANCE
    print(f"{facts}\ntrue optimum {best.profit:.4f} EUR/h at {best.x.round(3)}, outputs {best.outputs.round(4)}")
    print(f"with {', '.join(map(str, best.choice))} (vessels, pumps, chillers)")
    plants = [measured(options.seed + k, best, effort) for k in range(effort.seeds)]
    print("optimum in the hull of the record:", [plant["optimum in hull"] for plant in plants])
    found = contests(plants[0]["record"], options.seed, effort)
    out, first = folder(HERE, options.small), plants[0]
    points = {
        name: np.array([run["steps"][0].x, max(run["steps"], key=worth).x]) for name, run in first["runs"].items()
    }
    every = {name: np.array([plant["runs"][name]["gaps"] for plant in plants]) for name in REGIONS}
    save(draw(every, points, first["record"], best.x), out / "reactor.png")
    optimum = {"profit": best.profit, "x": best.x.tolist(), "outputs": best.outputs.tolist(), "choice": best.choice}
    results = {"effort": asdict(effort), "simulator": facts, "optimum": optimum, "plants": list(map(plain, plants))}
    results["contest"] = {width: {name: asdict(one) for name, one in each.items()} for width, each in found.items()}
    write(out / "results.json", options, results)
    tables = [plans_table(first), promises_table(plants), rounds_table(plants, effort.rounds), milp_table(plants)]
    print("", *tables, contest_table(found), sep="\n\n")
    check(plants, found, best)


if __name__ == "__main__":
    main()
