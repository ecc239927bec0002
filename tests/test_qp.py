"""Batches of quadratic programs: against HiGHS, by their optimality conditions, and by their proofs."""

import highspy
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import linprog

import polyopt as po
from polyopt.qp import Status, solve
from polyopt.qp.core import METHODS

D = torch.float64
SHAPES = [
    (5, 3, 0),
    (5, 3, 2),
    (5, 30, 0),
    (5, 30, 2),
    (8, 8, 3),
    (6, 0, 2),
    (6, 0, 0),
    (30, 20, 0),
    (20, 50, 5),
    (1, 4, 0),
]


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch):
    """See test_qp_native.py for daqp."""
    monkeypatch.setattr("polyopt.qp.native.daqp", None)


def tensor(x):
    return torch.tensor(np.asarray(x), dtype=D)


def feasible(seed, batch, n, m, k, rank=None):
    """Problems with a known point inside: Q of the given rank, and bounds of 10 on every variable if it is not full."""
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(batch, n, n if rank is None else rank))
    Q, p = L @ L.transpose(0, 2, 1), rng.normal(size=(batch, n))
    G, A, z = rng.normal(size=(batch, m, n)), rng.normal(size=(batch, k, n)), rng.normal(size=(batch, n, 1))
    h, b = (G @ z)[..., 0] + rng.uniform(size=(batch, m)), (A @ z)[..., 0]
    if rank is not None:
        box = np.broadcast_to(np.vstack([np.eye(n), -np.eye(n)]), (batch, 2 * n, n))
        G, h = np.concatenate([G, box], 1), np.concatenate([h, np.full((batch, 2 * n), 10.0)], 1)
    return tuple(map(tensor, (Q, p, G, h, A, b)))


def highs(Q, p, G, h, A, b):
    """The optimal value by HiGHS, or None."""
    Q, p, G, h, A, b = (x.numpy() for x in (Q, p, G, h, A, b))
    n, model = len(p), highspy.HighsModel()
    lp, rows = model.lp_, np.vstack([G, A])
    lp.num_col_, lp.num_row_ = n, len(rows)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = p, np.full(n, -np.inf), np.full(n, np.inf)
    lp.row_lower_, lp.row_upper_ = np.concatenate([np.full(len(h), -np.inf), b]), np.concatenate([h, b])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.arange(len(rows) + 1) * n
    lp.a_matrix_.index_, lp.a_matrix_.value_ = np.tile(np.arange(n), len(rows)), rows.ravel()
    if Q.any():
        model.hessian_.dim_, model.hessian_.format_ = n, highspy.HessianFormat.kTriangular
        lower = [(i, j) for j in range(n) for i in range(j, n)]
        model.hessian_.start_ = np.array([sum(n - i for i in range(j)) for j in range(n + 1)])
        model.hessian_.index_ = np.array([i for i, _ in lower])
        model.hessian_.value_ = np.array([Q[i, j] for i, j in lower])
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.passModel(model)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return solver.getInfo().objective_function_value


def value(Q, p, z):
    return (0.5 * (z[:, None] @ Q @ z[..., None])[:, 0, 0] + (p * z).sum(-1)).numpy()


def assert_optimal(solution, problem, tolerance=1e-10):
    """The optimality conditions, written from their definition."""
    Q, p, G, h, A, b = (x if x.dim() == 2 + (i % 2 == 0) else x[None] for i, x in enumerate(problem))
    z, lam, nu = (x.numpy() for x in (solution.z, solution.lam, solution.nu))
    assert solution.names == ["optimal"] * len(z)
    Q, p, G, h, A, b = (x.numpy() for x in (Q, p, G, h, A, b))
    Q = (Q + Q.transpose(0, 2, 1)) / 2
    terms = np.stack([(Q @ z[..., None])[..., 0], p + 0 * z, (lam[:, None] @ G)[:, 0], (nu[:, None] @ A)[:, 0]])
    slack = h - (G @ z[..., None])[..., 0]
    unit = 1 + np.abs(terms).max()
    assert np.abs(terms.sum(0)).max() <= tolerance * unit
    assert (lam >= 0).all()
    assert slack.min(initial=0) >= -tolerance * (1 + np.abs(h).max(initial=0))
    assert np.abs(b - (A @ z[..., None])[..., 0]).max(initial=0) <= tolerance * (1 + np.abs(b).max(initial=0))
    assert np.abs(lam * slack).max(initial=0) <= tolerance * unit * (1 + np.abs(h).max(initial=0))
    np.testing.assert_allclose(solution.s.numpy(), slack, atol=tolerance * (1 + np.abs(h).max(initial=0)))


