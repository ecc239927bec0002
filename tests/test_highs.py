"""The HiGHS interface: statuses, limits, starts, interruption, and what it refuses."""

import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pyomo.environ as pyo
import pyomo.gdp as gdp
import pytest
from cases import NETWORKS, chain

import polyopt as po
from polyopt.activations import ReLU


def hard_model(sizes=(8, 30, 30, 1)):
    """A network maximum that takes far longer than any test waits."""
    net = chain(lambda n: ReLU(), sizes=sizes)
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(sizes[0]), bounds=(-1, 1))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x)
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    return m


def linear_model(**options):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), **options)
    m.row = pyo.Constraint(expr=m.x[0] + 2 * m.x[1] <= 3)
    m.objective = pyo.Objective(expr=m.x[0] + m.x[1] + 1, sense=pyo.maximize)
    return m


def test_nothing_is_printed():
    """HiGHS 1.16 announces itself, on the system's own standard output."""
    code = "import pyomo.environ as pyo, polyopt as po; m = pyo.ConcreteModel(); m.x = pyo.Var(bounds=(0, 1)); "
    code += "m.o = pyo.Objective(expr=m.x); assert po.solve(m).status == 'optimal'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_linear_programs():
    result = po.solve(linear_model(bounds=(0, None)))
    assert (result.status, result.objective, result.bound, result.gap) == ("optimal", 4.0, 4.0, 0.0)


@pytest.mark.parametrize("domain", [pyo.Reals, pyo.Integers])
def test_unbounded_and_infeasible_are_told_apart(domain):
    result = po.solve(linear_model(domain=domain))
    assert (result.status, result.objective, result.bound) == ("unbounded", None, None)
    m = linear_model(domain=domain)
    m.contradiction = pyo.Constraint(expr=m.x[0] + 2 * m.x[1] >= 4)
    result = po.solve(m)
    assert (result.status, result.objective, result.gap) == ("infeasible", None, math.inf)


def test_crossed_variable_bounds_are_infeasible():
    m = linear_model(bounds=(0, 1))
    m.x[0].setlb(2.0)
    assert po.solve(m).status == "infeasible"


def test_convex_quadratic_objectives():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2))
    m.row = pyo.Constraint(expr=m.x[0] + m.x[1] >= 2)
    m.objective = pyo.Objective(expr=m.x[0] ** 2 + m.x[0] * m.x[1] + m.x[1] ** 2 - m.x[1] + 5)
    result = po.solve(m)
    # the row is tight: with x0 = 2 - x1 the objective is x1^2 - 3 x1 + 9, least at x1 = 1.5
    assert result.objective == pytest.approx(6.75, abs=1e-6)
    assert m.x[1].value == pytest.approx(1.5, abs=1e-5)


def test_fixed_variables_and_models_without_objective():
    m = linear_model(bounds=(0, 5))
    m.x[0].fix(2.0)
    assert po.solve(m).objective == pytest.approx(3.5)
    assert m.x[0].value == 2.0
    m.objective.deactivate()
    assert po.solve(m).status == "optimal"


def test_a_time_limit_returns_the_best_point_and_a_bound():
    m = hard_model()
    po.set_point(m.net, np.zeros(8))
    result = po.solve(m, time_limit=1.5, warm_start=True)
    assert result.status == "time limit"
    assert result.bound >= result.objective
    assert result.gap == pytest.approx((result.bound - result.objective) / max(1.0, abs(result.objective)))
    assert pyo.value(m.objective) == pytest.approx(result.objective)
    assert po.replay_error(m.net) < 1e-5


def test_a_start_is_a_point_from_the_first_moment():
    """Within a short limit the start itself comes back, or something better."""
    m = hard_model()
    samples = np.random.default_rng(0).uniform(-1, 1, size=(5000, 8))
    values = m.net.embedding.net(samples)[:, 0]
    po.set_point(m.net, samples[values.argmax()])
    result = po.solve(m, time_limit=2.0, warm_start=True)
    assert result.objective >= values.max() - 1e-6


def test_an_input_alone_is_start_enough():
    net = NETWORKS["relu"]
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x)
    m.objective = pyo.Objective(expr=y[0])
    m.x[0].value = 0.5
    assert po.solve(m, warm_start=True).status == "optimal"


@pytest.fixture
def ctrl_c():
    """What Python does with it by default; processes that run tests in parallel ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_returns_the_best_point_found():
    m = hard_model()
    po.set_point(m.net, np.zeros(8))
    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = po.solve(m, time_limit=120, warm_start=True)
    assert result.status == "interrupted"
    assert result.objective == pytest.approx(pyo.value(m.objective))
    assert result.bound >= result.objective


def test_threads_can_change_between_solves_and_the_gap_is_kept():
    objectives = [po.solve(linear_model(domain=pyo.Integers, bounds=(0, 9)), threads=n).objective for n in (1, 2, 1)]
    assert objectives == [4.0, 4.0, 4.0]


def test_a_wide_gap_ends_early():
    exact, rough = (po.solve(hard_model(sizes=(4, 14, 10, 1)), gap=gap) for gap in (1e-6, 0.5))
    assert (exact.status, rough.status) == ("optimal", "optimal")
    assert exact.gap <= 1e-5
    assert rough.objective - 1e-6 <= exact.objective <= rough.bound + 1e-6
    assert rough.nodes <= exact.nodes
    assert rough.gap > 1e-5


def test_progress_is_shown(capfd):
    po.solve(hard_model(), time_limit=1.0, progress=True)
    assert "bound" in capfd.readouterr().err
    po.solve(linear_model(bounds=(0, 1)))
    assert capfd.readouterr() == ("", "")


def test_what_highs_cannot_solve_is_refused():
    m = linear_model(bounds=(0, 1))
    m.nonlinear = pyo.Constraint(expr=m.x[0] * m.x[1] <= 1)
    with pytest.raises(ValueError, match="constraint 'nonlinear' is not linear"):
        po.solve(m)
    m.nonlinear.deactivate()
    m.second = pyo.Objective(expr=m.x[0])
    with pytest.raises(ValueError, match=r"2 active objectives \('objective', 'second'\)"):
        po.solve(m)
    m.second.deactivate()
    m.either = gdp.Disjunction(expr=[[m.x[0] <= 0], [m.x[0] >= 1]])
    with pytest.raises(ValueError, match=r"does not take: .*Disjunction 'either'"):
        po.solve(m)
    m = linear_model(bounds=(0, 1), domain=pyo.Binary)
    m.objective.expr = m.x[0] ** 2
    with pytest.raises(ValueError, match="quadratic objectives with integer variables"):
        po.solve(m)
    with pytest.raises(ValueError, match="time_limit is 0"):
        po.solve(linear_model(bounds=(0, 1)), time_limit=0)
