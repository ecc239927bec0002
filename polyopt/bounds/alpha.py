"""alpha-CROWN: CROWN whose lines below and above undecided units have slopes that are optimised for each bound.

Whatever the slopes of the lines, a backward pass gives a bound (`polyopt.bounds.units`); gradient ascent on them brings
it towards the optimum of the linear program of all layers' triangles. Layers come one after the other: every undecided
unit's two bounds are ascended, with slopes of their own or with slopes that all of a layer's share, in one batch, and
the next layer's lines stand on the result. Where splits say between which bounds some units are, prices on these make
it beta-CROWN.

Sources: Xu et al., "Fast and complete: enabling complete verification with massively parallel incomplete verifiers",
ICLR 2021, section 3.1; Wang et al., "Beta-CROWN: efficient bound propagation with per-neuron split
constraints", NeurIPS 2021, theorem 3.1; Salman et al., "A convex relaxation barrier to tight robustness verification
of neural networks", NeurIPS 2019, theorem 4.2, for what it converges to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyopt.affine import affine_maps
from polyopt.bounds.backward import Backward
from polyopt.bounds.batches import at_once
from polyopt.bounds.climb import Reduced
from polyopt.bounds.crown import crown, propagate
from polyopt.bounds.interval import joined
from polyopt.bounds.lagrangian import Minimum, Mixture, ascend
from polyopt.bounds.refine import Boxes
from polyopt.bounds.result import Bounds, Interval
from polyopt.bounds.rounding import gamma, size
from polyopt.bounds.units import Units
from polyopt.maxima import maxima_as_relus
from polyopt.network import Network
from polyopt.regions import Box, Region
from polyopt.regions.support import Support

ENTRIES = 2**19  # units times rows, ascended at a time
PATIENCE = 3  # steps that have to change too little before an ascent ends


def alpha_crown(
    net: Network,
    region: Region,
    steps: int = 20,
    device=None,
    dtype: torch.dtype = torch.float64,
    shared: bool = False,
    tolerance: float = 0.0,
) -> Bounds:
    """Bounds on every layer of ``net`` over a region, or over each box of a batch, by CROWN with optimised slopes.

    They are rounded outwards and nowhere wider than `polyopt.bounds.crown.crown`'s, which those on maxima's inputs are.

    Each bound has slopes of its own, or, if ``shared``, those of one layer on one box have the same, which are sought
    for the sum of them: looser, and cheaper. An ascent takes so many ``steps``; it ends before where three of them
    change the sum of the bounds by no more than ``tolerance`` times what all have changed it by.

    >>> from polyopt.layers import Affine
    >>> from polyopt.activations import ReLU
    >>> hidden = Affine([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0])
    >>> net = Network.sequential([hidden, ReLU(), Affine([[1.0, 1.0]], [0.0])], (2,))
    >>> alpha_crown(net, Box([-1.0, -1.0], [1.0, 1.0])).output.lower.round(6) + 0.0
    array([0.])
    """
    return beta_crown(net, region, {}, steps, device, dtype, shared, tolerance)


@torch.no_grad()
def beta_crown(
    net: Network,
    region: Region,
    splits: Mapping[str, Interval],
    steps: int = 20,
    device=None,
    dtype: torch.dtype = torch.float64,
    shared: bool = False,
    tolerance: float = 0.0,
) -> Bounds:
    """As `alpha_crown`, on the part of the region where the inputs of some activations keep to bounds of their own.

    ``splits`` holds these by the activations' names, flattened, infinite where nothing is known. Where a lower bound
    exceeds an upper one, that part is empty. Prices are each bound's own. ValueError where a name is not an
    activation's, a size does not fit, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"alpha_crown: tolerance is {tolerance}, but must not be negative")
    base, form = crown(net, region, device, dtype), maxima_as_relus(net)
    known = {node.name: node.size for node in form.activations}
    for name, side in splits.items():
        if np.shape(side.lower) != (known.get(name),) or np.shape(side.upper) != (known.get(name),):
            raise ValueError(f"beta_crown: no activation {name!r} of size {np.shape(side.lower)}; there are {known}")
    backward = Backward(form, device, dtype)
    values = propagate(backward, form, region)
    bounds = [joined(node, values) for node in form.activations]
    batch = math.prod(region.batch_shape)
    sides = [np.zeros((2, batch, 0))]
    sides += [np.stack([b.lower.reshape(batch, -1), -b.upper.reshape(batch, -1)]) for b in bounds]
    whole = backward.tensor(np.concatenate(sides, 2))
    units = Units(form, backward, whole)
    given = [np.zeros((2, 0))]
    for node in form.activations:
        side = splits.get(node.name)
        none = np.full((2, node.size), -np.inf)
        given.append(none if side is None else np.stack([side.lower, -np.asarray(side.upper)]))
    given = backward.tensor(np.concatenate(given, 1)).unsqueeze(1)
    whole = torch.maximum(whole, given)
    minimum = _over(region, backward)
    reduced = Reduced(units, *affine_maps(form))
    how = Ascents(steps, bool((given > -torch.inf).any()), shared, tolerance)
    whole[:, :, units.kept] = here = ascended(backward, reduced, whole[:, :, units.kept], minimum, how)
    output = _outputs(backward, reduced, here, minimum, how, values[form.nodes[-1].name])
    parts = np.split(whole.cpu().double().numpy(), np.cumsum(list(known.values()))[:-1], axis=2) if known else []
    found = dict(zip(known, parts, strict=True))
    pre = tuple(
        _better(old, found.get(node.name, np.full((2, batch, 1), -np.inf)))
        for node, old in zip(net.activations, base.pre, strict=True)
    )
    return Bounds(region, pre, _better(base.output, output.cpu().double().numpy()))


