"""Inputs in simplices (one-hot inputs): the hulls, cuts and networks over products of simplices and intervals.

Tried by a script once: 33 mutations (a row left out, a coefficient off by a tenth, the wrong item of the knapsack, a
position not mapped); each makes a test here fail.
"""

import itertools

import numpy as np
import pyomo.environ as pyo
import pyomo.gdp as gdp
import pytest
import scipy.optimize
from cases import affine, chain

import polyopt as po
from formulations import BigM, CuttingPlanes, Extended, MaxLayer, Partition, PiecewiseLinearLayer
from polyopt.activations import Clip, LeakyReLU, Maxout, ReLU
from polyopt.layers import Affine, Concat

FUNCTIONS = {"relu": ReLU(), "leaky": LeakyReLU(0.1), "steep": LeakyReLU(1.5), "hardtanh": Clip(-1.0, 1.0)}
GROUPS = [[0, 3, 4, 7], [2, 1, 5, 6]]  # of nine inputs; the last is in no simplex
LOW = np.array([0.0] * 8 + [-0.3])
WEIGHTS = {
    "whole": [4.5, -1.8, -2.0, 3.0, 4.0, -0.5, -1.5, 3.5, 0.4],
    "gaps": [2.0, 1.8, 0.0, 1.5, 0.0, 0.0, 1.2, 1.0, 0.0],
    "negative gap": [4.5, -1.8, -2.0, 3.0, 4.0, 0.0, -1.5, 3.5, 0.3],
    "tiny": [2.0, 1.8, -1e-8, 1.5, 1e-9, 0.9, 1.2, 1.0, 0.4],
    "untouched": [3.0, 0.0, 0.0, 2.6, -0.7, 0.0, 0.0, 1.5, 0.5],
}
UPPERS = {"unit": np.ones(9), "tight": np.array([0.6, 1.0, 0.5, 1.0, 0.7, 0.8, 1.0, 0.5, 1.0])}
BIAS = -2.0


def relaxed(m):
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
    return m


def maximum(m, expression):
    m.del_component("objective")
    m.objective = pyo.Objective(expr=expression, sense=pyo.maximize)
    result = po.solve(m)
    assert result.status == "optimal"
    return result.objective


def dot(coefficients, variables):
    return sum(c * v for c, v in zip(np.asarray(coefficients).tolist(), variables, strict=True))


def inputs_model(groups=GROUPS, low=LOW, high=UPPERS["unit"]):
    """A model that holds the inputs, with their rows, and an empty block."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(len(low)), bounds=lambda _, i: (low[i], high[i]))
    m.one = pyo.Constraint(range(len(groups)), rule=lambda m, k: sum(m.x[j] for j in groups[k]) == 1)
    m.unit = pyo.Block()
    return m


def unit(function, formulation, weight, high=UPPERS["unit"], ends=None, simplices=GROUPS):
    """h = f(w x + b) over the inputs; the bounds of the pre-activation are the box's or, where given, tighter ones."""
    m, weight = inputs_model(high=high), np.array(weight)
    if ends is None:
        ends = np.sort(weight[:, None] * np.column_stack([LOW, high]), axis=1).sum(0) + BIAS
    x, pieces = list(m.x.values()), function.pieces((1,))
    bounds = [ends[0]], [ends[1]]
    layer = PiecewiseLinearLayer("unit", "f", [0], [weight], [BIAS], x, *bounds, *pieces, simplices=simplices)
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, layer))
    return m, layer


def solved(objective, low, high, total=1.0, rows=(), sides=()):
    """scipy's solution of max objective x, low <= x <= high, the inputs of each simplex adding up to the total."""
    ones = np.zeros((len(GROUPS), len(LOW)))
    for k, group in enumerate(GROUPS):
        ones[k, group] = 1.0
    rows = {"A_ub": np.array(rows), "b_ub": sides} if len(rows) else {}
    sums = {"A_eq": ones, "b_eq": [total] * len(GROUPS)}
    return scipy.optimize.linprog(-np.asarray(objective), **rows, **sums, bounds=np.column_stack([low, high]))


