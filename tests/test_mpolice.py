"""MPOLICE: constraints on many regions, by training and exactly, against points, corners and another solver."""

import copy
import itertools
import math

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from test_enforce import mlp, on_a_ring
from test_separable import bars
from torch import nn

import polyopt as po
from polyopt.police import MPOLICE, AffineConstraint, EnforcementError, InfeasibleConstraints, SlopeConstraint

SQUARES = [po.Box([-2.0, -0.5], [-1.0, 0.5]), po.Box([1.0, -0.5], [2.0, 0.5])]


def corners(box):
    return np.array(list(itertools.product(*zip(box.lower, box.upper, strict=True))))


def data(count=200, n=2, outputs=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, size=(count, n))
    return torch.tensor(x), torch.tensor(np.stack([np.sin(x.sum(1) + k) for k in range(outputs)], 1))


def enforced(*constraints, regions=SQUARES, sizes=(2, 16, 16, 1), dtype=torch.float64, activation=nn.ReLU, **options):
    """A model that has been trained a little and enforced."""
    module = mlp(*sizes, dtype=dtype, activation=activation)
    model = MPOLICE(module, regions, constraints=constraints, **options)
    x, y = data(n=sizes[0], outputs=sizes[-1])
    model.fit(x, y, nn.functional.mse_loss, warm_up=30, epochs=0, lr=0.01, progress=False)
    return model


def slope(module, x):
    """The Jacobian at a point (n,) by autograd."""
    return torch.autograd.functional.jacobian(module, torch.as_tensor(x)).numpy()


