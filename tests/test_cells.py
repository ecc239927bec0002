"""Networks whose inputs lie in one of several boxes: against enumeration, and against plain networks box by box."""

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, chain

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.program import to_program

NET = chain(lambda n: ReLU(), sizes=(3, 8, 6, 2))
LISTS = np.array([[-1.0, -0.4, 0.3], [0.0, 0.2, 0.9], [-0.7, 0.5, 0.6]])  # of each input
SINGLES, PAIRS, ALL = (list(itertools.combinations(range(3), held)) for held in (1, 2, 3))


def cover(held):
    """The choices (K, len(held)) from the lists of some inputs, and their boxes; the other inputs are free."""
    choices = np.array(list(itertools.product(range(3), repeat=len(held))))
    lower, upper = (np.tile(end, (len(choices), 1)) for end in (LISTS.min(1), LISTS.max(1)))
    for column, i in enumerate(held):
        lower[:, i] = upper[:, i] = LISTS[i, choices[:, column]]
    return choices, po.Box(lower, upper)


def model(net, held, **options):
    """Inputs from the lists by binaries z, and for each group of held inputs a cover, whose picks z makes 0 or 1."""
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(3)), pyo.Block()
    m.z, m.c = pyo.Var(range(3), range(3), domain=pyo.Binary), pyo.ConstraintList()
    for i in range(3):
        m.c.add(sum(m.z[i, :]) == 1)
        m.c.add(sum(LISTS[i, j] * m.z[i, j] for j in range(3)) == m.x[i])
    m.pick, covers = pyo.Block(range(len(held))), []
    for block, group in zip(m.pick.values(), held, strict=True):
        choices, boxes = cover(group)
        block.w = pyo.Var(range(len(choices)), bounds=(0, 1))
        for (column, i), j in itertools.product(enumerate(group), range(3)):
            m.c.add(sum(block.w[k] for k in np.flatnonzero(choices[:, column] == j)) == m.z[i, j])
        covers.append((boxes, block.w))
    return m, po.add_cells(m.net, net, m.x, covers, **options)


def union(net, boxes):
    """A model with nothing but the network and one binary for each box."""
    m = pyo.ConcreteModel()
    m.x, m.net = pyo.Var(range(net.input_size)), pyo.Block()
    m.w = pyo.Var(range(len(boxes.lower)), domain=pyo.Binary)
    return m, po.add_cells(m.net, net, m.x, [(boxes, m.w)])


def some_boxes(n, rng, count=4):
    center, radius = rng.uniform(-1, 1, (count, n)), rng.uniform(0, 0.4, (count, n))
    return po.Box(center - radius, center + radius)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("relu", ALL),
        ("relu", PAIRS),
        ("relu", SINGLES),
        ("maxout", [(2,), (0, 1)]),
        ("residual", PAIRS),
    ],
)
def test_the_optimum_is_that_of_all_choices(name, held):
    net, rng = NETWORKS[name], np.random.default_rng(4)
    points = np.array(list(itertools.product(*LISTS)))
    outputs = net(points)
    m, y = model(net, held)
    for c, p in zip(rng.normal(size=(2, 2)), rng.normal(size=(2, 3)), strict=True):
        m.del_component("objective")
        m.objective = pyo.Objective(expr=sum(a * v for a, v in zip([*c, *p], [*y, *m.x.values()], strict=True)))
        values = outputs @ c + points @ p
        assert po.solve(m).objective == pytest.approx(values.min(), abs=1e-5)
        assert [m.x[i].value for i in range(3)] == pytest.approx(points[values.argmin()], abs=1e-6)
        assert po.replay_error(m.net) <= 1e-5


@pytest.mark.parametrize("formulation", [po.BigM(), po.Partition(2)], ids=str)
def test_the_optimum_over_boxes_is_the_best_of_plain_networks(formulation):
    rng = np.random.default_rng(5)
    boxes, best = some_boxes(3, rng), []
    m = pyo.ConcreteModel()
    m.x, m.net, m.w = pyo.Var(range(3)), pyo.Block(), pyo.Var(range(4), domain=pyo.Binary)
    y = po.add_cells(m.net, NET, m.x, [(boxes, m.w)], formulation)
    m.objective = pyo.Objective(expr=y[0] - y[1] + 0.3 * m.x[0])
    for lower, upper in zip(boxes.lower.tolist(), boxes.upper.tolist(), strict=True):
        plain = pyo.ConcreteModel()
        plain.x, plain.net = pyo.Var(range(3), bounds=lambda _, i, a=lower, b=upper: (a[i], b[i])), pyo.Block()
        out = po.add_network(plain.net, NET, list(plain.x.values()), bounds="interval")
        plain.objective = pyo.Objective(expr=out[0] - out[1] + 0.3 * plain.x[0])
        best.append(po.solve(plain).objective)
    assert po.solve(m).objective == pytest.approx(min(best), abs=1e-5)
    assert m.w[int(np.argmin(best))].value == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"sign", "step"}))
def test_no_point_of_the_graph_is_cut_off(name):
    net, rng = NETWORKS[name], np.random.default_rng(6)
    boxes = some_boxes(net.input_size, rng)
    m, _ = union(net, boxes)
    program, bounds = to_program(m), m.net.cells[0].bounds
    for k, points in enumerate(boxes.sample(10, rng)):
        outputs = net(points)
        assert (bounds.output.lower[k] <= outputs).all()
        assert (outputs <= bounds.output.upper[k]).all()
        for x in points:
            po.set_point(m.net, x)
            for j, w in m.w.items():
                w.value = float(j == k)
            values = np.array([variable.value for variable in program.variables])
            rows = program.matrix @ values
            assert (program.lower - 1e-9 <= values).all()
            assert (values <= program.upper + 1e-9).all()
            assert (program.row_lower - 1e-9 <= rows).all()
            assert (rows <= program.row_upper + 1e-9).all()


