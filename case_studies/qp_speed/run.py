"""Figures 1 and 2 of the OptNet paper, and the projections of mPOLICE: how fast and how exact is the QP layer?

A linear layer, the layer of polyopt and the rivals that are installed take turns on the same problems, in one process.
Solutions and gradients are compared with a reference in extended precision.
"""

import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from problems import paper, police
from race import ABSENT, Result, middle, peak, race
from rivals import CONTENDERS, LINEAR, OURS, PACKAGES
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, save, write

HERE = Path(__file__).resolve().parent
COLORS = {
    OURS: "#0072b2",
    "polyopt with daqp": "#003a5d",
    "polyopt, project": "#56b4e9",
    "qpth": "#d55e00",
    "proxsuite, QPLayer": "#009e73",
    "proxsuite, batch": "#8fd175",
    "moreau, active set": "#cc79a7",
    "moreau, interior point": "#e8b8d2",
    "daqp, one by one": "#e69f00",
    "cvxpylayers": "#7f7f7f",
    LINEAR: "black",
}
CONES = {"33 x 64, B = 1024": (33, 64, 1024), "65 x 128, B = 1024": (65, 128, 1024)}  # n, m, B
SMALL_CONES = {"9 x 16, B = 64": (9, 16, 64)}
Races = dict[str, dict[str, Result]]


def cases(small: bool) -> dict[str, dict[str, Callable]]:
    """What makes the problems of Figure 1, of Figure 2 and of mPOLICE, by their names in the tables."""
    sizes, batch, powers, size = ((5, 10), 16, (1, 4), 10) if small else ((10, 50, 100, 500), 128, range(8), 100)
    return {
        "sizes": {f"n = m = {n}": partial(paper, n, batch) for n in sizes},
        "batches": {f"B = {2**k}": partial(paper, size, 2**k) for k in powers},
        "cones": {name: partial(police, *shape) for name, shape in (SMALL_CONES if small else CONES).items()},
    }


def measured(options, device: str, dtype: torch.dtype) -> dict[str, Races]:
    """The races of all cases, and the peak memory of those that are looked at closely."""
    found = {}
    for figure, makers in cases(options.small).items():
        found[figure] = {}
        for name, make in (bar := tqdm(makers.items(), leave=False)):
            bar.set_description(f"{name}, {dtype}")
            case = make(seed=options.seed).to(device, dtype)
            able = {
                key: contender
                for key, contender in CONTENDERS.items()
                if (contender.cuda or device == "cpu") and (not contender.cone or case.V is not None)
                if contender.solves or figure == "sizes"
            }
            limits = {"rounds": options.rounds, "seconds": options.seconds, "seed": options.seed}
            found[figure][name] = race(case, able, **limits)
    for figure, name in close(options.small):
        make = cases(options.small)[figure][name]
        for key, result in tqdm(found[figure][name].items(), desc=f"memory, {name}", leave=False):
            if not result.out and (key == OURS or not options.small):
                result.memory = peak(key, make, device, dtype, options.threads, options.seed)
    return found


def close(small: bool) -> list[tuple[str, str]]:
    """The cases whose errors and memory are in tables."""
    size = [] if small else [("sizes", "n = m = 100")]
    return [*size, *(("cones", name) for name in (SMALL_CONES if small else CONES))]


