"""A heuristic counterfactual by gradient descent, which proves nothing: a start for the programs, and what they beat.

    minimise  sum_i |t_i|  +  weight * max(0, margin - f(x + t / w))

over t, the moves in the unit of the distance, by Adam, for some weights and for each bin at once. Iterates are made to
keep the rules (clipped, rounded, means below worst values), and the nearest of those that flip the decision counts,
after it was drawn towards the patient as far as it still flips.

Source: Wachter, Mittelstadt, Russell, "Counterfactual explanations without opening the black box", 2017, equation 2.
"""

from __future__ import annotations

import numpy as np
import torch
from question import MARGIN, Question

import polyopt as po

WEIGHTS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
STEPS, EVERY, RATE = 200, 5, 0.1  # which iterates are looked at


def counterfactual(asked: Question, net: po.Network) -> np.ndarray | None:
    """The nearest point found (n,), or None."""
    people, module = asked.people, po.to_torch(net)
    k, allowed = people.numeric, np.flatnonzero(asked.upper[asked.people.numeric :])
    weight = torch.tensor(np.repeat(WEIGHTS, len(allowed)))
    bins = torch.tensor(np.tile(np.eye(4)[allowed], (len(WEIGHTS), 1)))
    x, unit = torch.from_numpy(asked.x[:k]), torch.from_numpy(1 / people.weights)
    low, high = (torch.from_numpy((side[:k] - asked.x[:k]) * people.weights) for side in (asked.lower, asked.upper))
    moves = torch.zeros(len(weight), k, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([moves], lr=RATE)
    best, least = None, np.inf
    for step in range(STEPS):
        adam.zero_grad()
        value = module(torch.cat([x + moves * unit, bins], 1))[:, 0]
        (abs(moves).sum(1) + weight * (MARGIN - value).clamp(min=0.0)).sum().backward()
        adam.step()
        with torch.no_grad():
            moves.copy_(moves.clamp(low, high))
        if step % EVERY:
            continue
        points = _kept(asked, np.hstack([(x + moves * unit).detach().numpy(), bins.numpy()]))
        points = points[asked.allows(points) & (net(points)[:, 0] >= MARGIN)]
        far = asked.distance(points)
        if len(points) and far.min() < least:
            best, least = points[far.argmin()], far.min()
    return None if best is None else _drawn(asked, net, best)


def _kept(asked: Question, points: np.ndarray) -> np.ndarray:
    """The points made to keep the rules, as far as rounding and raising worst values does it."""
    points = points.copy()
    points[:, asked.people.integers] = points[:, asked.people.integers].round()
    for mean, worst in asked.people.pairs:
        points[:, worst] = np.maximum(points[:, worst], points[:, mean])
    return points


def _drawn(asked: Question, net: po.Network, point: np.ndarray) -> np.ndarray:
    """The nearest point that flips, of many on the line from the patient to this one in all but the whole columns."""
    fixed = [*asked.people.integers, *range(asked.people.numeric, len(point))]
    line = asked.x + np.linspace(0.0, 1.0, 1001)[:, None] * (point - asked.x)
    line[:, fixed] = point[fixed]
    line = line[asked.allows(line, 0.0) & (net(line)[:, 0] >= MARGIN)]
    return line[asked.distance(line).argmin()] if len(line) else point
