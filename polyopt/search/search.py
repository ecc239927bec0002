"""A search from the root: bounds on all targets at once, tighter ones on what these leave open, then branches.

Where units are to be split, slopes are optimised on the whole box first, for all targets in one batch; the undecided
units of each target left are then bounded again, on that part of the box where its margin is below the cutoff
(`polyopt.search.cutoff`), as long as it is worthwhile. What stays decided there is fixed in all domains. Where inputs
are halved this is not worth its time: the bounds get tighter with every half. Where neither few nor many inputs vary,
both ways are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.bounds.alpha import Ascents, ascended
from polyopt.bounds.climb import Reduced
from polyopt.bounds.lagrangian import LATER, Mixture, Multipliers, ascend
from polyopt.bounds.refine import Boxes
from polyopt.search.branching import Branching, ways
from polyopt.search.cutoff import below, tightened
from polyopt.search.descent import descend, survey
from polyopt.search.question import Question

ROOT_STEPS, LATER_STEPS = 20, 8  # of ascent, the first and those that go on from it
SEARCHES = ((64, descend), (500, survey))  # for good points all over, once so many halved boxes make it worthwhile
COMPARED = 0.5  # seconds that each way of branching is tried where there is a choice
ROUNDS = 12  # of tightening, at most
WORTHWHILE = 0.02  # a round of tightening that shortens the units' ranges by less than this share is the last


class _Before(NamedTuple):
    """What an ascent ended with."""

    mixture: Mixture
    multipliers: Multipliers


class Search:
    """A search in the making: `step` takes it further, ``bound`` is valid at any time.

    It is ``over`` where no margin is below the cutoff, where the question is refuted, or where nothing can be done.
    ``branching`` holds the open domains, once there are any; to go on from them is to make a search of them.
    """

    def __init__(self, question: Question, branching: Branching | None = None):
        self.question = question
        self._bounds = question.lower.new_full((len(question.lower),), -torch.inf)  # bounds on the targets' whole boxes
        self.closed = math.inf  # the least of these that are beyond the cutoff
        self.branching = branching
        self._work = self._root() if branching is None else self._branches()
        self._exhausted = self._tightened = False

    @property
    def bound(self) -> float:
        """No margin of any target is less."""
        if self.branching is None:
            return float(self._bounds.min())
        return min(self.branching.bound, self.closed)

    @property
    def whole(self) -> bool:
        """Whether the bound holds of all margins; else only of those below the cutoff, as others have been clipped."""
        return not self._tightened and (self.branching is None or self.branching.whole)

    @property
    def branches(self) -> int:
        """How many domains have been bounded."""
        return 0 if self.branching is None else self.branching.branches

    @property
    def open(self) -> int:
        """How many domains, or targets before that, are still open."""
        return len(self._left()) if self.branching is None else self.branching.open

    @property
    def over(self) -> bool:
        """Whether there is nothing left to be done."""
        return self._exhausted or self.question.refuted or self.bound > self.question.cutoff

    def step(self) -> None:
        """A batch of bounds."""
        self._exhausted = next(self._work, self) is self

    def _root(self) -> Iterator[None]:
        question, sides, better = self.question, self.question.sides.clone(), None
        if question.constrained:  # what is found says what is worth proving
            descend(question)
        which = ways(question)
        if False in which:
            units = question.units
            self._reduced = Reduced(units, question.maps, question.output_map)
            here = sides[:, :, units.kept]
            yield from self._ascend_units(here)
            self._ascend(torch.arange(len(here)), here)
            yield
            for target in self._bounds.argsort().tolist():
                if self._bounds[target] <= question.cutoff:
                    yield from self._tighten(target, here)
            sides[:, :, units.kept] = here
            better = self._left()
        self.closed = min(self._bounds[self._bounds > question.cutoff].tolist(), default=math.inf)
        options = [Branching(question, sides, better, halves) for halves in which]
        for option in options:
            option.put(self._left(), self._bounds[self._left()], ROOT_STEPS)
            yield
        yield from self._choose(options)
        yield from self._branches()

    def _choose(self, options: list[Branching]) -> Iterator[None]:
        """Take the branching that has the best bound after as much time as each of the others."""
        for option in options if len(options) > 1 else []:
            end = time.perf_counter() + COMPARED
            while option.open and not self.question.refuted and time.perf_counter() < end:
                option.step()
                yield
        self.branching = max(options, key=lambda option: option.bound)
        yield

    def _branches(self) -> Iterator[None]:
        searches = list(SEARCHES[self.question.constrained :]) if self.branching.halves else []
        while self.branching.open:
            if searches and self.branches >= searches[0][0]:
                searches.pop(0)[1](self.question)
            self.branching.step()
            yield

    def _ascend_units(self, sides: Tensor) -> Iterator[None]:
        """Bounds on the units of all targets' boxes (k, 2, n), in place; equal boxes have equal bounds."""
        question = self.question
        boxes, which = torch.stack([question.lower, question.upper], 1).unique(dim=0, return_inverse=True)
        for i, (lower, upper) in enumerate(boxes):
            first = (which == i).nonzero()[0, 0]
            minimum = Boxes(lower[None], upper[None])
            here = sides[first].unsqueeze(1)
            sides[which == i] = ascended(question.backward, self._reduced, here, minimum, Ascents(ROOT_STEPS))[:, 0]
            yield

    def _left(self) -> Tensor:
        return (self._bounds <= self.question.cutoff).nonzero()[:, 0]

    def _ascend(self, targets: Tensor, sides: Tensor, before: _Before | None = None) -> _Before:
        """Bounds on the margins of some targets, whose units have ``sides`` (k, 2, n), from where one ended before."""
        question = self.question
        boxes, sides = Boxes(question.lower[targets], question.upper[targets]), sides.transpose(0, 1)
        mixture, start, steps, pace = question.mixture(targets), None, ROOT_STEPS, 1.0
        if before is not None:
            mixture, start, steps, pace = *before, LATER_STEPS, LATER
        options = {"mixture": mixture, "start": start, "pace": pace, "priced": False}
        found = ascend(question.backward, self._reduced, sides, boxes, steps, **options)
        self._bounds[targets] = torch.maximum(self._bounds[targets], found.bound)
        question.offer(found.point, targets)
        return _Before(mixture.weighted(found.weights), found.multipliers)

    def _tighten(self, target: int, sides: Tensor) -> Iterator[None]:
        """Rounds of tightening the undecided units of a target, in place, while they are worthwhile."""
        question = self.question
        boxes, this = Boxes(question.lower[target, None], question.upper[target, None]), torch.tensor([target])
        ended = None
        for _ in range(ROUNDS):
            ended = self._ascend(this, sides[target, None], ended)
            yield
            if self._bounds[target] > question.cutoff:
                return
            before, self._tightened = sides[target].clone(), True
            limits = below(question, ended.mixture, self._bounds[this], boxes)
            sides[target] = tightened(question, self._reduced, before.unsqueeze(1), limits)[:, 0]
            lengths, shorter = -before.sum(0), -sides[target].sum(0)
            if (shorter < 0).any():  # no point is below the cutoff
                self._bounds[target] = math.inf
            yield
            changed = shorter < lengths
            if not shorter[changed].sum() < (1.0 - WORTHWHILE) * lengths[changed].sum():
                return
