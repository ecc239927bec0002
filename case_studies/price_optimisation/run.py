"""Prices and allocation of perishable goods through a demand network: polyopt, OMLT and PySCIPOpt-ML on the same model.

Every optimum is checked by a model without a network, which tabulates all prices of the list.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common.report import folder, markdown, parser, write
from common.rivals import rivals
from market import Law, learn
from measure import OURS, Measurement, Plan, contenders, measure
from picture import draw
from table import Table, solve_table
from week import WASTE, Week

import polyopt as po

HERE = Path(__file__).resolve().parent
PACKAGES = ("polyopt", "pyomo", "highspy", "omlt", "PySCIPOpt", "PySCIPOpt-ML", "scipy")
HIDDEN = (24, 24, 24, 24)
CASES = [(2, 3, 7), (3, 3, 5), (2, 5, 7)]  # products, regions, prices on a list
SMALL = [(2, 2, 5)]
TOLERANCE = 1e-5  # relative, between optima


def name_of(case: tuple[int, int, int]) -> str:
    return "{} products, {} regions, {} prices".format(*case)


def study(case: tuple, seed: int, hidden: tuple, entries: dict, limit: float, out: Path | None, bar: tqdm):
    """One instance: the network's errors, the table's optimum, and a measurement of each contender."""
    products, regions, levels = case
    law = Law.of(products)
    surrogate = learn(law, hidden, seed)
    week, net = Week.of(law, regions, levels, seed), surrogate.net
    checked, found = solve_table(week, net), []
    for name, entry in entries.items():
        m, one = measure(name_of(case), seed, name, entry, week, net, limit)
        found.append(one)
        bar.update()
        if name == OURS:
            error, size, plan = po.replay_error(m.net), po.summary(m.net), Plan.of(m)
            if out:
                draw(week, net, law, plan, out)
    instance = {"case": name_of(case), "seed": seed, "r2": surrogate.report.held_out.r2.tolist()}
    instance |= {
        "table": asdict(checked),
        "replay_error": error,
        "units": units(size),
        "law_profit": law_profit(week, law, plan),
    }
    return instance, checked, found


def units(size: po.Summary) -> dict[str, int]:
    """What the bounds decide, of all copies."""
    return {name: getattr(size, name) for name in ("active", "inactive", "unstable")}


def law_profit(week: Week, law: Law, plan: Plan) -> float:
    """The profit, in thousands of dollars, that the plan makes where customers follow the law and not the network."""
    sold = np.minimum(plan.shipped, law(plan.prices, week.features))
    cost = (week.transport[:, None] * plan.shipped).sum() + WASTE * (week.harvest.sum() - sold.sum())
    return float((plan.prices * sold).sum() - cost)


def contradictions(checked: Table, found: list[Measurement]) -> list[str]:
    """Optima that differ from the table's, and bounds below it."""
    scale = TOLERANCE * max(1.0, abs(checked.profit))
    return [
        f"{one.case}, seed {one.seed}: {one.contender} has {one.objective} <= {one.bound}, the table {checked.profit}"
        for one in found
        if (one.status == "optimal" and abs(one.objective - checked.profit) > scale)
        or (one.bound is not None and one.bound < checked.profit - scale)
    ]


def table(found: list[Measurement]) -> str:
    """One row for each case and contender: medians over the seeds, and build and solve in times of polyopt's."""
    mine = {(one.case, one.seed): one.total for one in found if one.contender == OURS}
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for one in found:
        groups.setdefault((one.case, one.contender), []).append(one)
    rows = []
    for (case, contender), group in groups.items():
        solved = [one for one in group if one.status == "optimal"]
        ratios = [one.total / mine[case, one.seed] for one in group]
        more = "" if len(solved) == len(group) else "> "
        size = [int(statistics.median(one.rows for one in group)) if group[0].rows else "-"]
        size.append(int(statistics.median(one.binaries for one in group)))
        times = [f"{statistics.median(one.build for one in group):.2f}"]
        times.append(f"{more}{statistics.median(one.work for one in group):.2f}")
        gap = max(one.gap for one in group)
        shown = "0" if gap <= 1.01e-6 else f"{100 * gap:.1f}%" if gap < 10 else "-"
        rows.append(
            [
                case,
                contender,
                *size,
                *times,
                f"{len(solved)} of {len(group)}",
                shown,
                f"{more}{statistics.median(ratios):.1f}",
            ]
        )
    head = ["instances", "contender", "rows", "binaries", "build s", "solve s", "optimal", "largest gap"]
    return markdown([*head, "times polyopt's"], rows)


def instance_table(instances: list[dict], found: list[Measurement]) -> str:
    """One row an instance: what polyopt found, and the check."""
    rows = []
    for one in instances:
        mine = next(m for m in found if (m.case, m.seed, m.contender) == (one["case"], one["seed"], OURS))
        apart = abs(mine.objective - one["table"]["profit"]) if mine.objective is not None else np.nan
        unstable, all_units = one["units"]["unstable"], sum(one["units"].values())
        profits = [f"{mine.objective:.3f}", f"{one['law_profit']:.3f}", f"{one['replay_error']:.0e}"]
        check = [f"{apart:.0e}", one["table"]["vectors"], f"{one['table']['work']:.2f}"]
        size = [f"{min(one['r2']):.3f}", f"{unstable} of {all_units}"]
        rows.append([one["case"], one["seed"], *size, *profits, *check, f"{mine.work:.2f}"])
    head = ["instance", "seed", "worst R^2", "undecided units", "profit", "by the law", "replay error", "from table"]
    return markdown([*head, "price vectors", "table s", "polyopt s"], rows)


def main() -> None:
    made = parser(__doc__, "two products in two regions, a small network, no rivals")
    made.add_argument("--seeds", type=int, default=3, help="instances of each size (default 3)")
    made.add_argument("--limit", type=float, default=60.0, help="seconds of wall time for each solve (default 60)")
    options = made.parse_args()
    torch.set_num_threads(1)
    out = folder(HERE, options.small)
    (out / "results").mkdir(exist_ok=True)
    cases, hidden = (SMALL, (12, 12)) if options.small else (CASES, HIDDEN)
    seeds = range(options.seed, options.seed + (1 if options.small else options.seeds))
    others = [] if options.small else rivals()
    entries = {case: contenders(case[0], others) for case in cases}
    instances, found, bad = [], [], []
    with tqdm(total=len(seeds) * sum(map(len, entries.values()))) as bar:
        for seed in seeds:
            for case in cases:
                picture = out / "prices.png" if case == cases[min(1, len(cases) - 1)] and seed == seeds[0] else None
                instance, checked, some = study(case, seed, hidden, entries[case], options.limit, picture, bar)
                instances.append(instance)
                found += some
                bad += contradictions(checked, some)
                results = {"packages": versions(), "instances": instances, "answers": [asdict(one) for one in found]}
                write(out / "results" / "results.json", options, results)
    print(f"\n{instance_table(instances, found)}\n\n{table(found)}\n")
    if bad:
        sys.exit("\n".join(bad))


def versions() -> dict[str, str]:
    """Of everything that took part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    main()
