"""The decision: an operating point, a kind of vessel, chillers and pumps, by mixed-integer linear programming.

Per litre of the plant's 100 litres, with outputs (margin, purity, temperature) = f(dilution, feed, cooling),

    maximise  100 margin - vessels - chillers - pumps            in EUR/h
    with      purity >= 52 percent, temperature <= 114 C         specification and safety
              dilution <= 6 pumps, cooling <= 120 chillers       per litre: 600 L/h and 12 MJ/h each
              cooling <= what a vessel's jacket takes            small vessels have more of it per litre.

f is a surrogate. `refine` puts the reactor itself in its place, by the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyomo.environ as pyo
from reactor import INPUTS, LOWER, UPPER

VOLUME = 100.0  # L
PURITY, HOTTEST = 52.0, 114.0  # percent, C
FLOW, PUMP = 6.0, 2.0  # per pump: 1/h, EUR/h
HEAT, CHILLER = 120.0, 1.0  # per chiller: kJ/(L h), EUR/h
JACKET, PULL = 86.688, 5.0  # kJ/(L h K) for a vessel of 10 L, as in the benchmark; the coolant is at most 5 K colder
MOST_PUMPS, MOST_CHILLERS = 6, 6


class Vessels(NamedTuple):
    """One line of the catalogue: vessels of so many litres, and the hire in EUR/h of as many as make up 100 L."""

    litres: float
    hire: float

    @property
    def jacket(self) -> float:
        """The most heat that the jacket takes, kJ/(L h): the area of similar vessels grows like litres^(2/3)."""
        return JACKET * PULL * (self.litres / 10.0) ** (-1 / 3)


CATALOGUE = {
    "20 x 5 L": Vessels(5.0, 12.0),
    "10 x 10 L": Vessels(10.0, 8.0),
    "4 x 25 L": Vessels(25.0, 5.0),
    "2 x 50 L": Vessels(50.0, 3.0),
}


def plant(embed: Callable[[pyo.Block, list], Sequence]) -> pyo.ConcreteModel:
    """The model; ``embed(block, inputs)`` adds the reactor to a block and returns its three outputs."""
    m = pyo.ConcreteModel()
    window = dict(zip(INPUTS, zip(LOWER.tolist(), UPPER.tolist(), strict=True), strict=True))
    m.x = pyo.Var(INPUTS, bounds=lambda _, name: window[name])
    m.vessels = pyo.Var(CATALOGUE, domain=pyo.Binary)
    m.pumps = pyo.Var(domain=pyo.Integers, bounds=(0, MOST_PUMPS))
    m.chillers = pyo.Var(domain=pyo.Integers, bounds=(0, MOST_CHILLERS))
    m.one_kind = pyo.Constraint(expr=sum(m.vessels.values()) == 1)
    m.pumped = pyo.Constraint(expr=m.x["dilution"] <= FLOW * m.pumps)
    m.chilled = pyo.Constraint(expr=m.x["cooling"] <= HEAT * m.chillers)
    m.jacket = pyo.Constraint(expr=m.x["cooling"] <= sum(v.jacket * m.vessels[k] for k, v in CATALOGUE.items()))
    m.reactor = pyo.Block()
    margin, purity, temperature = embed(m.reactor, list(m.x.values()))
    m.specification = pyo.Constraint(expr=purity >= PURITY)
    m.safety = pyo.Constraint(expr=temperature <= HOTTEST)
    hires = sum(v.hire * m.vessels[k] for k, v in CATALOGUE.items()) + PUMP * m.pumps + CHILLER * m.chillers
    m.profit = pyo.Objective(expr=VOLUME * margin - hires, sense=pyo.maximize)
    return m


def choice(m: pyo.ConcreteModel) -> dict:
    """The operating point and what is hired, of a solved model."""
    kind = max(CATALOGUE, key=lambda k: m.vessels[k].value)
    hired = {"vessels": kind, "pumps": round(m.pumps.value), "chillers": round(m.chillers.value)}
    return {name: m.x[name].value for name in INPUTS} | hired
