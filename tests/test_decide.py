"""Decisions against the least margin that vertices and linear programs give, shared out or not."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import strategies
from scipy.optimize import linprog
from vertices import image, least
from workers import Reviving, deadly

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.search import sharing
from polyopt.search.decide import decide

NONE = np.zeros((0, 2)), np.zeros(0)
pytestmark = pytest.mark.usefixtures("one_thread")


def cases(rng):
    """A network, two boxes with an unsafe set of one row each, and the least margins; some of them near zero."""
    activation = ("relu", "leaky", "abs")[rng.integers(3)]
    net, found, margins = strategies.chain(rng, activation, (2, 5, 2)), [], []
    for _ in range(2):
        box, c = po.Box(*np.sort(rng.normal(size=(2, 2)), axis=0)), rng.normal(size=2)
        margin = rng.choice([1.0, 0.1, 1e-3, 1e-5, -1e-5, -0.1], p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.1])
        found.append((box, [po.HPolytope(c[None], [least(net, box, c, np.zeros(2), *NONE) - margin])]))
        margins.append(margin)
    return net, found, margins


@pytest.mark.parametrize("seed", range(3))
def test_the_least_margin_decides(seed, way):
    net, found, margins = cases(np.random.default_rng(seed))
    decision = decide(net, found, time_limit=20)
    assert decision.status == ("proven" if min(margins) > 0 else "refuted"), margins
    assert decision.bound <= min(margins) + 1e-9
    box, (unsafe,) = found[decision.case]
    assert box.contains(decision.x)
    margin = (net(decision.x[None])[0] @ unsafe.A.T - unsafe.b).max()
    assert decision.value == pytest.approx(margin, abs=1e-12)
    assert min(margins) - 1e-9 <= margin
    assert (margin <= 0) == (decision.status == "refuted")


def least_margin(net, box, unsafe):
    """The least ``max_r (C net(x) - d)_r``: a linear program in x and t for each activation pattern."""
    first, _, last = net.layers
    _, _, G, h = image(box)
    found = math.inf
    for pattern in itertools.product([0.0, 1.0], repeat=len(first.bias)):
        on = np.array(pattern)
        C = unsafe.A @ last.weight * on
        sides = (1.0 - 2.0 * on)[:, None]
        rows = np.vstack([C @ first.weight, sides * first.weight, G])
        t = np.concatenate([-np.ones(len(C)), np.zeros(len(on) + len(h))])[:, None]
        limits = [unsafe.b - C @ first.bias - unsafe.A @ last.bias, -sides[:, 0] * first.bias, h]
        program = linprog([0.0, 0.0, 1.0], np.hstack([rows, t]), np.concatenate(limits), bounds=(None, None))
        found = min(found, program.fun if program.status == 0 else math.inf)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_sets_with_several_rows(seed, way):
    rng = np.random.default_rng(seed)
    layers = [strategies.affine(rng, 2, 4), ReLU(), strategies.affine(rng, 4, 2)]
    net, box = po.Network.sequential(layers, (2,)), po.Box([-1.0, -1.0], [1.0, 1.0])
    C, shift = rng.normal(size=(3, 2)), (0.1, 1e-4, -1e-4)[seed % 3]
    d = least_margin(net, box, po.HPolytope(C, np.zeros(3))) - shift
    unsafe = [po.HPolytope(C, np.full(3, d)), po.HPolytope([[1.0, 0.0]], [-100.0])]
    assert decide(net, [(box, unsafe)], time_limit=20).status == ("proven" if shift > 0 else "refuted")


NET = strategies.chain(np.random.default_rng(0), "relu", sizes=(6, 24, 24, 1))
CUBE = po.Box([-1.0] * 6, [1.0] * 6)
MOST = po.optimize(NET, CUBE, [1.0]).value


def above(value):
    return [(CUBE, [po.HPolytope([[-1.0]], [-value])])]


def test_threads_decide_the_same(many_parts):
    with ThreadPoolExecutor(2) as executor:
        assert decide(NET, above(MOST + 1e-3), executor=executor).status == "proven"
        assert decide(NET, above(MOST - 1e-3), executor=executor).status == "refuted"


def test_a_worker_that_dies_loses_nothing(many_parts, monkeypatch, tmp_path):
    monkeypatch.setattr(sharing, "work", partial(deadly, str(tmp_path / "flag")))
    with Reviving() as executor, pytest.warns(RuntimeWarning, match="failed with BrokenProcessPool"):
        decision = decide(NET, above(MOST + 1e-3), executor=executor)
    assert decision.status == "proven"
    assert decision.bound >= 0


def test_only_what_is_accepted_here_is_a_counterexample(many_parts):
    """Workers report candidates; this process refuses all of them, and the search stays undecided."""
    asked = []

    def refuse(x, case):
        asked.append(x)
        return False

    with ThreadPoolExecutor(2) as executor:
        decision = decide(NET, above(MOST - 0.05), refuse, time_limit=1, executor=executor)
    assert asked
    assert decision.status in ("time limit", "stuck")
    assert decision.bound <= 0


def test_stopped_by_its_time_limit_it_says_so(way):
    net = strategies.chain(np.random.default_rng(0), "relu", sizes=(10, 60, 60, 1))
    box = po.Box([-1.0] * 10, [1.0] * 10)
    value = net(box.sample(1000, np.random.default_rng(0))).min() - 0.5
    decision = decide(net, [(box, [po.HPolytope([[1.0]], [value])])], time_limit=0.5)
    assert decision.status in ("time limit", "refuted")
    assert decision.seconds < 3


def test_a_margin_below_rounding_is_not_proven():
    net = po.Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], [0.1])], (1,))
    unsafe = [po.HPolytope([[1.0]], [np.nextafter(0.1, 0.0)])]  # |x| + 0.1 > the float before 0.1, by 1e-17
    decision = decide(net, [(po.Box([-1.0], [1.0]), unsafe)], time_limit=1)
    assert decision.status in ("stuck", "time limit")
    assert decision.bound <= 0
