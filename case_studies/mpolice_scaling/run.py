"""Figure 4 of the mPOLICE paper, and its sign rules beside the exact optimum: time, cost, and where they fail.

Each hidden layer of a network is changed so that no unit cuts a region and all regions are told apart: with the signs
that cost least, by `polyopt.police`, with those of the paper's rules, and by the paper's pipeline in cvxpy with SCS,
where that is installed.
"""

import itertools
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pipeline
import torch
from measure import LAYERS, RULES, SMALL_LAYERS, figure4, layers, rules
from picture import draw, fastest
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, save, write

HERE = Path(__file__).resolve().parent
SIZES = {"width": (8, 16, 32, 64), "depth": (2, 4, 6, 8), "vertices": (8, 16, 32, 64)}
SMALL_SIZES = {"width": (4, 8), "depth": (1, 2), "vertices": (8, 16)}
PACKAGES = ("cvxpy", "scs", "highspy")


def panels_of(sizes: dict[str, tuple]) -> list[tuple[str, str, dict]]:
    """Figure 4: what is drawn across, what has a line each, and what is fixed."""
    return [
        ("vertices", "width", {"depth": sizes["depth"][0]}),
        ("vertices", "depth", {"width": sizes["width"][-2]}),
        ("depth", "width", {"vertices": sizes["vertices"][0]}),
    ]


def points_of(sizes: dict[str, tuple]) -> list[dict]:
    """All points of the panels, each once."""
    every = [dict(zip(sizes, values, strict=True)) for values in itertools.product(*sizes.values())]
    return [point for point in every if any(fixed.items() <= point.items() for *_, fixed in panels_of(sizes))]


def panel_table(rows: list[dict], across: str, along: str, fixed: dict) -> str:
    """Milliseconds: exact with proofs (how much of it in the layers) / the pipeline (how many times the first)."""
    rows = {(row[along], row[across]): row for row in rows if fixed.items() <= row.items()}
    lines, columns = (sorted({key[k] for key in rows}) for k in (0, 1))
    title = f"{along}, at {next(iter(fixed))} {next(iter(fixed.values()))}"
    cells = [[f"{along} {line}", *(cell(rows[line, column]) for column in columns)] for line in lines]
    return markdown([title, *(f"{across} {column}" for column in columns)], cells)


def cell(row: dict) -> str:
    ours, rival = row["exact"], fastest(row)
    if "failed" in ours:
        return "fails"
    times = f"{ours['ms']:.0f} ({ours['share']:.0%})"
    return times if rival is None else f"{times} / {rival['ms']:.0f} (x{rival['ms'] / ours['ms']:.1f})"


def layer_table(rows: list[dict]) -> str:
    head = ["layer", "N", "units", "vertices", "exact, ms", "aim", "majority", *pipeline.WAYS, "fastest / exact"]
    return markdown(head, [layer_line(row) for row in rows])


def layer_line(row: dict) -> list[str]:
    rival = fastest(row)
    aim = "-" if row["aim_ms"] is None else f"{row['aim_ms']:.0f}"
    ways = [row["pipeline"].get(way) for way in pipeline.WAYS]
    ratio = "-" if rival is None else f"x{rival['ms'] / row['exact']['ms']:.1f}"
    taken = [milliseconds(found) for found in (row["majority"], *ways)]
    shape = [row["name"], row["regions"], row["width"], row["vertices"]]
    return [*shape, milliseconds(row["exact"]), aim, *taken, ratio]


def milliseconds(found: dict | None) -> str:
    if found is None:
        return "-"
    return f"{found['ms']:.1f}" + (", fails" if "failed" in found else "")


def cost_table(rows: list[dict]) -> str:
    """Costs, and the least of s u v~ - margin."""
    cells = []
    for row in rows:
        rival = fastest(row) or {}
        found = [row["exact"].get("bound"), *(x.get("cost") for x in (row["exact"], row["majority"], rival))]
        slack = [x.get("slack") for x in (row["exact"], rival)]
        cells.append(
            [f"{row['name']}, N = {row['regions']}"]
            + ["-" if x is None else f"{x:.6g}" for x in found]
            + ["-" if x is None else f"{x:.0e}" for x in slack]
        )
    return markdown(["layer", "bound", "exact", "majority", "pipeline", "slack, exact", "slack, pipeline"], cells)


def rule_table(rows: list[dict]) -> str:
    cells = []
    for row, rule in itertools.product(rows, RULES):
        found, ratios = row[rule], row[rule]["cost ratios"]
        middle = f"x{np.median(ratios):.2f}, x{max(ratios):.2f}" if ratios else "-"
        (layer, layer_ms), (whole, whole_ms) = (found[part].values() for part in ("layer", "network"))
        cells.append([f"{row['regions']}, {rule}", layer, middle, f"{layer_ms:.1f}", whole, f"{whole_ms:.1f}"])
    head = ["N, signs", "layer: fails", "cost / least: median, most", "ms", "network: fails", "ms"]
    return markdown(head, cells)


def proofs(name: str, found: list[dict]) -> str:
    """What is proven of the networks behind a measurement."""
    found = [x for x in found if x.get("proofs")]
    affine, regions = (sum(x[key] for x in found) for key in ("affine", "proofs"))
    margin = min(x["margin"] for x in found)
    return f"{name}: affine_on says 'affine' for {affine} of {regions} regions, least margin {margin:.3g}"


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES if name == "highspy" or pipeline.cp}


def main() -> None:
    arguments = parser(__doc__, "small networks, two seeds")
    arguments.add_argument("--seeds", type=int, default=20, help="for the sign rules")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    options.epochs, options.rounds, options.seconds = (20, 1, 0.1) if options.small else (300, 11, 1.0)
    torch.set_num_threads(options.threads)
    if not pipeline.WAYS:
        print("cvxpy is not installed: the paper's pipeline is left out")
    sizes, cases = (SMALL_SIZES, SMALL_LAYERS) if options.small else (SIZES, LAYERS)
    counts, seeds = ((2, 3), 2) if options.small else ((2, 3, 4, 5, 6), options.seeds)

    layered = [layers(case, options) for case in tqdm(cases, desc="layers")]
    ruled = [rules(count, range(seeds), options) for count in tqdm(counts, desc="sign rules")]
    drawn = [figure4(**point, options=options) for point in tqdm(points_of(sizes), desc="Figure 4")]

    out = folder(HERE, options.small)
    save(draw(drawn, panels_of(sizes), ruled), out / "scaling.png")
    found = {"layers": layered, "rules": ruled, "figure 4": drawn}
    write(out / "results.json", options, {"packages": versions(), **found})
    print(layer_table(layered), cost_table(layered), sep="\n\n", end="\n\n")
    for panel in panels_of(sizes):
        print(panel_table(drawn, *panel), end="\n\n")
    print(rule_table(ruled), end="\n\n")
    print(proofs("layers", [row["network"] for row in layered]))
    print(proofs("sign rules", [row[rule] for row in ruled for rule in RULES]))
    print(proofs("Figure 4", [row[rule] for row in drawn for rule in RULES[:2]]))
    if rivals := [found for row in drawn if (found := fastest(row))]:
        print(f"the pipeline, Figure 4: 'affine' for {sum(x['affine'] for x in rivals)} of {2 * len(rivals)} regions")


if __name__ == "__main__":
    main()
