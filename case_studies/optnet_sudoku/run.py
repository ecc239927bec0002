"""Section 4.4 of the OptNet paper: 4x4 Sudoku learned from puzzles and solutions alone.

A quadratic program whose equality constraints are learned, against a network of ten convolutions, both trained on 9000
puzzles and tested on 1000 others: of the same 288 grids, and of grids that occur in no puzzle trained on.
"""

import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from models import Convolutions, OptNet, knowing, row_space
from puzzles import GIVENS, Puzzles, rules, split
from torch import nn

from polyopt.training import fit

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, save, write

HERE = Path(__file__).resolve().parent
NAMES = {"convolutions": "convolutions", "optnet": "OptNet"}
SPLITS = {"puzzles": "other puzzles of the same grids", "grids": "puzzles of unseen grids"}
COLORS = {"convolutions": "#e69f00", "optnet": "#0072b2"}
RATES = {"convolutions": 1e-3, "optnet": 1e-1}  # the published code's
EPOCHS = {"convolutions": 30, "optnet": 15}
BATCH = 150


@dataclass
class Scores:
    """On some puzzles: the mean squared error, and shares of puzzles.

    ``error`` counts what is not the solution, so that the givens must be kept. ``invalid`` counts grids that break a
    rule, whatever was given, as the published code does. ``failed`` are puzzles whose program the layer did not solve.
    """

    loss: float
    error: float
    invalid: float
    failed: int
    by_givens: dict[int, float]


@dataclass
class Curves:
    """Scores before training and after each epoch, and how long an epoch took without them."""

    train: list[Scores] = field(default_factory=list)
    test: list[Scores] = field(default_factory=list)
    seconds: float = 0.0
    overlap: float | None = None  # of OptNet's row space with that of the rules


def loss(z: torch.Tensor, solved: torch.Tensor) -> torch.Tensor:
    """The mean squared error; where a program was not solved, z is NaN, counts as 0, and has no gradient."""
    return nn.functional.mse_loss(z.nan_to_num(), solved)


@torch.no_grad()
def scores(model: nn.Module, data: Puzzles) -> Scores:
    """How the model does on the puzzles, a batch at a time."""
    like = next(model.parameters())
    z = torch.cat([model(shown.to(like)).double().cpu() for shown in data.shown.split(1000)])
    failed, answers = int(z.isnan().flatten(1).any(1).sum()), z.nan_to_num().argmax(-1)
    wrong = (answers != data.solved.argmax(-1)).flatten(1).any(1)
    one_hot = nn.functional.one_hot(answers, 4).flatten(1).double()
    invalid = (one_hot @ torch.tensor(rules()).T != 1).any(1)
    share = {givens: float(wrong[data.givens == givens].double().mean()) for givens in GIVENS}
    error, broken = (float(x.double().mean()) for x in (wrong, invalid))
    return Scores(float(loss(z, data.solved)), error, broken, failed, share)


def overlap(A: torch.Tensor) -> float:
    """The mean squared cosine between the row spaces of A and of the rules: 1 if they are the same."""
    return float((row_space(A) @ row_space(torch.tensor(rules())).T).square().sum() / 40)


def learn(kind: str, train: Puzzles, test: Puzzles, options) -> tuple[nn.Module, Curves]:
    torch.manual_seed(options.seed)
    model = OptNet() if kind == "optnet" else Convolutions(options.filters)
    curves, looked = Curves(), train.take(slice(len(test.givens)))

    def look(epoch: int, model: nn.Module) -> None:
        begin = time.perf_counter()
        curves.train.append(scores(model, looked))
        curves.test.append(scores(model, test))
        curves.seconds -= time.perf_counter() - begin

    look(-1, model)
    curves.seconds = 0.0
    epochs = 2 if options.small else EPOCHS[kind]
    settings = {"epochs": epochs, "batch_size": BATCH, "lr": RATES[kind], "seed": options.seed}
    history = fit(model, train.shown, train.solved, loss, callback=look, **settings)
    curves.seconds = (curves.seconds + history.seconds) / epochs
    if kind == "optnet":
        curves.overlap = overlap(model.A)
    return model, curves


