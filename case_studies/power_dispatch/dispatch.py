"""The decision: which units run when, in which band, at what power, and what flows through the network.

    minimise    sum_{g,t}  price_g fuel_gt + allowance NOx_gt + start_g v_gt  +  shed cost sum_{b,t} shed_bt

    p_gt        = capacity_g (s_gt - idle (1 - u_gt)),   0 <= p_gt <= capacity_g u_gt       u = 1: the unit runs
    y_gt        = network_g(s_gt, air_t),   s_gt in one of the bands                     a copy for each unit and hour
    (fuel, NOx)_gt = capacity_g (y_gt - (1 - u_gt) law_g(idle, air_t))
    v_gt - w_gt = u_gt - u_g,t-1                                                        starts and stops
    p_gt - p_g,t-1 <= ramp_g u_g,t-1 + first_g v_gt,   p_g,t-1 - p_gt <= ramp_g u_gt + first_g w_gt
    sum_g capacity_g u_gt - p_gt >= reserve sum_b demand_bt
    flow_lt     = susceptance_l (theta_it - theta_jt) <= limit_l,    power balance at each bus

A unit that is off is asked for its fuel at idle, where the law is proven, so that what is taken off again is exact and
no big-M is needed. The day repeats: the hour before the first is the last. Power in MW, fuel in GJ/h, NOx in kg/h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import pyomo.environ as pyo
from fleet import BANDS, IDLE, REGIONS, Unit

import polyopt as po

SHED = 500.0  # $/MWh
ALLOWANCE = 5.0  # $/kg of NOx
RESERVE = 0.1  # of demand
RAMP, FIRST = 0.25, 0.55  # of capacity, per hour, and in the hour of a start or stop


@dataclass(frozen=True, eq=False)
class Day:
    """Hours as they come: demand as a share of the case's loads, and air temperature."""

    demand: np.ndarray
    air: np.ndarray

    @classmethod
    def of(cls, hours: int) -> Day:
        """A summer's day with a peak in the afternoon and one in the evening, every 24 / hours-th hour of it."""
        t = np.arange(hours) * 24.0 / hours
        demand = 0.85 - 0.25 * np.cos(2.0 * np.pi * (t - 4.0) / 24.0) + 0.12 * np.exp(-(((t - 19.0) / 1.5) ** 2))
        return cls(demand, 22.0 + 8.0 * np.cos(2.0 * np.pi * (t - 15.0) / 24.0))


# Adds outputs = network(inputs), with the share confined to bands, for all hours of a unit; see `certified`
Embed = Callable[[pyo.Block, po.Surrogate, Sequence[str], dict[int, list]], dict[int, list]]


def certified(block, surrogate: po.Surrogate, bands: Sequence[str], inputs: dict) -> dict[int, list]:
    """The proven affine map of each band: no network at all, and one binary a band where there are several."""
    return po.add_surrogate(block, surrogate, inputs, inside=regions(bands))


def whole(block, surrogate: po.Surrogate, bands: Sequence[str], inputs: dict) -> dict[int, list]:
    """The whole network by polyopt's big-M formulation, and the bands as rows."""
    confine(block, bands, inputs)
    return po.add_surrogate(block, surrogate, inputs)


def narrow(block, surrogate: po.Surrogate, bands: Sequence[str], inputs: dict) -> dict[int, list]:
    """The network on its only band: CROWN's bounds find all units decided, without being told of a proof."""
    (region,) = regions(bands)
    return po.add_surrogate(block, surrogate, inputs, domain=region)


def by(contender) -> Embed:
    """The whole network by a contender of common/rivals.py, and the bands as rows."""

    def embed(block, surrogate: po.Surrogate, bands: Sequence[str], inputs: dict) -> dict[int, list]:
        confine(block, bands, inputs)
        return {t: contender.embed(block[t], surrogate.net, inputs[t]) for t in block}

    return embed


def regions(bands: Sequence[str]) -> list[po.Box]:
    """Those of some bands."""
    return [region for band, region in zip(BANDS, REGIONS, strict=True) if band in bands]


def confine(block, bands: Sequence[str], inputs: dict) -> None:
    """The first input lies in one of the bands: a binary for each."""
    low, high = zip(*(BANDS[band] for band in bands), strict=True)
    for t, (share, _) in inputs.items():
        part = block[t].band = pyo.Block()
        part.z = pyo.Var(range(len(bands)), domain=pyo.Binary)
        part.one = pyo.Constraint(expr=sum(part.z[k] for k in part.z) == 1)
        part.low = pyo.Constraint(expr=share >= sum(low[k] * part.z[k] for k in part.z))
        part.high = pyo.Constraint(expr=share <= sum(high[k] * part.z[k] for k in part.z))


