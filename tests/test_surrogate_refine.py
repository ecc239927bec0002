"""Refinement against functions that are known: nearer to the truth's optimum, honest about violation, interruptible."""

import numpy as np
import pyomo.environ as pyo
import pytest

import polyopt as po
from polyopt.activations import Tanh
from polyopt.highs import Result
from polyopt.layers import Affine
from polyopt.network import Network
from polyopt.surrogate.fit import fit_surrogate
from polyopt.surrogate.refine import refine
from polyopt.surrogate.surrogate import Surrogate

AXIS = np.linspace(-2.0, 2.0, 201)
GRID = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2)


def bowls(x):
    """Two outputs: a cost with several minima, and what is limited."""
    return np.array(
        [0.3 * (x[0] - 0.5) ** 2 + np.cos(2 * x[0]) * np.sin(1.5 * x[1]) + 0.1 * x[1] ** 2, x[0] + x[1] ** 2]
    )


def limited(surrogate, limit=1.5):
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(2), bounds=(-2, 2)), pyo.Block()
    y = po.add_network(m.net, surrogate.net, m.x)
    m.limit = pyo.Constraint(expr=y[1] <= limit)
    m.cost = pyo.Objective(expr=y[0])
    return m


@pytest.fixture(scope="module")
def start():
    X = np.random.default_rng(3).uniform(-2, 2, size=(30, 2))
    y = np.array([bowls(x) for x in X])
    return fit_surrogate(X, y, (8, 6), epochs=500, held_out=0.1, device="cpu", progress=False)


@pytest.fixture(scope="module")
def found(start):
    return refine(limited, start, bowls, rounds=5, feasibility=1e-2, progress=False)


def test_it_comes_nearer_to_the_optimum_of_the_truth(found):
    truth = np.array([bowls(x) for x in GRID])
    optimum = truth[truth[:, 1] <= 1.5, 0].min()
    assert found.best.violation <= 1e-2
    assert found.best.objective == min(one.objective for one in found.history if one.violation <= 1e-2)
    assert found.best.objective - optimum < 0.5 * (found.history[0].objective - optimum)


def test_what_it_says_of_a_round_is_so(found, start):
    for one in found.history:
        y = bowls(one.x[0])
        assert (one.true[0] == y).all()
        assert one.objective == pytest.approx(y[0])
        assert one.violation == pytest.approx(max(0.0, y[1] - 1.5))
        assert one.predicted_objective == pytest.approx(one.predicted[0, 0], abs=1e-5)
        assert one.bound == pytest.approx(one.predicted_objective, abs=1e-4)
        assert one.status == "optimal"
    assert found.best_surrogate(found.best.x) == pytest.approx(found.best.predicted)
    learnt = found.surrogate.points[len(start.points) :]
    assert (learnt == np.concatenate([one.x for one in found.history])[: len(learnt)]).all()
    assert len(str(found).splitlines()) == len(found.history) + 2


def line(slope, domain=((-1.0, 1.0),)):
    lower, upper = np.transpose(domain)
    return Surrogate(Network.sequential([Affine([slope], [0.0])], (len(slope),)), domain=po.Box(lower, upper))


def one_input(surrogate, sense=pyo.minimize):
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(bounds=(-1, 1)), pyo.Block()
    m.cost = pyo.Objective(expr=po.add_network(m.net, surrogate.net, [m.x])[0], sense=sense)
    return m


def run(model, surrogate, truth, *later, **options):
    """With a given list of surrogates instead of training."""
    later = iter(later)
    return refine(model, surrogate, truth, refit=lambda old, X, y: next(later), progress=False, **options)


def test_it_stops_where_truth_and_promise_agree():
    result = run(one_input, line([1.0]), lambda x: x[0] + 0.5, line([1.5]))
    assert (result.stopped, len(result.history)) == ("repeated", 2)  # the point comes again, the promise is off by 1
    result = run(one_input, line([1.0]), lambda x: 2 * x[0], line([-2.0]), line([2.0]))
    assert (result.stopped, len(result.history)) == ("tolerance", 3)
    assert (result.best.x, result.best.objective) == (-1.0, -2.0)
    assert result.best_surrogate([[1.0]]) == 1.0  # the first round's
    assert result.surrogate([[1.0]]) == 2.0


def test_the_sense_of_the_objective_counts():
    def upwards(surrogate):
        return one_input(surrogate, pyo.maximize)

    result = run(upwards, line([1.0]), lambda x: -x[0], line([-1.0]), line([1.0]))
    assert [one.objective for one in result.history] == [-1.0, 1.0]
    assert result.best is result.history[1]


def test_without_a_feasible_point_the_least_violated_is_best():
    def floor(surrogate):
        m = one_input(surrogate)
        m.row = pyo.Constraint(expr=m.net.output[0] >= -0.5)
        return m

    result = run(floor, line([1.0]), lambda x: 1.7 * x[0] + 0.05, line([-1.0]), line([1.0]), rounds=2)
    assert [round(one.violation, 6) for one in result.history] == [0.3, 0.0]
    assert result.best is result.history[1]  # though its objective is worse
    result = run(floor, line([1.0]), lambda x: x[0] * 2 - 5, line([-1.0]), line([1.0]), rounds=2)
    assert result.best.violation == pytest.approx(3.5)
    assert result.stopped == "rounds"


