"""Copies of a network on an indexed block: the models that single blocks make, built in one call."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, chain

import polyopt as po
from polyopt import copies
from polyopt.activations import ReLU

NET = chain(lambda n: ReLU(), sizes=(3, 4, 3, 2))
LOWER = {"a": -1.0, "b": -0.2, 3: -1.0}  # of the first input of each copy; two copies are equal


def model(net=NET, one_by_one=False, **options):
    """Three copies, chained: the second input of each is tied to an output of the copy before."""
    m = pyo.ConcreteModel()
    m.steps = pyo.Set(initialize=list(LOWER))
    m.x = pyo.Var(m.steps, range(net.input_size), bounds=lambda _, t, i: (LOWER[t] if i == 0 else -1.0, 1.0))
    m.net = pyo.Block(m.steps)
    inputs = {t: [m.x[t, i] for i in range(net.input_size)] for t in m.steps}
    if one_by_one:
        y = {t: po.add_network(m.net[t], net, inputs[t], **options) for t in m.steps}
    else:
        y = po.add_network(m.net, net, inputs, **options)
    m.tie = pyo.Constraint(expr=m.x["b", 1] == 0.1 * y["a"][0])
    m.tie_again = pyo.Constraint(expr=m.x[3, 1] == 0.1 * y["b"][0])
    m.objective = pyo.Objective(expr=sum(y[t][0] - y[t][1] for t in m.steps))
    return m, y


def columns_by_name(m):
    return {v.name: (v.domain.name, v.lb, v.ub) for v in m.component_data_objects(pyo.Var)}


@pytest.mark.parametrize(("name", "bounds"), [("relu", "crown"), ("maxout", "interval")])
def test_the_model_is_that_of_single_blocks(name, bounds):
    net = NET if name == "relu" else NETWORKS[name]
    (together, y), (apart, _) = (model(net, one, bounds=bounds) for one in (False, True))
    assert list(y) == list(LOWER)
    assert [v.name for v in y["b"]] == [f"net[b].output[{i}]" for i in range(net.output_size)]
    ours, theirs = columns_by_name(together), columns_by_name(apart)
    assert list(ours) == list(theirs)
    for key, (domain, low, high) in ours.items():
        assert (domain, low, high) == (
            theirs[key][0],
            *(pytest.approx(e, rel=1e-12, abs=1e-12) for e in theirs[key][1:]),
        )
    found, expected = po.solve(together), po.solve(apart)
    assert found.status == expected.status == "optimal"
    assert found.objective == pytest.approx(expected.objective, abs=1e-6)
    assert po.replay_error(together.net) <= 1e-6


def test_each_copy_has_bounds_over_its_own_inputs_and_equal_ones_share_them():
    m, _ = model()
    held = {t: m.net[t].embedding.bounds for t in m.steps}
    assert held["a"].pre[0].lower is held[3].pre[0].lower
    for t in m.steps:
        alone = po.crown(NET, po.Box([LOWER[t], -1.0, -1.0], [1.0] * 3))
        for ours, theirs in zip((*held[t].pre, held[t].output), (*alone.pre, alone.output), strict=True):
            np.testing.assert_allclose([ours.lower, ours.upper], [theirs.lower, theirs.upper], rtol=1e-12, atol=1e-12)
    assert (held["b"].output.upper - held["b"].output.lower < held["a"].output.upper - held["a"].output.lower).all()


def test_one_batch_bounds_all_copies(monkeypatch):
    seen, kept = [], copies.interval
    monkeypatch.setattr(copies, "interval", lambda net, box: seen.append(box.batch_shape) or kept(net, box))
    model(bounds="interval")
    assert seen == [(2,)]


def test_no_sampled_point_is_cut_off():
    m, y = model()
    m.tie.deactivate()
    m.tie_again.deactivate()
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = {t: rng.uniform([LOWER[t], -1.0, -1.0], 1.0) for t in m.steps}
        po.set_point(m.net, points)
        for row in m.component_data_objects(pyo.Constraint, active=True):
            assert row.slack() >= -1e-9
        for t in m.steps:
            np.testing.assert_allclose([v.value for v in y[t]], NET(points[t][None])[0], atol=1e-12)
        assert po.replay_error(m.net) <= 1e-12
        for v in m.component_data_objects(pyo.Var):
            assert v.lb - 1e-9 <= v.value <= v.ub + 1e-9
    y["b"][0].value += 0.25
    assert po.replay_error(m.net) == pytest.approx(0.25)


def test_summary_is_the_sum_of_the_copies():
    m, _ = model()
    whole, parts = po.summary(m.net), [po.summary(m.net[t]) for t in m.steps]
    for field in ("active", "inactive", "unstable", "binaries", "rows", "columns", "nonzeros"):
        assert getattr(whole, field) == sum(getattr(part, field) for part in parts)
    assert whole.formulations == parts[0].formulations


def test_given_bounds_are_for_all_copies():
    wide = po.interval(NET, po.Box([-1.0] * 3, [1.0] * 3))
    m, _ = model(bounds=wide)
    assert all(m.net[t].embedding.bounds.output is wide.output for t in m.steps)
    narrow = po.interval(NET, po.Box([-0.5, -1.0, -1.0], [1.0] * 3))
    with pytest.raises(ValueError, match=r"copy 'a': .* input 0 ranges over \[-1.0, 1.0\]"):
        model(bounds=narrow)


def test_errors_name_the_index_and_leave_no_trace():
    m = pyo.ConcreteModel()
    m.x, m.free = pyo.Var(range(3), range(3), bounds=(-1, 1)), pyo.Var()
    m.net = pyo.Block(range(3))
    inputs = {t: [m.x[t, i] for i in range(3)] for t in range(3)}
    with pytest.raises(ValueError, match=r"add_network: 'net' is an indexed block, but inputs is a list"):
        po.add_network(m.net, NET, list(inputs.values()))
    with pytest.raises(ValueError, match=r"the block has index 2, but inputs has not"):
        po.add_network(m.net, NET, {0: inputs[0], 1: inputs[1]})
    with pytest.raises(ValueError, match=r"inputs has index 7, but the block has not"):
        po.add_network(m.net, NET, inputs | {7: inputs[0]})
    with pytest.raises(ValueError, match=r"copy 1: .*2 inputs are given"):
        po.add_network(m.net, NET, inputs | {1: inputs[1][:2]})
    with pytest.raises(ValueError, match=r"copy 2: input 0 depends on variable 'free'"):
        po.add_network(m.net, NET, inputs | {2: [m.free, *inputs[2][1:]]})
    m.x[1, 0].setlb(0)
    with pytest.raises(ValueError, match=r"copy 0: .*input 0 .* is in a simplex"):
        po.add_network(m.net, NET, inputs, simplices=[[0, 1]])
    m.x[0, 0].setlb(0), m.x[0, 1].setlb(0)
    with pytest.raises(ValueError, match=r"copy 1: .*input 1 .* is in a simplex"):  # after copy 0 has been written
        po.add_network(m.net, NET, inputs, simplices=[[0, 1]])
    assert not any(m.net[t].component_map() or hasattr(m.net[t], "embedding") for t in m.net)
    assert po.add_network(m.net, NET, inputs).keys() == inputs.keys()
    with pytest.raises(ValueError, match=r"block 'net\[0\]' already holds a network"):
        po.add_network(m.net, NET, inputs)


def test_an_empty_index_set_has_no_copies():
    m = pyo.ConcreteModel()
    m.net = pyo.Block([])
    assert po.add_network(m.net, NET, {}) == {}


def test_expressions_formulations_and_tightening_of_copies():
    m, _ = model(formulation=po.Partition(2), tighten="lp")
    plain, _ = model()
    assert po.solve(m).objective == pytest.approx(po.solve(plain).objective, abs=1e-6)
    other = pyo.ConcreteModel()
    other.u = pyo.Var(range(2), bounds=(-1, 1))
    other.net = pyo.Block(range(2))
    y = po.add_network(other.net, NET, {t: [other.u[t], 2 * other.u[t] - 0.5, -other.u[t]] for t in range(2)})
    other.objective = pyo.Objective(expr=y[0][0] - y[1][0])
    found = po.solve(other)
    line = np.linspace(-1, 1, 2001)
    values = NET(np.stack([line, 2 * line - 0.5, -line], axis=1))[:, 0]
    assert found.objective == pytest.approx(values.min() - values.max(), abs=1e-2)
    assert po.replay_error(other.net) <= 1e-6
