"""The question that a search answers: the least value of ``o(x) = weight . net(x)`` over a box."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from polyopt.affine import affine_maps
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.units import Units
from polyopt.convert.to_torch import to_torch
from polyopt.maxima import maxima_as_relus
from polyopt.network import Network
from polyopt.regions import Box


class Question:
    """The network, the box and the objective, as tensors on one device, and the best point found so far.

    Bounds are those of ``form``, the network without maxima, and ``bounds`` CROWN's over the whole box, by the names of
    its nodes; points are judged by the network itself. ``cutoff`` is the
    value that a point has to undercut to count as better by more than the gap: a domain whose bound reaches it is done
    with.
    """

    def __init__(self, net: Network, box: Box, weight: np.ndarray, gap: float, device=None):
        self.net, self.box, self.weight, self.gap = net, box, weight, gap
        self.form = maxima_as_relus(net)
        self.maps, self.output_map = affine_maps(self.form)
        self.backward = Backward(self.form, device)
        self.units = Units(self.form, self.backward)
        self.bounds = propagate(self.backward, self.form, box)
        self.lower, self.upper = self.backward.tensor(box.lower), self.backward.tensor(box.upper)
        self.row = self.backward.tensor(weight)
        self.point = box.center
        self.value = float((net(self.point[None]) @ weight)[0])

    @property
    def cutoff(self) -> float:
        """The best value less the gap, or a hair less than that, so that rounding keeps the answer within the gap."""
        return self.value - (1.0 - 1e-6) * self.gap * max(1.0, abs(self.value))

    @property
    def output(self) -> str:
        """The name of the network's last node, which the objective weighs."""
        return self.form.nodes[-1].name

    def offer(self, points: Tensor | np.ndarray) -> bool:
        """Take the best of some points (m, n_in), moved into the box, if it is better than the best so far."""
        points = np.clip(torch.as_tensor(points).cpu().numpy().astype(np.float64), self.box.lower, self.box.upper)
        values = self.net(points) @ self.weight
        best = int(values.argmin())
        if better := bool(values[best] < self.value):
            self.point, self.value = points[best], float(values[best])
        return better

    @cached_property
    def _module(self) -> torch.nn.Module:
        return to_torch(self.net, device=self.lower.device).requires_grad_(False)

    def gradients(self, points: Tensor) -> Tensor:
        """The objective's gradients (m, n_in) at points (m, n_in)."""
        points = points.detach().requires_grad_()
        values = self._module(points.reshape(-1, *self.net.input_shape)).flatten(1) @ self.row
        return torch.autograd.grad(values.sum(), points)[0]
