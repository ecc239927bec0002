"""One layer of mPOLICE as a mixed-integer quadratic program, for any solver that Pyomo knows.

With the unit n's weights and bias u_n = (w_n, b_n), a binary sigma_ni that is 1 where region i is on its positive side,
and the image of region i as ``{p + sum_k e_k g_k : p in conv(p_1, ...), |e| <= 1}`` (`polyopt.police.hulls`),

    minimize    sum_n |u_n - u0_n|^2
    subject to  w_n p + b_n - r_ni >=  margin - M+_nip (1 - sigma_ni)      r_ni = sum_k q_nik         for each point p
                w_n p + b_n + r_ni <= -margin + M-_nip sigma_ni            q_nik >= |w_n g_ik|, two rows
                sum_n d_nij >= 1,  d_nij <= sigma_ni + sigma_nj,  d_nij <= 2 - sigma_ni - sigma_nj    for each pair

Where the binaries are 0 or 1, d is at most 1 if they differ and else at most 0, so d need not be binary.

Why these M are valid. Let h_s be the hyperplane of least norm with ``s_i h_s v~ >= 1`` on all regions, for each sign
vector s that has any; h_{-s} = -h_s. In an optimal solution u_n is the projection of u0_n on the units with its signs
s, and ``margin h_s`` is one of those. The projection is no farther away:

    |u_n - u0_n| <= R_n := max_s |u0_n - margin h_s|

On this ball, ``w p + b - r`` is a least of ``u v~`` over points v = p + sum_k e_k g_k, of which each is within
``R_n (|p~| + sum_k |g_k|)`` of its value at u0_n, so that

    M+_nip = margin + R_n (|p~| + sum_k |g_k|) - (u0_n p~ - r0_ni)
    M-_nip = margin + R_n (|p~| + sum_k |g_k|) + (u0_n p~ + r0_ni),       r0_ni = sum_k |w0_n g_ik|

cut off no optimal solution, also where the problem has no solution: then it has none with any M. The h_s are 2^(N-1)
projections, which do not depend on the unit.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, sections 2.4 and 2.6, for one layer; the M are not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyomo.environ as pyo
import torch
from torch import Tensor

from polyopt.police.hulls import Hull
from polyopt.police.pairs import Pair, unseparated
from polyopt.police.projections import projections
from polyopt.police.signs import sign_vectors
from polyopt.police.solve_layer import read_layer
from polyopt.regions import Region

MOST_REGIONS = 12


def layer_miqp(
    weight: Tensor,
    bias: Tensor,
    images: Sequence[Region | Hull],
    margin: float,
    separated_pairs: Iterable[Pair] = (),
) -> pyo.ConcreteModel:
    """The model, with the arguments of `polyopt.police.solve_layer`, which solves it faster.

    The variables are ``w[n, k]``, ``b[n]``, ``sigma[n, i]``, ``d[n, i, j]`` and, for regions with generators,
    ``q[n, i, k]``; the objective is ``cost``. ValueError as in solve_layer, and for more than 12 regions.

    >>> from polyopt import Box
    >>> weight, bias = torch.tensor([[1.0]]), torch.tensor([1.0])
    >>> model = layer_miqp(weight, bias, [Box([0.0], [1.0]), Box([3.0], [4.0])], margin=0.5)
    >>> print(model.positive[0, 0, 0].expr)
    0.5 - 2.835662520727637*(1 - sigma[0,0])  <=  0.5*w[0,0] + b[0] - q[0,0,0]
    >>> print(model.apart[0, 1].expr)
    1  <=  d[0,0,1]
    """
    units, regions, _ = read_layer(weight, bias, images, margin)
    if len(regions) > MOST_REGIONS:
        raise ValueError(f"layer_miqp: {len(regions)} regions are more than {MOST_REGIONS}; use solve_layer")
    pairs = sorted(tuple(sorted(edge)) for edge in unseparated(len(regions), separated_pairs).edges)
    radius = _radius(units, regions, margin)
    return _model(units.cpu().numpy(), regions, float(margin), pairs, radius.cpu().numpy())


def _radius(units: Tensor, regions: Sequence[Hull], margin: float) -> Tensor:
    """R_n for each unit (units,)."""
    signs = sign_vectors(len(regions), units)
    signs = signs[signs[:, 0] > 0]
    nearest = projections(regions, units.new_zeros(len(signs), units.shape[1]), signs, 1.0)
    planes = nearest.u[nearest.cost < torch.inf]
    return torch.cdist(units, margin * torch.cat([planes, -planes])).amax(1)


def _model(units, regions: Sequence[Hull], margin: float, pairs: list[Pair], radius) -> pyo.ConcreteModel:
    m = pyo.ConcreteModel()
    m.units, m.inputs = pyo.RangeSet(0, len(units) - 1), pyo.RangeSet(0, units.shape[1] - 2)
    m.regions, m.pairs = pyo.RangeSet(0, len(regions) - 1), pyo.Set(initialize=pairs, dimen=2)
    m.w = pyo.Var(m.units, m.inputs, initialize=lambda _, n, k: units[n, k])
    m.b = pyo.Var(m.units, initialize=lambda _, n: units[n, -1])
    m.sigma = pyo.Var(m.units, m.regions, domain=pyo.Binary)
    m.d = pyo.Var(m.units, m.pairs, bounds=(0, 1))
    moved = [(m.w[n, k] - units[n, k]) ** 2 for n in m.units for k in m.inputs]
    m.cost = pyo.Objective(expr=sum(moved) + sum((m.b[n] - units[n, -1]) ** 2 for n in m.units))
    _add_sides(m, units, regions, margin, radius)
    m.apart = pyo.Constraint(m.pairs, rule=lambda m, i, j: sum(m.d[n, i, j] for n in m.units) >= 1)
    m.some = pyo.Constraint(m.units, m.pairs, rule=lambda m, n, i, j: m.d[n, i, j] <= m.sigma[n, i] + m.sigma[n, j])
    m.other = pyo.Constraint(
        m.units, m.pairs, rule=lambda m, n, i, j: m.d[n, i, j] <= 2 - m.sigma[n, i] - m.sigma[n, j]
    )
    return m


def _add_sides(m, units: np.ndarray, regions: Sequence[Hull], margin: float, radius: np.ndarray) -> None:
    """The rows that hold each region on one side of each unit."""
    points = [each.points.cpu().numpy() for each in regions]
    generators = [each.generators.cpu().numpy() for each in regions]
    m.spans = pyo.Set(initialize=[(i, k) for i, g in enumerate(generators) for k in range(len(g))], dimen=2)
    m.q = pyo.Var(m.units, m.spans, domain=pyo.NonNegativeReals)

    def product(n, v):
        return sum(float(x) * m.w[n, k] for k, x in enumerate(v) if x)

    m.above = pyo.Constraint(m.units, m.spans, rule=lambda m, n, i, k: m.q[n, i, k] >= product(n, generators[i][k]))
    m.below = pyo.Constraint(m.units, m.spans, rule=lambda m, n, i, k: m.q[n, i, k] >= -product(n, generators[i][k]))
    m.places = pyo.Set(initialize=[(i, p) for i, own in enumerate(points) for p in range(len(own))], dimen=2)
    reach = [abs(units[:, :-1] @ g.T).sum(1) for g in generators]  # r0

    def room(n, i, p, side):
        far = np.hypot(np.linalg.norm(points[i][p]), 1.0) + np.linalg.norm(generators[i], axis=1).sum()
        return float(margin + radius[n] * far - side * (units[n, :-1] @ points[i][p] + units[n, -1]) + reach[i][n])

    def value(n, i, p, side):
        r = sum(m.q[n, i, k] for k in range(len(generators[i])))
        return product(n, points[i][p]) + m.b[n] - side * r

    m.positive = pyo.Constraint(
        m.units,
        m.places,
        rule=lambda m, n, i, p: value(n, i, p, 1) >= margin - room(n, i, p, 1) * (1 - m.sigma[n, i]),
    )
    m.negative = pyo.Constraint(
        m.units, m.places, rule=lambda m, n, i, p: value(n, i, p, -1) <= -margin + room(n, i, p, -1) * m.sigma[n, i]
    )
