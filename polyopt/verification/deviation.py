"""How far a network is from a given affine function on a region, as mixed-integer linear programs.

    max and min of  f_j(x) - (A x + c)_j   over x in the region,  for each output j,

with the network as `polyopt.embed.add_network` writes it: only units that CROWN's bounds over the region leave
undecided get binaries. HiGHS takes no quadratic constraints; an ellipsoid is replaced by its bounding box, which can
only enlarge the maximum.

HiGHS works to tolerances. The objective is counted in units of ``RESOLUTION`` times the outputs' scale, so that the
tolerance on objectives (1e-7) is nothing to it, and half of a unit is added to its bounds for all others: for that on
rows (1e-7), and for what rounds to nearest, here and in CROWN. This is a margin and no proof in the sense of
`polyopt.regions.rounding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyomo.environ as pyo

from polyopt.bounds.crown import crown
from polyopt.embed import add_network
from polyopt.highs import solve
from polyopt.network import Network
from polyopt.regions import Region
from polyopt.regions.polyhedral import without_quadratics

RESOLUTION = 1e-6
MARGIN = 0.5  # of a unit


class Deviation(NamedTuple):
    """The greatest deviation found in one direction: a bound on all, infinite without one, and a point or None."""

    bound: float
    point: np.ndarray | None


def deviations(
    net: Network,
    region: Region,
    A: np.ndarray,
    c: np.ndarray,
    scale: float,
    remaining: Callable[[], float],
    senses=(pyo.maximize, pyo.minimize),
) -> Iterator[Deviation]:
    """The deviations upwards and downwards of each output in turn, within the seconds that ``remaining()`` gives.

    With fewer ``senses`` those of one kind only.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([ReLU()], (1,))
    >>> found = list(deviations(net, Box([-1.0], [1.0]), np.ones((1, 1)), np.zeros(1), 1.0, lambda: 60.0))
    >>> [round(side.bound, 5) for side in found], found[0].point
    ([1.0, 0.0], array([-1.]))
    """
    region = without_quadratics(region)
    box, unit = region.bounding_box(), scale * RESOLUTION
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, i: (float(box.lower[i]), float(box.upper[i])))
    m.net = pyo.Block()
    outputs = add_network(m.net, net, m.x, bounds=crown(net, region))
    for j, output in enumerate(outputs):
        terms = zip(A[j].tolist(), m.x.values(), strict=True)
        excess = output / unit - sum(a / unit * x for a, x in terms) - float(c[j]) / unit
        for sense in senses:
            if not (seconds := remaining()) > 0:
                yield Deviation(math.inf, None)
                return
            m.objective = pyo.Objective(expr=excess, sense=sense)
            result = solve(m, time_limit=None if math.isinf(seconds) else seconds)
            m.del_component("objective")
            bound = math.inf if result.bound is None else sense * -result.bound + MARGIN
            point = None if result.objective is None else np.array([m.x[i].value for i in m.x])
            yield Deviation(bound * unit, point if point is None else np.clip(point, box.lower, box.upper))
            if result.status == "interrupted":
                return
