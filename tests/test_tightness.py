"""How tight the formulations are: linear relaxations against convex hulls, against each other and against pyomo.gdp.

A row that is loosened is still sound and passes every soundness test; here it fails.

Tried once, by a script that edits one place, runs the tests and puts it back: 49 mutations of the formulations, the
embedding, the translation to HiGHS and the cut rounds (a sign flipped, a coefficient or bound off by a tenth, a row
left out). All make a test fail but two that change no optimum: the upper bounds of the lowest piece's copies in
(6d), and ``sum z >= 1`` for maxima. Four more passed at first; the tests of hulls within tighter bounds, of hinges
and of their sums came from them.
"""

import itertools

import numpy as np
import pyomo.environ as pyo
import pyomo.gdp as gdp
import pytest
import scipy.optimize
from cases import NETWORKS

import polyopt as po
from formulations import BigM, CuttingPlanes, Extended, Hull, MaxLayer, Partition, PiecewiseLinearLayer, Triangle
from formulations.pieces import pieces
from polyopt.activations import Abs, Clip, HardSigmoid, LeakyReLU, PReLU, ReLU, Sign, Step

FUNCTIONS = {
    "relu": ReLU(),
    "leaky": LeakyReLU(0.1),
    "steep": LeakyReLU(1.5),
    "prelu": PReLU(-0.5),
    "abs": Abs(),
    "relu6": Clip(0.0, 1.0),
    "hardtanh": Clip(-1.0, 1.0),
    "hardsigmoid": HardSigmoid(0.4, 0.3),
    "sign": Sign(),
    "step": Step(),
    "step_half": Step(0.5),
}
INTERVALS = [(-2.0, 3.0), (-0.5, 0.25), (-3.0, 0.9), (-0.1, 4.0), (0.0, 1.5), (-2.0, 0.0)]


def relaxed(model):
    """The model without integrality."""
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(model)
    return model


def maximum(model, expression):
    model.del_component("objective")
    model.objective = pyo.Objective(expr=expression, sense=pyo.maximize)
    result = po.solve(model)
    assert result.status == "optimal"
    return result.objective


def unit_layer(function, variable, low, high):
    """h = f(a) for one pre-activation a in [low, high]."""
    return PiecewiseLinearLayer("unit", "f", [0], [[1.0]], [0.0], [variable], [low], [high], *function.pieces((1,)))


def one_unit(function, formulation, low, high):
    m = pyo.ConcreteModel()
    m.a = pyo.Var(bounds=(low, high))
    m.unit = pyo.Block()
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, unit_layer(function, m.a, low, high)))
    return m


UNDECIDED = [
    (name, low, high)
    for name, function in FUNCTIONS.items()
    for low, high in INTERVALS
    if unit_layer(function, None, low, high).crossed.any()
]


def graph(function, low, high):
    """Points (a, h) of the closure of the graph: a grid, the ends, and both sides of each breakpoint."""
    breakpoints = function.pieces((1,)).breakpoints[:, 0]
    a = np.concatenate([np.linspace(low, high, 101), *(t + np.array([-1e-12, 0.0, 1e-12]) for t in breakpoints)])
    a = a[(low <= a) & (a <= high)]
    return a, function(a[None])[0]


