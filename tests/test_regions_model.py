"""Regions as rows of Pyomo models, and networks embedded with bounds over a region."""

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import REGIONS, affine, boxes, chain, regions

import polyopt as po
from polyopt.activations import ReLU
from polyopt.regions import Box, Ellipsoid, HPolytope, Product, VPolytope

each_kind = pytest.mark.parametrize("kind", ["box", *REGIONS])
drawn = settings(max_examples=15, deadline=None, derandomize=True)
TRIANGLE = VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def model(size, bounds=(None, None)):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(size), bounds=bounds)
    m.region, m.net = pyo.Block(), pyo.Block()
    return m


def scip():
    """SCIP, for quadratic constraints."""
    pytest.importorskip("pyscipopt", reason="pyscipopt is not installed")
    solver = pyo.SolverFactory("scip_direct")
    solver.options["display/verblevel"] = 0  # its log can fill the pipe through which Pyomo reads it, and block both
    return solver


def violation(m) -> float:
    """By how much the values loaded in a model's variables break its constraints and their own bounds."""
    found = [0.0]
    for row in [*m.component_data_objects(pyo.Constraint, active=True), *m.component_data_objects(pyo.Var)]:
        value = pyo.value(row.body if hasattr(row, "body") else row)
        found += [low - value for low in [row.lb] if low is not None] + [
            value - up for up in [row.ub] if up is not None
        ]
    return max(found)


@pytest.mark.parametrize("kind", ["box", "zonotope", "vpolytope", "hpolytope", "product"])
@drawn
@given(data=st.data(), size=st.integers(1, 4))
def test_the_greatest_value_in_the_model_is_the_support(kind, data, size):
    region = data.draw(regions(size, [kind]))
    assume(not isinstance(region, Product) or not any(isinstance(part, Ellipsoid) for part in region.regions))
    m = model(size, bounds=(-100, 100))
    region.add_to(m.region, m.x)
    a = np.random.default_rng(0).normal(size=size)
    m.obj = pyo.Objective(expr=sum(c * m.x[i] for i, c in enumerate(a)), sense=pyo.maximize)
    assert abs(po.solve(m).objective - region.support([a])[0]) < 1e-6
    assert m.x[0].bounds == (-100, 100)


@pytest.mark.parametrize("seed", range(4))
def test_the_greatest_value_in_an_ellipsoid_is_the_support(seed):
    solver = scip()
    rng = np.random.default_rng(seed)
    region = REGIONS["ellipsoid"](rng, 3)
    m = model(3)
    region.add_to(m.region, m.x)
    a = rng.normal(size=3)
    m.obj = pyo.Objective(expr=sum(c * m.x[i] for i, c in enumerate(a)), sense=pyo.maximize)
    solver.solve(m)
    assert abs(pyo.value(m.obj) - region.support([a])[0]) < 1e-4


@each_kind
@drawn
@given(data=st.data(), size=st.integers(1, 4))
def test_points_of_the_region_satisfy_the_rows_and_others_do_not(kind, data, size):
    region = data.draw(regions(size, [kind]))
    rng = np.random.default_rng(0)
    m = model(size)
    region.add_to(m.region, list(m.x.values()))
    box = region.bounding_box()
    assert [variable.bounds for variable in m.x.values()] == list(zip(box.lower, box.upper, strict=True))
    m.x.setlb(None)
    m.x.setub(None)
    for point in region.sample(3, rng):
        m.x.set_values(dict(enumerate(point)))
        region.set_values(m.region, point)
        assert violation(m) < 1e-7
    a = rng.normal(size=size)
    length = 1e-2 + 2 * abs(box.upper - box.lower).max()
    point = region.center + length * a / abs(a).max()
    m.x.set_values(dict(enumerate(point)))
    region.set_values(m.region, point)
    assert violation(m) > 1e-5


@drawn
@given(boxes(3))
def test_bounds_that_are_there_stay(box):
    m = model(3)
    m.x[0].setlb(-50.0)
    m.x[1].setub(0.25)
    m.x[2].domain = pyo.NonNegativeReals
    box.add_to(m.region, m.x)
    assert m.x[0].bounds == (-50.0, box.upper[0])
    assert m.x[1].bounds == (box.lower[1], 0.25)
    assert m.x[2].bounds == (0.0, box.upper[2])


