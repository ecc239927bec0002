"""The decision: a price for each product and region from a list, and how much of the harvest goes where.

    maximise    sum_{r,k} (sum_i price_{rki} sold_{rki} - transport_r shipped_{rk}) - WASTE (harvest - all that is sold)

    sum_i z_{rki} = 1,   price_{rk} = sum_i price_{rki} z_{rki},   z binary              one price of the list
    demand_r = network(price_r, features_r)                                              a copy for each region
    sum_i sold_{rki} <= min(shipped_{rk}, demand_{rk})
    sold_{rki} <= M_{rk} z_{rki}                                                          at the price that is asked
    sum_k shipped_{rk} <= shelf_r,   sum_r shipped_{rk} + kept_k = harvest_k
    price_{r,k+1} >= price_{rk} + STEP                                                   the finer product is the dearer

Price times quantity is a product of two variables; on a list of prices it is the linear sum above, exactly. M is the
least of shelf and harvest. With cells (cells.py) the same decisions have a tighter relaxation.
"""

from __future__ import annotations

import pyomo.environ as pyo
from cells import add_demand
from market import FEATURES
from week import STEP, WASTE, Week

import polyopt as po


def build(week: Week, net: po.Network, contender, held: int) -> pyo.ConcreteModel:
    """The model with a contender's networks (see common/rivals.py), with cells of so many products, or none for 0."""
    m = pyo.ConcreteModel()
    m.r, m.k, m.i = (pyo.RangeSet(0, size - 1) for size in week.size)
    _add_prices(m, week)
    m.sold = pyo.Var(m.r, m.k, m.i, bounds=lambda _, r, k, i: (0.0, week.most(r, k)))
    m.net = pyo.Block(m.r)
    inputs = {r: [*m.price[r, :], *m.feature[r, :]] for r in m.r}
    if held:
        demand = add_demand(m, week, net, contender, inputs, held)
    elif contender.package == "polyopt":  # all copies at once
        demand = contender.embed(m.net, net, inputs)
    else:
        demand = {r: contender.embed(m.net[r], net, inputs[r]) for r in m.r}
    if not held:  # else the cells say it
        m.at_price = pyo.Constraint(
            m.r, m.k, m.i, rule=lambda m, r, k, i: m.sold[r, k, i] <= week.most(r, k) * m.z[r, k, i]
        )
    _add_sales(m, week, demand)
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