@pytest.mark.parametrize("formulation", [BigM(), Triangle()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(("name", "low", "high"), UNDECIDED)
def test_one_unit_s_relaxation_is_the_convex_hull_of_its_graph(name, low, high, formulation):
    m = one_unit(FUNCTIONS[name], formulation, low, high)
    relaxed(m)
    a, h = graph(FUNCTIONS[name], low, high)
    for angle in np.linspace(0.1, 6.3, 9):
        c, d = np.cos(angle), np.sin(angle)
        assert maximum(m, c * m.a + d * m.h[None]) == pytest.approx((c * a + d * h).max(), abs=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_big_m_is_locally_ideal(name):
    m = relaxed(one_unit(FUNCTIONS[name], BigM(), -2.0, 3.0))
    sigma = list(m.unit.sigma.values())
    for weights in np.random.default_rng(0).normal(size=(20, 2 + len(sigma))):
        w = weights.tolist()
        maximum(m, w[0] * m.a + w[1] * m.h[None] + sum(c * s for c, s in zip(w[2:], sigma, strict=True)))
        assert all(abs(s.value - round(s.value)) < 1e-7 for s in sigma)


@pytest.mark.parametrize("transformation", ["gdp.bigm", "gdp.hull"])
@pytest.mark.parametrize(("low", "high"), INTERVALS[:4])
def test_one_relu_has_the_bounds_of_pyomo_gdp(transformation, low, high):
    """gdp.bigm is given the M of eq. (4), as its own, from the variables' bounds alone, are larger."""
    reference = pyo.ConcreteModel()
    reference.a, reference.h = pyo.Var(bounds=(low, high)), pyo.Var(bounds=(0, high))
    reference.on, reference.off = gdp.Disjunct(), gdp.Disjunct()
    reference.on.value = pyo.Constraint(expr=reference.h - reference.a == 0)
    reference.on.sign = pyo.Constraint(expr=reference.a >= 0)
    reference.off.value = pyo.Constraint(expr=reference.h == 0)
    reference.off.sign = pyo.Constraint(expr=reference.a <= 0)
    reference.always = pyo.Constraint(expr=reference.h >= reference.a)
    reference.either = gdp.Disjunction(expr=[reference.on, reference.off])
    options = (
        {"bigM": {reference.on.value: (low, -low), reference.off.value: (-high, high)}}
        if "bigm" in transformation
        else {}
    )
    pyo.TransformationFactory(transformation).apply_to(reference, **options)
    m = relaxed(one_unit(ReLU(), BigM(), low, high))
    relaxed(reference)
    for angle in np.linspace(0.1, 6.3, 9):
        c, d = np.cos(angle), np.sin(angle)
        expected = maximum(reference, c * reference.a + d * reference.h)
        assert maximum(m, c * m.a + d * m.h[None]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("maxout", "residual", "convolution")])
def test_big_m_relaxes_to_the_triangle_on_whole_networks(name):
    net = NETWORKS[name]
    bounds = []
    for formulation in (BigM(), Triangle()):
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
        m.net = pyo.Block()
        y = po.add_network(m.net, net, m.x, formulation=formulation, bounds="interval")
        relaxed(m)
        bounds.append([maximum(m, y[0]), maximum(m, y[1] - y[0])])
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-6)


def affine_unit(function, formulation, weight, bias, low, high, ends=None):
    """h = f(w x + b) for x in a box; the pre-activation's bounds are the box's or, where given, tighter ones."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(len(weight)), bounds=lambda _, i: (low[i], high[i]))
    m.unit = pyo.Block()
    if ends is None:
        ends = np.sort(np.array(weight)[:, None] * np.column_stack([low, high]), axis=1).sum(0) + bias
    layer = PiecewiseLinearLayer(
        "unit", "f", [0], [weight], [bias], list(m.x.values()), [ends[0]], [ends[1]], *function.pieces((1,))
    )
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, layer))
    return m, layer


def converged(m, expression, separate):
    """The relaxation's optimum after all cuts."""
    for _ in range(200):
        value = maximum(m, expression)
        if not separate():
            return value
    raise AssertionError("the cuts do not converge")


WEIGHT, BIAS = [1.5, -1.0, 0.7, -0.4], 0.2
LOW, HIGH = [-1.0, 0.0, -0.5, -1.0], [1.0, 2.0, 1.0, 0.5]


def true_maximum(function, c, d, lowest=-1e3, highest=1e3):
    """max c x + d f(w x + b) over the box with w x + b in [lowest, highest]: one LP for each piece, by scipy."""
    breakpoints, slopes, intercepts = (part[:, 0] for part in function.pieces((1,)))
    ends = [-1e3, *breakpoints, 1e3]
    best = -np.inf
    for k, (t, u) in enumerate(itertools.pairwise(ends)):
        t, u = max(t, lowest), min(u, highest)
        if t > u:
            continue
        objective = np.array(c) + d * slopes[k] * np.array(WEIGHT)
        rows = [np.negative(WEIGHT), WEIGHT]
        found = scipy.optimize.linprog(
            -objective, A_ub=rows, b_ub=[BIAS - t, u - BIAS], bounds=list(zip(LOW, HIGH, strict=True))
        )
        if found.success:
            best = max(best, -found.fun + d * (slopes[k] * BIAS + intercepts[k]))
    return best


@pytest.mark.parametrize("ends", [None, (-0.9, 1.7), (-2.0, 0.8)], ids=["box", "tight", "tighter above"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_extended_relaxation_is_the_convex_hull_over_the_box(name, ends):
    """Locally ideal: the relaxation has the true maximum of every linear objective, also where bounds cut the box."""
    m, _ = affine_unit(FUNCTIONS[name], Extended(), WEIGHT, BIAS, LOW, HIGH, ends)
    relaxed(m)
    for objective in np.random.default_rng(0).normal(size=(15, 5)).tolist():
        c, d = objective[:4], 2 * objective[4]
        value = maximum(m, sum(w * v for w, v in zip(c, m.x.values(), strict=True)) + d * m.h[None])
        assert value == pytest.approx(true_maximum(FUNCTIONS[name], c, d, *(ends or ())), abs=1e-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extended_is_locally_ideal_in_sigma_too(name):
    m, _ = affine_unit(FUNCTIONS[name], Extended(), WEIGHT, BIAS, LOW, HIGH)
    relaxed(m)
    columns = [*m.x.values(), m.h[None], *m.unit.sigma.values()]
    for weights in np.random.default_rng(1).normal(size=(15, len(columns))).tolist():
        maximum(m, sum(w * v for w, v in zip(weights, columns, strict=True)))
        assert all(abs(s.value - round(s.value)) < 1e-7 for s in m.unit.sigma.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_unit_s_relaxations_are_ordered(name):
    objectives = np.random.default_rng(2).normal(size=(4, 5)).tolist()
    chain = [Extended(), Partition(4), Partition(2), Partition(1), BigM(), Triangle()]
    values = np.array([[objective_value(name, f, c) for c in objectives] for f in chain])
    assert values[0] == pytest.approx(values[1], abs=1e-6)  # four inputs, four parts
    assert values[3] == pytest.approx(values[4], abs=1e-6)
    assert values[4] == pytest.approx(values[5], abs=1e-6)
    assert (np.diff(values, axis=0) >= -1e-6).all()
    cuts = np.array([objective_value(name, CuttingPlanes(tolerance=1e-9), c) for c in objectives])
    assert (values[0] <= cuts + 1e-6).all()
    assert (cuts <= values[4] + 1e-6).all()
    hull = np.array([objective_value(name, Hull(tolerance=1e-9), c) for c in objectives])
    assert (values[0] <= hull + 1e-6).all()
    assert (hull <= values[5] + 1e-6).all()
    if FUNCTIONS[name].pieces((1,)).breakpoints.shape[0] == 1:
        assert cuts == pytest.approx(values[0], abs=1e-6)
        assert hull == pytest.approx(values[0], abs=1e-6)


def objective_value(name, formulation, objective):
    m, layer = affine_unit(FUNCTIONS[name], formulation, WEIGHT, BIAS, LOW, HIGH)
    relaxed(m)
    expression = sum(w * v for w, v in zip(objective, [*m.x.values(), m.h[None]], strict=True))
    if isinstance(formulation, CuttingPlanes | Hull):
        return converged(m, expression, lambda: formulation.separate(m.unit, layer))
    return maximum(m, expression)


@pytest.mark.parametrize("name", ["relu", "relu6", "hardtanh", "hardsigmoid"])
def test_each_hinge_lies_between_its_pre_activation_and_its_chord(name):
    ends = -2.4, 3.1
    m, layer = affine_unit(FUNCTIONS[name], Hull(), WEIGHT, BIAS, LOW, HIGH, ends)
    a = m.unit.pre[0]
    for r, t in zip(m.unit.hinge.values(), pieces(layer).start.tolist(), strict=True):
        chord = (ends[1] - t) / (ends[1] - ends[0])
        assert maximum(m, a - t - r) == pytest.approx(0.0, abs=1e-7)
        assert maximum(m, r - chord * (a - ends[0])) == pytest.approx(0.0, abs=1e-7)


def test_from_here_sums_a_unit_s_segments_upwards():
    function = Clip(-1.0, 1.0)
    low, high = np.array([-2.0, -2.0, 0.0]), np.array([2.0, 0.0, 3.0])  # two, one and one breakpoint
    layer = PiecewiseLinearLayer(
        "unit", "f", range(3), np.eye(3), np.ones(3), [None] * 3, low, high, *function.pieces((3,))
    )
    cut = pieces(layer)
    assert cut.unit.tolist() == [0, 0, 1, 2]
    assert cut.from_here().toarray() == pytest.approx(np.linalg.inv(cut.inside().toarray()))
    for pre in np.random.default_rng(0).uniform(low, high, size=(20, 3)):
        hinges = np.maximum(pre[cut.unit] - cut.start, 0.0)
        assert cut.from_here() @ cut.filled(pre) == pytest.approx(hinges)
        assert cut.value(pre) == pytest.approx(function(pre))


@pytest.mark.parametrize("bounds", ["interval", "crown"])
@pytest.mark.parametrize("name", ["relu", "leaky", "abs", "prelu", "residual"])
def test_whole_networks_are_ordered_too(name, bounds):
    net = NETWORKS[name]
    order = [
        Extended(),
        CuttingPlanes(tolerance=1e-9),
        Partition(4),
        Partition(2),
        BigM(),
        Triangle(),
        Hull(tolerance=1e-9),
    ]
    values = []
    for formulation in order:
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
        m.net = pyo.Block()
        y = po.add_network(m.net, net, m.x, formulation=formulation, bounds=bounds)
        relaxed(m)
        values.append(converged(m, y[0] - y[1], lambda m=m: po.separate(m.net)))
    extended, cuts, four, two, big_m, triangle, hull = values
    assert hull <= triangle + 1e-6
    assert extended <= four + 1e-6
    assert extended <= cuts + 1e-6
    assert four <= two + 1e-6
    assert two <= big_m + 1e-6
    assert cuts <= big_m + 1e-6
    if name != "residual":  # whose maximum has binaries of its own in BigM, and none in Triangle
        assert big_m == pytest.approx(triangle, abs=1e-6)
    if bounds == "interval" and name != "residual":  # with tighter bounds the extended form knows more than the box
        assert extended == pytest.approx(cuts, abs=1e-5)
        assert extended == pytest.approx(hull, abs=1e-5)


def test_partition_into_one_part_and_into_all():
    net = NETWORKS["relu"]
    box = po.Box(-np.ones(3), np.ones(3))

    def value(formulation):
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(3), bounds=(-1, 1))
        m.net = pyo.Block()
        y = po.add_network(m.net, net, m.x, formulation=formulation, bounds=po.interval(net, box))
        relaxed(m)
        return maximum(m, y[0])

    assert value(Partition(1)) == pytest.approx(value(BigM()), abs=1e-7)
    assert value(Partition(50)) == pytest.approx(value(Extended()), abs=1e-9)


def test_given_groups_are_used_and_must_cover_the_inputs():
    m, _ = affine_unit(ReLU(), Partition(by=[[0, 1], [2, 3]]), WEIGHT, BIAS, LOW, HIGH)
    assert len(m.unit.part) == 2
    with pytest.raises(ValueError, match=r"layer 'unit' \(f\): the groups of Partition must name each of its 4"):
        affine_unit(ReLU(), Partition(by=[[0, 1], [2]]), WEIGHT, BIAS, LOW, HIGH)
    with pytest.raises(ValueError, match="by='size' is unknown"):
        Partition(by="size")
    with pytest.raises(ValueError, match="parts is 0"):
        Partition(0)


@pytest.mark.parametrize("seed", range(3))
def test_the_extended_maximum_is_the_convex_hull_of_its_graph(seed):
    """max of three affine functions of two inputs: the true optimum is the best over the members' cells, by scipy."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(3, 2)), rng.normal(size=3)
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(2), bounds=(-1, 1))
    m.unit = pyo.Block()
    reach = abs(weight).sum(1)
    layer = MaxLayer(
        "max", "Max", range(3), weight, bias, list(m.x.values()), bias - reach, bias + reach, [np.arange(3)], [0]
    )
    (m.h,) = (pyo.Reference(v) for v in Extended().add(m.unit, layer))
    relaxed(m)
    for c0, c1, d in rng.normal(size=(10, 3)).tolist():
        cells = []
        for j in range(3):
            others = [k for k in range(3) if k != j]
            found = scipy.optimize.linprog(
                -(np.array([c0, c1]) + d * weight[j]),
                A_ub=weight[others] - weight[j],
                b_ub=bias[j] - bias[others],
                bounds=[(-1, 1)] * 2,
            )
            cells.append(-found.fun + d * bias[j] if found.success else -np.inf)
        assert maximum(m, c0 * m.x[0] + c1 * m.x[1] + d * m.h[None]) == pytest.approx(max(cells), abs=1e-7)


def max_unit(formulation, lower, upper):
    m = pyo.ConcreteModel()
    m.a = pyo.Var(range(len(lower)), bounds=lambda _, i: (lower[i], upper[i]))
    m.unit = pyo.Block()
    n = len(lower)
    layer = MaxLayer(
        "max", "Max", range(n), np.eye(n), np.zeros(n), list(m.a.values()), lower, upper, [np.arange(n)], [0]
    )
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, layer))
    return m


@pytest.mark.parametrize("formulation", [BigM(), Triangle()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(
    ("lower", "upper"), [([0.0, 0.0], [1.0, 1.0]), ([-1.0, 0.0], [2.0, 1.0]), ([-3.0, -1.0], [0.5, 2.0])]
)
def test_the_maximum_of_two_relaxes_to_its_convex_hull(formulation, lower, upper):
    m = relaxed(max_unit(formulation, lower, upper))
    corners = np.array([[x, y] for x in (lower[0], upper[0]) for y in (lower[1], upper[1])])
    diagonal = np.array([[t, t] for t in (max(lower), min(upper))])
    points = np.vstack([corners, diagonal])
    for c0, c1, d in np.random.default_rng(0).normal(size=(12, 3)).tolist():
        expected = (points @ [c0, c1] + d * points.max(1)).max()
        assert maximum(m, c0 * m.a[0] + c1 * m.a[1] + d * m.h[None]) == pytest.approx(expected, abs=1e-7)


def test_the_maximum_of_four_has_the_tightest_m():
    """With a_j least and another member greatest, ``y <= a_j + M_j (1 - z_j)`` is attained: a smaller M cuts it off."""
    lower, upper = [-1.0, -2.0, 0.0, -0.5], [1.0, 2.0, 0.5, 3.0]
    m = max_unit(BigM(), lower, upper)
    for j, row in enumerate(m.unit.at_most.values()):
        others = max(u for k, u in enumerate(upper) if k != j)
        assert row.ub == others - lower[j]
