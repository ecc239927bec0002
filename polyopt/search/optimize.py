"""The optimum of a network over a box, proven by branch and bound."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from polyopt.activations import PiecewiseLinear
from polyopt.network import Network, Node
from polyopt.regions import Box
from polyopt.search.descent import descend
from polyopt.search.question import Question, Target
from polyopt.search.search import Search


@dataclass(frozen=True)
class Optimum:
    """What a search found: ``status`` is "optimal", "time limit" or "interrupted".

    ``value`` is the objective at ``x`` (n_in,), the best point; ``bound`` what no point exceeds (or falls below);
    ``branches`` counts the domains that were bounded.
    """

    status: str
    x: np.ndarray
    value: float
    bound: float
    branches: int
    seconds: float

    @property
    def gap(self) -> float:
        """``|value - bound| / max(1, |value|)``."""
        return abs(self.value - self.bound) / max(1.0, abs(self.value))


def optimize(
    net: Network,
    region: Box,
    objective,
    sense: str = "max",
    time_limit: float | None = None,
    gap: float = 1e-6,
    device=None,
    progress: bool = False,
) -> Optimum:
    """The greatest (``sense="min"``: the least) value of ``objective . net(x)`` over a box, and where it is attained.

    ``objective`` (n_out,) weighs the outputs; ``time_limit`` in seconds; ``gap`` is the relative gap at which the
    answer counts as optimal; the bounds are computed on ``device``. Where inputs are few or a layer is smooth, boxes of
    inputs are halved, otherwise the phases of units are split. Stopped by its
    time limit or by Ctrl-C it returns the best point and bound. Numbers are rounded to nearest, not outwards: what is
    said of `polyopt.crown`'s precision holds for ``bound``.

    Raises ValueError where the objective or the box does not fit the network, and where an activation jumps.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 2.0]], None)], (1,))
    >>> best = optimize(net, Box([-1.0], [1.0]), [1.0])
    >>> best.status, best.x, best.value
    ('optimal', array([-1.]), 2.0)
    """
    begin = time.perf_counter()
    weight = _checked(net, region, objective, sense, time_limit)
    row = (-weight if sense == "max" else weight)[None]
    question = Question(net, [Target(region, row, np.zeros(1))], gap=gap, device=device)
    status, search, bound = "optimal", Search(question), -math.inf
    try:
        descend(question)
        with tqdm(disable=not progress, bar_format="{desc} [{elapsed}]", leave=False) as bar:
            while not search.over:
                if time_limit is not None and time.perf_counter() - begin > time_limit:
                    status = "time limit"
                    break
                search.step()
                bound = search.bound
                bar.set_description_str(f"best {question.value:.6g}, bound {bound:.6g}, {search.branches} branches")
    except KeyboardInterrupt:
        status = "interrupted"
    sign = -1.0 if sense == "max" else 1.0
    seconds = time.perf_counter() - begin
    bound = sign * min(bound, question.value if search.whole else question.cutoff)
    return Optimum(status, question.point, sign * question.value, bound, search.branches, seconds)


def _checked(net: Network, region: Box, objective, sense: str, time_limit: float | None) -> np.ndarray:
    weight = np.asarray(objective, dtype=np.float64)
    if weight.shape != (net.output_size,) or not np.isfinite(weight).all():
        raise ValueError(
            f"optimize: objective has shape {weight.shape} and must hold a finite number for each of the network's "
            f"{net.output_size} outputs"
        )
    if sense not in ("min", "max"):
        raise ValueError(f"optimize: sense={sense!r} is unknown; choose 'max' or 'min'")
    if not isinstance(region, Box) or region.lower.ndim != 1 or region.size != net.input_size:
        raise ValueError(f"optimize: the region is {region!r}; give one Box with {net.input_size} dimensions")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"optimize: time_limit is {time_limit}, but must be positive seconds")
    for node in net.activations:
        if isinstance(node.layer, PiecewiseLinear) and _jumps(node):
            raise ValueError(
                f"optimize: layer {node.name!r} ({type(node.layer).__name__}) jumps, so that an optimum may not "
                "be attained; add_network and solve allow either side of a jump"
            )
    return weight


def _jumps(node: Node) -> bool:
    breakpoints, slopes, intercepts = node.layer.pieces(node.shape)
    left, right = (s * breakpoints + c for s, c in ((slopes[:-1], intercepts[:-1]), (slopes[1:], intercepts[1:])))
    return bool((abs(left - right) > 1e-12 * (1.0 + abs(left))).any())
