"""Bounds from the dual of the cut relaxation: supergradient ascent on what all cuts of a unit weigh together.

A ReLU ``h = max(0, a)``, ``a = w x + b``, reads other units ``L <= x <= U``; Lo_j is the end of x_j's range where
w_j x_j is least, Up_j the other. Between bounds ``l <= a <= u``, with sigma = 1 where the unit is active,

    h <= u sigma,        h <= a - l (1 - sigma)                                                         (big-M)
    h <= sum_{j in I} w_j (x_j - Lo_j (1 - sigma)) + (b + sum_{j not in I} w_j Up_j) sigma              for every set I

which over the box is the unit's hull (Anderson et al. 2020, survey eq. 7). De Palma et al. 2021 ascend the dual, whose
exponentially many multipliers beta_I they keep to an active set. But the cuts are linear in the indicator of I: only
the weight ``omega = sum_I beta_I`` counts and the mean mask ``z_j = sum_{I: j in I} beta_I / omega``, in [0, 1]. With
the weight tau of the second row, and the rest on the first, and the worse end of sigma, all rows together are one plane

    h <= sum_j (tau + omega z_j) w_j x_j + max(tau (b - l) + omega c_0, (1 - tau - omega) u + tau b + omega c_1),
    c_0 = - sum_j z_j w_j Lo_j,          c_1 = b + sum_j (1 - z_j) w_j Up_j,

linear in x as (9b). It is best where both ends are equal, if a tau >= 0 with tau <= 1 - omega makes them so:

    tau = ((1 - omega) u + omega (c_1 - c_0)) / (u - l).

omega = 0 is the triangle's chord, where the ascent starts. A backward pass (`polyopt.bounds.backward`) meets these
planes from above, and from below ``h >= s a`` with free slopes s in [0, 1]: the former leave rows on x, the latter on
a. Each value on the way is a bound, whatever s, omega and z. All this goes for ReLUs behind a linear node of any kind;
other layers keep CROWN's lines.

Sources: De Palma et al., "Scaling the convex barrier with active sets", ICLR 2021, sections 2, 3 and appendix F; Bunel
et al., "Lagrangian decomposition for neural network verification", UAI 2020; survey, section 4.4.2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from polyopt.activations import ReLU
from polyopt.bounds.backward import Backward
from polyopt.bounds.climb import Adam
from polyopt.bounds.crown import propagate
from polyopt.bounds.interval import Values, joined
from polyopt.bounds.result import Interval
from polyopt.bounds.rounding import down
from polyopt.layers import Linear
from polyopt.network import Network, Node
from polyopt.regions import Box, Region
from polyopt.regions.support import Support

SLOPE_STEP = 0.25  # of Adam, at first
MASK_STEP = 0.5  # of weights and masks, over the root of the number of a unit's inputs, which all move at once
FIRST_WEIGHT = 0.1  # of the cuts: without any, masks have no gradient
PAID = 16.0  # tolls of its linear node that a plane pays: each end's sums, of terms no greater, and its rows on x
ENTRIES = 2**22  # of the masks ascended at a time


def cut_dual_bounds(
    net: Network, region: Region, rows, steps: int = 100, device=None, dtype: torch.dtype = torch.float64
) -> np.ndarray:
    """Lower bounds (k,) on ``rows @ y`` for all outputs y over a region, improved by ``steps`` steps; rows (k, n_out).

    They are nowhere below those of `polyopt.bounds.crown.crown`, on whose bounds the planes stand. The passes run on
    ``device`` in ``dtype``; the results are numpy float64, rounded downwards. Bounds on a layer within are those of the
    network that ends there. ValueError for rows of another shape, or a batch of boxes.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> hidden = Affine([[1.0, 1.0], [1.0, -1.0]], [0.0, 2.0])
    >>> net = Network.sequential([hidden, ReLU(), Affine([[-1.0, -1.0]], [2.0])], (2,))
    >>> box = Box([-1.0, -1.0], [1.0, 1.0])  # where the triangle allows relu(x_0 + x_1) = 1 at (1, -1)
    >>> [float(cut_dual_bounds(net, box, [[1.0]], steps)[0].round(3)) for steps in (0, 100)]
    [-3.0, -2.0]
    """
    rows = np.asarray(rows, dtype=np.float64)
    size = net.nodes[-1].size
    if rows.ndim != 2 or rows.shape[1] != size:
        raise ValueError(f"cut_dual_bounds: rows have shape {rows.shape}, but must be (k, {size}), one entry an output")
    if region.batch_shape:
        raise ValueError(f"cut_dual_bounds: the region is a batch {region.batch_shape} of boxes; hand in one at a time")
    backward = Backward(net, device, dtype)
    with torch.no_grad():
        values = propagate(backward, net, region)
    layers = {node.name: Planes(backward, node, source, values) for node, source in _hinged(net)}
    backward.nodes = [layers[node.name].node if node.name in layers else node for node in net.nodes]
    backward.relaxations |= layers
    count = max(1, ENTRIES // max(1, sum(layer.weight.numel() for layer in layers.values())))
    support, found = Support.of(region, exact=False), [np.empty(0)]
    for some in backward.tensor(rows).split(count):
        A, constant = _ascend(backward, list(layers.values()), region, some, steps)
        least = -support(-A.expand(len(some), -1).cpu().double().numpy())
        found.append(down(torch.tensor(least) + constant.cpu().double()).numpy())
    bounds = np.concatenate(found)
    bounds = np.where(np.isfinite(bounds), bounds, -np.inf)
    output = values[net.nodes[-1].name]
    if np.isfinite(output.lower).all() and np.isfinite(output.upper).all():
        outputs = Box(output.lower.ravel(), output.upper.ravel())
        bounds = np.maximum(bounds, -Support.of(outputs, exact=False)(-rows))
    return bounds


def _hinged(net: Network):
    """The layers of ReLUs behind a linear node, and that node."""
    named = {node.name: node for node in net.nodes}
    for node in net.activations:
        source = named.get(node.inputs[0])
        if isinstance(node.layer, ReLU) and source is not None and isinstance(source.layer, Linear):
            yield node, source


def _ascend(
    backward: Backward, layers: list[Planes], region: Region, rows: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The linear bound ``A x + constant`` (k, n_in), (k,) on the rows (k, n_out) that is greatest over the region."""
    climbs = [climb for layer in layers for climb in layer.start(len(rows))]
    free = [climb.values for climb in climbs]
    best, kept = rows.new_full((len(rows),), -torch.inf), [part.clone() for part in free]
    steps = steps if any(part.numel() for part in free) else 0
    for step in range(steps + 1):
        for part in free:
            part.requires_grad_(step < steps)
        A, constant = _pull(backward, rows)
        bound = constant - region.support(-A)
        better = bound.detach() > best
        best = torch.where(better, bound.detach(), best)
        for part, now in zip(kept, free, strict=True):
            part[better] = now.detach()[better]
        if step < steps:
            gradients = torch.autograd.grad(bound.sum(), free, materialize_grads=True)
            for climb, gradient in zip(climbs, gradients, strict=True):
                climb.step(gradient)
                climb.values.detach().clamp_(0.0, 1.0)
        if step == 0:
            for layer in layers:
                layer.weights.detach().fill_(FIRST_WEIGHT)
    for part, now in zip(kept, free, strict=True):
        now.copy_(part)
    return _pull(backward, rows)


