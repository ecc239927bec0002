"""Whether a property holds of a network: attack, then search, and programs where the search is stuck.

1. attack    descents look for a counterexample (`polyopt.verification.attack`), for a tenth of a second
2. search    branch and bound on linear bounds proves that there is none, or finds one (`polyopt.search.decide`)
3. programs  mixed-integer linear programs (`polyopt.verification.programs`) look for a counterexample

What each of them finds is a candidate, and counts where it replays (`polyopt.verification.replay`). That there is none
is proven by the search alone, whose bounds are rounded outwards: HiGHS's bounds hold up to its tolerances, and nothing
that it returns would let its search tree be checked. The programs therefore never verify a property.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from polyopt.activations import PiecewiseLinear, Smooth
from polyopt.layers import Affine
from polyopt.network import Network
from polyopt.verification.followed import followed
from polyopt.verification.property import Property
from polyopt.verification.replay import Replay

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from polyopt.search.decide import Decision
    from polyopt.verification.coordinates import Question


ATTACK = 0.1  # seconds


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer: ``status`` is "verified", "falsified" or "unknown", ``by`` what gave it.

    "verified" says that no counterexample exists, by the "search", or since the property has no cases ("definition").

    "falsified" comes with a ``witness`` x (n_in,) in the region of ``cases[case]``, found by "attack", "search" or
    "milp", and its ``outputs`` (n_out,), in one of the unsafe sets: both in float64, and x has been replayed through
    the original network.

    "unknown" has a ``reason``: "time limit", "interrupted", "stuck" where the search could not go on, "jumps" where
    it does not apply and CROWN's bounds do not suffice, "tolerances" where programs left no counterexample but prove
    nothing.

    ``bound`` is a number below the margin ``max_r (C net(x) - d)_r`` of every unsafe set at every x of its region, as
    far as is known: -inf where nothing is. It is rounded outwards, but for the method "milp", where it is HiGHS's.
    ``branches`` counts the domains that the search bounded, ``seconds`` is wall time.
    """

    status: str
    by: str
    reason: str = ""
    witness: np.ndarray | None = None
    outputs: np.ndarray | None = None
    case: int | None = None
    bound: float = -math.inf
    branches: int = 0
    seconds: float = 0.0


