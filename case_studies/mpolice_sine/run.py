"""Figure 5 and Table 1 of the mPOLICE paper: sin(x) with a constant on one interval and a bound on another.

    R1 = [pi/3, 3 pi/4]              f(x) = sin(pi/3)
    R2 = [pi + pi/3, pi + 3 pi/4]    f(x) <= -1/2

A network is trained for 1000 epochs without constraints, the baseline, and for 200 more with enforcement and a growing
penalty. What the steps cost and gain is measured on several seeds; each enforced network is proven.
"""

import copy
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import polyopt as po
from polyopt.police import MPOLICE, AffineConstraint, Report
from polyopt.training import fit
from polyopt.verification.violation import violation

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, save, write

HERE = Path(__file__).resolve().parent
PI, WIDTH, POINTS, SEEDS = math.pi, 64, 1024, 5
WARM_UP, EPOCHS, EVERY = 1000, 200, 10
LEVEL, MOST = math.sin(PI / 3), -0.5
REGIONS = [po.Box([PI / 3], [3 * PI / 4]), po.Box([PI + PI / 3], [PI + 3 * PI / 4])]
CONSTRAINTS = [AffineConstraint(0, [1.0], LEVEL), AffineConstraint(1, [1.0], MOST, kind="le")]
TOLERANCE = 1e-6
PAPER_MSE = 0.00716

BASELINE, SOFT, HARD, REFIT = "baseline", "penalties, as in the paper", "penalties, hard", "penalties, hard, refitted"
HARD_ONLY, HARD_ONLY_REFIT = "hard only", "hard only, refitted"
PAPER = [
    ["paper: baseline", "4.4e-03", "", "", "2.6e-02", "46.9", "", ""],
    ["paper: enforcement", "7.2e-03", "", "", "7.7e-04", "14.1", "23%", ""],
]
COLORS = {BASELINE: "#999999", SOFT: "#e69f00", HARD_ONLY_REFIT: "#0072b2"}


@dataclass
class Row:
    """What was measured of one network.

    ``mse`` is that of the points outside both regions, and ``between`` that of the midpoints of neighbours there. The
    greatest violation of a constraint on its region lies between ``attained`` and ``proven``; ``squares`` is the
    paper's constraint loss, a sum over the regions' ends. The second step took ``seconds``, of which ``enforcing`` went
    into enforcements: shares of all training ``share`` and ``enforcing_share``. The baseline's ``seconds`` are those of
    the first step.
    """

    mse: float
    between: float
    attained: float
    proven: float
    squares: float
    seconds: float
    enforcing: float = 0.0
    share: float = 0.0
    enforcing_share: float = 0.0
    certificates: list[dict] = field(default_factory=list)


class Sine:
    """The points for training, those outside the regions, and their midpoints, which no training sees."""

    def __init__(self, points: int, everywhere: bool):
        x = torch.linspace(0.0, 2.0 * PI, points, dtype=torch.float64)[:, None]
        self.outside, self.between = outside(x), outside((x[1:] + x[:-1]) / 2.0)
        self.data = x if everywhere else self.outside

    @torch.no_grad()
    def errors(self, module: nn.Module) -> list[float]:
        """The mean squared errors outside the regions."""
        return [nn.functional.mse_loss(module(x), x.sin()).item() for x in (self.outside, self.between)]


def outside(x: torch.Tensor) -> torch.Tensor:
    """Those points (N, 1) that lie in none of the regions."""
    return x[~np.any([region.contains(x.numpy()) for region in REGIONS], 0)]


def squares(module: nn.Module) -> float:
    """The squared violations at the ends of the regions, summed."""
    with torch.no_grad():
        first, second = (module(torch.tensor(np.stack([box.lower, box.upper]))) for box in REGIONS)
    return float((first - LEVEL).square().sum() + (second - MOST).clamp(min=0.0).square().sum())


def unconstrained(module: nn.Module, sine: Sine, seconds: float) -> Row:
    """The baseline, which is not affine on the regions: mixed-integer programs bound its violation."""
    net = po.from_torch(module.eval(), input_shape=(1,))
    found = [violation(net, REGIONS[one.region], one.E, one.f, one.kind) for one in CONSTRAINTS]
    attained, proven = (max(0.0, *ends) for ends in zip(*((v.value, v.milp_bound) for v in found), strict=True))
    return Row(*sine.errors(module), attained, proven, squares(module), seconds)


def enforced(model: MPOLICE, report: Report, sine: Sine, warm_up: float, seconds: float, enforcing: float) -> Row:
    found, total = report.violations, warm_up + seconds
    return Row(
        *sine.errors(model.module),
        max(0.0, *(v.value for v in found)),
        max(0.0, *(v.bound for v in found)),
        squares(model.module),
        seconds,
        enforcing,
        seconds / total,
        enforcing / total,
        [{"status": c.status, "margin": c.margin} for c in report.certificates],
    )


def say(title: str, report: Report, hard: bool) -> None:
    """Print the proofs; RuntimeError where a network that is called hard is not proven to keep the constraints."""
    print(f"{title}:", *str(report).splitlines()[len(report.layers) :], sep="\n    ")
    if hard and any(found.status != "satisfied" for found in report.violations):
        raise RuntimeError(f"{title}: the constraints are not proven, see above")


