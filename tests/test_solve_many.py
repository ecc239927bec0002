"""Many models at once: what `solve` finds, whatever happens to the workers."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import chain
from killed import Killed

import polyopt as po
from polyopt import scenarios as module
from polyopt.activations import ReLU
from polyopt.processes import Processes
from polyopt.scenarios import Failure, solve_many

NET = chain(lambda n: ReLU(), sizes=(2, 8, 1))
LIMIT = 120  # seconds, after which a test has failed


@pytest.fixture(autouse=True)
def bounded():
    """No test waits for ever."""

    def late(*_):
        raise TimeoutError(f"the test took more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def processes():
    """Two of them, for all tests that do not kill them."""
    with Processes(2, preload=["polyopt.scenarios"]) as executor:
        yield executor


def scenario(k, formulation=None):
    """A network inside a MILP whose rules are local, for scenario k."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(-1, 1))
    m.z = pyo.Var(domain=pyo.Integers, bounds=(0, 3))
    m.fixed = pyo.Var(initialize=0.25)
    m.fixed.fix()
    m.net = pyo.Block()
    (y,) = po.add_network(m.net, NET, m.x, formulation=formulation or po.BigM())
    m.rows = pyo.Constraint([0, 1], rule=lambda m, i: m.x[i] + 0.3 * m.z <= 0.1 * k + m.fixed)
    m.objective = pyo.Objective(expr=y + m.z + 0.5 * m.x[0] + k, sense=pyo.maximize)
    return m


def quadratic(k):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2))
    m.row = pyo.Constraint(expr=m.x[0] + m.x[1] >= k)
    m.objective = pyo.Objective(expr=m.x[0] ** 2 + m.x[0] * m.x[1] + m.x[1] ** 2 - m.x[1] + 5)
    return m


