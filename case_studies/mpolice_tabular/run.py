"""A surrogate of disease progression that keeps clinical constraints on two boxes in 10 dimensions, by mPOLICE.

Networks for scikit-learn's diabetes data are trained with and without constraints on two named ranges of the features.
Test errors, by how much each constraint is violated, and what is proven are compared; no claim is printed without its
proof.
"""

import copy
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

import polyopt as po
from polyopt.police import MPOLICE, Fitting, InfeasibleConstraints, enforce
from polyopt.training import fit

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.borders import borders, draw_borders, draw_region, values_on
from common.report import folder, markdown, parser, save, write
from measure import ends, missed, pieces, reach, read, straddling
from people import BMI, BP, CONSTRAINTS, LEAST_OBESE, MOST_NORMAL, MOST_OBESE, Split, patients, ranges, split

HERE = Path(__file__).resolve().parent
MARGIN, TOLERANCE, EVERY = 1e-3, 1e-6, 10  # the tolerance is in points, and enforced is every 10 epochs
SHARE = 0.5  # of all patients, in the features without a named range
WAYS = {
    "unconstrained": "unconstrained",
    "affine": "mPOLICE, no constraints",
    "penalty": "mPOLICE, penalty only",
    "hard": "mPOLICE, hard",
}
COLORS = {"unconstrained": "#d55e00", "hard": "#0072b2"}
PROVEN = {"unconstrained": ("value", "milp"), "penalty": ("bound",), "hard": ("value", "milp", "bound")}
PLANE = po.Box([17.0, 60.0], [43.0, 135.0])  # of bmi and blood pressure


class Size(NamedTuple):
    """Units in each of two hidden layers, epochs without and with constraints, seeds, shares, seconds for a program."""

    width: int = 16
    warm_up: int = 30
    epochs: int = 60
    seeds: int = 5
    shares: tuple[float, ...] = (0.25, SHARE, 0.8)
    seconds: float = 60.0


FULL, SMALL = Size(), Size(warm_up=2, epochs=10, seeds=1, shares=(SHARE,), seconds=0.1)


def network(seed: int, width: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)]
    return nn.Sequential(*layers).double()


def decayed(parameters, lr):
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=1.0)


def learn(way: str, data: Split, regions: list[po.Box], seed: int, size: Size):
    """A network trained in one of the ways, its `Fitting`, and itself after the warm-up; the latter two may be None."""
    module, loss = network(seed, size.width), nn.functional.mse_loss
    options = {"lr": 1e-3, "batch_size": 32, "optimizer": decayed, "device": "cpu", "progress": False}
    warm_up, rest = size.warm_up, size.epochs
    if way == "unconstrained":
        fit(module, data.x, data.y, loss, epochs=warm_up, **options)
        warm = copy.deepcopy(module)
        fit(module, data.x, data.y, loss, epochs=rest, **options)
        return module.eval(), None, warm
    model = MPOLICE(module, regions, constraints=() if way == "affine" else data.constraints(), margin=MARGIN)
    options |= {"warm_up": warm_up, "epochs": rest, "every": EVERY, "weight": data.points**-2, "tolerance": TOLERANCE}
    found = model.fit(data.x, data.y, loss, hard=way == "hard", **options)
    return model.fold().eval(), found, None


def proven(found: Fitting) -> None:
    """RuntimeError where a constraint is not proven to be kept."""
    if any(one.status != "satisfied" for one in found.report.violations):
        raise RuntimeError(f"not all constraints are proven, nothing is claimed:\n{found.report}")


def predicted(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.as_tensor(x)).numpy()


