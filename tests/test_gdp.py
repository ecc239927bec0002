"""Units as disjunctions: after Pyomo's own transformations they are the network, and as tight as theory says."""

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, SIGN_KINDS
from pyomo.gdp import Disjunct, Disjunction

import polyopt as po
from formulations import BigM, MaxLayer, Partition, PiecewiseLinearLayer, SmoothLayer, Triangle
from formulations.gdp import GDP
from polyopt.activations import Clip, LeakyReLU, ReLU, Sign
from polyopt.layers import Affine

TRANSFORMATIONS = ["gdp.bigm", "gdp.hull"]


def embed(net, formulation):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.net = pyo.Block()
    m.y = pyo.Reference(po.add_network(m.net, net, m.x, formulation=formulation))
    return m


def maximum(model, expression):
    model.del_component("objective")
    model.objective = pyo.Objective(expr=expression, sense=pyo.maximize)
    result = po.solve(model)
    assert result.status == "optimal"
    return result.objective


def transformed(model, transformation, relaxed=False):
    pyo.TransformationFactory(transformation).apply_to(model)
    if relaxed:
        pyo.TransformationFactory("core.relax_integer_vars").apply_to(model)
    return model


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_optimum_is_big_m_s(name, transformation):
    net = NETWORKS[name]
    ours, reference = transformed(embed(net, GDP()), transformation), embed(net, BigM())
    value = maximum(ours, ours.y[0] - ours.y[1])
    assert value == pytest.approx(maximum(reference, reference.y[0] - reference.y[1]), abs=1e-5)
    if name not in SIGN_KINDS:  # there the optimum may lie on a jump
        assert po.replay_error(ours.net) < 1e-5


def unit(function, formulation, low, high):
    m = pyo.ConcreteModel()
    m.a = pyo.Var(bounds=(low, high))
    m.unit = pyo.Block()
    layer = PiecewiseLinearLayer("unit", "f", [0], [[1.0]], [0.0], [m.a], [low], [high], *function.pieces((1,)))
    (m.h,) = (pyo.Reference(v) for v in formulation.add(m.unit, layer))
    return m, layer