MIXED = [
    AffineConstraint(0, [[1.0, -1.0]], 0.25),
    AffineConstraint(1, np.eye(2), [1.0, 0.5], kind="le"),
    AffineConstraint(2, [[-1.0, 0.0]], [-0.75], kind="le"),
    AffineConstraint(2, [[0.0, 1.0]], 0.2, slope=[[0.5, -0.3]]),
    AffineConstraint(1, [[-1.0, 0.5]], -0.4, kind="le", slope=[[0.2, 0.3]]),
    SlopeConstraint(0, [1.0, 0.0], [1.0, 0.0], 0.5),
    SlopeConstraint(1, np.eye(2), [[0.0, -1.0], [1.0, 1.0]], [[0.0, 0.3], [-0.1, 0.2]], kind="le"),
]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("refit", [False, True])
def test_hard_constraints_hold_on_the_regions(activation, refit):
    """On a V-polytope, a box and a zonotope, at sampled points and extreme ones, by the module itself."""
    regions, rng = on_a_ring(3), np.random.default_rng(0)
    model = enforced(*MIXED, regions=regions, sizes=(2, 16, 16, 2), activation=activation)
    hidden = copy.deepcopy(model.module[:-1])
    x, y = data(outputs=2)
    model.harden(x, y if refit else None)
    report = model.prove()
    assert [found.status for found in report.violations] == ["satisfied"] * len(MIXED)
    plain = model.fold()
    for one, two in zip(plain[:-1].parameters(), hidden.parameters(), strict=True):
        assert (one == two).all()
    for constraint, found in zip(MIXED, report.violations, strict=True):
        region = regions[constraint.region]
        directions = torch.tensor(rng.normal(size=(64, 2)), requires_grad=True)
        region.support(directions).sum().backward()
        points = np.concatenate([region.sample(64, rng), directions.grad.numpy()])
        if isinstance(constraint, AffineConstraint):
            excess = plain(torch.tensor(points)).detach().numpy() @ constraint.E.T - constraint.f
            if constraint.slope is not None:
                excess -= points @ constraint.slope.T
        else:
            excess = constraint.E @ slope(plain, region.center) @ constraint.D.T - constraint.g
        excess = excess if constraint.kind == "le" else abs(excess)
        assert excess.max() <= (0.0 if constraint.kind == "le" else 1e-9)
        assert excess.max() <= found.bound + 1e-12
        if isinstance(constraint, AffineConstraint):
            assert excess.max() <= found.milp_bound + 1e-12
    assert model.violation() <= 1e-9


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("refit", [False, True])
def test_the_last_layer_changes_least(activation, refit):
    """Against Clarabel, on the problem written down with all corners."""
    constraints = [AffineConstraint(0, [1.0], 0.25), AffineConstraint(1, [1.0], -0.5, kind="le")]
    model = enforced(*constraints, sizes=(2, 8, 8, 1), activation=activation)
    x, y = data()
    before = copy.deepcopy(model)
    model.harden(x, y if refit else None)

    def features(points):
        return np.hstack([before.module[:-1](torch.as_tensor(points)).detach().numpy(), np.ones((len(points), 1))])

    def last(m):
        return np.append(m.module[-1].weight.detach().numpy(), m.module[-1].bias.detach().numpy())

    h, u0 = features(x), last(before)
    gram = h.T @ h / len(h)
    ridge = 1e-8 * gram.diagonal().mean()
    P = 2 * (gram + ridge * np.eye(len(gram)))
    q = -P @ u0 if not refit else -2 * (h.T @ y.numpy()[:, 0] / len(h) + ridge * u0)
    A = np.vstack([features(corners(SQUARES[0])), features(corners(SQUARES[1]))])
    b = np.repeat([0.25, -0.5], 4)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.ZeroConeT(4), clarabel.NonnegativeConeT(4)]
    wanted = clarabel.DefaultSolver(sp.csc_matrix(np.triu(P)), q, sp.csc_matrix(A), b, cones, settings).solve()

    def objective(u):
        return u @ P @ u / 2 + q @ u

    assert np.isclose(objective(last(model)), objective(np.array(wanted.x)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(h @ last(model), h @ np.array(wanted.x), atol=1e-4)
    assert abs(last(model) - u0).max() > 1e-3


def test_constraints_that_hold_change_nothing():
    model = enforced(AffineConstraint(0, [1.0], 100.0, kind="le"))
    before = copy.deepcopy(model.module.state_dict())
    model.harden(data()[0])
    for name, value in model.module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-14)


def test_a_unit_that_no_data_see_keeps_its_weight():
    model = enforced(AffineConstraint(0, [1.0], 0.25, kind="le"))
    with torch.no_grad():
        model.module[2].weight[0], model.module[2].bias[0] = 0.0, -1.0
    weight = model.module[-1].weight[0, 0].item()
    x, y = data()
    model.harden(x, y)
    assert model.module[-1].weight[0, 0].item() == pytest.approx(weight, rel=1e-6)


def test_hard_keeps_the_function_before_the_last_enforcement():
    x, y = data()
    one, two = (MPOLICE(mlp(2, 8, 8, 1), SQUARES, constraints=[AffineConstraint(0, [1.0], 0.25)]) for _ in range(2))
    before = two(x).detach()
    one.fit(x, y, nn.functional.mse_loss, warm_up=0, epochs=0, hard=True, progress=False)
    two.enforce()
    two.harden(x, before)
    torch.testing.assert_close(one.module[-1].weight, two.module[-1].weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inequalities_outlast_the_rounding_of_stored_weights(dtype):
    between = [(0, 1.0, 0.1001), (0, -1.0, -0.1), (1, 1.0, 0.7001), (1, -1.0, -0.7)]
    constraints = [AffineConstraint(i, [s], f, kind="le") for i, s, f in between]
    model = enforced(*constraints, dtype=dtype)
    model.harden(data()[0])
    report = model.prove()
    assert all(found.bound <= 0 for found in report.violations)


def test_boxes_in_many_dimensions():
    """Corners cannot be listed, and the worst of each row is known."""
    rng = np.random.default_rng(0)
    regions = [po.Box.ball(rng.normal(size=60), 0.02) for _ in range(2)]
    constraints = [AffineConstraint(0, [[1.0], [-1.0]], [0.1, 0.1], kind="le"), AffineConstraint(1, [1.0], 0.3)]
    model = enforced(*constraints, regions=regions, sizes=(60, 24, 24, 1))
    x, _ = data(n=60)
    model.harden(x)
    report = model.prove()
    assert [found.status for found in report.violations] == ["satisfied", "satisfied"]
    a, c = report.slope[0, 0].numpy(), report.offset[0, 0].item()
    center, radius = regions[0].center, regions[0].radius
    worst = abs(a @ center + c) + radius @ abs(a)
    assert 0.0 <= 0.1 - worst <= 1e-8  # as far as allowed
    np.testing.assert_allclose(report.slope[1], 0.0, atol=1e-10)


def test_an_irreducible_set_is_named():
    """1, 3 and 4 contradict each other, any two of them do not; 0 and 2 have nothing to do with it."""
    constraints = [
        AffineConstraint(0, [1.0, 1.0], 0.0),
        AffineConstraint(1, [1.0, 0.0], 0.0, kind="le"),
        AffineConstraint(0, [1.0, 0.0], 5.0, kind="le"),
        AffineConstraint(1, [0.0, 1.0], 0.0, kind="le"),
        AffineConstraint(1, [-1.0, -1.0], -1.0, kind="le"),
    ]
    model = enforced(*constraints, sizes=(2, 16, 16, 2))
    before = copy.deepcopy(model.module.state_dict())
    with pytest.raises(InfeasibleConstraints, match="1, 3, 4") as raised:
        model.harden(data()[0])
    assert raised.value.constraints == (1, 3, 4)
    assert all((value == before[name]).all() for name, value in model.module.state_dict().items())
    for one in (1, 3, 4):
        rest = [c for k, c in enumerate(constraints) if k != one]
        fewer = enforced(*rest, sizes=(2, 16, 16, 2))
        fewer.harden(data()[0])
        assert fewer.violation() <= 1e-9


def test_equations_that_repeat_or_contradict():
    same = [AffineConstraint(0, [1.0], 0.5), AffineConstraint(0, [2.0], 1.0), SlopeConstraint(0, [1.0], np.eye(2), 0.0)]
    model = enforced(*same, AffineConstraint(0, [1.0], 0.5, kind="le"))
    model.harden(data()[0])
    assert model.violation() <= 1e-9
    model = enforced(*same, AffineConstraint(0, [1.0], 0.5 + 1e-6))
    with pytest.raises(InfeasibleConstraints) as raised:
        model.harden(data()[0])
    assert len(raised.value.constraints) == 2
    model = enforced(*same, AffineConstraint(0, [1.0], 0.49, kind="le"))
    with pytest.raises(InfeasibleConstraints) as raised:
        model.harden(data()[0])
    assert 3 in raised.value.constraints


def test_the_penalty_is_that_of_the_paper():
    """Over the vertices of a V-polytope, and for a box with the worst corner of each row."""
    regions = [po.VPolytope(corners(SQUARES[0])), SQUARES[1]]
    le, eq = AffineConstraint(1, [[2.0], [-1.0]], [-5.0, 0.5], kind="le"), AffineConstraint(0, [1.0], 0.3)
    model = enforced(le, eq, regions=regions)
    y = model(torch.tensor(corners(SQUARES[0]))).detach().numpy()
    wanted = ((y - 0.3) ** 2).sum()
    z = model(torch.tensor(corners(SQUARES[1]))).detach().numpy()[:, 0]
    for e, f in ((2.0, -5.0), (-1.0, 0.5)):
        wanted += max((e * z - f - 1e-3).max(), 0.0) ** 2
    found = model.penalty(1e-3)
    assert found.item() == pytest.approx(wanted, rel=1e-9)
    found.backward()
    assert all(p.grad.abs().max() > 0 for p in model.module.parameters())
    assert model.violation() == pytest.approx(max(abs(y - 0.3).max(), (2 * z + 5).max(), (-z - 0.5).max()), rel=1e-9)


def test_the_penalty_of_a_box_vanishes_only_where_the_equation_holds_on_all_of_it():
    """There it is the square at the centre plus those of the slopes along its radii."""
    model = enforced(AffineConstraint(0, [1.0], 0.3))
    slopes = slope(model.module, SQUARES[0].center)[0] * SQUARES[0].radius
    middle = model(torch.tensor(SQUARES[0].center)[None]).item() - 0.3
    assert model.penalty().item() == pytest.approx(middle**2 + (slopes**2).sum(), rel=1e-9)
    model.harden(data()[0])
    assert model.penalty().item() < 1e-20


def test_fit_keeps_the_schedule():
    x, y = data()
    model = MPOLICE(mlp(2, 16, 16, 1), SQUARES, constraints=[AffineConstraint(0, [1.0], 0.25)])
    fitting = model.fit(
        x, y, nn.functional.mse_loss, warm_up=10, epochs=20, every=5, tolerance=1e-9, hard=True, progress=False
    )
    assert (fitting.warm_up, len(fitting.loss), fitting.stopped) == (10, 30, "epochs")
    assert fitting.enforced == [10, 15, 20, 25, 30]
    assert len(fitting.violations) == len(fitting.costs) == 5
    assert fitting.costs[-1] == fitting.report.cost > 0
    assert fitting.violations[-1] > 1e-9  # training alone does not get there
    assert 0 < fitting.enforcing < fitting.seconds
    assert fitting.report.violations[0].status == "satisfied"
    assert [c.status for c in fitting.report.certificates] == ["affine", "affine"]
    assert "satisfied" in str(fitting.report)


def test_fit_ends_where_the_tolerance_is_met():
    x, y = data()
    model = MPOLICE(mlp(2, 16, 16, 1), SQUARES, constraints=[AffineConstraint(0, [1.0], 0.25)])
    fitting = model.fit(
        x, y, nn.functional.mse_loss, warm_up=0, epochs=2000, every=5, tolerance=0.02, lr=0.01, progress=False
    )
    assert fitting.stopped == "tolerance"
    assert len(fitting.loss) < 2000
    assert fitting.violations[-1] <= 0.02
    assert fitting.report.violations[0].bound <= 0.02 + 1e-6


def test_training_without_constraints_enforces_to_the_end():
    x, y = data()
    model = MPOLICE(mlp(2, 16, 16, 1, dtype=torch.float32), SQUARES, signs="mean")
    fitting = model.fit(x, y, nn.functional.mse_loss, warm_up=5, epochs=20, every=10, progress=False)
    assert fitting.enforced == [5, 15, 25]
    assert fitting.violations == [0.0, 0.0, 0.0]
    assert fitting.loss[-1] < fitting.loss[0]


def test_training_outlasts_an_enforcement_that_fails(monkeypatch):
    x, y = data()
    model = MPOLICE(mlp(2, 16, 16, 1), SQUARES, constraints=[AffineConstraint(0, [1.0], 0.25)])
    real, calls = model.enforce, []

    def enforce():
        calls.append(1)
        if len(calls) == 1:
            raise EnforcementError("too narrow")
        return real()

    monkeypatch.setattr(model, "enforce", enforce)
    fitting = model.fit(x, y, nn.functional.mse_loss, warm_up=2, epochs=4, every=2, progress=False)
    assert fitting.failed == {2: "too narrow"}
    assert fitting.enforced == [4, 6]


def test_the_last_enforcement_raises():
    """One unit cannot separate three regions in a row."""
    regions = [po.Box([float(k)], [k + 0.5]) for k in range(3)]
    x, y = data(n=1)
    model = MPOLICE(mlp(1, 1, 1), regions, constraints=[AffineConstraint(0, [1.0], 0.0)])
    with pytest.raises(EnforcementError, match="pairs"):
        model.fit(x, y, nn.functional.mse_loss, warm_up=2, epochs=4, every=2, progress=False)


def test_time_limit():
    x, y = data()
    model = MPOLICE(mlp(2, 16, 16, 1), SQUARES)
    fitting = model.fit(
        x, y, nn.functional.mse_loss, warm_up=10**6, epochs=10, time_limit=0.2, hard=True, progress=False
    )
    assert fitting.stopped == "time limit"
    assert fitting.report.certificates[1].status == "affine"


def test_fold_refuses_what_is_not_proven():
    model = enforced()
    assert isinstance(model.fold(), nn.Sequential)
    with torch.no_grad():
        model.module[0].bias += 1.0
    with pytest.raises(EnforcementError, match="not proven"):
        model.fold()
    with pytest.raises(EnforcementError, match="not proven"):
        model.prove()
    model.enforce()
    assert model.fold()(data()[0]).shape == (200, 1)


def test_copies_are_independent():
    model = enforced(AffineConstraint(0, [1.0], 0.25))
    other = copy.deepcopy(model)
    other.harden(data()[0])
    assert other.violation() < 1e-9 < model.violation()


def test_regions_that_cannot_be_told_apart():
    with pytest.raises(EnforcementError, match="subdivide"):
        MPOLICE(mlp(2, 16, 1), bars())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: AffineConstraint(0, [1.0], [1.0, 2.0]), "E has 1 rows, but f has shape"),
        (lambda: AffineConstraint(0, [math.nan], 1.0), "E must be finite"),
        (lambda: AffineConstraint(0, [1.0], 1.0, kind="ge"), "kind is 'ge'"),
        (lambda: SlopeConstraint(0, [1.0], np.eye(2), [1.0, 2.0, 3.0]), "g has shape"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES, constraints=[AffineConstraint(2, [1.0], 0.0)]), "region is 2"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES, constraints=[AffineConstraint(True, [1.0], 0.0)]), "region is True"),
        (
            lambda: MPOLICE(
                mlp(2, 4, 1), SQUARES, constraints=[AffineConstraint(po.Box([0.0, 0.0], [1.0, 1.0]), [1.0], 0.0)]
            ),
            "none of the model's 2",
        ),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES, constraints=[AffineConstraint(0, [1.0, 0.0], 0.0)]), "2 columns"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES, constraints=[SlopeConstraint(0, [1.0], [1.0], 0.0)]), "1 columns"),
        (lambda: AffineConstraint(0, np.eye(2), [1.0, 2.0], slope=[1.0, 0.0]), "E has 2 rows, but slope 1"),
        (
            lambda: MPOLICE(mlp(2, 4, 1), SQUARES, constraints=[AffineConstraint(0, [1.0], 0.0, slope=[1.0])]),
            "slope has 1 columns",
        ),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES, separate="never"), "separate is 'never'"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES, signs="best"), "signs is 'best'"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES, margin=0.0), "margin is 0.0"),
        (lambda: enforced().harden(torch.zeros(5, 3)), r"inputs have shape \(5, 3\), but must be \(N, 2\)"),
        (lambda: enforced().harden(torch.full((5, 2), torch.nan)), "10 numbers of the inputs are not finite"),
        (lambda: enforced().harden(torch.zeros(5, 2), torch.zeros(4, 1)), "5 inputs, but 4 targets"),
        (lambda: enforced().harden(torch.zeros(5, 2), torch.zeros(5)), r"targets have shape \(5,\)"),
        (lambda: AffineConstraint(0, np.zeros((0, 2)), 1.0), "at least one row"),
        (lambda: SlopeConstraint(0, [1.0], [1.0, 0.0], math.inf), "g must be finite"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES).penalty(), "enforce"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES).prove(), "enforce"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES).harden(data()[0]), "enforce"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES).fit(*data(), nn.functional.mse_loss, every=0), "every is 0"),
        (lambda: MPOLICE(mlp(2, 4, 1), SQUARES).fit(*data(), nn.functional.mse_loss, growth=0.5), "growth is 0.5"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        make()
