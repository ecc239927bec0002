"""A region as a centre and parts, ``{c + d_1 + ... + d_P}`` with ``d_p`` in part p: the sum of the parts' extents.

A box, zonotope, ellipsoid or polytope is one part; a product has the parts of its factors.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from polyopt.police.constants import Constants
from polyopt.police.halfspaces import Halfspaces
from polyopt.police.parts import Axes, Ball, Extent, Part, Points
from polyopt.regions import Box, Ellipsoid, HPolytope, Product, Region, VPolytope, Zonotope


class Cover(Constants):
    """The region's centre (n,), the largest magnitudes of its coordinates (n,), its parts and the unit vectors.

    >>> from polyopt.regions import Box, VPolytope
    >>> cover = Cover(Product(Box([0.0], [2.0]), VPolytope([[0.0], [1.0], [5.0]])))
    >>> cover.center, [type(part).__name__ for part in cover.parts]
    (tensor([1., 2.], dtype=torch.float64), ['Axes', 'Points'])
    """

    def __init__(self, region: Region):
        super().__init__()
        self.size = region.size
        places = np.arange(self.size)
        self.parts = nn.ModuleList(parts(region, places, self.size))
        self.counts = [part.count for part in self.parts]
        self.units = Axes(np.ones(self.size), places, self.size)
        box = region.bounding_box()
        self.keep(center=region.center, reach=np.maximum(abs(box.lower), abs(box.upper)))

    @property
    def halfspaces(self) -> list[Halfspaces]:
        """The parts that ask for linear programs."""
        return [part for part in self.parts if isinstance(part, Halfspaces)]

    @property
    def symmetric(self) -> bool:
        """Whether the region is its own mirror image in the centre."""
        return all(part.symmetric for part in self.parts)

    def split(self, images: Tensor) -> list[tuple[Part, Tensor]]:
        """Each part with the images of its directions; images beyond these are left out."""
        total = sum(self.counts)
        images = images if images.shape[0] == total else images[:total]
        pieces = images.split(self.counts) if len(self.counts) > 1 else (images,)
        return list(zip(self.parts, pieces, strict=True))

    def extent(self, images: Tensor, step: str) -> Extent:
        """How far the outputs of a step deviate from those of the centre: each (*shape), for images (K, *shape)."""
        ends = [part.extent(piece, step) for part, piece in self.split(images)]
        return ends[0] if len(ends) == 1 else tuple(map(sum, zip(*ends, strict=True)))

    def pull(self, images: Tensor, step: str, side: Tensor, toward: Tensor, onto: Tensor) -> None:
        """Add the gradient of the images (K, *shape) to ``onto``, as `polyopt.police.parts.Part.pull` does."""
        for (part, piece), (_, found) in zip(self.split(images), self.split(onto), strict=True):
            part.pull(piece, step, side, toward, found)

    def tighten(self, images: Tensor, step: str) -> None:
        """Solve the linear programs of this step."""
        for part, piece in self.split(images):
            if isinstance(part, Halfspaces):
                part.tighten(piece, step)

    def points(self, images: Tensor) -> Tensor:
        """The vertices' images, (P, *shape), less that of the centre: of a V-polytope."""
        ((part, piece),) = self.split(images)
        return part.points(piece)


def parts(region: Region, places: np.ndarray, size: int) -> list[Part]:
    """The parts of a region on the coordinates ``places`` of ``size``."""
    if isinstance(region, Product):
        ends = np.cumsum([factor.size for factor in region.regions])[:-1]
        split = zip(region.regions, np.split(places, ends), strict=True)
        return [part for factor, own in split for part in parts(factor, own, size)]
    if isinstance(region, Box):
        return [Axes(region.radius, places, size)]
    if isinstance(region, Zonotope):
        return [Ball(region.generators.T, places, size, order=1)]
    if isinstance(region, Ellipsoid):
        return [Ball(region.factor.T, places, size, order=2)]
    if isinstance(region, VPolytope):
        return [Points(region.vertices() - region.center, places, size)]
    if isinstance(region, HPolytope):
        return [Halfspaces(region, places, size)]
    raise ValueError(
        f"POLICE: the region is a {type(region).__name__}; give a Box, Zonotope, Ellipsoid, VPolytope, HPolytope or a "
        "Product of these"
    )
