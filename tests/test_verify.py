"""Verdicts against the least margin that enumerating activation patterns finds; promises, limits, errors."""

import itertools
import math
import os
import signal
import threading
import time

import numpy as np
import pytest
import strategies
import torch
from cases import NETWORKS, SIGN_KINDS
from scipy.optimize import linprog

import polyopt as po
from polyopt.activations import ReLU, Sigmoid
from polyopt.layers import Affine
from polyopt.search import decide as decide_module
from polyopt.search.decide import Decision
from polyopt.verification import attack
from polyopt.verification.programs import solve_programs
from polyopt.verification.property import Case

BOX = po.Box([-1.0, -1.0], [1.0, 1.0])


def shallow(rng, units=5):
    """W2 relu(W1 x + b1) + b2 with two inputs and two outputs."""
    layers = [strategies.affine(rng, 2, units), ReLU(), strategies.affine(rng, units, 2)]
    return po.Network.sequential(layers, (2,))


def image(region):
    """The region as ``{c + M z : 0 <= z <= 1}``, and whether the z sum to one."""
    match region:
        case po.Box():
            return region.lower, np.diag(region.upper - region.lower), False
        case po.Zonotope():
            return region.center - region.generators.sum(1), 2.0 * region.generators, False
        case po.VPolytope():
            return np.zeros(2), region.points.T, True


def least_margin(net, region, polytope):
    """The least ``max_r (C f(x) - d)_r`` over the region: a linear program for each activation pattern."""
    first, _, last = net.layers
    c, M, simplex = image(region)
    n, rows = M.shape[1], len(polytope.b)
    total = {"A_eq": [[1.0] * n + [0.0]], "b_eq": [1.0]} if simplex else {}
    least = math.inf
    for pattern in itertools.product([0.0, 1.0], repeat=len(first.bias)):
        on = np.array(pattern)
        A, b = first.weight @ M, first.weight @ c + first.bias
        outputs = polytope.A @ last.weight @ (on[:, None] * A)
        offset = polytope.A @ (last.weight @ (on * b) + last.bias) - polytope.b
        signs = (1.0 - 2.0 * on)[:, None]
        found = linprog(
            np.eye(n + 1)[-1],
            A_ub=np.block([[outputs, -np.ones((rows, 1))], [signs * A, np.zeros((len(b), 1))]]),
            b_ub=np.concatenate([-offset, -signs[:, 0] * b]),
            bounds=[(0.0, 1.0)] * n + [(None, None)],
            **total,
        )
        least = min(least, found.fun if found.status == 0 else math.inf)
    return least


REGIONS = {
    "box": lambda rng: po.Box(*np.sort(rng.normal(size=(2, 2)), axis=0)),
    "zonotope": lambda rng: po.Zonotope(rng.normal(size=2), 0.5 * rng.normal(size=(2, 3))),
    "vpolytope": lambda rng: po.VPolytope(rng.normal(size=(4, 2))),
}


def problem(kind, seed):
    """A network, a property with two unsafe sets, and the least margins of both; often near the border."""
    rng = np.random.default_rng(seed)
    net, region = shallow(rng), REGIONS[kind](rng)
    rows = [rng.normal(size=(count, 2)) for count in (1, 2)]
    margins = [least_margin(net, region, po.HPolytope(C, np.zeros(len(C)))) for C in rows]
    shifts = [margin + rng.choice([-1.0, -0.1, -0.01, -1e-3, 0.02]) for margin in margins]
    unsafe = [po.HPolytope(C, np.full(len(C), shift)) for C, shift in zip(rows, shifts, strict=True)]
    margins = [margin - shift for margin, shift in zip(margins, shifts, strict=True)]
    return net, po.Property(region, unsafe), margins


def assert_honest(net, prop, verdict):
    if verdict.status != "falsified":
        assert verdict.witness is verdict.outputs is verdict.case is None
        return
    assert np.array_equal(verdict.outputs, net(verdict.witness[None])[0])
    case = po.Property(*prop.cases[verdict.case])
    assert case.falsified_by(verdict.witness, verdict.outputs)
    single = po.to_torch(net).float()(torch.tensor(verdict.witness[None], dtype=torch.float32))
    assert case.falsified_by(verdict.witness, single.detach().numpy()[0])


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("seed", range(10))
def test_verdicts_are_those_of_enumeration(kind, seed):
    net, prop, margins = problem(kind, seed)
    verdict = po.verify(net, prop, time_limit=20)
    assert verdict.status == ("verified" if min(margins) > 0 else "falsified"), margins
    assert_honest(net, prop, verdict)
    assert verdict.bound <= min(margins) + 1e-9


