"""Surrogates from data: scaling against scikit-learn, proofs in the user's units, smaller networks, honest errors."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from torch import nn

import polyopt as po
from polyopt.police import AffineConstraint, EnforcementError, SlopeConstraint
from polyopt.surrogate.fit import fit_surrogate
from polyopt.surrogate.regularisers import PRUNED, held, instability, prune
from polyopt.surrogate.samples import read_samples
from polyopt.surrogate.units import Units, scaled_constraint

RNG = np.random.default_rng(0)
X = RNG.uniform([0.0, -5e3], [1e-2, 5e3], size=(200, 2))
Y = 1e4 + 500.0 * np.sin(300.0 * X[:, 0]) * X[:, 1] / 5e3
REGIONS = [po.Box([1e-3, -2e3], [2e-3, 0.0]), po.Box([7e-3, 1e3], [9e-3, 2e3])]


def quick(X=X, y=Y, hidden=(12, 12), epochs=12, **options):
    return fit_surrogate(X, y, hidden, epochs=epochs, progress=False, **options)


def test_it_is_scikit_learns_scaler_around_the_torch_module():
    targets = np.column_stack([Y, -3.0 * Y + X[:, 0]])
    surrogate = quick(y=targets, held_out=0)
    module = surrogate.report.refit.args[0]
    before, after = StandardScaler().fit(X), StandardScaler().fit(targets)
    points = RNG.uniform(X.min(0), X.max(0), size=(500, 2))
    by_hand = after.inverse_transform(module(torch.tensor(before.transform(points))).detach().numpy())
    assert abs(surrogate(points) - by_hand).max() < 1e-9 * abs(by_hand).max()
    assert (surrogate.points == X).all()
    assert (surrogate.targets == targets).all()


def test_a_seed_decides_everything_and_leaves_torchs_own_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one, two, other = quick(), quick(), quick(seed=1)
    assert torch.rand(1) == expected
    assert (one(X) == two(X)).all()
    assert (one(X) != other(X)).any()


def test_errors_are_those_of_points_seen_and_points_held_out():
    mask = np.arange(200) % 4 == 0
    surrogate = quick(held_out=mask)
    for errors, points in ((surrogate.report.training, ~mask), (surrogate.report.held_out, mask)):
        e = surrogate(X[points])[:, 0] - Y[points]
        assert errors.count == points.sum()
        assert errors.rmse[0] == pytest.approx(np.sqrt(np.mean(e**2)))
        assert errors.largest[0] == pytest.approx(abs(e).max())
        assert errors.r2[0] == pytest.approx(r2_score(Y[points], surrogate(X[points])[:, 0]))
    assert "held out, 50 points" in str(surrogate.report)
    poisoned = np.where(mask, 1e9, Y)  # what is held out is not learnt
    assert (quick(y=poisoned, held_out=mask)(X) == surrogate(X)).all()


def test_police_is_affine_on_a_region_in_the_users_units():
    surrogate = quick(police=REGIONS[0])
    (certificate,) = surrogate.report.certificates
    assert certificate.status == "affine"
    assert surrogate.regions == (REGIONS[0],)
    points = REGIONS[0].sample(100, RNG)
    assert abs(surrogate(points) - points @ certificate.A.T - certificate.c).max() < 1e-9 * 1e4
    assert po.affine_on(surrogate.net, REGIONS[1]).status == "not affine"


def test_constraints_of_mpolice_hold_in_the_users_units():
    """A given line on one region, a bound and a monotone slope on the other, two outputs of different size."""
    targets = np.column_stack([Y, 1e-3 * Y])
    line = AffineConstraint(REGIONS[0], [[1.0, 0.0], [1.0, 1e3]], [9900.0, 2e4], slope=[[1e4, 0.02], [0.0, 0.0]])
    least = AffineConstraint(1, [-1.0, 0.0], -10200.0, kind="le")
    rising = SlopeConstraint(1, [0.0, 1.0], [[-1.0, 0.0], [0.0, 1.0]], [[-20.0, 1e-4]], kind="le")
    surrogate = quick(y=targets, mpolice=REGIONS, constraints=[line, least, rising])
    report = surrogate.report
    assert [found.status for found in report.certificates] == ["affine", "affine"]
    assert [found.status for found in report.violations] == ["satisfied"] * 3
    x = np.concatenate([REGIONS[0].sample(50, RNG), REGIONS[0].vertices()])
    y = surrogate(x)
    assert abs(y[:, 0] - (9900.0 + 1e4 * x[:, 0] + 0.02 * x[:, 1])).max() < 1e-7
    assert abs(y[:, 0] + 1e3 * y[:, 1] - 2e4).max() < 1e-7
    x = np.concatenate([REGIONS[1].sample(50, RNG), REGIONS[1].vertices()])
    assert surrogate(x)[:, 0].min() >= 10200.0
    corner = REGIONS[1].lower
    slope = (surrogate(corner + np.diag([1e-3, 500.0]))[:, 1] - surrogate(corner[None])[0, 1]) / [1e-3, 500.0]
    assert slope[0] >= 20.0 - 1e-6
    assert slope[1] <= 1e-4 + 1e-10


SCALED = Units(np.array([10.0, -2.0]), np.array([5.0, 1e-3]))
KINDS = [
    po.Box([9.0, -2.001], [12.0, -1.999]),
    po.Zonotope([10.0, -2.0], [[1.0, 2.0, 0.5], [1e-3, 0.0, 2e-3]]),
    po.Ellipsoid([10.0, -2.0], [[1.0, 2.0], [1e-3, 5e-4]]),
    po.VPolytope([[9.0, -2.0], [12.0, -2.0], [10.0, -1.995]]),
    po.HPolytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 1e3]], [-9.0, 2.001, -1985.0]),
    po.Product(po.Box([9.0], [12.0]), po.Zonotope([-2.0], [[1e-3, 2e-3]])),
]


@pytest.mark.parametrize("region", KINDS, ids=lambda region: type(region).__name__)
def test_regions_move_with_their_points(region):
    """``h(a)`` of the region is ``a s + h'(a T)`` of the scaled one, for every direction."""
    scaled, directions = SCALED.region(region), RNG.normal(size=(40, 2))
    assert type(scaled) is type(region)
    expected = region.support(directions)
    found = directions @ SCALED.shift + scaled.support(directions * SCALED.scale)
    assert abs(found - expected).max() < 1e-9
    assert scaled.contains(SCALED.scaled(region.sample(50, RNG)), tol=1e-8).all()


