"""Figure 1 of the mPOLICE paper: a spiral in the plane, by networks that are affine on several regions.

The same ReLU network learns it without constraints, with POLICE on the convex hull of all regions, which is what keeps
all of them affine with one pattern of signs, and with mPOLICE, which gives each region a pattern of its own.
`po.affine_on` proves from the stored weights where each network is affine, and where it is not; only then it is drawn.
"""

import copy
import itertools
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import polyopt as po
from polyopt.training import fit

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.borders import borders, draw_borders, draw_region, values_on
from common.report import folder, markdown, parser, save, write
from field import DOMAIN, HULL, REGIONS, Points, best_affine, hull_of, outline, spiral, spread

HERE = Path(__file__).resolve().parent
SIZES = (2, 64, 64, 64, 1)
MARGIN, EVERY, RATE = 1e-3, 50, 3e-3
COLORS, LEVELS = "PuOr_r", np.linspace(-1.2, 1.2, 25)
NAMES = {
    "plain": "no constraints",
    "police": "POLICE on the hull",
    "majority": "mPOLICE, majority",
    "majority, refitted": "mPOLICE, majority, refitted",
    "exact": "mPOLICE, exact",
    "exact, refitted": "mPOLICE, exact, refitted",
}
DRAWN = ("plain", "police", "exact, refitted")


@dataclass
class Proofs:
    """The verdicts of `polyopt.affine_on` on each region, the hull of all, and the hull of each pair."""

    regions: list[po.AffineCertificate]
    hull: po.AffineCertificate
    pairs: list[po.AffineCertificate]


@dataclass
class Trained:
    """A network, its mean squared errors at the test points, what is proven of it, and what its training took.

    ``share`` is enforcement's part of the seconds, ``cost`` the squared change of the weights by all enforcements.
    """

    net: po.Network
    error: dict[str, float]
    proofs: Proofs
    seconds: float
    share: float | None = None
    cost: float | None = None


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [(nn.Linear(*pair), nn.ReLU()) for pair in itertools.pairwise(SIZES)]
    return nn.Sequential(*itertools.chain.from_iterable(layers[:-1]), layers[-1][0])


def annealed(epochs: int):
    """Adam, whose rate falls to 0 along a cosine, with one step an epoch."""

    def optimizer(parameters, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)
        adam.register_step_post_hook(lambda *_: schedule.step())
        return adam

    return optimizer


def proofs(net: po.Network) -> Proofs:
    pairs = [po.affine_on(net, hull_of(pair)) for pair in itertools.combinations(REGIONS.values(), 2)]
    return Proofs([po.affine_on(net, region) for region in REGIONS.values()], po.affine_on(net, HULL), pairs)


def looked_at(
    kind: str, module: nn.Module, test: Points, seconds: float, fitting: po.police.Fitting | None = None
) -> Trained:
    """Errors and proofs; RuntimeError where a claim is not proven."""
    net = po.from_torch(module.eval(), input_shape=(2,))
    squares, proven = np.square(net(test.x) - test.y), proofs(net)
    error = {name: float(squares[place].mean()) for name, place in test.places.items()}
    on_regions, elsewhere = {one.status for one in proven.regions}, {one.status for one in proven.pairs}
    elsewhere.add(proven.hull.status)
    claimed = {"plain": ({"not affine"},) * 2, "police": ({"affine"},) * 2}.get(kind, ({"affine"}, {"not affine"}))
    if (on_regions, elsewhere) != claimed:
        raise RuntimeError(f"{kind}: affine_on says {on_regions} of the regions and {elsewhere} of hulls")
    spent = () if fitting is None else (fitting.enforcing / seconds, sum(fitting.costs))
    return Trained(net, error, proven, seconds, *spent)


def settings(options, seed: int) -> dict:
    about = {"lr": RATE, "optimizer": annealed(options.epochs), "device": "cpu", "progress": False}
    return about | {"epochs": options.epochs, "seed": seed}


