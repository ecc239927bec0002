"""Figure 2 of the mPOLICE paper: a spiral's two arms told apart by a network that is affine on two squares.

One hidden layer of 32 ReLU units is trained for 30 epochs, and then enforced after each: by the least change of its
weights that gives each square a linear region of its own, with the paper's signs by majority or with the cheapest ones.
`po.police.MPOLICE.prove` and `po.affine_on` prove from the stored weights what is claimed; only then it is drawn.
"""

import copy
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.spatial import ConvexHull, HalfspaceIntersection
from torch import nn

import polyopt as po
from polyopt.training import fit

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.borders import borders, draw_borders, draw_region, values_on
from common.claims import HEAD, Claim, claim, proven
from common.report import folder, markdown, parser, save, write

HERE = Path(__file__).resolve().parent
DOMAIN = po.Box([-1.2, -1.2], [1.2, 1.2])
UNITS, MARGIN = 32, 1e-3
TURNS, NOISE = 1.5, 0.03
PLACES = {"A": (0, 0.7), "B": (1, 0.7)}  # each square's arm, and how far along it
HALF = 0.15  # of a square's side
RULES = {"none": "never enforced", "majority": "majority, as in the paper", "exact": "exact"}
COLORS = {"none": "0.45", "majority": "#d55e00", "exact": "#0072b2"}
PALE, DARK = ("#e8e0f0", "#fdeed6"), ("#7b3294", "#e08214")  # purple and orange, apart for all eyes
GREEN = "#009e73"
LOSS = nn.functional.binary_cross_entropy_with_logits


class Points(NamedTuple):
    """Points (count, 2) and their classes (count, 1), the numbers of their arms."""

    x: np.ndarray
    y: np.ndarray


@dataclass
class Trained:
    """The losses on all training points after each epoch, before and after its enforcement, and what these took.

    ``early`` is the network before its first enforcement, ``late`` the one at the end; seconds are of processor time.
    """

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    enforcing: list[float] = field(default_factory=list)
    seconds: float = 0.0
    accuracy: float = 0.0
    early: nn.Module | None = None
    late: nn.Module | None = None
    report: po.police.Report | None = None


def along(arm, way) -> np.ndarray:
    """Points (count, 2) of the two arms, at a share ``way`` of their lengths."""
    angle = 2.0 * np.pi * TURNS * way + np.pi * arm
    return way[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def spiral(count: int, rng: np.random.Generator) -> Points:
    arm, way = rng.integers(0, 2, count), rng.uniform(0.1, 1.0, count)
    x = along(arm, way) + rng.normal(scale=NOISE, size=(count, 2))
    return Points(x.astype(np.float32), arm[:, None].astype(np.float32))


def square(name: str) -> po.VPolytope:
    arm, way = PLACES[name]
    return po.VPolytope(along(arm, np.float64(way)) + HALF * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]))


SQUARES = {name: square(name) for name in PLACES}
HULL = po.VPolytope(np.vstack([each.points for each in SQUARES.values()]))


def trained(rule: str, data: Points, test: Points, seed: int, options) -> Trained:
    """One training, enforced after each epoch from number ``options.free`` on, unless the rule is "none"."""
    torch.manual_seed(seed)
    network, found = nn.Sequential(nn.Linear(2, UNITS), nn.ReLU(), nn.Linear(UNITS, 1)), Trained()
    signs = "exact" if rule == "none" else rule
    model = po.police.MPOLICE(network, list(SQUARES.values()), signs=signs, margin=MARGIN)
    x, y = map(torch.from_numpy, data)

    @torch.no_grad()
    def loss() -> float:
        return float(LOSS(network(x), y))

    def callback(epoch: int, _: nn.Module) -> None:
        nonlocal measuring
        start = time.process_time()
        found.before.append(loss())
        if epoch + 1 == options.free:
            found.early = copy.deepcopy(network).eval()
        measured = time.process_time()
        if rule != "none" and epoch + 1 >= options.free:
            found.cost.append(sum(layer.cost for layer in model.enforce()))
            found.enforcing.append(time.process_time() - measured)
        enforced = time.process_time()
        found.after.append(loss())
        measuring += measured - start + time.process_time() - enforced

    begin, measuring = time.process_time(), 0.0
    settings = {"epochs": options.epochs, "batch_size": 64, "lr": 0.02, "seed": seed, "device": "cpu"}
    fit(model, *data, LOSS, callback=callback, progress=False, **settings)
    found.seconds = time.process_time() - begin - measuring
    if rule == "none":
        found.late = network.eval()
    else:
        found.report, found.late = model.prove(), model.fold().eval()
    right = (po.from_torch(found.late, input_shape=(2,))(test.x) > 0) == test.y
    found.accuracy = float(right.mean())
    return found