def assert_infeasible(solution, problem, index):
    """Farkas: no z with sum |z_i| < 1e6 is feasible."""
    _, _, G, h, A, b = (x[index] if x.dim() == 2 + (i % 2 == 0) else x for i, x in enumerate(problem))
    lam, nu = solution.lam[index].to(G.dtype), solution.nu[index].to(G.dtype)
    assert (lam >= 0).all()
    assert h @ lam + b @ nu == pytest.approx(-1, abs=1e-6)
    assert (lam @ G + nu @ A).abs().max() < 1e-6
    assert solution.z[index].isnan().all()
    assert solution.s[index].isnan().all()


def assert_unbounded(solution, problem, index):
    Q, p, G, _, A, _ = (x[index] if x.dim() == 2 + (i % 2 == 0) else x for i, x in enumerate(problem))
    ray = solution.ray[index]
    assert p @ ray == pytest.approx(-1, abs=1e-9)
    size = ray.abs().max()
    assert (Q @ ray).abs().max() <= 1e-7 * size
    assert (G @ ray).amax() <= 1e-7 * size if len(G) else True
    assert (A @ ray).abs().max() <= 1e-7 * size if len(A) else True
    assert solution.z[index].isnan().all()


def assert_no_better_value_is_known(problem, solution):
    """HiGHS, which regularises, finds nothing better at any problem and the same value at all but a few."""
    ours = value(*problem[:2], solution.z)
    theirs = np.array([highs(*(x[i] for x in problem)) for i in range(len(ours))], float)
    theirs = np.where(np.isnan(theirs), np.inf, theirs)
    assert (ours <= theirs + 1e-5 * (1 + np.abs(ours))).all()
    assert (np.abs(ours - theirs) <= 1e-4 * (1 + np.abs(ours))).sum() >= len(ours) - 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_problems_against_highs(shape):
    problem = feasible(0, 6, *shape)
    solution = solve(*problem)
    assert_optimal(solution, problem)
    assert_no_better_value_is_known(problem, solution)
    assert solution.residual.max() < 1e-10


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1]], ids=str)
def test_each_method(shape):
    problem = feasible(14, 6, *shape)
    solutions = [solve(*problem, method=method) for method in METHODS]
    for solution in solutions:
        assert_optimal(solution, problem)
        np.testing.assert_allclose(solution.z, solutions[0].z, atol=1e-8)


def test_the_active_set_needs_a_positive_definite_matrix():
    Q, p, *rest = feasible(1, 3, 5, 3, 0, 2)
    with pytest.raises(ValueError, match="method 'active-set' needs a positive definite Q; use 'auto'"):
        solve(Q, p, *rest, method="active-set")


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("shape", [(5, 3, 0), (5, 12, 0), (5, 3, 2), (12, 2, 3)], ids=str)
def test_semidefinite_problems_and_linear_programs(shape, rank):
    problem = feasible(1, 6, *shape, rank)
    solution = solve(*problem)
    assert_optimal(solution, problem, 1e-9)
    assert_no_better_value_is_known(problem, solution)


@pytest.mark.parametrize(("shape", "rank"), [((8, 20, 3), None), ((8, 5, 2), None), ((9, 15, 2), 4)], ids=str)
def test_values_are_those_of_clarabel(shape, rank):
    clarabel = pytest.importorskip("clarabel")
    problem = feasible(15, 4, *shape, rank)
    ours = value(*problem[:2], solve(*problem).z)
    for i, expected in enumerate(ours):
        Q, p, G, h, A, b = (x[i].numpy() for x in problem)
        settings = clarabel.DefaultSettings()
        settings.verbose, settings.tol_gap_rel, settings.tol_feas = False, 1e-10, 1e-10
        rows, cones = (
            sparse.csc_matrix(np.vstack([A, G])),
            [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(h))],
        )
        upper = sparse.csc_matrix(np.triu(Q))
        z = np.array(clarabel.DefaultSolver(upper, p, rows, np.concatenate([b, h]), cones, settings).solve().x)
        assert 0.5 * z @ Q @ z + p @ z == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_a_linear_program_against_scipy():
    Q, p, G, h, A, b = feasible(2, 1, 6, 4, 2, 0)
    solution = solve(Q, p, G, h, A, b)
    found = linprog(*(x[0].numpy() for x in (p, G, h, A, b)), bounds=(None, None))
    np.testing.assert_allclose(solution.z[0], found.x, atol=1e-8)
    np.testing.assert_allclose(solution.lam[0], -found.ineqlin.marginals, atol=1e-8)
    np.testing.assert_allclose(solution.nu[0], -found.eqlin.marginals, atol=1e-8)


