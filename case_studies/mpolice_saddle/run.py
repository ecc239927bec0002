"""Figure 3 of the mPOLICE paper: the saddle x^2 - y^2, affine on two squares that are far apart or nearly touch.

A network with two hidden layers learns the saddle on [-2, 2]^2 and is affine on each of two squares: with a gap of 1
between them, with a gap of 1e-8, and, with this gap again, on a large and a small square that make an L together, on
which one and the same affine function is forced. What is claimed of each network is proven of it; then the smallest gap
is looked for that enforcement and proof can do with a given margin.
"""

import copy
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import qmc
from torch import nn

import polyopt as po
from polyopt.police import MPOLICE, Report
from polyopt.training import fit
from polyopt.verification.deviation import deviations

sys.path.append(str(Path(__file__).resolve().parents[1]))

from cases import CASES, Case, affine_fit, errors, inside, one_function, saddle
from common.borders import borders, draw_borders, draw_region, values_on
from common.report import folder, markdown, parser, save, write
from gaps import gap_table, smallest_gaps
from segment import pieces_between

HERE = Path(__file__).resolve().parent
DOMAIN = po.Box([-2.0, -2.0], [2.0, 2.0])
WIDTH, POINTS, TESTS, LR = 64, 1024, 8192, 3e-3
EPOCHS, EVERY = 1000, 60  # without enforcement, and as many with it
CLAIM = 1e-6  # of the L's affine function, gap included
HEIGHTS = 51  # segments across a gap
MARGINS, GAPS = (1e-3, 1e-6, 1e-9, 1e-12, 1e-13, 1e-14), [10.0**-k for k in range(11)]
COLORS, LEVELS, BLUE = "PuOr_r", np.linspace(-4.0, 4.0, 33), "#0072b2"


@dataclass
class Look:
    """A network and what was found of it.

    ``error`` are mean squared errors at the test points, ``crossed`` the least and the greatest number of linear
    regions on segments across the gap, ``jump`` how far the values at both ends of one differ at most. ``off`` and
    ``off_gap`` bound how far the network is from the L's affine function on the squares and on the gap.
    """

    net: po.Network
    error: dict[str, float]
    report: Report | None = None
    crossed: tuple[int, int] | None = None
    jump: float | None = None
    off: float | None = None
    off_gap: float | None = None
    failed: int = 0
    seconds: float = 0.0
    enforcing: float = 0.0


def spread(count: int, seed: int) -> np.ndarray:
    """Points (count, 2) that fill the domain evenly."""
    return DOMAIN.lower + qmc.Halton(2, seed=seed).random(count) * (DOMAIN.upper - DOMAIN.lower)


def best_affine(name: str, x: np.ndarray, tests: np.ndarray) -> float:
    """The error inside of the affine functions nearest to the saddle at points x: one a square, or one for the L."""
    regions = CASES[name].regions
    parts = [regions] if name == "L" else [[region] for region in regions]
    fits = [(inside(part, tests), affine_fit(x[inside(part, x)])) for part in parts]
    off = [saddle(tests[at])[:, 0] - tests[at] @ wanted[:2] - wanted[2] for at, wanted in fits]
    return float(np.square(np.concatenate(off)).mean())


def off_squares(report: Report, regions: list[po.VPolytope], wanted: np.ndarray) -> float:
    """How far the network is from an affine function on the regions at most, by the certificates of its own."""
    ends = [
        abs(region.points @ (proof.A[0] - wanted[:2]) + proof.c[0] - wanted[2]).max() + proof.tolerance
        for region, proof in zip(regions, report.certificates, strict=True)
    ]
    return float(max(ends))


def off_gap(net: po.Network, gap: po.Box, wanted: np.ndarray) -> float:
    """The same on the gap, by mixed-integer programs, which resolve 1e-6 of the outputs' scale, here about 1."""
    return max(side.bound for side in deviations(net, gap, wanted[None, :2], wanted[2:], 1.0, lambda: math.inf))


