"""What an optimisation has come to, to be gone on with later or elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polyopt.search.branching import Branching, Tally
from polyopt.search.question import Question
from polyopt.search.search import Search
from polyopt.search.sharing import Arrays, from_arrays, to_arrays

PROBES = 4


@dataclass(frozen=True, eq=False)
class State:
    """The open domains of a search, as arrays that pickle, and its best point; without domains, the point alone.

    ``probe`` are the margins of the question at a few points, by which a search recognises its own state; of what its
    domains have lost no more is known than that it does not improve on the best point by more than ``gap``.
    """

    probe: np.ndarray
    gap: float
    best: tuple[np.ndarray, int]
    values: Arrays | None = None
    basis: Arrays | None = None
    tally: Tally | None = None


def state_of(search: Search) -> State:
    """The state of a search."""
    question, branching = search.question, search.branching
    probe, best = _probe(question), (question.point, question.target)
    if branching is None:
        return State(probe, question.gap, best)
    tally = branching.tally._replace(closed=min(branching.closed, search.closed), whole=search.whole)
    values = branching.release(branching.open)
    branching.receive(values)
    return State(probe, question.gap, best, to_arrays(values), to_arrays(branching.basis), tally)


def resumed(question: Question, state: State) -> Search:
    """The search that goes on from a state; ValueError where it is that of another question."""
    probe = _probe(question)
    if probe.shape != state.probe.shape or not np.allclose(probe, state.probe, rtol=1e-9, atol=1e-12):
        raise ValueError(
            "optimize: the state to resume is that of another network, region, objective or sense; give what it was "
            "made with"
        )
    if question.gap < state.gap:
        raise ValueError(
            f"optimize: the state to resume left out what is within a gap of {state.gap}, but {question.gap} is asked "
            "for; give the same gap or a greater one, or begin anew"
        )
    question.offer(state.best[0][None], np.array([state.best[1]]))
    if state.values is None:
        return Search(question)
    branching = Branching(question, **from_arrays(state.basis, question))
    branching.receive(from_arrays(state.values, question))
    branching.merge(state.tally)
    return Search(question, branching)


def _probe(question: Question) -> np.ndarray:
    """The rows' values at corners and centre, and at points between, of all targets' boxes."""
    probes = []
    for box, rows, limits in question.targets:
        points = np.vstack([box.lower, box.upper, box.sample(PROBES, np.random.default_rng(0))])
        probes.append(np.concatenate([points.ravel(), (question.net(points) @ rows.T - limits).ravel()]))
    return np.concatenate(probes)
