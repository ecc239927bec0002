"""Products of regions: each on coordinates of its own, such as a simplex beside a box.

``h(a_1, ..., a_k) = h_1(a_1) + ... + h_k(a_k)``, and everything else goes factor by factor too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polyopt.regions.box import Box
from polyopt.regions.region import Region

MOST_VERTICES = 2**16


@dataclass(frozen=True, eq=False, init=False)
class Product(Region):
    """The Cartesian product of ``regions``, the coordinates of the first one first.

    >>> from polyopt.regions import Ellipsoid
    >>> cylinder = Product(Ellipsoid([0.0, 0.0], np.eye(2)), Box([0.0], [5.0]))
    >>> cylinder.support([[3.0, 4.0, 1.0]])
    array([10.])
    """

    regions: tuple[Region, ...]

    def __init__(self, *regions: Region):
        for i, region in enumerate(regions):
            if not isinstance(region, Region) or region.batch_shape:
                found = "a batch of boxes" if isinstance(region, Region) else type(region).__name__
                raise ValueError(f"Product: factor {i} is {found}; give single regions, as in Product(box, polytope)")
        if not regions:
            raise ValueError("Product: no factor is given; give regions, as in Product(box, polytope)")
        object.__setattr__(self, "regions", regions)

    @property
    def size(self) -> int:
        """The sum of the dimensions."""
        return sum(region.size for region in self.regions)

    @property
    def center(self) -> np.ndarray:
        """The centres, end to end."""
        return np.concatenate([region.center for region in self.regions])

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Samples of the factors, end to end."""
        return np.hstack([region.sample(count, rng) for region in self.regions])

    def bounding_box(self) -> Box:
        """The product of the bounding boxes."""
        boxes = [region.bounding_box() for region in self.regions]
        return Box(np.concatenate([box.lower for box in boxes]), np.concatenate([box.upper for box in boxes]))

    def vertices(self) -> np.ndarray:
        """All combinations of the factors' vertices, up to 2^16.

        >>> Product(Box([0.0], [1.0]), Box([5.0], [5.0])).vertices()
        array([[0., 5.],
               [1., 5.]])
        """
        parts = [region.vertices() for region in self.regions]
        counts = [len(part) for part in parts]
        if math.prod(counts) > MOST_VERTICES:
            raise ValueError(f"Product.vertices: {counts} vertices have too many combinations; use support(A)")
        chosen = np.indices(counts).reshape(len(parts), -1)
        return np.hstack([part[places] for part, places in zip(parts, chosen, strict=True)])

    def arrays(self, like) -> tuple:
        """The factors' arrays, one tuple for each."""
        return tuple(region.arrays(like) for region in self.regions)

    def set_values(self, block, x) -> None:
        """Set what the factors have put on ``block.factor`` to fit the point ``x`` (n,)."""
        x = np.asarray(x, dtype=np.float64)
        for k, (region, place) in enumerate(self._places()):
            region.set_values(block.factor[k], x[place])

    def _support(self, A):
        return sum(region.support(A[..., place]) for region, place in self._places())

    def _contains(self, x, tol):
        return np.all([region.contains(x[..., place], tol) for region, place in self._places()], axis=0)

    def _write(self, block, variables):
        from polyopt.regions.membership import add_blocks

        blocks = add_blocks(block, len(self.regions))
        for part, (region, place) in zip(blocks, self._places(), strict=True):
            region.add_to(part, variables[place])

    def _places(self) -> list[tuple[Region, slice]]:
        """Each factor and its coordinates."""
        ends = np.cumsum([region.size for region in self.regions]).tolist()
        return [(region, slice(end - region.size, end)) for region, end in zip(self.regions, ends, strict=True)]
