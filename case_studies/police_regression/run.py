"""Figures 2 and 3 of the POLICE paper: functions of the plane, by networks that are affine on a region at every step.

Three targets on [-4, 4]^2, each with a region of its own, are learned by a leaky-ReLU network of depth 4 and width 256,
without and with POLICE; one of them is looked at after 5, 50 and 10000 steps. `polyopt.affine_on` proves from its
folded weights that each network is affine on its region; only then is it drawn.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from mpl_toolkits.axes_grid1.inset_locator import mark_inset
from scipy.stats import qmc

import polyopt as po

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.borders import borders, draw_borders, draw_region, values_on
from common.claims import HEAD, Claim, claim, proven
from common.report import folder, markdown, parser, save, write
from common.training import NAMES, train

HERE = Path(__file__).resolve().parent
DOMAIN = po.Box([-4.0, -4.0], [4.0, 4.0])
RED, TICKS = "#d40000", (-1.0, -0.5, 0.0, 0.5, 1.0)
COLORS, LEVELS = "PuOr_r", np.linspace(-1.2, 1.2, 25)
BATCH, STEPS = 512, 5  # points in a batch, batches in an epoch
EPOCHS = {"wave": 500, "rays": 2000, "spiral": 500}
LOOKS = {"wave": (500,), "rays": (1, 10, 2000), "spiral": (500,)}  # steps 5, 50 and 10000
SMALL = {"wave": (2,), "rays": (1, 3, 6), "spiral": (2,)}


class Case(NamedTuple):
    """A function of the plane, its region, and the centre of the close-up."""

    target: Callable
    region: po.VPolytope
    close: tuple[float, float]


class Points(NamedTuple):
    """Points (count, 2), the target's values there (count, 1), and which of them lie in the region."""

    x: np.ndarray
    y: np.ndarray
    inside: np.ndarray


@dataclass
class Look:
    """A network at some step, with what is proven of it and its mean squared errors on the test points."""

    net: po.Network
    claim: Claim
    error: dict[str, float]
    step_ms: float


def wave(x, y):
    return np.cos(3.0 * x) * np.cos(y)


def rays(x, y):
    return np.cos(6.0 * np.arctan2(y, x))


def spiral(x, y):
    return np.cos(6.0 * np.hypot(x, y) + np.arctan2(y, x))


ROOT, TURNS = np.sqrt(2.0), 2.0 * np.pi * np.arange(48) / 48
OCTAGON = [[-1.5, 1], [-0.5, 2], [0.5, 2], [1.5, 1], [1.5, -0.5], [0.5, -1.5], [-0.5, -1.5], [-1.5, -0.5]]
CASES = {
    "wave": Case(wave, po.VPolytope(OCTAGON), (1.5, 1.0)),
    "rays": Case(rays, po.VPolytope([[-ROOT, -ROOT], [0.0, 2.0], [ROOT, -ROOT]]), (ROOT, -ROOT)),
    "spiral": Case(spiral, po.VPolytope(2.0 * np.stack([np.cos(TURNS), np.sin(TURNS)], 1)), (ROOT, -ROOT)),
}


def spread(case: Case, count: int, seed: int) -> Points:
    """Points that fill the domain evenly (a scrambled Halton sequence), with the target's values."""
    shares = qmc.Halton(2, seed=seed).random(count)
    x = (DOMAIN.lower + shares * (DOMAIN.upper - DOMAIN.lower)).astype(np.float32)
    return Points(x, case.target(*x.T)[:, None].astype(np.float32), case.region.contains(x))


def errors(values: np.ndarray, test: Points) -> dict[str, float]:
    """The mean squared error at all test points, and at those inside and outside the region."""
    squares = np.square(values - test.y)
    places = {"all": ..., "inside": test.inside, "outside": ~test.inside}
    return {name: float(squares[place].mean()) for name, place in places.items()}


def learned(name: str, kind: str, data: Points, test: Points, options) -> dict[int, Look]:
    """What the network is after each of the numbers of steps that are looked at."""
    looks = (SMALL if options.small else LOOKS)[name]
    settings = {"epochs": max(looks), "batch_size": BATCH, "lr": 1e-3, "seed": options.seed, "looks": looks}
    region = CASES[name].region
    shape, loss = (2, 4, 256, 1), torch.nn.functional.mse_loss
    stored, step_ms = train(kind, region, shape, (data.x, data.y), loss, **settings)
    found = {}
    for epoch, module in stored.items():
        net, proof = (proven if kind == "police" else claim)(module, region)
        found[STEPS * epoch] = Look(net, proof, errors(net(test.x), test), step_ms)
    return found


def best_affine(data: Points, test: Points) -> float:
    """The error inside of the affine function that fits the training points inside best."""
    design = [np.column_stack([of.x[of.inside], np.ones(of.inside.sum())]) for of in (data, test)]
    solution = np.linalg.lstsq(design[0], data.y[data.inside], rcond=None)[0]
    return float(np.square(design[1] @ solution - test.y[test.inside]).mean())


