"""Which form is chosen for which problems; the answers do not depend on it."""

import numpy as np
import pytest
import torch
from test_qp import assert_optimal, feasible

from polyopt.qp import solve
from polyopt.qp.condense import factor_hessian
from polyopt.qp.core import few, matter_few
from polyopt.qp.problem import read

D = torch.float64


def boxes(batch, n, shared, radius=1.0):
    """|z_i| <= radius."""
    Q, p, *_ = feasible(30, batch, n, 1, 0)
    G = torch.cat([torch.eye(n, dtype=D), -torch.eye(n, dtype=D)])
    h = torch.full((2 * n,), radius, dtype=D)
    none, nothing = torch.zeros(0, n, dtype=D), torch.zeros(0, dtype=D)
    return (Q + 0.1 * torch.eye(n, dtype=D), p, G if shared else G.repeat(batch, 1, 1), h, none, nothing)


@pytest.mark.parametrize("method", ["auto", "active-set", "interior"])
@pytest.mark.parametrize("radius", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("shared", [True, False])
def test_boxes(monkeypatch, shared, radius, method):
    monkeypatch.setattr("polyopt.qp.native.daqp", None)
    problem = boxes(4, 12, shared, radius)
    solution = solve(*problem, method=method)
    assert_optimal(solution, problem)
    outside = np.abs(solution.z.numpy()) > radius * (1 + 1e-12)
    assert not outside.any()


def test_opposite_rows_are_few():
    problem = boxes(4, 12, False)
    assert few(read(*problem)[0])
    changed = problem[2].clone()
    changed[-1, -1, 0] = 0.5
    assert not few(read(*problem[:2], changed, *problem[3:])[0])
    many, _ = read(*feasible(31, 4, 4, 16, 0))
    opposite = torch.cat([many.G, -many.G], 1), torch.cat([many.h, many.h], 1)
    assert not few(read(many.Q, many.p, *opposite, None, None)[0])


@pytest.mark.parametrize(("size", "limit"), [((10, 15, 0), True), ((10, 16, 0), False), ((10, 14, 2), False)], ids=str)
def test_few_rows(size, limit):
    assert few(read(*feasible(32, 3, *size))[0]) == limit


def test_the_rows_that_matter_are_those_that_the_minimiser_violates(monkeypatch):
    monkeypatch.setattr("polyopt.qp.native.daqp", None)
    Q, p, G, *_, A, b = feasible(33, 5, 8, 24, 0)
    z0 = -torch.linalg.solve(Q, p)
    for violated in (0, 5, 6, 24):
        signs = torch.where(torch.arange(24) < violated, -1.0, 1.0)
        problem = Q, p, G, (G @ z0[..., None])[..., 0] + 0.3 * signs, A, b
        assert matter_few(read(*problem)[0], factor_hessian(Q)) == (violated <= 5)
        ours, other = solve(*problem), solve(*problem, method="interior")
        assert ours.names == other.names
        np.testing.assert_allclose(ours.z, other.z, atol=1e-8)