def unconstrained(kind: str, data: Points, test: Points, options) -> Trained:
    """The network by itself, or with POLICE on the hull."""
    module = network(options.seed)
    model = po.police.POLICE(module, HULL) if kind == "police" else module
    history = fit(model, data.x, data.y, nn.functional.mse_loss, **settings(options, options.seed))
    return looked_at(kind, model.fold() if kind == "police" else model, test, history.seconds)


def enforced(signs: str, data: Points, test: Points, options, seed: int) -> dict[str, Trained]:
    """With mPOLICE, and then with its last layer fitted anew by least squares, which leaves the regions' pieces."""
    model = po.police.MPOLICE(network(seed), list(REGIONS.values()), signs=signs, margin=MARGIN)
    fitting = model.fit(data.x, data.y, nn.functional.mse_loss, warm_up=0, every=EVERY, **settings(options, seed))
    if fitting.failed:
        raise RuntimeError(f"{signs}: enforcements failed: {fitting.failed}")
    print(f"{NAMES[signs]}, seed {seed}, {len(fitting.enforced)} enforcements:\n{fitting.report}\n", flush=True)
    found = {signs: looked_at(signs, copy.deepcopy(model.module), test, fitting.seconds, fitting)}
    start, kind = time.perf_counter(), f"{signs}, refitted"
    model.harden(data.x, data.y)
    seconds = fitting.seconds + time.perf_counter() - start
    print(f"{NAMES[kind]}:\n{model.prove()}\n", flush=True)
    return found | {kind: looked_at(kind, model.fold(), test, seconds, fitting)}


def draw(found: dict[str, Trained], tiles: int, path: Path) -> None:
    """Figure 1: the field, and each network with the borders of its linear regions."""
    figure, axes = plt.subplots(1, 1 + len(DRAWN), figsize=(17.0, 4.7), layout="constrained")
    x, y = (np.linspace(*ends, 8 * tiles) for ends in zip(DOMAIN.lower, DOMAIN.upper, strict=True))
    field = spiral(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)).reshape(len(y), len(x))
    filled = axes[0].contourf(x, y, field, levels=LEVELS, cmap=COLORS, extend="both")
    axes[0].set_title("the field")
    for axis, kind in zip(axes[1:], DRAWN, strict=True):
        net = found[kind].net
        axis.contourf(*values_on(net, DOMAIN, 8 * tiles), levels=LEVELS, cmap=COLORS, extend="both", zorder=0)
        draw_borders(axis, borders(net, DOMAIN, tiles), color="0.2", width=0.2)
        axis.set_title(f"{NAMES[kind]}\nerror outside the regions {found[kind].error['outside']:.2g}", fontsize=11)
    for axis in axes:
        corners = outline(HULL).points
        axis.plot(*corners[[*range(len(corners)), 0]].T, color="black", linewidth=1.2, linestyle="--", zorder=4)
        for region in REGIONS.values():
            draw_region(axis, outline(region))
        axis.set(xlim=(-1.0, 1.0), ylim=(-1.0, 1.0), aspect="equal", xticks=[], yticks=[])
    figure.colorbar(filled, ax=axes, shrink=0.8, aspect=30, ticks=(-1.0, -0.5, 0.0, 0.5, 1.0))
    save(figure, path)


def errors(found: dict[str, Trained], affine: dict[str, dict[str, float]], test: Points) -> str:
    """The mean squared errors, and the share of the training's time that enforcement took."""
    rows = []
    for kind, one in found.items():
        share = "-" if one.share is None else f"{one.share:.0%}"
        rows.append([NAMES[kind], *(f"{value:.2g}" for value in one.error.values()), share])
    for name, known in affine.items():
        rows.append([name, *(f"{known[place]:.2g}" if place in known else "-" for place in test.places), "-"])
    return markdown(["network", *test.places, "enforcing"], rows)


