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
from typing import overload

import numpy as np
from pyomo.core.base.block import BlockData
from tqdm import tqdm

from formulations import Hull, Triangle
from polyopt.bounds.crown import crown
from polyopt.bounds.result import Bounds
from polyopt.maxima import maxima_as_relus
from polyopt.network import Network
from polyopt.regions import Region
from polyopt.regions.region import check_single
from polyopt.tighten.bounding import OutOfTime, Programs, bound_elsewhere, bound_here
from polyopt.tighten.domain import domain
from polyopt.tighten.instance import Instance
from polyopt.tighten.known import as_bounds, known_bounds
from polyopt.tighten.mip import mip_bounds
from polyopt.tighten.relaxed import Relaxed
from polyopt.tighten.targets import Target, targets
from polyopt.tighten.whole_model import ModelBounds, tighten_model

DEFAULT = Triangle()


@overload
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
) -> Bounds: ...


@overload
def obbt(
    *,
    model: BlockData,
    formulation: Triangle | Hull = DEFAULT,
    exact: bool = False,
    time_limit: float | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> ModelBounds: ...


def obbt(
    net=None,
    region=None,
    start=None,
    formulation=DEFAULT,
    *,
    model=None,
    mip_units: int = 0,
    mip_seconds: float = 1.0,
    exact: bool = False,
    time_limit: float | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Bounds | ModelBounds:
    """Bounds on a network over a region, tightened by linear programs where ``start`` leaves a unit undecided.

    Or, with ``model``, bounds on all networks of a Pyomo model over everything that the model's active linear
    constraints allow (integers relaxed; quadratic rows and the objective play no part): these networks are then written
    anew, in place, with fewer binaries and smaller big-Ms, on the same input and output variables. Constraints that are
    relaxed or deleted later make the new rows wrong: tighten last, and a model that is to be changed, in a copy of it
    (``model.clone()``). Bounds of the inputs that are widened later `solve` refuses, as ever. What the caller took from
    inside ``block.layer`` is gone. Networks in `ReducedSpace` stay as they are.

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
    where bounds are infinite, with ``mip_units`` for smooth activations, and where a model is infeasible or holds no
    network.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> layers = [Affine([[1.0, 1.0], [1.0, -1.0]], None), ReLU(), Affine([[1.0, 1.0]], [-1.0]), ReLU()]
    >>> net, box = Network.sequential(layers, (2,)), Box([-1.0, -1.0], [1.0, 1.0])
    >>> [bounds.pre[1].upper.round(6) for bounds in (obbt(net, box), obbt(net, box, formulation=Hull()))]
    [array([2.]), array([1.])]
    >>> import pyomo.environ as pyo
    >>> from polyopt import add_network
    >>> m = pyo.ConcreteModel()
    >>> m.x, m.net = pyo.Var(range(2), bounds=(-1, 1)), pyo.Block()
    >>> y = add_network(m.net, net, m.x)
    >>> m.row = pyo.Constraint(expr=m.x[0] - m.x[1] >= 1.5)
    >>> [(found.undecided_before, found.undecided) for found in obbt(model=m).networks]
    [(3, 1)]
    """
    begin = time.monotonic()
    if model is not None:
        _check_model(model, (net, region, start), formulation, mip_units, time_limit)
        hull = formulation if isinstance(formulation, Hull) else None
        return tighten_model(model, hull, exact, time_limit, executor, progress)
    _check(net, region, start, formulation, mip_units, mip_seconds, time_limit)
    deadline = math.inf if time_limit is None else begin + time_limit
    polyhedron = domain(region)
    relaxed = Relaxed(polyhedron, np.arange(region.size))
    start = crown(net, region) if start is None else start
    form = maxima_as_relus(net)
    known = known_bounds(net, form, region, start)
    hull = formulation if isinstance(formulation, Hull) else None
    programs = Programs(polyhedron, relaxed.hinges, hull, exact, deadline)
    bound = partial(bound_here, Instance()) if executor is None else partial(bound_elsewhere, executor)
    with suppress(OutOfTime, KeyboardInterrupt), tqdm(disable=not progress, unit=" units", leave=False) as bar:
        for target in targets(net, form):
            bar.set_description(target.name or "output")
            lower, upper = known[target.name].lower, known[target.name].upper
            if target.is_maximum:
                relaxed.limit(relaxed.forms(target.map), *target.greatest(lower, upper))
                continue
            forms = relaxed.forms(target.map)
            bound(programs, forms, target.undecided(lower, upper), lower, upper, bar.update)
            if mip_units:
                _mips(form, region, target, known, mip_units, mip_seconds, deadline)
            if target.node in form.activations:
                relaxed.add(target.node, forms, lower, upper)
    return as_bounds(net, region, known)


def _mips(form: Network, region: Region, target: Target, known, count: int, seconds: float, deadline: float) -> None:
    """Tighten those entries of a target by MILPs whose relaxation costs most."""
    lower, upper = known[target.name].lower, known[target.name].upper
    units, costs = target.undecided(lower, upper), target.costs(lower, upper)
    units = units[np.argsort(-costs[units], kind="stable")][:count]
    layers = [(node.name, node.layer, node.inputs) for node in form.nodes]
    before = Network(layers, form.input_shape, target.source)
    pre = [known[node.name] for node in before.activations]
    mip_bounds(before, region, pre, lower, upper, units, seconds, lambda: deadline - time.monotonic())


def _check(net: Network, region: Region, start: Bounds | None, formulation, units: int, seconds, time_limit) -> None:
    if net is None or region is None:
        raise ValueError("obbt: give a network and a region, or model= a Pyomo model")
    check_single("obbt", region, net.input_size)
    _check_options(formulation, ("time_limit", time_limit), ("mip_seconds", seconds))
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


def _check_model(model, others: tuple, formulation, units: int, time_limit: float | None) -> None:
    if not isinstance(model, BlockData):
        raise ValueError(f"obbt: model is a {type(model).__name__}, but must be a Pyomo model or block")
    if any(other is not None for other in others) or units:
        raise ValueError("obbt: with model=, neither a network, a region, start nor mip_units has a meaning")
    _check_options(formulation, ("time_limit", time_limit))


def _check_options(formulation, *limits: tuple[str, float | None]) -> None:
    if not isinstance(formulation, (Triangle, Hull)):
        raise ValueError(
            f"obbt: formulation={formulation!r} is no relaxation without binaries; give Triangle() or Hull(), which "
            "has the cuts of CuttingPlanes() without binaries"
        )
    for name, limit in limits:
        if limit is not None and not limit > 0:
            raise ValueError(f"obbt: {name} is {limit}, but must be positive seconds")
