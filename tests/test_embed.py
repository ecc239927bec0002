"""Networks inside Pyomo models: inputs, stable units, blocks, copies, bounds, starts, errors."""

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest
from cases import NETWORKS, chain

import polyopt as po
from formulations import Row
from polyopt.activations import ReLU, Sign, Tanh
from polyopt.layers import Affine

RELU = NETWORKS["relu"]


def maximum(m, expression):
    m.objective = pyo.Objective(expr=expression, sense=pyo.maximize)
    result = po.solve(m)
    assert result.status == "optimal"
    return result.objective


def unit_box_model(net=RELU, **options):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(-1, 1))
    m.net = pyo.Block()
    return m, po.add_network(m.net, net, m.x, **options)


@pytest.fixture(scope="module")
def optimum():
    m, y = unit_box_model()
    return maximum(m, y[0])


def test_the_optimum_beats_every_sample_and_replays(optimum):
    m, y = unit_box_model()
    best = maximum(m, y[0])
    samples = RELU(np.random.default_rng(0).uniform(-1, 1, size=(20_000, 3)))[:, 0]
    assert samples.max() <= best == pytest.approx(optimum, abs=1e-9)
    assert po.replay_error(m.net) < 1e-6


def test_affine_expressions_as_inputs(optimum):
    m = pyo.ConcreteModel()
    m.u = pyo.Var(range(3), bounds=(0, 1))
    m.net = pyo.Block()
    m.shift = pyo.Param(initialize=-1.0, mutable=True)
    y = po.add_network(m.net, RELU, [2 * m.u[0] - 1, m.u[1] + m.u[1] + m.shift, 1 - 2 * m.u[2]])
    assert maximum(m, y[0]) == pytest.approx(optimum, abs=1e-6)
    assert po.replay_error(m.net) < 1e-6


def test_numbers_fixed_and_integer_variables_as_inputs():
    m = pyo.ConcreteModel()
    m.free = pyo.Var(initialize=0.25)
    m.free.fix()
    m.whole = pyo.Var(domain=pyo.Integers, bounds=(-1, 1))
    m.net = pyo.Block()
    y = po.add_network(m.net, RELU, [m.free, m.whole, 0.5])
    expected = RELU(np.array([[0.25, k, 0.5] for k in (-1, 0, 1)]))[:, 0].max()
    assert maximum(m, y[0]) == pytest.approx(expected, abs=1e-6)


def test_a_variable_fixed_inside_its_bounds_can_be_moved():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.x[0].fix(0.7)
    m.net = pyo.Block()
    y = po.add_network(m.net, RELU, [m.x[0], 1.0 * m.x[1], m.x[2]])
    m.objective = pyo.Objective(expr=y[0])
    for x in ([0.1, -0.2, 0.9], [-1.0, 1.0, 0.0]):
        for i in range(3):
            m.x[i].fix(x[i])
        assert po.solve(m).objective == pytest.approx(RELU(np.array([x]))[0, 0], abs=1e-6)


def test_indexed_blocks_hold_copies_and_two_networks_share_a_model(optimum):
    m = pyo.ConcreteModel()
    m.x = pyo.Var([0, 1], range(3), bounds=(-1, 1))
    m.net = pyo.Block([0, 1])
    copies = [po.add_network(m.net[k], RELU, [m.x[k, i] for i in range(3)]) for k in m.net]
    m.other = pyo.Block()
    (z,) = po.add_network(m.other, chain(lambda n: ReLU(), seed=5, sizes=(2, 4, 1)), copies[0])
    m.low = pyo.Constraint(expr=z >= -100)
    assert maximum(m, copies[0][0] + copies[1][0]) == pytest.approx(2 * optimum, abs=1e-5)
    assert max(map(po.replay_error, [m.net[0], m.net[1], m.other])) < 1e-6


def test_a_clone_is_a_model_of_its_own(optimum):
    m, _ = unit_box_model()
    other = m.clone()
    assert other.net.embedding.net is RELU
    assert maximum(other, other.net.output[0]) == pytest.approx(optimum, abs=1e-6)
    assert po.replay_error(other.net) < 1e-6
    assert m.x[0].value is None


