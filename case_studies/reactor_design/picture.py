"""The gap by round in each trust region, and the plans that the surrogate leads to among what is on record."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial import ConvexHull

COLORS = {"none": "#d55e00", "box": "#e69f00", "hull": "#0072b2", "ball": "#009e73"}
LEAST = 1e-3  # percent; smaller gaps are drawn here


def draw(gaps: dict[str, np.ndarray], plans: dict[str, np.ndarray], record: np.ndarray, best: np.ndarray) -> plt.Figure:
    """``gaps`` are (seeds, rounds), ``plans`` the operating points (rounds, 3) of one seed, by trust region."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15.0, 4.8), layout="constrained")
    _gaps(left, gaps)
    for axis, (i, j), names in (
        (middle, (0, 2), ("dilution, 1/h", "cooling, kJ/(L h)")),
        (right, (0, 1), ("dilution, 1/h", "feed, mol/L")),
    ):
        _plans(axis, {name: plan[:, [i, j]] for name, plan in plans.items()}, record[:, [i, j]], best[[i, j]])
        axis.set(xlabel=names[0], ylabel=names[1])
    middle.set_title("dots: on record; hollow: first plans; full: best plans")
    right.set_title("star: the true optimum; grey: hull of the record")
    middle.legend(frameon=False, fontsize=8)
    return figure


def _gaps(axis: plt.Axes, gaps: dict[str, np.ndarray]) -> None:
    """The median of the seeds as a line, each seed as a thin one."""
    for name, color in COLORS.items():
        values = np.maximum(gaps[name], LEAST)
        rounds = np.arange(values.shape[1])
        axis.plot(rounds, values.T, color=color, linewidth=0.6, alpha=0.5)
        axis.plot(rounds, np.median(values, axis=0), "o-", color=color, label=name)
    axis.set(yscale="log", xlabel="rounds of refinement", ylabel="gap to the true optimum, percent", xticks=rounds)
    axis.set_title("best plan so far; bold: median of the seeds")
    axis.legend(frameon=False, title="trust region")


def _plans(axis: plt.Axes, plans: dict[str, np.ndarray], record: np.ndarray, best: np.ndarray) -> None:
    around = record[ConvexHull(record).vertices]
    axis.fill(*around.T, color="0.92", zorder=0)
    axis.plot(*record.T, ".", color="0.6", markersize=3, zorder=1)
    for name, color in COLORS.items():
        first, last = plans[name]
        axis.plot(*first, "o", color=color, markerfacecolor="none", markersize=9, markeredgewidth=2, label=name)
        axis.plot(*last, "o", color=color, markersize=4, zorder=4)
    axis.plot(*best, "*", color="black", markersize=13, zorder=3)
