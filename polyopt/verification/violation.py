"""How far a network violates an affine constraint on a region: what is proven, what programs bound, what is attained.

For rows E (k, n_out) and right-hand sides f (k,) the violation is

    V = max over x in the region, and over r, of  (E net(x) - f)_r      of E net(x) <= f     "le"
                                                 |E net(x) - f|_r      of E net(x)  = f     "eq"

and "eq" is "le" for the rows E and -E together; with a slope S (k, n_in), f + S x stands for f. V lies between three
numbers, value <= V <= bound, milp_bound:

- ``bound``       Where every unit keeps to one piece on the region, net(x) = A x + c there
                  (`polyopt.verification.pattern`), and V = max_r h((E A - S)_r) + (E c - f)_r with the region's support
                  function h. All of it is rounded outwards. Where a unit changes its piece the bound is infinite.
- ``milp_bound``  The maximum of each row as a mixed-integer linear program over the region, with no use of the above
                  (`polyopt.verification.deviation`). CROWN bounds the rows too, and the lesser bound counts: over an
                  ellipsoid, which the programs replace by its bounding box, and where time or a formulation is missing.
- ``value``       The greatest excess at a point of the region, computed with the network itself, less all its errors.

The bound and the value are promises. The programs' bound holds up to what solvers tolerate: it includes a margin of
``MARGIN RESOLUTION = 5e-7`` times the *scale*, the greatest ``|E| |net(x)| + |f|`` by the bounds on net(x).

The slopes along directions d are constant where net(x) = A x + c, and E A d is compared with g in the same way.

Source: Ataei, Cheong and Butscher, mPOLICE: provable enforcement of multi-region affine constraints in deep neural
networks, 2025, sections 2.2 and 2.7, which state the constraints and check them at vertices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo

from polyopt.activations import Smooth
from polyopt.bounds.crown import crown
from polyopt.bounds.result import Interval
from polyopt.layers import Affine, broadcasts
from polyopt.network import Network
from polyopt.regions import Region
from polyopt.regions.region import check_single, finite
from polyopt.regions.rounding import Ball, combine, product
from polyopt.verification.affinity import AffineCertificate
from polyopt.verification.arithmetic import Rounded
from polyopt.verification.attained import at_least, attained, maximizers
from polyopt.verification.deviation import MARGIN, RESOLUTION, deviations
from polyopt.verification.followed import followed
from polyopt.verification.pattern import only_piece

EQUAL = 1e-9  # of the scale: floats seldom satisfy an equation exactly
SAMPLES = 128
_SIGNS = {"le": [1.0], "eq": [1.0, -1.0]}


@dataclass(frozen=True, eq=False)
class Violation:
    """The answer: ``status`` is "satisfied", "violated" or "unknown", up to the ``tolerance``.

    "satisfied" says ``V <= bound <= tolerance``; "violated" says ``V >= value > tolerance``, and there is a ``witness``
    x (n_in,), a point of the region where V is at least the value (of slopes, which are the same everywhere, None).
    Upper bounds that are not known are infinite, and so is, below, a value.
    """

    status: str
    bound: float
    milp_bound: float
    value: float
    witness: np.ndarray | None
    tolerance: float
    seconds: float


def violation(
    net: Network,
    region: Region,
    E,
    f,
    kind: str = "le",
    *,
    slope=None,
    certificate: AffineCertificate | None = None,
    milp: bool = True,
    tolerance: float | None = None,
    time_limit: float | None = None,
) -> Violation:
    """How far ``E net(x) <= f`` (``kind="le"``) or ``E net(x) = f`` (``"eq"``) is violated at most on a region.

    E is (k, n_out), f (k,); with a ``slope`` S (k, n_in), the right-hand side is ``f + S x``. A ``certificate`` of
    `polyopt.affine_on` for this network and region spares computing the network's map again; without a margin in it
    nothing is known of that map. ``milp=False`` solves no programs. ``tolerance`` is what counts as satisfied, an
    absolute number: by default 0 for "le", and 1e-9 times the scale for "eq" (see the module). ``time_limit`` in
    seconds stops the programs, and what is known by then is returned; some points are always tried.

    Raises ValueError for shapes that do not fit, numbers that are not finite, unknown kinds, a region that is a batch,
    empty or unbounded, and a certificate that a value of the network contradicts.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[2.0, 1.0]], [1.0])], (1,))
    >>> found = violation(net, Box([0.5], [2.0]), [[1.0]], [5.5])  # 2 x + 1 <= 5.5
    >>> found.status, round(found.bound, 12), round(found.milp_bound, 4), round(found.value, 12), found.witness
    ('satisfied', -0.5, -0.5, -0.5, array([2.]))
    >>> found = violation(net, Box([-3.0], [2.0]), [[1.0]], [4.0])  # the second unit changes its piece
    >>> found.status, found.bound, round(found.milp_bound, 4), round(found.value, 12)
    ('violated', inf, 1.0, 1.0)
    """
    begin = time.perf_counter()
    _check("violation", net, region, kind, tolerance, time_limit)
    E, f, S = _constraint(net, E, f, slope)
    rows, sides, slopes = (_one_sided(kind, part) for part in (E, f, S))
    excess = followed(net, Affine(rows, -sides), Affine(-slopes, None))

    def remaining() -> float:
        return math.inf if time_limit is None else time_limit - (time.perf_counter() - begin)

    numbers = Rounded(region)
    known = _map(net, numbers, certificate, remaining)
    if known is None:
        output, shifted, bound = crown(net, region).output, None, math.inf
        points = [region.sample(SAMPLES, np.random.default_rng(0))]
    else:
        output = Interval(numbers.lower(known), numbers.upper(known))
        shifted = numbers.combine([rows, -slopes], [known, numbers.identity()], -sides)
        bound = _greatest(numbers.upper(shifted))
        points = [region.center[None], maximizers(region, shifted.mid[:, :-1])]
    with np.errstate(over="ignore", invalid="ignore"):
        sizes, reach = (np.maximum(abs(box.lower), abs(box.upper)) for box in (output, region.bounding_box()))
        scale = float((abs(E) @ sizes + abs(f) + abs(S) @ reach).max())
    milp_bound = math.inf
    if milp and math.isfinite(scale):
        milp_bound, found = _programs(excess, region, scale or 1.0, remaining)
        points += found
    value, witness = attained(excess, region, np.concatenate(points), shifted)
    if certificate is not None and value > bound:
        raise ValueError(
            f"violation: by the certificate it is at most {bound}, but {value} at {witness}; it is that of another "
            "network or region, so compute it anew"
        )
    tolerance = _tolerance(tolerance, kind, scale)
    status = _status(bound, value, tolerance)
    return Violation(status, bound, milp_bound, value, witness, tolerance, time.perf_counter() - begin)


def slope_violation(
    net: Network,
    region: Region,
    E,
    D,
    g,
    kind: str = "le",
    *,
    tolerance: float | None = None,
) -> Violation:
    """How far ``E J d <= g`` (``kind="le"``) or ``E J d = g`` (``"eq"``) is violated for the network's Jacobian J.

    E is (k, n_out), the directions d are the rows of D (q, n_in), and g broadcasts to (k, q). J (n_out, n_in) is that
    of the one linear piece to which every unit keeps on the region; without one the bound is infinite. The scale, for
    the default tolerance of "eq", is the greatest ``|E| |J| |d| + |g|``. Raises ValueError as `violation` does.

    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Affine([[1.0, -2.0]], [3.0])], (2,))
    >>> found = slope_violation(net, Box([0.0, 0.0], [1.0, 1.0]), [[1.0]], [[1.0, 0.0], [0.0, 1.0]], [[2.0, -2.5]])
    >>> found.status, round(found.bound, 12), round(found.value, 12)  # the second slope is -2, and not at most -2.5
    ('violated', 0.5, 0.5)
    """
    begin = time.perf_counter()
    _check("slope_violation", net, region, kind, tolerance)
    E, D, g = _slopes(net, E, D, g)
    rows, sides = _one_sided(kind, E), _one_sided(kind, g).T
    bound, value, scale = math.inf, -math.inf, 0.0
    known = _map(net, Rounded(region))
    if known is not None:
        slopes = product(rows, Ball(known.mid[:, :-1], known.radius[:, :-1]))
        balls = [Ball(slopes.mid.T, slopes.radius.T), Ball(sides, np.zeros_like(sides))]
        excess = combine([D, -np.eye(len(D))], balls, np.zeros(len(D)), np.ones(len(rows)))
        bound = _greatest(-at_least(Ball(-excess.mid, excess.radius)))
        value = float(at_least(excess).max())
        scale = float((abs(E) @ abs(known.mid[:, :-1]) @ abs(D).T + abs(g)).max())
    tolerance = _tolerance(tolerance, kind, scale)
    status = _status(bound, value, tolerance)
    return Violation(status, bound, math.inf, value, None, tolerance, time.perf_counter() - begin)


def _check(owner, net, region, kind, tolerance, time_limit=None) -> None:
    if not isinstance(net, Network):
        raise ValueError(f"{owner}: the network is a {type(net).__name__}; read it with from_torch first")
    check_single(owner, region, net.input_size)
    if kind not in _SIGNS:
        raise ValueError(f"{owner}: kind={kind!r} is unknown; choose 'le' or 'eq'")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"{owner}: tolerance is {tolerance}, but must be a finite number, and not negative")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"{owner}: time_limit is {time_limit}, but must be positive seconds")
    region.bounding_box()  # ValueError where it is empty or unbounded


def _constraint(net: Network, E, f, slope) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    E, f = finite("violation", "E", E, "(k, n_out)"), finite("violation", "f", f, "(k,)")
    if E.shape[1] != net.output_size or len(E) != len(f) or not len(E):
        raise ValueError(
            f"violation: E has shape {E.shape}, f {f.shape}; they must be (k, {net.output_size}) and (k,) with k >= 1"
        )
    wanted = (len(E), net.input_size)
    S = np.zeros(wanted) if slope is None else finite("violation", "slope", slope, "(k, n_in)")
    if S.shape != wanted:
        raise ValueError(f"violation: slope has shape {S.shape}, but must be {wanted}")
    return E, f, S


def _slopes(net: Network, E, D, g) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    E, D = finite("slope_violation", "E", E, "(k, n_out)"), finite("slope_violation", "D", D, "(q, n_in)")
    g = np.asarray(g, dtype=np.float64)
    if E.shape[1] != net.output_size or D.shape[1] != net.input_size or not len(E) or not len(D):
        raise ValueError(
            f"slope_violation: E has shape {E.shape}, D {D.shape}; they must be (k, {net.output_size}) and "
            f"(q, {net.input_size}) with k, q >= 1"
        )
    shape = (len(E), len(D))
    if not broadcasts(shape, g):
        raise ValueError(f"slope_violation: g has shape {g.shape}, which does not broadcast to (k, q) = {shape}")
    return E, D, finite("slope_violation", "g", np.broadcast_to(g, shape), "(k, q)")


def _one_sided(kind: str, rows: np.ndarray) -> np.ndarray:
    """The rows, and for "eq" their opposites below."""
    return np.concatenate([sign * rows for sign in _SIGNS[kind]])


def _map(net: Network, numbers: Rounded, certificate=None, remaining: Callable[[], float] = lambda: math.inf):
    """``net(x) = A x + c`` on the region as a ball around the matrix [A c]; None where that is not proven."""
    if certificate is None:
        found = only_piece(net, numbers, lambda: not remaining() > 0)
        return None if found is None else found.map
    if certificate.margin is None:
        return None
    mid = np.column_stack([certificate.A, certificate.c])
    if mid.shape != (net.output_size, net.input_size + 1):
        raise ValueError(
            f"violation: the certificate's A has shape {certificate.A.shape}, but the network "
            f"{net.output_size} outputs and {net.input_size} inputs; give the certificate of this network"
        )
    radius = np.zeros_like(mid)
    radius[:, -1] = certificate.tolerance
    return Ball(mid, radius)


def _programs(
    excess: Network, region: Region, scale: float, remaining: Callable[[], float]
) -> tuple[float, list[np.ndarray]]:
    """An upper bound on all outputs of ``excess``, by CROWN and one program each, and the programs' best points."""
    bounds, points = crown(excess, region).output.upper + MARGIN * RESOLUTION * scale, []
    if any(isinstance(node.layer, Smooth) for node in excess.activations):
        return _greatest(bounds), points
    A, c = np.zeros((excess.output_size, excess.input_size)), np.zeros(excess.output_size)
    for j, found in enumerate(deviations(excess, region, A, c, scale, remaining, senses=(pyo.maximize,))):
        bounds[j] = min(bounds[j], found.bound)
        points += [] if found.point is None else [found.point[None]]
    return _greatest(bounds), points


def _greatest(bounds: np.ndarray) -> float:
    """The greatest of upper bounds; infinite where one is no number."""
    return float(np.where(np.isnan(bounds), np.inf, bounds).max())


def _tolerance(tolerance: float | None, kind: str, scale: float) -> float:
    if tolerance is not None:
        return tolerance
    return EQUAL * scale if kind == "eq" and math.isfinite(scale) else 0.0


def _status(bound: float, value: float, tolerance: float) -> str:
    return "satisfied" if bound <= tolerance else "violated" if value > tolerance else "unknown"
