"""Surrogates: scaling against scikit-learn and numpy, trust regions against points, pieces against the network."""

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.surrogate.trust import balls, hull
from polyopt.surrogate.union import add_union

SCALERS = [StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler]


def data(count=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3)) * [1.0, 50.0, 1e-3] + [300.0, -20.0, 0.0]
    return x, rng.normal(size=(count, 2)) * [1e4, 0.1] + [5e4, 0.0]


def mlp(sizes, seed=0):
    """A ReLU network with Gaussian weights."""
    rng, layers = np.random.default_rng(seed), []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [Affine(rng.normal(size=(n_out, n_in)), rng.normal(size=n_out)), ReLU()]
    return po.Network.sequential(layers[:-1], (sizes[0],))


def surrogate_of(net, points, **options):
    return po.Surrogate(net, domain=points, **options)


@pytest.mark.parametrize("scaler", SCALERS)
def test_scaling_is_folded_exactly(scaler):
    x, y = data()
    net = mlp([3, 8, 8, 2], seed=1)
    of_x, of_y = scaler().fit(x), scaler().fit(y)
    surrogate = surrogate_of(net, x, input_scaler=of_x, output_scaler=of_y)
    expected = of_y.inverse_transform(net(of_x.transform(x)))
    assert np.allclose(surrogate(x), expected, rtol=1e-9, atol=1e-9 * abs(expected).max())
    assert len(surrogate.net.layers) == len(net.layers)


def test_a_pair_scales_like_a_standard_scaler():
    x, y = data()
    net = mlp([3, 8, 2], seed=1)
    fitted = surrogate_of(net, x, input_scaler=StandardScaler().fit(x), output_scaler=StandardScaler().fit(y))
    pair = surrogate_of(net, x, input_scaler=(x.mean(0), x.std(0)), output_scaler=(y.mean(0), y.std(0)))
    assert np.allclose(fitted(x), pair(x), rtol=1e-12)


def test_everything_is_read_back_from_one_file(tmp_path):
    x, _ = data()
    regions = [po.Box(x.min(0), x.mean(0)), po.Zonotope(x.mean(0), np.eye(3))]
    surrogate = surrogate_of(
        mlp([3, 8, 2], seed=1), x, input_scaler=StandardScaler().fit(x), input_names=list("abc"), regions=regions
    )
    surrogate.save(tmp_path / "s.onnx")
    again = po.Surrogate.load(tmp_path / "s.onnx")
    assert np.array_equal(again(x), surrogate(x))
    assert np.array_equal(again.points, x)
    assert (again.input_names, again.output_names) == (surrogate.input_names, surrogate.output_names)
    a = np.random.default_rng(0).normal(size=(5, 3))
    for one, other in zip(again.regions, regions, strict=True):
        assert np.array_equal(one.support(a), other.support(a))


def test_a_product_of_regions_is_read_back(tmp_path):
    domain = po.Product(po.Box([0.0], [1.0]), po.HPolytope([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [1.0, 0.0, 0.0]))
    po.Surrogate(mlp([3, 4, 1]), domain=domain).save(tmp_path / "s.onnx")
    again = po.Surrogate.load(tmp_path / "s.onnx")
    assert again.points is None
    assert np.allclose(again.upper, [1.0, 1.0, 1.0])


def test_a_plain_network_is_no_surrogate(tmp_path):
    po.to_onnx(mlp([3, 4, 1]), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="from_onnx"):
        po.Surrogate.load(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": None}, "domain is missing"),
        ({"domain": np.zeros((4, 2))}, r"domain has shape \(4, 2\)"),
        ({"domain": [[0.0, np.nan, 0.0]]}, r"finite.*at index \(0, 1\)"),
        ({"domain": po.Box([0.0], [1.0])}, "1 dimensions"),
        ({"input_scaler": (0.0, 0.0)}, "scale that is 0"),
        ({"input_scaler": ([0.0, 1.0], 1.0)}, "3 of them"),
        ({"input_scaler": "standard"}, "give a pair"),
        ({"input_names": ["a", "a", "b"]}, "3 different names"),
        ({"targets": np.zeros((1, 1))}, "one for each row"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        po.Surrogate(mlp([3, 4, 1]), **{"domain": np.zeros((4, 3)), **options})


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_hull_holds_the_points_and_no_more(size):
    rng = np.random.default_rng(size)
    points = rng.normal(size=(80, size)) * 10.0 ** rng.integers(-3, 4, size)
    region, directions = hull(points), rng.normal(size=(200, size)) / np.ptp(points, axis=0)
    exact = (points @ directions.T).max(0)
    assert np.allclose(region.support(directions), exact, rtol=1e-6, atol=1e-6)
    assert region.contains(points, 1e-9 * abs(points).max()).all()


def test_a_flat_hull():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 1)) @ [[1.0, 2.0, -1.0]] + 3.0
    assert hull(points).contains(points, 1e-9).all()
    assert not hull(points).contains(points + np.array([0.0, 0.0, 0.1]), 1e-3).any()


def test_balls_hold_every_point_and_centre_on_points():
    points = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 100.0]
    boxes = balls(points, 12)
    inside = (points[:, None] >= boxes.lower - 1e-9) & (points[:, None] <= boxes.upper + 1e-9)
    assert inside.all(-1).any(1).all()
    centers = 0.5 * (boxes.lower + boxes.upper)
    assert (abs(centers[:, None] - points).max(-1).min(1) < 1e-9).all()
    single = balls(points[:3], 9)
    assert len(single.lower) == 3
    assert np.array_equal(single.lower, single.upper)


