"""Whether a network is affine on a region: a certificate, a counterexample, or an honest "unknown".

Three stages, each of which decides or hands on:

1. pattern      every unit keeps to one piece: f is affine, proven with outward rounding
2. witness      the midpoint of two points of the region has the wrong image: f is not affine
3. deviation    max |f(x) - (A x + c)|_inf is small, by MILP, for the linear piece [A c] around a point of the
                region: f is affine up to that; or the maximisers make further witnesses

Where a unit changes its piece, that alone says nothing: ``relu(z) - relu(-z) = z`` is affine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polyopt.activations import Smooth
from polyopt.network import Network
from polyopt.regions import Box, Ellipsoid, Product, Region, VPolytope, Zonotope
from polyopt.regions.region import check_single
from polyopt.verification.arithmetic import AtPoint, Exact, Rounded
from polyopt.verification.attained import maximizers
from polyopt.verification.deviation import RESOLUTION, deviations
from polyopt.verification.pattern import pattern
from polyopt.verification.witness import Witness, enclose, most_bent

SAMPLES, ROUNDS = 128, 4  # points of either kind, and pairs that each of them begins


@dataclass(frozen=True, eq=False)
class AffineCertificate:
    """The answer: ``status`` is "affine", "not affine" or "unknown".

    "affine" says ``|f(x) - (A x + c)|_inf <= tolerance`` on the whole region, with A (n_out, n_in) and c (n_out,).
    Where a ``margin`` is given, f itself is affine there and the tolerance only that of A and c as floats: every unit
    keeps to one piece, and its pre-activation as far as the margin from the ends of that piece (infinitely far where
    the network has no kink, or the region is one point; where the point is at a jump, up to rounding, the tolerance is
    infinite).

    "not affine" comes with a ``witness`` (3, n_in): the rows x, z, y are points of the region, z the midpoint of x and
    y, and ``|f(z) - (f(x) + f(y)) / 2|`` is greater than twice the tolerance asked for, plus all rounding errors.

    "unknown" may hold A, c and what was proven of them as ``tolerance``, more than was asked for.
    """

    status: str
    A: np.ndarray | None = None
    c: np.ndarray | None = None
    margin: float | None = None
    tolerance: float | None = None
    witness: np.ndarray | None = None
    seconds: float = 0.0


def affine_on(
    net: Network,
    region: Region,
    exact: bool = False,
    tolerance: float | None = None,
    time_limit: float | None = None,
) -> AffineCertificate:
    """Whether ``net`` is an affine function of its input on a region.

    First, every unit that keeps to one linear piece needs no more than the region's support function; this is exact and
    rounded outwards. ``exact=True`` does it in rational arithmetic on the stored weights, which decides margins below
    rounding, and takes microseconds for each product of two numbers: seconds for tens of units a layer, minutes for
    hundreds. Over H-polytopes the margin is that of linear programs' multipliers, of about 1e-16 in both.

    Otherwise points of the region are tried as witnesses, and mixed-integer programs bound the distance to the linear
    piece around one of them. What is nearer to an affine function than ``tolerance`` counts as affine, an absolute
    number, by default 1e-6 times the range of the output that varies most at these points, and at least 1e4 times its
    rounding error there; half of this default is what these programs cannot resolve. Over an ellipsoid they bound the
    distance over its bounding box. Networks with smooth activations are left to the first two stages. ``time_limit`` in
    seconds is for everything together; the first stage looks at it between layers, and some points are always tried.

    Raises ValueError for a region that does not fit, is a batch, empty or unbounded.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, -1.0]], [2.0])], (1,))
    >>> certificate = affine_on(net, Box([0.25], [1.0]))
    >>> certificate.status, certificate.A, certificate.c, round(certificate.margin, 12)
    ('affine', array([[1.]]), array([2.]), 0.25)
    >>> certificate = affine_on(net, Box([-1.0], [1.0]))  # relu(z) - relu(-z) + 2
    >>> certificate.status, certificate.margin, certificate.tolerance < 1e-5
    ('affine', None, True)
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, -0.999]], [2.0])], (1,))
    >>> certificate = affine_on(net, Box([-1.0], [1.0]))
    >>> certificate.status, certificate.witness.shape
    ('not affine', (3, 1))
    """
    begin = time.perf_counter()
    _check(net, region, tolerance, time_limit)

    def remaining() -> float:
        return math.inf if time_limit is None else time_limit - (time.perf_counter() - begin)

    found = _pattern(net, region, exact, remaining) or _beyond(net, region, tolerance, remaining)
    return AffineCertificate(**found, seconds=time.perf_counter() - begin)


def _check(net: Network, region: Region, tolerance: float | None, time_limit: float | None) -> None:
    if not isinstance(net, Network):
        raise ValueError(f"affine_on: the network is a {type(net).__name__}; read it with from_torch first")
    check_single("affine_on", region, net.input_size)
    for name, value in (("tolerance", tolerance), ("time_limit", time_limit)):
        if value is not None and not value > 0:
            raise ValueError(f"affine_on: {name} is {value}, but must be positive")
    region.bounding_box()  # ValueError where it is empty or unbounded


def _pattern(net: Network, region: Region, exact: bool, remaining: Callable[[], float]) -> dict | None:
    """The first stage, and before it regions of one point, where also what is not piecewise linear is affine."""
    if (point := _only_point(region)) is not None:
        mid, radius = enclose(net, point[None], np.zeros((1, len(point))))
        A = np.zeros((net.output_size, net.input_size))
        return {"status": "affine", "A": A, "c": mid[0], "margin": math.inf, "tolerance": float(radius.max())}
    found = pattern(net, (Exact if exact else Rounded)(region), lambda: not remaining() > 0)
    if found is None:
        return None
    return {"status": "affine", "A": found.A, "c": found.c, "margin": found.margin, "tolerance": found.error}


def _only_point(region: Region) -> np.ndarray | None:
    """The point (n,) if the region's data say that it has no other."""
    match region:
        case Box() if (region.lower == region.upper).all():
            return region.lower
        case Zonotope() if not region.generators.any():
            return region.center
        case Ellipsoid() if not region.factor.any():
            return region.center
        case VPolytope() if (region.points == region.points[0]).all():
            return region.points[0]
        case Product():
            points = [_only_point(part) for part in region.regions]
            return None if any(point is None for point in points) else np.concatenate(points)
    return None