def test_rows_need_no_polytope_where_variables_have_bounds():
    half = HPolytope([[1.0, 1.0]], [0.5])
    m = model(2, bounds=(0, 1))
    half.add_to(m.region, m.x)
    m.obj = pyo.Objective(expr=m.x[0] + 2 * m.x[1], sense=pyo.maximize)
    assert abs(po.solve(m).objective - 1.0) < 1e-7
    with pytest.raises(ValueError, match="unbounded"):
        half.add_to((free := model(2)).region, free.x)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda m: TRIANGLE.add_to(m.region, [m.x[0]]), "1 variables are given, but the region has 2 dimensions"),
        (lambda m: TRIANGLE.add_to(m.x, m.x), "is not a constructed Pyomo block"),
        (lambda m: TRIANGLE.add_to(m.region, [m.x[0], 2 * m.x[1]]), "entry 1 is 2[*]x.1.; give variables"),
        (lambda m: TRIANGLE.add_to(m.region, [m.x[0], 3.0]), "entry 1 is 3.0; give variables"),
        (lambda m: [TRIANGLE.add_to(m.region, m.x), TRIANGLE.add_to(m.region, m.x)], "'region' already has a 'rows'"),
        (lambda m: Box([[0.0, 0.0]], [[1.0, 1.0]]).add_to(m.region, m.x), "a batch of 1 boxes"),
    ],
)
def test_what_a_region_cannot_be_written_on_is_refused(write, message):
    with pytest.raises(ValueError, match=message):
        write(model(2))


def network(size):
    rng = np.random.default_rng(2)
    return po.Network.sequential([affine(rng, size, 8), ReLU(), affine(rng, 8, 1)], (size,))


@pytest.mark.parametrize("kind", ["zonotope", "vpolytope", "hpolytope"])
@pytest.mark.parametrize("seed", range(3))
def test_an_embedded_network_keeps_to_the_region_of_its_bounds(kind, seed):
    """Wide bounds of the variables do not matter: the optimum is that over the region, as samples see it."""
    rng = np.random.default_rng(seed)
    region, net = REGIONS[kind](rng, 2), network(2)
    m = model(2, bounds=(-100, 100))
    y = po.add_network(m.net, net, m.x, bounds=po.crown(net, region))
    m.obj = pyo.Objective(expr=y[0], sense=pyo.maximize)
    best = po.solve(m).objective
    x = np.array([[m.x[0].value, m.x[1].value]])
    assert region.contains(x, tol=1e-5).all()
    assert abs(net(x)[0, 0] - best) < 1e-5
    seen = net(np.concatenate([region.sample(20_000, rng), region.vertices()])).max()
    assert seen - 1e-6 <= best <= seen + 0.05 * (1 + abs(seen))


def test_the_rows_of_the_region_must_stay():
    net = network(2)
    m = model(2, bounds=(0, 1))
    m.obj = pyo.Objective(expr=po.add_network(m.net, net, m.x, bounds=po.interval(net, TRIANGLE))[0])
    m.x.setub(5.0)  # harmless: the rows hold the inputs
    seen = net(TRIANGLE.sample(20_000, np.random.default_rng(0))).min()
    assert seen - 1e-2 <= po.solve(m).objective <= seen + 1e-6
    m.net.region.rows[0].deactivate()
    with pytest.raises(ValueError, match=r"hold only where block\.region keeps its inputs"):
        po.solve(m)
    m.net.region.rows[0].activate()
    m.net.region.deactivate()
    with pytest.raises(ValueError, match=r"block\.region"):
        po.solve(m)
    m.net.del_component(m.net.region)
    with pytest.raises(ValueError, match=r"block\.region"):
        po.solve(m)


def test_a_block_is_left_as_it_was_where_the_network_cannot_be_added():
    net = network(2)
    m = model(2, bounds=(0, 1))
    with pytest.raises(ValueError, match="ReducedSpace"):
        po.add_network(m.net, net, m.x, formulation=po.ReducedSpace(), bounds=po.interval(net, TRIANGLE))
    assert not m.net.component_map()


@pytest.mark.parametrize("formulation", [po.BigM(), po.ReducedSpace()])
def test_a_start_sets_the_coordinates_in_the_region_too(formulation):
    rng = np.random.default_rng(0)
    net = chain(rng, "relu" if isinstance(formulation, po.BigM) else "tanh", (3, 4, 1))
    m = model(3, bounds=(-1, 2))
    inputs = [m.x[0], 2 * m.x[1] - 0.5, m.x[2]]
    region = Product(TRIANGLE, Box([0.0], [1.0]))
    po.add_network(m.net, net, inputs, formulation=formulation, bounds=po.crown(net, region))
    m.x[1].value = 0.4
    po.set_point(m.net, [0.2, 0.3, 0.9])
    assert violation(m) < 1e-9
    assert po.replay_error(m.net) < 1e-9


def test_ellipsoids_are_for_solvers_of_quadratic_constraints():
    net = network(2)
    m = model(2, bounds=(-2, 2))
    disc = Ellipsoid([0.0, 0.0], np.eye(2))
    y = po.add_network(m.net, net, m.x, bounds=po.crown(net, disc), tighten="lp")
    m.obj = pyo.Objective(expr=y[0], sense=pyo.maximize)
    with pytest.raises(ValueError, match=r"'net\.region\.ball' is not linear"):
        po.solve(m)
    scip().solve(m)
    seen = net(disc.sample(200_000, np.random.default_rng(0))).max()
    assert seen - 1e-4 <= pyo.value(m.obj) <= seen + 0.05
    assert disc.contains([m.x[0].value, m.x[1].value], tol=1e-4)
    assert po.replay_error(m.net) < 1e-5