def draw(found: dict[str, Races], where: str, path: Path) -> None:
    """Figure 1, Figure 2 and the projections."""
    figure, (sizes, batches, cones) = plt.subplots(1, 3, figsize=(16.5, 5.2), layout="constrained")
    across(sizes, found["sizes"], (OURS, LINEAR), "Figure 1: size n = m")
    for part, style in (("forward", ":"), ("both", "-")):
        sizes.plot([], [], style, color="0.4", label="forward" if part == "forward" else "forward and backward")
    across(batches, found["batches"], [name for name in CONTENDERS if name != LINEAR], "Figure 2: batch size")
    bars(cones, found["cones"])
    sizes.legend(frameon=False)
    sizes.set_ylabel("ms")
    handles = [plt.Line2D([], [], color=color, linewidth=3) for color in COLORS.values()]
    figure.legend(handles, COLORS, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(where, fontsize=11)
    save(figure, path)


def across(axis, races: Races, names, label: str) -> None:
    """Medians over the last number in the cases' names."""
    for name in names:
        for part, style in (("forward", ":"), ("both", "-")):
            seen = {int(case.split()[-1]): getattr(of[name], part) for case, of in races.items() if name in of}
            points = [(at, middle(taken)) for at, taken in seen.items() if taken]
            axis.plot([at for at, _ in points], [ms for _, ms in points], style, color=COLORS[name], marker=".")
    axis.set(xscale="log", yscale="log", xlabel=label)
    ticks = [int(case.split()[-1]) for case in races]
    axis.set_xticks(ticks, ticks)
    axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axis.spines[["top", "right"]].set_visible(False)


def bars(axis, races: Races) -> None:
    """Forward, and forward and backward behind it, of each contender."""
    names = [name for name in CONTENDERS if name != LINEAR]
    for k, of in enumerate(races.values()):
        for i, name in enumerate(names):
            at = k + 0.8 * (i / len(names) - 0.5)
            for part, alpha in (("both", 0.45), ("forward", 1.0)):
                if getattr(of[name], part):
                    axis.bar(at, middle(getattr(of[name], part)), 0.08, align="edge", color=COLORS[name], alpha=alpha)
    axis.set(yscale="log", title="projections: forward (dark), forward and backward (pale)")
    axis.set_xticks(range(len(races)), races)
    axis.spines[["top", "right"]].set_visible(False)


def times(races: Races) -> str:
    """Rows of contenders, columns of cases: forward / forward and backward, and how many times ours."""
    names = [name for name in CONTENDERS if any(name in of and of[name].out != ABSENT for of in races.values())]
    rows = [[name, *(cell(of.get(name), of[OURS]) for of in races.values())] for name in names]
    return markdown(["ms", *races], rows)


def cell(result: Result | None, ours: Result) -> str:
    if result is None or result.out:
        return result.out if result else "-"
    forward, both = middle(result.forward), middle(result.both)
    if both is None:
        return f"{forward:.1f} / -"
    ratio = "" if result is ours or ours.out else f" (x{both / middle(ours.both):.2g})"
    return f"{forward:.1f} / {both:.1f}{ratio}"


def exactness(of: dict[str, Result]) -> str:
    rows = []
    for name, result in of.items():
        if result.errors:
            cells = [result.errors[key] for key in ("residual", "violation", "solution", "gradient")]
            memory = "-" if result.memory is None else f"{result.memory:.0f}"
            rows.append([name, *("-" if x is None else f"{x:.0e}" for x in cells), memory])
    return markdown(["contender", "KKT residual", "violation", "error of z", "error of gradients", "peak MiB"], rows)


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ABSENT
    return found


def main() -> None:
    arguments = parser(__doc__, "tiny problems, few rounds")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    options.rounds, options.seconds = (3, 1.0) if options.small else (21, 4.0)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtypes = (torch.float64, torch.float32) if device == "cuda" else (torch.float64,)
    out, rivals, results = folder(HERE, options.small), versions(), {}
    print(
        "not installed, and left out:", ", ".join(name for name, found in rivals.items() if found == ABSENT) or "none"
    )
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        found = measured(options, device, dtype)
        where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, threads: {options.threads}"
        draw(found, f"{where}; {name}", out / ("speed.png" if len(dtypes) == 1 else f"speed_{name}.png"))
        results[name] = {
            figure: {case: {key: result.to_json() for key, result in of.items()} for case, of in races.items()}
            for figure, races in found.items()
        }
        for figure, races in found.items():
            print(f"{name}, {figure}: forward / forward and backward (times polyopt's)\n{times(races)}\n")
        for figure, case in close(options.small):
            print(f"{name}, {case}\n{exactness(found[figure][case])}\n")
    write(out / "results.json", options, {"rivals": rivals, **results})


if __name__ == "__main__":
    main()
