"""The paper's sign rules: majority and mean, with flips where two regions have the same signs.

    majority   +1 if at least half of the points of region i have pre-activation z >= 0, counted in whole numbers
    mean       +1 if the mean of z over the points is not negative

of a box or zonotope both are the sign at its centre. Where a pair has to be separated and has the same signs, the unit
whose mean over the second region is nearest to zero flips there. No unit flips twice for the same region, so that this
ends after (units x regions) flips at most; the rule of the paper, which has no such limit, can cycle. A flip may ask
for what no weights can do: then the rule has failed.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, section 2.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from polyopt.police.hulls import Hull
from polyopt.police.pairs import Pair, separated


class Voted(NamedTuple):
    """``signs`` (N, units), how many ``flips`` there were, and the pairs that are still the ``same``."""

    signs: Tensor
    flips: int
    same: tuple[Pair, ...]


def vote(
    regions: Sequence[Hull], units: Tensor, rule: Literal["majority", "mean"], pairs: Sequence[Pair], able: Tensor
) -> Voted:
    """Signs by a rule, made different for ``pairs`` by flips of units that are ``able`` (units,) to separate.

    >>> from polyopt import Box
    >>> from polyopt.police.hulls import hulls
    >>> units = torch.tensor([[1.0, 1.0], [1.0, 0.5]], dtype=torch.float64)  # x + 1, x + 1/2
    >>> regions = hulls([Box([0.0], [1.0]), Box([3.0], [4.0])])
    >>> vote(regions, units, "mean", [(0, 1)], torch.tensor([True, True]))
    Voted(signs=tensor([[ 1.,  1.],
            [ 1., -1.]], dtype=torch.float64), flips=1, same=())
    """
    values = [region.values(units) for region in regions]
    means = torch.stack([z.mean(1) for z in values])
    votes = torch.stack([2 * (z >= 0).sum(1) >= z.shape[1] for z in values]) if rule == "majority" else means >= 0
    signs = 2.0 * votes.to(units.dtype) - 1.0
    distance = abs(means).masked_fill(~able, torch.inf)
    flips = 0
    while same := [pair for pair, apart in zip(pairs, separated(signs.T, pairs, able), strict=True) if not apart]:
        region = same[0][1]
        place = int(distance[region].argmin())
        if distance[region, place] == torch.inf:
            break
        signs[region, place] *= -1
        distance[region, place] = torch.inf
        flips += 1
    return Voted(signs, flips, tuple(same))