def _beyond(net: Network, region: Region, tolerance: float | None, remaining: Callable[[], float]) -> dict:
    """The second and the third stage."""
    rng = np.random.default_rng(0)
    points = _points(region, rng)
    scale = _scale(net, points)
    if not math.isfinite(scale):
        return {"status": "unknown"}
    tolerance = RESOLUTION * scale if tolerance is None else tolerance

    def bent(x, y) -> Witness | None:
        witness = most_bent(net, region, x, y)
        return witness if witness.defect > 2.0 * tolerance else None

    for _ in range(ROUNDS):
        if witness := bent(points, rng.permutation(points)):
            return {"status": "not affine", "witness": witness.points}
    smooth = any(isinstance(node.layer, Smooth) for node in net.activations)
    piece = None if smooth else pattern(net, AtPoint(points[0]))
    if piece is None:
        return {"status": "unknown"}
    worst = 0.0
    for bound, point in deviations(net, region, piece.A, piece.c, scale, remaining):
        worst = max(worst, bound)
        if bound > tolerance and point is not None and region.contains(point):
            steps = np.linspace(0.0, 1.0, SAMPLES)[:, None]
            along = (1.0 - steps) * points[0] + steps * point
            ends = np.concatenate([points, along])
            if witness := bent(np.broadcast_to(point, ends.shape), ends) or bent(along[:-2], along[2:]):
                return {"status": "not affine", "witness": witness.points}
    return {
        "status": "affine" if worst <= tolerance else "unknown",
        "A": piece.A,
        "c": piece.c,
        "tolerance": worst if math.isfinite(worst) else None,
    }


def _scale(net: Network, points: np.ndarray) -> float:
    """How far the output that varies most varies at the points; at least what leaves rounding errors 1e-4 of a unit."""
    with np.errstate(over="ignore", invalid="ignore"):
        values, error = enclose(net, points, np.zeros_like(points))
        error = error[np.isfinite(error)].max(initial=0.0)
        return float(max(np.ptp(values, axis=0).max(), 1e4 / RESOLUTION * error)) or 1.0


def _points(region: Region, rng: np.random.Generator) -> np.ndarray:
    """Points of the region (2 SAMPLES, n): random ones first, and points where random directions are greatest."""
    directions, box = rng.normal(size=(SAMPLES, region.size)), region.bounding_box()
    points = np.concatenate([region.sample(SAMPLES, rng), maximizers(region, directions)])
    return np.clip(points, box.lower, box.upper)