def best_over_simplices(objective, rows=(), sides=(), high=UPPERS["unit"]):
    """max objective x over the inputs' domain with rows x <= sides; -inf where nothing is left."""
    found = solved(objective, LOW, high, rows=rows, sides=sides)
    return -found.fun if found.success else -np.inf


def true_maximum(function, weight, c, d, high=UPPERS["unit"], ends=(-1e3, 1e3)):
    """max c x + d f(w x + b) over the domain: the best of one linear program for each piece."""
    breakpoints, slopes, intercepts = (part[:, 0] for part in function.pieces((1,)))
    weight, best = np.array(weight), -np.inf
    for k, (t, u) in enumerate(itertools.pairwise([-1e3, *breakpoints, 1e3])):
        t, u = max(t, ends[0]), min(u, ends[1])
        value = best_over_simplices(
            np.array(c) + d * slopes[k] * weight, [-weight, weight], [BIAS - t, u - BIAS], high=high
        )
        best = max(best, value + d * (slopes[k] * BIAS + intercepts[k]))
    return best


def objectives(count, weight, function=FUNCTIONS["relu"], seed=0):
    """Random (c, d): c x is near -d s w x with s among the slopes of f, for which relaxations differ most."""
    rng, slopes = np.random.default_rng(seed), function.pieces((1,)).slopes
    d, slope = rng.choice([-1.0, 1.0], size=(count, 1)), rng.uniform(slopes.min(), slopes.max(), size=(count, 1))
    return np.hstack([slope * -d * weight + rng.normal(0.0, 0.15, size=(count, 9)), d])


