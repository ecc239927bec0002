"""The network and its flows, a unit's fuel with its proven bands, the day, and what it costs without each line."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from common.report import save
from dispatch import Day
from fleet import BANDS, Unit
from measure import Fleet

PLACES = {
    1: (0.0, 3.0),
    2: (1.2, 1.6),
    3: (3.6, 0.6),
    4: (3.4, 2.4),
    5: (1.6, 3.1),
    6: (1.4, 4.6),
    7: (4.2, 3.3),
    8: (5.3, 3.3),
    9: (4.0, 4.3),
    10: (3.2, 5.0),
    11: (2.3, 5.0),
    12: (0.4, 5.7),
    13: (1.5, 6.1),
    14: (3.0, 6.1),
}
SHED = 0.1  # MWh, below which it is a matter of tolerances
COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00"]


def draw(m, day: Day, graph: nx.Graph, fleet: Fleet, outages: dict, path: Path) -> None:
    """The four pictures of a solved day ``m``."""
    figure, ((left, right), (below, last)) = plt.subplots(2, 2, figsize=(12.5, 9.5), layout="constrained")
    _network(left, m, int(np.argmax(day.demand)), graph, fleet)
    _curve(right, *fleet[1])
    _day(below, m, day, graph, fleet)
    _outages(last, outages)
    save(figure, path)


def _network(axes, m, t: int, graph: nx.Graph, fleet: Fleet) -> None:
    flow = {(i, j): m.flow[i, j, t].value for i, j in graph.edges}
    directed = nx.DiGraph([(i, j) if f >= 0 else (j, i) for (i, j), f in flow.items()])
    used = [abs(flow.get((i, j), flow.get((j, i)))) / graph.edges[i, j]["limit"] for i, j in directed.edges]
    colors = {unit.bus: COLORS[g] if m.on[g, t].value > 0.5 else "0.75" for g, (unit, _) in enumerate(fleet)}
    style = {"edge_color": used, "edge_cmap": plt.cm.viridis_r, "edge_vmin": 0.0, "edge_vmax": 1.0, "arrowsize": 12}
    nx.draw_networkx_edges(directed, PLACES, ax=axes, width=[1.0 + 4.0 * one for one in used], **style)
    nodes = [colors.get(bus, "white") for bus in graph]
    nx.draw_networkx_nodes(graph, PLACES, ax=axes, node_color=nodes, edgecolors="black", node_size=330)
    nx.draw_networkx_labels(graph, PLACES, ax=axes, font_size=9)
    made = {unit.bus: f"{m.p[g, t].value:.0f} MW" for g, (unit, _) in enumerate(fleet) if m.on[g, t].value > 0.5}
    nx.draw_networkx_labels(graph, {b: (x, y - 0.36) for b, (x, y) in PLACES.items()}, made, font_size=8, ax=axes)
    axes.set_title("flows in the hour of the greatest demand: dark and wide is near the limit")
    axes.axis("off")


def _curve(axes, unit: Unit, surrogate) -> None:
    air, share = 20.0, np.linspace(BANDS["low"][0], 1.0, 801)
    x = np.column_stack([share, np.full_like(share, air)])
    near = abs(surrogate.points[:, 1] - air) < 3.0
    points, targets = surrogate.points[near, 0], surrogate.targets[near, 0]
    axes.plot(points, targets, ".", color="0.7", markersize=4, label="data, 17 to 23 °C")
    axes.plot(share, unit.truth(x)[:, 0], ":", color="black", linewidth=1.2, label="truth at 20 °C")
    axes.plot(share, surrogate(x)[:, 0], color=COLORS[0], linewidth=1.6, label="network")
    for k, (name, (low, high)) in enumerate(BANDS.items()):
        label = "proven affine" if not k else None
        axes.axvspan(low, high, color=COLORS[2], alpha=0.15, label=label)
        axes.annotate(name, ((low + high) / 2, 0.03), ha="center", xycoords=("data", "axes fraction"))
    normal = (x[:, 0] >= BANDS["normal"][0]) & (x[:, 0] <= BANDS["normal"][1])
    law = unit.by_law(x[normal])[:, 0]
    axes.plot(share[normal], law, color=COLORS[1], linewidth=5.0, alpha=0.5, label="the maker's law")
    title = f"the unit at bus {unit.bus}, of {unit.capacity:.0f} MW"
    axes.set(xlabel="share of capacity", ylabel="fuel, GJ/h for each MW of capacity", title=title)
    axes.legend(fontsize=8)


def _day(axes, m, day: Day, graph: nx.Graph, fleet: Fleet) -> None:
    hours, bottom = np.arange(len(day.demand)), np.zeros(len(day.demand))
    for g, (unit, _) in enumerate(fleet):
        power = np.array([m.p[g, t].value for t in m.T])
        axes.bar(hours, power, 0.9, bottom, color=COLORS[g], label=f"bus {unit.bus}")
        for t in m.T:
            share = power[t] / unit.capacity
            letter = next((name[0] for name, (low, high) in BANDS.items() if low - 1e-5 <= share <= high + 1e-5), "")
            axes.annotate(letter.upper(), (hours[t], bottom[t] + power[t] / 2), ha="center", va="center", fontsize=7)
        bottom += power
    demand = sum(load for _, load in graph.nodes(data="load")) * day.demand
    axes.step(
        np.append(hours, hours[-1] + 1) - 0.5,
        np.append(demand, demand[-1]),
        where="post",
        color="black",
        label="demand",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="step of the day", ylabel="MW", title="dispatch; L, N, P: in the low, normal or peak band")
    axes.legend(fontsize=8, loc="upper left", ncols=3)
    axes.set_ylim(0.0, 1.25 * bottom.max())


def _outages(axes, outages: dict) -> None:
    rows = {name: row for name, row in outages["rows"].items() if row["cost"] is not None}
    cost = np.array([row["cost"] for row in rows.values()]) / 1000.0
    shed = np.array([row["shed"] for row in rows.values()])
    order = np.argsort(cost)
    axes.barh(np.array(list(rows))[order], cost[order], color=np.where(shed > SHED, COLORS[4], COLORS[0])[order])
    axes.set(xlabel="cost, 1000 $", title="the day without a line (orange: load is shed)")
    axes.set_xlim(0.98 * cost.min(), 1.01 * cost.max())
    axes.tick_params(axis="y", labelsize=8)
