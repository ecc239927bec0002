"""The optimum of a network over a region, proven by branch and bound."""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from polyopt.activations import PiecewiseLinear
from polyopt.network import Network
from polyopt.regions import Ellipsoid, Product, Region
from polyopt.regions.region import check_single
from polyopt.search.programs import Program, program
from polyopt.search.quadratic import read_quadratic, squared
from polyopt.search.question import Question
from polyopt.search.running import run
from polyopt.search.search import Search
from polyopt.search.state import State, resumed, state_of


@dataclass(frozen=True)
class Optimum:
    """What a search found; ``status`` is one of

        "optimal"      the gap is as small as was asked for
        "infeasible"   it is proven that no point of the region satisfies the constraints
        "time limit", "interrupted"
        "stuck"        nothing is left but what rounding errors leave open: gap or constraints are too fine for floats

    ``value`` is the objective at ``x`` (n_in,), the best point; ``bound`` what no point exceeds (or falls below);
    ``branches`` counts the domains that were bounded. Where there is no point, x is None, and value and bound are
    infinite. ``state``, if it was to be kept, is where `optimize` can ``resume``; it pickles.
    """

    status: str
    x: np.ndarray | None
    value: float
    bound: float
    branches: int
    seconds: float
    state: State | None = None

    @property
    def gap(self) -> float:
        """``|value - bound| / max(1, |value|)``; infinite where there is no point."""
        return math.inf if self.x is None else abs(self.value - self.bound) / max(1.0, abs(self.value))


def optimize(
    net: Network,
    region: Region,
    objective,
    sense: str = "max",
    time_limit: float | None = None,
    gap: float = 1e-6,
    linear_constraints=None,
    input_objective=None,
    quadratic=None,
    device=None,
    executor: Executor | None = None,
    keep: bool = False,
    resume: State | None = None,
    progress: bool = False,
) -> Optimum:
    """The greatest (``sense="min"``: the least) value of ``objective . net(x) + input_objective . x`` over a region.

    ``objective`` (n_out,) weighs the outputs, ``input_objective`` (n_in,) the inputs. With ``quadratic=(F, g)``, F
    (m, n_out + n_in) and g (m,), ``|F [net(x); x] - g|^2`` is subtracted from what is to be greatest, or added to what
    is to be least: such objectives are concave, or convex. Others may be a part of the network. The region is any but
    ellipsoids, and ``linear_constraints=(A, b)`` leaves of it what satisfies ``A x <= b``, with A (m, n_in).
    ``time_limit`` in seconds; ``gap`` is the relative gap at which the answer counts as optimal.

    Where at most 12 inputs vary, or something is smooth, which the quadratic part is, boxes of inputs are halved; where
    more than 48 do, the phases of units are split; in between, what has the better bound after half a second of each. A
    zonotope counts with its generators, a V-polytope with its vertices. ``executor`` shares the open boxes out to
    processes, or to a Dask cluster (``client.get_executor()``); a worker that dies loses nothing. ``device`` is
    torch's.

    Stopped by its time limit or by Ctrl-C it returns the best point and bound. With ``keep`` the answer has a
    ``state``, and a later call with the same arguments and ``resume=best.state`` goes on from there.

    ``bound`` is rounded outwards and holds for the exact numbers; ``value`` is computed in float64. The point x
    satisfies all constraints in float64, those of flat polytopes up to 1e-9 of the size of their terms.

    Raises ValueError where objective, quadratic part, region or constraints do not fit the network, where the region is
    empty or unbounded, and where an activation jumps.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 2.0]], None)], (1,))
    >>> best = optimize(net, Box([-1.0], [1.0]), [1.0])
    >>> best.status, best.x, best.value
    ('optimal', array([-1.]), 2.0)
    >>> best = optimize(net, Box([-1.0], [1.0]), [1.0], linear_constraints=([[-1.0]], [0.25]), input_objective=[-1.0])
    >>> best.status, best.x.round(6), round(best.value, 6)
    ('optimal', array([-0.25]), 0.75)
    >>> best = optimize(net, Box([-1.0], [1.0]), [1.0], quadratic=([[0.0, 1.0]], [0.25]))  # less (x - 0.25)^2
    >>> best.status, best.x.round(3), round(best.value, 6)
    ('optimal', array([0.75]), 0.5)
    """
    begin = time.perf_counter()
    c, p, constraints = _checked(net, region, objective, input_objective, linear_constraints, sense, time_limit, gap)
    F, g = read_quadratic(quadratic, net)
    sign = -1.0 if sense == "max" else 1.0
    whole, weights = (squared(net, F, g), np.append(sign * c, np.ones(len(g)))) if len(g) else (net, sign * c)
    asked = program(whole, region, weights, sign * p, constraints)
    if asked.inside.deepest is None:
        return _empty(asked, sign, begin)
    inside = asked.inside if len(asked.target.rows) > 1 else None
    question = Question(asked.net, [asked.target], gap=gap, device=device, inside=inside)
    search = Search(question) if resume is None else resumed(question, resume)
    found = run(search, begin, time_limit, executor, progress)
    status = found.status
    if status == "over":
        status = "optimal" if found.bound > question.cutoff else "stuck"
    bound = sign * min(found.bound, question.value if search.whole else question.cutoff)
    x = asked.where.point(question.point)
    value = sign * float(whole(x[None])[0] @ weights + sign * (x @ p))
    state = state_of(search) if keep else None
    return Optimum(status, x, value, bound, found.branches, time.perf_counter() - begin, state)


