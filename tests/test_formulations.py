"""The contract of every formulation, over EXAMPLES and every kind of activation and graph.

Oracles: the network's own evaluation, sampled points, and the same networks as pyomo.gdp disjunctions, unit by unit.
"""

import itertools
from functools import cache

import numpy as np
import pyomo.environ as pyo
import pyomo.gdp as gdp
import pytest
from cases import NETWORKS, SIGN_KINDS

import polyopt as po
from formulations import EXACT, EXAMPLES, RELAXATIONS, MaxLayer, PiecewiseLinearLayer, SmoothLayer
from polyopt.activations import Tanh
from polyopt.layers import Affine

PAIRS = [pytest.param(f, name, id=f"{type(f).__name__}-{name}") for f in EXAMPLES for name in NETWORKS]


def embed(net, formulation, lower=-1.0, upper=1.0, bounds="crown"):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(lower, upper))
    m.net = pyo.Block()
    m.y = pyo.Reference(po.add_network(m.net, net, m.x, formulation=formulation, bounds=bounds))
    return m


def worst_violation(model):
    """How far the loaded point is outside rows, variable bounds and integrality."""
    worst = 0.0
    for row in model.component_data_objects(pyo.Constraint, active=True):
        worst = max(worst, -row.lslack(), -row.uslack())
    for v in model.component_data_objects(pyo.Var):
        worst = max(worst, v.lb - v.value if v.has_lb() else 0.0, v.value - v.ub if v.has_ub() else 0.0)
        worst = max(worst, abs(v.value - round(v.value)) if not v.is_continuous() else 0.0)
    return worst


def extreme(model, expression, sense):
    model.del_component("objective")
    model.objective = pyo.Objective(expr=expression, sense=sense)
    result = po.solve(model)
    assert result.status == "optimal"
    return result.objective


@pytest.mark.parametrize("bounds", ["crown", "interval"])
@pytest.mark.parametrize(("formulation", "name"), PAIRS)
def test_no_point_of_the_graph_is_cut_off(formulation, name, bounds):
    net = NETWORKS[name]
    m = embed(net, formulation, bounds=bounds)
    rng = np.random.default_rng(0)
    corners = rng.choice([-1.0, 1.0], size=(5, net.input_size))
    for x in np.vstack([rng.uniform(-1, 1, size=(15, net.input_size)), corners]):
        po.set_point(m.net, x)
        assert worst_violation(m) < 1e-9
        assert po.replay_error(m.net) < 1e-12


@pytest.mark.parametrize(("formulation", "name"), PAIRS)
def test_fixed_inputs_give_the_network_s_output(formulation, name):
    net = NETWORKS[name]
    m = embed(net, formulation)
    rng = np.random.default_rng(1)
    for x in rng.uniform(-1, 1, size=(2, net.input_size)):
        for i, value in enumerate(x):
            m.x[i].fix(value)
        y = net(x[None])[0, 0]
        low, high = extreme(m, m.y[0], pyo.minimize), extreme(m, m.y[0], pyo.maximize)
        if formulation in EXACT:
            assert (low, high) == pytest.approx((y, y), abs=1e-6)
        else:
            assert low - 1e-6 <= y <= high + 1e-6


