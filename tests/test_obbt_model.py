"""Bounds tightened over whole models: HiGHS on the models as they were, samples, and linear programs by Pyomo."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, chain

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.tighten import bounding
from polyopt.tighten.placed import placed_networks
from polyopt.tighten.surroundings import surroundings

ANY = (-1.0, 1.0)


def coupled(seed, copies=2, slack=0.5, **options):
    """Copies of a network whose inputs share a budget, whose outputs feed another network, with a free total."""
    rng = np.random.default_rng(seed)
    net, last = chain(lambda n: ReLU(), seed, (2, 5, 4, 1)), chain(lambda n: ReLU(), seed + 50, (copies, 4, 1))
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(copies), range(2), bounds=ANY)
    m.on, m.total = pyo.Var(domain=pyo.Binary), pyo.Var()
    m.budget = pyo.Constraint(expr=sum(m.x.values()) + 0.5 * m.on <= slack - 2.0 * copies + 2.0)
    m.net, m.last = pyo.Block(range(copies)), pyo.Block()
    y = po.add_network(m.net, net, {t: [m.x[t, 0], m.x[t, 1]] for t in range(copies)}, **options)
    (z,) = po.add_network(m.last, last, [y[t][0] for t in range(copies)], **options)
    m.sum = pyo.Constraint(expr=m.total == sum(y[t][0] for t in range(copies)) + z)
    m.cap = pyo.Constraint(expr=y[0][0] <= float(np.median(net(rng.uniform(-1, 1, (999, 2))))))
    m.objective = pyo.Objective(expr=m.total + 0.3 * m.on + m.x[0, 0], sense=pyo.maximize)
    return m


def networks(m):
    return [block for block in m.block_data_objects(active=True) if hasattr(block, "embedding")]


def binaries(m):
    return sum(v.is_binary() for v in m.component_data_objects(pyo.Var))


def feasible_points(m, seed, count=20000):
    """Sampled inputs (n, copies, 2) that satisfy the model's rows."""
    x = np.random.default_rng(seed).uniform(-1, 1, (count, len(m.net), 2))
    y = np.stack([m.net[t].embedding.net(x[:, t])[:, 0] for t in m.net], axis=1)
    return x[(x.sum((1, 2)) <= pyo.value(m.budget.upper)) & (y[:, 0] <= pyo.value(m.cap.upper))]


def assert_contains(bounds, net, x):
    """The pre-activations of points lie between bounds."""
    values = net.values(x)
    sources = [node.inputs for node in net.activations] + [(net.nodes[-1].name,)]
    for side, names in zip((*bounds.pre, bounds.output), sources, strict=True):
        a = np.concatenate([values[name].reshape(len(x), -1) for name in names], axis=1)
        assert (side.lower - 1e-12 <= a).all()
        assert (a <= side.upper + 1e-12).all()


@pytest.mark.parametrize("seed", range(3))
def test_same_optimum_with_no_more_binaries_on_the_same_variables(seed):
    m, reference = coupled(seed), coupled(seed)
    outputs = [block.embedding.outputs for block in networks(m)]
    found = po.obbt(model=m)
    assert found.complete
    assert [block.embedding.outputs for block in networks(m)] == outputs
    assert [one.name for one in found.networks] == ["net[0]", "net[1]", "last"]
    assert sum(one.undecided for one in found.networks) == binaries(m) - 1
    assert sum(one.undecided_before for one in found.networks) == binaries(reference) - 1
    ours, theirs = po.solve(m), po.solve(reference)
    assert ours.status == theirs.status == "optimal"
    assert ours.objective == pytest.approx(theirs.objective, abs=1e-5)
    assert max(map(po.replay_error, networks(m))) <= 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_bounds_contain_all_feasible_samples(seed):
    m = coupled(seed)
    x = feasible_points(m, seed)
    assert len(x) > 100
    found = po.obbt(model=m)
    for t in m.net:
        assert_contains(found.networks[t].bounds, m.net[t].embedding.net, x[:, t])
    y = np.concatenate([m.net[t].embedding.net(x[:, t]) for t in m.net], axis=1)
    assert_contains(found.networks[-1].bounds, m.last.embedding.net, y)


def test_a_bound_that_is_too_tight_is_seen(monkeypatch):
    """One percent off, and the samples or the optimum say so."""
    kept = bounding.lower_bound
    monkeypatch.setattr(bounding, "lower_bound", lambda p, f, y, e: kept(p, f, y, e) + 0.01 * abs(kept(p, f, y, e)))
    seen = 0
    for seed in range(2):
        try:
            test_bounds_contain_all_feasible_samples(seed)
            test_same_optimum_with_no_more_binaries_on_the_same_variables(seed)
        except AssertionError:
            seen += 1
    assert seen == 2