def endless():
    """A model that takes far longer than any test waits."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(8), bounds=(-1, 1))
    m.net = pyo.Block()
    y = po.add_network(m.net, chain(lambda n: ReLU(), sizes=(8, 40, 40, 1)), m.x)
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    return m


def refused():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(0, 1))
    m.row = pyo.Constraint(expr=m.x**3 <= 0.5)
    return m


def values(model):
    return np.array([v.value for v in model.component_data_objects(pyo.Var)], dtype=float)


@pytest.fixture
def kill(monkeypatch, tmp_path):
    """A function: let the workers of model 0 die so many times; it returns one that counts their arrivals."""

    def prepare(deaths):
        monkeypatch.setattr(module, "work", Killed(deaths, str(tmp_path / "arrivals"), po.solve(scenario(0)).objective))
        return lambda: len((tmp_path / "arrivals").read_text())

    return prepare


@pytest.mark.parametrize("formulation", [po.BigM(), po.CuttingPlanes()], ids=["arrays", "whole"])
def test_the_same_as_one_after_the_other(processes, formulation):
    models = [scenario(k, formulation) for k in range(4)]
    found = {index: result for index, model, result in solve_many(models, processes) if model is models[index]}
    for index, model in enumerate(models):
        alone = scenario(index, formulation)
        result = po.solve(alone, threads=1)
        assert (found[index].status, found[index].nodes) == ("optimal", result.nodes)
        assert found[index].objective == pytest.approx(result.objective, abs=1e-9)
        assert found[index].bound == pytest.approx(result.bound, abs=1e-9)
        assert values(model) == pytest.approx(values(alone), abs=1e-9)
        assert model.fixed.value == 0.25


def test_models_whose_networks_ask_for_cuts_travel_whole():
    _, payload = module._packed(scenario(0, po.CuttingPlanes()))
    (copy,) = pickle.loads(payload)
    po.set_point(copy.net, [0.5, -0.5])
    assert po.separate(copy) == 0
    assert po.replay_error(copy.net) == 0.0


def test_quadratic_infeasible_and_unbounded_models(processes):
    models = [quadratic(2), quadratic(3), scenario(-30), quadratic(0)]
    models[3].objective.set_value(models[3].x[0])
    results = {index: result for index, _, result in solve_many(models, processes)}
    assert [results[i].status for i in range(4)] == ["optimal", "optimal", "infeasible", "unbounded"]
    assert results[0].objective == pytest.approx(6.75, abs=1e-6)
    assert results[1].objective == pytest.approx(po.solve(quadratic(3)).objective, abs=1e-6)
    assert models[2].z.value is None


def test_options_are_each_models(processes):
    models = [endless(), scenario(0)]
    po.set_point(models[0].net, np.zeros(8))
    start = float(models[0].objective.expr())
    results = {i: r for i, _, r in solve_many(models, processes, time_limit=0.5, warm_start=True)}
    assert (results[0].status, results[1].status) == ("time limit", "optimal")
    assert results[0].objective >= start - 1e-6
    assert results[0].bound > results[0].objective


def test_models_may_be_made_one_by_one_and_come_as_they_are_ready(processes):
    made, most = [], 0

    def scenarios():
        yield endless()
        for k in range(4):
            made.append(k)
            yield scenario(k)

    order = []
    for index, _, _ in solve_many(scenarios(), processes, workers=1, time_limit=2.0):
        order.append(index)
        most = max(most, len(made) + 1 - len(order))
    assert sorted(order) == list(range(5))
    assert order[0] != 0
    assert most <= 2  # a window of two tasks for the one worker


def test_a_model_that_is_refused_costs_nobody_else(processes):
    results = {i: r for i, _, r in solve_many([scenario(0), refused(), "no model", scenario(1)], processes)}
    assert [results[i].status for i in range(4)] == ["optimal", "error", "error", "optimal"]
    assert isinstance(results[1], Failure)
    assert "is not linear" in results[1].message
    assert "str is given" in results[2].message


def test_what_raises_in_the_worker_is_tried_again_and_then_reported(processes):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), domain=pyo.Binary)
    m.objective = pyo.Objective(expr=m.x[0] * m.x[1])
    ((_, _, result),) = solve_many([m], processes)
    assert result.status == "error"
    assert "quadratic objectives with integer variables" in result.message


def test_a_killed_process_costs_a_retry(kill):
    arrivals = kill(1)
    results = {i: r for i, _, r in solve_many([scenario(k) for k in range(5)], workers=2)}
    assert [results[i].status for i in range(5)] == ["optimal"] * 5
    assert arrivals() == 2


def test_a_model_that_kills_every_worker_fails_alone(kill):
    arrivals = kill(99)
    results = {i: r for i, _, r in solve_many([scenario(k) for k in range(5)], workers=2)}
    assert [results[i].status for i in range(5)] == ["error"] + ["optimal"] * 4
    assert "BrokenProcessPool" in results[0].message
    assert arrivals() == 3  # two retries


def test_a_broken_executor_of_the_caller_is_reported(kill):
    kill(1)
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        results = [r for _, _, r in solve_many([scenario(k) for k in range(5)], pool, workers=1)]
    assert len(results) == 5
    assert all(r.status == "error" and "BrokenProcessPool" in r.message for r in results)


def test_threads_are_workers_too():
    models = [scenario(k) for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = {i: r.objective for i, _, r in solve_many(models, pool, workers=4)}
    assert results == {k: pytest.approx(po.solve(scenario(k)).objective, abs=1e-9) for k in range(8)}


def test_leaving_the_loop_gives_up_the_rest():
    begin, before = time.perf_counter(), threading.active_count()
    for index, _, _ in solve_many([endless(), scenario(0), endless(), endless()], workers=2):
        assert index == 1
        break
    assert time.perf_counter() - begin < 15
    assert threading.active_count() == before


def test_ctrl_c_leaves_what_has_been_yielded():
    answers = solve_many([scenario(0), endless(), endless(), endless()], workers=2)
    index, model, _ = next(answers)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(answers)
    assert (index, po.replay_error(model.net) < 1e-6, list(answers)) == (0, True, [])


def test_progress_is_off_unless_asked_for(processes, capsys):
    assert len(list(solve_many([scenario(0)], processes))) == 1
    assert capsys.readouterr().err == ""
    assert len(list(solve_many([scenario(0)], processes, progress=True))) == 1
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"time_limit": 0.0}, {"workers": 0}, {"retries": -1}])
def test_options_out_of_range_are_refused_at_once(options):
    with pytest.raises(ValueError, match="solve_many"):
        solve_many([], **options)


def test_one_model_is_not_many():
    with pytest.raises(ValueError, match="an iterable of models"):
        solve_many(scenario(0))


def test_a_script_without_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from polyopt.processes import Processes\nProcesses(1)\n")
    root = Path(module.__file__).parents[1]
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=LIMIT, cwd=root)
    assert done.returncode == 1
    assert "RuntimeError: a worker process could not start" in done.stderr


def test_dask_with_a_worker_killed(kill):
    distributed = pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    arrivals = kill(1)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(processes=True, **options) as cluster, distributed.Client(cluster) as client:
        results = {i: r for i, _, r in solve_many([scenario(k) for k in range(6)], client.get_executor(), workers=2)}
    assert [results[i].status for i in range(6)] == ["optimal"] * 6
    assert results[5].objective == pytest.approx(po.solve(scenario(5)).objective, abs=1e-9)
    assert arrivals() == 2