def check(runs: dict[str, list[Trained]]) -> None:
    """The first enforcements start from the same network: the exact signs must cost least. RuntimeError if not."""
    for paper, ours in zip(runs["majority"], runs["exact"], strict=True):
        if not ours.cost[0] <= paper.cost[0] * (1.0 + 1e-6):
            raise RuntimeError(f"exact signs cost {ours.cost[0]}, majority {paper.cost[0]} for the same network")


def units(network: nn.Sequential) -> np.ndarray:
    """The hidden units' weights and biases, (units, 3)."""
    weight, bias = (each.detach().double().numpy() for each in network[0].parameters())
    return np.column_stack([weight, bias])


def crossing(network: nn.Sequential, region: po.VPolytope) -> int:
    """How many units' borders cross a region."""
    values = region.points @ units(network)[:, :2].T + units(network)[:, 2]
    return int(((values.min(0) < 0) & (values.max(0) > 0)).sum())


def piece(network: nn.Sequential, point: np.ndarray) -> np.ndarray:
    """The corners, in order, of the linear region around a point, as far as it lies in the domain."""
    rows = units(network)
    signs = np.sign(rows[:, :2] @ point + rows[:, 2])
    frame = np.vstack([np.column_stack([np.eye(2), -DOMAIN.upper]), np.column_stack([-np.eye(2), DOMAIN.lower])])
    corners = HalfspaceIntersection(np.vstack([-signs[:, None] * rows, frame]), point).intersections
    return corners[ConvexHull(corners).vertices]


def claims(network: nn.Sequential, enforced: bool) -> dict[str, Claim]:
    """Of each square and the convex hull of both; RuntimeError where a claim is not proven."""
    found = {name: (proven if enforced else claim)(network, region)[1] for name, region in SQUARES.items()}
    found["A and B"] = claim(network, HULL)[1]
    if found["A and B"].certificate.status != "not affine":
        raise RuntimeError(f"affine_on says {found['A and B'].certificate.status!r} of the hull of both squares")
    return found


def draw_plane(axis, network: nn.Sequential, data: Points, points: int) -> None:
    """Classes, training points, the borders of the linear regions, the squares and the linear region around A."""
    net = po.from_torch(network, input_shape=(2,))
    x, y, values = values_on(net, DOMAIN, points)
    axis.contourf(x, y, values, levels=[-np.inf, 0.0, np.inf], colors=PALE, zorder=0)
    axis.contour(x, y, values, levels=[0.0], colors="#d40000", linewidths=1.8, zorder=4)
    draw_borders(axis, borders(net, DOMAIN, 2), color="0.5", width=0.7)
    for label, color in enumerate(DARK):
        axis.scatter(*data.x[data.y[:, 0] == label].T, s=7, color=color, linewidths=0, alpha=0.7, zorder=3)
    around = piece(network, SQUARES["A"].points.mean(0))
    axis.fill(*around.T, facecolor=GREEN, alpha=0.3, zorder=3)
    axis.plot(*around[[*range(len(around)), 0]].T, color=GREEN, linewidth=2.5, linestyle="--", zorder=6)
    for name, region in SQUARES.items():
        draw_region(axis, region)
        axis.annotate(name, region.points[2], fontsize=13, weight="bold", zorder=7)
    (left, low), (right, high) = DOMAIN.lower, DOMAIN.upper
    axis.set(xlim=(left, right), ylim=(low, high), aspect="equal", xticks=[], yticks=[])


