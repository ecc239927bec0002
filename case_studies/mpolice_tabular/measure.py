"""What is measured of a network on a box: units that straddle, its range of values, its slopes, its violations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from people import BMI, BP, LEAST_OBESE, MOST_NORMAL, MOST_OBESE, Split
from torch import nn

import polyopt as po
from polyopt.verification.violation import violation

SAMPLES = 4096


@dataclass
class Straddling:
    """How many units change their sign on a box: seen at its random points, and at most, by CROWN's bounds."""

    seen: int
    most: int


def read(module: nn.Module) -> po.Network:
    return po.from_torch(module.eval(), input_shape=(module[0].in_features,))


def straddling(net: po.Network, region: po.Box) -> Straddling:
    points, values = region.sample(SAMPLES, np.random.default_rng(0)), po.crown(net, region).pre
    reached = net.values(points)
    units = [reached[node.inputs[0]] for node in net.activations]
    seen = sum(int(((each.min(0) < 0) & (each.max(0) > 0)).sum()) for each in units)
    return Straddling(seen, sum(int(((each.lower < 0) & (each.upper > 0)).sum()) for each in values))


def pieces(net: po.Network, x: np.ndarray) -> int:
    """In how many linear pieces of the network the points lie."""
    values = net.values(x)
    return len(np.unique(np.hstack([values[node.inputs[0]] > 0 for node in net.activations]), axis=0))


@dataclass
class Ends:
    """Predictions on a region in points: outer bounds by mixed-integer programs, and those at witnesses within."""

    low: float
    high: float
    low_seen: float
    high_seen: float


def ends(net: po.Network, region: po.Box, wanted: Split, seconds: float) -> Ends:
    """The least and the greatest prediction: how far ``-y <= 0`` and ``y <= 0`` are violated.

    ``seconds`` is for each of the programs; what is not solved by then is bounded.
    """
    E = np.array([[wanted.points]])
    low, high = (violation(net, region, side * E, [0.0], time_limit=seconds) for side in (-1.0, 1.0))
    mean = wanted.mean
    return Ends(mean - low.milp_bound, mean + high.milp_bound, mean - low.value, mean + high.value)


def missed(module: nn.Module, regions: list[po.Box], normal: Ends, obese: Ends, wanted: Split) -> list[dict]:
    """How far a network of many pieces violates each constraint: ``value`` at witnesses, ``milp`` a proven bound.

    Of "the same for all" it is the greatest less the least prediction; of slopes what autograd finds at random points.
    """
    points = torch.tensor(regions[1].sample(SAMPLES, np.random.default_rng(0)), requires_grad=True)
    (slopes,) = torch.autograd.grad(module(points).sum(), points)
    return [
        {"value": normal.high_seen - normal.low_seen, "milp": normal.high - normal.low},
        {"value": normal.high_seen - MOST_NORMAL, "milp": normal.high - MOST_NORMAL},
        {"value": -wanted.points * float(slopes[:, [BMI, BP]].min()), "milp": None},
        {
            "value": max(obese.high_seen - MOST_OBESE, LEAST_OBESE - obese.low_seen),
            "milp": max(obese.high - MOST_OBESE, LEAST_OBESE - obese.low),
        },
    ]


def reach(module: nn.Module, region: po.Box) -> dict[str, float]:
    """What a margin is to the units of the first layer, ``w x + b``, on a box: medians over the units.

    ``reach`` is ``sum_k |w_k| r_k`` with the box's radius r: how much the pre-activation varies; ``slack`` is how far
    it stays from 0, at least the margin; ``far`` is the distance of the unit's hyperplane from the box's center.
    """
    w, b = (parameter.detach().double().numpy() for parameter in (module[0].weight, module[0].bias))
    spread, size, middle = abs(w) @ region.radius, np.linalg.norm(w, axis=1), abs(w @ region.center + b)
    found = {"reach": spread, "slack": middle - spread, "far": middle / size}
    return {name: float(np.median(value)) for name, value in found.items()}