def disjunctive_model(net, bounds):
    """The network with one pyomo.gdp disjunct for each piece of each unit, written from the layers' definitions."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.units = pyo.Block(pyo.Any)
    values = {"input": np.array(list(m.x.values()), dtype=object)}
    k = 0
    for node in net.nodes:
        joined = np.concatenate([values[name] for name in node.inputs])
        if hasattr(node.layer, "operators"):
            matrices = node.layer.operators(*node.input_shapes)
            dense = np.hstack([matrix if isinstance(matrix, np.ndarray) else matrix.toarray() for matrix in matrices])
            offset = node.layer.offset(*node.input_shapes)
            values[node.name] = (dense.astype(object) @ joined) + offset
            continue
        m.units[k].transfer_attributes_from(unit_disjunctions(node, joined, bounds.pre[k]))
        values[node.name] = np.array(list(m.units[k].h.values()), dtype=object)
        k += 1
    m.y = pyo.Expression(range(net.output_size), rule=lambda _, i: values[net.nodes[-1].name][i])
    return m


def unit_disjunctions(node, pre, bounds):
    b = pyo.Block(concrete=True)
    low, high = bounds.lower.tolist(), bounds.upper.tolist()
    b.a = pyo.Var(range(len(pre)), bounds=lambda _, i: (low[i], high[i]))
    b.link = pyo.Constraint(range(len(pre)), rule=lambda b, i: b.a[i] == pre[i])
    b.h = pyo.Var(range(node.size), bounds=(-60, 60))
    b.pieces = gdp.Disjunction(range(node.size), rule=lambda b, i: list(alternatives(node, b, i)))
    return b


def alternatives(node, b, i):
    if hasattr(node.layer, "groups"):
        group = list(node.layer.groups(*node.input_shapes)[i])
        for j in group:
            yield [b.h[i] == b.a[j], *(b.a[j] >= b.a[other] for other in group if other != j)]
        return
    breakpoints, slopes, intercepts = node.layer.pieces(node.input_shapes[0])
    ends = [None, *breakpoints[:, i].tolist(), None]
    for piece, (low, high) in enumerate(itertools.pairwise(ends)):
        rows = [b.h[i] == float(slopes[piece, i]) * b.a[i] + float(intercepts[piece, i])]
        rows += [b.a[i] >= low] if low is not None else []
        rows += [b.a[i] <= high] if high is not None else []
        yield rows


@cache
def disjunctive_optimum(name, sense):
    net = NETWORKS[name]
    reference = disjunctive_model(net, po.interval(net, po.Box(-np.ones(net.input_size), np.ones(net.input_size))))
    pyo.TransformationFactory("gdp.bigm").apply_to(reference)
    return extreme(reference, reference.y[0] - reference.y[1], sense)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("formulation", EXACT, ids=lambda f: type(f).__name__)
def test_the_optimum_is_that_of_the_disjunctions(formulation, name):
    m = embed(NETWORKS[name], formulation)
    for sense in (pyo.maximize, pyo.minimize):
        assert extreme(m, m.y[0] - m.y[1], sense) == pytest.approx(disjunctive_optimum(name, sense), abs=1e-5)
        if name not in SIGN_KINDS:  # there the optimum may lie on a jump, where the closure is larger than the graph
            assert po.replay_error(m.net) < 1e-5


@pytest.mark.parametrize("name", ["relu", "hardtanh", "sign", "residual"])
@pytest.mark.parametrize("formulation", EXACT, ids=lambda f: type(f).__name__)
def test_scip_agrees_with_highs(formulation, name):
    pytest.importorskip("pyscipopt", reason="pyscipopt is not installed")
    m = embed(NETWORKS[name], formulation)
    ours = extreme(m, m.y[0], pyo.maximize)
    pyo.SolverFactory("scip_direct", options={"display/verblevel": 0}).solve(m)
    assert pyo.value(m.objective) == pytest.approx(ours, abs=1e-5)


@pytest.mark.parametrize("formulation", RELAXATIONS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_relaxation_has_no_binaries_and_bounds_the_optimum(formulation, name):
    relaxed, exact = embed(NETWORKS[name], formulation), embed(NETWORKS[name], po.BigM())
    assert po.summary(relaxed.net).binaries == 0
    assert extreme(relaxed, relaxed.y[0], pyo.maximize) >= extreme(exact, exact.y[0], pyo.maximize) - 1e-6


@pytest.mark.parametrize("formulation", EXAMPLES, ids=lambda f: type(f).__name__)
def test_what_is_not_defined_names_the_layer_and_the_choices(formulation):
    net = po.Network.sequential([Affine([[1.0]], None), Tanh()], (1,))
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(-1, 1))
    m.net = pyo.Block()
    with pytest.raises(ValueError, match=r"layer '1' \(Tanh\) has no .* formulation.*defined for piecewise-linear"):
        po.add_network(m.net, net, [m.x], formulation=formulation)


@pytest.mark.parametrize("kind", [PiecewiseLinearLayer, MaxLayer, SmoothLayer])
def test_infinite_bounds_name_the_variable(kind):
    m = pyo.ConcreteModel()
    m.x, m.free = pyo.Var(bounds=(0, 1)), pyo.Var(bounds=(0, None))
    extra = {
        PiecewiseLinearLayer: (np.zeros((1, 1)), np.zeros((2, 1)), np.zeros((2, 1))),
        MaxLayer: ([np.array([0])], [0]),
        SmoothLayer: (),
    }[kind]
    with pytest.raises(ValueError, match=r"layer 'hidden'.*unit 0 has bounds.*inf.*'free' has no finite bounds"):
        kind("hidden", "ReLU", [0], [[1.0, 1.0]], [0.0], [m.x, m.free], [0.0], [np.inf], *extra)