class Ascents(NamedTuple):
    """How bounds are ascended: so many steps, with prices or not, with shared slopes or not, and when to end early."""

    steps: int
    priced: bool = False
    shared: bool = False
    tolerance: float = 0.0

    def __call__(self, backward: Backward, reduced: Reduced, sides: Tensor, minimum: Minimum, of: Tensor, **rows):
        """The bounds (t,) on rows over the regions ``of`` (t,) among those of ``sides`` (2, batch, n)."""
        which, domain = of.unique(return_inverse=True) if self.shared else (of, None)
        slopes = reduced.units.upto(sides.shape[2]).relaxed(sides)[:, which]
        options = {
            "start": (slopes, sides.new_zeros(len(of), sides.shape[2])),
            "priced": self.priced,
            "of": domain,
            "stop": Stalled(self.tolerance) if self.tolerance else None,
        }
        return ascend(backward, reduced, sides[:, which], minimum.take(of), self.steps, **options, **rows).bound


class Stalled:
    """Whether an ascent has come to its end, asked step by step."""

    def __init__(self, tolerance: float):
        self._tolerance, self._sums = tolerance, []

    def __call__(self, bounds: Tensor) -> bool:
        """Whether the sum of the bounds (t,) varied by no more than the tolerance times what it did in all steps."""
        self._sums.append(float(bounds.sum()))
        last = self._sums[-PATIENCE - 1 :]
        spread = max(self._sums) - min(self._sums)
        return len(last) > PATIENCE and max(last) - min(last) <= self._tolerance * spread


def ascended(backward: Backward, reduced: Reduced, sides: Tensor, minimum: Minimum, how: Ascents) -> Tensor:
    """The bounds ``sides`` (2, batch, n) on the free units over regions, improved layer by layer."""
    sides, units = sides.clone(), reduced.units
    for part in units.parts:
        before = part.place.start
        pairs = units.undecided(sides[:, :, part.place], part.place).nonzero()
        count = max(16, at_once(ENTRIES, sides) // max(1, 2 * before))
        for pair in pairs.split(count) if before and len(pairs) else ():
            region, unit = pair[:, 0], pair[:, 1] + before
            found = how(backward, reduced, sides[:, :, :before], minimum, region.repeat(2), begin=both(unit))
            sides[:, region, unit] = torch.maximum(sides[:, region, unit], found.unflatten(0, (2, -1)))
    return sides


def both(units: Tensor) -> tuple[Tensor, Tensor]:
    """Some units (t,) with the sign 1, then with -1: (2 t,) each."""
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64, device=units.device)
    return units.repeat(2), signs.repeat_interleave(len(units))


def _outputs(backward, reduced, sides: Tensor, minimum: Minimum, how: Ascents, known: Interval) -> Tensor:
    """Bounds (2, batch, n_out) on the output and its negative."""
    batch, reach = sides.shape[1], backward.tensor(size(known).ravel())
    count = len(reach)
    signed = torch.cat([torch.eye(count), -torch.eye(count)]).to(sides).unsqueeze(1)
    found = []
    for rows in signed.split(max(1, at_once(ENTRIES, sides) // max(1, sides.shape[1] * sides.shape[2]))):
        each = torch.arange(batch, device=sides.device).repeat_interleave(len(rows))
        rows = rows.repeat(batch, 1, 1)
        none = rows.new_zeros(len(rows), 1)
        mixture = Mixture(rows, none, none + 1.0, reach)
        found.append(how(backward, reduced, sides, minimum, each, mixture=mixture).unflatten(0, (batch, -1)))
    return torch.cat(found, 1).unflatten(1, (2, -1)).transpose(0, 1)


def _better(old: Interval, sides: np.ndarray) -> Interval:
    """The better of bounds and ``sides`` (2, batch, n); those that are not numbers count for nothing."""
    low, high = (np.where(np.isnan(side), -np.inf, side).reshape(len(side), -1) for side in sides)
    low, high = (side[0] if old.lower.ndim == 1 else side for side in (low, high))
    return Interval(np.maximum(old.lower, low), np.minimum(old.upper, -high))


def _over(region: Region, backward: Backward) -> Minimum:
    if isinstance(region, Box):
        return Boxes(*(backward.tensor(np.atleast_2d(side)) for side in (region.lower, region.upper)))
    return _Over(region)


class _Over:
    """The least value of rows over a region that is not a box, by its support function, and where it is attained."""

    def __init__(self, region: Region):
        self._region, self._support = region, Support.of(region, exact=False)

    def __call__(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """``min A x`` (batch,), rounded downwards, and the points (batch, n_in)."""
        least = A.new_tensor(-self._support(-A.cpu().double().numpy()))
        return least - gamma(0, A.dtype) * least.abs(), self.point(A)

    def point(self, A: Tensor) -> Tensor:
        """The gradient of the support function, which is where it is attained."""
        with torch.enable_grad():
            rows = -A.detach().double().requires_grad_()
            (points,) = torch.autograd.grad(self._region.support(rows).sum(), rows)
        return points.to(A.dtype)

    def take(self, index: Tensor) -> _Over:
        """The same region for each row."""
        return self
