"""What a search does, step by step: the boxes that it bounds, its bound and its best value over time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from polyopt.search import branching
from polyopt.search.search import Search


class Moment(NamedTuple):
    """After a step of the search for a maximum: seconds from the beginning, best value, bound, boxes so far."""

    seconds: float
    value: float
    bound: float
    boxes: int


@dataclass
class History:
    """``boxes`` are pairs of corners (2, n_in) of what was bounded, ``closed`` whether the bound sufficed."""

    moments: list[Moment] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)


@contextmanager
def watched(boxes: bool = False) -> Iterator[History]:
    """Of the search that runs within, its moments, its best points, and its boxes if they are asked for."""
    history, begin = History(), time.perf_counter()
    plain_step, plain_halved = Search.step, branching.halved

    def step(search: Search) -> None:
        plain_step(search)
        question = search.question
        now = time.perf_counter() - begin
        history.moments.append(Moment(now, -question.value, -search.bound, search.branches))
        history.points.append(question.point)

    def halved(question, reduced, values: dict, anew: bool) -> dict:
        found = plain_halved(question, reduced, values, anew)
        history.boxes += list(np.stack([values["lower"].cpu().numpy(), values["upper"].cpu().numpy()], axis=1))
        history.closed += (found["bound"] > question.cutoff).tolist()
        return found

    with ExitStack() as stack:
        stack.enter_context(patch.object(Search, "step", step))
        if boxes:
            stack.enter_context(patch.object(branching, "halved", halved))
        yield history
