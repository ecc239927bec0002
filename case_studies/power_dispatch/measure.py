"""What is measured: the same day by each contender, what its optimum is worth in truth, and the day without a line."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import networkx as nx
import numpy as np
import pyomo.environ as pyo
from dispatch import ALLOWANCE, Day, Embed, build, by, certified, narrow, whole
from fleet import BANDS, Unit
from grid import contingencies, flows, without

import polyopt as po

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.rivals import Answer, Polyopt, rivals

CERTIFIED, NARROW, WHOLE = "polyopt, certified regions", "polyopt, bounds of the region", "polyopt, whole network"
Fleet = Sequence[tuple[Unit, po.Surrogate]]


def contenders(bands: Sequence[str]) -> dict[str, tuple[object, Embed]]:
    """Who solves, and how networks are embedded, by name."""
    found: dict[str, tuple[object, Embed]] = {CERTIFIED: (Polyopt(), certified)}
    if len(bands) == 1:
        found[NARROW] = Polyopt(), narrow
    found[WHOLE] = Polyopt(), whole
    for rival in rivals():
        made = rival()
        found[made.name] = made, by(made)
    return found


def race(day: Day, graph: nx.Graph, fleet: Fleet, bands: Sequence[str], limit: float) -> dict:
    """The same optimum, asked of each contender, and how far apart two of them are that say to have found it."""
    answers: dict[str, Answer] = {}
    rows = {}
    for name, (contender, embed) in contenders(bands).items():
        begin = time.perf_counter()
        m = build(day, graph, fleet, bands, embed)
        seconds = time.perf_counter() - begin
        found = answers[name] = contender.solve(m, limit)
        size = sum(1 for _ in m.component_data_objects(pyo.Constraint, active=True))
        rows[name] = asdict(found) | {"build": seconds, "rows": size}
        print(f"{len(day.demand)} hours, {len(bands)} bands, {name}: {found}", flush=True)
        if name == CERTIFIED and found.objective is not None:
            rows[name] |= checked(m, day, graph, fleet)
    return {
        "hours": len(day.demand),
        "bands": list(bands),
        "disagreement": disagreement(answers.values()),
        "rows": rows,
    }


def disagreement(answers: Iterable[Answer]) -> float:
    """The greatest difference of two costs that are said to be optimal, relative to the first."""
    done = [one for one in answers if one.status == "optimal"]
    costs = [one.objective for one in done]
    return max((abs(a - b) / abs(a) for a, b in itertools.combinations(costs, 2)), default=0.0)


def checked(m, day: Day, graph: nx.Graph, fleet: Fleet) -> dict[str, float]:
    """How far the point is from the networks, the law of flows, and the truth.

    ``truth`` is what the day would cost with what the units truly burn and emit.
    """
    network = max(po.replay_error(m.net[g].hour[t]) for g in m.G for t in m.T)
    flow = 0.0
    for t in m.T:
        made = {bus: m.shed[bus, t].value - load * day.demand[t] for bus, load in graph.nodes(data="load")}
        for g, (unit, _) in enumerate(fleet):
            made[unit.bus] += m.p[g, t].value
        flow = max(flow, *(abs(m.flow[i, j, t].value - one) for (i, j), one in flows(graph, made).items()))
    true = 0.0
    for g, (unit, _) in enumerate(fleet):
        for t in m.T:
            if m.on[g, t].value > 0.5:
                fuel, nox = unit.capacity * unit.truth(np.array([[m.share[g, t].value, day.air[t]]]))[0]
                true += unit.price * (fuel - m.fuel[g, t]()) + ALLOWANCE * (nox - m.nox[g, t]())
    shed = sum(v.value for v in m.shed.values())
    return {"network": network, "flow": flow, "truth": pyo.value(m.cost) + true, "shed": shed}


def lose_a_line(
    day: Day, graph: nx.Graph, fleet: Fleet, most: int | None, limit: float, gap: float, workers: int
) -> dict:
    """The cost of the day with all lines, and without each one that may be lost, of the first ``most``."""
    lines, bridges = contingencies(graph)
    lines = lines[:most]
    graphs = [graph, *(without(graph, line) for line in lines)]
    models = (build(day, one, fleet, list(BANDS), certified) for one in graphs)
    begin, rows = time.perf_counter(), {}
    options = {"time_limit": limit, "gap": gap, "progress": True}
    for k, m, found in po.solve_many(models, workers=workers, **options):
        name = "none" if not k else "{}-{}".format(*lines[k - 1])
        shed = None if found.objective is None else sum(v.value for v in m.shed.values())
        rows[name] = {"status": found.status, "cost": found.objective, "bound": found.bound, "shed": shed}
        rows[name] |= {"seconds": found.seconds}
    seconds = time.perf_counter() - begin
    ordered = {name: rows[name] for name in ["none", *("{}-{}".format(*line) for line in lines)]}
    skipped = ["{}-{}".format(*line) for line in bridges]
    return {"rows": ordered, "seconds": seconds, "workers": workers, "skipped": skipped}
