"""The paper's pipeline, rebuilt, since its code is not published: signs by majority, then quadratic programs by SCS.

In each layer, with the rows v~ = (v, 1) of all vertices and units u = (w, b),

    minimize sum_n |u_n - u0_n|^2   subject to   s_in u_n v~ >= margin                      (sections 2.5 and 2.6)

is written in cvxpy in one of three `WAYS`:

    anew      one program for all units, written and compiled for every layer
    kept      the same, compiled once for all layers of a shape, with a parameter (DPP) for the rows of each unit
    by unit   a program for one unit, compiled once, and solved for those units that do not have their signs yet

Where two regions have had the same signs in every layer, units of the last one whose mean is nearest to zero flip.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

try:
    import cvxpy as cp
except ModuleNotFoundError:
    cp = None

FOUND = ("optimal", "optimal_inaccurate")
Pairs = list[tuple[int, int]]


class Failed(ValueError):
    """No flips are left, or SCS finds that no units have these signs."""


class Layer(NamedTuple):
    units: np.ndarray  # (B, n + 1)
    cost: float
    signs: np.ndarray  # (N, B)
    slack: float  # the least of s u v~ - margin


def majority(images: Sequence[np.ndarray], units: np.ndarray, unlike: Pairs) -> np.ndarray:
    """Signs (N, B) for the points (P, n + 1) of each region, with flips where a pair is not ``unlike`` yet."""
    values = [points @ units.T for points in images]
    signs = np.stack([np.where(2 * (z >= 0).sum(0) >= len(z), 1.0, -1.0) for z in values])
    nearest = [iter(abs(z.mean(0)).argsort()) for z in values]
    while same := [(i, j) for i, j in unlike if (signs[i] == signs[j]).all()]:
        region = same[0][1]
        unit = next(nearest[region], None)
        if unit is None:
            raise Failed(f"no flips are left for {same}")
        signs[region, unit] *= -1
    return signs


def anew(units: np.ndarray, rows: np.ndarray, signs: np.ndarray, margin: float) -> np.ndarray:
    """New units (B, n + 1) for rows (P, n + 1) and their signs (P, B)."""
    u = cp.Variable(units.shape)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(u - units)), [cp.multiply(signs, rows @ u.T) >= margin])
    return solved(problem, u)


def kept(units: np.ndarray, rows: np.ndarray, signs: np.ndarray, margin: float) -> np.ndarray:
    problem, u, start, own = _kept(units.shape, len(rows), margin)
    start.value = units
    for parameter, s in zip(own, signs.T, strict=True):
        parameter.value = s[:, None] * rows
    return solved(problem, u)


@cache
def _kept(shape: tuple[int, int], count: int, margin: float) -> tuple:
    u, start = cp.Variable(shape), cp.Parameter(shape)
    own = [cp.Parameter((count, shape[1])) for _ in range(shape[0])]
    constraints = [rows @ u[k] >= margin for k, rows in enumerate(own)]
    return cp.Problem(cp.Minimize(cp.sum_squares(u - start)), constraints), u, start, own


def by_unit(units: np.ndarray, rows: np.ndarray, signs: np.ndarray, margin: float) -> np.ndarray:
    problem, u, start, (own,) = _kept((1, units.shape[1]), len(rows), margin)
    found = units.copy()
    for k in (signs * (rows @ units.T) < margin).any(0).nonzero()[0]:
        start.value, own.value = units[k : k + 1], signs[:, k : k + 1] * rows
        found[k] = solved(problem, u)[0]
    return found


def solved(problem: cp.Problem, u: cp.Variable) -> np.ndarray:
    problem.solve(solver=cp.SCS, warm_start=False)
    if problem.status not in FOUND:
        raise Failed(f"SCS says {problem.status}")
    return u.value


WAYS: dict[str, Callable] = {} if cp is None else {"anew": anew, "kept": kept, "by unit": by_unit}


def layer(units: np.ndarray, images: Sequence[np.ndarray], margin: float, way: str, unlike: Pairs) -> Layer:
    """One layer; ``images`` are the points (P, n) of the regions in front of it."""
    images = [np.hstack([points, np.ones((len(points), 1))]) for points in images]
    signs = majority(images, units, unlike)
    rows, own = np.vstack(images), np.repeat(signs, [len(points) for points in images], axis=0)
    found = WAYS[way](units, rows, own, margin)
    slack = float((own * (rows @ found.T)).min() - margin)
    return Layer(found, float(np.square(found - units).sum()), signs, slack)


def enforce(network: nn.Sequential, images: Sequence[np.ndarray], margin: float, way: str) -> float:
    """All hidden layers of a ReLU network, changed in place; what it cost."""
    hidden = [module for module in network if isinstance(module, nn.Linear)][:-1]
    unlike, cost = list(itertools.combinations(range(len(images)), 2)), 0.0
    for linear in hidden:
        units = torch.cat([linear.weight, linear.bias[:, None]], 1).detach().double().numpy()
        done = layer(units, images, margin, way, unlike if linear is hidden[-1] else [])
        unlike = [(i, j) for i, j in unlike if (done.signs[i] == done.signs[j]).all()]
        cost += done.cost
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(done.units[:, :-1]))
            linear.bias.copy_(torch.from_numpy(done.units[:, -1]))
        weight, bias = (x.detach().double().numpy() for x in (linear.weight, linear.bias))  # as they are stored
        images = [np.maximum(points @ weight.T + bias, 0.0) for points in images]
    return cost
