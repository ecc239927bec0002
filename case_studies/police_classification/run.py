"""Figure 1 of the POLICE paper: two wavy rings told apart by a network that is affine on a square at every step.

The same leaky-ReLU network of depth 3 and width 256 is trained without and with POLICE. `polyopt.affine_on` proves
from its folded weights that the second is affine on the square; only then is it drawn, with the borders of its linear
regions.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import polyopt as po

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.borders import borders, draw_borders, draw_region, values_on
from common.claims import HEAD, Claim, claim, proven
from common.report import folder, markdown, parser, save, write
from common.training import NAMES, train

HERE = Path(__file__).resolve().parent
SQUARE = po.VPolytope([[0.0, 0.0], [1.5, 0.0], [1.5, 1.5], [0.0, 1.5]])
DOMAIN = po.Box([-1.8, -1.8], [1.8, 1.8])
CORNER = po.Box([1.2, -0.3], [1.8, 0.3])  # for the close-up
PALE, DARK = ("#e8e0f0", "#fdeed6"), ("#7b3294", "#e08214")  # purple and orange, apart for all eyes


class Rings(NamedTuple):
    """Points (count, 2), their classes (count,), and which of them lie in the square."""

    points: np.ndarray
    classes: np.ndarray
    inside: np.ndarray


@dataclass
class Trained:
    """A network after its training, with what is proven of it and its accuracy on the test points."""

    net: po.Network
    claim: Claim
    accuracy: dict[str, float]
    step_ms: float


def rings(count: int, rng: np.random.Generator) -> Rings:
    """An inner and an outer wavy ring, classes 0 and 1, with the noise of the published code."""
    angle, outer = rng.uniform(0.0, 2.0 * np.pi, count), rng.integers(0, 2, count)
    radius = (1.0 + 0.2 * np.cos(10.0 * angle)) * np.where(outer, 1.3, 1.0)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    points = (points + rng.normal(scale=0.025, size=points.shape)).astype(np.float32)
    return Rings(points, outer, SQUARE.contains(points))


def trained(kind: str, data: Rings, test: Rings, options) -> Trained:
    targets = data.classes[:, None].astype(np.float32)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    settings = {"epochs": options.epochs, "batch_size": 512, "lr": 1e-3, "seed": options.seed}
    stored, step_ms = train(kind, SQUARE, (2, 3, 256, 1), (data.points, targets), loss, **settings)
    net, found = (proven if kind == "police" else claim)(stored[options.epochs], SQUARE)
    right = (net(test.points)[:, 0] > 0) == test.classes
    places = {"all": ..., "inside": test.inside, "outside": ~test.inside}
    return Trained(net, found, {name: float(right[place].mean()) for name, place in places.items()}, step_ms)


def best_line(data: Rings, test: Rings) -> float:
    """The accuracy inside the square of a straight line that is fitted to the training points there."""
    train, held_out = ((of.points[of.inside], of.classes[of.inside]) for of in (data, test))
    return float(LogisticRegression(C=1e3).fit(*train).score(*held_out))


def draw(nets: dict[str, Trained], data: Rings, tiles: int, path: Path) -> None:
    """The plane without and with POLICE, and a corner of the square."""
    figure, axes = plt.subplots(1, 3, figsize=(16.5, 5.8), layout="constrained")
    for axis, kind, box in zip(axes, ("plain", "police", "police"), (DOMAIN, DOMAIN, CORNER), strict=True):
        close, found = box is CORNER, nets[kind]
        lines = borders(found.net, box, max(3, tiles // 4) if close else tiles)
        draw_borders(axis, lines, width=0.5 if close else 0.25)
        x, y, values = values_on(found.net, box, 8 * tiles)
        axis.contourf(x, y, values, levels=[-np.inf, 0.0, np.inf], colors=PALE, zorder=0)
        axis.contour(x, y, values, levels=[0.0], colors="#d40000", linewidths=2.8, zorder=4)
        for label, color in enumerate(DARK):
            points = data.points[data.classes == label].T
            axis.scatter(*points, s=30 if close else 9, color=color, linewidths=0, alpha=0.75, zorder=3)
        draw_region(axis, SQUARE)
        title = (
            f"{NAMES[kind]}: test accuracy {found.accuracy['all']:.1%}, {found.claim.certificate.status} on the square"
        )
        axis.set_title("with POLICE, at a corner of the square" if close else title, fontsize=11)
        (left, low), (right, high) = box.lower, box.upper
        axis.set(xlim=(left, right), ylim=(low, high), aspect="equal", xticks=[], yticks=[])
    save(figure, path)


def table(nets: dict[str, Trained], line: float) -> str:
    rows = []
    for kind, found in nets.items():
        accuracy = [f"{share:.1%}" for share in found.accuracy.values()]
        rows.append([NAMES[kind], *accuracy, *found.claim.cells(), f"{found.step_ms:.1f}"])
    rows.append(["best straight line", "-", f"{line:.1%}", "-", *["-"] * len(HEAD), "-"])
    return markdown(["network", "accuracy", "inside", "outside", *HEAD, "ms a step"], rows)


def main() -> None:
    options = parser(__doc__, "few steps and a coarse picture").parse_args()
    options.epochs = 15 if options.small else 600  # of 4 steps
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    rng = np.random.default_rng(options.seed)
    data, test = rings(2048, rng), rings(8192, rng)
    nets = {kind: trained(kind, data, test, options) for kind in NAMES}
    line = best_line(data, test)

    out = folder(HERE, options.small)
    draw(nets, data, 5 if options.small else 40, out / "classification.png")
    networks = {
        kind: {"accuracy": found.accuracy, "step_ms": found.step_ms, **found.claim.to_json()}
        for kind, found in nets.items()
    }
    write(out / "results.json", options, {"networks": networks, "best_line_inside": line})
    print(table(nets, line))


if __name__ == "__main__":
    main()