def polytope(rng):
    """A square cut by two rows that leave a known point."""
    rows, inside = rng.normal(size=(2, 2)), rng.uniform(-0.5, 0.5, 2)
    A = np.vstack([np.eye(2), -np.eye(2), rows])
    return po.HPolytope(A, np.concatenate([np.ones(4), rows @ inside + 0.3]))


OTHERS = {
    "hpolytope": polytope,
    "product": lambda rng: po.Product(po.VPolytope(rng.normal(size=(2, 1))), po.Zonotope(rng.normal(size=1), [[0.5]])),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("seed", range(5))
def test_verdicts_are_those_of_programs(kind, seed):
    """Where enumeration does not reach: by the optimum of mixed-integer programs, and beyond their tolerances."""
    rng = np.random.default_rng(seed)
    net, region, C = shallow(rng, 8), OTHERS[kind](rng), rng.normal(size=(2, 2))
    high = np.full(2, 100.0)  # all outputs are unsafe, so that no bound is positive and programs end at the optimum
    least = solve_programs(net, [Case(region, (po.HPolytope(C, high),))], lambda x, case: False).bound + 100.0
    for shift, status in ((least - 1e-3, "verified"), (least + 1e-3, "falsified")):
        prop = po.Property(region, [po.HPolytope(C, np.full(2, shift))])
        verdict = po.verify(net, prop, time_limit=20)
        assert verdict.status == status
        assert_honest(net, prop, verdict)


@pytest.mark.parametrize("attacked", [True, False])
def test_several_regions_of_different_kinds(attacked, monkeypatch):
    if not attacked:
        monkeypatch.setattr(attack, "STAGES", ())
    net = po.Network.sequential([Affine(np.eye(2), None)], (2,))
    triangle = po.VPolytope([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    diamond = po.Zonotope([5.0, 5.0], [[1.0, 1.0], [1.0, -1.0]])
    for high, status, case in ((-8.0, "verified", None), (-6.5, "falsified", 2)):
        unsafe = [po.HPolytope([[-1.0, 0.0]], [high])]
        prop = po.Property.of_cases([(triangle, unsafe), (BOX, unsafe), (diamond, unsafe)], 2, 2)
        verdict = po.verify(net, prop, method="search")
        assert (verdict.status, verdict.case) == (status, case)
        assert verdict.bound <= 1.0 + 1e-9


def test_corners_that_an_ellipsoid_does_not_have():
    """What is unsafe only outside of the disc is not falsified, and may stay unknown."""
    net = po.Network.sequential([Affine(np.ones((1, 2)), None)], (2,))
    disc = po.Ellipsoid([0.0, 0.0], np.eye(2))
    far, between, near = (po.Property(disc, [po.HPolytope([[-1.0]], [-d])]) for d in (2.1, 1.6, 1.4))
    assert po.verify(net, far).status == "verified"
    assert po.verify(net, between, time_limit=1.0).status == "unknown"
    assert po.verify(net, near).status == "falsified"


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("seed", range(4))
def test_programs_find_counterexamples_and_verify_nothing(kind, seed, monkeypatch):
    monkeypatch.setattr(attack, "STAGES", ())
    net, prop, margins = problem(kind, seed)
    verdict = po.verify(net, prop, method="milp")
    assert_honest(net, prop, verdict)
    assert verdict.by == "milp"
    if min(margins) < 0:
        assert verdict.status == "falsified"
    else:
        assert (verdict.status, verdict.reason) == ("unknown", "tolerances")
        assert 0 < verdict.bound <= min(margins) + 1e-6


def test_programs_bound_all_unsafe_sets():
    """Where no point is accepted, the bound is the least margin over all sets, to HiGHS's tolerances."""
    for seed in range(8):
        net, prop, margins = problem("box", seed)
        found = solve_programs(net, prop.cases, lambda x, case: False)
        assert found.x is None
        expected = min(margins)
        assert found.bound == pytest.approx(expected, abs=1e-5) if expected < 0 else 0 < found.bound <= expected + 1e-6


def test_a_property_without_cases_holds():
    net = shallow(np.random.default_rng(0))
    verdict = po.verify(net, po.Property.of_cases([], 2, 2))
    assert (verdict.status, verdict.by, verdict.bound) == ("verified", "definition", math.inf)


def test_the_case_of_a_witness():
    net = po.Network.sequential([Affine(np.eye(2), None)], (2,))
    far = po.Box([5.0, 5.0], [6.0, 6.0])
    unsafe = [po.HPolytope([[-1.0, 0.0]], [-5.5])]
    verdict = po.verify(net, po.Property.of_cases([(BOX, unsafe), (far, unsafe)], 2, 2))
    assert (verdict.status, verdict.case) == ("falsified", 1)


# With a search that answers what it is told to.

NET = po.Network.sequential([Affine([[1.0]], None), ReLU()], (1,))
SAFE = po.Property(po.Box([0.0], [1.0]), [po.HPolytope([[-1.0]], [-1.5])])  # relu(x) >= 1.5


@pytest.fixture
def search(monkeypatch):
    """Sets what the search does."""

    def answers(status="stuck", x=None, case=None, value=0.5, bound=-math.inf, raises=None):
        def decide(net, cases, accept, **options):
            if raises is not None:
                raise raises
            return Decision(status, x, case, value, bound, 7, 0.1)

        monkeypatch.setattr(decide_module, "decide", decide)

    return answers


@pytest.mark.parametrize("reason", ["time limit", "interrupted", "stuck"])
@pytest.mark.parametrize("method", ["auto", "search"])
def test_what_is_not_proven_is_unknown(search, reason, method):
    search(reason, bound=0.25)  # a bound alone proves nothing
    verdict = po.verify(NET, SAFE, method=method)
    assert (verdict.status, verdict.by, verdict.reason) == ("unknown", "search", reason)
    assert (verdict.bound, verdict.branches) == (0.25, 7)


def test_what_is_proven_is_verified(search):
    search("proven", bound=0.5)
    verdict = po.verify(NET, SAFE)
    assert (verdict.status, verdict.by, verdict.bound, verdict.branches) == ("verified", "search", 0.5, 7)


def test_a_counterexample_that_is_none_is_an_error(search):
    search("refuted", x=np.array([0.5]), case=0)
    with pytest.raises(RuntimeError, match="is none"):
        po.verify(NET, SAFE)


def test_an_exception_is_no_verdict(search):
    search(raises=FloatingPointError("overflow"))
    with pytest.raises(FloatingPointError):
        po.verify(NET, SAFE)


def test_ctrl_c_gives_unknown(search):
    search(raises=KeyboardInterrupt)
    verdict = po.verify(NET, SAFE)
    assert (verdict.status, verdict.reason) == ("unknown", "interrupted")


def test_where_the_search_is_stuck_programs_go_on(search, monkeypatch):
    monkeypatch.setattr(attack, "STAGES", ())
    search("stuck", bound=-1.0)
    unsafe = po.Property(SAFE.region, [po.HPolytope([[-1.0]], [-0.9])])
    assert po.verify(NET, unsafe, method="search").status == "unknown"
    verdict = po.verify(NET, unsafe)
    assert (verdict.status, verdict.by, verdict.branches) == ("falsified", "milp", 7)


def test_programs_are_not_asked_of_smooth_networks(search):
    search("stuck", bound=-1.0)
    net = po.Network.sequential([Affine([[1.0]], None), Sigmoid()], (1,))
    assert po.verify(net, SAFE).reason == "stuck"


@pytest.mark.parametrize(("statuses", "bound"), [(["proven", "stuck"], 0.25), (["stuck"], -math.inf)])
def test_a_bound_is_one_on_all_cases(monkeypatch, statuses, bound):
    """Boxes and zonotopes are asked about one after the other; those not asked about any more have no bound."""
    answers = iter(statuses)
    monkeypatch.setattr(
        decide_module, "decide", lambda *_, **__: Decision(next(answers), None, None, 0.5, 0.25, 7, 0.1)
    )
    cases = [(po.Box([0.0], [1.0]), SAFE.unsafe), (po.Zonotope([0.5], [[0.5]]), SAFE.unsafe)]
    verdict = po.verify(NET, po.Property.of_cases(cases, 1, 1), method="search")
    assert (verdict.status, verdict.reason, verdict.bound) == ("unknown", "stuck", bound)
    assert verdict.branches == 7 * len(statuses)


def test_what_is_found_at_the_limit_is_found(monkeypatch):
    plain = attack.attack

    def slowly(*arguments):
        time.sleep(1.1)
        return plain(*arguments)

    monkeypatch.setattr(attack, "attack", slowly)
    verdict = po.verify(NET, po.Property(SAFE.region, [po.HPolytope([[-1.0]], [-0.9])]), time_limit=1.0)
    assert (verdict.status, verdict.reason) == ("falsified", "")


@pytest.mark.parametrize("method", ["auto", "milp"])
def test_a_witness_must_replay_through_the_source(search, method):
    """The network reaches the unsafe set, the file that it is said to come from does not."""
    search("stuck")
    unsafe = po.Property(SAFE.region, [po.HPolytope([[-1.0]], [-0.9])])
    net = po.from_onnx(po.to_onnx(NET))
    assert po.verify(net, unsafe, method=method).status == "falsified"
    net.source = po.to_onnx(po.Network.sequential([Affine([[0.5]], None), ReLU()], (1,)))
    assert po.verify(net, unsafe, method=method).status == "unknown"


# Limits and bad input, with the search itself.


def hard():
    """A network with 20 inputs, and outputs so low that within seconds nobody reaches them or proves that none does."""
    net = strategies.chain(np.random.default_rng(0), "relu", (20, 100, 100, 100, 1))
    low = net(np.zeros((1, 20)))[0] - 3.0
    return net, po.Property(po.Box(-np.ones(20), np.ones(20)), [po.HPolytope([[1.0]], low)])


@pytest.mark.parametrize("method", ["auto", "search", "milp"])
def test_the_time_limit_is_kept(method):
    net, prop = hard()
    po.verify(net, prop, time_limit=0.2, method=method)  # whatever is imported late
    start = time.perf_counter()
    verdict = po.verify(net, prop, time_limit=2.0, method=method)
    assert time.perf_counter() - start < 4.0
    assert (verdict.status, verdict.reason) == ("unknown", "time limit")
    assert verdict.seconds <= time.perf_counter() - start
    assert verdict.bound < 0


@pytest.mark.parametrize("method", ["auto", "milp"])
def test_ctrl_c_keeps_what_is_known(method):
    net, prop = hard()
    po.verify(net, prop, time_limit=0.2, method=method)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.perf_counter()
    verdict = po.verify(net, prop, time_limit=60.0, method=method)
    timer.join()
    assert time.perf_counter() - start < 10.0
    assert (verdict.status, verdict.reason) == ("unknown", "interrupted")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": lambda x: x}, "the network is a function"),
        ({"prop": BOX}, "the property is a Box"),
        ({"prop": po.Property(BOX, [po.HPolytope([[1.0]], [0.0])])}, "2 inputs and 1 outputs, but the network 1 and 1"),
        ({"method": "magic"}, "'auto', 'search', 'milp'"),
        ({"time_limit": 0.0}, "time_limit is 0.0"),
        ({"time_limit": math.nan}, "time_limit is nan"),
        ({"prop": po.Property(po.HPolytope([[1.0]], [0.0]), [po.HPolytope([[1.0]], [0.0])])}, "unbounded"),
        ({"prop": po.Property(po.HPolytope([[1.0], [-1.0]], [0.0, -1.0]), [po.HPolytope([[1.0]], [0.0])])}, "empty"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        po.verify(**{"net": NET, "prop": SAFE} | changes)


@pytest.mark.parametrize("name", SIGN_KINDS)
def test_networks_that_jump_are_bounded_but_not_searched(name, monkeypatch):
    """CROWN's bounds on outputs are enough for the set that is far, in one of its rows; a set that samples reach is not
    verified, whatever else there is."""
    monkeypatch.setattr(attack, "STAGES", ())
    net, C = NETWORKS[name], np.array([[1.0, -0.5], [0.3, 1.0]])
    box = po.Box([-1.0] * net.input_size, [1.0] * net.input_size)
    y, output = net(box.sample(20000, np.random.default_rng(0))), po.crown(net, box).output
    least = np.maximum(C, 0.0) @ output.lower + np.minimum(C, 0.0) @ output.upper
    far = po.HPolytope(C, [99.0, least[1] - 0.01])
    reached = po.HPolytope(C[:1], [(y @ C[0]).min() + 0.01])
    verdict = po.verify(net, po.Property(box, [far]), method="search")
    assert (verdict.status, verdict.by, verdict.branches) == ("verified", "search", 0)
    assert 0.0 < verdict.bound <= (y @ C.T - far.b).max(1).min()
    for unsafe in ([far, reached], [reached, far]):
        verdict = po.verify(net, po.Property(box, unsafe), method="search")
        assert (verdict.status, verdict.by, verdict.reason) == ("unknown", "search", "jumps")
        assert verdict.bound <= -0.01
