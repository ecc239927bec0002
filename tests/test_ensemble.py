"""Several networks as one: numpy's mean and largest of the members, optima of MILP, search and grid, resamples."""

import numpy as np
import pyomo.environ as pyo
import pytest
from test_enforce import mlp

import polyopt as po
from polyopt.police.chains import chain
from polyopt.surrogate.ensemble import ensemble, fit_ensemble
from polyopt.surrogate.surrogate import Surrogate

JOIN = {"mean": np.mean, "max": np.max, "min": np.min}
UNIT = po.Box([-1.0, -1.0], [1.0, 1.0])


def member(seed, outputs=1, domain=UNIT, **options):
    return Surrogate(chain(mlp(2, 4, 3, outputs, seed=seed)).network(), domain=domain, **options)


MEMBERS = [member(seed) for seed in range(3)]


@pytest.mark.parametrize("how", JOIN)
@pytest.mark.parametrize("outputs", [1, 3])
def test_it_is_numpys(how, outputs):
    members = [member(seed, outputs) for seed in range(4)]
    x = np.random.default_rng(0).uniform(-1, 1, size=(200, 2))
    expected = JOIN[how]([one(x) for one in members], axis=0)
    assert abs(ensemble(members, how)(x) - expected).max() < 1e-12
    assert abs(ensemble(members[:1], how)(x) - members[0](x)).max() < 1e-12


@pytest.mark.parametrize("how", JOIN)
@pytest.mark.parametrize("sense", ["min", "max"])
def test_its_optimum_by_milp_by_search_and_on_a_grid(how, sense):
    joined = ensemble(MEMBERS, how)
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(2), bounds=(-1, 1)), pyo.Block()
    (y,) = po.add_network(m.net, joined.net, m.x)
    m.goal = pyo.Objective(expr=y, sense=pyo.minimize if sense == "min" else pyo.maximize)
    milp, search = po.solve(m), po.optimize(joined.net, UNIT, [1.0], sense=sense)
    axis = np.linspace(-1, 1, 201)
    grid = JOIN[how]([one(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)) for one in MEMBERS], axis=0)
    best = grid.min() if sense == "min" else grid.max()
    sign = 1 if sense == "min" else -1
    assert milp.objective == pytest.approx(search.value, abs=1e-5)
    assert 0 <= sign * (best - milp.objective) + 1e-6 < 0.02
    assert po.replay_error(m.net) < 1e-6


def test_bounds_and_pieces_are_those_of_any_network():
    """CROWN's bounds hold at samples; the mean is affine where all members are."""
    joined, x = ensemble(MEMBERS, "max"), UNIT.sample(500, np.random.default_rng(1))
    values = joined(x)
    assert (values >= joined.output_bounds.lower).all()
    assert (values <= joined.output_bounds.upper).all()
    spot = po.Box.ball([0.3, 0.2], 1e-3)
    known = [member(seed, regions=[spot]) for seed in range(2)]
    assert ensemble(known).regions == (spot,)
    assert ensemble(known, "max").regions == ()
    assert ensemble([known[0], member(1)]).regions == ()
    assert po.affine_on(ensemble(known).net, spot).status == "affine"


def test_the_domain_is_shared_or_the_intersection():
    points = np.random.default_rng(0).uniform(-1, 1, size=(10, 2))
    targets = points[:, :1]
    same = ensemble([member(seed, domain=points, targets=targets) for seed in range(2)])
    assert (same.points == points).all()
    assert (same.targets == targets).all()
    assert ensemble([member(0, domain=points, targets=targets), member(1, domain=points)]).targets is None
    other = ensemble([member(0), member(1, domain=po.Box([0.0, -2.0], [3.0, 0.5]))])
    assert other.points is None
    assert (other.lower == [0.0, -1.0]).all()
    assert (other.upper == [1.0, 0.5]).all()
    with pytest.raises(ValueError, match=r"x1 would lie between 2\.0 and 1\.0"):
        ensemble([member(0), member(1, domain=po.Box([0.0, 2.0], [1.0, 3.0]))])


def test_members_must_fit():
    with pytest.raises(ValueError, match="surrogate 1 has input_names"):
        ensemble([member(0), member(1, input_names=["a", "b"])])
    with pytest.raises(ValueError, match="surrogate 1 has output_names"):
        ensemble([member(0), member(1, outputs=2)])
    with pytest.raises(ValueError, match="'mean', 'max' or 'min'"):
        ensemble(MEMBERS, "median")
    with pytest.raises(ValueError, match="one Surrogate or more"):
        ensemble([])
    with pytest.raises(ValueError, match="member 0 is not of fit_surrogate"):
        ensemble(MEMBERS).report.refit([[0.0, 0.0]], [0.0])


RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, size=(80, 1))
Y = np.sin(2 * X[:, 0]) + 0.05 * RNG.normal(size=80)
QUICK = {"hidden": (8,), "epochs": 30, "progress": False}


def test_members_learn_different_resamples_and_hold_out_the_same():
    members = fit_ensemble(X, Y, 3, **QUICK)
    assert [one.report.held_out.count for one in members] == [16, 16, 16]
    seen = [one.report.training.count for one in members]
    assert all(30 < count < 52 for count in seen)  # about 63 percent of the 64 points
    predictions = np.array([one(X)[:, 0] for one in members])
    assert (predictions.std(0) > 1e-6).all()
    assert all((one.points == X).all() for one in members)
    again = fit_ensemble(X, Y, 3, **QUICK)
    assert all((one(X) == two(X)).all() for one, two in zip(members, again, strict=True))
    joined = ensemble(members)
    errors = [np.sqrt(np.mean((one(X)[:, 0] - Y) ** 2)) for one in (joined, *members)]
    assert errors[0] < np.mean(errors[1:])


def test_an_ensemble_is_fitted_anew_member_by_member():
    joined = ensemble(fit_ensemble(X, Y, 2, **QUICK | {"epochs": 200}), "max")
    again = joined.report.refit([[0.0]], [3.0], weight=200.0)
    assert abs(again([[0.0]]) - 3.0) < 0.5 * abs(joined([[0.0]]) - 3.0)
    assert len(again.points) == 81
    assert again.report.how == "max"
    assert again.report.stopped == "epochs"
    assert str(again.report).startswith("max of 2\ntraining")


def test_weights_and_errors_reach_the_members():
    weights = (X[:, 0] < 0).astype(float)
    (one,) = fit_ensemble(X, Y, 1, weights=weights, **QUICK)
    assert one.report.training.count < weights.sum()
    with pytest.raises(ValueError, match="members is 0"):
        fit_ensemble(X, Y, 0)
    with pytest.raises(ValueError, match="not finite"):
        fit_ensemble(X, np.full(80, np.nan))