def test_constraints_say_the_same_in_scaled_units():
    """Excess over the right-hand side has the same sign, and is the same up to a positive factor, for any function."""
    outputs = Units(np.array([300.0, 0.02]), np.array([40.0, 1e-3]))
    E, S, f = RNG.normal(size=(3, 2)) * [1.0, 1e4], RNG.normal(size=(3, 2)), RNG.normal(size=3)
    one = scaled_constraint(AffineConstraint(0, E, f, kind="le", slope=S), [KINDS[0]], SCALED, outputs)
    x, y = RNG.normal(SCALED.shift, SCALED.scale, (20, 2)), RNG.normal(outputs.shift, outputs.scale, (20, 2))
    excess = y @ E.T - f - x @ S.T
    scaled = outputs.scaled(y) @ one.E.T - one.f - SCALED.scaled(x) @ one.slope.T
    factor = excess / scaled
    assert (factor > 0).all()
    assert abs(factor / factor[0] - 1).max() < 1e-8
    D, g, J = RNG.normal(size=(2, 2)), RNG.normal(size=(3, 2)), RNG.normal(size=(5, 2, 2))
    one = scaled_constraint(SlopeConstraint(0, E, D, g), [KINDS[0]], SCALED, outputs)
    inner = J / outputs.scale[:, None] * SCALED.scale
    factor = (E @ J @ D.T - g) / (one.E @ inner @ one.D.T - one.g)
    assert (factor > 0).all()
    assert abs(factor / factor[0] - 1).max() < 1e-8


