"""What is measured: an enforcement of two regions (Figure 4), the sign rules over seeds, and single layers."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pipeline
import torch
from problems import ring, scattered, trained
from race import Run, race, reported, summary, timed
from torch import nn

import polyopt as po

MARGIN = 1e-3
RULES = ("exact", "majority", "mean")
NETWORK = (32, 2)  # width and depth, for the rules
MOST_KEPT = 1024  # constraints of a layer; with more "kept" takes as long as "anew", behind a first layer longer


def figure4(width: int, depth: int, vertices: int, options) -> dict:
    """One enforcement, two disks: by polyopt with its proofs, and by the paper's pipeline, which has none."""
    network, regions = trained(width, depth, options.epochs, options.seed), ring(2, vertices)
    images = [region.vertices() for region in regions]
    ours = {rule: partial(po.police.enforce, regions=regions, signs=rule, margin=MARGIN) for rule in RULES[:2]}
    ways = [way for way in pipeline.WAYS if way != "kept" or 2 * vertices * width <= MOST_KEPT]
    rivals = {way: partial(pipeline.enforce, images=images, margin=MARGIN, way=way) for way in ways}
    runs = race(ours | rivals, lambda: copy.deepcopy(network), options.rounds, options.seconds)

    def judged(runs: Sequence[Run]) -> dict:
        net = po.from_torch(runs[-1].given, input_shape=(2,))
        return {
            "cost": runs[-1].result,
            "affine": sum(po.affine_on(net, region).status == "affine" for region in regions),
        }

    found = {"width": width, "depth": depth, "vertices": vertices}
    found |= {rule: summary(runs[rule], reported) for rule in ours}
    return found | {"pipeline": {way: summary(runs[way], judged) for way in rivals}}


def rules(count: int, seeds: Sequence[int], options) -> dict:
    """The three rules on the first layer, and on all layers with proofs, of networks and regions of each seed."""
    rows = [rules_once(count, seed, options) for seed in seeds]
    best = [row["exact"]["layer"].get("cost") for row in rows]
    found = {}
    for rule in RULES:
        costs = [row[rule]["layer"].get("cost") for row in rows]
        pairs = [pair for pair in zip(costs, best, strict=True) if None not in pair]
        found[rule] = {"cost ratios": [own / least if least else 1.0 for own, least in pairs]}
        for part in ("layer", "network"):
            runs = [row[rule][part] for row in rows]
            failed = sum("failed" in run for run in runs)
            found[rule][part] = {"failed": failed, "ms": statistics.median(run["ms"] for run in runs)}
        done = [run for row in rows if "cost" in (run := row[rule]["network"])]
        found[rule] |= {key: sum(run[key] for run in done) for key in ("proofs", "affine")}
        found[rule]["margin"] = min((run["margin"] for run in done), default=None)
    return {"regions": count, "seeds": len(rows)} | found


def rules_once(count: int, seed: int, options) -> dict:
    network, regions = trained(*NETWORK, options.epochs, seed), scattered(count, seed)
    found = {}
    for rule in RULES:
        run = timed(lambda net, rule=rule: solved(net[0], regions, rule), network)
        whole = timed(partial(po.police.enforce, regions=regions, signs=rule, margin=MARGIN), copy.deepcopy(network))
        found[rule] = {"layer": summary([run], judged_layer(regions)), "network": summary([whole], reported)}
    return found


def solved(linear: nn.Linear, regions: Sequence[po.Region], rule: str) -> po.police.LayerSolution:
    return po.police.solve_layer(linear.weight, linear.bias, regions, MARGIN, signs=rule)


def judged_layer(regions: Sequence[po.Region]) -> Callable[[Sequence[Run]], dict]:
    """Of a layer: ``slack`` is the least of s u v~ - margin over all vertices, in float64."""

    def describe(runs: Sequence[Run]) -> dict:
        found = runs[-1].result
        if found.weight is None:
            return {"failed": f"{found.status}: {found.reason}"}
        weight, bias, signs = (x.double().numpy() for x in (found.weight, found.bias, found.signs))
        values = [s * (region.vertices() @ weight.T + bias) for region, s in zip(regions, signs, strict=True)]
        slack = min(float(z.min()) for z in values) - MARGIN
        return {"cost": found.cost, "bound": found.bound, "status": found.status, "slack": slack}

    return describe


class Layer(NamedTuple):
    """A layer of a trained network, and the regions that it has to tell apart."""

    name: str
    regions: int
    width: int
    vertices: int
    depth: int = 2
    place: int = 0  # in the network
    away: bool = False  # from where hardly a unit separates any
    aim_ms: float | None = None


LAYERS = [
    Layer("first", 2, 64, 64, aim_ms=10.0),
    Layer("second", 2, 64, 64, place=2, aim_ms=10.0),
    Layer("first", 4, 64, 64, aim_ms=100.0),
    Layer("second", 4, 64, 64, place=2, aim_ms=100.0),
    Layer("first", 12, 256, 8, depth=1, aim_ms=60_000.0),
    Layer("first, regions away", 12, 256, 8, depth=1, away=True, aim_ms=60_000.0),
]
SMALL_LAYERS = [Layer("first", 2, 8, 8), Layer("second", 3, 8, 8, place=2)]
LONGER = 5  # times the seconds of Figure 4
MOST = 4  # regions, for which a program of all units is tried


def layers(case: Layer, options) -> dict:
    """One layer, in which all pairs have to be separated; and its network enforced, for the proof."""
    network = trained(case.width, case.depth, options.epochs, options.seed)
    regions = ring(case.regions, case.vertices, *((0.5, 5.0) if case.away else ()))
    linear, images = network[case.place], regions
    if case.place:
        found = solved(network[0], regions, "exact")
        weight, bias = found.weight.numpy(), found.bias.numpy()
        images = [po.VPolytope(np.maximum(region.vertices() @ weight.T + bias, 0.0)) for region in regions]
    units = torch.cat([linear.weight, linear.bias[:, None]], 1).detach().double().numpy()
    points, unlike = [image.vertices() for image in images], list(itertools.combinations(range(case.regions), 2))
    ours = {rule: lambda _, rule=rule: solved(linear, images, rule) for rule in RULES[:2]}
    ways = [way for way in pipeline.WAYS if case.regions <= MOST or way == "by unit"]
    rivals = {way: lambda _, way=way: pipeline.layer(units, points, MARGIN, way, unlike) for way in ways}
    runs = race(ours | rivals, lambda: None, options.rounds, LONGER * options.seconds)
    whole = timed(partial(po.police.enforce, regions=regions, margin=MARGIN), copy.deepcopy(network))

    def judged(runs: Sequence[Run]) -> dict:
        return {"cost": runs[-1].result.cost, "slack": runs[-1].result.slack}

    found = {rule: summary(runs[rule], judged_layer(images)) for rule in ours}
    found |= {"pipeline": {way: summary(runs[way], judged) for way in rivals}}
    return case._asdict() | found | {"network": summary([whole], reported)}