def test_a_budget_decides_units():
    net = po.Network.sequential(
        [Affine([[1.0], [-1.0], [1.0]], [0.0, 0.5, -0.8]), ReLU(), Affine([[1.0] * 3], None)], (1,)
    )
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(3), bounds=ANY), pyo.Block(range(3))
    y = po.add_network(m.net, net, {t: [m.x[t]] for t in range(3)})
    m.budget = pyo.Constraint(expr=sum(m.x.values()) >= 2.6)  # each x is 0.6 at least
    m.objective = pyo.Objective(expr=sum(y[t][0] for t in range(3)))
    best = po.solve(m).objective
    found = po.obbt(model=m)
    assert [(one.undecided_before, one.undecided) for one in found.networks] == [(3, 1)] * 3
    assert found.programs == 2 * (2 * 3 + 2 * 3)  # twice the inputs and the third units: CROWN decided the others
    assert po.summary(m.net).binaries == 3
    assert po.solve(m).objective == pytest.approx(best, abs=1e-6)
    np.testing.assert_allclose(found.networks[0].bounds.pre[0].lower[2], -0.2, atol=1e-9)


def test_never_wider_than_tightening_when_the_network_is_added():
    """`tighten="lp"` knows the rows by then and the layers before; the whole model knows these and more."""
    for seed in range(3):
        early, late = coupled(seed, tighten="lp"), coupled(seed)
        found = po.obbt(model=late)
        for block, one in zip(networks(early), found.networks, strict=True):
            for known, ours in zip(block.embedding.bounds.pre, one.bounds.pre, strict=True):
                crossing = (known.lower < 0) & (known.upper > 0)
                assert (ours.lower >= known.lower - 1e-6)[crossing].all()
                assert (ours.upper <= known.upper + 1e-6)[crossing].all()
        assert binaries(late) <= binaries(early)


def test_bounds_of_first_layers_are_the_optima_of_pyomo_models():
    """The relaxation of the original model, its binaries relaxed, by HiGHS through Pyomo: no looser, unit by unit."""
    m = coupled(1)
    found = po.obbt(model=m)
    relaxed = coupled(1)
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(relaxed)
    relaxed.objective.deactivate()
    layer, bounds = relaxed.net[0].embedding.net.layers[0], found.networks[0].bounds.pre[0]
    for i in np.flatnonzero((bounds.lower < 0) & (bounds.upper > 0)):
        form = sum(w * relaxed.x[0, j] for j, w in enumerate(layer.weight[i].tolist())) + float(layer.bias[i])
        for sense, end in ((pyo.minimize, bounds.lower[i]), (pyo.maximize, bounds.upper[i])):
            relaxed.aim = pyo.Objective(expr=form, sense=sense)
            expected = po.solve(relaxed).objective
            relaxed.del_component("aim")
            assert end >= expected - 1e-6 if sense == pyo.minimize else end <= expected + 1e-6


@pytest.mark.parametrize("options", [{"formulation": po.Hull()}, {"exact": True}])
def test_cuts_and_fractions(options):
    m, reference = coupled(2), coupled(2)
    plain = po.obbt(model=coupled(2))
    found = po.obbt(model=m, **options)
    for one, other in zip(found.networks, plain.networks, strict=True):
        for ours, theirs in zip(one.bounds.pre, other.bounds.pre, strict=True):
            assert (ours.lower >= theirs.lower - 1e-6).all()
            assert (ours.upper <= theirs.upper + 1e-6).all()
    assert po.solve(m).objective == pytest.approx(po.solve(reference).objective, abs=1e-5)


@pytest.mark.parametrize("name", ["maxout", "leaky", "residual", "convolution"])
def test_other_networks(name):
    net, models = NETWORKS[name], []
    for _ in range(2):
        m = pyo.ConcreteModel()
        m.x, m.net = pyo.Var(range(net.input_size), bounds=ANY), pyo.Block()
        y = po.add_network(m.net, net, m.x)
        m.row = pyo.Constraint(expr=sum(m.x.values()) >= 0.7 * net.input_size)
        m.objective = pyo.Objective(expr=y[0] - 0.5 * y[1])
        models.append(m)
    before = models[0].net.embedding.bounds.output
    (one,) = po.obbt(model=models[0]).networks
    width = before.upper - before.lower
    assert one.undecided < one.undecided_before or name == "convolution"
    assert (one.bounds.output.upper - one.bounds.output.lower <= width).all()
    x = np.random.default_rng(0).uniform(-1, 1, (100000, net.input_size))
    x = x[x.sum(1) >= 0.7 * net.input_size][:500]
    if len(x):
        assert_contains(one.bounds, net, x.reshape(-1, *net.input_shape))
    assert po.solve(models[0]).objective == pytest.approx(po.solve(models[1]).objective, abs=1e-5)


