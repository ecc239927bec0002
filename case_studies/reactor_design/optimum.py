"""The true optimum: global search on the reactor itself, for each choice of vessels, pumps and chillers.

A choice bounds dilution and cooling. The search is over dilution, feed and temperature, where the cooling that holds
this temperature follows in closed form: since there is one steady state, this is the same set of operating points, and
no root has to be found. scipy's differential evolution takes the constraints, SLSQP polishes its best point.

Tighter limits earn no more than wider ones. So choices are searched with the widest limits first, and those whose
hires cannot be earned under some wider limits are left out.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from plant import CATALOGUE, CHILLER, FLOW, HEAT, HOTTEST, MOST_CHILLERS, MOST_PUMPS, PUMP, PURITY, VOLUME
from reactor import LOWER, UPPER, at_rest, cooling_for, outputs
from scipy.optimize import NonlinearConstraint, differential_evolution, minimize
from tqdm import tqdm

COLDEST = 40.0  # C; with the most cooling and the least throughput it is 47.9
GENERATIONS = 200  # at most; some 30 are enough where limits leave anything at all
FEASIBLE = 1e-7  # in percent and kJ/(L h)


@dataclass(frozen=True)
class Optimum:
    """The best profit in EUR/h, at operating point ``x`` with these ``outputs`` and vessels, pumps and chillers."""

    profit: float
    x: np.ndarray
    outputs: np.ndarray
    choice: tuple[str, int, int]


def true_optimum(tolerance: float = 0.0) -> Optimum:
    """The best of all choices, where purity and temperature may miss their limits by so much."""
    best, earned = None, {}
    choices = list(itertools.product(CATALOGUE, range(1, MOST_PUMPS + 1), range(1, MOST_CHILLERS + 1)))
    for choice in tqdm(sorted(choices, key=_limits, reverse=True), desc="true optimum", leave=False):
        dilution, cooling = _limits(choice)
        wider = [found[0] for (d, c), found in earned.items() if d >= dilution and c >= cooling]
        if best is not None and min(wider, default=math.inf) - _hired(choice) <= best.profit:
            continue
        if (dilution, cooling) not in earned:
            earned[dilution, cooling] = search(dilution, cooling, tolerance)
        earns, *point = earned[dilution, cooling]
        if best is None or earns - _hired(choice) > best.profit:
            best = Optimum(earns - _hired(choice), *point, choice)
    return best


def _limits(choice: tuple[str, int, int]) -> tuple[float, float]:
    """The most dilution and cooling that a choice allows."""
    kind, pumps, chillers = choice
    return min(FLOW * pumps, UPPER[0]), min(HEAT * chillers, CATALOGUE[kind].jacket, UPPER[2])


def _hired(choice: tuple[str, int, int]) -> float:
    kind, pumps, chillers = choice
    return CATALOGUE[kind].hire + PUMP * pumps + CHILLER * chillers


def search(dilution: float, cooling: float, tolerance: float) -> tuple:
    """The most that is earned before hires up to these limits, with operating point and outputs; -inf for nothing."""
    bounds = [(LOWER[0], dilution), (LOWER[1], UPPER[1]), (COLDEST, HOTTEST + tolerance)]
    least, most = np.array([PURITY - tolerance, 0.0]), np.array([np.inf, cooling])

    def loss(z):
        return -VOLUME * _evaluated(z)[1][..., 0]

    def slack(z):
        held = _held(z)
        return np.array([*(held - least), most[1] - held[1]])

    settings = {"vectorized": True, "updating": "deferred", "polish": False, "maxiter": GENERATIONS, "rng": 0}
    found = differential_evolution(loss, bounds, constraints=NonlinearConstraint(_held, least, most), **settings)
    polished = minimize(
        loss, found.x, bounds=bounds, constraints={"type": "ineq", "fun": slack}, method="SLSQP", tol=1e-10
    )
    kept = [z for z in (found.x, polished.x) if slack(z).min() >= -FEASIBLE]
    if not kept:
        return (-math.inf,)
    z = min(kept, key=loss)
    return (-float(loss(z)), *_evaluated(z))


def _evaluated(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Operating points and outputs (..., 3) at dilution, feed and temperature z (3, ...)."""
    x = np.stack([z[0], z[1], cooling_for(*z)], axis=-1)
    return x, outputs(x, *at_rest(z[2], x), z[2])


def _held(z: np.ndarray) -> np.ndarray:
    """What is constrained: purity and cooling (2, ...)."""
    x, y = _evaluated(z)
    return np.stack([y[..., 1], x[..., 2]])