def test_a_deactivated_block_constrains_nothing_and_a_deleted_one_is_gone():
    m, _ = unit_box_model()
    m.net.deactivate()
    m.objective = pyo.Objective(expr=m.x[0])
    assert po.solve(m).objective == -1.0
    m.del_component(m.net)
    m.net = pyo.Block()
    assert len(po.add_network(m.net, RELU, m.x)) == 2


@pytest.mark.parametrize("solver", ["highs", "appsi_highs", "scip_direct"])
def test_any_pyomo_solver_finds_the_optimum(optimum, solver):
    if not pyo.SolverFactory(solver).available(exception_flag=False):
        pytest.skip(f"{solver} is not installed")
    m, y = unit_box_model()
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    pyo.SolverFactory(solver).solve(m)
    assert pyo.value(m.objective) == pytest.approx(optimum, abs=1e-4)
    assert po.replay_error(m.net) < 1e-5


@pytest.mark.parametrize("kind", ["lp", "mps"])
def test_a_written_model_has_the_same_optimum(tmp_path, optimum, kind):
    highspy = pytest.importorskip("highspy")
    m, y = unit_box_model()
    m.objective = pyo.Objective(expr=-y[0])
    m.write(str(tmp_path / f"model.{kind}"))
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.readModel(str(tmp_path / f"model.{kind}"))
    solver.run()
    assert solver.getInfo().objective_function_value == pytest.approx(-optimum, abs=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_stable_units_cost_no_binary(name):
    """On a small box almost every unit is decided by its bounds; the count is that of the bounds themselves."""
    net = NETWORKS[name]
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(net.input_size), bounds=(0.3, 0.301))
    m.net = pyo.Block()
    bounds = po.crown(net, po.Box(np.full(net.input_size, 0.3), np.full(net.input_size, 0.301)))
    po.add_network(m.net, net, m.x, bounds=bounds)
    size = po.summary(m.net)
    assert size.unstable <= 2
    assert size.active + size.inactive + size.unstable == sum(node.size for node in net.activations)
    if size.unstable == 0:
        assert size.binaries == 0
    po.set_point(m.net, np.full(net.input_size, 0.3005))
    assert all(row.lslack() > -1e-9 and row.uslack() > -1e-9 for row in m.component_data_objects(pyo.Constraint))


def test_summary_counts_what_is_there():
    m, _ = unit_box_model()
    size = po.summary(m.net)
    pre = m.net.embedding.bounds.pre
    unstable = sum(int(((layer.lower < 0) & (layer.upper > 0)).sum()) for layer in pre)
    inactive = sum(int((layer.upper <= 0).sum()) for layer in pre)
    assert (size.unstable, size.inactive, size.binaries) == (unstable, inactive, unstable)
    rows = list(m.net.component_data_objects(pyo.Constraint))
    assert size.rows == len(rows)
    assert size.nonzeros == sum(len(row.body.linear_vars) for row in rows)
    assert all(type(row) is Row for row in rows)


def test_given_bounds_are_used_and_must_fit():
    box = po.Box(-np.ones(3), np.ones(3))
    m, _ = unit_box_model(bounds=po.interval(RELU, box))
    assert m.net.embedding.bounds.pre[1].upper.tolist() == po.interval(RELU, box).pre[1].upper.tolist()
    with pytest.raises(ValueError, match=r"input 0 ranges over .* but the bounds were computed for"):
        unit_box_model(bounds=po.interval(RELU, po.Box(-0.5 * np.ones(3), np.ones(3))))
    with pytest.raises(ValueError, match=r"layers of sizes \[5, 5, 2\], but the network has \[5, 4, 2\]"):
        unit_box_model(
            bounds=po.interval(
                NETWORKS["relu"].sequential(chain(lambda n: ReLU(), sizes=(3, 5, 5, 2)).layers, (3,)), box
            )
        )
    with pytest.raises(ValueError, match="bounds='ibp' is unknown; choose 'crown', 'interval'"):
        unit_box_model(bounds="ibp")


def test_widened_inputs_are_noticed_before_solving():
    m, y = unit_box_model()
    m.objective = pyo.Objective(expr=y[0])
    m.x[1].setub(3.0)
    with pytest.raises(
        ValueError, match=r"block 'net': input 1 \(x\[1\]\) now ranges over \[-1.*, 3.0\].*add it again"
    ):
        po.solve(m)