def surface(axis, shown: Callable, box: po.Box, region: po.VPolytope, points: int):
    """The values of a target or a network in colour, and the region."""
    if isinstance(shown, po.Network):
        x, y, values = values_on(shown, box, points)
    else:
        x, y = (np.linspace(*ends, points) for ends in zip(box.lower, box.upper, strict=True))
        values = shown(*np.meshgrid(x, y))
    filled = axis.contourf(x, y, values, levels=LEVELS, cmap=COLORS, extend="both", zorder=0)
    frame(axis, box, region)
    return filled


def partition(axis, net: po.Network, region: po.VPolytope, tiles: int) -> None:
    """The borders of the linear regions, and the region."""
    draw_borders(axis, borders(net, DOMAIN, tiles), color="0.45", width=0.12)
    frame(axis, DOMAIN, region)


def frame(axis, box: po.Box, region: po.VPolytope) -> None:
    draw_region(axis, region)
    (left, low), (right, high) = box.lower, box.upper
    axis.set(xlim=(left, right), ylim=(low, high), aspect="equal", xticks=[], yticks=[])


def draw_targets(looks: dict[str, Look], tiles: int, path: Path) -> None:
    """Figure 2: a row for each target: itself, the network with POLICE, a part of it, and its linear regions."""
    figure, axes = plt.subplots(len(looks), 4, figsize=(16.0, 4.05 * len(looks)), layout="constrained")
    points = 8 * tiles
    for row, (name, look) in zip(axes, looks.items(), strict=True):
        target, region, close = CASES[name]
        filled = surface(row[0], target, DOMAIN, region, points)
        surface(row[1], look.net, DOMAIN, region, points)
        surface(row[2], look.net, po.Box.ball(close, 1.0), region, points)
        partition(row[3], look.net, region, tiles)
        for mark in mark_inset(row[1], row[2], loc1=2, loc2=3, fc="none", ec=RED, lw=1.5, zorder=9):
            mark.set_in_layout(False)
        row[2].spines[:].set(color=RED, linewidth=2.0)
        proof = look.claim.certificate.status
        titles = (
            f"target: {name}",
            f"with POLICE: error {look.error['all']:.2g}, {proof}",
            "closer",
            "its linear regions",
        )
        for axis, title in zip(row, titles, strict=True):
            axis.set_title(title, fontsize=11)
    figure.colorbar(filled, ax=axes, shrink=0.4, aspect=40, ticks=TICKS)
    save(figure, path)


def draw_steps(looks: dict[int, Look], case: Case, tiles: int, path: Path) -> None:
    """Figure 3: the target, and the network with POLICE and its linear regions after some numbers of steps."""
    figure, axes = plt.subplots(2, 1 + len(looks), figsize=(3.75 * (1 + len(looks)), 8.7), layout="constrained")
    filled = surface(axes[0, 0], case.target, DOMAIN, case.region, 8 * tiles)
    axes[0, 0].set_title("target", fontsize=11)
    axes[1, 0].set_axis_off()
    for (above, below), (step, look) in zip(axes.T[1:], looks.items(), strict=True):
        surface(above, look.net, DOMAIN, case.region, 8 * tiles)
        partition(below, look.net, case.region, tiles)
        proof = look.claim.certificate.status
        above.set_title(f"step {step}: error {look.error['all']:.2g}, {proof}", fontsize=11)
        below.set_title("its linear regions", fontsize=11)
    figure.colorbar(filled, ax=axes[1, 0], location="top", fraction=0.1, ticks=TICKS)
    save(figure, path)


def table(looks: dict[str, dict[str, dict[int, Look]]], affine: dict[str, float]) -> str:
    rows = []
    for name, kinds in looks.items():
        for kind, steps in kinds.items():
            for step, look in steps.items():
                error = [f"{value:.2g}" for value in look.error.values()]
                rows.append([name, NAMES[kind], step, *error, *look.claim.cells(), f"{look.step_ms:.1f}"])
        rows.append([name, "best affine function", "-", "-", f"{affine[name]:.2g}", "-", *["-"] * len(HEAD), "-"])
    return markdown(["target", "network", "step", "error", "inside", "outside", *HEAD, "ms a step"], rows)


def main() -> None:
    options = parser(__doc__, "a few steps and coarse pictures").parse_args()
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    counts = BATCH * STEPS, 1024 if options.small else 8192
    looks, affine = {}, {}
    for name, case in CASES.items():
        data, test = (spread(case, count, options.seed + k) for k, count in enumerate(counts))
        looks[name] = {kind: learned(name, kind, data, test, options) for kind in NAMES}
        affine[name] = best_affine(data, test)

    out, tiles = folder(HERE, options.small), 3 if options.small else 40
    last = {name: kinds["police"][max(kinds["police"])] for name, kinds in looks.items()}
    draw_targets(last, tiles, out / "targets.png")
    draw_steps(looks["rays"]["police"], CASES["rays"], tiles, out / "steps.png")
    networks = [
        {"target": name, "network": kind, "step": step, "error": look.error, "step_ms": look.step_ms}
        | look.claim.to_json()
        for name, kinds in looks.items()
        for kind, steps in kinds.items()
        for step, look in steps.items()
    ]
    write(out / "results.json", options, {"networks": networks, "best_affine_inside": affine})
    print(table(looks, affine))


if __name__ == "__main__":
    main()
