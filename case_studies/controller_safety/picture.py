"""Reachable polygons with simulated trajectories inside, and the invariant sets."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from common.report import save

import polyopt as po

EDGE = "#0072b2"
SET, FAILED = "#009e73", "#d55e00"


def outline(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The corners (k, 2) of a polygon ``A x <= b``, in their order around it."""
    corners = po.HPolytope(A, b).vertices()
    around = corners - corners.mean(0)
    return corners[np.arctan2(*around.T[::-1]).argsort()]


def shadow(region: po.HPolytope, plane: tuple[int, int], count: int = 120) -> np.ndarray:
    """The corners of a region's projection on a plane of coordinates, to ``count`` directions."""
    radius = region.bounding_box().upper[list(plane)]
    angles = 2 * np.pi * np.arange(count) / count
    toward = np.zeros((count, region.size))
    toward[:, list(plane)] = np.stack([np.cos(angles), np.sin(angles)], 1) / radius
    return outline(toward[:, list(plane)], region.support(toward))


def draw(studies: list[dict], path: Path) -> None:
    """One row a plant: what can be reached, and the invariant sets with trajectories from them."""
    figure, axes = plt.subplots(len(studies), 2, figsize=(11, 4.6 * len(studies)), squeeze=False, layout="constrained")
    for (left, right), study in zip(axes, studies, strict=True):
        _draw_reach(left, study)
        _draw_sets(right, study)
    save(figure, path, dpi=100)


def _draw_reach(axis, study: dict) -> None:
    plane, paths = study["plane"], study["paths"]
    axis.plot(*paths[:, :150, list(plane)].T.swapaxes(1, 2).reshape(2, len(paths), -1), color="0.75", lw=0.4, zorder=1)
    colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.9, len(paths)))
    for k, (hull, color) in enumerate(zip(study["hulls"], colors, strict=True)):
        flat = np.delete(hull.A, plane, axis=1)
        rows = (flat == 0).all(1)
        axis.fill(*outline(hull.A[rows][:, list(plane)], hull.b[rows]).T, fill=False, ec=color, lw=1.6, zorder=3)
        axis.scatter(*paths[k, :, list(plane)], s=1.0, color=color, zorder=2, label=f"step {k}")
    axis.legend(markerscale=8, fontsize=8, loc="best")
    _label(axis, study, f"{study['name']}: proven outer polygons, {paths.shape[1]} simulated trajectories")


def _draw_sets(axis, study: dict) -> None:
    plane = study["plane"]
    for trial in study["trials"]:
        color, style = (SET, "-") if trial.proven else (FAILED, "--")  # where neither way decides, dashed too
        corners = shadow(trial.region, plane)
        axis.fill(*corners.T, fill=False, ec=color, ls=style, lw=1.4)
        axis.annotate(f"{trial.scale:g}", corners[corners[:, 1].argmax()], color=color, fontsize=8)
    largest = study["invariant"]
    x = study["loop"].simulate(largest.region.sample(60, np.random.default_rng(1)), 12)
    axis.plot(*x[:, :, list(plane)].T.swapaxes(1, 2).reshape(2, len(x), -1), color=SET, lw=0.4, alpha=0.6)
    for trial in study["trials"]:
        if trial.verdict.witness is not None:
            step = study["loop"].simulate(trial.verdict.witness[None], 1)[:, 0]
            axis.annotate(
                "", step[1, list(plane)], step[0, list(plane)], arrowprops={"arrowstyle": "->", "color": FAILED}
            )
    _label(axis, study, "scaled polytopes: solid proven invariant, dashed left (arrow: a witness)")


def _label(axis, study: dict, title: str) -> None:
    names = [study["states"][i] for i in study["plane"]]
    axis.set(xlabel=names[0], ylabel=names[1])
    axis.set_title(title, fontsize=9)
