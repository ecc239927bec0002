"""Whether a network reaches unsafe outputs, decided by branch and bound: the feasibility form of the search.

For a region X and an unsafe set ``{y : C y <= d}`` the margin of x is ``max_r (C net(x) - d)_r``: x is a counterexample
where it is not positive. All unsafe sets of all regions are targets of one search (`polyopt.search.question`), whose
domains are bounded in common batches, worst first; it ends as soon as every domain's bound, rounded outwards, is
positive, or a counterexample is found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from polyopt.network import Network
from polyopt.regions import HPolytope, Region
from polyopt.search.question import Question, Target
from polyopt.search.running import run
from polyopt.search.search import Search


@dataclass(frozen=True)
class Decision:
    """What a search found: "proven", "refuted", "time limit", "interrupted" or "stuck".

    ``x`` (n_in,) is the point of least margin ``value`` found, in the region of case number ``case``. No point of any
    region has a margin below ``bound``, outward rounded: "proven" says that it is positive, "refuted" that x was
    accepted as a counterexample, "stuck" that nothing is left but what rounding errors leave open. ``branches`` counts
    the domains that were bounded.
    """

    status: str
    x: np.ndarray
    case: int
    value: float
    bound: float
    branches: int
    seconds: float


def decide(
    net: Network,
    cases: Sequence[tuple[Region, Sequence[HPolytope]]],
    accept: Callable[[np.ndarray, int], bool] = lambda x, case: True,
    time_limit: float | None = None,
    device=None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Decision:
    """Whether no point of any case's region, a box, has its output in one of the case's unsafe sets.

    ``accept(x, case)`` says of a point whose margin is not positive whether it is a counterexample indeed; it is called
    by this process alone. ``executor`` shares the open domains out (`polyopt.search.sharing`).

    >>> from polyopt.activations import Abs
    >>> from polyopt.regions import Box
    >>> net = Network.sequential([Abs()], (1,))
    >>> decide(net, [(Box([-1.0], [2.0]), [HPolytope([[1.0]], [-0.1])])]).status  # |x| <= -0.1
    'proven'
    """
    begin = time.perf_counter()
    targets, owners = [], []
    for case, (region, unsafe) in enumerate(cases):
        for polytope in unsafe:
            targets.append(Target(region, polytope.A, polytope.b))
            owners.append(case)
    question = Question(net, targets, accept=lambda x, target: accept(x, owners[target]), device=device)
    search = Search(question)
    found = run(search, begin, time_limit, executor, progress)
    status = "stuck" if found.status == "over" else found.status
    if question.refuted:
        status = "refuted"
    elif found.bound > 0:
        status = "proven"
    # what was clipped from domains has a positive margin, and no more is known of it
    bound = found.bound if search.whole else min(found.bound, 0.0)
    seconds = time.perf_counter() - begin
    return Decision(status, question.point, owners[question.target], question.value, bound, found.branches, seconds)