def test_bounds_of_the_outputs_that_are_the_users_count():
    def bounded(surrogate):
        m = one_input(surrogate)
        m.net.output[0].setlb(-0.5)
        return m

    (one,) = run(bounded, line([1.0]), lambda x: x[0] - 0.25, line([1.0]), rounds=1).history
    assert one.violation == pytest.approx(0.25)
    (one,) = run(one_input, line([1.0]), lambda x: x[0] - 0.25, line([1.0]), rounds=1).history
    assert one.violation == 0.0


def test_copies_of_a_surrogate_are_all_asked():
    def steps(surrogate):
        m = pyo.ConcreteModel()
        m.x, m.net = pyo.Var(range(3), bounds=lambda _, t: (-1, t)), pyo.Block(range(3))
        y = [po.add_network(m.net[t], surrogate.net, [m.x[t]])[0] for t in range(3)]
        m.cost = pyo.Objective(expr=sum(y), sense=pyo.maximize)
        return m

    asked, taught = [], []

    def truth(x):
        asked.append(x.item())
        return 2 * x

    def refit(old, X, y):
        taught.append((X, y))
        return line([2.0])

    result = refine(steps, line([1.0], [(-1.0, 2.0)]), truth, refit=refit, progress=False)
    assert asked == [0.0, 1.0, 2.0]  # and not again in the second round
    assert [X.ravel().tolist() for X, _ in taught] == [[0.0, 1.0, 2.0]]
    assert [y.ravel().tolist() for _, y in taught] == [[0.0, 2.0, 4.0]]
    assert [one.objective for one in result.history] == [6.0, 6.0]
    assert result.stopped == "tolerance"


def test_interrupted_in_the_truth_it_returns_the_best_so_far(start):
    calls = []

    def truth(x):
        calls.append(x)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return bowls(x)

    result = refine(limited, start, truth, feasibility=0.1, tolerance=0.0, progress=False)
    assert result.stopped == "interrupted"
    assert len(result.history) == 2
    assert result.best in result.history


def test_interrupted_before_the_first_answer_there_is_no_best():
    def truth(x):
        raise KeyboardInterrupt

    result = run(one_input, line([1.0]), truth)
    assert (result.best, result.history, result.stopped) == (None, (), "interrupted")


def test_what_the_solver_did_not_find_ends_it():
    def impossible(surrogate):
        m = one_input(surrogate)
        m.row = pyo.Constraint(expr=m.x >= 2)
        return m

    result = run(impossible, line([1.0]), lambda x: x)
    assert (result.best, result.stopped) == (None, "infeasible")
    late = Result("time limit", None, None, np.inf, 0, 1.0)
    assert run(one_input, line([1.0]), lambda x: x, solver=lambda model, time_limit: late).stopped == "time limit"
    assert run(one_input, line([1.0]), lambda x: -x, line([-1.0]), time_limit=1e-9).stopped == "time limit"


def test_errors_say_what_is_missing():
    with pytest.raises(ValueError, match=r"give refit\(surrogate, X, y\)"):
        refine(one_input, line([1.0]), lambda x: x)
    with pytest.raises(ValueError, match="rounds is 0"):
        run(one_input, line([1.0]), lambda x: x, rounds=0)
    with pytest.raises(ValueError, match=r"must be 1 finite numbers"):
        run(one_input, line([1.0]), lambda x: [1.0, 2.0])
    with pytest.raises(ValueError, match=r"must be 1 finite numbers"):
        run(one_input, line([1.0]), lambda x: np.nan)
    with pytest.raises(ValueError, match="holds no copy of the surrogate"):
        run(lambda _: one_input(line([3.0])), line([1.0]), lambda x: x)

    def two_goals(surrogate):
        m = one_input(surrogate)
        m.other = pyo.Objective(expr=m.x)
        return m

    def reduced(surrogate):
        m = pyo.ConcreteModel()
        m.x, m.net = pyo.Var(bounds=(-1, 1)), pyo.Block()
        y = po.add_network(m.net, surrogate.net, [m.x], formulation=po.ReducedSpace())
        m.cost = pyo.Objective(expr=y[0])
        return m

    fine = Result("optimal", 0.0, 0.0, 0.0, 0, 0.1)

    def solver(model, time_limit):
        model.x.value = 0.0
        return fine

    with pytest.raises(ValueError, match="2 active objectives"):
        run(two_goals, line([1.0]), lambda x: x, solver=solver)
    curve = Surrogate(Network.sequential([Tanh()], (1,)), domain=po.Box([-1.0], [1.0]))
    with pytest.raises(ValueError, match="are expressions"):
        run(reduced, curve, lambda x: x, solver=solver)
