"""daqp behind the same interface: the answers are those of torch alone, whatever daqp says."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_qp import SHAPES, assert_infeasible, assert_optimal, feasible
from test_qp_layer import agree, conditioned

from polyopt.qp import native, solve
from polyopt.qp.problem import read

D = torch.float64


def counted(monkeypatch):
    """The calls that daqp gets."""
    daqp, calls = pytest.importorskip("daqp"), []

    def solve(*arguments, **options):
        calls.append(arguments)
        return daqp.solve(*arguments, **options)

    monkeypatch.setattr(native, "daqp", SimpleNamespace(solve=solve))
    return calls


def claims(monkeypatch, flag, lam):
    """A daqp that answers the same to everything."""

    def solve(Q, p, C, *_, **__):
        return None, None, flag, {"lam": np.full(len(C), lam), "iterations": 1}

    monkeypatch.setattr(native, "daqp", SimpleNamespace(solve=solve))


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1]], ids=str)
def test_the_answers_are_those_of_torch_alone(monkeypatch, shape, batch):
    problem, calls = feasible(20, batch, *shape), counted(monkeypatch)
    ours = solve(*problem)
    assert len(calls) == batch
    assert_optimal(ours, problem)
    monkeypatch.setattr(native, "daqp", None)
    alone = solve(*problem)
    np.testing.assert_allclose(ours.z, alone.z, atol=1e-10)
    np.testing.assert_allclose(ours.lam, alone.lam, atol=1e-8)
    assert len(calls) == batch


def test_shared_and_transposed_arguments(monkeypatch):
    """The sets themselves, since polishing and the interior point would make good what is wrong with them."""
    counted(monkeypatch)
    Q, p, G, h, A, b = feasible(21, 5, 8, 8, 3)
    shared = Q[0], p, G[0], G[0] @ torch.ones(8, dtype=D), A[0], A[0] @ torch.ones(8, dtype=D)
    turned = [x.movedim(0, -1).contiguous().movedim(-1, 0) for x in (Q, p, G, h, A, b)]
    assert not turned[1][0].is_contiguous()
    for problem in (shared, turned):
        active, solved, _ = native.by_daqp(read(*problem)[0])
        assert solved.all()
        assert active[:, :3].all()
        assert (active[:, 3:] == (solve(*problem, method="interior").lam > 0)).all()


def test_gradients(monkeypatch):
    calls = counted(monkeypatch)
    agree(conditioned(0, 3, 5, 4, 2), range(6), 1e-6)
    assert calls


def test_an_infeasible_problem_has_a_proof_and_does_no_harm(monkeypatch):
    Q, p, G, h, A, b = feasible(22, 3, 4, 6, 0)
    G[1, 1], h[1, :2] = -G[1, 0], -1.0
    counted(monkeypatch)
    found = solve(Q, p, G, h, A, b)
    assert found.names == ["optimal", "infeasible", "optimal"]
    assert_infeasible(found, (Q, p, G, h, A, b), 1)


@pytest.mark.parametrize(("flag", "lam"), [(1, 0.0), (1, 1.0), (1, np.nan), (-1, 0.0)])
def test_a_wrong_answer_of_daqp_is_noticed(monkeypatch, flag, lam):
    problem = feasible(23, 4, 6, 9, 2)
    claims(monkeypatch, flag, lam)
    assert_optimal(solve(*problem), problem)


@pytest.mark.parametrize(
    ("shape", "batch", "dtype", "suits"),
    [
        ((10, 10, 0), 64, torch.float64, True),
        ((10, 10, 0), 64, torch.float32, False),
        ((100, 100, 0), 1, torch.float64, True),
        ((100, 100, 0), 16, torch.float64, False),
        ((10, 100, 60), 16, torch.float64, True),
        ((10, 100, 61), 16, torch.float64, False),
        ((30, 14, 0), 1, torch.float64, False),
    ],
    ids=str,
)
def test_it_is_asked_where_it_is_faster(monkeypatch, shape, batch, dtype, suits):
    problem, _ = read(*(x.to(dtype) for x in feasible(24, batch, *shape)))
    claims(monkeypatch, 1, 0.0)
    assert native.suits_daqp(problem) == suits
    monkeypatch.setattr(native, "daqp", None)
    assert not native.suits_daqp(problem)


def test_it_is_not_asked_where_a_method_is_named_or_the_matrix_is_semidefinite(monkeypatch):
    calls, problem = counted(monkeypatch), feasible(25, 3, 5, 6, 0)
    for method in ("active-set", "interior"):
        solve(*problem, method=method)
    semidefinite = feasible(25, 3, 5, 6, 0, 2)
    assert_optimal(solve(*semidefinite), semidefinite, 1e-9)
    assert not calls
