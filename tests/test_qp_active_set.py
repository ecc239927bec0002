"""The dual active set: against enumeration, Lawson and Hanson's LDP by scipy's nnls, HiGHS, and the KKT conditions."""

import itertools

import highspy
import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from polyopt.qp.active_set import goldfarb_idnani
from polyopt.qp.least_distance import _Ascent
from polyopt.qp.problem import Status
from polyopt.qp.project import project

OPTIMAL, INFEASIBLE, LIMIT = Status.OPTIMAL, Status.INFEASIBLE, Status.ITERATION_LIMIT


def tensors(*arrays):
    return tuple(torch.tensor(np.asarray(a, dtype=float)) for a in arrays)


def random(seed, B, n, m, k=0, shared=False):
    """Problems (Q, p, G, h, A, b) with a feasible point each."""
    rng, lead = np.random.default_rng(seed), 1 if shared else B
    L, z = rng.normal(size=(lead, n, n)), rng.normal(size=(B, n))
    G, A = rng.normal(size=(lead, m, n)), rng.normal(size=(lead, k, n))
    h = np.einsum("bmn,bn->bm", np.broadcast_to(G, (B, m, n)), z) + rng.exponential(0.3, size=(B, m))
    b = np.einsum("bkn,bn->bk", np.broadcast_to(A, (B, k, n)), z)
    return tensors(L @ L.transpose(0, 2, 1) + 0.1 * np.eye(n), 5 * rng.normal(size=(B, n)), G, h, A, b)


def check(problem, solution, tolerance=1e-9):
    """Every status keeps what it promises; the statuses."""
    Q, p, G, h, A, b = problem
    z, lam, nu, status, iterations = solution
    pull = torch.einsum("bmn,bm->bn", G.expand(len(lam), -1, -1), lam) + torch.einsum(
        "bkn,bk->bn", A.expand(len(nu), -1, -1), nu
    )
    good, bad = status == OPTIMAL, status == INFEASIBLE
    assert (lam[good | bad] >= 0).all()
    slack = h - torch.einsum("bmn,bn->bm", G.expand(len(z), -1, -1), z)
    off = torch.einsum("bkn,bn->bk", A.expand(len(z), -1, -1), z) - b
    stationary = torch.einsum("bij,bj->bi", Q.expand(len(z), -1, -1), z) + p + pull
    for residual in (stationary, off, slack.clamp(max=0), lam * slack):
        assert (residual[good].abs() <= tolerance).all(), residual[good].abs().max()
    proof = (h * lam).sum(1) + (b * nu).sum(1)
    assert torch.allclose(proof[bad], -torch.ones_like(proof[bad]))
    assert (pull[bad].abs() <= tolerance).all()
    assert z[~good].isnan().all()
    assert len(iterations) == len(z)
    return status.tolist()


def enumerate_sets(Q, p, G, h, A, b):
    """The solution of one problem by trying every active set; None where there is none."""
    n, best = len(p), None
    for size in range(min(n, len(h)) + 1):
        for rows in itertools.combinations(range(len(h)), size):
            C, c = np.vstack([A, G[list(rows)]]), np.concatenate([b, h[list(rows)]])
            K = np.block([[Q, C.T], [C, np.zeros((len(c), len(c)))]])
            full = np.linalg.lstsq(K, np.concatenate([-p, c]), rcond=None)[0]
            z = full[:n]
            if (G @ z <= h + 1e-9).all() and np.abs(C @ z - c).max(initial=0) < 1e-9:
                value = z @ Q @ z / 2 + p @ z
                best = min(best, (value, tuple(z))) if best else (value, tuple(z))
    return None if best is None else np.array(best[1])