def build(
    day: Day, graph: nx.Graph, fleet: Sequence[tuple[Unit, po.Surrogate]], bands: Sequence[str], embed: Embed
) -> pyo.ConcreteModel:
    """The model of a day on a network."""
    m = pyo.ConcreteModel()
    m.T, m.G = range(len(day.demand)), range(len(fleet))
    units = [unit for unit, _ in fleet]
    _add_units(m, day, units)
    m.net = pyo.Block(m.G)
    y = {}
    for g, (_, surrogate) in enumerate(fleet):
        m.net[g].hour = pyo.Block(m.T)
        for t in m.T:
            m.net[g].hour[t]
        y[g] = embed(m.net[g].hour, surrogate, bands, {t: [m.share[g, t], m.air[t]] for t in m.T})

    def used(k):
        idle = [unit.by_law(np.column_stack([np.full_like(day.air, IDLE), day.air]))[:, k] for unit in units]
        return lambda m, g, t: units[g].capacity * (y[g][t][k] - (1 - m.on[g, t]) * float(idle[g][t]))

    m.fuel, m.nox = pyo.Expression(m.G, m.T, rule=used(0)), pyo.Expression(m.G, m.T, rule=used(1))
    _add_network(m, day, graph, units)
    fuel = sum(units[g].price * m.fuel[g, t] for g in m.G for t in m.T)
    starts = sum(units[g].start * m.start[g, t] for g in m.G for t in m.T)
    m.cost = pyo.Objective(expr=fuel + ALLOWANCE * sum(m.nox.values()) + starts + SHED * sum(m.shed.values()))
    return m


def _add_units(m, day: Day, units: Sequence[Unit]) -> None:
    """Commitment, ramps and reserve."""
    capacity = [unit.capacity for unit in units]
    m.on = pyo.Var(m.G, m.T, domain=pyo.Binary)
    m.start, m.stop = pyo.Var(m.G, m.T, bounds=(0, 1)), pyo.Var(m.G, m.T, bounds=(0, 1))
    m.p = pyo.Var(m.G, m.T, bounds=lambda _, g, t: (0.0, capacity[g]))
    m.share = pyo.Var(m.G, m.T, bounds=(BANDS["low"][0], 1.0))
    m.air = pyo.Var(m.T, bounds=lambda _, t: (float(day.air[t]),) * 2)

    def before(t):
        return m.T[t - 1]

    @m.Constraint(m.G, m.T)
    def idle(m, g, t):
        return m.share[g, t] == m.p[g, t] / capacity[g] + IDLE * (1 - m.on[g, t])

    @m.Constraint(m.G, m.T)
    def running(m, g, t):
        return m.p[g, t] <= capacity[g] * m.on[g, t]

    @m.Constraint(m.G, m.T)
    def changes(m, g, t):
        return m.start[g, t] - m.stop[g, t] == m.on[g, t] - m.on[g, before(t)]

    @m.Constraint(m.G, m.T)
    def up(m, g, t):
        most = capacity[g] * (RAMP * m.on[g, before(t)] + FIRST * m.start[g, t])
        return m.p[g, t] - m.p[g, before(t)] <= most

    @m.Constraint(m.G, m.T)
    def down(m, g, t):
        most = capacity[g] * (RAMP * m.on[g, t] + FIRST * m.stop[g, t])
        return m.p[g, before(t)] - m.p[g, t] <= most


def _add_network(m, day: Day, graph: nx.Graph, units: Sequence[Unit]) -> None:
    """Flows, balance, reserve."""
    demand = {bus: load * day.demand for bus, load in graph.nodes(data="load")}
    m.theta = pyo.Var(graph.nodes, m.T)
    m.shed = pyo.Var(graph.nodes, m.T, bounds=lambda _, bus, t: (0.0, float(demand[bus][t])))
    m.flow = pyo.Var(
        graph.edges, m.T, bounds=lambda _, i, j, t: (-graph.edges[i, j]["limit"], graph.edges[i, j]["limit"])
    )
    for t in m.T:
        m.theta[1, t].fix(0.0)

    @m.Constraint(graph.edges, m.T)
    def ohm(m, i, j, t):
        return m.flow[i, j, t] == graph.edges[i, j]["susceptance"] * (m.theta[i, t] - m.theta[j, t])

    @m.Constraint(graph.nodes, m.T)
    def balance(m, bus, t):
        made = sum(m.p[g, t] for g, unit in enumerate(units) if unit.bus == bus)
        out = sum((1 if i == bus else -1) * m.flow[i, j, t] for i, j in graph.edges if bus in (i, j))
        return made + m.shed[bus, t] - out == float(demand[bus][t])

    @m.Constraint(m.T)
    def reserve(m, t):
        ready = sum(unit.capacity * m.on[g, t] - m.p[g, t] for g, unit in enumerate(units))
        return ready >= RESERVE * float(sum(demand[bus][t] for bus in demand))