def trained(sine: Sine, seed: int, epochs: tuple[int, int], name: str) -> tuple[dict[str, nn.Module], dict[str, Row]]:
    """All networks of one seed, which start from the same baseline, and what was measured."""
    torch.manual_seed(seed)
    sizes = nn.Linear(1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
    base, loss = nn.Sequential(*sizes).double(), nn.functional.mse_loss
    data, settings = (sine.data, sine.data.sin()), {"device": "cpu", "progress": False}
    begun = fit(base, *data, loss, epochs=epochs[0], **settings).seconds
    modules, rows = {BASELINE: base}, {BASELINE: unconstrained(base, sine, begun)}
    for title, refit, weight, hard in (
        (SOFT, None, 1.0, False),
        (HARD, REFIT, 1.0, True),
        (HARD_ONLY, HARD_ONLY_REFIT, 0.0, True),
    ):
        model = MPOLICE(copy.deepcopy(base), REGIONS, constraints=CONSTRAINTS)
        options = settings | {"warm_up": 0, "epochs": epochs[1], "every": EVERY, "weight": weight, "hard": hard}
        found = model.fit(*data, loss, tolerance=TOLERANCE, **options)
        say(f"{name}, seed {seed}, {title}", found.report, hard)
        modules[title] = model.fold()
        rows[title] = enforced(model, found.report, sine, begun, found.seconds, found.enforcing)
        if refit:
            model.harden(sine.outside, sine.outside.sin())
            report = model.prove(TOLERANCE)
            say(f"{name}, seed {seed}, {refit}", report, True)
            modules[refit] = model.fold()
            rows[refit] = enforced(model, report, sine, begun, found.seconds, found.enforcing)
    return modules, rows


def middle(numbers: Sequence[float], form: str) -> str:
    """The median, and the range where there is one."""
    least, most = format(min(numbers), form), format(max(numbers), form)
    return format(statistics.median(numbers), form) + (f" ({least} to {most})" if least != most else "")


def met(rows: list[dict[str, Row]]) -> str:
    """In how many seeds each enforced network meets the aim."""
    for_title = {title: [one[title] for one in rows] for title in rows[0] if title != BASELINE}
    counts = {
        title: sum(row.mse < PAPER_MSE and row.proven < TOLERANCE for row in found)
        for title, found in for_title.items()
    }
    return markdown(["network", f"of {len(rows)} seeds"], list(counts.items()))


def table(rows: list[dict[str, Row]]) -> str:
    """One line a network; the step is the one that led to it, from the start or from the baseline."""
    forms = {"mse": ".1e", "between": ".1e", "proven": ".1e", "squares": ".1e", "seconds": ".1f"}
    shares = {"share": ".0%", "enforcing_share": ".0%"}
    head = ["network", "MSE outside", "between the points", "violation, proven at most", "squares at the ends"]
    lines = list(PAPER)
    for title in rows[0]:
        asked = forms if title == BASELINE else forms | shares
        cells = [middle([getattr(one[title], key) for one in rows], form) for key, form in asked.items()]
        lines.append([title, *cells, *[""] * (len(forms | shares) - len(asked))])
    return markdown([*head, "step s", "of all training", "enforcing, of all"], lines)


def draw(modules: dict[str, nn.Module], path: Path) -> None:
    """Figure 5: the networks over the whole range, and how far they miss the constant on the first interval."""
    figure, (whole, close) = plt.subplots(1, 2, figsize=(12.0, 4.2), width_ratios=(3, 2), layout="constrained")
    x = torch.linspace(0.0, 2.0 * PI, 4001, dtype=torch.float64)[:, None]
    for region in REGIONS:
        whole.axvspan(region.lower[0], region.upper[0], color="0.92", zorder=0)
    whole.plot(x, x.sin(), color="black", linewidth=1.0, linestyle=":", label="sin(x)")
    ends = [np.concatenate([region.lower, region.upper]) for region in REGIONS]
    whole.plot(ends[0], [LEVEL] * 2, color="#d55e00", linewidth=5.0, alpha=0.5, label="must be this constant")
    whole.fill_between(
        ends[1], MOST, 1.05, facecolor="none", hatch="//", edgecolor="0.75", linewidth=0.0, label="forbidden"
    )
    inside = torch.linspace(*REGIONS[0].lower, *REGIONS[0].upper, 1001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        for title, color in COLORS.items():
            whole.plot(x, modules[title](x), color=color, linewidth=1.6, label=title)
            missed = abs(modules[title](inside) - LEVEL).clamp(min=1e-17)
            close.semilogy(inside, missed, color=color, linewidth=1.6)
    whole.set(xlim=(0.0, 2.0 * PI), ylim=(-1.1, 1.1), xlabel="x", title="f(x)")
    close.set(xlabel="x", title="|f(x) - sin(pi/3)| on the first interval", ylim=(1e-17, 1.0))
    whole.legend(fontsize=8, loc="lower left")
    save(figure, path)


def main() -> None:
    options = parser(__doc__, "one seed, few points and epochs").parse_args()
    torch.set_num_threads(1)  # such small layers are not worth sharing between cores
    points, epochs, seeds = (128, (50, 20), 1) if options.small else (POINTS, (WARM_UP, EPOCHS), SEEDS)
    out, results = folder(HERE, options.small), {}
    for name, everywhere in (("data outside the regions", False), ("data everywhere", True)):
        sine = Sine(points, everywhere)
        found = [trained(sine, options.seed + k, epochs, name) for k in range(seeds)]
        if not everywhere:
            draw(found[0][0], out / "sine.png")
        results[name] = [rows for _, rows in found]

    plain = {name: [{k: asdict(row) for k, row in one.items()} for one in rows] for name, rows in results.items()}
    write(out / "results.json", options, plain)
    for name, rows in results.items():
        print(f"\n{name}\n\n{table(rows)}\n\n{met(rows)}")


if __name__ == "__main__":
    main()
