"""POLICE on a box in 784 dimensions, which has 2^784 vertices: the worst case of a digit classifier as a formula.

A leaky-ReLU classifier of width 256 is trained on the digits of scikit-learn, upsampled to 28x28, and is affine on the
box of all images within eps of a test image, at every step. There the least margin between two classes is attained at a
vertex that the slope names; a network without POLICE is asked the same by branch and bound.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import polyopt as po
from polyopt.layers import Affine

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.claims import HEAD, Claim, claim, proven
from common.report import folder, markdown, parser, save, write
from common.training import train

HERE = Path(__file__).resolve().parent
SUM = 1e-9  # more than what summing 784 products rounds
SHAPE = (784, 2, 256, 10)  # inputs, hidden layers, width, outputs


class Digits(NamedTuple):
    """Images (count, 784) with pixels in [0, 1], and their classes (count,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass
class Worst:
    """The least margin of an image's class over any other on the box, for the network with POLICE.

    ``certified`` is a lower bound, ``x`` the vertex, ``attained`` and ``attained_float32`` what the network in float64
    and the torch module have there; ``points`` and ``vertices`` are margins at random ones.
    """

    rival: int
    certified: float
    seconds: float
    x: np.ndarray
    slope: np.ndarray
    attained: float
    attained_float32: float
    points: np.ndarray
    vertices: np.ndarray


@dataclass
class Answer:
    """What was found for one image."""

    image: int
    label: int
    accuracy: float
    claim: Claim
    worst: Worst
    step_ms: float
    plain: dict


def load() -> tuple[Digits, Digits]:
    """Digits for training, and 360 for testing."""
    found = load_digits()
    small = torch.tensor(found.images[:, None] / 16.0, dtype=torch.float32)
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    images, held_out, labels, held_out_labels = train_test_split(
        large.flatten(1).numpy(), found.target, test_size=360, random_state=0, stratify=found.target
    )
    return Digits(images, labels), Digits(held_out, held_out_labels)


def accuracy(net: po.Network, test: Digits) -> float:
    return float(np.mean(net(test.images).argmax(1) == test.labels))


def worst_case(net: po.Network, module, proof: Claim, box: po.Box, label: int, count: int) -> Worst:
    """The least of ``(A_t - A_r) x + c_t - c_r`` over the box and all classes r but t, and how it compares."""
    start = time.perf_counter()
    found = proof.certificate
    slopes, offsets = found.A[label] - found.A, found.c[label] - found.c
    least = offsets - box.support(-slopes) - 2.0 * found.tolerance - SUM
    least[label] = np.inf
    rival = int(least.argmin())
    x = np.where(slopes[rival] > 0.0, box.lower, box.upper)
    seconds = time.perf_counter() - start

    def margin(values):
        return values[:, label] - values[:, rival]

    with torch.no_grad():
        single = margin(module(torch.tensor(x[None], dtype=torch.float32)).double().numpy())
    rng = np.random.default_rng(0)
    vertices = np.where(rng.random((count, box.size)) < 0.5, box.lower, box.upper)
    sampled = [margin(net(points)) for points in (box.sample(count, rng), vertices)]
    attained = float(margin(net(x[None]))[0])
    return Worst(rival, float(least[rival]), seconds, x, slopes[rival], attained, float(single[0]), *sampled)


def searched(net: po.Network, box: po.Box, label: int, time_limit: float) -> dict:
    """The same question to the network without POLICE: CROWN for all classes, branch and bound for the lowest."""
    difference = -np.eye(10)
    difference[:, label] += 1.0
    layers = [(node.name, node.layer, node.inputs) for node in net.nodes]
    margins = po.Network([*layers, ("margins", Affine(difference, None), [net.nodes[-1].name])], net.input_shape)
    lower = po.crown(margins.simplify(), box).output.lower.copy()
    lower[label] = np.inf
    rival = int(lower.argmin())
    best = po.optimize(margins.simplify(), box, np.eye(10)[rival], sense="min", time_limit=time_limit)
    return {
        "rival": rival,
        "crown": float(lower[rival]),
        "least": best.value,
        "bound": best.bound,
        "status": best.status,
        "branches": best.branches,
        "seconds": best.seconds,
    }


def as_json(answer: Answer) -> dict:
    worst = answer.worst
    numbers = {name: getattr(worst, name) for name in ("rival", "certified", "seconds", "attained", "attained_float32")}
    sampled = {"least_of_points": float(worst.points.min()), "least_of_vertices": float(worst.vertices.min())}
    own = {name: getattr(answer, name) for name in ("image", "label", "accuracy", "step_ms", "plain")}
    return own | {
        "claim": answer.claim.to_json(maps=False),
        "worst": numbers | sampled | {"samples": len(worst.points)},
    }


def draw(answer: Answer, image: np.ndarray, eps: float, path: Path) -> None:
    """The image, the worst vertex, the slope, and where random points of the box lie."""
    worst = answer.worst
    figure, axes = plt.subplots(1, 4, figsize=(15.5, 3.9), width_ratios=(1, 1, 1.25, 1.7), layout="constrained")
    shown = {f"test image, a {answer.label}": image, f"worst vertex, {answer.label} against {worst.rival}": worst.x}
    for axis, (title, pixels) in zip(axes[:2], shown.items(), strict=True):
        axis.imshow(pixels.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(title, fontsize=11)
    limit = abs(worst.slope).max()
    slope = axes[2].imshow(worst.slope.reshape(28, 28), cmap="RdBu", vmin=-limit, vmax=limit)
    figure.colorbar(slope, ax=axes[2], shrink=0.85)
    axes[2].set_title(f"slope of the margin on the box, {answer.label} over {worst.rival}", fontsize=11)
    for axis in axes[:3]:
        axis.set(xticks=[], yticks=[])
    both = np.concatenate([worst.points, worst.vertices])
    bins = np.linspace(both.min(), both.max(), 50)
    for values, color, name in ((worst.points, "#0072b2", "points"), (worst.vertices, "#e69f00", "vertices")):
        axes[3].hist(values, bins, color=color, alpha=0.75, label=f"{len(values):,} random {name}")
    axes[3].axvline(worst.certified, color="#d40000", linewidth=2.5, label=f"worst case: {worst.certified:.3f}")
    axes[3].set(xlabel=f"margin of {answer.label} over {worst.rival}, eps {eps}", yticks=[])
    axes[3].legend(loc="upper center", frameon=False)
    axes[3].spines[["left", "top", "right"]].set_visible(False)
    save(figure, path)


def enforced_table(answers: list[Answer]) -> str:
    head = ["image", "class", "accuracy", *HEAD, "least margin", "at its vertex", "random points", "random vertices"]
    rows = []
    for a in answers:
        least, *others = a.worst.certified, a.worst.attained, a.worst.points.min(), a.worst.vertices.min()
        cells = [f"{least:.4f} (class {a.worst.rival})", *(f"{value:.4f}" for value in others)]
        rows.append([a.image, a.label, f"{a.accuracy:.1%}", *a.claim.cells(), *cells])
    return markdown(head, rows)


def plain_table(answers: list[Answer]) -> str:
    head = ["image", "class", "CROWN", "least margin found", "its bound", "branches", "s"]
    rows = []
    for a in answers:
        of = a.plain
        margins = [f"{of['crown']:.4f} (class {of['rival']})", f"{of['least']:.4f}", f"{of['bound']:.4f}"]
        rows.append([a.image, a.label, *margins, of["branches"], f"{of['seconds']:.1f}"])
    return markdown(head, rows)


def main() -> None:
    arguments = parser(__doc__, "one image, few epochs")
    arguments.add_argument("--eps", type=float, default=0.1)
    options = arguments.parse_args()
    options.images, options.epochs = (1, 4) if options.small else (5, 30)
    options.time_limit = 2.0 if options.small else 30.0  # of each branch and bound
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    data, test = load()
    settings = {"epochs": options.epochs, "batch_size": 128, "lr": 1e-3, "seed": options.seed}
    loss = torch.nn.functional.cross_entropy

    boxes = [po.Box.ball(image, options.eps, 0.0, 1.0) for image in test.images[: options.images]]
    stored, plain_ms = train("plain", boxes[0], SHAPE, data, loss, **settings)
    plain, denied = claim(stored[options.epochs], boxes[0])
    answers = []
    for image, box in enumerate(tqdm(boxes, desc="images")):
        label = int(test.labels[image])
        stored, step_ms = train("police", box, SHAPE, data, loss, **settings)
        module = stored[options.epochs]
        net, proof = proven(module, box)
        worst = worst_case(net, module, proof, box, label, 1000 if options.small else 20_000)
        found = searched(plain, box, label, options.time_limit)
        answers.append(Answer(image, label, accuracy(net, test), proof, worst, step_ms, found))

    out = folder(HERE, options.small)
    draw(answers[0], test.images[0], options.eps, out / "digits.png")
    results = {
        "plain": {"accuracy": accuracy(plain, test), "step_ms": plain_ms, **denied.to_json(maps=False)},
        "images": [as_json(answer) for answer in answers],
    }
    write(out / "results.json", options, results)
    print(f"without POLICE: accuracy {results['plain']['accuracy']:.1%}, {plain_ms:.1f} ms a step, {denied.cells()}")
    print(enforced_table(answers))
    print(f"median {np.median([answer.step_ms for answer in answers]):.1f} ms a step\n")
    print(plain_table(answers))


if __name__ == "__main__":
    main()