def verify(
    net: Network,
    prop: Property,
    time_limit: float | None = None,
    method: str = "auto",
    device=None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Verdict:
    """Whether the network has the property: that no point of a case's region has its output in an unsafe set.

    ``method`` is "auto", "search" (without programs) or "milp" (attack and programs, no search: it can find
    counterexamples, but verifies nothing). A witness is replayed in float32 through the original: in onnxruntime where
    the network comes from `polyopt.from_onnx`, else in torch.

    ``time_limit`` in seconds holds for everything together; at it, and after Ctrl-C, the answer is "unknown" with what
    is known by then. ``device`` is torch's, ``executor`` shares the search out. Over an ellipsoid the search looks at a
    parallelepiped around it, so that it may not prove what holds.

    Raises ValueError where network and property do not fit, and where a region is empty or unbounded, and passes on
    whatever goes wrong: an error is never a verdict.

    >>> from polyopt.activations import ReLU
    >>> from polyopt.layers import Affine
    >>> from polyopt.regions import Box, HPolytope
    >>> net = Network.sequential([Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], None)], (1,))  # |x|
    >>> verdict = verify(net, Property(Box([-1.0], [2.0]), unsafe=[HPolytope([[-1.0]], [-2.0])]))  # |x| >= 2
    >>> verdict.status, verdict.by, verdict.witness, verdict.outputs
    ('falsified', 'attack', array([2.]), array([2.]))
    >>> verify(net, Property(Box([-1.0], [2.0]), unsafe=[HPolytope([[1.0]], [-0.1])])).status  # |x| <= -0.1
    'verified'
    """
    begin = time.perf_counter()
    _check(net, prop, time_limit, method)

    def remaining() -> float:
        return math.inf if time_limit is None else time_limit - (time.perf_counter() - begin)

    task = _Task(net, prop, Replay(net, prop.cases), remaining, device, executor, progress)
    verdict = Verdict("unknown", "attack") if prop.cases else Verdict("verified", "definition", bound=math.inf)
    try:
        for stage in STAGES[method]:
            if verdict.status != "unknown" or verdict.reason in ("time limit", "interrupted"):
                break
            verdict = stage(task, verdict) if remaining() > 0 else replace(verdict, reason="time limit")
    except KeyboardInterrupt:
        verdict = verdict if verdict.status != "unknown" else replace(verdict, reason="interrupted")
    return replace(verdict, seconds=time.perf_counter() - begin)


@dataclass(frozen=True)
class _Task:
    net: Network
    prop: Property
    replay: Replay
    remaining: Callable[[], float]
    device: object
    executor: Executor | None
    progress: bool

    def falsified(self, so_far: Verdict, by: str, x: np.ndarray, case: int) -> Verdict:
        """The verdict for an accepted candidate x (n,)."""
        x = self.replay.point(x, case)
        if not self.replay(x, case):
            raise RuntimeError(f"verify: {by} returned {x} for case {case} as a counterexample, but it is none")
        outputs = self.net(x[None])[0]
        return replace(so_far, status="falsified", by=by, reason="", witness=x, outputs=outputs, case=case)


def _attack(task: _Task, verdict: Verdict, first: int | None = None) -> Verdict:
    from polyopt.verification.attack import STAGES, attack  # torch is imported only where it is needed

    limit = min(ATTACK, task.remaining())
    found = attack(task.net, task.prop.cases, task.replay, limit, task.device, STAGES[:first])
    return task.falsified(verdict, "attack", found.x, found.case) if found.accepted else verdict


def _short_attack(task: _Task, verdict: Verdict) -> Verdict:
    """Its first stage alone: the search goes on with descents where its first bounds leave something open."""
    return _attack(task, verdict, 1)


def _search(task: _Task, verdict: Verdict) -> Verdict:
    """Every question is to be proven; the first that is not ends it."""
    if any(isinstance(n.layer, PiecewiseLinear) and n.layer.pieces(n.shape).jumps.any() for n in task.net.activations):
        return _bound(task, replace(verdict, by="search"))
    from polyopt.verification.coordinates import questions

    bound, asked, verdict = math.inf, questions(task.net, task.prop.cases), replace(verdict, by="search")
    for question in asked:
        found = _decided(task, question)
        verdict = replace(verdict, branches=verdict.branches + found.branches)
        if found.status == "refuted":
            return task.falsified(verdict, "search", question.point(found.x), question.indices[found.case])
        bound = min(bound, found.bound if found.bound > 0 or not question.rows else -math.inf)
        if found.status != "proven":
            return replace(verdict, reason=found.status, bound=bound if question is asked[-1] else -math.inf)
    return replace(verdict, status="verified", bound=bound)


def _decided(task: _Task, question: Question) -> Decision:
    from polyopt.search.decide import decide

    def accept(z: np.ndarray, k: int) -> bool:
        return task.replay(question.point(z), question.indices[k])

    return decide(
        question.net,
        question.cases,
        accept,
        time_limit=task.remaining(),
        device=task.device,
        executor=task.executor,
        progress=task.progress,
    )


def _bound(task: _Task, verdict: Verdict) -> Verdict:
    """CROWN alone: at a jump a domain would have to be split into open and closed parts."""
    from polyopt.bounds.crown import crown

    margins = []
    for region, unsafe in task.prop.cases:
        C, d = zip(*((polytope.A, polytope.b) for polytope in unsafe), strict=True)
        lower = crown(followed(task.net, Affine(np.vstack(C), -np.concatenate(d))), region, task.device).output.lower
        margins += [rows.max() for rows in np.split(lower, np.cumsum(list(map(len, d)))[:-1])]
    bound = float(np.min(margins))
    if bound > 0:
        return replace(verdict, status="verified", bound=bound)
    return replace(verdict, reason="jumps", bound=bound)


def _programs(task: _Task, verdict: Verdict) -> Verdict:
    """A counterexample by programs; their bound where there is no other."""
    from polyopt.verification.programs import solve_programs

    if any(isinstance(node.layer, Smooth) for node in task.net.activations) and verdict.by == "search":
        return verdict  # no programs describe such a network
    found = solve_programs(task.net, task.prop.cases, task.replay, task.remaining)
    if found.x is not None:
        return task.falsified(verdict, "milp", found.x, found.case)
    if verdict.by == "search":
        return replace(verdict, reason="interrupted") if found.interrupted else verdict
    reason = "interrupted" if found.interrupted else "tolerances" if task.remaining() > 0 else "time limit"
    return replace(verdict, by="milp", reason=reason, bound=found.bound)


STAGES = {
    "auto": (_short_attack, _search, _programs),
    "search": (_short_attack, _search),
    "milp": (_attack, _programs),
}


def _check(net: Network, prop: Property, time_limit: float | None, method: str) -> None:
    if not isinstance(net, Network):
        raise ValueError(f"verify: the network is a {type(net).__name__}; read it with from_onnx or from_torch first")
    if not isinstance(prop, Property):
        raise ValueError(
            f"verify: the property is a {type(prop).__name__}; make a Property, or read one by read_vnnlib"
        )
    if (prop.input_size, prop.output_size) != (net.input_size, net.output_size):
        raise ValueError(
            f"verify: the property has {prop.input_size} inputs and {prop.output_size} outputs, but the network "
            f"{net.input_size} and {net.output_size}"
        )
    if method not in STAGES:
        raise ValueError(f"verify: method={method!r} is unknown; choose {', '.join(map(repr, STAGES))}")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"verify: time_limit is {time_limit}, but must be positive seconds")
    for case in prop.cases:
        case.region.bounding_box()  # ValueError where it is empty or unbounded
