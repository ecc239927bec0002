"""Solve a batch whose problems are thought to have solutions, by the form that suits its shape.

- Q positive definite, and few rows, or few that matter: in the multipliers (`polyopt.qp.condense`). First come block
  principal pivoting, the dual active set for a handful of variables and rows, or daqp (`polyopt.qp.native`), and most
  problems end there; the interior point is for the others.
- Many rows that matter, or Q only semidefinite: scaled, in z. The interior point for all, then pivoting among the rows
  that it finds active or nearly so.

How many rows matter is judged by how many the minimiser without constraints violates.

Either way the active set that is found gives the solution to machine precision (`polyopt.qp.polish`). Where it does
not, the interior point's own answer stands if it is good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from polyopt.qp.active import ActiveSystem
from polyopt.qp.active_set import goldfarb_idnani
from polyopt.qp.condense import Condensed, Hessian, condense, factor_hessian
from polyopt.qp.interior import interior
from polyopt.qp.linalg import cholesky_solve, largest, times, transposed_times
from polyopt.qp.native import by_daqp, suits_daqp
from polyopt.qp.newton import Dual, Primal, multipliers
from polyopt.qp.pivoting import pivot
from polyopt.qp.polish import ORIGIN, Polished, polish
from polyopt.qp.problem import Problem, Status
from polyopt.qp.scaling import Scaling, equilibrate, unscaled

# a product costs a fourth of a Cholesky factorisation, flop by flop, so that the dual form pays up to this many rows
DUAL_SHAPE = 1.5
MANY = 4  # rows a variable, for which the multipliers are too many
VIOLATED = 2 / 3  # rows a variable: up to so many, pivoting is faster than the interior point in z
PRECISION = {torch.float64: 1e-7, torch.float32: 1e-3}  # relative, of a solution that could not be polished
TINY, SMALL = 16, 128  # rows, up to which the dual active set is faster than the interior point in z; with equalities
Method = Literal["auto", "active-set", "interior"]  # the last without another method before it
METHODS = get_args(Method)
FLOOR = 1e-3  # of the size of the objective of a scaled problem


@dataclass(frozen=True)
class Adjoint:
    """The system of the active sets, from which derivatives come: see `polyopt.qp.layer`."""

    problem: Problem  # scaled, with the rows that may be active
    condensed: Condensed
    system: ActiveSystem
    rows: Tensor | None  # (B, r): which inequalities these are; None for all
    scaling: Scaling


@dataclass(frozen=True)
class Answer:
    """Points of a batch, which of them are solutions, and how they were found."""

    z: Tensor  # (B, n)
    lam: Tensor  # (B, m)
    nu: Tensor  # (B, k)
    solved: Tensor  # (B,)
    iterations: Tensor  # (B,)
    adjoint: Adjoint


def check_method(method: Method) -> None:
    """ValueError for a method that there is not."""
    if method not in METHODS:
        raise ValueError(f"qp: method is {method!r}, but must be one of {', '.join(map(repr, METHODS))}")


def answer(problem: Problem, limit: int, method: Method = "auto") -> Answer:
    """Solve the problems with at most ``limit`` interior-point iterations each, by one of `METHODS`."""
    hessian = factor_hessian(problem.Q)
    strict = not (hessian.delta > 0).any()
    if method == "active-set" and not strict:
        raise ValueError("qp: method 'active-set' needs a positive definite Q; use 'auto'")
    if not problem.inequalities:
        return dual(problem, hessian, limit, _pivot)
    if method == "active-set":
        return dual(problem, hessian, limit, _active_set)
    if method == "interior":
        return dual(problem, hessian, limit, _untried) if strict and few(problem) else primal(problem, limit)
    if strict and suits_daqp(problem):
        return dual(problem, hessian, limit, _daqp)
    if strict and (few(problem) or matter_few(problem, hessian)):
        return dual(problem, hessian, limit, _pivot)
    small = problem.equalities + problem.inequalities <= (SMALL if problem.equalities else TINY)
    return dual(problem, hessian, limit, _active_set) if strict and small else primal(problem, limit)


def few(problem: Problem) -> bool:
    """Whether rows are few beside variables; of two with opposite sides, as in -1 <= z <= 1, at most one is active."""
    half = problem.inequalities // 2
    limit = DUAL_SHAPE * problem.p.shape[1] - problem.equalities
    if half * 2 == problem.inequalities > limit >= half:
        return torch.equal(problem.G[:, :half], -problem.G[:, half:])
    return problem.inequalities <= limit


def matter_few(problem: Problem, hessian: Hessian) -> bool:
    """Whether the minimisers without constraints violate few rows; they say nothing where there are equalities."""
    n = problem.p.shape[1]
    if problem.equalities or problem.inequalities > MANY * n:
        return False
    violated = times(problem.G, -cholesky_solve(hessian.L, problem.p)) > problem.h
    return bool(violated.sum(-1).double().mean() <= VIOLATED * n)


class Found(NamedTuple):
    """What a method finds before the interior point is asked."""

    active: Tensor  # (B, r)
    solved: Tensor  # (B,): where these are the active sets of a solution
    iterations: Tensor  # (B,)
    y: Tensor | None = None  # (B, r): its multipliers, if the method has them and not the sets alone


def _active_set(problem: Problem, condensed: Condensed) -> Found:
    """By the dual active set."""
    limit = 10 + 2 * problem.inequalities
    _, lam, nu, status, iterations = goldfarb_idnani(**vars(problem), max_iterations=limit)
    active, solved = torch.cat([torch.ones_like(nu, dtype=torch.bool), lam > 0], -1), status == Status.OPTIMAL
    return Found(active, solved, iterations, torch.where(solved[:, None], torch.cat([nu, lam], -1), 0))


def _daqp(problem: Problem, condensed: Condensed) -> Found:
    """By daqp."""
    return Found(*by_daqp(problem))


def _pivot(problem: Problem, condensed: Condensed) -> Found:
    """By pivoting."""
    return Found(*pivot(condensed, condensed.q < 0, problem.equalities))


def _untried(problem: Problem, condensed: Condensed) -> Found:
    """Nothing."""
    active = condensed.q < 0
    return Found(active, torch.zeros_like(active[:, 0]), torch.zeros_like(active[:, 0], dtype=torch.int64))


def dual(problem: Problem, hessian: Hessian, limit: int, find: Callable[[Problem, Condensed], Found]) -> Answer:
    """Solve in the multipliers, with ``find`` before the interior point."""
    k, condensed = problem.equalities, condense(problem, hessian)
    active, solved, iterations, y = find(problem, condensed)
    # what is known to its multipliers is not asked again where dependent rows spoil the polish
    tried = torch.zeros_like(solved) if y is None else solved.clone()
    tried |= not problem.inequalities
    y = torch.zeros_like(condensed.q) if y is None else y
    while True:
        rest = (~solved & ~tried).nonzero()[:, 0]
        if len(rest):
            part = condensed.take(rest)
            guess, y[rest], count = _interior_dual(part, k, limit)
            active[rest], _, rounds = pivot(part, guess, k)
            iterations[rest] += count + rounds
            tried[rest] = True
        polished = polish(problem, condensed, active, 0)
        solved = polished.accepted
        if (solved | tried).all():
            break
    z = condensed.z0 - cholesky_solve(condensed.L, problem.pull(y))
    z, y, solved = choose(problem, condensed, polished, z, y, 0)
    adjoint = Adjoint(problem, condensed, polished.system, None, unscaled(problem))
    return Answer(z, y[:, k:], y[:, :k], solved, iterations, adjoint)


def _interior_dual(condensed: Condensed, k: int, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """A guess of the active rows, the multipliers, and the iterations taken."""
    newton, unit = Dual.of(condensed, k)
    end = interior(newton, limit)
    s, lam = end.values
    guess = torch.cat([lam.new_ones(len(lam), k, dtype=torch.bool), lam > s], -1)
    return guess, multipliers(condensed, lam * unit), end.iterations


def primal(problem: Problem, limit: int) -> Answer:
    """Solve in z."""
    batch, k, m = problem.batch, problem.equalities, problem.inequalities
    scaled, scaling = equilibrate(problem)
    end = interior(Primal(scaled, batch), limit)
    s, lam, z, nu = end.values
    guess, rows = lam > s, None
    count = int(guess.sum(-1).max()) + problem.p.shape[1] // 4
    if count < m:
        rows = (lam / s).topk(count).indices
        guess = guess.gather(1, rows)
    part = scaled if rows is None else scaled.rows(rows)
    condensed = condense(part, factor_hessian(scaled.Q))
    active, _, rounds = pivot(condensed, torch.cat([guess.new_ones(batch, k), guess], -1), k)
    polished = polish(part, condensed, active, FLOOR)
    polished = replace(polished, y=spread(polished.y, rows, k, m))
    z, y, solved = choose(scaled, condensed, polished, z, torch.cat([nu, lam], -1), FLOOR)
    adjoint = Adjoint(part, condensed, polished.system, rows, scaling)
    lam, nu = y[:, k:] * scaling.E / scaling.c, y[:, :k] * scaling.F / scaling.c
    return Answer(z * scaling.D, lam, nu, solved, end.iterations + rounds, adjoint)


def spread(y: Tensor, rows: Tensor | None, k: int, m: int) -> Tensor:
    """Multipliers of the equalities and of some inequalities as multipliers of all, (B, k + m)."""
    return y if rows is None else torch.cat([y[:, :k], y.new_zeros(len(y), m).scatter(1, rows, y[:, k:])], -1)


def choose(
    problem: Problem, condensed: Condensed, polished: Polished, z: Tensor, y: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The polished point where it is accepted, else z, y; and which of them are solutions."""
    origin = ORIGIN * largest(condensed.q)
    # rows that were left out of the polish may be violated
    precise = relative_error(problem, polished.z, polished.y, origin, floor) <= PRECISION[z.dtype]
    solved = polished.accepted & precise
    if solved.all():
        return polished.z, polished.y, solved
    taken = solved[:, None]
    z, y = torch.where(taken, polished.z, z), torch.where(taken, polished.y, y)
    return z, y, relative_error(problem, z, y, origin, floor) <= PRECISION[z.dtype]


def relative_error(problem: Problem, z: Tensor, y: Tensor, origin: Tensor, floor: float) -> Tensor:
    """The largest violation of (4), each of its kinds relative to the terms that it adds up: (B,)."""
    k, tiny = problem.equalities, torch.finfo(z.dtype).tiny
    Qz, pull, Cz = transposed_times(problem.Q, z), problem.pull(y), problem.apply(z)
    gap, lam = problem.d - Cz, y[:, k:]
    off = largest(Qz + problem.p + pull) / (floor + largest(Qz) + largest(problem.p) + largest(pull)).clamp(min=tiny)
    unit = (largest(problem.d) + largest(Cz) + origin).clamp(min=tiny)
    rows = largest(torch.cat([gap[:, :k], gap[:, k:].clamp(max=0)], -1)) / unit
    lams = largest(lam).clamp(min=tiny)
    sign = largest(lam.clamp(max=0)) / lams
    product = largest(lam * gap[:, k:].clamp(min=0)) / lams / unit
    return torch.cat([off, rows, sign, product], -1).amax(-1)
