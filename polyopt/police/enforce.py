"""mPOLICE's enforcement: a linear piece of the network for each of many regions, by one pass over the layers, proven.

The pass and its policies are those of `polyopt.police.passes`. The last linear layer is left as it is.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, sections 2.4 to 2.6.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyopt.police.chains import Chain, chain
from polyopt.police.hulls import hulls
from polyopt.police.pairs import Pair, pairs_of
from polyopt.police.passes import Pass, Plan, Policy, difference, passes
from polyopt.police.report import EnforcementError, Report
from polyopt.police.separable import separable
from polyopt.police.solve_layer import Rule
from polyopt.regions import Region
from polyopt.verification.affinity import AffineCertificate, affine_on


def enforce(
    mlp: nn.Module,
    regions: Sequence[Region],
    signs: Rule = "exact",
    margin: float = 1e-3,
    *,
    separate: Policy = "first",
    time_limit: float | None = None,
) -> Report:
    """Change the module in place so that it is affine on each region, each in a linear piece of its own.

    ``mlp`` is a Sequential of Linear and ReLU or LeakyReLU layers that ends with a Linear, on any device. ``regions``
    are boxes, zonotopes, polytopes or products of these, of its inputs. ``margin`` > 0 is the paper's delta: how far
    pre-activations stay from zero, in their units. ``signs`` is "exact", or the paper's rules "majority" or "mean".
    ``separate`` is "first", "any" or "effective", see `polyopt.police.passes`; ``time_limit`` in seconds is for each
    layer.

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
    plan = Plan(signs, margin, separate, time_limit)
    layers, given = chain(mlp), list(regions)
    images = hulls(given, layers.last.weight)
    told_apart(given)
    done = passes(layers, images, plan)
    before = write(layers, done)
    try:
        return reported(layers, done, given, begin)
    except EnforcementError:
        _store(layers, before)
        raise


def told_apart(regions: Sequence[Region]) -> None:
    """EnforcementError where no network can tell the regions apart."""
    if len(regions) > 1 and not (answer := separable(regions)):
        pairs: list[Pair] = [(i, j) for i in answer.together for j in answer.together if i < j]
        raise EnforcementError(f"enforce: {answer.reason}", pairs=tuple(pairs))


def write(layers: Chain, done: Pass) -> list[tuple[Tensor, Tensor]]:
    """Store a pass's weights in the module; those before."""
    before = [(each.linear.weight.clone(), each.linear.bias.clone()) for each in layers.hidden]
    _store(layers, done.weights)
    return before


@torch.no_grad()
def _store(layers: Chain, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
    for each, (weight, bias) in zip(layers.hidden, weights, strict=True):
        each.linear.weight.copy_(weight)
        each.linear.bias.copy_(bias)


def reported(layers: Chain, done: Pass, regions: Sequence[Region], begin: float) -> Report:
    """What was done since ``begin``, proven with the weights that are stored; EnforcementError where that fails."""
    certificates = certified(layers, regions)
    slope, offset = done.maps(layers)
    separated = {
        pair: tuple(layer.name for layer in done.layers if pair in layer.separated) for pair in pairs_of(len(regions))
    }
    return Report(
        sum(layer.cost for layer in done.layers),
        sum(layer.bound for layer in done.layers),
        time.perf_counter() - begin,
        [layer.signs for layer in done.layers],
        done.layers,
        separated,
        slope,
        offset,
        difference(slope, offset),
        certificates,
    )


def certified(layers: Chain, regions: Sequence[Region]) -> list[AffineCertificate]:
    """A proof for each region; EnforcementError where one touches the end of its linear piece."""
    network = layers.network()
    certificates = [affine_on(network, region) for region in regions]
    for i, certificate in enumerate(certificates):
        if certificate.status != "affine" or not certificate.margin:
            raise EnforcementError(
                f"enforce: with weights stored as {layers.last.weight.dtype}, region {i} is not proven to lie in a "
                "linear piece; a larger margin outlasts the rounding"
            )
    return certificates