@pytest.mark.parametrize("ends", [None, (-1.3, 0.9)], ids=["box", "tight ends"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_extended_relaxation_is_the_convex_hull(name, weight, ends):
    m, _ = unit(FUNCTIONS[name], Extended(), WEIGHTS[weight], ends=ends)
    relaxed(m)
    for *c, d in objectives(10, WEIGHTS[weight], FUNCTIONS[name]):
        value = maximum(m, dot([*c, d], [*m.x.values(), m.h[None]]))
        expected = true_maximum(FUNCTIONS[name], WEIGHTS[weight], c, d, ends=ends or (-1e3, 1e3))
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_extended_relaxation_is_the_convex_hull_within_tighter_bounds_of_the_inputs(name):
    m, _ = unit(FUNCTIONS[name], Extended(), WEIGHTS["whole"], UPPERS["tight"])
    relaxed(m)
    for *c, d in objectives(10, WEIGHTS["whole"], FUNCTIONS[name], seed=1):
        value = maximum(m, dot([*c, d], [*m.x.values(), m.h[None]]))
        expected = true_maximum(FUNCTIONS[name], WEIGHTS["whole"], c, d, UPPERS["tight"])
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_extended_is_ideal_in_sigma_too(name, weight):
    m, _ = unit(FUNCTIONS[name], Extended(), WEIGHTS[weight])
    relaxed(m)
    columns = [*m.x.values(), m.h[None], *m.unit.sigma.values()]
    for weights in np.random.default_rng(1).normal(size=(8, len(columns))):
        maximum(m, dot(weights, columns))
        assert all(abs(s.value - round(s.value)) < 1e-6 for s in m.unit.sigma.values())


def converged(m, layer, expression):
    for _ in range(200):
        value = maximum(m, expression)
        if not CuttingPlanes(tolerance=1e-9).separate(m.unit, layer):
            return value
    raise AssertionError("the cuts do not converge")


@pytest.mark.parametrize("high", UPPERS)
@pytest.mark.parametrize("weight", ["whole", "gaps"])
@pytest.mark.parametrize("name", ["relu", "leaky", "steep"])
def test_cut_rounds_reach_the_convex_hull(name, weight, high):
    for *c, d in objectives(8, WEIGHTS[weight], FUNCTIONS[name]):
        m, layer = unit(FUNCTIONS[name], CuttingPlanes(), WEIGHTS[weight], UPPERS[high])
        value = converged(relaxed(m), layer, dot([*c, d], [*m.x.values(), m.h[None]]))
        expected = true_maximum(FUNCTIONS[name], WEIGHTS[weight], c, d, UPPERS[high])
        assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("high", UPPERS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_cut_is_as_tight_as_the_best_share_of_the_inputs(weight, high):
    """At (x, sigma) the hull's h is max w x^1 + b sigma over x^1 in sigma D with x - x^1 in (1 - sigma) D, by scipy."""
    w, rng = np.array(WEIGHTS[weight]), np.random.default_rng(0)
    for sigma in rng.uniform(0.05, 0.95, size=8):
        m, layer = unit(ReLU(), CuttingPlanes(), w, UPPERS[high])
        corners = [solved(rng.normal(size=9), LOW, UPPERS[high]).x for _ in range(8)]
        x = rng.dirichlet(np.ones(8)) @ corners
        for variable, value in zip(m.x.values(), x.tolist(), strict=True):
            variable.value = value
        m.unit.sigma[0].value, m.h[None].value = sigma, 20.0
        assert CuttingPlanes().separate(m.unit, layer) == 1
        least = np.maximum(LOW * sigma, x - UPPERS[high] * (1 - sigma))
        most = np.minimum(UPPERS[high] * sigma, x - LOW * (1 - sigma))
        best = -solved(w, least, most, total=sigma).fun + BIAS * sigma
        assert 20.0 + m.unit.cuts_0[0].uslack() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("weight", ["whole", "gaps"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_simplices_the_bounds_are_weaker(name, weight):
    """The inputs' rows are in the model either way. Cuts for hardtanh are no hull, but gain too."""
    gains = []
    for *c, d in objectives(10, WEIGHTS[weight], FUNCTIONS[name], seed=8):
        values = []
        for formulation, known in itertools.product([Extended(), CuttingPlanes()], [GROUPS, ()]):
            m, layer = unit(FUNCTIONS[name], formulation, WEIGHTS[weight], simplices=known)
            expression = dot([*c, d], [*relaxed(m).x.values(), m.h[None]])
            cutting = isinstance(formulation, CuttingPlanes)
            values.append(converged(m, layer, expression) if cutting else maximum(m, expression))
        gains.append([values[1] - values[0], values[3] - values[2]])
    assert np.min(gains) > -1e-6
    assert (np.max(gains, axis=0) > 0.01).all()


def domain_points(rng, count):
    """Points of the domain: corners of the simplices and mixtures."""
    points = rng.uniform(LOW, 1.0, size=(count, len(LOW)))
    for group in GROUPS:
        points[: count // 2, group] = rng.dirichlet(np.ones(len(group)), size=count // 2)
        points[count // 2 :, group] = np.eye(len(group))[rng.integers(len(group), size=count - count // 2)]
    return points


def slack(m):
    rows = m.component_data_objects(pyo.Constraint, active=True)
    return min(min(row.lslack(), row.uslack()) for row in rows)


@pytest.mark.parametrize(
    "formulation", [Extended(), Partition(2), Partition(by=[[0], [3], [4, 7], [2], [1], [5], [6, 8]])]
)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_point_of_the_graph_is_cut_off(name, weight, formulation):
    m, layer = unit(FUNCTIONS[name], formulation, WEIGHTS[weight])
    for x in domain_points(np.random.default_rng(0), 30):
        for i, value in enumerate(x.tolist()):
            m.x[i].value = value
        pre = layer.weight @ x + layer.bias
        layer.set_pre(m.unit, pre)
        formulation.set_values(m.unit, layer, pre)
        assert m.h[None].value == pytest.approx(FUNCTIONS[name](pre[None])[0, 0])
        assert slack(m) > -1e-9


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_cut_excludes_a_point_of_the_graph(name):
    """Cuts at points of the relaxation, at random ones, and at ones that are not even in the simplices."""
    formulation = CuttingPlanes(tolerance=1e-9)
    m, layer = unit(FUNCTIONS[name], formulation, WEIGHTS["gaps"])
    rng = np.random.default_rng(0)
    added = 0
    for x in np.vstack([domain_points(rng, 20), rng.uniform(LOW, 1.0, size=(20, 9))]):
        for variable, value in zip(m.x.values(), x.tolist(), strict=True):
            variable.value = value
        for variable in m.unit.component_data_objects(pyo.Var):
            variable.value = rng.uniform(0, 1) if variable.is_binary() else rng.uniform(0.5, 3.0)
        added += formulation.separate(m.unit, layer)
    assert added > 20
    for x in domain_points(rng, 40):
        for variable, value in zip(m.x.values(), x.tolist(), strict=True):
            variable.value = value
        pre = layer.weight @ x + layer.bias
        layer.set_pre(m.unit, pre)
        formulation.set_values(m.unit, layer, pre)
        assert slack(m) > -1e-9


def test_partitions_use_the_inputs_that_are_alone_in_their_parts():
    """The more inputs alone the tighter, and it is the rows of the simplices that make the difference."""
    half = [[0], [3], [4], [7], [2, 1], [5, 6], [8]]
    known = Partition(by=[[j] for j in range(9)]), Partition(by=half), Partition(by=[[0, 3, 4, 7], [2, 1, 5, 6], [8]])
    values = []
    for objective in objectives(10, WEIGHTS["whole"], seed=7):
        units = [unit(ReLU(), formulation, WEIGHTS["whole"])[0] for formulation in known]
        units.append(unit(ReLU(), Partition(by=half), WEIGHTS["whole"], simplices=())[0])
        values.append([maximum(relaxed(m), dot(objective, [*m.x.values(), m.h[None]])) for m in units])
        assert values[-1][0] == pytest.approx(
            true_maximum(ReLU(), WEIGHTS["whole"], objective[:-1], objective[-1]), abs=1e-6
        )
    every, some, none, blind = np.transpose(values)
    for tight, loose in ((every, some), (some, none), (some, blind)):
        assert (tight <= loose + 1e-6).all()
        assert (tight < loose - 0.01).any()


@pytest.mark.parametrize("weight", ["whole", "gaps"])
def test_one_relu_has_the_bounds_of_gdp_hull(weight):
    w = WEIGHTS[weight]
    reference = inputs_model()
    reference.h = pyo.Var(bounds=(0, 10))
    reference.on, reference.off = gdp.Disjunct(), gdp.Disjunct()
    pre = dot(w, reference.x.values()) + BIAS
    reference.on.rows = pyo.ConstraintList()
    reference.off.rows = pyo.ConstraintList()
    for disjunct, rows in (
        (reference.on, [reference.h == pre, pre >= 0]),
        (reference.off, [reference.h == 0, pre <= 0]),
    ):
        for row in [*rows, *(sum(reference.x[j] for j in group) == 1 for group in GROUPS)]:
            disjunct.rows.add(row)
    reference.either = gdp.Disjunction(expr=[reference.on, reference.off])
    pyo.TransformationFactory("gdp.hull").apply_to(reference)
    relaxed(reference)
    m = relaxed(unit(ReLU(), Extended(), w)[0])
    for c in objectives(9, w, seed=3):
        expected = maximum(reference, dot(c, [*reference.x.values(), reference.h]))
        assert maximum(m, dot(c, [*m.x.values(), m.h[None]])) == pytest.approx(expected, abs=1e-6)


def max_unit(formulation, weight, bias, simplices=GROUPS):
    m = inputs_model()
    ends = np.minimum(weight * LOW, weight).sum(1) + bias, np.maximum(weight * LOW, weight).sum(1) + bias
    n = len(bias)
    layer = MaxLayer(
        "max", "Max", range(n), weight, bias, list(m.x.values()), *ends, [np.arange(n)], [0], simplices=simplices
    )
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, layer))
    return m, layer


@pytest.mark.parametrize("gaps", [[], [1, 4, 8]], ids=["whole", "gaps"])
def test_the_extended_maximum_is_the_convex_hull(gaps):
    """The best over the members' cells, by scipy, also with inputs that no member reads; weaker without simplices."""
    rng = np.random.default_rng(7)
    weight, bias = rng.normal(size=(3, 9)), rng.normal(size=3)
    weight[:, gaps] = 0.0
    m, layer = max_unit(Extended(), weight, bias)
    blind, _ = max_unit(Extended(), weight, bias, simplices=())
    for x in domain_points(rng, 20):
        for variable, value in zip(m.x.values(), x.tolist(), strict=True):
            variable.value = value
        Extended().set_values(m.unit, layer, weight @ x + bias)
        assert slack(m) > -1e-9
    relaxed(m), relaxed(blind)
    differ = 0
    for *c, d in objectives(20, weight.mean(0), seed=6):
        cells = [
            best_over_simplices(
                np.array(c) + d * weight[j], np.delete(weight, j, 0) - weight[j], bias[j] - np.delete(bias, j)
            )
            + d * bias[j]
            for j in range(3)
        ]
        value = maximum(m, dot([*c, d], [*m.x.values(), m.h[None]]))
        assert value == pytest.approx(max(cells), abs=1e-6)
        differ += maximum(blind, dot([*c, d], [*blind.x.values(), blind.h[None]])) > value + 1e-3
    assert differ


LETTERS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def one_hot_model(net, positions=LETTERS, further=0, **options):
    """Three one-hot letters of four, and further inputs in [-1, 1]."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(12), domain=pyo.Binary)
    m.u = pyo.Var(range(further), bounds=(-1, 1))
    m.net = pyo.Block()
    y = po.add_network(m.net, net, [*m.u.values(), *m.x.values()], simplices=positions, **options)
    return m, y


def words():
    """All one-hot inputs (64, 12)."""
    return np.array([np.concatenate(letters) for letters in itertools.product(np.eye(4), repeat=3)])


def joined():
    """A network whose second activation reads the hidden layer, then the inputs, of which the first is no letter."""
    rng = np.random.default_rng(2)
    layers = [
        ("stem", affine(rng, 6, 13), ["input"]),
        ("relu1", ReLU(), ["stem"]),
        ("joined", Concat(), ["relu1", "input"]),
        ("second", affine(rng, 5, 19), ["joined"]),
        ("relu2", ReLU(), ["second"]),
        ("head", affine(rng, 1, 5), ["relu2"]),
    ]
    return po.Network(layers, (13,))


def maxout():
    rng = np.random.default_rng(3)
    return po.Network.sequential([affine(rng, 9, 12), Maxout(3), affine(rng, 1, 3)], (12,))


NETS = {
    "relu": chain(lambda n: ReLU(), sizes=(12, 6, 4, 1)),
    "hardtanh": chain(lambda n: Clip(-1.0, 1.0), sizes=(12, 6, 4, 1)),
    "maxout": maxout(),
}


@pytest.mark.parametrize(
    "formulation", [Extended(), CuttingPlanes(), Partition(3), BigM()], ids=lambda f: type(f).__name__
)
@pytest.mark.parametrize("name", NETS)
def test_the_best_word_is_that_of_all_words(name, formulation):
    m, y = one_hot_model(NETS[name], formulation=formulation)
    assert [len(group) for group in m.net.embedding.parts[0].layer.simplices] == [4, 4, 4]
    assert maximum(m, y[0]) == pytest.approx(NETS[name](words())[:, 0].max(), abs=1e-6)
    assert po.replay_error(m.net) < 1e-6
    for x in words()[::5]:
        po.set_point(m.net, x)
        assert slack(m) > -1e-9


@pytest.mark.parametrize("formulation", [Extended(), CuttingPlanes(tolerance=1e-9)], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("activation", [ReLU(), Clip(-1.0, 1.0)], ids=["relu", "hardtanh"])
def test_the_relaxation_of_a_network_gains_from_its_simplices(activation, formulation):
    net = chain(lambda n: activation, seed=3, sizes=(12, 8, 1))
    values = []
    for known in (LETTERS, ()):
        m, y = one_hot_model(net, known, formulation=formulation)
        m.one = pyo.Constraint(range(3), rule=lambda m, k: sum(m.x[j] for j in LETTERS[k]) == 1)
        relaxed(m)
        for _ in range(100):
            value = maximum(m, y[0])
            if not po.separate(m.net):
                break
        values.append(value)
    assert net(words()).max() - 1e-6 <= values[0] < values[1] - 0.05


@pytest.mark.parametrize("formulation", [Extended(), CuttingPlanes()], ids=lambda f: type(f).__name__)
def test_later_layers_that_read_the_inputs_know_the_simplices(formulation):
    net, positions = joined(), [[j + 1 for j in group] for group in LETTERS]
    m, y = one_hot_model(net, positions, further=1, formulation=formulation)
    letters = [[m.x[j] for j in group] for group in LETTERS]
    for part in m.net.embedding.parts:
        for group, expected in zip(part.layer.simplices, letters, strict=True):
            assert all(part.layer.inputs[j] is v for j, v in zip(group, expected, strict=True))
    ends = np.linspace(-1, 1, 2001)
    best = max(net(np.column_stack([ends, np.tile(word, (len(ends), 1))])).max() for word in words())
    value = maximum(m, y[0])
    assert best - 1e-9 <= value <= best + 0.05
    assert po.replay_error(m.net) < 1e-5
    assert all(sum(v.value for v in group) == pytest.approx(1.0) for group in letters)


def test_the_block_states_the_sums_itself_and_tightening_sees_them():
    loose, y = one_hot_model(NETS["relu"], ())
    m, z = one_hot_model(NETS["relu"], bounds="interval", tighten="lp")
    assert str(m.net.simplex_rows[0].expr) == "x[0] + x[1] + x[2] + x[3]  ==  1.0"
    assert maximum(loose, y[0]) > maximum(m, z[0]) + 1e-3
    for part in m.net.embedding.parts[:1]:
        exact = words() @ part.layer.weight.T + part.layer.bias
        assert part.layer.lower == pytest.approx(exact.min(0), abs=1e-4)
        assert part.layer.upper == pytest.approx(exact.max(0), abs=1e-4)


def test_expressions_as_inputs_and_reduced_space():
    net = po.Network.sequential([Affine([[1.0, -2.0, 0.5]], [0.1]), ReLU()], (3,))
    for formulation, weight in ((Extended(), -2.0), (po.ReducedSpace(), 2.0)):
        net = po.Network.sequential([Affine([[1.0, weight, 0.5]], [0.1]), ReLU()], (3,))
        m = pyo.ConcreteModel()
        m.u = pyo.Var(range(3), bounds=(0, 1))
        m.net = pyo.Block()
        y = po.add_network(m.net, net, [m.u[0], 1.0 * m.u[1], 0.5 * m.u[2]], formulation, simplices=[[0, 1, 2]])
        assert len(m.net.simplex_rows) == 1
        assert maximum(m, y[0]) == pytest.approx(max(1.1, weight + 0.1), abs=1e-6)
        assert m.u[0].value + m.u[1].value + 0.5 * m.u[2].value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("simplices", "message"),
    [
        ([[0, 1], [1, 2]], "input 1 is named twice in simplices"),
        ([[0, 0]], "input 0 is named twice in simplices"),
        ([[0, 12]], r"positions among 12 inputs, counted from 0, but one of simplices is \[0, 12\]"),
        ([[-1, 0]], r"but one of simplices is \[-1, 0\]"),
        ([[]], r"but one of simplices is \[\]"),
        ([0, 1], "but one of simplices is 0"),
        ([[0.5, 1]], r"but one of simplices is \[0.5, 1.0\]"),
    ],
)
def test_groups_that_are_none_are_refused(simplices, message):
    with pytest.raises(ValueError, match="add_network: .*" + message):
        one_hot_model(NETS["relu"], simplices)
    x = [None] * 12
    with pytest.raises(ValueError, match=r"layer 'unit' \(f\): .*" + message):
        PiecewiseLinearLayer(
            "unit", "f", [0], np.ones((1, 12)), [0.0], x, [-1.0], [1.0], *ReLU().pieces((1,)), simplices=simplices
        )


def test_an_input_that_may_be_negative_is_refused_by_name():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(12), bounds=(0, 1))
    m.x[6].setlb(-0.5)
    m.net = pyo.Block()
    with pytest.raises(ValueError, match=r"input 6 \(x\[6\]\) is in a simplex.*ranges over \[-0.5, 1.0\]"):
        po.add_network(m.net, NETS["relu"], m.x, simplices=LETTERS)
    assert not list(m.net.component_objects())
    po.add_network(m.net, NETS["relu"], m.x, simplices=LETTERS[:1])
