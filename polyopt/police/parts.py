"""Sets of deviations from a region's centre, carried as directions.

An affine map of slope J sends a deviation d to ``J d``. With the images ``J g_k`` of K *directions* ``g_k``, a tensor
(K, *shape) that moves through the layers like a batch, each output deviates

    boxes, zonotopes   d = sum_k e_k g_k with |e|_inf <= 1    between -h and h, h = sum_k |J g_k|
    ellipsoids         d = sum_k u_k g_k with |u|_2 <= 1      between -h and h, h = (sum_k (J g_k)^2)^(1/2)
    V-polytopes        d in the convex hull of points d_k     between min_k J d_k and max_k J d_k

A box in 784 dimensions has 2^784 vertices but 784 directions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from polyopt.police.constants import Constants

Extent = tuple[Tensor, Tensor]  # how far each output deviates from that of the centre: the least and the greatest

TINY = 1e-30  # a shorter vector has no direction
MANY = 4  # times as many vertices as coordinates are many


class Part(Constants):
    """Deviations of the coordinates ``places`` of ``size``, by directions (K, len(places))."""

    symmetric = True

    def __init__(self, directions: np.ndarray, places: np.ndarray, size: int):
        super().__init__()
        rows = np.zeros((max(1, len(directions)), size))  # a point has one direction, zero
        rows[: len(directions), places] = directions
        self.count = len(rows)
        self.keep(directions=rows)

    def rows(self) -> Tensor:
        """The directions, (K, n)."""
        return self.directions

    def through(self, weight: Tensor) -> Tensor:
        """Their images (K, n_out) under a first layer's weight (n_out, n)."""
        return nn.functional.linear(self.rows(), weight)

    def extent(self, images: Tensor, step: str) -> Extent:
        """The deviations of the outputs of a step, each of shape (*shape), from the directions' images (K, *shape)."""
        raise NotImplementedError

    def pull(self, images: Tensor, step: str, side: Tensor, toward: Tensor, onto: Tensor) -> None:
        """Add to ``onto`` the gradient of the images for that of the ends, each (*shape).

        The greatest deviation's is ``toward`` where ``side`` is -1, the least one's is ``-toward`` where it is 1.
        """
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            ends = self.extent(images, step)
        onto += torch.autograd.grad(ends, images, [-toward * (side > 0), toward * (side < 0)])[0]


class Ball(Part):
    """``{sum_k e_k g_k : |e| <= 1}``; ``order`` 1 is for the maximum norm of e, 2 for the Euclidean: the dual norms.

    >>> diamond = Ball(np.array([[1.0, 1.0], [1.0, -1.0]]), np.arange(2), 2, order=1)
    >>> diamond.extent(diamond.rows(), "")[1]
    tensor([2., 2.], dtype=torch.float64)
    """

    def __init__(self, directions: np.ndarray, places: np.ndarray, size: int, order: int):
        super().__init__(directions, places, size)
        self.order = order

    def extent(self, images, step):
        """The dual norm of the directions' images."""
        # the first is several times faster, the second has a derivative at zero
        high = abs(images).sum(0) if self.order == 1 else torch.linalg.vector_norm(images, 2, dim=0)
        return -high, high

    def pull(self, images, step, side, toward, onto):
        """The images' unit vectors, or their signs."""
        unit = images.sign() if self.order == 1 else torch.nn.functional.normalize(images, dim=0, eps=TINY)
        onto.addcmul_(unit, toward)


class Axes(Part):
    """A box: the directions are ``lengths[k]`` times the unit vectors, and are written down only where they must be.

    >>> Axes(np.array([2.0, 0.0, 1.0]), np.arange(3), 3).through(torch.ones(1, 3, dtype=torch.float64))
    tensor([[2.],
            [1.]], dtype=torch.float64)
    """

    def __init__(self, lengths: np.ndarray, places: np.ndarray, size: int):
        Constants.__init__(self)
        wide = lengths != 0
        wide[0] |= not wide.any()  # a point has one direction, zero
        self.count, self.size = int(wide.sum()), size
        self.keep(lengths=lengths[wide], places=places[wide])

    def rows(self):
        """Mostly zeros."""
        zeros = self.lengths.new_zeros(self.count, self.size)
        return zeros.scatter(1, self.places[:, None], self.lengths[:, None])

    def through(self, weight):
        """Columns of the weight: no product is needed."""
        columns = weight if self.count == self.size else weight.index_select(1, self.places)
        return (columns * self.lengths).T

    def extent(self, images, step):
        """The 1-norm of the directions' images."""
        high = abs(images).sum(0)
        return -high, high

    def pull(self, images, step, side, toward, onto):
        """Signs."""
        onto.addcmul_(images.sign(), toward)


class Points(Part):
    """The convex hull of points (P, len(places)).

    The images of many points are mixed from those of the unit vectors: ``J d_k = sum_i d_ki J e_i``.

    >>> hull = Points(np.array([[-1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), np.arange(2), 2)
    >>> hull.extent(hull.rows(), "")
    (tensor([-1.,  0.], dtype=torch.float64), tensor([2., 1.], dtype=torch.float64))
    """

    symmetric = False

    def __init__(self, points: np.ndarray, places: np.ndarray, size: int):
        mixed = len(points) > MANY * len(places)
        super().__init__(np.eye(len(places)) if mixed else points, places, size)
        self.mixed = mixed
        if self.mixed:
            self.keep(mix=points)

    def points(self, images: Tensor) -> Tensor:
        """The images of all points, (P, *shape)."""
        if not self.mixed:
            return images
        return (self.mix @ images.flatten(1)).view(-1, *images.shape[1:])

    def extent(self, images, step):
        """The least and the greatest of the points' images."""
        found = self.points(images)
        low, high = torch.aminmax(found, dim=0)
        return low, high

    def pull(self, images, step, side, toward, onto):
        """The gradients go to the points at the ends."""
        found = self.points(images)
        end = torch.where(side > 0, found.argmin(0), found.argmax(0))
        gradient = -side * toward
        if self.mixed:
            onto.addcmul_(self.mix[end].movedim(-1, 0), gradient)
        else:
            onto.scatter_add_(0, end[None], gradient[None])
