"""Root LP bound against model size, one panel a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from measure import Measurement
from rivals import RIVALS
from scipy.optimize import isotonic_regression

STYLES = {  # of the dots, and their names in the legend
    "crown + lp": {"marker": "s", "color": "tab:blue", "label": "polyopt, CROWN bounds tightened by LP"},
    "crown": {"marker": "o", "color": "tab:blue", "label": "polyopt, CROWN bounds"},
    "interval": {"marker": "o", "color": "tab:blue", "facecolor": "white", "label": "polyopt, interval bounds"},
    "rival": {"marker": "^", "color": "0.45", "label": "other packages, their own interval bounds"},
}
GAP = 13.0  # points between two labels


def draw(found: Sequence[Measurement], path: Path) -> None:
    """Lower is stronger, further left is smaller; a bound far above the others is drawn at the edge with its value."""
    shown = [m for m in found if m.lp_bound is not None and not m.name.endswith("no start")]
    problems = list(dict.fromkeys(m.problem for m in shown))
    figure, axes = plt.subplots(1, len(problems), figsize=(5.6 * len(problems), 5.0), squeeze=False)
    figure.subplots_adjust(
        left=0.14 / len(problems), right=1 - 0.04 / len(problems), bottom=0.19, top=0.92, wspace=0.13
    )
    for axis, problem in zip(axes.flat, problems, strict=True):
        values = [m.objective for m in found if m.problem == problem and m.objective is not None]
        best = f"; best value found {max(values):.3f}" if values else ""
        axis.set_title(problem + best, fontsize=10)
        _panel(axis, [m for m in shown if m.problem == problem])
    axes[0, 0].set_ylabel("bound of the linear relaxation")
    legend = [axes[0, 0].scatter([], [], s=42, **style) for style in STYLES.values()]
    figure.legend(handles=legend, loc="lower center", ncols=len(legend), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis, here: list[Measurement]) -> None:
    bounds = [m.lp_bound for m in here]
    ours = [m.lp_bound for m in here if m.name not in RIVALS] or bounds
    height = max(ours) - min(ours) or 1.0
    top = max(bound for bound in bounds if bound <= max(ours) + height) + 0.12 * height
    axis.set_ylim(min(bounds) - 0.08 * height, top + 0.04 * height)
    sizes = [m.nonzeros for m in here]
    axis.set_xscale("log")
    axis.set_xlim(min(sizes) / 1.3, max(sizes) * max(sizes) / min(sizes) * 1.3)  # the right half is for the labels
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("nonzeros")

    def order(m: Measurement) -> tuple:  # of dots of one height the rightmost gets the lowest label: no lines cross
        return round(min(m.lp_bound, top) / height, 2), -m.nonzeros

    here = sorted(here, key=order)
    dots = [(m.nonzeros, min(m.lp_bound, top)) for m in here]
    for m, dot in zip(here, dots, strict=True):
        axis.scatter(*dot, s=42, zorder=3, **STYLES[_kind(m)])
    for m, dot, place in zip(here, dots, _places(axis, dots), strict=True):
        name = m.name.removesuffix(", HiGHS").removesuffix(", SCIP")
        text = name if m.lp_bound <= top else f"{name}: {m.lp_bound:.1f}"
        look = {"ha": "right", "va": "center", "fontsize": 8, "color": STYLES[_kind(m)]["color"]}
        arrow = {"arrowstyle": "-", "color": "0.8", "linewidth": 0.7}
        axis.annotate(text, dot, (0.99, place), textcoords="axes fraction", arrowprops=arrow, **look)


def _kind(m: Measurement) -> str:
    return "rival" if m.name in RIVALS else m.name.split(", ")[1]


def _places(axis, dots) -> np.ndarray:
    """Heights of the labels, as fractions of the panel: as near to their dots as a distance between them allows."""
    box = axis.get_window_extent()
    gap = GAP * axis.figure.dpi / 72 / box.height
    heights = (axis.transData.transform(dots)[:, 1] - box.y0) / box.height
    steps = gap * np.arange(len(dots))
    spread = isotonic_regression(heights - steps).x
    return np.clip(spread, gap / 2, 1 - gap / 2 - steps[-1]) + steps
