"""One contender on one week: built, solved, and how large its model is."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from common.rivals import Polyopt, Scip
from model import build
from week import Week

import polyopt as po
from polyopt.program import to_program

OURS = Polyopt.name
WITHOUT, PAIRS, WITH = ", no cells", ", pairs", ", cells"


@dataclass(frozen=True)
class Measurement:
    """``build`` and ``work`` are seconds of CPU time, ``wall`` is what the solver took by the clock."""

    case: str
    seed: int
    contender: str
    rows: int | None  # None where the networks are not Pyomo's
    binaries: int
    build: float
    work: float
    wall: float
    status: str
    objective: float | None
    bound: float | None
    nodes: int

    @property
    def total(self) -> float:
        """Building and solving, in seconds of CPU time."""
        return self.build + self.work

    @property
    def gap(self) -> float:
        """``|objective - bound| / max(1, |objective|)``, as in `polyopt.Result`."""
        if self.objective is None or self.bound is None:
            return math.inf
        return abs(self.objective - self.bound) / max(1.0, abs(self.objective))


def contenders(products: int, others: list) -> dict[str, tuple]:
    """By name: what makes one, and of how many products it gets cells.

    polyopt has cells that are price vectors; for comparison, cells of two products and none, with bounds tightened by
    LP instead. Its rivals run without cells, and with polyopt's.
    """
    found = {OURS: (Polyopt, products)}
    if products > 2:
        found[OURS + PAIRS] = (Polyopt, 2)
    if others:
        found[OURS + WITHOUT] = (lambda: Polyopt(tighten="lp"), 0)
    for rival in others:
        found[rival.name] = (rival, 0)
        found[rival.name + WITH] = (rival, products)
    return found


def measure(case: str, seed: int, name: str, entry: tuple, week: Week, net: po.Network, limit: float):
    """The model with its solution, where the contender loads it, and the measurement."""
    make, held = entry
    contender, begin = make(), time.process_time()
    m = build(week, net, contender, held)
    seconds = time.process_time() - begin
    rows = None if isinstance(contender, Scip) else to_program(m).matrix.shape[0]
    found = contender.solve(m, limit)
    numbers = (found.status, found.objective, found.bound, found.nodes)
    return m, Measurement(case, seed, name, rows, found.binaries, seconds, found.work, found.seconds, *numbers)


@dataclass(frozen=True, eq=False)
class Plan:
    """What was decided: prices, shipped and sold, each (R, n), and what of the harvest is kept back, (n,)."""

    prices: np.ndarray
    shipped: np.ndarray
    sold: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(cls, m: pyo.ConcreteModel) -> Plan:
        """The values now loaded in the model."""
        shape = len(m.r), len(m.k)
        prices = np.array([pyo.value(m.price[r, k]) for r in m.r for k in m.k]).reshape(shape).round(6)
        shipped = np.array([pyo.value(m.shipped[r, k]) for r in m.r for k in m.k]).reshape(shape)
        sold = np.array([pyo.value(sum(m.sold[r, k, :])) for r in m.r for k in m.k]).reshape(shape)
        return cls(prices, shipped, sold, np.array([pyo.value(m.kept[k]) for k in m.k]))
