"""Demand over price in each region, as the network and as the law has it, with the prices chosen."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from common.report import save
from market import Law
from measure import Plan
from week import Week

import polyopt as po

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
POINTS = 201


def draw(week: Week, net: po.Network, law: Law, plan: Plan, path: Path) -> None:
    """One panel a region: each product's demand over its own price, the others' prices being those chosen."""
    regions, n, _ = week.size
    figure, axes = plt.subplots(1, regions, figsize=(1.0 + 3.2 * regions, 3.6), layout="constrained", sharey=True)
    for r, axis in enumerate(axes):
        competitor, income, _, size = week.features[r]
        for k in range(n):
            _curve(axis, week, net, law, plan, r, k)
        axis.set_title(f"{size:.0f}k customers, income {income:+.2f},\ncompetitor at \\${competitor:.2f}", fontsize=9)
        axis.set_xlabel("price, \\$")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("thousand units a week")
    axes[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def _curve(axis: plt.Axes, week: Week, net: po.Network, law: Law, plan: Plan, r: int, k: int) -> None:
    """The curves of one product; a dot is what is sold at the price chosen, a ring above it what is demanded there."""
    ends = week.prices[r, k].min(), week.prices[r, k].max()
    prices = np.repeat(plan.prices[r][None], POINTS, 0)
    prices[:, k] = np.linspace(*ends, POINTS)
    features = np.repeat(week.features[r][None], POINTS, 0)
    color, first = COLORS[k % len(COLORS)], r == 0 and k == 0
    learnt = net(np.hstack([prices, features]))[:, k]
    axis.plot(prices[:, k], learnt, color=color, label=f"product {k}" if r == 0 else None)
    axis.plot(prices[:, k], law(prices, features)[:, k], color=color, linestyle=":", label="the law" if first else None)
    axis.plot(week.prices[r, k], np.zeros(week.size[2]), "|", color=color, markersize=6)
    point = np.concatenate([plan.prices[r], week.features[r]])
    axis.plot(plan.prices[r, k], net(point[None])[0, k], "o", color=color, fillstyle="none", markersize=8)
    axis.plot(plan.prices[r, k], plan.sold[r, k], "o", color=color, markersize=4)
