"""One layer of mPOLICE, solved exactly: signs and least change of the weights together.

The problem of `polyopt.police.layer_miqp`,

    minimize    sum_n |u_n - u0_n|^2
    subject to  s_in u_n v~ >= margin                 for each unit n, region i, point v of the region's image
                s_in != s_jn for some unit n          for each pair (i, j) not yet separated,

is bound together by its signs only: once they are fixed, it is one projection for each unit. So its optimum is that of

    minimize sum_n c[n, s_n]   over sign vectors s_n that cover all pairs,      c[n, s] = the projection's cost

which is exact: for given signs the least of the sum is the sum of the least, and signs for which a unit has no solution
cost infinity. `polyopt.police.signs` holds c as a table, or `polyopt.police.tree` for many regions, and
`polyopt.police.covering` chooses. If the cheapest signs of each unit
separate all pairs already, they are the optimum, and nothing has to be chosen.

A pair (i, j) cannot be separated if each sign vector with s_i != s_j has a Farkas proof against it: nonnegative weights
with ``sum lam_p s_p v~_p = 0``, a point common to the hulls of the regions on both sides. If every pair can, the
problem may still have too few units for all of them: then (1) of `polyopt.police.covering` is infeasible.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, sections 2.4 to 2.6; the decomposition is not in the paper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polyopt.police.covering import Cover, cover
from polyopt.police.heuristics import vote
from polyopt.police.hulls import Hull, hulls
from polyopt.police.pairs import Pair, separated, unseparated
from polyopt.police.pricing import Clock, OutOfTime, Pricing, no_prices
from polyopt.police.projections import projections
from polyopt.police.signs import Table
from polyopt.police.tree import Tree
from polyopt.qp import Status
from polyopt.regions import Region

Rule = Literal["exact", "majority", "mean"]
RULES = ("exact", "majority", "mean")
MOST_ENTRIES = 2**19  # of a table
GAP = 1e-7  # of the cost, between it and its bound at an optimum


@dataclass(frozen=True, eq=False)
class LayerSolution:
    """A layer's new weights and signs, or why there are none.

    ``status`` is "optimal", "feasible" (by a heuristic), "time limit" (with weights if any were found), "infeasible",
    "unresolved" (rounding errors spoilt some projections, so that ``bound`` is weaker) or "failed" (a heuristic).
    ``signs`` (N, units) are +1 and -1. ``cost`` is the squared change, infinite without weights, and ``bound`` a proven
    lower bound on the least one. ``separated`` are the pairs that these signs separate and had to, ``inseparable``
    those that no sign vector separates, which ``reason`` explains in words.
    """

    status: str
    weight: Tensor | None
    bias: Tensor | None
    signs: Tensor | None
    cost: float
    bound: float
    separated: tuple[Pair, ...]
    inseparable: tuple[Pair, ...]
    reason: str
    flips: int
    seconds: float


def solve_layer(
    weight: Tensor,
    bias: Tensor,
    images: Sequence[Region | Hull],
    margin: float,
    separated_pairs: Iterable[Pair] = (),
    *,
    signs: Rule = "exact",
    able: Tensor | None = None,
    where_possible: bool = False,
    time_limit: float | None = None,
) -> LayerSolution:
    """The least change of weight (units, n) and bias (units,) that holds each image on one side of every unit.

    ``images`` are the regions in front of the layer, ``margin`` > 0 is in pre-activation units. All pairs of regions
    but ``separated_pairs`` have to differ in the sign of some unit, one of those where ``able`` (units,) is True; with
    ``where_possible`` only pairs that some sign vector separates, or some of them where the units are too few for all.
    ``signs`` is "exact" or a rule of `polyopt.police.heuristics`. The work is in float64, on the weight's device.

    At the time limit, in seconds, the answer is the cheapest of what was found so far and what the rules give.

    ValueError for shapes that do not fit, a margin that is not positive, and numbers that are not finite.

    >>> from polyopt import Box
    >>> weight, bias = torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, 0.0])  # x + 1, x
    >>> found = solve_layer(weight, bias, [Box([0.0], [1.0]), Box([3.0], [4.0])], margin=0.5)
    >>> found.status, round(found.cost, 9), found.signs.tolist()
    ('optimal', 1.25, [[1, -1], [1, 1]])
    >>> torch.cat([found.weight, found.bias[:, None]], 1)
    tensor([[ 1.0000,  1.0000],
            [ 0.5000, -1.0000]], dtype=torch.float64)
    >>> solve_layer(weight, bias, [Box([0.0], [2.0]), Box([1.0], [4.0])], margin=0.5).inseparable
    ((0, 1),)
    """
    begin = time.perf_counter()
    if signs not in RULES:
        raise ValueError(f"solve_layer: signs is {signs!r}, but must be one of {', '.join(map(repr, RULES))}")
    units, regions, able = read_layer(weight, bias, images, margin, able)
    graph = unseparated(len(regions), separated_pairs)
    pairs = sorted(tuple(sorted(edge)) for edge in graph.edges)
    with torch.no_grad():
        solve = _exactly if signs == "exact" else _by_rule
        deadline = math.inf if time_limit is None else begin + time_limit
        found = solve(units, regions, float(margin), pairs, able, where_possible, deadline, signs)
    return LayerSolution(**found, seconds=time.perf_counter() - begin)


_UNKNOWN = Cover(None, math.inf, 0.0)
_SPOILT = {
    "status": "unresolved",
    "bound": 0.0,
    "reason": "rounding errors spoil projections: regions nearly touch, measured by their size or by the margin",
}


def _exactly(units, regions, margin, pairs, able, where_possible, deadline, _) -> dict:
    clock = Clock(deadline)
    large = len(units) * 2 ** len(regions) > MOST_ENTRIES
    costs = (Tree if large else Table)(regions, units, margin, clock)
    inseparable, wanted = (), pairs
    try:
        if not all(separated(costs.cheapest().signs, pairs, able)):
            inseparable = costs.inseparable(pairs)
        wanted = [pair for pair in pairs if pair not in inseparable]
        if inseparable and not where_possible and costs.unresolved:
            return _late(units, regions, margin, pairs, able, where_possible, _UNKNOWN, costs) | _SPOILT
        if inseparable and not where_possible:
            return _nothing("infeasible", bound=math.inf, inseparable=inseparable, reason=_meet(inseparable, regions))
        chosen = cover(costs, wanted, len(regions), able, clock)
        all_tried = True
        if chosen.short and where_possible:
            wanted, chosen, all_tried = _as_many(costs, wanted, len(regions), able, clock)
    except OutOfTime:
        all_tried = False
        chosen = Cover(None, math.inf, float(costs.least(no_prices(len(regions), able.double())).sum()))
    if chosen.bound == math.inf and costs.unresolved:
        return _late(units, regions, margin, wanted, able, where_possible, _UNKNOWN, costs) | _SPOILT
    if chosen.bound == math.inf:
        return _too_few(chosen, inseparable, able)
    if chosen.cost - chosen.bound > GAP * chosen.cost or chosen.signs is None or not all_tried:
        found = _late(units, regions, margin, wanted, able, where_possible, chosen, costs)
    else:
        found = _written(costs.points(chosen.signs), chosen.signs, chosen.cost, wanted, able) | {"status": "optimal"}
    if costs.unresolved:
        return found | {"inseparable": inseparable} | _SPOILT
    return found | {"bound": min(chosen.bound, found["cost"]), "inseparable": inseparable}


def _late(units, regions, margin, pairs, able, where_possible, chosen: Cover, costs: Pricing) -> dict:
    """The cheapest of the cover found so far and what the rules give, if these separate as many pairs."""
    rules = [_by_rule(units, regions, margin, pairs, able, where_possible, math.inf, rule) for rule in RULES[1:]]
    if chosen.signs is not None:
        rules.append(_written(costs.points(chosen.signs), chosen.signs, chosen.cost, pairs, able))
    best = min(rules, key=lambda found: (-len(found["separated"]), found["cost"]))
    if best["weight"] is None:
        best = _nothing("", reason="no signs were found in time, and the rules majority and mean failed")
    return best | {"status": "time limit", "flips": 0}


def _as_many(
    costs: Pricing, pairs: list[Pair], count: int, able: Tensor, clock: Clock
) -> tuple[list[Pair], Cover, bool]:
    """Some of the pairs, their cover, and whether it is proven that no other pair can be added."""
    kept, chosen, all_tried = [], cover(costs, [], count, able, clock), True
    for pair in pairs:
        if clock.left() < 0:
            return kept, chosen, False
        more = cover(costs, [*kept, pair], count, able, clock)
        if more.signs is not None:
            kept, chosen = [*kept, pair], more
        else:
            all_tried &= more.bound == math.inf
    return kept, chosen, all_tried


def _by_rule(units, regions, margin, pairs, able, where_possible, deadline, rule) -> dict:
    voted = vote(regions, units, rule, pairs, able)
    if voted.same and not where_possible:
        return _nothing("failed", reason=f"no flips are left to separate the pairs {voted.same}", flips=voted.flips)
    found = projections(regions, units, voted.signs.T.contiguous(), margin)
    wrong = (found.status != Status.OPTIMAL).nonzero()[:, 0].tolist()
    if wrong:
        proven = (found.status[wrong] == Status.INFEASIBLE).all()
        why = "the hulls of the two sides meet" if proven else "rounding errors spoil their projections"
        reason = f"units {_some(wrong)} cannot have the signs that were voted for: {why}"
        return _nothing("failed", reason=reason, flips=voted.flips)
    cost = float(found.cost.sum())
    return _written(found.u, voted.signs.T, cost, pairs, able) | {"status": "feasible", "flips": voted.flips}


def _written(units: Tensor, signs: Tensor, cost: float, pairs: list[Pair], able: Tensor) -> dict:
    """New units (units, n + 1) with signs (units, N)."""
    apart = separated(signs, pairs, able)
    return _nothing("") | {
        "weight": units[:, :-1].contiguous(),
        "bias": units[:, -1].contiguous(),
        "signs": signs.T.int(),
        "cost": cost,
        "separated": tuple(pair for pair, yes in zip(pairs, apart, strict=True) if yes),
    }


def _too_few(chosen: Cover, inseparable: tuple[Pair, ...], able: Tensor) -> dict:
    reason = (
        f"each of the pairs {_some(chosen.short)} can be separated, but {int(able.sum())} of {len(able)} units are too "
        "few for all of them; make the layer wider, or separate some pairs in other layers"
    )
    return _nothing("infeasible", bound=math.inf, inseparable=inseparable, reason=reason)


def _nothing(status: str, **known) -> dict:
    empty = {"weight": None, "bias": None, "signs": None, "cost": math.inf, "bound": 0.0, "separated": ()}
    return {"status": status, **empty, "inseparable": (), "reason": "", "flips": 0} | known


def _meet(pairs: tuple[Pair, ...], regions: Sequence[Hull]) -> str:
    return (
        f"the images of the pairs {_some(pairs)} cannot be on different sides of any unit that cuts none of the "
        f"{len(regions)} images: all sign vectors that do this have a Farkas proof against them; separate them in an "
        "earlier layer, or see police.separable"
    )


def _some(things: Sequence) -> str:
    shown = ", ".join(map(str, things[:5]))
    return shown + (f" and {len(things) - 5} more" if len(things) > 5 else "")


def read_layer(weight, bias, images, margin, able=None) -> tuple[Tensor, list[Hull], Tensor]:
    """The units (B, n + 1) and images in float64; ValueError for what does not fit."""
    for name, x, dims in (("weight", weight, 2), ("bias", bias, 1)):
        if not isinstance(x, Tensor) or x.dim() != dims or not x.is_floating_point():
            found = f"{x.dtype} tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"solve_layer: {name} is a {found}; give float tensors (units, n) and (units,)")
    if len(bias) != len(weight):
        raise ValueError(f"solve_layer: weight has {len(weight)} units, bias {len(bias)}")
    if not (isinstance(margin, int | float) and 0 < margin < math.inf):
        raise ValueError(
            f"solve_layer: margin is {margin!r}, but must be positive: with margin 0 a unit of zeros has every sign"
        )
    units = torch.cat([weight, bias[:, None]], 1).detach().double()
    if not torch.isfinite(units).all():
        raise ValueError(f"solve_layer: {int((~torch.isfinite(units)).sum())} weights are not finite")
    regions = hulls(images, units)
    if regions[0].size != weight.shape[1]:
        raise ValueError(
            f"solve_layer: the images have {regions[0].size} dimensions, but the weight has {weight.shape[1]} inputs"
        )
    able = torch.ones(len(units), dtype=torch.bool, device=units.device) if able is None else able.to(units.device)
    if able.shape != (len(units),) or able.dtype != torch.bool:
        raise ValueError(f"solve_layer: able has shape {tuple(able.shape)}; give a bool for each of {len(units)} units")
    return units, regions, able