@pytest.fixture
def banana():
    """Points along an arc, and a network on the plane."""
    angle = np.random.default_rng(3).uniform(0.0, np.pi, 150)
    points = np.column_stack([np.cos(angle), np.sin(angle)]) * (1.0 + 0.02 * angle[:, None])
    return surrogate_of(mlp([2, 10, 10, 1], seed=2), points, input_names=["u", "v"])


def best(surrogate, domain, sense=pyo.maximize, **options):
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(2)), pyo.Block()
    y = po.add_surrogate(m.net, surrogate, m.x, domain=domain, **options)
    m.objective = pyo.Objective(expr=y[0], sense=sense)
    result = po.solve(m)
    assert result.status == "optimal"
    assert po.replay_error(m.net) < 1e-5
    return result.objective, np.array([m.x[0].value, m.x[1].value])


@pytest.mark.parametrize("sense", [pyo.maximize, pyo.minimize])
def test_each_trust_region_is_kept_and_holds_the_data(banana, sense):
    box, hulled, balled = (best(banana, domain, sense) for domain in ("box", "hull", "ball"))
    sign = 1.0 if sense == pyo.maximize else -1.0
    data = (sign * banana(banana.points)).max()
    assert sign * box[0] >= sign * hulled[0] - 1e-6 >= data - 2e-6
    assert sign * box[0] >= sign * balled[0] - 1e-6 >= data - 2e-6
    assert hull(banana.points).contains(hulled[1], 1e-6)
    boxes = balls(banana.points, 32)
    assert ((balled[1] >= boxes.lower - 1e-6) & (balled[1] <= boxes.upper + 1e-6)).all(1).any()


@pytest.mark.parametrize("domain", ["box", "hull", "ball"])
def test_the_optimum_is_that_of_a_fine_grid_over_the_domain(banana, domain):
    """The grid's best point cannot beat the optimum, and comes near it."""
    found, _ = best(banana, domain)
    axes = [np.linspace(low, high, 301) for low, high in zip(banana.lower - 0.1, banana.upper + 0.1, strict=True)]
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    if domain == "ball":
        boxes = balls(banana.points, 32)
        grid = grid[((grid[:, None] >= boxes.lower) & (grid[:, None] <= boxes.upper)).all(-1).any(1)]
    else:
        grid = grid[(banana.box if domain == "box" else hull(banana.points)).contains(grid)]
    assert banana(grid).max() - 1e-6 <= found <= banana(grid).max() + 0.1


def test_names_order_the_inputs(banana):
    values = []
    for inputs in (lambda m: {"v": m.x[1], "u": m.x[0]}, lambda m: [m.x[0], m.x[1]]):
        m = pyo.ConcreteModel()
        m.x, m.net = pyo.Var(range(2)), pyo.Block()
        y = po.add_surrogate(m.net, banana, inputs(m))
        m.x[0].fix(0.1)
        m.x[1].fix(0.6)
        m.objective = pyo.Objective(expr=y[0])
        values.append(po.solve(m).objective)
    assert values == pytest.approx([banana([[0.1, 0.6]]).item()] * 2, abs=1e-6)
    assert abs(banana([[0.1, 0.6]]) - banana([[0.6, 0.1]])).item() > 0.1


def test_an_own_range_narrower_than_the_domain_decides_more(banana):
    def unstable(bounds):
        m = pyo.ConcreteModel()
        m.x, m.net = pyo.Var(range(2), bounds=bounds), pyo.Block()
        po.add_surrogate(m.net, banana, m.x, domain="hull")
        return po.summary(m.net).unstable

    assert unstable((0.1, 0.2)) < unstable((-5.0, 5.0))


def test_a_range_widened_afterwards_is_refused(banana):
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(2), bounds=(0.1, 0.2)), pyo.Block()
    y = po.add_surrogate(m.net, banana, m.x)
    m.objective = pyo.Objective(expr=y[0])
    m.x[0].setub(0.5)
    with pytest.raises(ValueError, match="add it again"):
        po.solve(m)


