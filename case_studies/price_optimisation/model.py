"""The decision: a price for each product and region from a list, and how much of the harvest goes where.

    maximise    sum_{r,k} (sum_i price_{rki} sold_{rki} - transport_r shipped_{rk}) - WASTE (harvest - all that is sold)

    sum_i z_{rki} = 1,   price_{rk} = sum_i price_{rki} z_{rki},   z binary              one price of the list
    demand_r = network(price_r, features_r)                                              a copy for each region
    sum_i sold_{rki} <= min(shipped_{rk}, demand_{rk})
    sold_{rki} <= M_{rki} z_{rki}                                                         at the price that is asked
    sum_k shipped_{rk} <= shelf_r,   sum_r shipped_{rk} + kept_k = harvest_k
    price_{r,k+1} >= price_{rk} + STEP                                                   the finer product is the dearer

Price times quantity is a product of two variables; on a list of prices it is the linear sum above, exactly.

M is the least of shelf and harvest. With *level bounds* it is also the most that the network can demand at that price:
alpha-CROWN bounds the demands over the box of the inputs with product j held at its i-th price, for all r, j and i in
one batch; these bounds U_{rjik} give M_{rki} = min(M, U_{rkik}) and the rows demand_{rk} <= sum_i U_{rjik} z_{rji}.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from market import FEATURES, HIGHEST, LOWEST, Law

import polyopt as po

WASTE = 0.1  # dollars a unit
STEP = 0.1  # dollars


@dataclass(frozen=True, eq=False)
class Week:
    """What is known beforehand: features (R, 4), prices (R, n, L), transport (R,), shelf (R,) and harvest (n,)."""

    features: np.ndarray
    prices: np.ndarray
    transport: np.ndarray  # dollars a unit
    shelf: np.ndarray  # thousands of units
    harvest: np.ndarray

    @classmethod
    def of(cls, law: Law, regions: int, levels: int, seed: int) -> Week:
        """A random week of the peak season: prices may move up and down from where they are, in steps of 10 cents."""
        rng = np.random.default_rng([seed, regions])
        features = rng.uniform(LOWEST, HIGHEST, (regions, len(FEATURES)))
        features[:, FEATURES.index("peak")] = 1.0
        now = rng.uniform(law.lowest + 0.3, law.highest - 0.3, (regions, law.products)).round(1)
        prices = (now[:, :, None] + 0.1 * (np.arange(levels) - levels // 2)).round(2)
        size = features[:, FEATURES.index("size")]
        harvest = rng.uniform(0.15, 0.25, law.products) * size.sum()
        return cls(features, prices, rng.uniform(0.1, 0.5, regions), rng.uniform(0.5, 0.8, regions) * size, harvest)

    @property
    def size(self) -> tuple[int, int, int]:
        """Regions, products and prices on a list."""
        return self.prices.shape

    def most(self, r: int, k: int) -> float:
        """How many thousand units of a product a region can sell."""
        return float(min(self.shelf[r], self.harvest[k]))

    def box(self) -> po.Box:
        """A batch of boxes of the network's inputs, one for each region."""
        ends = (self.prices.min(2), self.prices.max(2))
        return po.Box(*(np.hstack([end, self.features]) for end in ends))


def level_bounds(week: Week, net: po.Network) -> np.ndarray:
    """``U[r, j, i, k]``, above which no demand for k in r is when product j has its i-th price; thousands of units."""
    regions, n, levels = week.size
    box, shape = week.box(), (regions, n, levels, net.input_size)
    lower, upper = (np.broadcast_to(end[:, None, None], shape).copy() for end in (box.lower, box.upper))
    for j in range(n):
        lower[:, j, :, j] = upper[:, j, :, j] = week.prices[:, j]
    slices = po.Box(lower.reshape(-1, net.input_size), upper.reshape(-1, net.input_size))
    return po.alpha_crown(net, slices).output.upper.reshape(regions, n, levels, n)