def by_highs(Q, p, G, h, A, b):
    """The solution of one problem by HiGHS; None where it gives up, as it does at times."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    n = len(p)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = n, len(h) + len(b)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = p, np.full(n, -highspy.kHighsInf), np.full(n, highspy.kHighsInf)
    lp.row_lower_ = np.concatenate([np.full(len(h), -highspy.kHighsInf), b])
    lp.row_upper_ = np.concatenate([h, b])
    rows = np.vstack([G, A])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.arange(len(rows) + 1) * n
    lp.a_matrix_.index_ = np.tile(np.arange(n), len(rows))
    lp.a_matrix_.value_ = rows.ravel()
    hessian = highspy.HighsHessian()
    hessian.dim_, hessian.format_ = n, highspy.HessianFormat.kTriangular
    lower = [(i, j) for j in range(n) for i in range(j, n)]
    hessian.start_ = np.concatenate([[0], np.cumsum([n - j for j in range(n)])])
    hessian.index_ = np.array([i for i, _ in lower])
    hessian.value_ = np.array([Q[i, j] for i, j in lower])
    highs.passModel(lp)
    highs.passHessian(hessian)
    highs.run()
    solved = highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return np.array(highs.getSolution().col_value) if solved else None


def least_distance(u0, H, margin):
    """The projection on H u >= margin, by nnls; None if nothing is feasible. Lawson and Hanson, problem LDP."""
    E = np.vstack([H.T, margin - H @ u0])
    f = np.zeros(len(E))
    f[-1] = 1.0
    y, norm = nnls(E, f, maxiter=100 * len(margin))
    if norm < 1e-7:
        return None
    r = E @ y - f
    return u0 - r[:-1] / r[-1]


@pytest.mark.parametrize(("n", "m", "k"), [(1, 3, 0), (2, 6, 0), (3, 6, 1), (4, 5, 2), (3, 0, 1), (3, 0, 0), (3, 4, 3)])
def test_solves_what_enumeration_solves(n, m, k):
    problem = random(7 * n + m + k, 20, n, m, k)
    solution = goldfarb_idnani(*problem, 100)
    assert set(check(problem, solution)) == {OPTIMAL}
    for one, z in zip(zip(*problem, strict=True), solution[0], strict=True):
        np.testing.assert_allclose(z, enumerate_sets(*(x.numpy() for x in one)), atol=1e-8)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("n", "m", "k"), [(10, 30, 0), (20, 40, 5), (30, 12, 10)])
def test_solves_what_highs_solves(n, m, k, shared):
    problem = random(n + m, 8, n, m, k, shared)
    solution = goldfarb_idnani(*problem, 200)
    assert set(check(problem, solution, 1e-8)) == {OPTIMAL}
    expected = [by_highs(*(x[i % len(x)].numpy() for x in problem)) for i in range(8)]
    assert sum(x is not None for x in expected) > 5
    for z, by in zip(solution[0], expected, strict=True):
        np.testing.assert_allclose(z, z if by is None else by, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5, 12, 33])
def test_infeasible_and_feasible_problems_in_one_batch(n):
    """With twice as many random rows as dimensions, half of all signs are infeasible (Cover)."""
    rng = np.random.default_rng(n)
    V, u0 = rng.normal(size=(2 * n, n)), rng.normal(size=(64, n))
    s, margin = rng.choice([-1.0, 1.0], size=(64, 2 * n)), rng.uniform(0.1, 1, size=2 * n)
    found = project(*tensors(u0, V, s, margin))
    assert {OPTIMAL, INFEASIBLE} == set(found.status.tolist())
    for i in range(64):
        H = s[i][:, None] * V
        expected = least_distance(u0[i], H, margin)
        assert (found.status[i] == INFEASIBLE) == (expected is None)
        if expected is None:
            lam = found.lam[i].numpy()
            assert (lam >= 0).all()
            assert lam @ margin == pytest.approx(1)
            assert np.abs(H.T @ lam).max() < 1e-9
            assert found.u[i].isnan().all()
        else:
            np.testing.assert_allclose(found.u[i], expected, atol=1e-6)


def regions(seed, n, m, B, scale=1.0):
    """Neurons (B, n), the vertices of regions of 8 with a 1 behind, and a sign for each neuron and region."""
    rng = np.random.default_rng(seed)
    v = np.repeat(rng.normal(size=(m // 8, n - 1)), 8, 0) + 0.3 * rng.normal(size=(m, n - 1))
    V, u0 = np.hstack([v, np.ones((m, 1))]), scale * rng.normal(size=(B, n)) / np.sqrt(n)
    s = np.where((u0 @ V.T).reshape(B, -1, 8).sum(2) > 0, 1.0, -1.0).repeat(8, 1)
    return tensors(u0, V, s)


@pytest.mark.parametrize(("n", "m"), [(33, 64), (65, 128), (64, 32), (9, 16)])
def test_projections_are_exact(n, m):
    u0, V, s = regions(n, n, m, 200)
    u, lam, status, iterations = project(u0, V, s, 0.1)
    assert (status == OPTIMAL).all()
    slack = s * (u @ V.T) - 0.1
    assert (lam >= 0).all()
    assert slack.min() > -1e-12
    assert (lam * slack).abs().max() < 1e-12
    assert (u - u0 - (s * lam) @ V).abs().max() < 1e-12
    assert (lam > 0).sum(1).max() > 2
    assert iterations.max() < 40


def test_a_nearly_tight_projection_needs_many_rows():
    """Random rows, with more active at once than rows are taken in an iteration, and rows that leave again."""
    rng = np.random.default_rng(0)
    V, inside = rng.normal(size=(64, 33)), rng.normal(size=(30, 33))
    s, u0 = np.sign(inside @ V.T), rng.normal(size=(30, 33))
    u, lam, status, _ = project(*tensors(u0, V, s), 0.1)
    assert (status == OPTIMAL).all()
    for i in range(30):
        np.testing.assert_allclose(u[i], least_distance(u0[i], s[i][:, None] * V, np.full(64, 0.1)), atol=1e-9)
    assert (lam > 0).sum(1).min() > 10


def test_the_rows_are_scaled_and_the_point_is_far():
    u0, V, s = regions(3, 9, 16, 20, scale=1e4)
    size = torch.logspace(-6, 6, 16, dtype=torch.float64)
    plain, scaled = project(u0, V, s, 0.1), project(u0, V * size[:, None], s, 0.1 * size)
    assert (plain.status == OPTIMAL).all()
    torch.testing.assert_close(plain.u, scaled.u, rtol=1e-12, atol=1e-8)


def test_duplicated_opposite_and_empty_rows():
    V = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1e-9], [-1.0, 0.0], [0.0, 0.0]])
    margins = [[1, 1, 2, 1, -1, 0], [1, 1, 2, 1, -0.5, 0], [1, 1, 2, 1, -2, 1e-3], [1, 0.5, 3, 0, -3, -1]]
    u0, s = np.array([[0.0, 5.0]] * 4), np.ones(6)
    found = project(*tensors(u0, V, s, margins))
    assert found.status.tolist() == [OPTIMAL, INFEASIBLE, INFEASIBLE, OPTIMAL]
    np.testing.assert_allclose(found.u[[0, 3]], [[1.0, 5.0], [1.5, 5.0]], atol=1e-8)


def test_degenerate_vertices():
    """Many rows through one point, which is the solution."""
    rng = np.random.default_rng(4)
    V = rng.normal(size=(40, 3))
    V[:, 0] = np.abs(V[:, 0]) + 0.5
    corner = np.array([1.0, 2.0, 3.0])
    u0 = corner + np.array([-1.0, 0.02, 0.01]) * rng.uniform(0.5, 2.0, size=(30, 1))
    found = project(*tensors(u0, V, np.ones(40), V @ corner))
    assert (found.status == OPTIMAL).all()
    for i in range(30):
        np.testing.assert_allclose(found.u[i], least_distance(u0[i], V, V @ corner), atol=1e-7)


def test_redundant_and_contradictory_equalities():
    Q, p, G, h, A, b = random(5, 3, 4, 6, 2)
    A = torch.cat([A, A[:, :1] + A[:, 1:]], 1)
    b = torch.cat([b, b[:, :1] + b[:, 1:]], 1)
    b[1, 2] += 1.0
    problem = Q, p, G, h, A, b
    solution = goldfarb_idnani(*problem, 100)
    assert check(problem, solution) == [OPTIMAL, INFEASIBLE, OPTIMAL]


def test_an_inequality_that_the_equalities_contradict():
    eye = torch.eye(2, dtype=torch.float64)[None]
    G, A = tensors([[[1.0, 1.0]]], [[[1.0, 1.0]]])
    h, b = tensors([[1.0], [1.0], [2.0]], [[1.0], [2.0], [2.0]])
    problem = eye, torch.zeros(1, 2, dtype=torch.float64), G, h, A, b
    assert check(problem, goldfarb_idnani(*problem, 50)) == [OPTIMAL, INFEASIBLE, OPTIMAL]


def test_companions_do_not_matter():
    problem = random(9, 12, 5, 12, 1)
    problem[3][::3] -= 20.0  # infeasible, most of them
    together = goldfarb_idnani(*problem, 100)
    statuses = check(problem, together, 1e-8)
    assert {OPTIMAL, INFEASIBLE} <= set(statuses)
    for i in range(12):
        alone = goldfarb_idnani(*(x[i : i + 1] for x in problem), 100)
        assert alone[3].item() == statuses[i]
        torch.testing.assert_close(alone[0], together[0][i : i + 1], rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize(("n", "m", "k"), [(4, 9, 2), (12, 30, 4), (6, 12, 0)])
def test_half_infeasible_with_equalities(n, m, k):
    Q, p, G, _, A, b = random(n, 40, n, m, k)
    h = torch.tensor(np.random.default_rng(m).normal(size=(40, m)) - 0.1)
    statuses = check((Q, p, G, h, A, b), goldfarb_idnani(Q, p, G, h, A, b, 300), 1e-7)
    assert set(statuses) == {OPTIMAL, INFEASIBLE}


def test_the_limit_leaves_problems_for_another_method():
    u0, V, s = regions(6, 17, 32, 50)
    u, lam, status, iterations = project(u0, V, s, 0.5, max_iterations=2)
    whole = project(u0, V, s, 0.5)
    assert set(status.tolist()) == {OPTIMAL, LIMIT}
    assert u[status == LIMIT].isnan().all()
    assert lam[status == LIMIT].isnan().all()
    torch.testing.assert_close(u[status == OPTIMAL], whole.u[status == OPTIMAL])
    assert (whole.status == OPTIMAL).all()
    assert iterations.max() <= 3


@pytest.mark.parametrize("shared", [True, False])
def test_gradients(shared):
    rng = np.random.default_rng(11)
    n, m, B = 4, 6, 5
    V = rng.normal(size=(m, n) if shared else (B, m, n))
    inside = rng.normal(size=(B, n))
    s = np.sign(np.einsum("bmn,bn->bm", np.broadcast_to(V, (B, m, n)), inside))
    u0, V, s, margin = tensors(rng.normal(size=(B, n)), V, s, rng.uniform(0.1, 0.5, size=m))
    found = project(u0, V, s, margin)
    assert (found.status == OPTIMAL).all()
    assert ((found.lam > 1e-3).sum(1) > 0).all()
    inputs = [x.requires_grad_() for x in (u0, V, margin)]
    assert torch.autograd.gradcheck(lambda u0, V, margin: project(u0, V, s, margin).u, inputs)


def test_gradients_with_duplicated_rows_and_beside_infeasible_problems():
    V = torch.tensor([[1.0, 0.5], [1.0, 0.5], [-1.0, 0.2]], dtype=torch.float64, requires_grad=True)
    u0 = torch.tensor([[-1.0, 0.0], [-1.0, 0.0], [4.0, 1.0]], dtype=torch.float64, requires_grad=True)
    margin = torch.tensor([[1.0, 1.0, -9.0], [2e3, 2e3, 9e9], [1.0, 1.0, -9.0]], dtype=torch.float64)
    s = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    found = project(u0, V, s, margin)
    assert found.status.tolist() == [OPTIMAL, INFEASIBLE, OPTIMAL]
    found.u[[0, 2]].square().sum().backward()
    assert V.grad.isfinite().all()
    assert u0.grad[1].abs().max() == 0
    torch.testing.assert_close(u0.grad[2], 2 * u0[2].detach())

    def loss(v):  # of the first problem, both rows moved together
        v = v.detach()
        step = ((1 - v @ u0[0].detach()) / v.square().sum()) * v
        return (u0[0].detach() + step).square().sum()

    moved = [loss(V[0] + 1e-6 * e) - loss(V[0] - 1e-6 * e) for e in torch.eye(2, dtype=torch.float64)]
    torch.testing.assert_close(V.grad[:2].sum(0), torch.stack(moved) / 2e-6, rtol=1e-5, atol=1e-7)


def test_a_second_derivative_is_refused():
    u0 = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    u = project(u0, torch.eye(2, dtype=torch.float64), torch.ones(2), 0.5).u
    (first,) = torch.autograd.grad(u.square().sum(), u0, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()


def test_types_and_shapes():
    u0, V, s = regions(2, 9, 16, 6)
    exact = project(u0, V, s, 0.1).u
    single = project(u0.float(), V.float(), s.float(), 0.1)
    assert single.u.dtype == single.lam.dtype == torch.float32
    torch.testing.assert_close(single.u.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(project(u0, V.expand(6, -1, -1), s, 0.1).u, exact)
    torch.testing.assert_close(project(u0, V, s, torch.full((6, 16), 0.1)).u, exact)
    alone = project(u0[0], V, s[0], 0.1)
    assert alone.u.shape == (9,)
    assert alone.status.shape == ()
    torch.testing.assert_close(alone.u, exact[0])


def test_the_way_of_cuda_on_the_cpu(monkeypatch):
    """Looks at what is finished only every few iterations, and masks instead of counting."""
    u0, V, s = regions(8, 9, 16, 60)
    s[:30] = torch.where(torch.rand(30, 16, generator=torch.Generator().manual_seed(0)) > 0.5, 1.0, -1.0)
    usual, begin = project(u0, V, s, 0.1), _Ascent.__init__

    def waiting(self, *args):
        begin(self, *args)
        self.waits = True

    monkeypatch.setattr(_Ascent, "__init__", waiting)
    found = project(u0, V, s, 0.1)
    assert set(found.status.tolist()) == {OPTIMAL, INFEASIBLE}
    assert found.status.tolist() == usual.status.tolist()
    torch.testing.assert_close(found.u, usual.u, equal_nan=True)
    assert found.iterations.tolist() == usual.iterations.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_finds_the_same():
    u0, V, s = regions(8, 33, 64, 100)
    s[:10] = torch.where(torch.rand(10, 64) > 0.5, 1.0, -1.0)
    here, there = project(u0, V, s, 0.1), project(u0.cuda(), V.cuda(), s.cuda(), 0.1)
    assert here.status.tolist() == there.status.tolist()
    torch.testing.assert_close(there.u.cpu(), here.u, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u0": torch.zeros(2, 3)}, "V is a torch.float64 tensor"),
        ({"u0": torch.zeros(2, 2, dtype=torch.int64)}, "u0 is a torch.int64 tensor"),
        ({"V": torch.zeros(3, 4, 2)}, r"\(2, m, 2\)"),
        ({"signs": torch.tensor([1.0, 0.0, 1.0])}, "signs holds 0"),
        ({"signs": torch.ones(2)}, r"signs has shape \(2,\)"),
        ({"margin": torch.ones(2)}, r"margin has shape \(2,\)"),
        ({"margin": float("nan")}, "margin holds"),
        ({"V": torch.full((3, 2), torch.inf)}, "V holds 6 numbers"),
    ],
)
def test_bad_input(change, message):
    given = {"u0": torch.zeros(2, 2, dtype=torch.float64), "V": torch.ones(3, 2, dtype=torch.float64)}
    with pytest.raises(ValueError, match=message):
        project(**{**given, "signs": torch.ones(3), "margin": 0.1, **change})


def test_an_indefinite_matrix():
    problem = list(random(1, 2, 3, 2))
    problem[0][1] -= 50 * torch.eye(3)
    with pytest.raises(ValueError, match="Q of problem 1 is not positive definite"):
        goldfarb_idnani(*problem, 10)


@pytest.mark.parametrize(("noise", "least"), [(1e-4, 200), (1e-5, 100), (1e-6, 0)])
def test_rows_that_nearly_depend_on_each_other_give_points_that_hold_or_none(noise, least):
    """Their multipliers are large and cancel; a violation must be small beside the point, not beside them."""
    rng = np.random.default_rng(2)
    V = rng.normal(size=(6, 40)).repeat(4, 0)
    V += noise * rng.normal(size=V.shape)
    u0, V, signs = tensors(rng.normal(size=(200, 40)), V, np.sign(rng.normal(size=(200, 24))))
    found = project(u0, V, signs, 0.1)
    solved = found.status == OPTIMAL
    assert solved.sum() >= least
    short = (0.1 - signs * (found.u @ V.T)).amax(1) / torch.linalg.vector_norm(V, dim=1).min()
    assert (short <= 1e-9 * (1 + torch.linalg.vector_norm(found.u - u0, dim=1)))[solved].all()