def copies(*pairs):
    return lambda Q, p, G, h, A, b: (Q, p, torch.cat([G] * pairs[0], 1), torch.cat([h] * pairs[0], 1),
                                     torch.cat([A] * pairs[1], 1), torch.cat([b] * pairs[1], 1))  # fmt: skip


def scaled_rows(Q, p, G, h, A, b):
    E = torch.logspace(-5, 5, G.shape[1], dtype=D)
    return Q, p, G * E[:, None], h * E, A * 1e4, b * 1e4


def scaled_columns(Q, p, G, h, A, b):
    E = torch.logspace(-3, 3, Q.shape[1], dtype=D)
    return Q * E * E[:, None], p * E, G * E, h, A * E, b


def opposite(Q, p, G, h, A, b):
    """With two inequalities that make an equality."""
    pair = torch.stack([G.sum(1), -G.sum(1)], 1)
    level = (pair @ solve(Q, p + 1, G, h, A, b).z[..., None])[..., 0]
    return Q, p, torch.cat([G, pair], 1), torch.cat([h, level], 1), A, b


def padded(Q, p, G, h, A, b):
    """With rows of zeros."""
    zero = torch.zeros_like(h)
    return Q, p, torch.cat([G, 0 * G, 0 * G], 1), torch.cat([h, zero, zero + 1], 1), A, b


CHANGES = [copies(3, 1), copies(1, 2), copies(2, 2), scaled_rows, scaled_columns, opposite, padded]


@pytest.mark.parametrize("shape", [(6, 3, 0), (6, 2, 2), (6, 20, 0), (6, 20, 2)], ids=str)
@pytest.mark.parametrize("change", range(len(CHANGES)))
def test_redundant_rows_and_bad_scales(shape, change):
    problem = feasible(3, 5, *shape)
    changed = CHANGES[change](*problem)
    solution = solve(*changed)
    assert_optimal(solution, changed, 1e-8)
    if CHANGES[change] not in (scaled_rows, scaled_columns):  # too badly scaled for HiGHS
        assert_no_better_value_is_known(changed, solution)
    elif CHANGES[change] is scaled_rows:
        np.testing.assert_allclose(solution.z, solve(*problem).z, atol=1e-8)


