"""Figure 6 of the OptNet paper: a fully connected classifier of digits, and one that ends in a quadratic program.

The digits are those of scikit-learn, which come with it. Each network is trained from several seeds.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from networks import Program, network
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import polyopt as po

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.learning import learn
from common.report import folder, markdown, parser, save, write

HERE = Path(__file__).resolve().parent
BATCH, RATE = 64, 1e-3  # of the published code
LAST = {
    "FC600-FC10-FC10": lambda: nn.Linear(10, 10),
    "FC600-FC10-OptNet10": lambda: Program(10, 10, identity=False),
    "FC600-FC10-OptNet10, L = I at first": lambda: Program(10, 10, identity=True),
}
COLORS = dict(zip(LAST, ("#999999", "#0072b2", "#e69f00"), strict=True))
ACTIVE, TICKS = 1e-9, (0.02, 0.03, 0.05, 0.1, 0.2, 0.5)


@dataclass
class Run:
    """A network of one seed: its test errors (shares) and mean losses by epoch, and what became of its last layer."""

    loss: list[float]
    test: list[float]
    train_error: float
    step_ms: float
    active: float | None  # rows of G that hold with equality, of a test image, on average
    residual: float | None  # the largest


def load() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images (count, 64) with pixels in [0, 1] and their classes: 1437 for training, 360 for testing."""
    found = load_digits()
    images, labels = torch.tensor(found.data / 16.0, dtype=torch.float32), torch.tensor(found.target)
    train, test = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=found.target)
    return (images[train], labels[train]), (images[test], labels[test])


def error(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The share of wrong answers; an image without an answer is wrong."""
    return float((model(data[0]).argmax(1) != data[1]).double().mean())


@torch.no_grad()
def last_layer(model: nn.Sequential, images: Tensor) -> tuple[float, float]:
    """How many rows of the program are active on average, and the largest residual of its solutions."""
    solution = po.qp.solve(*model[-1].program(model[:-1](images)))
    return float((solution.lam > ACTIVE).sum(1).double().mean()), float(solution.residual.max())


def run(last: Callable[[], nn.Module], train: tuple, test: tuple, epochs: int, seed: int) -> Run:
    torch.manual_seed(seed)
    model = network(last())
    settings = {"epochs": epochs, "batch_size": BATCH, "lr": RATE, "seed": seed, "progress": False}
    learned = learn(model, train, cross_entropy, lambda model: error(model, test), **settings)
    with torch.no_grad():
        train_error = error(model, train)
    about = last_layer(model, test[0]) if isinstance(model[-1], Program) else (None, None)
    return Run(learned.loss, learned.measured, train_error, learned.step_ms, *about)


def draw(runs: dict[str, list[Run]], path: Path) -> None:
    """The losses and the test errors by epoch: medians, and the range of the seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4.4), layout="constrained")
    for name, found in runs.items():
        for axis, curves in zip(axes, ([run.loss for run in found], [run.test for run in found]), strict=True):
            values = np.array(curves)
            epochs = np.arange(1, 1 + values.shape[1])
            axis.plot(epochs, np.median(values, 0), color=COLORS[name], label=name)
            axis.fill_between(epochs, values.min(0), values.max(0), color=COLORS[name], alpha=0.18, linewidth=0)
    axes[0].set(xlabel="epoch", ylabel="training loss", yscale="log")
    axes[1].set(xlabel="epoch", ylabel="test error", yscale="log")
    axes[1].set_yticks(TICKS, [f"{share:.0%}" for share in TICKS])
    axes[1].minorticks_off()
    axes[0].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def table(runs: dict[str, list[Run]]) -> str:
    head = [
        "network",
        "seeds",
        "test error",
        "deviation",
        "least",
        "most",
        "train error",
        "loss",
        "active",
        "ms a step",
    ]
    lines = []
    for name, found in runs.items():
        test = np.array([run.test[-1] for run in found])
        shares = [test.mean(), test.std(ddof=1) if len(test) > 1 else 0.0, test.min(), test.max()]
        shares.append(np.mean([run.train_error for run in found]))
        loss, step_ms = np.mean([run.loss[-1] for run in found]), np.median([run.step_ms for run in found])
        active = "-" if found[0].active is None else f"{np.mean([run.active for run in found]):.1f}"
        lines.append([name, len(found), *(f"{x:.2%}" for x in shares), f"{loss:.1e}", active, f"{step_ms:.1f}"])
    return markdown(head, lines)


def main() -> None:
    options = parser(__doc__, "one seed, two epochs").parse_args()
    options.seeds, options.epochs = (1, 2) if options.small else (5, 50)
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    train, test = load()
    seeds = range(options.seed, options.seed + options.seeds)
    runs = {name: [] for name in LAST}
    for seed in tqdm(seeds, desc="seeds"):
        for name, last in LAST.items():
            runs[name].append(run(last, train, test, options.epochs, seed))

    out = folder(HERE, options.small)
    draw(runs, out / "digits.png")
    write(out / "results.json", options, {name: [vars(run) for run in found] for name, found in runs.items()})
    print(table(runs))
    residuals = [run.residual for found in runs.values() for run in found if run.residual is not None]
    print(f"largest residual {max(residuals):.0e}")


if __name__ == "__main__":
    main()
