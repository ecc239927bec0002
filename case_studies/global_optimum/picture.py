"""The boxes of a search over the network's contour, and how bound and best value meet."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from common.report import save
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from problems import Problem
from watch import History

GRID = 241
ZOOM = np.array([-0.5, 0.5])
OPEN, CLOSED = "white", "#e69f00"


def draw(problem: Problem, peaks: History, ackley: History | None, path: Path) -> None:
    """The boxes, and bound and best value over time; those of ackley beside them, where it has been searched."""
    count = 2 + (ackley is not None)
    figure, axes = plt.subplots(1, count, figsize=(1.5 + 4.5 * count, 4.6), layout="constrained")
    _boxes(figure, axes[0], problem, peaks)
    _progress(axes[1], peaks, "peaks", 1e3, "ms")
    if ackley:
        _progress(axes[2], ackley, "ackley, 10 inputs", 1.0, "s")
    save(figure, path)


def _boxes(figure: plt.Figure, axis: plt.Axes, problem: Problem, history: History) -> None:
    """All boxes, and those around the best point in a window of their own."""
    (left, low), (right, high) = problem.box.lower, problem.box.upper
    x, y = np.linspace(left, right, GRID), np.linspace(low, high, GRID)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    values = (problem.net(points) @ problem.objective).reshape(GRID, GRID)
    best = history.points[-1]
    window = axis.inset_axes((0.03, 0.03, 0.38, 0.38), xlim=best[0] + ZOOM, ylim=best[1] + ZOOM, xticks=[], yticks=[])
    for part in (axis, window):
        contour = part.contourf(x, y, values, 30, cmap="viridis")
        for color, closed in ((OPEN, False), (CLOSED, True)):
            some = [box for box, done in zip(history.boxes, history.closed, strict=True) if done == closed]
            patches = [Rectangle(lower, *(upper - lower)) for lower, upper in some]
            part.add_collection(PatchCollection(patches, facecolor="none", edgecolor=color, linewidth=0.7))
        part.plot(*best, "*", color="red", markersize=10, markeredgecolor="white")
    axis.indicate_inset_zoom(window, edgecolor="black")
    figure.colorbar(contour, ax=axis)
    axis.set(aspect="equal", xlim=(left, right), ylim=(low, high))
    axis.set_title(f"{len(history.boxes)} boxes; orange: bounded for good", fontsize=10)


def _progress(axis: plt.Axes, history: History, name: str, scale: float, unit: str) -> None:
    seconds = [scale * moment.seconds for moment in history.moments]
    for part, color in (("bound", "#d55e00"), ("value", "#0072b2")):
        axis.step(seconds, [getattr(m, part) for m in history.moments], where="post", color=color, label=part)
    last = history.moments[-1]
    axis.set(xlabel=unit, ylim=(0.9 * last.value, 3.0 * last.value))
    axis.set_title(f"{name}: bound and best value, {last.boxes} boxes", fontsize=10)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
