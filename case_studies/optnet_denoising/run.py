"""Table 1 and Figures 3, 7 and 8 of the OptNet paper: denoising by total variation, and by what is learned from it.

A fully connected network, the program with a D that is learned from random numbers, total variation at its best weight,
and the program tuned from there, all on the signals of the published code.
"""

import functools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from layers import METHOD, TotalVariation, connected, differences, whitening
from signals import NOISE, Signals, signals
from torch import nn
from torch.nn.functional import mse_loss

import polyopt as po

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.learning import Learned, learn
from common.report import folder, markdown, parser, save, write

HERE = Path(__file__).resolve().parent
BATCH, WIDTH = 150, 1000
PURE_WEIGHT, PENALTY = 13.0, 0.1  # of the published code
RATES = {"network": 1e-3, "pure": 1e-2, "tuned D": 1e-3, "tuned": 1e-3, "mirrored": 1e-3}
WEIGHTS = (0, 2.5, 5, 7.5, 10, 13, 15, 17, 19, 20, 21.21, 22, 23, 25, 27.5, 30, 35, 40, 50, 70, 100)
NAMES = {
    "noise": "the noisy signals themselves",
    "network": "fully connected network",
    "pure": "pure OptNet: D learned from random numbers",
    "variation 13": "total variation, the paper's weight 13",
    "variation": "total variation, best weight",
    "tuned D": "tuned total variation: D and weights",
    "tuned": "tuned total variation: the whole layer",
    "mirrored": "the whole layer, tuned by mirrored signals too",
}
PAPER = {"network": (18.5, 29.8), "pure": (52.9, 53.3), "variation": (16.3, 16.5), "tuned": (13.8, 14.4)}
COLORS = {
    "network": "#999999",
    "pure": "#cc79a7",
    "variation": "#56b4e9",
    "tuned D": "#e69f00",
    "tuned": "#0072b2",
    "mirrored": "#009e73",
}


@dataclass(frozen=True)
class Sizes:
    """How many signals, of them for training, of these for the choice of total variation's weight, and the epochs."""

    count: int
    train: int
    scanned: int
    length: int
    epochs: dict[str, int]


FULL = Sizes(10_000, 9000, 1000, 100, {"tuned D": 8, "tuned": 16, "mirrored": 6, "network": 200, "pure": 16})
SMALL = Sizes(400, 300, 50, 24, {"tuned D": 1, "tuned": 2, "mirrored": 1, "network": 2, "pure": 1})


@torch.no_grad()
def denoised(model: nn.Module, noisy: np.ndarray) -> np.ndarray:
    """What the model makes of the signals, some at a time."""
    model.eval()
    dtype = next(model.parameters()).dtype
    return torch.cat([model(part) for part in torch.tensor(noisy, dtype=dtype).split(500)]).double().numpy()


def error(model: nn.Module, data: Signals) -> float:
    return float(np.square(denoised(model, data.noisy) - data.clean).mean())


def spread(data: Signals) -> float:
    """The error of the signals as they are."""
    return float(np.square(data.noisy - data.clean).mean())


def scan(train: Signals) -> dict[float, float]:
    """The error of total variation by its weight."""
    D = differences(train.clean.shape[1])
    return {weight: error(TotalVariation(D, weight), train) if weight else spread(train) for weight in WEIGHTS}


def sparse(model: TotalVariation) -> torch.Tensor:
    """The published code's penalty on the entries of D."""
    return PENALTY * model.D.abs().sum()


def models(train: Signals, weight: float, seed: int) -> dict[str, nn.Module]:
    """What is trained, as it is before."""
    torch.manual_seed(seed)
    y = torch.tensor(train.noisy)
    D, W = differences(y.shape[1]), whitening(y, NOISE)
    return {
        "tuned D": TotalVariation(D, weight, learned="Sw", W=W),
        "tuned": TotalVariation(D, weight, learned="SwAcB", W=W),
        "mirrored": TotalVariation(D, weight, learned="SwAcB", W=W),
        "network": connected(y.shape[1], WIDTH),
        "pure": TotalVariation(0.3 * torch.randn(D.shape, dtype=D.dtype), PURE_WEIGHT, learned="S"),
    }


def residual(model: TotalVariation, noisy: np.ndarray) -> float:
    """The largest violation of the optimality conditions of its programs for these signals."""
    with torch.no_grad():
        program = model.program(model.input(torch.tensor(noisy)))
        return float(po.qp.solve(*program, method=METHOD).residual.max())


def draw(data: Signals, shown: dict[str, nn.Module], found: dict[str, dict], path: Path) -> None:
    """Four signals as they are denoised, and the errors by epoch."""
    figure, axes = plt.subplots(2, 3, figsize=(15.0, 7.4), layout="constrained")
    places = [axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1]]
    estimates = {name: denoised(shown[name], data.noisy[: len(places)]) for name in ("variation", "mirrored")}
    for k, axis in enumerate(places):
        axis.plot(data.noisy[k], ".", color="0.7", markersize=4, label="noisy")
        axis.plot(data.clean[k], color="black", linewidth=1.0, label="true")
        for name, values in estimates.items():
            axis.plot(values[k], color=COLORS[name], linewidth=1.6, label=NAMES[name])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    curves(axes[0, 2], found, ("network", "pure"))
    axes[0, 2].set_yscale("log")
    curves(axes[1, 2], found, ("tuned D", "tuned", "mirrored"))
    save(figure, path)