def test_the_stability_loss_is_that_of_interval_bounds():
    module = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 1)).double().eval()
    box = po.Box([-1.0, 0.5], [2.0, 3.0])
    layers = [(module[k].weight, module[k].bias) for k in (0, 2)]
    found = instability(layers, torch.tensor(box.center), torch.tensor(box.radius))
    pre = po.interval(po.from_torch(module, (2,)), box).pre
    expected = -sum(np.tanh(1.0 + one.lower * one.upper).sum() for one in pre)
    assert found.item() == pytest.approx(expected, abs=1e-9)
    found.backward()
    assert module[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("police", [None, REGIONS[0]], ids=["plain", "police"])
def test_stability_leaves_fewer_units_unstable(police):
    plain, stable = (quick(epochs=30, police=police, stability=weight).report for weight in (0.0, 0.02))
    assert plain.units == stable.units == 24
    assert stable.unstable < 0.7 * plain.unstable


def test_sparsity_leaves_zeros_that_are_zeros():
    surrogate = quick(epochs=30, sparsity=3e-3)
    weights = [layer.weight for layer in surrogate.net.layers if hasattr(layer, "weight")]
    zeros = sum((weight == 0).sum() for weight in weights) / sum(weight.size for weight in weights)
    assert surrogate.report.zeros == pytest.approx(zeros)
    assert zeros > 0.3
    assert quick(epochs=30).report.zeros == 0
    smallest = min(abs(weight[weight != 0]).min() / abs(weight).max() for weight in weights[1:-1])
    assert smallest > PRUNED / 10  # the rest was trained on, and not made sparse again


def test_what_is_pruned_is_held_at_zero():
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.5 * PRUNED, 0.5]]))
    prune([layer])
    steps = torch.optim.Adam(layer.parameters(), lr=0.1)
    for kept in (True, False):
        if kept:
            with held([layer]):
                layer(torch.ones(3)).backward()
        else:
            layer(torch.ones(3)).backward()
        steps.step()
        assert (layer.weight[0, 1] == 0) == kept
        assert (layer.weight[0, [0, 2]] != torch.tensor([1.0, 0.5])).all()


def test_points_without_weight_are_as_if_they_were_not_there():
    X_more, y_more = np.concatenate([X, [[1.0, 1.0]]]), np.append(Y, 1e9)
    options = {"held_out": 0, "batch_size": None}
    weighted = quick(X_more, y_more, weights=np.append(np.ones(200), 0.0), **options)
    assert abs(weighted(X) - quick(**options)(X)).max() < 1e-6
    assert weighted.report.training.count == 200


def test_a_heavy_point_is_fitted_better():
    weights = np.ones(200)
    weights[:5] = 50.0
    plain, heavy = (quick(epochs=20, held_out=0, weights=w) for w in (None, weights))
    assert abs(heavy(X[:5])[:, 0] - Y[:5]).max() < 0.5 * abs(plain(X[:5])[:, 0] - Y[:5]).max()


def test_refit_goes_on_from_where_it_was():
    start = quick(epochs=40)
    x, y = np.array([[5e-3, 0.0]]), np.array([Y.max() + 100.0])
    again = start.report.refit(x, y, weight=50.0)
    assert abs(again(x) - y).max() < 0.4 * abs(start(x) - y).max()
    assert (again.points == np.concatenate([X, x])).all()
    assert again.report.held_out.count == start.report.held_out.count == 40
    assert again.report.training.count == 161
    assert (start(X) == quick(epochs=40)(X)).all()  # the old one is as it was
    with pytest.raises(ValueError, match="refit: y has shape"):
        start.report.refit(x, [[1.0, 2.0]])


