"""Bounds that rows imply, left out of what HiGHS is given: relaxations and optima as before, conditions kept."""

from dataclasses import replace

import highspy
import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, chain

import polyopt as po
from polyopt.activations import PiecewiseLinear, ReLU
from polyopt.implied import without_implied
from polyopt.program import to_highs, to_program

PIECEWISE = [name for name in NETWORKS if all(isinstance(n.layer, PiecewiseLinear) for n in NETWORKS[name].activations)]
SHIFTED = chain(lambda n: ReLU(), 3, (3, 12, 12, 2))


def model(net, radius=0.15, **options):
    """A network near a point, where many units are linear on their bounds; maximise its first output."""
    m = pyo.ConcreteModel()
    center = np.linspace(-0.4, 0.5, net.input_size)
    m.x = pyo.Var(range(net.input_size), bounds=lambda _, i: (center[i] - radius, center[i] + radius))
    m.whole = pyo.Var(domain=pyo.Integers, bounds=(0, 3))  # makes a MILP of it, whatever the bounds decide
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x, **options)
    m.objective = pyo.Objective(expr=y[0] - m.whole, sense=pyo.maximize)
    return m


def freed(m):
    """The names of the variables that lose their bounds."""
    program = to_program(m)
    found = without_implied(program, m)
    changed = (found.lower != program.lower) | (found.upper != program.upper)
    assert np.isinf(found.lower[changed]).all()
    assert np.isinf(found.upper[changed]).all()
    return {program.variables[j].name for j in np.flatnonzero(changed)}


def optimum(program, **changes):
    solver = to_highs(replace(program, **changes))
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.run()
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return solver.getInfo().objective_function_value


def relaxed_optima(program, count=6):
    """The linear relaxation's optimum for random costs on all continuous columns."""
    rng, relaxed = np.random.default_rng(0), np.zeros_like(program.integer)
    costs = rng.normal(size=(count, len(program.cost))) * ~program.integer
    return np.array([optimum(program, cost=cost, integer=relaxed) for cost in costs])


def left_by_presolve(program):
    """How many integer columns HiGHS's presolve leaves."""
    solver = to_highs(program)
    solver.presolve()
    return sum(kind != highspy.HighsVarType.kContinuous for kind in solver.getPresolvedLp().integrality_)


FORMS = [(name, po.BigM()) for name in PIECEWISE] + [("relu", po.Partition(2)), ("relu", po.Extended())]


@pytest.mark.parametrize(("name", "formulation"), FORMS, ids=str)
def test_relaxations_are_no_weaker(name, formulation):
    """Costs on units and outputs themselves: a bound that rows did not imply would show."""
    for bounds in ("crown", "interval"):
        m = model(NETWORKS[name], formulation=formulation, bounds=bounds)
        program = to_program(m)
        without = without_implied(program, m)
        assert np.isinf(without.lower).sum() > np.isinf(program.lower).sum()
        np.testing.assert_allclose(relaxed_optima(without), relaxed_optima(program), rtol=1e-6, atol=1e-6)


def test_bounds_that_rows_do_not_imply_would_show():
    """The test above can fail: with exact bounds, taken for implied ones, the relaxation gets weaker."""
    box = po.Box(-np.ones(3), np.ones(3))
    net = chain(lambda n: ReLU(), 0, (3, 6, 6, 1))
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(3), bounds=(-1, 1)), pyo.Block()
    po.add_network(m.net, net, m.x, bounds=po.obbt(net, box, mip_units=6))
    assert not freed(m)
    m.net.embedding.implied = True
    program = to_program(m)
    assert (relaxed_optima(without_implied(program, m)) < relaxed_optima(program) - 1e-3).any()


@pytest.mark.parametrize("radius", [0.05, 0.3, 1.0])
def test_same_optimum_as_with_them_and_no_sample_is_better(radius):
    m = model(SHIFTED, radius)
    program = to_program(m)
    with_them = optimum(program)
    found = po.solve(m, gap=0.0)
    assert found.objective == pytest.approx(with_them, abs=1e-7)
    assert po.replay_error(m.net) < 1e-6
    x = np.array([v.bounds for v in m.x.values()]).T
    samples = SHIFTED(np.random.default_rng(0).uniform(*x, (20_000, 3)))[:, 0]
    assert found.objective >= samples.max() - 1e-7