@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e4, 1e8])
def test_units_do_not_matter(factor):
    Q, p, G, h, A, b = feasible(4, 5, 6, 9, 2)
    z = solve(Q, p, G, h, A, b).z
    np.testing.assert_allclose(solve(factor * Q, factor * p, G, h, A, b).z, z, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(solve(Q, factor * p, G, factor * h, A, factor * b).z / factor, z, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_degenerate_vertices(seed):
    """Many more rows than variables pass through the solution, some of them without a multiplier."""
    rng = np.random.default_rng(seed)
    n, m, z = 5, 20, tensor(np.random.default_rng(seed).normal(size=5))
    G = tensor(rng.normal(size=(m, n)))
    lam = tensor(rng.uniform(size=m) * (rng.uniform(size=m) < 0.4))
    for Q in (torch.eye(n, dtype=D), torch.zeros(n, n, dtype=D)):
        problem = (Q, -(Q @ z + lam @ G)[None], G, G @ z, torch.zeros(0, n, dtype=D), torch.zeros(0, dtype=D))
        solution = solve(*problem)
        assert_optimal(solution, problem, 1e-8)
        if Q.any():
            np.testing.assert_allclose(solution.z[0], z, atol=1e-8)


def test_a_feasible_set_that_is_one_point():
    Q, p, *_ = feasible(5, 4, 5, 0, 0)
    box = torch.cat([torch.eye(5, dtype=D), -torch.eye(5, dtype=D)])
    for z in (torch.zeros(5, dtype=D), torch.arange(5, dtype=D)):
        solution = solve(Q, p, box, box @ z)
        assert solution.optimal.all()
        np.testing.assert_allclose(solution.z, z.expand(4, -1), atol=1e-9)


def impossible():
    """(name, G, h, A, b) without a feasible point in five variables."""
    rng, n = np.random.default_rng(6), 5
    g, none, nothing = rng.normal(size=n), np.zeros((0, n)), np.zeros(0)
    box = np.vstack([np.eye(n), -np.eye(n)])
    triangle = np.vstack([rng.normal(size=(n, n)), np.zeros((1, n))])
    triangle[-1] = -triangle[:-1].sum(0)
    yield "parallel", np.vstack([g, -g]), np.array([1.0, -1.1]), none, nothing
    yield "barely", np.vstack([g, -g]), np.array([1.0, -1.0001]), none, nothing
    yield "simplex", triangle, np.full(n + 1, -0.1), none, nothing
    yield "row", box, np.ones(2 * n), np.eye(n)[:1], np.array([5.0])
    yield "equalities", box, np.ones(2 * n), np.eye(n)[[0, 0]], np.array([0.0, 1.0])
    yield "equalities alone", none, nothing, np.eye(n)[[0, 0]], np.array([0.0, 1.0])
    yield "zero row", np.zeros((1, n)), np.array([-1.0]), none, nothing
    yield "large units", 1e5 * np.vstack([g, -g]), 1e5 * np.array([1.0, -1.1]), none, nothing
    yield "many", np.vstack([rng.normal(size=(40, n)), box]), np.concatenate([np.full(40, -1.0), np.ones(2 * n)]), none, nothing  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("case", list(impossible()), ids=lambda case: case[0])
@pytest.mark.parametrize("rank", [None, 0, 2])
def test_infeasible_problems_have_a_proof(case, rank):
    Q, p, *_ = feasible(7, 3, 5, 0, 0, rank)
    problem = (Q, p, *map(tensor, case[1:]))
    solution = solve(*problem)
    assert solution.names == ["infeasible"] * 3
    for index in range(3):
        assert_infeasible(solution, problem, index)


def test_what_rounding_may_have_made_infeasible_is_not_called_so():
    Q, p, *_ = feasible(16, 3, 5, 0, 0)
    g = tensor(np.random.default_rng(6).normal(size=5))
    solution = solve(Q, p, torch.stack([g, -g]), tensor([1.0, -1.0 - 1e-13]))
    assert solution.names == ["optimal"] * 3
    np.testing.assert_allclose(solution.z @ g, np.ones(3), atol=1e-10)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("shape", [(6, 0, 0), (6, 2, 0), (6, 0, 2), (6, 1, 2)], ids=str)
def test_unbounded_problems_have_a_proof(shape, rank):
    n = shape[0]
    problem = [x[:, : shape[1]] if i in (2, 3) else x for i, x in enumerate(feasible(8, 4, *shape, rank))]
    assert problem[2].shape[1:] == (shape[1], n)
    solution = solve(*problem)
    assert solution.names == ["unbounded"] * 4
    for index in range(4):
        assert_unbounded(solution, problem, index)


def test_a_bad_problem_does_no_harm_to_the_others():
    for shape in [(5, 4, 0), (5, 12, 1)]:
        problem = [x.clone() for x in feasible(9, 6, *shape, 5)]
        alone = solve(*problem)
        problem[2][1, 1], problem[3][1, 1] = -problem[2][1, 0], -problem[3][1, 0] - 1  # infeasible
        problem[0][4] = 0
        problem[2][4], problem[3][4] = 0, 1  # unbounded
        solution = solve(*problem)
        assert solution.names == ["optimal", "infeasible", "optimal", "optimal", "unbounded", "optimal"]
        assert_infeasible(solution, problem, 1)
        assert_unbounded(solution, problem, 4)
        good = [0, 2, 3, 5]
        np.testing.assert_allclose(solution.z[good], alone.z[good], atol=1e-9)
        assert solution.residual[good].max() < 1e-9


def test_a_small_limit_is_reported_and_the_point_not_passed_off_as_a_solution():
    problem = feasible(10, 3, 5, 40, 0)
    solution = solve(*problem, max_iterations=1)
    assert set(solution.names) <= {"optimal", "iteration limit"}
    for index, name in enumerate(solution.names):
        assert (solution.residual[index] < 1e-9) == (name == "optimal")


@pytest.mark.parametrize("shape", [(5, 4, 2), (5, 20, 2)], ids=str)
def test_shared_arguments_are_those_of_every_problem(shape):
    problem = feasible(11, 4, *shape)
    for shared in range(6):
        mixed = [x[0] if i == shared else x for i, x in enumerate(problem)]
        # a point that is feasible for one h need not be for another G
        mixed[3], mixed[5] = mixed[3] + 20, mixed[5]
        full = [x.expand(4, *x.shape) if i == shared else x for i, x in enumerate(mixed)]
        one, other = solve(*mixed), solve(*full)
        assert one.names == other.names
        np.testing.assert_allclose(one.z, other.z, atol=1e-8)
        np.testing.assert_allclose(one.lam, other.lam, atol=1e-7)
    single = solve(*(x[0] for x in problem))
    assert single.z.shape == (5,)
    assert single.names == ["optimal"]
    np.testing.assert_allclose(single.z, solve(*problem).z[0], atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_single_precision(shape):
    problem = list(feasible(12, 6, *shape))
    problem[0] += torch.eye(shape[0], dtype=D)
    solution = solve(*(x.float() for x in problem))
    assert solution.z.dtype == torch.float32
    assert solution.optimal.all()
    exact = solve(*problem)
    np.testing.assert_allclose(
        value(*problem[:2], solution.z.double()), value(*problem[:2], exact.z), rtol=2e-2, atol=2e-2
    )
    assert ((problem[2] @ solution.z.double()[..., None])[..., 0] - problem[3] <= 1e-3).all()


def test_only_the_symmetric_part_of_the_matrix_matters():
    Q, p, G, h, *_ = feasible(13, 3, 4, 6, 0)
    skew = torch.triu(torch.ones(4, 4, dtype=D), 1)
    np.testing.assert_allclose(solve(Q + skew - skew.T, p, G, h).z, solve(Q, p, G, h).z, atol=1e-9)


Q2, P2, G2, H2 = torch.eye(2), torch.zeros(3, 2), torch.ones(4, 2), torch.ones(3, 4)
BAD = [
    ((None, P2), "Q is missing"),
    (([[1.0]], P2), "Q is a list"),
    ((Q2, P2, G2), "G and h belong together"),
    ((Q2, P2, None, None, None, H2), "A and b belong together"),
    ((Q2.int(), P2), "Q has dtype torch.int32"),
    ((Q2, P2, G2, H2 * torch.nan), "h has entries that are not finite"),
    ((Q2[0], P2), r"Q has shape \(2,\), but must be \(n, n\) or \(B, n, n\)"),
    ((Q2, P2, G2, torch.ones(5)), "m = 5, but m is 4 in G"),
    ((Q2, P2, G2, torch.ones(2, 4)), "B = 2, but B is 3 in p"),
    ((torch.ones(2, 3), P2), "n = 3, but n is 2"),
    ((Q2, torch.zeros(0, 2)), "there are no problems"),
    ((torch.zeros(0, 0), torch.zeros(0)), "there are no variables"),
    ((torch.diag(torch.tensor([1.0, -1.0])), P2), "not positive semidefinite"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(*arguments)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method is 'simplex', but must be one of 'auto', 'active-set', 'interior'"):
        solve(Q2, P2, method="simplex")


def test_the_public_name():
    assert po.qp.solve is solve
    assert [status.name for status in Status] == ["OPTIMAL", "INFEASIBLE", "UNBOUNDED", "ITERATION_LIMIT"]
    assert [int(status) for status in Status] == [0, 1, 2, 3]


def test_sudoku_where_most_active_rows_depend_on_each_other():
    """Givens of one 4x4 grid: the solutions are binary, and far more rows are active than there are dimensions."""
    grid = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]])
    solution = torch.nn.functional.one_hot(grid, 4).to(D)  # (row, column, digit)
    cells = torch.arange(64).view(4, 4, 4)
    blocks = cells.view(2, 2, 2, 2, 4).transpose(1, 2).reshape(4, 4, 4)
    groups = [cells.flatten(0, 1), *(x.transpose(1, 2).flatten(0, 1) for x in (cells, cells.transpose(0, 1), blocks))]
    rules = torch.zeros(64, 64, dtype=D).scatter(1, torch.cat(groups), 1.0)
    A = torch.linalg.svd(rules).Vh[:40]
    generator = torch.Generator().manual_seed(0)
    relabelled = torch.stack([solution[:, :, torch.randperm(4, generator=generator)] for _ in range(500)])
    shown = torch.rand(500, 4, 4, 1, generator=generator) < 0.4
    p = -(relabelled * shown).flatten(1)
    eye = torch.eye(64, dtype=D)
    found = solve(0.1 * eye, p, -eye, torch.zeros(64, dtype=D), A, A @ solution.flatten())
    assert found.optimal.all()
    assert found.residual.max() < 1e-12