class Table:
    """What pandas is to us: something with columns that is an array."""

    def __init__(self, values, columns):
        self.values, self.columns = values, columns

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_tables_give_names():
    surrogate = quick(Table(X, ["flow", "heat"]), Table(Y[:, None], ["yield"]), epochs=1)
    assert (surrogate.input_names, surrogate.output_names) == (("flow", "heat"), ("yield",))
    assert quick(epochs=1).input_names == ("x0", "x1")


def test_constant_columns_and_constant_outputs():
    table = np.column_stack([X, np.full(200, 0.1)])
    surrogate = quick(table, np.column_stack([Y, np.full(200, 0.3)]), epochs=40)
    assert np.isfinite(surrogate(table)).all()
    assert abs(surrogate(table)[:, 1] - 0.3).max() < 0.2
    assert np.isnan(surrogate.report.training.r2[1])
    assert surrogate.report.training.r2[0] > 0


def test_a_time_limit_keeps_what_there_is_and_its_promises():
    law = AffineConstraint(1, [-1.0], -10200.0, kind="le")
    surrogate = quick(epochs=10**6, time_limit=0.3, mpolice=REGIONS, constraints=[law])
    assert surrogate.report.stopped == "time limit"
    assert [found.status for found in surrogate.report.violations] == ["satisfied"]
    assert quick(epochs=10**6, time_limit=0.3, sparsity=1e-3).report.stopped == "time limit"


NAN = np.where(np.arange(400).reshape(200, 2) == 21, np.nan, X)
ERRORS = {
    r"1 numbers of X are not finite, the first is nan in row 10, column 1": {"X": NAN},
    r"holds something that is no number": {"X": [["a", "b"]] * 200},
    r"X has shape \(200, 2, 1\)": {"X": X[:, :, None]},
    r"X has 200 rows and y 199": {"y": Y[1:]},
    r"of 2 points 1 are left to learn from": {"X": X[:2], "y": Y[:2], "held_out": 0.5},
    r"held_out is 1": {"held_out": 1.0},
    r"held_out is an array \(3,\)": {"held_out": [True, False, True]},
    r"give 200 finite numbers": {"weights": [1.0]},
    r"hidden is \(\)": {"hidden": ()},
    r"stability is -1": {"stability": -1.0},
    r"sparsity is nan": {"sparsity": np.nan},
    r"epochs is 0": {"epochs": 0},
    r"is no region of 2 dimensions": {"police": po.Box([0.0], [1.0])},
    r"but not both": {"police": REGIONS[0], "mpolice": REGIONS},
    r"leave out sparsity": {"mpolice": REGIONS, "sparsity": 1e-3},
    r"constraints hold on the regions of mpolice": {"constraints": [AffineConstraint(0, [1.0], 0.0)]},
    r"E has 2 columns, but the data have 1": {"mpolice": REGIONS, "constraints": [AffineConstraint(0, [1.0, 1], 0.0)]},
}


@pytest.mark.parametrize("match", ERRORS)
def test_errors_say_what_was_found(match):
    with pytest.raises(ValueError, match=match):
        quick(**{"epochs": 1} | ERRORS[match])


def test_contradicting_constraints_are_refused():
    pair = [AffineConstraint(0, [1.0], 1e4), AffineConstraint(0, [1.0], 2e4, kind="eq")]
    with pytest.raises(po.police.InfeasibleConstraints):
        quick(epochs=2, mpolice=REGIONS, constraints=pair)
    with pytest.raises(EnforcementError):
        quick(epochs=2, mpolice=[REGIONS[0], po.Box(REGIONS[0].lower, REGIONS[1].upper)])


def test_a_share_is_held_out_under_the_seed():
    one, two = (read_samples(X, Y, None, 0.3, seed).held_out for seed in (0, 1))
    assert one.sum() == two.sum() == 60
    assert (one != two).any()


def test_every_refit_takes_as_long():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(60, 2))
    surrogate = po.fit_surrogate(X, X.sum(1), hidden=(4,), epochs=8, progress=False)
    again = surrogate.report.refit(X[:1], X[:1].sum(1))
    assert again.report.refit.args[-1].epochs == surrogate.report.refit.args[-1].epochs == 8
