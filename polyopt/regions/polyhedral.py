"""Regions as programs with linear rows can take them."""

from __future__ import annotations

from polyopt.regions import Ellipsoid, Product, Region


def without_quadratics(region: Region) -> Region:
    """The region with bounding boxes around its ellipsoids, which have no linear rows.

    >>> without_quadratics(Ellipsoid([0.0], [[2.0]]))
    Box([-2.], [2.])
    """
    if isinstance(region, Product):
        return Product(*map(without_quadratics, region.regions))
    return region.bounding_box() if isinstance(region, Ellipsoid) else region
