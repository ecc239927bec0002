"""A proof of the distance that no MIP solver takes part in: `polyopt.verify` over the ball around the patient.

That nothing nearer than D flips the decision is a property of a network over a polytope. With the moves up and down,
``x' = x + p - q`` and p, q >= 0, as its inputs,

    f(x + p - q, z) < margin   where   sum_i w_i (p_i + q_i) <= D - c_b,  mean_j <= worst_j,  l <= x + p - q <= u,

one property for each bin b, in which z is constant. Whole columns are first let free; where there is a counterexample
then, they are split at its value, as in branch and bound. The bounds of the search are rounded outwards.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from question import MARGIN, Question

import polyopt as po
from polyopt.layers import Affine


def nothing_nearer(asked: Question, net: po.Network, distance: float, limit: float) -> bool:
    """Whether it is proven, within ``limit`` seconds, that no point up to this distance flips the decision."""
    end, k = time.perf_counter() + limit, asked.people.numeric
    whole = asked.within(distance)
    return all(_bin_is_safe(whole, net, distance, int(b), end) for b in np.flatnonzero(whole.upper[k:]))


def _bin_is_safe(asked: Question, net: po.Network, distance: float, b: int, end: float) -> bool:
    if (asked.lower > asked.upper).any():
        return True
    left = end - time.perf_counter()
    if left <= 0:
        return False
    lifted, region = _lifted(asked, net, distance, b)
    if region is None:
        return True
    verdict = po.verify(lifted, po.Property(region, [po.HPolytope([[-1.0]], [-MARGIN])]), time_limit=left)
    if verdict.status != "falsified":
        return verdict.status == "verified"
    whole = asked.people.integers
    moves = verdict.witness.reshape(2, -1)
    x = asked.x.copy()
    x[asked.free] += moves[0] - moves[1]
    apart = abs(x - x.round())[whole]
    if apart.max() < 1e-6:  # a point that flips the decision
        return False
    i = whole[apart.argmax()]
    below, above = asked.upper.copy(), asked.lower.copy()
    below[i], above[i] = np.floor(x[i]), np.ceil(x[i])
    parts = [replace(asked, upper=below), replace(asked, lower=above)]
    return all(_bin_is_safe(part, net, distance, b, end) for part in parts)


def _lifted(asked: Question, net: po.Network, distance: float, b: int) -> tuple[po.Network, po.HPolytope | None]:
    """The network of the moves (p, q), and the polytope of them; None where it is empty."""
    people, free = asked.people, asked.free
    k, now = people.numeric, asked.x.copy()
    now[k:] = np.eye(len(asked.costs))[b]
    held = [i for i in range(k) if i not in free]
    now[held] = asked.lower[held]  # a whole column that was split may be held elsewhere than at the patient's value
    left = distance - asked.costs[b] - abs(now - asked.x)[held] @ people.weights[held]
    moves = np.eye(len(now))[:, free]
    moves, size = np.hstack([moves, -moves]), 2 * len(free)
    layers = [(node.name, node.layer, ["moved" if i == "input" else i for i in node.inputs]) for node in net.nodes]
    lifted = po.Network([("moved", Affine(moves, now), ["input"]), *layers], (size,)).simplify()
    ordered = np.array([moves[mean] - moves[worst] for mean, worst in people.pairs])
    room = np.array([now[worst] - now[mean] for mean, worst in people.pairs])
    A = np.vstack([-np.eye(size), np.tile(people.weights[free], 2)[None], moves[free], -moves[free], ordered])
    ends = [asked.upper[free] - now[free], now[free] - asked.lower[free]]
    edges = np.concatenate([np.zeros(size), [left], *ends, room])
    used = A.any(1)
    empty = left < 0 or (edges[~used] < 0).any()
    return lifted, None if empty else po.HPolytope(A[used], edges[used])