def test_sign_of_something_never_negative_is_never_minus_one():
    net = po.Network.sequential([Affine([[1.0]], None), ReLU(), Sign()], (1,))
    m, y = unit_box_model(net)
    m.objective = pyo.Objective(expr=y[0])
    assert po.solve(m).objective == pytest.approx(0.0, abs=1e-9)


def test_a_network_without_activations_is_rows_only():
    net = po.Network.sequential([Affine([[1.0, -2.0, 0.5]], [3.0])], (3,))
    m, y = unit_box_model(net)
    assert maximum(m, y[0]) == pytest.approx(6.5)


def test_wrong_inputs_are_refused_with_their_names():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.free = pyo.Var(bounds=(0, None))
    m.net = pyo.Block()
    with pytest.raises(ValueError, match="2 inputs are given, but the network has 3"):
        po.add_network(m.net, RELU, [m.x[0], m.x[1]])
    with pytest.raises(ValueError, match=r"input 1 depends on variable 'free', whose bounds are \(0, None\)"):
        po.add_network(m.net, RELU, [m.x[0], m.free, m.x[2]])
    with pytest.raises(ValueError, match="input 2 depends on variable 'free'"):
        po.add_network(m.net, RELU, [m.x[0], m.x[1], 1 - m.free])
    with pytest.raises(ValueError, match=r"input 0 is .* which is not affine"):
        po.add_network(m.net, RELU, [m.x[0] ** 2, m.x[1], m.x[2]])
    m.x[0].setlb(2.0)
    with pytest.raises(ValueError, match=r"variable 'x\[0\]' with bounds \(2.0, 1\).*nothing satisfies"):
        po.add_network(m.net, RELU, m.x)
    assert not list(m.net.component_objects())


def test_one_block_holds_one_network():
    m, _ = unit_box_model()
    with pytest.raises(ValueError, match="block 'net' already holds a network"):
        po.add_network(m.net, RELU, m.x)
    m.empty = pyo.Block()
    for question in (po.summary, po.replay_error, lambda block: po.set_point(block, [0, 0, 0])):
        with pytest.raises(ValueError, match="block 'empty' holds no network"):
            question(m.empty)


def test_what_is_no_block_no_network_and_no_formulation_is_refused():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.net = pyo.Block()
    for block in (pyo.Block(), pyo.Block(range(2)), "net"):
        with pytest.raises(ValueError, match="is not a constructed Pyomo block"):
            po.add_network(block, RELU, m.x)
    with pytest.raises(ValueError, match="the network is a str; read it with from_torch"):
        po.add_network(m.net, "net.onnx", m.x)
    with pytest.raises(ValueError, match=r"formulation=<class .* is none; give an instance such as po.BigM\(\)"):
        po.add_network(m.net, RELU, m.x, formulation=po.BigM)
    with pytest.raises(ValueError, match="a Pyomo model or block is needed, but str is given"):
        po.solve("model")


def test_after_an_error_the_block_is_as_it_was():
    net = po.Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Tanh()], (1,))
    m = pyo.ConcreteModel()
    m.u = pyo.Var(bounds=(-1, 1))
    m.net = pyo.Block()
    with pytest.raises(ValueError, match="Tanh"):
        po.add_network(m.net, net, [2 * m.u])
    assert not list(m.net.component_objects())
    po.add_network(m.net, RELU, [m.u, m.u, m.u])
    with pytest.raises(ValueError, match="block 'net' has variables without values; solve the model"):
        po.replay_error(m.net)


def test_formulations_by_layer(optimum):
    names = [node.name for node in RELU.activations]
    for choice in (
        {names[0]: po.Extended()},
        {names[1]: po.Partition(2), names[0]: po.CuttingPlanes()},
        lambda node: po.Extended() if node.size > 4 else po.BigM(),
    ):
        m, y = unit_box_model(formulation=choice)
        assert maximum(m, y[0]) == pytest.approx(optimum, abs=1e-6)
    m, _ = unit_box_model(formulation={names[1]: po.Partition(2)})
    assert [type(part.formulation) for part in m.net.embedding.parts] == [po.BigM, po.Partition]
    with pytest.raises(ValueError, match=r"there is no activation layer 'relu7'; there are \['1', '3'\]"):
        unit_box_model(formulation={"relu7": po.BigM()})
    with pytest.raises(ValueError, match="formulation=None is none; give an instance"):
        unit_box_model(formulation=lambda node: None)
    with pytest.raises(ValueError, match="formulation='bigm' is none; give an instance"):
        unit_box_model(formulation="bigm")