def crossed(net: po.Network, case: Case) -> tuple[int, int]:
    """Over segments from one square to the other, at several heights."""
    heights = np.linspace(case.low, case.high, HEIGHTS + 2)[1:-1]
    counts = [pieces_between(net, np.array([case.left, y]), np.array([case.right, y])) for y in heights]
    return min(counts), max(counts)


def jump(report: Report, case: Case) -> float:
    """The greatest difference of the network's values at points of both squares that face each other."""
    ends = (
        np.array([[case.left, case.low], [case.left, case.high]]),
        np.array([[case.right, case.low], [case.right, case.high]]),
    )
    left, right = (x @ proof.A[0] + proof.c[0] for x, proof in zip(ends, report.certificates, strict=True))
    return float(abs(right - left).max())


def learned(name: str, base: nn.Module, x: np.ndarray, tests: np.ndarray, epochs: int) -> list[Look]:
    """The network of a case, as enforced by training and with its last layer refitted."""
    case, loss = CASES[name], nn.functional.mse_loss
    wanted = affine_fit(x[inside(case.regions, x)]) if name == "L" else None
    constraints = [] if wanted is None else one_function(wanted)
    model = MPOLICE(copy.deepcopy(base), case.regions, margin=case.margin, constraints=constraints)
    hard = bool(constraints)
    outside = x[~inside(case.regions, x)] if hard else x  # on the L the constraints decide
    settings = {"warm_up": 0, "epochs": epochs, "every": EVERY, "weight": 0.0, "hard": hard}
    found = model.fit(outside, saddle(outside), loss, **settings, lr=LR, device="cpu", progress=False)
    looks = [looked(model, case, wanted, tests, found.report, f"{name}, enforced")]
    model.harden(outside, saddle(outside))
    looks.append(looked(model, case, wanted, tests, model.prove(CLAIM), f"{name}, refitted"))
    for look in looks:
        look.failed, look.seconds, look.enforcing = len(found.failed), found.seconds, found.enforcing
    return looks


def looked(model: MPOLICE, case: Case, wanted, tests: np.ndarray, report: Report, title: str) -> Look:
    """Print the proofs of a network; RuntimeError where a claim is not proven."""
    net = po.from_torch(model.fold().eval(), input_shape=(2,))
    look = Look(net, errors(net, case.regions, tests), report, crossed(net, case), jump(report, case))
    print(f"{title}:", *str(report).splitlines()[len(report.layers) :], sep="\n    ")
    if wanted is not None:
        look.off, look.off_gap = off_squares(report, case.regions, wanted), off_gap(net, case.gap, wanted)
        print(f"    from one affine function by at most {look.off:.1e} on the squares, {look.off_gap:.1e} on the gap")
        if any(v.status != "satisfied" for v in report.violations) or max(look.off, look.off_gap) > CLAIM:
            raise RuntimeError(f"{title}: the network is not proven to be the affine function on the L")
    return look


def table(plain: dict[str, dict[str, float]], affine: dict[str, float], looks: dict[str, list[Look]]) -> str:
    rows = []
    for name in CASES:
        rows.append([f"{name}: without enforcement", *(f"{e:.1e}" for e in plain[name].values()), *["-"] * 6])
        for kind, look in zip(("enforced", "refitted"), looks[name], strict=True):
            margin = min(certificate.margin for certificate in look.report.certificates)
            pieces = "{} to {}".format(*look.crossed)
            offs = ["-" if off is None else f"{off:.0e}" for off in (look.jump, look.off, look.off_gap)]
            share = f"{look.enforcing / look.seconds:.0%}"
            numbers = [f"{e:.1e}" for e in look.error.values()]
            rows.append([f"{name}: {kind}", *numbers, f"{margin:.1e}", pieces, *offs, share])
        rows.append([f"{name}: best affine", "-", f"{affine[name]:.1e}", "-", *["-"] * 6])
    head = ["network", "error", "inside", "outside", "margin", "regions across", "jump", "off", "off, gap", "enforcing"]
    return markdown(head, rows)


