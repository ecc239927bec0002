"""The open domains of a search shared out to the workers of an executor, and kept for another day.

What a domain is needs no more than numpy arrays, and what it is a domain of is a `Task`, which pickles. A worker gets
the task, some domains and the best value known, goes on from there for a slice of time as `polyopt.search.branching`
does, and sends back what is still open, the least bound of what is not, and the best points it met. Until then its part
stays on record here: the bound counts it, and where a worker dies, or time is over, its domains go back on the list.
Counterexamples are judged by the process that asks.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from polyopt.network import Network
from polyopt.search.branching import Branching, Tally
from polyopt.search.domains import Values
from polyopt.search.inside import Inside
from polyopt.search.question import Question, Target
from polyopt.search.search import Search

SLICE = 0.5  # seconds
PART = 512  # domains, at most, sent at a time
SHARED = 64  # open domains, below which sharing is not worthwhile
FAILURES = 3  # one after the other, after which the search goes on without workers
CANDIDATES = 16  # counterexamples that a worker reports at most

Arrays = dict[str, np.ndarray]


class Task(NamedTuple):
    """What `Question` and `Branching` are made of."""

    net: Network
    targets: list[Target]
    gap: float | None
    inside: Inside | None
    device: str | None
    basis: Arrays


class Part(NamedTuple):
    """Domains, and the best point (n_in,), target and value when they were sent."""

    values: Arrays
    best: tuple[np.ndarray, int, float]


class Answer(NamedTuple):
    """What is still open; of the rest a `Tally`; points (m, n_in) and targets (m,) to be offered."""

    values: Arrays
    tally: Tally
    points: np.ndarray
    targets: np.ndarray


class Shared:
    """A search whose branches are shared out: with ``step``, ``bound`` and what else a `Search` has.

    Answers come as they are ready, and each worker gets a new part at once. A RuntimeWarning says where workers fail.
    """

    def __init__(self, search: Search, executor: Executor):
        self.search, self.question, self._executor = search, search.question, executor
        self._task: bytes | None = None
        self._parts: dict[Future, Part] = {}
        self._failures = 0
        self._workers = os.cpu_count() or 1

    @property
    def bound(self) -> float:
        """No margin of any target is less."""
        return min([self.search.bound, *(float(part.values["bound"].min()) for part in self._parts.values())])

    @property
    def open(self) -> int:
        """How many domains are still open, here and elsewhere."""
        return self.search.open + sum(len(part.values["bound"]) for part in self._parts.values())

    @property
    def branches(self) -> int:
        """How many domains have been bounded."""
        return self.search.branches

    @property
    def over(self) -> bool:
        """Whether there is nothing left to be done."""
        if self.question.refuted or self.bound > self.question.cutoff:
            return True
        return not self._parts and self.search.over

    def step(self) -> None:
        """Send out parts and take in what comes back; without workers, a batch of bounds."""
        branching = self.search.branching
        error = None if branching is None else self._send(branching)
        if error is None and not self._parts:
            self.search.step()
            return
        patience = max(0.0, min(SLICE, self.question.backward.deadline - time.perf_counter()))
        for future in wait(self._parts, timeout=patience, return_when=FIRST_COMPLETED).done:
            self._failures = 0 if future.exception() is None else self._failures
            error = self._take(future, branching) or error
        if error is not None:  # one for all that failed together, as the workers of a broken pool do
            self._failures += 1
            then = "goes on with those that are left" if self._failures < FAILURES else "goes on without workers"
            warnings.warn(f"a worker of the executor failed with {error!r}; the search {then}", RuntimeWarning, 2)

    def recall(self) -> None:
        """Put what is still out back on the list; what becomes of it elsewhere is ignored."""
        for future, part in self._parts.items():
            future.cancel()
            self.search.branching.receive(from_arrays(part.values, self.question))
        self._parts = {}

    def _send(self, branching: Branching) -> BaseException | None:
        """Give all workers something to do; what went wrong, with an executor that is broken or shut down."""
        question = self.question
        if self._task is None:
            self._task = pickle.dumps(task_of(question, branching))
        while (
            self._failures < FAILURES
            and len(self._parts) < self._workers
            and branching.open >= (1 if self._parts else SHARED)
        ):
            count = min(PART, math.ceil(branching.open / (self._workers - len(self._parts))))
            part = Part(to_arrays(branching.release(count)), (question.point, question.target, question.value))
            seconds = min(SLICE, question.backward.deadline - time.perf_counter())
            try:
                self._parts[self._executor.submit(work, self._task, part, seconds)] = part
            except Exception as error:
                branching.receive(from_arrays(part.values, question))
                return error
        return None

    def _take(self, future: Future, branching: Branching) -> BaseException | None:
        """Merge an answer, or put the part back and say what went wrong."""
        part = self._parts.pop(future)
        if (error := future.exception()) is not None:
            branching.receive(from_arrays(part.values, self.question))
            return error
        answer = future.result()
        branching.receive(from_arrays(answer.values, self.question))
        branching.merge(answer.tally)
        self.question.offer(answer.points, answer.targets)
        return None


def work(task: bytes, part: Part, seconds: float) -> Answer:
    """A slice of the search, done by a worker."""
    begin = time.perf_counter()
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # as many processes as there are processors do the rest
    question, basis, candidates = _prepared(task, threading.get_ident())
    candidates.clear()
    question.point, question.target, question.value = part.best
    branching = Branching(question, **basis)
    branching.receive(from_arrays(part.values, question))
    while branching.open and branching.bound <= question.cutoff:
        branching.step()
        if time.perf_counter() - begin > seconds:
            break
    found = [(question.point, question.target), *candidates]
    points, targets = np.stack([point for point, _ in found]), np.array([target for _, target in found])
    return Answer(to_arrays(branching.release(branching.open)), branching.tally, points, targets)


def task_of(question: Question, branching: Branching) -> Task:
    """What the domains of this search are domains of."""
    device, basis = question.backward.device, to_arrays(branching.basis)
    return Task(question.net, question.targets, question.gap, question.inside, device, basis)


@lru_cache(maxsize=os.cpu_count() or 1)
def _prepared(task: bytes, thread: int):
    """The question of a task for one thread, kept for a while, and the counterexamples that it comes across."""
    net, targets, gap, inside, device, basis = pickle.loads(task)
    candidates: list[tuple[np.ndarray, int]] = []

    def note(x: np.ndarray, target: int) -> bool:
        if len(candidates) < CANDIDATES:
            candidates.append((x, target))
        return False

    question = Question(net, targets, gap=gap, accept=note if gap is None else None, device=device, inside=inside)
    return question, from_arrays(basis, question), candidates


def to_arrays(values: Values) -> Arrays:
    """Tensors by name as arrays."""
    return {name: value.cpu().numpy() for name, value in values.items()}


def from_arrays(values: Arrays, question: Question) -> Values:
    """Arrays by name as tensors where the question is."""
    return {name: torch.tensor(value, device=question.lower.device) for name, value in values.items()}