def test_copies_of_a_surrogate(banana):
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(3), range(2)), pyo.Block(range(3))
    outputs = po.add_surrogate(m.net, banana, {t: {"u": m.x[t, 0], "v": m.x[t, 1]} for t in m.net}, domain="ball")
    m.objective = pyo.Objective(expr=sum(y[0] for y in outputs.values()), sense=pyo.maximize)
    assert po.solve(m).objective == pytest.approx(3.0 * best(banana, "ball")[0], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "sphere"}, "'sphere' is unknown"),
        ({"inputs": [1]}, "1 inputs are given"),
        ({"inputs": {"u": 1, "w": 2}}, "named"),
        ({"surrogate": 3}, "po.Surrogate"),
        ({"inside": []}, "lists no region"),
        ({"inside": po.Box([-1.0, -1.0], [1.0, 1.0])}, "not affine on region 0"),
    ],
)
def test_misuse_is_named(banana, options, message):
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(2)), pyo.Block()
    given = {"surrogate": banana, "inputs": m.x, **options}
    with pytest.raises(ValueError, match=message):
        po.add_surrogate(m.net, **given)


# ---- affine where it matters


REGIONS = [
    po.Box([0.2, 0.2], [0.5, 0.6]),
    po.Zonotope([-0.4, 0.3], [[0.05, 0.02], [0.0, 0.08]]),
    po.VPolytope([[0.6, -0.7], [0.8, -0.7], [0.7, -0.5]]),
    po.HPolytope([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], [-1.1, 0.8, 0.8]),
]


@pytest.fixture
def piecewise():
    """A network that is affine on each of the regions: its kinks are lines between them."""
    layers = [[1.0, 0.0, -0.1], [0.0, 1.0, 0.05], [1.0, -1.0, 1.0], [1.0, 1.0, 1.05]]
    rng = np.random.default_rng(1)
    hidden = np.array(layers)
    net = po.Network.sequential(
        [
            Affine(hidden[:, :2], hidden[:, 2]),
            ReLU(),
            Affine(rng.normal(size=(2, 4)), rng.normal(size=2)),
        ],
        (2,),
    )
    return po.Surrogate(net, domain=po.Box([-1.0, -1.0], [1.0, 1.0]))


def union_optimum(surrogate, regions, weights, affine):
    m = pyo.ConcreteModel()
    m.x, m.net, m.union = pyo.Var(range(2), bounds=(-1, 1)), pyo.Block(), pyo.Block()
    m.row = pyo.Constraint(expr=m.x[0] + 2.0 * m.x[1] >= -1.9)
    if affine:
        y = po.add_surrogate(m.net, surrogate, m.x, inside=regions)
    else:
        y = po.add_surrogate(m.net, surrogate, m.x)
        add_union(m.union, regions, list(m.x.values()))
    m.objective = pyo.Objective(expr=weights[0] * y[0] + weights[1] * y[1])
    result = po.solve(m)
    assert po.replay_error(m.net) < 1e-6
    return result.objective, po.summary(m.net)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (-1.0, 1.0), (0.3, -2.0)])
def test_affine_pieces_have_the_optimum_of_the_full_network(piecewise, count, weights):
    regions = REGIONS[:count]
    full, _ = union_optimum(piecewise, regions, weights, affine=False)
    affine, size = union_optimum(piecewise, regions, weights, affine=True)
    assert affine == pytest.approx(full, abs=1e-6)
    assert size.binaries == (count if count > 1 else 0)
    samples = np.concatenate([region.sample(500, np.random.default_rng(0)) for region in regions])
    samples = samples[samples @ [1.0, 2.0] >= -1.9]
    assert affine <= (piecewise(samples) @ weights).min() + 1e-6


def test_the_union_is_what_pyomo_gdp_makes_of_it():
    """The relaxation too is the hull of the union: that of gdp.hull."""
    import pyomo.gdp as gdp

    for direction in np.random.default_rng(0).normal(size=(12, 2)):
        values = []
        for ours in (True, False):
            m = pyo.ConcreteModel()
            m.x = pyo.Var(range(2), bounds=(-1, 1))
            if ours:
                m.union = pyo.Block()
                add_union(m.union, REGIONS, list(m.x.values()))
            else:
                m.part = gdp.Disjunct(range(len(REGIONS)))
                for k, region in enumerate(REGIONS):
                    region.add_to(m.part[k], m.x)
                m.either = gdp.Disjunction(expr=list(m.part.values()))
                pyo.TransformationFactory("gdp.hull").apply_to(m)
            m.objective = pyo.Objective(expr=direction[0] * m.x[0] + direction[1] * m.x[1])
            relaxed = pyo.TransformationFactory("core.relax_integer_vars").create_using(m)
            values += [po.solve(m).objective, po.solve(relaxed).objective]
        exact = min(-region.support(-direction[None])[0] for region in REGIONS)
        assert np.allclose(values, exact, atol=1e-6)


def test_an_ellipsoid_is_no_part_of_a_union():
    m = pyo.ConcreteModel()
    m.x, m.union = pyo.Var(range(2), bounds=(-1, 1)), pyo.Block()
    with pytest.raises(ValueError, match="zonotope"):
        add_union(m.union, [po.Ellipsoid([0.0, 0.0], np.eye(2))], list(m.x.values()))