def _pull(backward: Backward, rows: Tensor) -> tuple[Tensor, Tensor]:
    output, rows = backward.nodes[-1].name, rows.unsqueeze(1)
    # rows may have lost what they were rounded by on their way into this precision
    A, constant = backward.pull({output: rows}, -backward.lost(output, rows))
    return A[:, 0], constant[:, 0]


class Planes:
    """The planes above and the lines below a layer of ReLUs, as a backward pass meets them, with their multipliers.

    ``node`` is the layer as one that reads both its linear node and what that reads, in this order. Of its u
    undecided units, ``weight``, ``least`` and ``most`` (u, p) are w, w Lo and w Up, at the inputs ``index`` (u, p) or,
    where that is None, at all; ``bias``, ``lower`` and ``upper`` (u,) are b, l and u.
    ``slopes`` s and ``weights`` omega are (k, u), ``masks`` z (k, u, p), each in [0, 1].
    """

    def __init__(self, backward: Backward, node: Node, source: Node, values: Values):
        self.node = replace(
            node, inputs=node.inputs + source.inputs, input_shapes=node.input_shapes + source.input_shapes
        )
        lower, upper = _sides(backward, joined(node, values))
        self._undecided = ((lower < 0) & (upper > 0)).nonzero()[:, 0]
        units = self._undecided
        self._passing = (lower >= 0).to(lower.dtype)
        self._size = source.input_size
        self.weight, self.index = _weights(backward, source, units)
        low, high = (
            side if self.index is None else side[self.index] for side in _sides(backward, joined(source, values))
        )
        self.least = torch.minimum(self.weight * low, self.weight * high)
        self.most = torch.maximum(self.weight * low, self.weight * high)
        self.bias = backward.tensor(source.layer.offset(*source.input_shapes))[units]
        self.lower, self.upper = lower[units], upper[units]
        toll, before = backward.toll(node.name), backward.entries(node)
        self._paid_passing = self._passing * (toll + before)
        self._toll, self._before = toll[units], before[units]
        self._paid_above = self._toll + PAID * backward.toll(source.name)[units]

    def start(self, count: int) -> list[Adam]:
        """Multipliers of so many rows, at CROWN's triangle, and their ascents."""
        chord = self.upper / (self.upper - self.lower)
        self.slopes = (chord > 0.5).to(chord.dtype).repeat(count, 1)
        self.weights = torch.zeros_like(self.slopes)
        self.masks = chord.unsqueeze(1).expand_as(self.weight).repeat(count, 1, 1)
        step = MASK_STEP / max(1, self.weight.shape[1]) ** 0.5
        return [Adam(self.slopes, SLOPE_STEP), Adam(self.weights, step), Adam(self.masks, step)]

    def through(self, rows: Tensor, input_size: int) -> tuple[Tensor, Tensor]:
        """Rows (k, 1, n) on the outputs as rows on the linear node and its inputs, and the constants (k, 1) left."""
        rows = rows[:, 0]
        free = rows.index_select(1, self._undecided)
        positive, negative = free.clamp(min=0.0), free.clamp(max=0.0)
        share, constant = self.planes()
        shift = (negative * (constant + self._paid_above)).sum(1)
        shift = shift - (positive * (self._toll + self.slopes.detach() * self._before)).sum(1)
        shift = shift - rows.detach().abs() @ self._paid_passing
        onto = (rows * self._passing).index_add(1, self._undecided, positive * self.slopes)
        return torch.cat([onto, self._on_inputs(negative, share)], 1).unsqueeze(1), shift.unsqueeze(1)

    def planes(self) -> tuple[Tensor, Tensor]:
        """The share of each w_j x_j (k, u, p) in the planes, and their constants (k, u)."""
        z, omega = self.masks, self.weights
        inactive = -(z * self.least).sum(2)
        active = self.bias + ((1.0 - z) * self.most).sum(2)
        tau = ((1.0 - omega) * self.upper + omega * (active - inactive)) / (self.upper - self.lower)
        tau = torch.minimum(tau.clamp(min=0.0), 1.0 - omega)
        ends = (
            tau * (self.bias - self.lower) + omega * inactive,
            (1.0 - tau - omega) * self.upper + tau * self.bias + omega * active,
        )
        return torch.addcmul(tau.unsqueeze(2), omega.unsqueeze(2), z), torch.maximum(*ends)

    def _on_inputs(self, rows: Tensor, share: Tensor) -> Tensor:
        if self.index is None:
            return torch.einsum("ku,kup,up->kp", rows, share, self.weight)
        terms = rows.unsqueeze(2) * share * self.weight
        return rows.new_zeros(len(rows), self._size).index_add(1, self.index.flatten(), terms.flatten(1))


def _sides(backward: Backward, bounds: Interval) -> tuple[Tensor, Tensor]:
    """The bounds (n,) of the one region."""
    return backward.tensor(bounds.lower[0]), backward.tensor(bounds.upper[0])


def _weights(backward: Backward, source: Node, units: Tensor) -> tuple[Tensor, Tensor | None]:
    """The weights (u, p) of some units, and which inputs they are on: None for all; short rows end in zeros."""
    operators = source.layer.operators(*source.input_shapes)
    if not any(map(sp.issparse, operators)):
        return backward.tensor(np.hstack(operators))[units], None
    matrix = sp.csr_array(sp.hstack(operators, format="csr")[units.cpu().numpy()])
    counts = np.diff(matrix.indptr)
    place = np.arange(counts.max(initial=0)) < counts[:, None]
    weight, index = np.zeros(place.shape), np.zeros(place.shape, dtype=np.int64)
    weight[place], index[place] = matrix.data, matrix.indices
    return backward.tensor(weight), torch.tensor(index, device=units.device)