def test_relaxed_over_points_it_is_their_hull():
    """What is left of the network when all is relaxed: no combination of inputs and outputs gets below the points'."""
    rng = np.random.default_rng(7)
    points = rng.uniform(-1, 1, (6, 3))
    m, y = union(NET, po.Box(points, points))
    pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
    graph = np.hstack([NET(points), points])
    for c in rng.normal(size=(10, 5)):
        m.del_component("objective")
        m.objective = pyo.Objective(expr=sum(a * v for a, v in zip(c.tolist(), [*y, *m.x.values()], strict=True)))
        assert po.solve(m).objective == pytest.approx((graph @ c).min(), abs=1e-7)


def test_more_held_inputs_make_a_tighter_relaxation():
    found = []
    for held in (SINGLES, PAIRS, ALL):
        m, y = model(NET, held)
        m.objective = pyo.Objective(expr=y[0] - y[1])
        pyo.TransformationFactory("core.relax_integer_vars").apply_to(m)
        found.append(po.solve(m).objective)
    plain = pyo.ConcreteModel()
    plain.x, plain.net = pyo.Var(range(3), bounds=lambda _, i: (LISTS[i].min(), LISTS[i].max())), pyo.Block()
    y = po.add_network(plain.net, NET, list(plain.x.values()), po.Triangle())
    plain.objective = pyo.Objective(expr=y[0] - y[1])
    assert po.solve(plain).objective < found[0] - 1e-3 < found[1] - 2e-3 < found[2] - 3e-3


def test_units_that_no_box_leaves_undecided_have_no_binary():
    net = po.Network.sequential([ReLU()], (1,))
    for high, unstable in ((-0.5, 0), (0.5, 1)):
        m, _ = union(net, po.Box([[-2.0], [-1.0]], [[-1.5], [high]]))
        assert po.summary(m.net).unstable == unstable
    tent = [Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], [-0.5]), ReLU()]  # max(0, |x| - 0.5)
    ends = po.Box([[-1.0], [1.0]], [[-0.9], [1.0]])
    m, _ = union(po.Network.sequential(tent, (1,)), ends)
    assert [len(part.unstable) for part in m.net.embedding.parts] == [2, 0]  # |x| > 0.5 in both


def test_inputs_may_be_expressions_and_copies_have_blocks_of_their_own():
    boxes = po.Box([[0.0] * 3, [1.0] * 3], [[0.1] * 3, [1.0] * 3])
    m = pyo.ConcreteModel()
    m.t, m.net = pyo.Var(bounds=(0.05, 1)), pyo.Block(range(2))
    m.w = pyo.Var(range(2), range(2), domain=pyo.Binary)
    sides = [m.t, 1 - m.t]
    y = [po.add_cells(m.net[r], NET, [sides[r]] * 3, [(boxes, list(m.w[r, :]))]) for r in range(2)]
    m.objective = pyo.Objective(expr=y[0][0] + y[1][1])
    assert po.solve(m).status == "optimal"
    assert m.t.value == pytest.approx(1.0)  # t and 1 - t are both at most 0.1, or 1
    assert po.replay_error(m.net[0]) + po.replay_error(m.net[1]) <= 1e-6


BOXES = po.Box(np.zeros((2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"covers": []}, "no cover is given"),
        ({"covers": [(BOXES, "w3")]}, r"cover 0 has 3 picks and boxes of shape \(2, 3\)"),
        ({"covers": [(po.Box([0.0] * 3, [1.0] * 3), "w2")]}, r"boxes of shape \(3,\)"),
        ({"covers": [(np.zeros((2, 3)), "w2")]}, "boxes a ndarray"),
        ({"covers": [(BOXES, "w2"), (po.Box(BOXES.lower + 2, BOXES.upper + 2), "w2")]}, "input 0 above 2.0, another"),
        ({"covers": [(BOXES, "free")]}, r"pick free\[0\] of cover 0 is with bounds \(0, None\)"),
        ({"covers": [(BOXES, [0.5, 0.5])]}, "pick 0.5 of cover 0 is a float"),
        ({"inputs": 2}, "2 inputs are given, but the network has 3"),
        ({"block": "many"}, "'many' is an indexed block"),
        ({"net": "net.onnx"}, "the network is a str"),
        ({"covers": [(po.Box(BOXES.lower + 3, BOXES.upper + 3), "w2")]}, r"nothing satisfies both"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_block_alone(change, message):
    m = pyo.ConcreteModel()
    m.x, m.net, m.many = pyo.Var(range(3), bounds=(-1, 2)), pyo.Block(), pyo.Block(range(2))
    m.w2, m.w3 = pyo.Var(range(2), domain=pyo.Binary), pyo.Var(range(3), domain=pyo.Binary)
    m.free = pyo.Var(range(2), domain=pyo.NonNegativeReals)
    covers = [
        (boxes, m.component(picks) if isinstance(picks, str) else picks)
        for boxes, picks in change.get("covers", [(BOXES, "w2")])
    ]
    inputs, block = list(m.x.values())[: change.get("inputs", 3)], m.component(change.get("block", "net"))
    with pytest.raises(ValueError, match=message):
        po.add_cells(block, change.get("net", NET), inputs, covers)
    assert not m.net.component_map()