def test_an_executor_finds_the_same():
    alone, shared = coupled(3), coupled(3)
    expected = po.obbt(model=alone)
    with ThreadPoolExecutor(2) as executor:
        found = po.obbt(model=shared, executor=executor)
    assert (found.programs, found.complete) == (expected.programs, True)
    for one, other in zip(found.networks, expected.networks, strict=True):
        for ours, theirs in zip(
            (*one.bounds.pre, one.bounds.output), (*other.bounds.pre, other.bounds.output), strict=True
        ):
            np.testing.assert_allclose(ours.lower, theirs.lower, atol=1e-7)
            np.testing.assert_allclose(ours.upper, theirs.upper, atol=1e-7)


def test_stopped_early_it_stays_sound():
    for limit in (1e-6, 0.05):
        m, reference = coupled(0), coupled(0)
        found = po.obbt(model=m, time_limit=limit)
        assert not (limit < 1e-3 and found.complete)
        x = feasible_points(m, 0)
        for t in m.net:
            assert_contains(found.networks[t].bounds, m.net[t].embedding.net, x[:, t])
        assert po.solve(m).objective == pytest.approx(po.solve(reference).objective, abs=1e-5)


def test_an_infeasible_model_is_said_to_be():
    m = coupled(0)
    m.never = pyo.Constraint(expr=m.total >= 1e4)
    with pytest.raises(ValueError, match="the model is infeasible"):
        po.obbt(model=m)


def test_widened_inputs_are_refused_after_it_too():
    m = coupled(0)
    po.obbt(model=m)
    m.x[0, 0].setub(2.0)
    with pytest.raises(ValueError, match="now ranges over"):
        po.solve(m)


def test_a_quadratic_objective_and_quadratic_rows_are_left_out():
    m = coupled(1)
    m.objective.deactivate()
    m.square = pyo.Objective(expr=m.total**2)
    m.ball = pyo.Constraint(expr=m.x[0, 0] ** 2 + m.x[0, 1] ** 2 <= 0.5)
    found, expected = po.obbt(model=m), po.obbt(model=coupled(1))
    for one, other in zip(found.networks, expected.networks, strict=True):
        np.testing.assert_allclose(one.bounds.pre[0].lower, other.bounds.pre[0].lower, atol=1e-7)


def test_fixed_inputs_count_with_their_bounds():
    m = coupled(1)
    m.x[0, 0].fix(-0.5)
    found, expected = po.obbt(model=m), po.obbt(model=coupled(1))
    np.testing.assert_allclose(
        found.networks[0].bounds.pre[0].lower, expected.networks[0].bounds.pre[0].lower, atol=1e-7
    )
    assert m.x[0, 0].fixed


def test_what_has_no_meaning_is_refused():
    m, net = coupled(0), NETWORKS["relu"]
    with pytest.raises(ValueError, match="no network whose layers are rows"):
        po.obbt(model=pyo.ConcreteModel())
    with pytest.raises(ValueError, match="neither a network"):
        po.obbt(net, model=m)
    with pytest.raises(ValueError, match="neither a network"):
        po.obbt(model=m, mip_units=2)
    with pytest.raises(ValueError, match="must be a Pyomo model"):
        po.obbt(model=net)
    with pytest.raises(ValueError, match="time_limit is 0"):
        po.obbt(model=m, time_limit=0)
    with pytest.raises(ValueError, match="no relaxation without binaries"):
        po.obbt(model=m, formulation=po.BigM())
    with pytest.raises(ValueError, match="give a network and a region"):
        po.obbt()


def test_bounds_that_rows_imply():
    """A chain of free variables; one that no row bounds takes its rows with it."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(-1, 2))
    m.a, m.b, m.free = pyo.Var(), pyo.Var(), pyo.Var()
    m.first = pyo.Constraint(expr=m.b == -3 * m.a + 1)
    m.second = pyo.Constraint(expr=(-2, 2 * m.a - m.x, 1))
    m.third = pyo.Constraint(expr=m.free >= m.x)
    around, columns = surroundings(m, [m.x, m.a, m.b], np.array([[-np.inf, np.inf]] * 3), [])
    assert len(around.lower) == 3
    assert len(around.row_lower) == 2
    expected = np.array([[-1, 2], [-1.5, 1.5], [-3.5, 5.5]])
    np.testing.assert_allclose(np.stack([around.lower, around.upper], axis=1)[columns], expected, atol=1e-9)
    assert (around.lower[columns] <= expected[:, 0]).all()
    assert (around.upper[columns] >= expected[:, 1]).all()


def test_networks_in_reduced_space_are_left_as_they_are():
    m = coupled(0)
    net = po.Network.sequential([Affine([[1.0]], [5.0]), ReLU()], (1,))
    m.nested = pyo.Block()
    po.add_network(m.nested, net, [m.x[0, 0]], formulation=po.ReducedSpace())
    assert len(placed_networks(m)[1]) == 3