def draw(found: dict[str, dict[str, tuple[nn.Module, Curves]]], path: Path) -> None:
    """Figure 5 for both splits, and the projections on the row spaces of what is learned and of the rules."""
    figure, axes = plt.subplots(2, 3, figsize=(13.5, 7.4), layout="constrained")
    for row, (kind, models) in zip(axes, found.items(), strict=True):
        for name, (_, curves) in models.items():
            for part, style in (("train", ":"), ("test", "-")):
                seen, options = getattr(curves, part), {"color": COLORS[name], "linestyle": style}
                row[0].plot([s.loss for s in seen], label=f"{NAMES[name]}, {part}", **options)
                row[1].plot([s.error for s in seen], **options)
        row[0].set(yscale="log", xlabel="epoch", title=f"loss: {SPLITS[kind]}")
        row[1].set(ylim=(-0.02, 1.02), xlabel="epoch", title="error: share of puzzles not solved")
        for axis in row[:2]:
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    learned = found["puzzles"]["optnet"][0]
    spaces = {"learned rows: projection on their span": learned.A, "the rules: the same": torch.tensor(rules())}
    for axis, (title, A) in zip(axes[:, 2], spaces.items(), strict=True):
        basis = row_space(A)
        axis.imshow((basis.T @ basis).numpy(), cmap="PuOr", vmin=-0.7, vmax=0.7)
        axis.set(title=title, xticks=[], yticks=[])
    save(figure, path)


def table(found: dict[str, dict[str, tuple[nn.Module, Curves]]], known: Scores) -> str:
    rows = []
    for kind, models in found.items():
        for name, (_, curves) in models.items():
            train, test = curves.train[-1], curves.test[-1]
            errors = [f"{value:.1%}" for value in (train.error, test.error, *test.by_givens.values(), test.invalid)]
            errors[1:1] = [f"{statistics.median(s.error for s in curves.test[len(curves.test) // 2 :]):.1%}"]
            errors.append(test.failed)
            same = "-" if curves.overlap is None else f"{curves.overlap:.3f}"
            rows.append([SPLITS[kind], NAMES[name], f"{train.loss:.1e}", f"{test.loss:.1e}", *errors, same])
            rows[-1].append(f"{curves.seconds:.1f}")
    errors = [f"{value:.1%}" for value in (known.error, *known.by_givens.values(), known.invalid)]
    errors.append(known.failed)
    rows.append(["nothing learned", "QP with the rules", "-", f"{known.loss:.1e}", "-", "-", *errors, "1", "-"])
    head = ["tested on", "network", "loss, train", "loss, test", "error, train", "test, median", "test, last"]
    head += [f"{givens} givens" for givens in GIVENS]
    return markdown([*head, "invalid", "not solved by the layer", "rules found", "s an epoch"], rows)


def main() -> None:
    arguments = parser(__doc__, "few puzzles and two epochs")
    arguments.add_argument("--filters", type=int, default=None, help="of a convolution; the paper's 512 want a GPU")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    options.filters = options.filters or (16 if options.small else 512 if torch.cuda.is_available() else 64)
    torch.set_num_threads(options.threads)
    counts = (150, 50) if options.small else (9000, 1000)
    data = {kind: split(kind, *counts, options.seed) for kind in SPLITS}
    found = {kind: {name: learn(name, *parts, options) for name in NAMES} for kind, parts in data.items()}
    known = scores(knowing(), data["puzzles"][1])

    out = folder(HERE, options.small)
    draw(found, out / "sudoku.png")
    curves = {kind: {name: asdict(seen) for name, (_, seen) in models.items()} for kind, models in found.items()}
    write(out / "results.json", options, {"splits": curves, "qp with the rules": asdict(known)})
    print(table(found, known))


if __name__ == "__main__":
    main()