@pytest.mark.parametrize("function", [ReLU(), LeakyReLU(0.1), Clip(-1.0, 1.0), Sign()], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(("low", "high"), [(-2.0, 3.0), (-0.5, 0.25), (-3.0, 1.5)])
def test_the_hull_of_one_unit_is_the_convex_hull_of_its_graph(function, low, high):
    ours = transformed(unit(function, GDP(), low, high)[0], "gdp.hull", relaxed=True)
    reference = unit(function, Triangle(), low, high)[0]
    for angle in np.linspace(0.1, 6.3, 9):
        c, d = np.cos(angle), np.sin(angle)
        expected = maximum(reference, c * reference.a + d * reference.h[None])
        assert maximum(ours, c * ours.a + d * ours.h[None]) == pytest.approx(expected, abs=1e-7)


def test_the_hull_of_a_maximum_of_two_is_its_convex_hull():
    m = pyo.ConcreteModel()
    m.a = pyo.Var(range(2), bounds=lambda _, i: [(-1.0, 2.0), (0.0, 1.0)][i])
    m.unit = pyo.Block()
    group = [np.arange(2)]
    layer = MaxLayer("max", "Max", [0, 1], np.eye(2), [0, 0], list(m.a.values()), [-1, 0], [2, 1], group, [0])
    (m.y,) = (pyo.Reference(v) for v in GDP().add(m.unit, layer))
    transformed(m, "gdp.hull", relaxed=True)
    corners = np.array([[-1.0, 0.0], [-1.0, 1.0], [2.0, 0.0], [2.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    for c0, c1, d in np.random.default_rng(0).normal(size=(12, 3)).tolist():
        expected = (corners @ [c0, c1] + d * corners.max(1)).max()
        assert maximum(m, c0 * m.a[0] + c1 * m.a[1] + d * m.y[None]) == pytest.approx(expected, abs=1e-7)


def variables(low, high):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(len(low)), bounds=lambda _, i: (low[i], high[i]))
    return m


def partitioned(function, w, b, low, high, groups):
    m = variables(low, high)
    m.net = pyo.Block()
    net = po.Network.sequential([Affine([w], [b]), function], (len(w),))
    m.h = pyo.Reference(po.add_network(m.net, net, m.x, formulation=Partition(by=groups), bounds="interval"))
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
    return m


def split(function, w, b, low, high, groups):
    """The unit as Pyomo's P-split makes it of ``[a >= 0] or [a <= 0]``, ``a = w x + b``.

    h is the function's jump and bend applied to sigma and to sigma's copy ``R`` of a, for which the copies of the
    auxiliary variables stand: ``-w x`` over part p is at most v_p, so that ``R = b sigma - sum_p v_p``.
    """
    m = variables(low, high)
    a = w @ list(m.x.values()) + b
    m.above, m.below = Disjunct(), Disjunct()
    m.above.row, m.below.row = pyo.Constraint(expr=a >= 0), pyo.Constraint(expr=a <= 0)
    m.choice = Disjunction(expr=[m.above, m.below])
    parts = [[m.x[i] for i in group] for group in groups]
    pyo.TransformationFactory("gdp.partition_disjuncts").apply_to(m, variable_partitions=parts)
    above, _ = m.choice.algebraic_constraint.disjuncts
    auxiliaries = [v for v in above.component_data_objects(pyo.Var) if v.is_continuous()]
    assert len(auxiliaries) == len(groups)
    hull = pyo.TransformationFactory("gdp.hull")
    hull.apply_to(m)
    sigma = above.binary_indicator_var
    hinge = b * sigma - sum(hull.get_disaggregated_var(v, above) for v in auxiliaries)
    m.least = pyo.Constraint(expr=hinge >= a)  # a's other copy is at most 0; the v_p bound it from one side only
    _, slopes, intercepts = function.pieces((1,))
    bend, jump = float(slopes[-1, 0] - slopes[0, 0]), float(intercepts[-1, 0] - intercepts[0, 0])
    m.h = pyo.Expression([0], rule=float(slopes[0, 0]) * a + float(intercepts[0, 0]) + bend * hinge + jump * sigma)
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
    return m


@pytest.mark.parametrize(
    ("function", "slopes"),  # where objectives along h - slope w x tell partitions apart
    [(ReLU(), (0, 1)), (LeakyReLU(1.7), (1, 1.7)), (Sign(), (0, 3))],
    ids=["relu", "leaky", "sign"],
)
@pytest.mark.parametrize("seed", range(3))
def test_partition_is_as_tight_as_pyomo_s_p_split(function, slopes, seed):
    """Kronqvist, Misener and Tsay 2021 on the same parts, whose interval bounds both have.

    The P-split gives every constraint of every disjunct its own auxiliary variables ``v_p >= w x over part p``, where
    Partition shares ``xhat_p = w x over part p`` among all. With the one constraint ``a >= 0`` or ``a <= 0`` in each
    disjunct nothing is lost: for the sum of the copies above 0 both are lower bounds, so that the greatest copies,
    which either relaxation may choose, satisfy both. With h in the disjuncts it would be looser: h had an auxiliary in
    each, and that of ``h <= a`` would not know of ``h <= 0`` in the other. Hence h outside. That Partition's bounds of
    the parts differ from piece to piece changes nothing, as they follow from the box and the piece's own row.
    """
    rng = np.random.default_rng(seed)
    w, b, low, high = rng.normal(size=4), 0.3 * rng.normal(), -rng.uniform(0.5, 2, 4), rng.uniform(0.5, 2, 4)
    order = rng.permutation(4).tolist()
    objectives = [(d, -d * w * rng.uniform(*slopes, 4)) for d in (1, 1, 1, 1, -1, -1)]
    bounds = []
    for count in range(1, 5):
        groups = [order[k::count] for k in range(count)]
        ours, reference = (build(function, w, b, low, high, groups) for build in (partitioned, split))
        bounds.append([maximum(ours, d * ours.h[0] + c @ list(ours.x.values())) for d, c in objectives])
        expected = [maximum(reference, d * reference.h[0] + c @ list(reference.x.values())) for d, c in objectives]
        assert bounds[-1] == pytest.approx(expected, abs=1e-7)
    assert max(np.subtract(bounds[0], bounds[-1])) > 0.01  # else the objectives are blind to the parts


@pytest.mark.parametrize("name", NETWORKS)
def test_a_set_point_satisfies_the_chosen_disjunct_of_every_unit(name):
    net = NETWORKS[name]
    m = embed(net, GDP())
    for x in np.random.default_rng(0).uniform(-1, 1, size=(4, net.input_size)):
        po.set_point(m.net, x)
        for choice in m.component_data_objects(Disjunction):
            (chosen,) = (piece for piece in choice.disjuncts if piece.indicator_var.value)
            assert chosen.binary_indicator_var.value == 1
            assert sum(piece.binary_indicator_var.value for piece in choice.disjuncts) == 1
            rows = list(chosen.component_data_objects(pyo.Constraint))
            assert rows
            assert min(min(row.lslack(), row.uslack()) for row in rows) > -1e-9
        assert po.replay_error(m.net) < 1e-12


def test_a_unit_has_a_disjunct_for_each_piece_between_its_bounds():
    counts = [len(unit(Clip(-1.0, 1.0), GDP(), low, 3.0)[0].unit.choice[0].disjuncts) for low in (-2.0, 0.0)]
    assert counts == [3, 2]
    assert len(unit(Sign(), GDP(), 0.0, 1.0)[0].unit.choice[0].disjuncts) == 2  # 0 at 0, and 1


def test_an_untransformed_model_is_refused():
    m = embed(NETWORKS["relu"], GDP())
    m.objective = pyo.Objective(expr=m.y[0])
    with pytest.raises(ValueError, match=r"Disjunction.*gdp\.bigm"):
        po.solve(m)


def test_smooth_activations_have_no_disjunction():
    m = pyo.ConcreteModel()
    m.a = pyo.Var(bounds=(-1, 1))
    m.unit = pyo.Block()
    layer = SmoothLayer("hidden", "Tanh", [0], [[1.0]], [0.0], [m.a], [-1.0], [1.0])
    with pytest.raises(ValueError, match=r"layer 'hidden' \(Tanh\) has no GDP formulation"):
        GDP().add(m.unit, layer)
