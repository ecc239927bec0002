"""Cut rounds: through `polyopt.solve`, and by hand with any LP solver."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, chain

import polyopt as po
from polyopt.activations import Clip, ReLU
from polyopt.cut_rounds import cut_rounds

NET = chain(lambda n: ReLU(), sizes=(6, 14, 10, 1))


def model(formulation, net=NET, bounds="interval"):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, m.x, formulation=formulation, bounds=bounds)
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    return m


def cuts(m):
    return [row for row in m.component_data_objects(pyo.Constraint) if "cuts_" in row.parent_component().local_name]


@pytest.fixture(scope="module")
def optimum():
    return po.solve(model(po.BigM())).objective


@pytest.mark.parametrize("bounds", ["interval", "crown"])
def test_solve_adds_cuts_and_finds_the_same_optimum(optimum, bounds):
    m = model(po.CuttingPlanes(), bounds=bounds)
    result = po.solve(m)
    assert result.status == "optimal"
    assert result.objective == pytest.approx(optimum, abs=1e-5)
    assert cuts(m)
    assert po.replay_error(m.net) < 1e-5


def test_no_cut_excludes_a_point_of_the_graph():
    net = chain(lambda n: Clip(-1.0, 1.5), sizes=(6, 14, 10, 1))
    m = model(po.CuttingPlanes(), net)
    po.solve(m, time_limit=5)
    assert cuts(m)
    rng = np.random.default_rng(0)
    for x in np.vstack([rng.uniform(-1, 1, size=(50, 6)), rng.choice([-1.0, 1.0], size=(50, 6))]):
        po.set_point(m.net, x)
        assert min(row.uslack() for row in cuts(m)) > -1e-9


def relaxation(m):
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
    return m


def test_rounds_by_hand_with_another_solver(optimum):
    m = relaxation(model(po.CuttingPlanes()))
    bounds = []
    for _ in range(5):
        pyo.SolverFactory("appsi_highs").solve(m)
        bounds.append(pyo.value(m.objective))
        if not po.separate(m.net):
            break
    assert (np.diff(bounds) <= 1e-7).all()
    assert bounds[-1] < bounds[0] - 0.1
    assert bounds[-1] >= optimum - 1e-6


def test_the_number_of_cuts_and_rounds_is_kept():
    m = relaxation(model(po.CuttingPlanes(per_round=2)))
    po.solve(m)
    before = len(cuts(m))
    assert po.separate(m.net) <= 4  # two for each of two layers
    m = model(po.CuttingPlanes(max_rounds=0))
    assert po.solve(m, time_limit=1.0).status in ("time limit", "optimal")
    assert not cuts(m)
    assert before <= 2 * 2 * 10


def test_slack_cuts_are_dropped_and_no_progress_ends():
    m = relaxation(model(po.CuttingPlanes(max_rounds=50)))
    calls = []

    def relax():
        pyo.SolverFactory("appsi_highs").solve(m)
        calls.append(pyo.value(m.objective))
        return calls[-1]

    added = cut_rounds(m, relax)
    assert added == len(cuts(m))
    assert any(not row.active for row in cuts(m))
    assert len(calls) < 50
    # the last round moved the bound by little, or its point violates no cut
    assert calls[-2] - calls[-1] < 1e-3 * abs(calls[-1]) or not po.separate(m.net)


def test_a_bound_that_does_not_move_ends_the_rounds():
    m = relaxation(model(po.CuttingPlanes(max_rounds=50)))
    calls = []

    def relax():
        pyo.SolverFactory("appsi_highs").solve(m)
        calls.append(1.0)
        return 1.0

    assert cut_rounds(m, relax) == len(cuts(m)) > 0
    assert len(calls) == 2


def test_the_values_given_as_a_start_survive_the_rounds():
    m = model(po.CuttingPlanes())
    samples = np.random.default_rng(0).uniform(-1, 1, size=(2000, 6))
    values = NET(samples)[:, 0]
    po.set_point(m.net, samples[values.argmax()])
    result = po.solve(m, time_limit=4.0, warm_start=True)
    assert result.objective >= values.max() - 1e-6


def test_blocks_without_cuts_take_no_part():
    m = model(po.BigM())
    m.empty = pyo.Block()
    assert po.separate(m.net) == po.separate(m.empty) == 0


def test_maxima_keep_their_big_m():
    m = model(po.CuttingPlanes(), NETWORKS["maxout"])
    assert po.solve(m).objective == pytest.approx(po.solve(model(po.BigM(), NETWORKS["maxout"])).objective, abs=1e-5)
    assert not cuts(m)