def measured(way: str, seed: int, share: float, size: Size) -> dict:
    """One training, with what is asked of it, and its "module"; or only which constraints are "infeasible" together."""
    x, y = patients()
    data, boxes = split(x, y, seed), ranges(x, share)
    regions = [data.region(box) for box in boxes.values()]
    result = {"way": way, "seed": seed, "share": share}
    try:
        module, found, warm = learn(way, data, regions, seed, size)
    except InfeasibleConstraints as error:
        return result | {"infeasible": error.constraints}
    net, result["module"] = read(module), module
    result |= data.errors(predicted(module, data.x_test)) | {"pieces": pieces(net, np.vstack([data.x, data.x_test]))}
    if way in COLORS:
        both = [ends(net, region, data, size.seconds) for region in regions] if share == SHARE else []
        result["ends"] = [vars(one) for one in both]
    if found is None:
        units = {"at the first enforcement": read(warm), "at the end": net}
        result["straddling"] = {
            when: [vars(straddling(one, region)) for region in regions] for when, one in units.items()
        }
        first = enforce(copy.deepcopy(warm), regions, margin=MARGIN)
        weights = sum(float(p.detach().square().sum()) for layer in warm[:-1] for p in layer.parameters())
        result["first"] = {"cost": first.cost, "weights": weights, "seconds": [each.seconds for each in first.layers]}
        result["violations"] = missed(module, regions, *both, data) if both else []
        return result
    if way == "hard":
        proven(found)
    report = found.report
    result |= {
        "seconds": found.seconds,
        "enforcing": found.enforcing,
        "proof seconds": report.seconds,
        "margin": min(float(one.margin) for one in report.certificates),
        "status": [one.status for one in report.certificates],
        "reach": [reach(module, region) for region in regions],
        "violations": [
            {"status": one.status, "value": one.value, "bound": one.bound, "milp": one.milp_bound}
            for one in report.violations
        ],
        "report": str(report),
    }
    return result


def linear(seed: int) -> dict:
    """Least squares, for reference."""
    data = split(*patients(), seed)
    return data.errors(LinearRegression().fit(data.x, data.y).predict(data.x_test))


def chosen(runs: list[dict], way: str, share: float = SHARE) -> list[dict]:
    """The runs of one way and share that have a network."""
    return [one for one in runs if (one["way"], one["share"]) == (way, share) and "rmse" in one]