def curves(axis, found: dict[str, dict], names: tuple[str, ...]) -> None:
    """The test error after each epoch, and the mean loss in it (dashed)."""
    for name in names:
        test, loss = found[name]["test_by_epoch"], found[name]["loss_by_epoch"]
        steps = found[name]["steps"] * np.arange(1, 1 + len(test)) / len(test)
        axis.plot(steps, test, color=COLORS[name], label=NAMES[name])
        axis.plot(steps, loss, color=COLORS[name], linestyle="--", linewidth=1.0)
    axis.axhline(found["variation"]["test"], color=COLORS["variation"], linewidth=1.2, label=NAMES["variation"])
    axis.set(xlabel="step", ylabel="mean squared error; dashed: training")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def draw_operators(start: np.ndarray, learned: np.ndarray, tuned: np.ndarray, path: Path) -> None:
    """Figure 3: D before and after learning, rows ordered by where their large entries are; and what tuning changes."""
    large = learned**6
    order = np.argsort(large @ np.arange(large.shape[1]) / large.sum(1))
    shown = {
        "random, before": start[order],
        "random, learned": learned[order],
        "tuned total variation": tuned,
        "tuned, less total variation": tuned - differences(tuned.shape[1]).numpy(),
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(17.0, 4.1), layout="constrained")
    for axis, (title, D) in zip(axes, shown.items(), strict=True):
        limit = abs(D).max()
        image = axis.imshow(D, cmap="bwr", interpolation="nearest", vmin=-limit, vmax=limit)
        figure.colorbar(image, ax=axis, shrink=0.8)
        axis.set(xticks=[], yticks=[], title=title)
    save(figure, path, dpi=130)


def table(found: dict[str, dict]) -> str:
    head = ["method", "train MSE", "test MSE", "gain over TV", "paper: train", "test", "gain", "steps", "ms a step"]
    best, paper_best = found["variation"]["test"], PAPER["variation"][1]
    rows = []
    for name, row in found.items():
        paper = PAPER.get(name)
        theirs = [*paper, f"{1 - paper[1] / paper_best:.0%}"] if paper else ["-"] * 3
        trained = [row["steps"], f"{row['step_ms']:.0f}"] if "steps" in row else ["-"] * 2
        ours = [f"{row['train']:.2f}", f"{row['test']:.2f}", f"{1 - row['test'] / best:.1%}"]
        rows.append([NAMES[name], *ours, *theirs, *trained])
    return markdown(head, rows)


def row(model: nn.Module, train: Signals, test: Signals, learned: Learned | None) -> dict:
    """The errors of a model, and how it was trained."""
    found = {"train": error(model, train), "test": error(model, test)}
    if learned is None:
        return found
    times = {"steps": learned.steps, "step_ms": learned.step_ms, "seconds": learned.seconds}
    return found | times | {"loss_by_epoch": learned.loss, "test_by_epoch": learned.measured}


def main() -> None:
    options = parser(__doc__, "a few short signals, two epochs").parse_args()
    sizes = SMALL if options.small else FULL
    torch.set_num_threads(1)  # the programs of a batch are too small to be shared between cores
    drawn = signals(sizes.count, sizes.length, options.seed)
    train, test = drawn.some(0, sizes.train), drawn.some(sizes.train, sizes.count)

    by_weight = scan(train.some(0, sizes.scanned))
    weight = min(by_weight, key=by_weight.get)
    D = differences(sizes.length)
    trained = models(train, weight, options.seed)
    start = trained["pure"].D.detach().numpy().copy()
    fixed = {"variation 13": TotalVariation(D, PURE_WEIGHT), "variation": TotalVariation(D, weight)}
    found = {"noise": {"train": spread(train), "test": spread(test)}}
    learned = {}
    for name, model in (trained | fixed).items():
        if name in trained:
            measure = functools.partial(error, data=test)
            how = {"epochs": sizes.epochs[name], "lr": RATES[name], "penalty": sparse if name == "pure" else None}
            how |= {"batch_size": BATCH, "annealed": True, "seed": options.seed}
            data = train.mirrored() if name == "mirrored" else train
            learned[name] = learn(model, data, mse_loss, measure, **how)
        found[name] = row(model, train, test, learned.get(name))
        print(f"{NAMES[name]}: {found[name]['train']:.2f}, {found[name]['test']:.2f}", flush=True)

    out, shown = folder(HERE, options.small), trained | fixed
    draw(test, shown, found, out / "denoising.png")
    tuned = (trained["mirrored"].w.exp()[:, None] * trained["mirrored"].D / weight).detach().numpy()
    draw_operators(start, trained["pure"].D.detach().numpy(), tuned, out / "operators.png")
    checks = {name: residual(shown[name], test.noisy) for name in ("pure", "variation", "tuned D", "tuned", "mirrored")}
    results = {"sizes": asdict(sizes), "scan": by_weight, "weight": weight, "residual": checks, "rows": found}
    write(out / "results.json", options, results)
    print(table({name: found[name] for name in NAMES}))
    print(f"best weight {weight}; largest residuals {checks}")


if __name__ == "__main__":
    main()
