"""Passes over the hidden layers, after which every region has a linear piece of the network of its own.

Each hidden layer is changed least (`polyopt.police.solve_layer`) so that every unit has one sign on the image of each
region. With these signs the images pass through the layer exactly, as affine images of the regions, to the next one.
Where pairs of regions have to differ in a sign is a policy:

    first       in the first layer where that is possible, since images may merge further on
    any         in some layer, as in the paper: only the last hidden layer has to separate what is left. If it cannot,
                the pass is repeated, and these pairs are separated as early as possible
    effective   as first, and the network's affine maps on the two regions differ. A pattern of its own does not ensure
                this: what separates may have no effect. So only units with a path of nonzero weights to the outputs
                separate; and pairs that have the same map in the end are separated anew in every layer

Nothing is written to the module here.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, sections 2.4 to 2.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import networkx as nx
import torch
from torch import Tensor

from polyopt.police.chains import Chain, double
from polyopt.police.hulls import Hull
from polyopt.police.pairs import Pair, pairs_of, parted, unseparated
from polyopt.police.report import EnforcementError, LayerReport
from polyopt.police.solve_layer import RULES, LayerSolution, Rule, solve_layer

Policy = Literal["first", "any", "effective"]
POLICIES = ("first", "any", "effective")
SAME = 1e-9  # of the largest coefficient: maps that differ by less count as the same


@dataclass(frozen=True)
class Plan:
    """How to enforce: the arguments of `polyopt.police.enforce`."""

    signs: Rule = "exact"
    margin: float = 1e-3
    separate: Policy = "first"
    time_limit: float | None = None

    def __post_init__(self):
        for name, value, known in (("signs", self.signs, RULES), ("separate", self.separate, POLICIES)):
            if value not in known:
                raise ValueError(f"mPOLICE: {name} is {value!r}, but must be one of {', '.join(map(repr, known))}")
        if not (isinstance(self.margin, int | float) and 0 < self.margin < math.inf):
            raise ValueError(f"mPOLICE: margin is {self.margin!r}, but must be positive")


@dataclass(eq=False)
class Pass:
    """What a pass has made: stored weights, reports, what is not separated, and the maps to the last hidden features.

    On region i these features are ``slope[i] x + offset[i]``, (N, units, n_in) and (N, units).
    """

    images: list[Hull]
    graph: nx.Graph
    slope: Tensor
    offset: Tensor
    weights: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    layers: list[LayerReport] = field(default_factory=list)

    def maps(self, chain: Chain) -> tuple[Tensor, Tensor]:
        """Slope (N, n_out, n_in) and offset (N, n_out) of the outputs on each region."""
        W, b = double(chain.last)
        return W @ self.slope, self.offset @ W.T + b


@torch.no_grad()
def passes(chain: Chain, images: Sequence[Hull], plan: Plan) -> Pass:
    """Passes until all pairs are separated as the policy asks; EnforcementError where that does not come about."""
    everything = set(pairs_of(len(images)))
    early = set() if plan.separate == "any" else everything  # wanted as early as possible
    always: set[Pair] = set()  # wanted in each layer
    able = _reaching(chain) if plan.separate == "effective" else [None] * len(chain.hidden)
    while True:
        done = _pass(chain, images, plan, early, always, able)
        left = {_sorted(edge) for edge in done.graph.edges}
        if left - early:
            early = early | left
        elif left:
            pairs = tuple(sorted(left))
            raise EnforcementError(
                f"enforce: no layer can separate the pairs {pairs}: some layers are too narrow, or have too few units "
                "that matter for the output; widen them",
                pairs=pairs,
            )
        elif plan.separate != "effective" or not (same := _same(*done.maps(chain))):
            return done
        elif same <= always:
            pairs = tuple(sorted(same))
            raise EnforcementError(f"enforce: the affine maps on the pairs {pairs} stay the same", pairs=pairs)
        else:
            always = always | same


def difference(slope: Tensor, offset: Tensor) -> Tensor:
    """The largest coefficient in which the maps of two regions differ, (N, N)."""
    maps = torch.cat([slope, offset[:, :, None]], 2).flatten(1)
    return abs(maps[:, None] - maps[None]).amax(2)


def _same(slope: Tensor, offset: Tensor) -> set[Pair]:
    """The pairs with the same map."""
    size = max(float(abs(slope).max()), float(abs(offset).max()))
    apart = difference(slope, offset)
    return {pair for pair in pairs_of(len(slope)) if apart[pair] <= SAME * size}


def _pass(chain: Chain, images, plan: Plan, early: set[Pair], always: set[Pair], able) -> Pass:
    count, size, like = len(images), images[0].size, chain.last.weight
    identity = torch.eye(size, dtype=torch.float64, device=like.device)
    done = Pass(list(images), unseparated(count), identity.expand(count, -1, -1), identity.new_zeros(count, size))
    for layer, units in zip(chain.hidden, able, strict=True):
        last = layer is chain.hidden[-1]
        wanted = {pair for pair in map(_sorted, done.graph.edges) if last or pair in early} | always
        others = set(pairs_of(count)) - wanted
        W, b = double(layer.linear)
        found = solve_layer(
            W,
            b,
            done.images,
            plan.margin,
            others,
            signs=plan.signs,
            able=units,
            where_possible=True,
            time_limit=plan.time_limit,
        )
        if found.weight is None:
            raise EnforcementError(
                f"enforce: layer {layer.name!r}, {found.status}: {found.reason}", layer.name, found.inseparable
            )
        W, b = (x.to(like.dtype).double() for x in (found.weight, found.bias))  # as they are stored
        slopes = layer.slopes(found.signs, torch.float64)
        done.images = [each.through(W, b, slope) for each, slope in zip(done.images, slopes, strict=True)]
        done.slope, done.offset = slopes[:, :, None] * (W @ done.slope), slopes * (done.offset @ W.T + b)
        done.weights.append((W, b))
        done.layers.append(_reported(layer.name, found, units))
        done.graph.remove_edges_from(done.layers[-1].separated)
    return done


def _sorted(edge: Pair) -> Pair:
    return (min(edge), max(edge))


def _reported(name: str, found: LayerSolution, units: Tensor | None) -> LayerReport:
    pairs = pairs_of(len(found.signs))
    apart = parted(found.signs.T, pairs)
    apart = (apart if units is None else apart[units]).any(0).tolist()
    separated = tuple(pair for pair, yes in zip(pairs, apart, strict=True) if yes)
    return LayerReport(name, found.status, found.cost, found.bound, found.signs, separated, found.flips, found.seconds)


def _reaching(chain: Chain) -> list[Tensor]:
    """For each hidden layer the units from which a path of nonzero weights leads to an output, (units,), bool."""
    found, reach = [], None
    for linear in [chain.last, *(each.linear for each in reversed(chain.hidden[1:]))]:
        used = linear.weight != 0
        reach = (used if reach is None else used & reach[:, None]).any(0)
        found.append(reach)
    return found[::-1]
