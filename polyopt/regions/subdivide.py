"""A region cut in two by a slab: ``{x in X : a x <= c - g/2}`` and ``{x in X : a x >= c + g/2}``.

Both parts are regions of the same kind where the kind allows it. A gap g is left out between them, since two regions
that touch have no hyperplane strictly between them, and so no network can hold them in two linear pieces with a margin.

    box        halves of its longest side
    zonotope   the points with e_k <= -g and those with e_k >= g, for its longest generator: zonotopes again, and apart
               where the generators are independent; where they are not, as a polytope
    polytope   the half-spaces' rows, or the hull of the vertices on one side and of the points where the segments
               between vertices of both sides cross the plane: the edges of the polytope are among these
"""

from __future__ import annotations

import numpy as np

from polyopt.regions.box import Box
from polyopt.regions.ellipsoid import Ellipsoid
from polyopt.regions.hpolytope import HPolytope
from polyopt.regions.hull import extreme
from polyopt.regions.product import Product
from polyopt.regions.region import ROUNDING, Region
from polyopt.regions.vpolytope import VPolytope
from polyopt.regions.zonotope import Zonotope


def subdivide(region: Region, normal=None, offset: float | None = None, gap: float = 1e-3) -> tuple[Region, Region]:
    """Two parts of a region, with a gap between them of ``gap`` times the region's width across the cut.

    Without ``normal`` the cut goes through the middle, across the longest side or axis. With ``normal`` (n,) and
    ``offset`` it goes along the plane ``normal x = offset``, as `polyopt.police.separable` suggests; the parts are then
    polytopes, and a region that lists no vertices has to be one of few dimensions.

    ValueError for a gap outside (0, 1), a region that cannot be cut so (an ellipsoid, one point), a plane that misses
    its inside.

    >>> subdivide(Box([0.0, 0.0], [4.0, 1.0]), gap=0.5)
    (Box([0. 0.], [1. 1.]), Box([3. 0.], [4. 1.]))
    >>> left, right = subdivide(VPolytope([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), normal=[1.0, 0.0], offset=1.0, gap=0.2)
    >>> left.support([[1.0, 0.0]]), right.support([[-1.0, 0.0]])
    (array([0.8]), array([-1.2]))
    """
    if not 0 < gap < 1:
        raise ValueError(f"subdivide: gap is {gap}, but must lie between 0 and 1, as a share of the region's width")
    if region.batch_shape:
        raise ValueError(f"subdivide: this is a batch of {region.batch_shape[0]} boxes; cut them one by one")
    if (normal is None) != (offset is None):
        raise ValueError("subdivide: a plane needs both normal and offset; give both, or none for the middle")
    if normal is not None:
        return _along(region, np.asarray(normal, dtype=np.float64), offset, gap)
    match region:
        case Box():
            return _halves(region, gap)
        case Zonotope() if np.linalg.matrix_rank(region.generators) == np.count_nonzero(region.generators.any(0)):
            return _shorter(region, gap)
        case Product():
            return _factor(region, gap)
        case VPolytope() | HPolytope() | Zonotope():
            axis = _axis(region.vertices())
            low, high = -region.support(-axis[None])[0], region.support(axis[None])[0]
            return _along(region, axis, (low + high) / 2, gap)
        case Ellipsoid():
            raise ValueError("subdivide: parts of an ellipsoid are no ellipsoids; give a polytope around or inside it")
    raise ValueError(f"subdivide: cannot cut a {type(region).__name__}; give a box, zonotope or polytope")


def _halves(box: Box, gap: float) -> tuple[Box, Box]:
    k = int(box.radius.argmax())
    _refuse_flat(box.radius[k])
    lower, upper = box.lower.copy(), box.upper.copy()
    upper[k], lower[k] = box.center[k] - gap * box.radius[k], box.center[k] + gap * box.radius[k]
    return Box(box.lower, upper), Box(lower, box.upper)


def _shorter(zonotope: Zonotope, gap: float) -> tuple[Zonotope, Zonotope]:
    lengths = np.linalg.norm(zonotope.generators, axis=0)
    _refuse_flat(lengths.max(initial=0.0))
    k = int(lengths.argmax())
    generators, long = zonotope.generators.copy(), zonotope.generators[:, k]
    generators[:, k] = (1 - gap) / 2 * long
    step = (1 + gap) / 2 * long
    return Zonotope(zonotope.center - step, generators), Zonotope(zonotope.center + step, generators)


def _factor(product: Product, gap: float) -> tuple[Product, Product]:
    """The factor with the longest side is cut."""
    k = int(np.argmax([part.bounding_box().radius.max() for part in product.regions]))
    before, after = product.regions[:k], product.regions[k + 1 :]
    left, right = subdivide(product.regions[k], gap=gap)
    return Product(*before, left, *after), Product(*before, right, *after)


def _axis(points: np.ndarray) -> np.ndarray:
    """The direction in which the points spread most, (n,)."""
    return np.linalg.svd(points - points.mean(0), full_matrices=False)[2][0]


def _along(region: Region, normal: np.ndarray, offset: float, gap: float) -> tuple[Region, Region]:
    if normal.shape != (region.size,) or not normal.any():
        raise ValueError(f"subdivide: normal has shape {normal.shape}, but must be ({region.size},) and not be zero")
    low, high = -region.support(-normal[None])[0], region.support(normal[None])[0]
    room = gap * (high - low) / 2
    if not low + room < offset < high - room or high - low <= ROUNDING * max(abs(low), abs(high)):
        raise ValueError(
            f"subdivide: the region has {low:.6g} <= normal x <= {high:.6g}, and the plane at {offset:.6g} with a gap "
            f"of {2 * room:.3g} leaves nothing on one side; choose another offset or a smaller gap"
        )
    sides = (normal, offset - room), (-normal, -offset - room)
    if isinstance(region, HPolytope):
        parts = [HPolytope(np.vstack([region.A, a]), np.append(region.b, c)) for a, c in sides]
    else:
        parts = [VPolytope(_part(region.vertices(), a, c)) for a, c in sides]
    return parts[0], parts[1]


def _part(points: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    """The vertices of ``{x in conv(points) : normal x <= offset}``."""
    height = points @ normal - offset
    inside, outside = height <= 0, height > 0
    up, down = height[outside][:, None, None], -height[inside][None, :, None]
    crossings = (down * points[outside][:, None] + up * points[inside][None]) / (up + down)
    return extreme(np.vstack([points[inside], crossings.reshape(-1, points.shape[1])]))


def _refuse_flat(length: float) -> None:
    if not length > 0:
        raise ValueError("subdivide: the region is a single point, and cannot be cut")