def verdicts(found: dict[str, Trained]) -> str:
    """What is proven of each network."""
    rows = []
    for kind, one in found.items():
        own, hull, pairs = one.proofs.regions, one.proofs.hull, one.proofs.pairs
        affine, bent = (sum(p.status == s for p in each) for each, s in ((own, "affine"), (pairs, "not affine")))
        margin = min((p.margin or 0.0 for p in own), default=0.0)
        defect = "-" if hull.witness is None else f"{bend(one.net, hull):.1e}"
        seconds = sum(p.seconds for p in (*own, hull, *pairs))
        shown = [f"{affine} of {len(own)}", f"{margin:.1e}" if affine else "-", hull.status, defect]
        rows.append([NAMES[kind], *shown, f"{bent} of {len(pairs)}", f"{seconds:.1f}"])
    return markdown(["network", "regions affine", "margin", "hull", "defect", "pairs' hulls not affine", "s"], rows)


def repeated(runs: list[dict[str, Trained]], seeds: range) -> str:
    """The errors outside the regions with mPOLICE, from different seeds, and what enforcement took and changed."""
    kinds = list(runs[0])
    rows = [
        [seed, *(f"{run[kind].error['outside']:.2g}" for kind in kinds)] for seed, run in zip(seeds, runs, strict=True)
    ]
    medians = [statistics.median(run[kind].error["outside"] for run in runs) for kind in kinds]
    shares = [statistics.median(run[kind].share for run in runs) for kind in kinds]
    costs = [statistics.median(run[kind].cost for run in runs) for kind in kinds]
    rows += [["median", *(f"{m:.2g}" for m in medians)], ["enforcing", *(f"{share:.0%}" for share in shares)]]
    rows.append(["all costs", *(f"{cost:.1f}" for cost in costs)])
    return markdown(["seed", *(NAMES[kind] for kind in kinds)], rows)


def bend(net: po.Network, certificate: po.AffineCertificate) -> float:
    """``|f(z) - (f(x) + f(y)) / 2|`` of a witness x, z, y."""
    x, z, y = net(certificate.witness)[:, 0]
    return float(abs(z - (x + y) / 2))


def to_json(found: dict[str, Trained]) -> dict:
    def plain(certificate: po.AffineCertificate) -> dict:
        arrays = {name: getattr(certificate, name) for name in ("A", "c", "witness")}
        numbers = {name: getattr(certificate, name) for name in ("status", "margin", "tolerance", "seconds")}
        return numbers | {name: None if array is None else array.tolist() for name, array in arrays.items()}

    return {
        kind: {
            "error": one.error,
            "seconds": one.seconds,
            "enforcing": one.share,
            "regions": dict(zip(REGIONS, map(plain, one.proofs.regions), strict=True)),
            "hull": plain(one.proofs.hull),
            "pairs": [plain(certificate) for certificate in one.proofs.pairs],
        }
        for kind, one in found.items()
    }


def main() -> None:
    options = parser(__doc__, "few points and epochs").parse_args()
    options.epochs, counts, tiles = (10, (128, 256), 2) if options.small else (3000, (2048, 16384), 40)
    seeds = range(options.seed, options.seed + (1 if options.small else 3))
    torch.set_num_threads(1)  # such small batches are not worth sharing between cores
    data, test = (spread(count, options.seed) for count in counts)
    if not po.police.separable(list(REGIONS.values())):
        raise RuntimeError("no network can tell the regions apart")
    found = {kind: unconstrained(kind, data, test, options) for kind in ("plain", "police")}
    runs = [
        enforced("majority", data, test, options, seed) | enforced("exact", data, test, options, seed) for seed in seeds
    ]
    found |= runs[0]
    affine = best_affine(data, test)

    out = folder(HERE, options.small)
    draw(found, tiles, out / "regression.png")
    again = [
        {kind: {"error": one.error, "enforcing": one.share, "cost": one.cost} for kind, one in run.items()}
        for run in runs
    ]
    write(out / "results.json", options, {"networks": to_json(found), "seeds": again, "best_affine": affine})
    print(errors(found, affine, test), verdicts(found), repeated(runs, seeds), sep="\n\n")


if __name__ == "__main__":
    main()