def spread(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def number(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.3g}"


def errors_table(runs: list[dict], references: list[dict]) -> str:
    rows = []
    for way, name in [("linear", "linear model"), *WAYS.items()]:
        own = references if way == "linear" else chosen(runs, way)
        worst, shares, parts = "-", "-", "-"
        if way != "linear":
            parts = f"{np.mean([one['pieces'] for one in own]):.0f}"
        if way not in ("linear", "unconstrained"):
            shares = f"{100 * np.mean([one['enforcing'] / one['seconds'] for one in own]):.0f}%"
        if way not in ("linear", "affine"):
            worst = number(max(each.get("bound", each["value"]) for one in own for each in one["violations"]))
        rows.append([name, spread([o["rmse"] for o in own]), spread([o["r2"] for o in own], 3), worst, parts, shares])
    head = ["network", "test RMSE", "test R^2", "worst violation", "linear pieces with patients", "enforcing"]
    return markdown(head, rows)


def proofs_table(runs: list[dict]) -> str:
    """The worst of all seeds, for each constraint."""
    rows = []
    for k, name in enumerate(CONSTRAINTS):
        row = [name]
        for way, keys in PROVEN.items():
            own = [one["violations"][k] for one in chosen(runs, way)]
            for key in keys:
                row.append(number(None if own[0][key] is None else max(one[key] for one in own)))
        rows.append(row)
    head = ["constraint", "unconstrained: at least", "MILP", "penalty only: at most"]
    return markdown([*head, "hard: at least", "MILP", "at most, proven"], rows)


def shares_table(runs: list[dict], units: int) -> str:
    x, _ = patients()
    rows = []
    for share in sorted({one["share"] for one in runs}):
        plain, hard = (chosen(runs, way, share) for way in COLORS)
        inside = [str(int(box.contains(x).sum())) for box in ranges(x, share).values()]
        straddle = []
        for when in ("at the first enforcement", "at the end"):
            both = [each for one in plain for each in one["straddling"][when]]
            straddle.append(f"{np.mean([e['seen'] for e in both]):.1f} to {np.mean([e['most'] for e in both]):.1f}")
        reached = [each for one in hard for each in one["reach"]]
        middle = [f"{np.mean([each[name] for each in reached]):.2g}" for name in ("reach", "slack", "far")]
        cost = f"{100 * np.mean([o['first']['cost'] / o['first']['weights'] for o in plain]):.0f}%"
        kept = [f"{len(hard)} of {len(plain)}", spread([one["rmse"] for one in hard])]
        rows.append([f"{share:.0%}", " + ".join(inside), *straddle, cost, *middle, *kept])
    head = ["others within", "patients inside", f"straddling of {units}, first", "at the end", "first cost"]
    return markdown([*head, "reach", "slack", "distance", "feasible", "RMSE, hard"], rows)


def draw(runs: list[dict], tiles: int, path: Path) -> None:
    """The two networks of the first seed on the plane of bmi and blood pressure, and all ranges of predictions."""
    x, y = patients()
    boxes = ranges(x, SHARE)
    figure, axes = plt.subplots(1, 4, figsize=(15.0, 4.4), layout="constrained", width_ratios=[1, 1, 0.75, 0.75])
    middle = np.mean([box.center for box in boxes.values()], 0)
    for axis, way in zip(axes, COLORS, strict=False):
        one = chosen(runs, way)[0]
        plane = split(x, y, one["seed"]).plane(one["module"], middle)
        filled = axis.contourf(
            *values_on(plane, PLANE, 8 * tiles), np.arange(0, 351, 25), cmap="cividis", extend="both"
        )
        draw_borders(axis, borders(plane, PLANE, tiles), color="white", width=0.5)
        for box in boxes.values():
            (left, low), (right, high) = box.lower[[BMI, BP]], box.upper[[BMI, BP]]
            draw_region(axis, po.VPolytope([[left, low], [right, low], [right, high], [left, high]]))
        axis.set(title=f"{WAYS[way]}, RMSE {one['rmse']:.1f}", xlabel="bmi", ylabel="mean blood pressure")
    figure.colorbar(filled, ax=axes[:2], shrink=0.9, label="prediction, points")
    allowed = [(0.0, MOST_NORMAL), (LEAST_OBESE, MOST_OBESE)]
    for k, (axis, name) in enumerate(zip(axes[2:], boxes, strict=True)):
        axis.axhspan(*allowed[k], color="0.88", zorder=0)
        for offset, (way, color) in zip((-0.15, 0.15), COLORS.items(), strict=True):
            own = chosen(runs, way)
            places = np.array([o["seed"] for o in own])
            bars = np.array([[o["ends"][k]["low"], o["ends"][k]["high"]] for o in own]).T
            axis.vlines(places + offset, *bars, color=color, linewidth=4, label=WAYS[way])
            axis.scatter(places + offset, bars.mean(0), color=color, s=14, marker="s")
        axis.set(title=f"predictions on {name}", xlabel="seed", ylim=(0, 350), xticks=places)
    axes[2].legend(loc="upper left")
    save(figure, path)


def main() -> None:
    options = parser(__doc__, "one seed, few epochs and a coarse picture").parse_args()
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    size = SMALL if options.small else FULL
    runs = []
    for share in size.shares:
        ways = WAYS if share == SHARE else COLORS
        runs += [measured(way, seed, share, size) for way in ways for seed in range(size.seeds)]
    references = [linear(seed) for seed in range(size.seeds)]
    out = folder(HERE, options.small)
    draw(runs, 3 if options.small else 25, out / "tabular.png")
    kept = [{name: value for name, value in one.items() if name != "module"} for one in runs]
    write(out / "results.json", options, {"linear": references, "runs": kept})
    for one in chosen(runs, "hard"):
        print(f"seed {one['seed']}\n{one['report']}\n")
    print(errors_table(runs, references), proofs_table(runs), shares_table(runs, 2 * size.width), sep="\n\n")


if __name__ == "__main__":
    main()
