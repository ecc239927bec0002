"""Looking for a counterexample: descents from many points of the region, towards all unsafe sets at once.

An unsafe set ``{y : C y <= d}`` is reached where the *margin*

    m(x) = max_r (C f(x) - d)_r

is not positive. Each descent steps from x towards the point of the region X where the gradient g of m is least
(Frank and Wolfe's conditional gradient), by shares t that shrink to nothing,

    x <- (1 - t) x + t v,   v = argmin over z in X of g z,

so that no x leaves X, whatever X is: v is the gradient of the support function h(-g). In a box v is the corner that
signed gradients aim at (Madry et al. 2018), and with t = 1 the first step is theirs at full length.

In every point several descents begin, whose gradients pass through ReLUs that are off to different shares
(`polyopt.verification.leaky`); the shares too shrink to nothing. The first *stage* begins in the best of a few points,
the second, which is for inputs of low dimension, in those of many.

Source: Jaggi, "Revisiting Frank-Wolfe: projection-free sparse convex optimization", ICML 2013, algorithm 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyopt.convert.to_torch import to_torch
from polyopt.network import Network
from polyopt.regions import Box, HPolytope, Product, Region
from polyopt.verification.attained import maximizers
from polyopt.verification.leaky import Leaky
from polyopt.verification.property import Case

Accept = Callable[[np.ndarray, int], bool]
MOST_ENTRIES = 2**17  # of the points in one batch


class Stage(NamedTuple):
    """How many random points there are for each unsafe set, in how many of them descents begin, and how they go."""

    points: int
    starts: int
    steps: int
    share: float
    leaks: tuple[float, ...]


STAGES = (Stage(16, 2, 8, 1.0, (0.0, 0.02, 0.05, 0.1)), Stage(8192, 32, 12, 0.5, (0.0,)))
FEW = 2  # starts where every step is a linear program


class Attack(NamedTuple):
    """The point (n,) of the least margin that was found, the index of its case, and whether it was accepted."""

    x: np.ndarray
    case: int
    margin: float
    accepted: bool


def attack(
    net: Network,
    cases: Sequence[Case],
    accept: Accept,
    time_limit: float = math.inf,
    device=None,
    stages: Sequence[Stage] = STAGES,
) -> Attack:
    """The best point that descents find, or the first whose margin is not positive and that ``accept`` takes.

    ``accept(x, case)`` is asked about points (n,) of the case's region, up to rounding. Descents are in float32 on
    ``device``, a stage after the other; what is known after ``time_limit`` seconds is returned, one batch of points at
    least. Raises ValueError where there are no cases, and for regions that are empty or unbounded.

    >>> from polyopt.activations import Abs
    >>> from polyopt.verification.property import Property
    >>> net = Network.sequential([Abs()], (1,))
    >>> prop = Property(Box([-1.0], [3.0]), unsafe=[HPolytope([[-1.0]], [-2.5])])  # |x| >= 2.5
    >>> found = attack(net, prop.cases, lambda x, case: prop.falsified_by(x, net(x[None])[0]))
    >>> found.accepted, abs(found.x) >= 2.5, found.margin <= 0.0
    (True, array([ True]), True)
    """
    if not cases:
        raise ValueError("attack: there are no cases, so that nothing is unsafe")
    module = Leaky(to_torch(net, torch.float32, device).requires_grad_(False))
    deadline = time.perf_counter() + time_limit
    parts, rng = _parts(net, cases, device), np.random.default_rng(0)
    best = Attack(np.asarray(cases[0].region.center), 0, math.inf, False)
    for stage in stages:
        for part in parts:
            for x, case, margin in _descend(module, net, part, stage, rng):
                if margin < best.margin:
                    best = Attack(x, case, margin, margin <= 0 and accept(x, case))
                if best.accepted or time.perf_counter() > deadline:
                    return best
    return best


class _Part(NamedTuple):
    """Unsafe sets (count, rows, n_out) and (count, rows), and of each the region and the index of its case."""

    C: Tensor
    d: Tensor
    regions: list[Region]
    cases: list[int]
    box: tuple[Tensor, Tensor] | None  # their ends (count, 1, n), where all regions are boxes

    def margins(self, y: Tensor) -> Tensor:
        """``max_r (C y - d)_r`` for outputs (count, points, n_out); infinite for what is no number."""
        worst = (y @ self.C.transpose(1, 2) - self.d[:, None]).amax(-1)
        return worst.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)


def _parts(net: Network, cases: Sequence[Case], device) -> list[_Part]:
    """The unsafe sets of all cases, as many at once as one batch may have points."""
    listed = [(k, case.region, polytope) for k, case in enumerate(cases) for polytope in case.unsafe]
    rows = max(len(polytope.b) for _, _, polytope in listed)
    size = max(1, MOST_ENTRIES // net.input_size)
    parts = []
    for begin in range(0, len(listed), size):
        indices, regions, polytopes = zip(*listed[begin : begin + size], strict=True)
        C, d = np.zeros((len(indices), rows, net.output_size)), np.full((len(indices), rows), np.inf)
        for i, polytope in enumerate(polytopes):  # what is missing are rows 0 y <= inf
            C[i, : len(polytope.b)], d[i, : len(polytope.b)] = polytope.A, polytope.b
        box = None
        if all(isinstance(region, Box) for region in regions):
            ends = np.stack([[region.lower, region.upper] for region in regions], axis=1)[:, :, None]
            box = tuple(torch.tensor(ends, device=device))
        C, d = (torch.tensor(array, dtype=torch.float32, device=device) for array in (C, d))
        parts.append(_Part(C, d, list(regions), list(indices), box))
    return parts


def _descend(module: Leaky, net: Network, part: _Part, stage: Stage, rng: np.random.Generator):
    """After every step the best point (n,), the index of its case and its margin."""
    x = _starts(module, net, part, stage, rng).repeat_interleave(len(stage.leaks), 1)
    leaks = torch.tensor(stage.leaks, device=x.device).repeat(x[..., 0].numel() // len(stage.leaks))
    for step in range(stage.steps + 1):
        x = x.detach().requires_grad_()
        left = 1.0 - step / stage.steps
        margins = part.margins(_outputs(module, net, x, left * leaks))
        yield _best(part, x, margins)
        if step == stage.steps or not margins.requires_grad:  # nothing to descend where all layers are steps
            return
        (gradient,) = torch.autograd.grad(margins.sum(), x)
        with torch.no_grad():
            x = x + left * stage.share * (_least(part, gradient, x) - x)


def _starts(module: Leaky, net: Network, part: _Part, stage: Stage, rng: np.random.Generator) -> Tensor:
    """For each set the points (count, starts, n) with the least margins, of the region's centre and random ones."""
    count = len(part.regions)
    points = max(1, min(stage.points, MOST_ENTRIES // (count * net.input_size)))
    starts = min(stage.starts, points, FEW if any(map(_takes_programs, part.regions)) else points)
    x = np.empty((count, points, net.input_size))
    for i, region in enumerate(part.regions):
        x[i, 0], x[i, 1:] = region.center, region.sample(points - 1, rng)
    x = torch.tensor(x, device=part.C.device)
    if starts == points:
        return x
    with torch.no_grad():
        chosen = part.margins(_outputs(module, net, x, x.new_zeros(()))).topk(starts, 1, largest=False).indices
    return x.gather(1, chosen[..., None].expand(-1, -1, net.input_size))


def _takes_programs(region: Region) -> bool:
    """Whether the region's support function is found by linear programs."""
    return isinstance(region, HPolytope) or (isinstance(region, Product) and any(map(_takes_programs, region.regions)))


def _outputs(module: Leaky, net: Network, x: Tensor, leaks: Tensor) -> Tensor:
    """The outputs (count, points, n_out) in float32, with a leak for each of the points or one for all."""
    return module(x.float().reshape(-1, *net.input_shape), leaks.float()).reshape(*x.shape[:2], net.output_size)


def _best(part: _Part, x: Tensor, margins: Tensor) -> tuple[np.ndarray, int, float]:
    place = int(margins.detach().argmin())
    i = place // margins.shape[1]
    return x.detach().flatten(0, 1)[place].cpu().numpy(), part.cases[i], float(margins.detach().flatten()[place])


def _least(part: _Part, gradient: Tensor, x: Tensor) -> Tensor:
    """Points of the regions (count, points, n) where ``gradient z`` is least; x where the gradient says nothing."""
    if part.box is not None:
        lower, upper = part.box
        return torch.where(gradient > 0, lower, torch.where(gradient < 0, upper, x))
    rows = -gradient.cpu().numpy()
    found = np.stack([maximizers(region, some) for region, some in zip(part.regions, rows, strict=True)])
    found = torch.tensor(found, device=x.device)
    return torch.where(found.isfinite() & gradient.any(-1, keepdim=True), found, x)
