"""The image of a region in front of a layer, ``{p + sum_k e_k g_k : p in conv(p_1, ..., p_P), |e|_inf <= 1}``.

A V-polytope has points and no generators, a box or zonotope one point and generators, a product both. Where a layer
keeps to one linear piece on the region, both pass through it exactly: points as ``a (W p + b)``, generators as
``a (W g)``, with the slopes a of that piece. So the support function of a box in hundreds of dimensions is exact in
every layer, though the box has too many vertices to list them.

A unit with weights w and bias b is written u = (w, b), and a point of the region v~ = (v, 1): its pre-activation is
``u v~``. The least of these over the region is at the point with the least ``w p_i`` and ``e_k = -sign(w g_k)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from polyopt.regions import Box, Ellipsoid, Product, Region, Zonotope
from polyopt.regions.region import check_single

MOST_POINTS = 2**16


@dataclass(frozen=True, eq=False)
class Hull:
    """``points`` (P, n) and ``generators`` (K, n), float64; K may be 0.

    >>> square = hull(Box([0.0, 0.0], [2.0, 2.0]))
    >>> square.points, len(square.generators)
    (tensor([[1., 1.]], dtype=torch.float64), 2)
    """

    points: Tensor
    generators: Tensor

    @property
    def size(self) -> int:
        """The dimension n."""
        return self.points.shape[1]

    @property
    def center(self) -> Tensor:
        """The mean of the points, (n,)."""
        return self.points.mean(0)

    def to(self, device: torch.device) -> Hull:
        """The same on a device."""
        return Hull(self.points.to(device), self.generators.to(device))

    def values(self, u: Tensor) -> Tensor:
        """The pre-activations of the points, (B, P)."""
        return linear(self.points, u[:, :-1], u[:, -1]).T

    def through(self, weight: Tensor, bias: Tensor, slopes: Tensor) -> Hull:
        """The image behind a layer whose units keep to pieces with these slopes (n_out,)."""
        return Hull(linear(self.points, weight, bias) * slopes, linear(self.generators, weight) * slopes)


@dataclass(frozen=True, eq=False)
class Stack:
    """N hulls as one: ``points`` (N, P, n), the first of a region again where it has fewer, ``generators`` (N, K, n).

    Generators along the axes, as a box has them, are not among these, but in ``reach`` (N, n), the sum of their sizes.

    >>> both = stack(hulls([Box([0.0], [1.0]), Box([3.0], [4.0])]))
    >>> both.lowest(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[1.0, -1.0]], dtype=torch.float64))
    tensor([[[0., 1.],
             [4., 1.]]], dtype=torch.float64)
    """

    points: Tensor
    generators: Tensor
    reach: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def lowest(self, u: Tensor, signs: Tensor) -> Tensor:
        """Points v~ (B, N, n + 1) with the least ``s u v~`` of each unit (B, n + 1) and its signs (B, N)."""
        w, s = u[:, :-1], signs.T[:, :, None]  # (N, B, 1)
        if self.points.shape[1] == 1:
            found = self.points
        else:
            place = (s * (w @ self.points.mT)).argmin(2, keepdim=True)
            found = self.points.gather(1, place.expand(-1, -1, w.shape[1]))
        found = found - (s * w).sign() * self.reach[:, None]
        if self.generators.shape[1]:
            found = found - (s * (w @ self.generators.mT)).sign() @ self.generators
        return pad(found, (0, 1), value=1.0).transpose(0, 1)


def stack(regions: Sequence[Hull] | Stack) -> Stack:
    """The same regions."""
    if isinstance(regions, Stack):
        return regions
    most = max(len(each.points) for each in regions)
    points = [torch.cat([x, x[:1].expand(most - len(x), -1)]) for x in (each.points for each in regions)]
    along = [(each.generators != 0).sum(1) == 1 for each in regions]
    reach = [abs(each.generators[axis]).sum(0) for each, axis in zip(regions, along, strict=True)]
    others = [each.generators[~axis] for each, axis in zip(regions, along, strict=True)]
    most = max(map(len, others))
    generators = [pad(x, (0, 0, 0, most - len(x))) for x in others]
    return Stack(torch.stack(points), torch.stack(generators), torch.stack(reach))


def hull(region: Region | Hull, like: Tensor | None = None) -> Hull:
    """A region as a `Hull`, on the device of ``like``; ValueError for an ellipsoid, or one with too many vertices."""
    if isinstance(region, Hull):
        return region if like is None else region.to(like.device)
    check_single("mPOLICE", region)
    points, generators = _arrays(region)
    device = None if like is None else like.device
    return Hull(*(torch.tensor(x, dtype=torch.float64, device=device) for x in (points, generators)))


def hulls(regions: Sequence[Region | Hull], like: Tensor | None = None) -> list[Hull]:
    """All regions; ValueError where there is none, or where they differ in dimension."""
    if isinstance(regions, Region) or not len(regions):
        raise ValueError(f"mPOLICE: needs a list of regions, but gets {regions!r}")
    found = [hull(region, like) for region in regions]
    sizes = [each.size for each in found]
    if len(set(sizes)) > 1:
        raise ValueError(f"mPOLICE: the regions have {sizes} dimensions, but must lie in the same space")
    return found


def _arrays(region: Region) -> tuple[np.ndarray, np.ndarray]:
    match region:
        case Box():
            return region.center[None], np.diag(region.radius)[region.radius > 0]
        case Zonotope():
            return region.center[None], region.generators.T
        case Product():
            return _product([_arrays(part) for part in region.regions])
        case Ellipsoid():
            raise ValueError(
                "mPOLICE: an ellipsoid's support function is no linear constraint on the weights; give a polytope or "
                "box around it"
            )
    return region.vertices(), np.zeros((0, region.size))


def _product(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    counts = [len(points) for points, _ in parts]
    if np.prod(counts, dtype=float) > MOST_POINTS:
        raise ValueError(f"mPOLICE: a product of polytopes with {counts} vertices has too many; give boxes instead")
    chosen = np.indices(counts).reshape(len(parts), -1)
    points = np.hstack([own[places] for (own, _), places in zip(parts, chosen, strict=True)])
    from scipy.linalg import block_diag

    sizes = [own.shape[1] for own, _ in parts]
    generators = block_diag(*(own.reshape(-1, size) for (_, own), size in zip(parts, sizes, strict=True)))
    return points, generators.reshape(-1, sum(sizes))
