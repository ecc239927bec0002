"""What an optimisation has come to, to be gone on with later or elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polyopt.search.branching import Branching
from polyopt.search.question import Question
from polyopt.search.search import Search
from polyopt.search.sharing import Arrays, from_arrays, to_arrays

PROBES = 4


@dataclass(frozen=True, eq=False)
class State:
    """The open domains of a search, as arrays that pickle, and its best point; without domains, the point alone.

    ``probe`` are the margins of the question at a few points, by which a search recognises its own state.
    """

    probe: np.ndarray
    best: tuple[np.ndarray, int]
    values: Arrays | None = None
    sides: np.ndarray | None = None
    fixing: np.ndarray | None = None
    merged: tuple[float, float, bool, int] | None = None


def state_of(search: Search) -> State:
    """The state of a search."""
    question, branching = search.question, search.branching
    probe, best = _probe(question), (question.point, question.target)
    if branching is None:
        return State(probe, best)
    merged = (min(branching.closed, search.closed), branching.stuck, search.whole, search.branches)
    fixing = None if branching.targets is None else branching.targets.cpu().numpy()
    values = branching.release(branching.open)
    branching.receive(values)
    return State(probe, best, to_arrays(values), branching.sides.cpu().numpy(), fixing, merged)


def resumed(question: Question, state: State) -> Search:
    """The search that goes on from a state; ValueError where it is that of another question."""
    probe = _probe(question)
    if probe.shape != state.probe.shape or not np.allclose(probe, state.probe, rtol=1e-9, atol=1e-12):
        raise ValueError(
            "optimize: the state to resume is that of another network, region, objective or sense; give what it was "
            "made with"
        )
    question.offer(state.best[0][None], np.array([state.best[1]]))
    if state.values is None:
        return Search(question)
    fixing = None if state.fixing is None else torch.tensor(state.fixing, device=question.lower.device)
    branching = Branching(question, question.backward.tensor(state.sides), fixing)
    branching.receive(from_arrays(state.values, question))
    branching.merge(*state.merged)
    return Search(question, branching)


def _probe(question: Question) -> np.ndarray:
    """The rows' values at corners and centre, and at points between, of all targets' boxes."""
    probes = []
    for box, rows, limits in question.targets:
        points = np.vstack([box.lower, box.upper, box.sample(PROBES, np.random.default_rng(0))])
        probes.append(np.concatenate([points.ravel(), (question.net(points) @ rows.T - limits).ravel()]))
    return np.concatenate(probes)
