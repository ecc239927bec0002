"""The question that a search answers: how small the greatest of some rows can become on a box.

A target is a box and rows C with limits d. A verification has a target for each unsafe set; its margin at a point x is
``max_r (C net(x) - d)_r``, and a counterexample is a point whose margin is not positive: the *cutoff*, which a domain's
bound has to exceed to be done with, is 0.

An optimisation has one target. Its margin is that of the first row, ``(C net(x) - d)_0``, which is to be least where
the other rows are not positive; its cutoff is the best value less the gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyopt.affine import affine_maps
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.interval import Values, joined
from polyopt.bounds.lagrangian import Mixture
from polyopt.bounds.units import Units
from polyopt.convert.to_torch import to_torch
from polyopt.live import live
from polyopt.maxima import maxima_as_relus
from polyopt.network import Network
from polyopt.regions import Box
from polyopt.search.deadline import Timed

TOGETHER = 2**11  # points evaluated at a time, whose values stay in the cache
TRIED = 8  # points with margins that are not positive, whose replay is asked for at a time


class Target(NamedTuple):
    """A box, and rows (r, n_out) with limits (r,)."""

    box: Box
    rows: np.ndarray
    limits: np.ndarray


class Question:
    """The network and the targets, as tensors on one device, and the best point found so far.

    Bounds are those of ``form``, the network without maxima and dead units; points are judged by the network itself.
    ``lower`` and ``upper`` (k, n_in) are the targets' boxes, numbered by ``group`` (k,) where they differ; ``rows``
    (k, r, n_out) and ``limits`` (k, r) their rows, those of targets with fewer repeated; ``distinct`` (u, n_out) and
    ``distinct_limits`` (u,) hold those that differ, and ``which`` (k, r) says which of these are whose; ``sides``
    (k, 2, N) the bounds l and -u on all units by CROWN. ``gap`` belongs to optimisations, and ``inside``, which moves
    points of the box to where their constraints hold; ``accept`` to verifications: it says of a point and its target
    whether it is a counterexample indeed.
    """

    def __init__(
        self,
        net: Network,
        targets: Sequence[Target],
        gap: float | None = None,
        accept: Callable[[np.ndarray, int], bool] | None = None,
        device=None,
        inside: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.net, self.targets, self.gap, self._accept, self.inside = net, list(targets), gap, accept, inside
        self._boxes = [np.stack(sides) for sides in zip(*((t.box.lower, t.box.upper) for t in targets), strict=True)]
        boxes, which = np.unique(np.stack(self._boxes, 1), axis=0, return_inverse=True)
        different = Box(boxes[:, 0], boxes[:, 1])
        form = maxima_as_relus(net)
        self.form, values = live(form, propagate(Backward(form, device), form, different))
        self.maps, self.output_map = affine_maps(self.form)
        self.backward = Timed(self.form, device)
        tensor = self.backward.tensor
        self.lower, self.upper = map(tensor, self._boxes)
        self.group = torch.tensor(which.ravel(), device=self.lower.device)
        count = max(len(target.rows) for target in targets)
        repeated = [np.arange(count) % len(target.rows) for target in targets]
        self._rows = np.stack([target.rows[which] for target, which in zip(targets, repeated, strict=True)])
        self._limits = np.stack([target.limits[which] for target, which in zip(targets, repeated, strict=True)])
        self.rows, self.limits = tensor(self._rows), tensor(self._limits)
        both = np.concatenate([self._rows, self._limits[:, :, None]], axis=2)
        distinct, row = np.unique(both.reshape(-1, both.shape[2]), axis=0, return_inverse=True)
        self.distinct, self.distinct_limits = tensor(distinct[:, :-1]), tensor(distinct[:, -1])
        self.which = torch.tensor(row.reshape(self._limits.shape), device=self.lower.device)
        self.sides, self.reach = self._observed(values, which.ravel())
        self.units = Units(self.form, self.backward, self.sides.transpose(0, 1))
        self.refuted = False
        self.point, self.target, self.value = targets[0].box.center, 0, math.inf
        self.offer((self.lower + self.upper) / 2, torch.arange(len(targets)))

    @property
    def dimension(self) -> int:
        """How many inputs vary, in the box where most do."""
        return int((self.lower < self.upper).sum(1).max())

    @property
    def splittable(self) -> bool:
        """Whether a split of units comes to an end, at linear programs."""
        return not self.units.smooth

    @property
    def cutoff(self) -> float:
        """What a domain's bound has to exceed; a hair less than the gap, so that rounding keeps the answer in it.

        It falls as the value does, so that what was once beyond it stays so: a gap of more than 1 counts as 1.
        """
        if self.gap is None:
            return 0.0
        if self.value == math.inf:
            return math.inf
        return self.value - (1.0 - 1e-6) * min(self.gap, 1.0) * max(1.0, abs(self.value))

    @property
    def constrained(self) -> bool:
        """Whether the rows behind the first are constraints."""
        return self.gap is not None

    @property
    def cutoffs(self) -> list[float]:
        """What each row's bound on a domain has to exceed for that to be done with."""
        count = self.rows.shape[1]
        return [self.cutoff] + [0.0] * (count - 1) if self.constrained else [self.cutoff] * count

    def strongest(self, bounds: Tensor) -> tuple[Tensor, Tensor]:
        """What bounds (p, r) on the rows say of the margin (p,), infinity where it is empty; of which row (p,)."""
        if not self.constrained:
            return bounds.max(1)
        empty = (bounds[:, 1:] > 0).any(1)
        return torch.where(empty, math.inf, bounds[:, 0]), bounds.new_zeros(len(bounds), dtype=torch.int64)

    def mixture(self, targets: Tensor, weights: Tensor | None = None) -> Mixture:
        """The rows of some targets (m,) with weights (m, r), or with those that are a good start."""
        rows, limits = self.rows[targets], self.limits[targets]
        if weights is None:
            weights = torch.full_like(limits, 1.0 / limits.shape[1])
            if self.constrained:
                weights.copy_(torch.eye(1, limits.shape[1]))
        return Mixture(rows, limits, weights, self.reach, self.constrained)

    @property
    def output(self) -> str:
        """The name of the network's last node, which the rows weigh."""
        return self.form.nodes[-1].name

    def offer(self, points: Tensor | np.ndarray, targets: Tensor | np.ndarray) -> np.ndarray:
        """Take the best of some points (m, n_in) with targets (m,), `placed`, if it is better.

        Their margins (m,) are returned. Of a verification, ask also whether some of those with margins that are not
        positive are counterexamples.
        """
        points, targets = self.placed(points, targets), torch.as_tensor(targets).cpu().numpy()
        outputs = np.concatenate([self.net(points[i : i + TOGETHER]) for i in range(0, len(points), TOGETHER)])
        margins = np.empty(len(points))
        for target in np.unique(targets):
            these = targets == target
            found = outputs[these] @ self._rows[target].T - self._limits[target]
            margins[these] = found[:, 0] if self.constrained else found.max(1)
        order = np.argsort(margins)
        best = order[0]
        if margins[best] < self.value:
            self.point, self.target, self.value = points[best], int(targets[best]), float(margins[best])
        if self._accept is not None:
            for i in order[:TRIED]:
                if not margins[i] <= 0 or self.refuted:
                    break
                if self._accept(points[i], int(targets[i])):
                    self.point, self.target, self.value = points[i], int(targets[i]), float(margins[i])
                    self.refuted = True
        return margins

    def placed(self, points: Tensor | np.ndarray, targets: Tensor | np.ndarray) -> np.ndarray:
        """Points (m, n_in) with targets (m,) moved into their boxes, and to where constraints hold."""
        points, targets = (torch.as_tensor(part).cpu().numpy() for part in (points, targets))
        points = np.clip(points.astype(np.float64), self._boxes[0][targets], self._boxes[1][targets])
        return points if self.inside is None else self.inside(points)

    @cached_property
    def absolute(self) -> list[dict[str, Tensor]]:
        """The sizes of the weights that lead to each activation, and to the output, by the name of what they weigh."""
        terms = [affine.terms for affine in (*self.maps, self.output_map)]
        return [{name: abs(self.backward.tensor(term)).to_dense() for name, term in each.items()} for each in terms]

    def gradients(self, points: Tensor, targets: Tensor) -> Tensor:
        """The margins' gradients (m, n_in) at points (m, n_in) with targets (m,)."""
        self.backward.check()
        points = points.detach().requires_grad_()
        outputs = self._module(points.reshape(-1, *self.net.input_shape)).flatten(1)
        margins = (self.rows[targets] @ outputs.unsqueeze(2))[:, :, 0] - self.limits[targets]
        margins = margins[:, 0] if self.constrained else margins.amax(1)
        return torch.autograd.grad(margins.sum(), points)[0]

    @cached_property
    def _module(self) -> torch.nn.Module:
        return to_torch(self.net, device=self.lower.device).requires_grad_(False)

    def _observed(self, values: Values, which: np.ndarray) -> tuple[Tensor, Tensor]:
        """The bounds on all units over each target's box, and the sizes (n_out,) of the output."""
        for name, interval in values.items():
            self.backward.observe(name, interval)
        bounds = [joined(node, values) for node in self.form.activations]
        last = values[self.output]
        none = np.empty((len(last.lower), 0))
        sides = [np.concatenate([none, *(sign * side(b) for b in bounds)], axis=1) for sign, side in _SIDES]
        reach = np.maximum(abs(last.lower), abs(last.upper)).max(0).ravel()
        return self.backward.tensor(np.stack(sides, axis=1)[which]), self.backward.tensor(reach)


_SIDES = ((1.0, lambda bounds: bounds.lower), (-1.0, lambda bounds: bounds.upper))