def build(week: Week, net: po.Network, contender, levels: bool) -> pyo.ConcreteModel:
    """The model with a contender's networks (see common/rivals.py), with level bounds or without."""
    m = pyo.ConcreteModel()
    m.r, m.k, m.i = (pyo.RangeSet(0, size - 1) for size in week.size)
    _add_prices(m, week)
    m.net = pyo.Block(m.r)
    inputs = {r: [*m.price[r, :], *m.feature[r, :]] for r in m.r}
    if contender.package == "polyopt":  # all copies at once
        demand = contender.embed(m.net, net, inputs)
    else:
        demand = {r: contender.embed(m.net[r], net, inputs[r]) for r in m.r}
    _add_sales(m, week, demand)
    most = np.array([[[week.most(r, k)] * len(m.i) for k in m.k] for r in m.r])
    if levels:
        found = level_bounds(week, net)
        most = np.minimum(most, np.stack([found[:, k, :, k] for k in m.k], axis=1)).clip(0.0)
        _add_levels(m, demand, found.tolist())
    m.at_price = pyo.Constraint(
        m.r, m.k, m.i, rule=lambda m, r, k, i: m.sold[r, k, i] <= float(most[r, k, i]) * m.z[r, k, i]
    )
    return m


def _add_prices(m: pyo.ConcreteModel, week: Week) -> None:
    """Prices from the lists, and the fixed features."""
    price, feature = week.prices.tolist(), week.features.tolist()
    m.z = pyo.Var(m.r, m.k, m.i, domain=pyo.Binary)
    m.price = pyo.Var(m.r, m.k, bounds=lambda _, r, k: (min(price[r][k]), max(price[r][k])))
    m.feature = pyo.Var(m.r, range(len(FEATURES)), bounds=lambda _, r, f: (feature[r][f], feature[r][f]))
    m.one = pyo.Constraint(m.r, m.k, rule=lambda m, r, k: sum(m.z[r, k, :]) == 1)
    m.chosen = pyo.Constraint(
        m.r, m.k, rule=lambda m, r, k: sum(price[r][k][i] * m.z[r, k, i] for i in m.i) == m.price[r, k]
    )
    m.ladder = pyo.Constraint(m.r, list(m.k)[1:], rule=lambda m, r, k: m.price[r, k] >= m.price[r, k - 1] + STEP)


def _add_sales(m: pyo.ConcreteModel, week: Week, demand: dict) -> None:
    """What is shipped, sold and wasted, and the profit in thousands of dollars."""
    price, harvest = week.prices.tolist(), week.harvest.tolist()
    m.sold = pyo.Var(m.r, m.k, m.i, bounds=lambda _, r, k, i: (0.0, week.most(r, k)))
    m.shipped = pyo.Var(m.r, m.k, bounds=lambda _, r, k: (0.0, week.most(r, k)))
    m.kept = pyo.Var(m.k, bounds=lambda _, k: (0.0, harvest[k]))
    m.stock = pyo.Constraint(m.r, m.k, rule=lambda m, r, k: sum(m.sold[r, k, :]) <= m.shipped[r, k])
    m.demand = pyo.Constraint(m.r, m.k, rule=lambda m, r, k: sum(m.sold[r, k, :]) <= demand[r][k])
    m.room = pyo.Constraint(m.r, rule=lambda m, r: sum(m.shipped[r, :]) <= float(week.shelf[r]))
    m.harvest = pyo.Constraint(m.k, rule=lambda m, k: sum(m.shipped[:, k]) + m.kept[k] == harvest[k])
    revenue = sum(price[r][k][i] * m.sold[r, k, i] for r, k, i in m.sold)
    transport = sum(float(week.transport[r]) * m.shipped[r, k] for r, k in m.shipped)
    wasted = sum(harvest) - sum(m.sold[:, :, :])
    m.profit = pyo.Objective(expr=revenue - transport - WASTE * wasted, sense=pyo.maximize)


def _add_levels(m: pyo.ConcreteModel, demand: dict, found: list) -> None:
    """No demand above what the bounds allow at each product's price."""
    m.level = pyo.Constraint(
        m.r, m.k, m.k, rule=lambda m, r, j, k: demand[r][k] <= sum(found[r][j][i][k] * m.z[r, j, i] for i in m.i)
    )
