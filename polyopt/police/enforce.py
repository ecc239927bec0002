"""mPOLICE's enforcement: every region gets a linear piece of the network of its own, by one pass over the layers.

Each hidden layer is changed least (`polyopt.police.solve_layer`) so that every unit has one sign on the image of each
region. With these signs the images pass through the layer exactly, as affine images of the regions, to the next one.
The last linear layer is left as it is. Where pairs of regions have to differ in a sign is a policy:

    first       in the first layer where that is possible, since images may merge further on
    any         in some layer, as in the paper: only the last hidden layer has to separate what is left. If it cannot,
                the pass is repeated, and these pairs are separated as early as possible
    effective   as first, and the network's affine maps on the two regions differ. A pattern of its own does not ensure
                this: what separates may have no effect. So only units with a path of nonzero weights to the outputs
                separate; and pairs that have the same map in the end are separated anew in every layer

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, sections 2.4 to 2.6.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import networkx as nx
import torch
from torch import Tensor, nn

from polyopt.police.chains import Chain, chain, double
from polyopt.police.covering import Pair, pairs_of, parted, unseparated
from polyopt.police.hulls import Hull, hulls
from polyopt.police.report import EnforcementError, LayerReport, Report
from polyopt.police.separable import separable
from polyopt.police.solve_layer import LayerSolution, Rule, solve_layer
from polyopt.regions import Region
from polyopt.verify.affinity import AffineCertificate, affine_on

POLICIES = ("first", "any", "effective")
SAME = 1e-9  # of the largest coefficient: maps that differ by less count as the same


def enforce(
    mlp: nn.Module,
    regions: Sequence[Region],
    signs: Rule = "exact",
    margin: float = 1e-3,
    *,
    separate: Literal["first", "any", "effective"] = "first",
    time_limit: float | None = None,
) -> Report:
    """Change the module in place so that it is affine on each region, each in a linear piece of its own.

    ``mlp`` is a Sequential of Linear and ReLU or LeakyReLU layers that ends with a Linear, on any device. ``regions``
    are boxes, zonotopes, polytopes or products of these, of its inputs. ``margin`` > 0 is the paper's delta: how far
    pre-activations stay from zero, in their units. ``signs`` is "exact", or the paper's rules "majority" or "mean".
    ``separate`` is the policy that this file describes; ``time_limit`` in seconds is for each layer.

    EnforcementError, a ValueError, says why it cannot be done; the module is then unchanged. ValueError for what does
    not fit, `UnsupportedLayer` for other modules.

    >>> from polyopt import Box
    >>> _ = torch.manual_seed(0)
    >>> mlp = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> report = enforce(mlp, [Box([0.0], [1.0]), Box([1.5], [2.5])], margin=0.01)
    >>> [certificate.status for certificate in report.certificates], report.separated
    (['affine', 'affine'], {(0, 1): ('0', '2')})
    >>> x = torch.linspace(0.0, 1.0, 5)[:, None]
    >>> torch.allclose(mlp(x), x @ report.slope[0].float().T + report.offset[0].float(), atol=1e-6)
    True
    """
    begin = time.perf_counter()
    if separate not in POLICIES:
        raise ValueError(f"enforce: separate is {separate!r}, but must be one of {', '.join(map(repr, POLICIES))}")
    layers, given = chain(mlp), list(regions)
    images = hulls(given, layers.last.weight)
    if len(given) > 1 and not (answer := separable(given)):
        raise EnforcementError(f"enforce: {answer.reason}", pairs=tuple(_pairs(answer.together)))
    done = _passes(layers, images, signs, margin, separate, time_limit)
    certificates = _write(layers, done, given)
    return done.report(certificates, time.perf_counter() - begin)


@dataclass(eq=False)
class _Pass:
    """What a pass over the layers has made: stored weights, images, and what separates."""

    images: list[Hull]
    graph: nx.Graph
    weights: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    layers: list[LayerReport] = field(default_factory=list)
    slope: Tensor | None = None
    offset: Tensor | None = None

    def difference(self) -> Tensor:
        """The largest coefficient in which the maps of two regions differ, (N, N)."""
        maps = torch.cat([self.slope, self.offset[:, :, None]], 2).flatten(1)
        return abs(maps[:, None] - maps[None]).amax(2)

    def same(self) -> list[Pair]:
        """The pairs with the same map."""
        size = max(float(abs(self.slope).max()), float(abs(self.offset).max()))
        return [pair for pair in pairs_of(len(self.slope)) if self.difference()[pair] <= SAME * size]

    def report(self, certificates: list[AffineCertificate], seconds: float) -> Report:
        """All of it."""
        separated = {
            pair: tuple(layer.name for layer in self.layers if pair in layer.separated)
            for pair in pairs_of(len(self.slope))
        }
        return Report(
            sum(layer.cost for layer in self.layers),
            sum(layer.bound for layer in self.layers),
            seconds,
            [layer.signs for layer in self.layers],
            self.layers,
            separated,
            self.slope,
            self.offset,
            self.difference(),
            certificates,
        )


@torch.no_grad()
def _passes(layers: Chain, images: list[Hull], signs: Rule, margin: float, separate: str, limit) -> _Pass:
    """Passes until all pairs are separated as the policy asks; EnforcementError where that does not come about."""
    everything = set(pairs_of(len(images)))
    early = set() if separate == "any" else everything  # wanted as early as possible
    always: set[Pair] = set()  # wanted in each layer
    able = _reaching(layers) if separate == "effective" else [None] * len(layers.hidden)
    while True:
        done = _one_pass(layers, images, signs, margin, early, always, able, limit)
        left = {tuple(sorted(edge)) for edge in done.graph.edges}
        if left - early:
            early = early | left
        elif left:
            pairs = tuple(sorted(left))
            raise EnforcementError(
                f"enforce: no layer can separate the pairs {pairs}: some layers are too narrow, or have too few units "
                "that matter for the output; widen them",
                pairs=pairs,
            )
        elif separate != "effective" or not (same := set(done.same())):
            return done
        elif same <= always:
            pairs = tuple(sorted(same))
            raise EnforcementError(f"enforce: the affine maps on the pairs {pairs} stay the same", pairs=pairs)
        else:
            always = always | same


def _one_pass(layers: Chain, images, signs, margin, early, always, able, limit) -> _Pass:
    count, weight = len(images), layers.last.weight
    done = _Pass(images, unseparated(count))
    A = torch.eye(images[0].size, dtype=torch.float64, device=weight.device).expand(count, -1, -1)
    c = torch.zeros(count, images[0].size, dtype=torch.float64, device=weight.device)
    for layer, units in zip(layers.hidden, able, strict=True):
        last = layer is layers.hidden[-1]
        wanted = {pair for pair in map(_sorted, done.graph.edges) if last or pair in early} | always
        others = set(pairs_of(count)) - wanted
        W, b = double(layer.linear)
        found = solve_layer(
            W, b, done.images, margin, others, signs=signs, able=units, where_possible=True, time_limit=limit
        )
        if found.weight is None:
            raise EnforcementError(
                f"enforce: layer {layer.name!r}, {found.status}: {found.reason}", layer.name, found.inseparable
            )
        W, b = (x.to(layer.linear.weight.dtype).double() for x in (found.weight, found.bias))  # as they are stored
        slopes = torch.where(found.signs > 0, 1.0, layer.slope).double()
        done.images = [each.through(W, b, slope) for each, slope in zip(done.images, slopes, strict=True)]
        A, c = slopes[:, :, None] * (W @ A), slopes * (c @ W.T + b)
        done.weights.append((W, b))
        done.layers.append(_reported(layer.name, found, units))
        done.graph.remove_edges_from(done.layers[-1].separated)
    W, b = double(layers.last)
    done.slope, done.offset = W @ A, c @ W.T + b
    return done


def _sorted(edge: Pair) -> Pair:
    return (min(edge), max(edge))


def _reported(name: str, found: LayerSolution, units: Tensor | None) -> LayerReport:
    pairs = pairs_of(len(found.signs))
    apart = parted(found.signs.T, pairs)
    apart = (apart if units is None else apart[units]).any(0).tolist()
    separated = tuple(pair for pair, yes in zip(pairs, apart, strict=True) if yes)
    return LayerReport(name, found.status, found.cost, found.bound, found.signs, separated, found.flips, found.seconds)


def _reaching(layers: Chain) -> list[Tensor]:
    """For each hidden layer the units from which a path of nonzero weights leads to an output, (units,), bool."""
    found, reach = [], None
    for linear in [layers.last, *(each.linear for each in reversed(layers.hidden[1:]))]:
        used = linear.weight != 0
        reach = (used if reach is None else used & reach[:, None]).any(0)
        found.append(reach)
    return found[::-1]


def _pairs(members: Sequence[int]) -> list[Pair]:
    return [(i, j) for i in members for j in members if i < j]


def _write(layers: Chain, done: _Pass, regions: list[Region]) -> list[AffineCertificate]:
    """Store the weights and prove what they make; take them back where that cannot be proven."""
    before = [(each.linear.weight.clone(), each.linear.bias.clone()) for each in layers.hidden]
    _store(layers, done.weights)
    certificates = [affine_on(layers.network(), region) for region in regions]
    for i, certificate in enumerate(certificates):
        if certificate.status != "affine" or not certificate.margin:
            _store(layers, before)
            raise EnforcementError(
                f"enforce: with weights stored as {layers.last.weight.dtype}, region {i} is not proven to lie in a "
                "linear piece; a larger margin outlasts the rounding"
            )
    return certificates


@torch.no_grad()
def _store(layers: Chain, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
    for each, (weight, bias) in zip(layers.hidden, weights, strict=True):
        each.linear.weight.copy_(weight)
        each.linear.bias.copy_(bias)
