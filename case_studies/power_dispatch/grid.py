"""The IEEE 14-bus network with linear (DC) power flow.

    flow_ij = 100 MVA (theta_i - theta_j) / (x_ij ratio_ij),    sum of flows out of bus i = generation_i - load_i

Buses, loads, reactances x and transformer ratios are those of MATPOWER's case14.m, which has them from the archive of
the University of Washington (1962). It gives no limits of lines: those here are our own choice, such that the cheap
unit at bus 1 cannot feed everybody.
"""

from __future__ import annotations

import networkx as nx
import numpy as np

BASE = 100.0  # MVA
LOADS = {  # MW
    1: 0.0,
    2: 21.7,
    3: 94.2,
    4: 47.8,
    5: 7.6,
    6: 11.2,
    7: 0.0,
    8: 0.0,
    9: 29.5,
    10: 9.0,
    11: 3.5,
    12: 6.1,
    13: 13.5,
    14: 14.9,
}
LINES = [  # from, to, reactance x (p.u.), ratio, limit (MW, ours)
    (1, 2, 0.05917, 1.0, 85.0),
    (1, 5, 0.22304, 1.0, 50.0),
    (2, 3, 0.19797, 1.0, 42.0),
    (2, 4, 0.17632, 1.0, 42.0),
    (2, 5, 0.17388, 1.0, 42.0),
    (3, 4, 0.17103, 1.0, 42.0),
    (4, 5, 0.04211, 1.0, 56.0),
    (4, 7, 0.20912, 0.978, 42.0),
    (4, 9, 0.55618, 0.969, 28.0),
    (5, 6, 0.25202, 0.932, 42.0),
    (6, 11, 0.1989, 1.0, 21.0),
    (6, 12, 0.25581, 1.0, 21.0),
    (6, 13, 0.13027, 1.0, 21.0),
    (7, 8, 0.17615, 1.0, 70.0),
    (7, 9, 0.11001, 1.0, 42.0),
    (9, 10, 0.0845, 1.0, 21.0),
    (9, 14, 0.27038, 1.0, 21.0),
    (10, 11, 0.19207, 1.0, 21.0),
    (12, 13, 0.19988, 1.0, 21.0),
    (13, 14, 0.34802, 1.0, 21.0),
]


def grid() -> nx.Graph:
    """Buses with their ``load``, lines with ``susceptance`` in MW per radian and ``limit`` in MW."""
    found = nx.Graph()
    found.add_nodes_from((bus, {"load": load}) for bus, load in LOADS.items())
    for i, j, x, ratio, limit in LINES:
        found.add_edge(i, j, susceptance=BASE / (x * ratio), limit=limit)
    return found


def without(graph: nx.Graph, line: tuple[int, int]) -> nx.Graph:
    """The network with a line out."""
    found = graph.copy()
    found.remove_edge(*line)
    return found


def contingencies(graph: nx.Graph) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The lines whose loss leaves the network in one piece, and those whose loss does not."""
    bridges = {tuple(sorted(line)) for line in nx.bridges(graph)}
    return [line for line in graph.edges if line not in bridges], sorted(bridges)


def flows(graph: nx.Graph, injection: dict[int, float]) -> dict[tuple[int, int], float]:
    """What flows where, in MW, for generation less load at each bus: by the Laplacian, without any optimiser."""
    buses = list(graph)
    laplacian = nx.laplacian_matrix(graph, buses, weight="susceptance").toarray()
    theta = dict(zip(buses, np.linalg.pinv(laplacian) @ [injection[bus] for bus in buses], strict=True))
    return {(i, j): line["susceptance"] * (theta[i] - theta[j]) for i, j, line in graph.edges(data=True)}
