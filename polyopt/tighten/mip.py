"""Bounds on a few forms of a network by mixed-integer linear programs, each with a small time limit.

The network up to these forms is written once (`polyopt.embed`, big-M with the bounds known by then) and loaded into one
HiGHS instance; for each form only the cost changes. A program that is stopped leaves its dual bound.

These are HiGHS's bounds, which it reaches to tolerances (1e-6 on integrality and 1e-7 on rows). Each is moved outwards
by ``MARGIN`` times the size of the bounds known: a precaution, no proof in the sense of `polyopt.tighten.certificate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import highspy
import pyomo.environ as pyo

from polyopt.bounds.result import Bounds, Interval
from polyopt.embed import add_network
from polyopt.network import Network
from polyopt.program import to_highs, to_program
from polyopt.regions import Region
from polyopt.regions.polyhedral import without_quadratics

MARGIN = 1e-6


def mip_bounds(
    net: Network, region: Region, pre: list[Interval], lower, upper, units, seconds: float, left: Callable[[], float]
) -> None:
    """Tighten, in place, the bounds (n_out,) on some outputs of a network, whose activations have the bounds ``pre``.

    ``seconds`` is each program's limit, ``left()`` what is left of the time for all.

    >>> import numpy as np
    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> layers = [Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], None)]
    >>> pre = [Interval(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))]
    >>> lower, upper = np.array([-9.0]), np.array([9.0])
    >>> net = Network.sequential(layers, (1,))
    >>> mip_bounds(net, Box([-1.0], [1.0]), pre, lower, upper, [0], 10.0, lambda: math.inf)
    >>> lower.round(3), upper.round(3)
    (array([-0.]), array([1.]))
    """
    region = without_quadratics(region)
    m, box = pyo.ConcreteModel(), region.bounding_box()
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, i: (float(box.lower[i]), float(box.upper[i])))
    m.net = pyo.Block()
    outputs = add_network(m.net, net, m.x, bounds=Bounds(region, tuple(pre), Interval(lower, upper)))
    program = to_program(m)
    if not program.integer.any():  # the linear programs have said it all
        return
    columns = {id(variable): j for j, variable in enumerate(program.variables)}
    solver = to_highs(program)
    for i in units:
        column, size = columns[id(outputs[i])], max(abs(lower[i]), abs(upper[i]), upper[i] - lower[i])
        for sense, side in ((1.0, lower), (-1.0, upper)):
            limit = min(seconds, left())
            if limit <= 0:
                return
            solver.changeColCost(column, sense / size if size else sense)
            solver.setOptionValue("time_limit", limit)  # of one run of a MILP
            solver.run()
            bound = solver.getInfo().mip_dual_bound
            if solver.getModelStatus() != highspy.HighsModelStatus.kInfeasible and math.isfinite(bound):
                value = sense * (bound - MARGIN) * (size or 1.0)
                side[i] = max(side[i], value) if sense > 0 else min(side[i], value)
        solver.changeColCost(column, 0.0)