def plan(net, steps=3):
    """When a unit runs, with the network for its cost and rows that confine the input; off, it is asked at 0.7."""
    m = pyo.ConcreteModel()
    m.t = pyo.RangeSet(0, steps - 1)
    m.share, m.power = pyo.Var(m.t, bounds=(0.3, 1)), pyo.Var(m.t, bounds=(0, 1))
    m.on, m.net = pyo.Var(m.t, domain=pyo.Binary), pyo.Block(m.t)
    y = po.add_network(m.net, net, {t: [m.share[t]] for t in m.t})
    m.made = pyo.Constraint(m.t, rule=lambda m, t: m.power[t] == m.share[t] - 0.7 * (1 - m.on[t]))
    m.off = pyo.Constraint(m.t, rule=lambda m, t: m.power[t] <= m.on[t])
    m.low = pyo.Constraint(m.t, rule=lambda m, t: m.share[t] >= 0.7)
    m.high = pyo.Constraint(m.t, rule=lambda m, t: m.share[t] <= 0.72)
    m.demand = pyo.Constraint(expr=sum(m.power.values()) >= 0.4 * steps)
    m.cost = pyo.Objective(expr=sum(sum(y[t]) + (5 + t) * m.on[t] for t in m.t))
    return m


def test_presolve_sees_through_the_network():
    """What it is for, seen with HiGHS 1.16; where a later presolve needs no such help, it can go."""
    m = plan(chain(lambda n: ReLU(), 1, (1, 16, 16, 2)))
    program = to_program(m)
    without = without_implied(program, m)
    assert left_by_presolve(without) < left_by_presolve(program)
    assert optimum(without) == pytest.approx(optimum(program), abs=1e-6)


def test_they_are_left_out_where_intervals_or_crown_say_them():
    names = freed(model(SHIFTED))
    assert {"net.output[0]", "net.output[1]"} < names
    assert {name.split(".")[-1].split("[")[0] for name in names} == {"linear", "output"}
    assert freed(model(SHIFTED, tighten="lp")) >= {"net.output[0]", "net.output[1]"}
    assert freed(model(SHIFTED, region=po.Box(-np.ones(3), np.ones(3)))) == names


def obbt(m):
    po.obbt(model=m)


def without_rows(m):
    m.net.output_rows.deactivate()


def without_a_row(m):
    m.net.layer[0].linear_rows[0].deactivate()


def without_a_layer(m):
    m.net.layer[0].deactivate()


def without_integers(m):
    m.whole.domain = pyo.Reals
    for variable in m.net.component_data_objects(pyo.Var):
        variable.domain = pyo.Reals


@pytest.mark.parametrize("change", [obbt, without_rows, without_a_row, without_a_layer, without_integers])
def test_they_stay_where_more_is_behind_them_or_less(change):
    m = model(SHIFTED)
    change(m)
    assert not freed(m)


@pytest.mark.parametrize("change", ["setub", "fix"])
def test_what_someone_has_changed_since_is_a_condition(change):
    m = model(SHIFTED)
    most = po.solve(m).objective - 0.1
    getattr(m.net.output[0], change)(most)
    assert freed(m) >= {"net.output[1]"}
    assert "net.output[0]" not in freed(m)
    assert po.solve(m).objective == pytest.approx(most, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(PIECEWISE)))
def test_rows_of_maxima_and_smooth_units_do_not_imply_them(name):
    assert not freed(model(NETWORKS[name], formulation=po.auto()))


def test_balls_and_bounds_that_were_given_say_more():
    box = po.Box(*np.array([v.bounds for v in model(SHIFTED).x.values()]).T)
    assert not freed(model(SHIFTED, bounds=po.crown(SHIFTED, box)))
    assert not freed(model(SHIFTED, region=po.Zonotope(np.zeros(3), np.eye(3) + 0.1)))