def _empty(asked: Program, sign: float, begin: float) -> Optimum:
    proven = asked.inside.proven_empty
    bound = sign * math.inf if proven else -sign * math.inf
    status = "infeasible" if proven else "stuck"
    return Optimum(status, None, sign * math.inf, bound, 0, time.perf_counter() - begin)


def _checked(net, region, objective, input_objective, constraints, sense, time_limit, gap):
    """The weights of outputs and inputs, and the constraints ``(A, b)``."""
    c = np.asarray(objective, dtype=np.float64)
    if c.shape != (net.output_size,) or not np.isfinite(c).all():
        raise ValueError(
            f"optimize: objective has shape {c.shape} and must hold a finite number for each of the network's "
            f"{net.output_size} outputs; objectives are linear"
        )
    n = net.input_size
    p = np.zeros(n) if input_objective is None else np.asarray(input_objective, dtype=np.float64)
    if p.shape != (n,) or not np.isfinite(p).all():
        raise ValueError(
            f"optimize: input_objective has shape {p.shape} and must hold a finite number for each of the network's "
            f"{n} inputs"
        )
    if sense not in ("min", "max"):
        raise ValueError(f"optimize: sense={sense!r} is unknown; choose 'max' or 'min'")
    check_single("optimize", region, n)
    _check_round(region)
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"optimize: time_limit is {time_limit}, but must be positive seconds")
    if not gap >= 0:
        raise ValueError(f"optimize: gap is {gap}, but must not be negative")
    region.bounding_box()  # ValueError where it is empty or unbounded
    for node in net.activations:
        if isinstance(node.layer, PiecewiseLinear) and node.layer.pieces(node.shape).jumps.any():
            raise ValueError(
                f"optimize: layer {node.name!r} ({type(node.layer).__name__}) jumps, so that an optimum may not "
                "be attained; add_network and solve allow either side of a jump"
            )
    return c, p, _rows(constraints, n)


def _check_round(region: Region) -> None:
    for part in region.regions if isinstance(region, Product) else (region,):
        if isinstance(part, Product):
            _check_round(part)
        if isinstance(part, Ellipsoid):
            raise ValueError(
                "optimize: an Ellipsoid is no polytope, and the search knows polytopes alone; give a polytope around "
                "it, such as its bounding_box(), or one inside"
            )


def _rows(constraints, n: int) -> tuple[np.ndarray, np.ndarray]:
    if constraints is None:
        return np.zeros((0, n)), np.zeros(0)
    try:
        A, b = (np.asarray(part, dtype=np.float64) for part in constraints)
    except (TypeError, ValueError):
        raise ValueError("optimize: linear_constraints must be a pair (A, b) of arrays, for A x <= b") from None
    if A.ndim != 2 or A.shape[1] != n or b.shape != (len(A),):
        raise ValueError(
            f"optimize: linear_constraints have shapes {A.shape} and {b.shape}, but must be (m, {n}) and (m,)"
        )
    if not (np.isfinite(A).all() and np.isfinite(b).all()):
        raise ValueError("optimize: linear_constraints must be finite; leave out rows without a limit")
    return A, b