def draw(looks: dict[str, list[Look]], tiles: int, path: Path) -> None:
    """Figure 3: each network with its linear regions, and its values along a line through both squares."""
    figure, axes = plt.subplots(2, len(CASES), figsize=(12.0, 6.6), height_ratios=(2.6, 1.0), layout="constrained")
    for (above, below), (name, case) in zip(axes.T, CASES.items(), strict=True):
        net = looks[name][-1].net
        x, y, values = values_on(net, DOMAIN, 8 * tiles)
        above.contourf(x, y, values, levels=LEVELS, cmap=COLORS, extend="both", zorder=0)
        draw_borders(above, borders(net, DOMAIN, tiles), color="0.35", width=0.3)
        for region in case.regions:
            draw_region(above, region, 1.5)
            below.axvspan(region.points[:, 0].min(), region.points[:, 0].max(), color="0.9", zorder=0)
        (left, low), (right, high) = DOMAIN.lower, DOMAIN.upper
        above.set(xlim=(left, right), ylim=(low, high), aspect="equal", xticks=[], yticks=[], title=case.title)
        height = (case.low + case.high) / 2.0
        line = np.column_stack([np.linspace(left, right, 2001), np.full(2001, height)])
        below.plot(line[:, 0], saddle(line), color="black", linestyle=":", linewidth=1.0, label="saddle")
        below.plot(line[:, 0], net(line), color=BLUE, linewidth=1.3, label="network")
        below.set(xlim=(left, right), ylim=(-1.0, 4.0), xlabel="x", title=f"along y = {height:g}")
    axes[1, 0].legend(fontsize=8)
    save(figure, path)


def to_json(look: Look) -> dict:
    numbers = ("error", "crossed", "jump", "off", "off_gap", "failed", "seconds", "enforcing")
    proofs = [{"status": c.status, "margin": c.margin, "A": c.A.tolist()} for c in look.report.certificates]
    bounds = [{key: getattr(v, key) for key in ("status", "value", "bound")} for v in look.report.violations]
    return {key: getattr(look, key) for key in numbers} | {"certificates": proofs, "violations": bounds}


def main() -> None:
    options = parser(__doc__, "few points and epochs, a coarse picture").parse_args()
    torch.set_num_threads(1)  # such small layers are not worth sharing between cores
    epochs, count, width, tiles = (50, 128, 16, 2) if options.small else (EPOCHS, POINTS, WIDTH, 24)
    x, tests = spread(count, options.seed), spread(TESTS, options.seed + 1)
    torch.manual_seed(options.seed)
    sizes = nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
    base = nn.Sequential(*sizes).double()
    fit(base, x, saddle(x), nn.functional.mse_loss, epochs=epochs, lr=LR, device="cpu", progress=False)
    net = po.from_torch(base.eval(), input_shape=(2,))
    plain = {name: errors(net, case.regions, tests) for name, case in CASES.items()}
    affine = {name: best_affine(name, x, tests) for name in CASES}
    looks = {name: learned(name, base, x, tests, epochs) for name in CASES}
    margins, gaps = (MARGINS[::4], GAPS[2::8]) if options.small else (MARGINS, GAPS)
    gaps_found = smallest_gaps(base, tests, margins, gaps)

    out = folder(HERE, options.small)
    draw(looks, tiles, out / "saddle.png")
    networks = {name: [to_json(look) for look in both] for name, both in looks.items()}
    results = {"without": plain, "best_affine_inside": affine, "networks": networks, "gaps": gaps_found}
    write(out / "results.json", options, results)
    print("", table(plain, affine, looks), "", gap_table(gaps_found), sep="\n")


if __name__ == "__main__":
    main()
