"""The picture: Figure 4's three panels above, what the sign rules cost, where they fail, and their times below."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator
from measure import RULES

COLORS = ("#56b4e9", "#009e73", "#e69f00", "#d55e00")
RULE_COLORS = dict(zip(RULES, ("#0072b2", "#e69f00", "#cc79a7"), strict=True))


def fastest(row: dict) -> dict | None:
    """The pipeline's way that took least, of those that did not fail; None where there is none."""
    able = [found for found in row["pipeline"].values() if "cost" in found]
    return min(able, key=lambda found: found["ms"], default=None)


def draw(enforced: list[dict], panels: Sequence[tuple[str, str, dict]], ruled: list[dict]) -> plt.Figure:
    figure, axes = plt.subplots(2, 3, figsize=(15.5, 8.6), layout="constrained")
    for axis, (across, along, fixed) in zip(axes[0], panels, strict=True):
        panel(axis, enforced, across, along, fixed)
    axes[0, 0].set_ylabel("ms for an enforcement of two regions")
    ratios(axes[1, 0], ruled)
    bars(axes[1, 1], ruled, "failed")
    axes[1, 1].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1, 1].set(ylim=(0, ruled[0]["seeds"]), ylabel="runs", title="first layer, runs in which a rule fails")
    bars(axes[1, 2], ruled, "ms")
    axes[1, 2].set(ylabel="ms", title="first layer, medians over seeds")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def panel(axis, rows: list[dict], across: str, along: str, fixed: dict) -> None:
    """Lines of one ``along`` each over ``across``: polyopt with its proofs, and the pipeline in its fastest way."""
    rows = [row for row in rows if all(row[key] == value for key, value in fixed.items())]
    values = sorted({row[along] for row in rows})
    for value, color in zip(values, COLORS, strict=False):
        line = sorted((row for row in rows if row[along] == value), key=lambda row: row[across])
        axis.plot([row[across] for row in line], [row["exact"]["ms"] for row in line], "o-", color=color, label=value)
        slow = [(row[across], found["ms"]) for row in line if (found := fastest(row))]
        if slow:
            axis.plot(*zip(*slow, strict=True), "s--", color=color, markersize=4, alpha=0.8)
    (key, value) = next(iter(fixed.items()))
    axis.set(yscale="log", xlabel=across, title=f"{key} {value}")
    axis.set_xticks(sorted({row[across] for row in rows}))
    handles, labels = axis.get_legend_handles_labels()
    styles = [
        plt.Line2D([], [], color="0.4", linestyle=style, marker=mark) for style, mark in (("-", "o"), ("--", "s"))
    ]
    names = [*(f"{along} {label}" for label in labels), "polyopt, exact, proven", "paper's pipeline"]
    axis.set_ylim(top=4.0 * axis.get_ylim()[1])  # room for the legend
    axis.legend([*handles, *styles], names, loc="upper left", ncols=2, frameon=False, fontsize=8)


def ratios(axis, rows: list[dict]) -> None:
    """How many times the least cost a rule's signs cost in the first layer, a point a seed."""
    for k, rule in enumerate(RULES[1:]):
        for row in rows:
            found, at = row[rule]["cost ratios"], row["regions"] + 0.3 * (k - 0.5)
            axis.plot([at] * len(found), found, ".", color=RULE_COLORS[rule], alpha=0.5)
            if found:
                axis.plot([at - 0.11, at + 0.11], [statistics.median(found)] * 2, color=RULE_COLORS[rule], linewidth=2)
        axis.plot([], [], ".", color=RULE_COLORS[rule], label=rule)
    axis.axhline(1.0, color=RULE_COLORS["exact"], label="exact")
    axis.set(yscale="log", ylabel="times the least cost", title="first layer, bars at medians")
    ticks = (1, 2, 4, 8, 16)
    axis.set_yticks(ticks, ticks)
    axis.tick_params(axis="y", which="minor", left=False, labelleft=False)
    named(axis, rows)


def bars(axis, rows: list[dict], key: str) -> None:
    for k, rule in enumerate(RULES):
        places = [row["regions"] + 0.26 * (k - 1) for row in rows]
        axis.bar(places, [row[rule]["layer"][key] for row in rows], 0.24, color=RULE_COLORS[rule], label=rule)
    named(axis, rows)


def named(axis, rows: list[dict]) -> None:
    axis.set(xlabel="regions", xticks=[row["regions"] for row in rows])
    axis.legend(frameon=False, fontsize=8)
