"""Optimisation-based bound tightening: of every undecided unit the least and greatest input, by linear programs.

Layer by layer, cheapest first. Bounds to start with decide most units. For each unit that they leave undecided,

    min and max of  a = W h + b   over the relaxation of the layers before,

which `polyopt.tighten.relaxed` writes as a polyhedron: triangles or hulls of single units. The new bounds then shape
the relaxation of this layer, on which those of the next rest. One HiGHS instance serves all of these programs. A bound
is not the solver's optimal value but what its dual solution proves (`polyopt.tighten.certificate`). Of the units whose
relaxation costs most, MILPs (`polyopt.tighten.mip`) may then do a few.

Source: Tjeng, Xiao and Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019:
progressive bounds tightening.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

import numpy as np
from tqdm import tqdm

from formulations import Hull, Triangle
from polyopt.activations import GroupMax
from polyopt.bounds.crown import crown
from polyopt.bounds.result import Bounds, Interval
from polyopt.maxima import maxima_as_relus
from polyopt.network import Network
from polyopt.regions import Region
from polyopt.regions.region import check_single
from polyopt.tighten.bounding import OutOfTime, Programs, bound_elsewhere, bound_here
from polyopt.tighten.instance import Instance
from polyopt.tighten.mip import mip_bounds
from polyopt.tighten.relaxed import Relaxed
from polyopt.tighten.targets import OUTPUT, Target, targets

DEFAULT = Triangle()


def obbt(
    net: Network,
    region: Region,
    start: Bounds | None = None,
    formulation: Triangle | Hull = DEFAULT,
    *,
    mip_units: int = 0,
    mip_seconds: float = 1.0,
    exact: bool = False,
    time_limit: float | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Bounds:
    """Bounds on a network over a region, tightened by linear programs where ``start`` leaves a unit undecided.

    ``start`` holds bounds over the region, by default those of `polyopt.crown`; the result is nowhere wider. The
    inputs of undecided units are bounded, the members of maxima that may win, and the outputs. ``formulation`` is the
    relaxation of single units: ``Triangle()`` (the default) or ``Hull()``, whose cuts are separated for each program
    and stay for those after it. An ellipsoid counts as its bounding box.

    These bounds are proven: dual solutions are evaluated with outward rounding, with ``exact`` in fractions. Those of
    MILPs are not, but include a margin of 1e-6 of their size: ``mip_units`` of each layer, and of the outputs, get two
    of them, of up to ``mip_seconds`` each; 0, the default, keeps all bounds proven.

    Stopped by ``time_limit`` (seconds) or Ctrl-C it returns the bounds known by then. With an ``executor`` its workers
    share the units of each layer. ``progress`` shows a bar.

    Raises ValueError where the region is a batch, empty or unbounded, where it or the bounds do not fit the network,
    where bounds are infinite, and, with ``mip_units``, for smooth activations.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> layers = [Affine([[1.0, 1.0], [1.0, -1.0]], None), ReLU(), Affine([[1.0, 1.0]], [-1.0]), ReLU()]
    >>> net, box = Network.sequential(layers, (2,)), Box([-1.0, -1.0], [1.0, 1.0])
    >>> [bounds.pre[1].upper.round(6) for bounds in (obbt(net, box), obbt(net, box, formulation=Hull()))]
    [array([2.]), array([1.])]
    """
    begin = time.monotonic()
    _check(net, region, start, formulation, mip_units, mip_seconds, time_limit)
    deadline = math.inf if time_limit is None else begin + time_limit
    relaxed = Relaxed(region)
    start = crown(net, region) if start is None else start
    form = maxima_as_relus(net)
    known = _known(net, form, region, start)
    hull = formulation if isinstance(formulation, Hull) else None
    programs = Programs(relaxed.polyhedron, relaxed.hinges, hull, exact, deadline)
    bound = partial(bound_here, Instance()) if executor is None else partial(bound_elsewhere, executor)
    with suppress(OutOfTime, KeyboardInterrupt), tqdm(disable=not progress, unit=" units", leave=False) as bar:
        for target in targets(net, form):
            bar.set_description(target.name or "output")
            lower, upper = known[target.name].lower, known[target.name].upper
            if target.is_maximum:
                groups = target.node.layer.groups(*target.node.input_shapes)
                relaxed.limit(relaxed.forms(target.map), lower[groups].max(1), upper[groups].max(1))
                continue
            forms = relaxed.forms(target.map)
            bound(programs, forms, target.undecided(lower, upper), lower, upper, bar.update)
            if mip_units:
                _mips(form, region, target, known, mip_units, mip_seconds, deadline)
            if target.node in form.activations:
                relaxed.add(target.node, forms, lower, upper)
    return _result(net, region, known)


def _known(net: Network, form: Network, region: Region, start: Bounds) -> dict[str | None, Interval]:
    """Copies of the bounds on all targets, to be changed in place."""
    found = dict(zip((node.name for node in net.activations), start.pre, strict=True)) | {OUTPUT: start.output}
    if any(isinstance(node.layer, GroupMax) for node in net.activations):  # what is bounded but in the tournaments
        matches = crown(form, region)
        found = dict(zip((node.name for node in form.activations), matches.pre, strict=True)) | found
    known = {name: Interval(np.array(side.lower), np.array(side.upper)) for name, side in found.items()}
    for name, side in known.items():
        lower, upper = side.lower, side.upper
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            i = int(np.argmin(np.isfinite(lower) & np.isfinite(upper)))
            raise ValueError(
                f"obbt: {name!r}: unit {i} has bounds [{lower[i]}, {upper[i]}], but they must be finite; look for "
                "weights or inputs beyond 1e100"
            )
    return known


def _mips(form: Network, region: Region, target: Target, known, count: int, seconds: float, deadline: float) -> None:
    """Tighten those entries of a target by MILPs whose relaxation costs most."""
    lower, upper = known[target.name].lower, known[target.name].upper
    units, costs = target.undecided(lower, upper), target.costs(lower, upper)
    units = units[np.argsort(-costs[units], kind="stable")][:count]
    layers = [(node.name, node.layer, node.inputs) for node in form.nodes]
    before = Network(layers, form.input_shape, target.source)
    pre = [known[node.name] for node in before.activations]
    mip_bounds(before, region, pre, lower, upper, units, seconds, lambda: deadline - time.monotonic())


def _result(net: Network, region: Region, known: dict[str | None, Interval]) -> Bounds:
    """The bounds; where an interval is a point, rounding of other bounds may have crossed its two ends."""
    ordered = [known[name] for name in [*(node.name for node in net.activations), OUTPUT]]
    *pre, output = (Interval(np.minimum(s.lower, s.upper), np.maximum(s.lower, s.upper)) for s in ordered)
    return Bounds(region, tuple(pre), output)


def _check(net: Network, region: Region, start: Bounds | None, formulation, units: int, seconds, time_limit) -> None:
    check_single("obbt", region, net.input_size)
    if not isinstance(formulation, (Triangle, Hull)):
        raise ValueError(
            f"obbt: formulation={formulation!r} is no relaxation without binaries; give Triangle() or Hull(), which "
            "has the cuts of CuttingPlanes() without binaries"
        )
    if start is not None:
        sizes = [side.lower.shape for side in (*start.pre, start.output)]
        expected = [(node.input_size,) for node in net.activations] + [(net.output_size,)]
        if sizes != expected:
            raise ValueError(
                f"obbt: start holds bounds of shapes {sizes}, but the network needs {expected}; compute them for this "
                "network over this region"
            )
    if not (isinstance(units, int) and units >= 0):
        raise ValueError(f"obbt: mip_units is {units}, but must be a number of units, 0 for none")
    for name, limit in (("mip_seconds", seconds), ("time_limit", time_limit)):
        if limit is not None and not limit > 0:
            raise ValueError(f"obbt: {name} is {limit}, but must be positive seconds")
