"""How far outputs range over an H-polytope: linear programs, and between them a bound that needs no solver.

The support function h of the deviations from the centre is subadditive, and so no more than that of a box around them,
``-l <= d <= u``. With a solution d* of the linear program ``h(J*) = max J* d`` for some J*,

    h(J)  <=  h(J*) + h_box(J - J*)  =  J d* + relu(J - J*) (u - d*) + relu(J* - J) (d* + l),

and at J = J* both sides are equal and have the derivative d*. As J moves in training the solution grows old and the
bound looser, but it stays a bound: a layer is affine on the polytope at every step, and `Halfspaces.tighten` makes the
shifts as small as they can be again. J* = d* = 0 gives a bound too, the box's own; the smaller one counts.

Source: Rockafellar, Convex Analysis, 1970, theorem 13.2 (support functions are the sublinear ones).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyopt.police.parts import Part
from polyopt.regions import HPolytope


class Halfspaces(Part):
    """Deviations of an H-polytope from its centre; the directions are the unit vectors.

    >>> triangle = HPolytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [0.0, 0.0, 3.0])
    >>> part, sums = Halfspaces(triangle, np.arange(2), 2), torch.ones(2, 1, dtype=torch.float64)
    >>> center = float(triangle.center.sum())
    >>> [round(center + float(end), 6) for end in part.extent(sums, "sum")]  # the bounding box's corners
    [0.0, 6.0]
    >>> part.tighten(sums, "sum")
    >>> [round(center + float(end), 6) for end in part.extent(sums, "sum")]
    [0.0, 3.0]
    """

    symmetric = False

    def __init__(self, region: HPolytope, places: np.ndarray, size: int):
        super().__init__(np.eye(region.size), places, size)
        self.region, self.solved = region, set()
        box, center = region.bounding_box(), region.center
        self.keep(upper=(box.upper - center)[:, None], lower=(center - box.lower)[:, None])

    def extent(self, images, step):
        """The bounds for J from above, and for -J."""
        rows, shape = images.flatten(1), images.shape[1:]
        low, high = self._bound(-rows, f"least_{step}"), self._bound(rows, f"greatest_{step}")
        return -low.view(shape), high.view(shape)

    def tighten(self, images: Tensor, step: str) -> None:
        """Solve the linear programs of this step, two for each output."""
        rows = images.detach().flatten(1)
        for name, base in ((f"least_{step}", -rows), (f"greatest_{step}", rows)):
            J = base.T.double().cpu().requires_grad_()
            with torch.enable_grad():
                (points,) = torch.autograd.grad(self.region.support(J).sum(), J)
            points = (points - torch.tensor(self.region.center)).T.to(base)
            self.register_buffer(f"base_{name}", base.clone())
            self.register_buffer(f"point_{name}", torch.clamp(points, -self.lower, self.upper))
            self.solved.add(name)

    def _bound(self, rows: Tensor, name: str) -> Tensor:
        """An upper bound on ``J d`` for each column ``J`` of rows (n, m): shape (m,)."""
        boxed = (rows.relu() * self.upper + (-rows).relu() * self.lower).sum(0)
        if name not in self.solved:
            return boxed
        point, moved = getattr(self, f"point_{name}"), rows - getattr(self, f"base_{name}")
        far = moved.relu() * (self.upper - point) + (-moved).relu() * (self.lower + point)
        return torch.minimum(boxed, (rows * point + far).sum(0))
