"""The same decision without a network: all price vectors of a region tabulated by forward passes.

    one binary a region r and price vector v:   sum_v lambda_{rv} = 1,   sold_{rkv} <= demand_{rkv} lambda_{rv}

and the rest as in model.py. There are L^n price vectors; where these are few, this is the check of the optimum, and the
better model: its relaxation is the convex hull of each region. Solved by scipy.optimize.milp.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp
from week import STEP, WASTE, Week

import polyopt as po


@dataclass(frozen=True)
class Table:
    """The optimal profit, and what it took."""

    profit: float
    vectors: int  # of all regions
    work: float


def tabulate(week: Week, net: po.Network) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each region the price vectors (V, n) that keep the ladder and have no negative demand, and these (V, n)."""
    found = []
    for prices, features in zip(week.prices, week.features, strict=True):
        vectors = np.array(list(itertools.product(*prices)))
        vectors = vectors[(np.diff(vectors) >= STEP - 1e-9).all(axis=1)]
        demands = net(np.hstack([vectors, np.broadcast_to(features, (len(vectors), len(features)))]))
        kept = (demands >= 0).all(axis=1)
        found.append((vectors[kept], demands[kept]))
    return found


def solve_table(week: Week, net: po.Network) -> Table:
    """The optimum over all tabulated price vectors; RuntimeError where the solver does not prove one."""
    begin, table = time.process_time(), tabulate(week, net)
    parts = [
        _region(*entry, float(transport), float(shelf))
        for entry, transport, shelf in zip(table, week.transport, week.shelf, strict=True)
    ]
    rows, lower, upper, shipped, cost, integer = zip(*parts, strict=True)
    integer = np.concatenate(integer)
    found = milp(
        np.concatenate(cost),
        integrality=integer,
        bounds=Bounds(0.0, np.where(integer, 1.0, np.inf)),
        constraints=[
            LinearConstraint(sp.block_diag(rows, format="csr"), np.concatenate(lower), np.concatenate(upper)),
            LinearConstraint(sp.hstack(shipped, format="csr"), -np.inf, week.harvest),
        ],
        options={"mip_rel_gap": 1e-9},
    )
    if found.status != 0:
        raise RuntimeError(f"the tabulated model was not solved: {found.message}")
    profit = -found.fun - WASTE * week.harvest.sum()
    return Table(float(profit), sum(len(vectors) for vectors, _ in table), time.process_time() - begin)


def _region(prices: np.ndarray, demands: np.ndarray, transport: float, shelf: float) -> tuple:
    """Rows, their ends, what is shipped, cost and kinds; the columns are lambda (V), sold (V n) and shipped (n)."""
    count, n = prices.shape
    at = np.repeat(np.arange(count), n)  # the price vector of each sale
    most = sp.csr_array((demands.ravel(), (np.arange(count * n), at)))
    total, each = sp.csr_array(np.tile(np.eye(n), count)), sp.eye_array(n)
    rows = sp.block_array(
        [
            [np.ones((1, count)), None, None],  # one price vector
            [-most, sp.eye_array(count * n), None],  # sold <= demand
            [None, total, -each],  # sold <= shipped
            [None, None, np.ones((1, n))],  # shelf
        ]
    )
    upper = np.concatenate([[1.0], np.zeros(count * n + n), [shelf]])
    lower = np.concatenate([[1.0], np.full(count * n + n + 1, -np.inf)])
    shipped = sp.hstack([sp.csr_array((n, count + count * n)), each])
    cost = np.concatenate([np.zeros(count), -prices.ravel() - WASTE, np.full(n, transport)])
    integer = np.concatenate([np.ones(count), np.zeros(count * n + n)])
    return rows, lower, upper, shipped, cost, integer
