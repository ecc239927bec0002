"""Everyone who solves the problems: one function each, which makes what is timed for a `Case`.

It gets the arguments Q, p, G, h (those of `polyopt.qp.project`: u0, V), and returns the solutions (B, n).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from problems import MARGIN, Case

import polyopt as po

FAR = 1e20  # stands for infinity in proxsuite


def layer(case: Case) -> Callable:
    """By torch alone."""
    made = po.qp.QPLayer()

    def solve(Q, p, G, h):
        with patch("polyopt.qp.native.daqp", None):
            return made(Q, p, G, h)

    return solve


def layer_with_daqp(case: Case) -> Callable:
    import daqp  # noqa: F401

    return po.qp.QPLayer()


def project(case: Case) -> Callable:
    return lambda u0, V: po.qp.project(u0, V, case.signs, MARGIN).u


def linear(case: Case) -> Callable:
    """Not a solver: Figure 1's yardstick, a matrix for each vector of the batch."""
    return lambda Q, p, G, h: (Q @ p[..., None])[..., 0]


def qpth(case: Case) -> Callable:
    from qpth.qp import QPFunction

    none = case.p.new_empty(0)
    return lambda Q, p, G, h: QPFunction(verbose=-1, check_Q_spd=False)(Q, p, G, h, none, none)


def proxsuite_layer(case: Case) -> Callable:
    from proxsuite.torch.qplayer import QPFunction

    batch, m, n = case.shape
    A, b, low = case.p.new_zeros(batch, 0, n), case.p.new_zeros(batch, 0), case.p.new_full((batch, m), -FAR)
    parallel = torch.get_num_threads() > 1
    return lambda Q, p, G, h: QPFunction(omp_parallel=parallel)(Q, p, A, b, G, low, h)[0]


def proxsuite_batch(case: Case) -> Callable:
    from proxsuite import proxqp

    batch, m, n = case.shape
    low = np.full(m, -FAR)

    def solve(Q, p, G, h):
        problems = proxqp.dense.BatchQP()
        for one in zip(*full(case, Q, p, G, h), strict=True):
            made = problems.init_qp_in_place(n, 0, m)
            made.settings.eps_abs = 1e-9
            made.init(one[0], one[1], None, None, one[2], low, one[3])
        proxqp.dense.solve_in_parallel(problems, torch.get_num_threads())
        return torch.tensor(np.stack([problems.get(i).results.x for i in range(batch)]))

    return solve


def daqp(case: Case) -> Callable:
    import daqp

    def solve(Q, p, G, h):
        return torch.tensor(np.stack([daqp.solve(*one)[0] for one in zip(*full(case, Q, p, G, h), strict=True)]))

    return solve


def moreau(method: str) -> Callable[[Case], Callable]:
    def make(case: Case) -> Callable:
        from moreau import Cones, Settings
        from moreau.torch import Solver

        batch, m, n = case.shape

        def dense(rows):
            return torch.arange(rows + 1) * n, torch.arange(n).repeat(rows)

        settings = Settings(device="cpu", batch_size=batch, solver=method)
        solver = Solver(n, m, *dense(n), *dense(m), Cones(num_nonneg_cones=m), settings)

        def solve(Q, p, G, h):
            Q, h = Q.expand(batch, n, n), h.expand(batch, m)
            return solver.solve(Q.flatten(1), G.flatten(1), p, h).x

        return solve

    return make


def cvxpylayers(case: Case) -> Callable:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    _, m, n = case.shape
    z, F, p, G, h = (cp.Variable(n), *(cp.Parameter(shape) for shape in ((n, n), n, (m, n), m)))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(F @ z) / 2 + p @ z), [G @ z <= h])
    made = CvxpyLayer(problem, [F, p, G, h], [z])
    return lambda Q, p, G, h: made(torch.linalg.cholesky(Q).mT, p, G, h)[0]


def full(case: Case, *arguments: torch.Tensor) -> list[np.ndarray]:
    """Q, p, G, h as arrays with a batch dimension each."""
    batch, m, n = case.shape
    shapes = (batch, n, n), (batch, n), (batch, m, n), (batch, m)
    return [x.detach().expand(shape).numpy() for x, shape in zip(arguments, shapes, strict=True)]


class Contender(NamedTuple):
    """``cone``: for projections only, of the arguments u0 and V. ``solves``: not so the yardstick."""

    make: Callable[[Case], Callable]
    backward: bool = True
    cuda: bool = False
    cone: bool = False
    solves: bool = True


OURS, LINEAR = "polyopt", "linear layer"
CONTENDERS = {
    OURS: Contender(layer, cuda=True),
    "polyopt with daqp": Contender(layer_with_daqp),
    "polyopt, project": Contender(project, cuda=True, cone=True),
    "qpth": Contender(qpth, cuda=True),
    "proxsuite, QPLayer": Contender(proxsuite_layer),
    "proxsuite, batch": Contender(proxsuite_batch, backward=False),
    "moreau, active set": Contender(moreau("active_set")),
    "moreau, interior point": Contender(moreau("ipm")),
    "daqp, one by one": Contender(daqp, backward=False),
    "cvxpylayers": Contender(cvxpylayers),
    LINEAR: Contender(linear, cuda=True, solves=False),
}
PACKAGES = ("qpth", "proxsuite", "moreau", "daqp", "cvxpylayers")