def draw(runs: dict[str, list[Trained]], data: Points, options, path: Path) -> None:
    """Figure 2: the plane before the first enforcement and at the end, with majority voting, and the median losses."""
    figure, axes = plt.subplots(1, 3, figsize=(16.5, 5.4), layout="constrained")
    paper, points = runs["majority"][0], 40 if options.small else 300
    for axis, network, when in zip(axes, (paper.early, paper.late), (options.free, options.epochs), strict=False):
        draw_plane(axis, network, data, points)
        crossed = ", ".join(f"{crossing(network, region)} borders cross {name}" for name, region in SQUARES.items())
        axis.set_title(f"epoch {when}{', enforced' * (network is paper.late)}: {crossed}", fontsize=11)
    for rule, each in runs.items():
        losses = np.median([run.after for run in each], axis=0)
        axes[2].semilogy(range(1, options.epochs + 1), losses, label=RULES[rule], color=COLORS[rule])
    axes[2].axvline(options.free, color="0.7", linestyle=":", zorder=0)
    axes[2].set_xlabel("epoch")
    axes[2].set_title("loss on the training points after each enforcement, median", fontsize=11)
    axes[2].legend()
    save(figure, path)


def summary(run: Trained, options) -> dict[str, float]:
    """The numbers of one training."""
    early = options.free - 1
    found = {"loss before": run.before[early], "enforced": run.after[early], "at the end": run.after[-1]}
    found["accuracy"] = run.accuracy
    if run.cost:
        found |= {"first cost": run.cost[0], "all costs": sum(run.cost)}
        found |= {"ms": 1000.0 * statistics.median(run.enforcing), "share": sum(run.enforcing) / run.seconds}
    return found | {"seconds": run.seconds}


COLUMNS = {
    "loss before": "{:.3f}",
    "enforced": "{:.3f}",
    "at the end": "{:.3f}",
    "accuracy": "{:.1%}",
    "first cost": "{:.2f}",
    "all costs": "{:.1f}",
    "ms": "{:.1f}",
    "share": "{:.0%}",
    "seconds": "{:.1f}",
}


def compared(summaries: dict[str, list[dict[str, float]]]) -> str:
    """Medians over the seeds."""
    rows = []
    for rule, found in summaries.items():
        cells = [
            shape.format(statistics.median(one[name] for one in found)) if name in found[0] else "-"
            for name, shape in COLUMNS.items()
        ]
        rows.append([RULES[rule], *cells])
    return markdown(["signs", *COLUMNS], rows)


def proofs(runs: dict[str, Trained], found: dict[str, dict[str, Claim]]) -> str:
    """What is proven of the networks that are drawn or compared."""
    rows = []
    for title, each in found.items():
        network = runs["majority"].early if title == "not enforced" else runs[title].late
        for name, region in (SQUARES | {"A and B": HULL}).items():
            rows.append([f"{title}: {name}", crossing(network, region), *each[name].cells()])
    return markdown(["network: region", "borders across", *HEAD], rows)


def main() -> None:
    options = parser(__doc__, "few points and epochs").parse_args()
    options.free, options.epochs, options.seeds = (3, 6, 1) if options.small else (30, 120, 5)
    options.counts = (256, 512) if options.small else (1024, 4096)
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    seeds = range(options.seed, options.seed + options.seeds)
    data, test = ([spiral(count, np.random.default_rng([seed, count])) for seed in seeds] for count in options.counts)
    runs = {rule: [trained(rule, *each, options) for each in zip(data, test, seeds, strict=True)] for rule in RULES}
    check(runs)
    first = {rule: found[0] for rule, found in runs.items()}
    found = {"not enforced": claims(first["majority"].early, False)}
    found |= {rule: claims(first[rule].late, True) for rule in ("majority", "exact")}
    for rule in ("majority", "exact"):
        print(f"{RULES[rule]}:\n{first[rule].report}\n")

    out = folder(HERE, options.small)
    draw(runs, data[0], options, out / "classification.png")
    summaries = {rule: [summary(run, options) for run in each] for rule, each in runs.items()}
    curves = {rule: np.median([run.after for run in each], axis=0).round(5).tolist() for rule, each in runs.items()}
    certified = {title: {name: one.to_json() for name, one in each.items()} for title, each in found.items()}
    write(out / "results.json", options, {"trainings": summaries, "losses": curves, "proofs": certified})
    print(compared(summaries), proofs(first, found), sep="\n\n")


if __name__ == "__main__":
    main()