def one_hot_model(tighten):
    """Two one-hot inputs of four letters each, and a row on a further variable."""
    net = chain(lambda n: ReLU(), seed=4, sizes=(9, 12, 8, 1))
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(8), domain=pyo.Binary)
    m.u = pyo.Var(bounds=(-1, 1))
    m.letter = pyo.Constraint([0, 1], rule=lambda m, k: sum(m.x[4 * k + i] for i in range(4)) == 1)
    m.budget = pyo.Constraint(expr=m.u <= 0.2 * m.x[0])
    m.product = pyo.Constraint(expr=m.u * m.x[1] <= 5)  # not linear: of no use here, and no hindrance
    m.net = pyo.Block()
    y = po.add_network(m.net, net, [*m.x.values(), m.u], tighten=tighten)
    m.product.deactivate()
    m.objective = pyo.Objective(expr=y[0], sense=pyo.maximize)
    return m


def test_tightening_uses_the_model_s_own_rows():
    plain, tight = one_hot_model(None), one_hot_model("lp")
    widths = [sum(v.ub - v.lb for v in m.net.layer[1].pre.values()) for m in (plain, tight)]
    assert widths[1] < 0.8 * widths[0]
    exact, same = po.solve(plain), po.solve(tight)
    assert same.objective == pytest.approx(exact.objective, abs=1e-5)  # the solver's points violate rows by 1e-6
    assert po.replay_error(tight.net) < 1e-6
    # every admissible input is still feasible, with its own output
    for first in range(4):
        for second in range(4):
            x = np.zeros(9)
            x[first], x[4 + second] = 1.0, 1.0
            for u in (-1.0, 0.2 * x[0]):
                x[8] = u
                po.set_point(tight.net, x)
                rows = tight.component_data_objects(pyo.Constraint, active=True)
                assert min(min(row.lslack(), row.uslack()) for row in rows) > -1e-9


def test_tightening_does_not_rely_on_where_a_variable_is_fixed():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.x[0].fix(0.5)
    m.net = pyo.Block()
    y = po.add_network(m.net, RELU, m.x, tighten="lp")
    assert m.x[0].fixed
    m.objective = pyo.Objective(expr=y[0])
    for i, value in enumerate([-0.9, 0.3, 0.8]):
        m.x[i].fix(value)
    assert po.solve(m).objective == pytest.approx(RELU(np.array([[-0.9, 0.3, 0.8]]))[0, 0], abs=1e-6)


def test_constraints_that_exclude_every_input_are_noticed():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(3), bounds=(-1, 1))
    m.row = pyo.Constraint(expr=m.x[0] + m.x[1] >= 3)
    m.net = pyo.Block()
    with pytest.raises(ValueError, match="exclude every input of the network"):
        po.add_network(m.net, RELU, m.x, tighten="lp")
    with pytest.raises(ValueError, match="tighten='obbt' is unknown"):
        po.add_network(m.net, RELU, m.x, tighten="obbt")


def test_auto_chooses_by_units_and_fan_in_and_says_what():
    rng = np.random.default_rng(0)
    sizes = (1, 30, 80, 3, 1)
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [Affine(rng.normal(size=(n_out, n_in)), None), ReLU()]
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(-1, 1))
    m.net = pyo.Block()
    po.add_network(m.net, po.Network.sequential(layers, (1,)), [m.x], formulation=po.auto(), bounds="interval")
    chosen = po.summary(m.net).formulations
    assert (chosen["1"], chosen["3"], chosen["5"]) == (po.BigM(), po.BigM(), po.CuttingPlanes())


def test_auto_has_no_exact_form_of_smooth_activations():
    net = po.Network.sequential([Tanh()], (1,))
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(-1, 1))
    m.net = pyo.Block()
    with pytest.raises(ValueError, match=r"layer '0' \(Tanh\) has no Auto formulation"):
        po.add_network(m.net, net, [m.x], formulation=po.auto())
