"""Branch and bound on domains: parts of the targets' boxes in which the pre-activations keep to bounds of their own.

Where few inputs vary, a domain is halved along one of them: its undecided units are bounded anew, layer by layer, and
so are the target's rows, each of which then clips the box (`polyopt.bounds.refine`). Where many do, and where as few
units are undecided as inputs vary, it is split at a breakpoint of a unit: an optimum lies at a vertex, where that many
units stay undecided on boxes of any size. A split domain's bound is the Lagrangian's (`polyopt.bounds.lagrangian`),
which goes on from its parent's slopes, prices and weights. Where every unit keeps to one piece, a domain is a linear
program, whose prices bound it where a longer ascent, of all such domains at once, has not found good ones.

Such a split costs next to nothing, as the bounds on other units stay what they are. To tighten these below the cutoff
(`polyopt.search.cutoff`) costs as much as hundreds of splits, and is worth it for domains that would need thousands. So
some domains at a time are first tried by splits alone; those whose bounds rise too slowly are given up, and split into
two parts each that are tightened, and are tried in turn. What is split there is a unit of an early layer, rather: with
it the bounds on all later ones get better.

Sources: Wang et al. 2021 (beta-CROWN), Bunel et al. 2020, "Branch and bound for piecewise linear neural network
verification".
"""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.bounds.batches import at_once, memory
from polyopt.bounds.climb import DTYPE, Reduced
from polyopt.bounds.lagrangian import LATER, ascend
from polyopt.bounds.refine import Boxes
from polyopt.bounds.units import Units
from polyopt.search.cutoff import below, tightened
from polyopt.search.domains import Domains, Values, those
from polyopt.search.halving import apart, halved
from polyopt.search.leaves import solved
from polyopt.search.question import Question
from polyopt.search.splits import EARLIEST, LEVELS, chosen, clipped, foremost, halve_inputs, split_units

BATCH = 256  # domains bounded at a time
TRIED = 8  # domains that are tried at a time
TRIAL = 14  # a trial is given up where more than 2**14 domains seem to be needed
FIRST, SLACK = 32, 2.0  # before it has made so many domains, twice as many levels may seem to be needed
UNIT_STEPS, LEAF_STEPS = 8, 40  # of ascent, after splits of units, and where nothing is left to be split
GROWTHS = (0.0, 0.3, 2.0)  # of prices, in turn: what suits one domain may fail on another
FEW_INPUTS, MANY_INPUTS = 12, 48  # up to here inputs are halved, from here on units are split


class Tally(NamedTuple):
    """The least bound of the domains that are done with, and of those that are stuck; how many were bounded at all.

    Domains that are linear programs, and that rounding leaves open, are stuck: nothing more can be done there. Bounds
    on a ``whole`` hold of all margins; once domains have been clipped, they hold of those below the cutoff alone.
    """

    closed: float
    stuck: float
    whole: bool
    branches: int


def ways(question: Question) -> list[bool]:
    """Whether to halve inputs or not: what seems best, or both, to be tried."""
    if question.dimension <= FEW_INPUTS or not question.splittable:
        return [True]
    return [False] if question.dimension > MANY_INPUTS else [True, False]


class Branching:
    """The open domains of a question, and how they are split and bounded.

    ``bound`` is no greater than any margin on what was put in, or, where that is not `whole`, than any below the
    cutoff. ``sides`` (k, 2, N) bound all units, fixed ones too, of each target; they fix units for those of the
    ``targets`` that are given, where they are better than the question's. ``halves`` inputs or splits units.
    """

    def __init__(self, question: Question, sides: Tensor, targets: Tensor | None = None, halves: bool = False):
        self.question, self.sides, self.targets, self.halves = question, sides, targets, bool(halves)
        self.units = question.units
        if targets is not None:
            self.units = Units(question.form, question.backward, sides[targets].transpose(0, 1))
        self.reduced = Reduced(self.units, question.maps, question.output_map)
        size = len(self.units.kept) + question.net.input_size
        self._batch = at_once(BATCH, question.lower, size)
        self._turn = 0
        self._bounded: Tensor | None = None  # of a trial, how many domains each has made
        self._tries = not self.halves
        self._domains: Domains | None = None
        self.closed, self.stuck, self.whole, self.branches = Tally(math.inf, math.inf, True, 0)

    @property
    def bound(self) -> float:
        """The least bound of all domains, done with or not."""
        if self._domains is None:
            return -math.inf
        self.closed = min(self.closed, self._domains.prune(self.question.cutoff))
        return min(self.closed, self.stuck, self._domains.bound)

    @property
    def basis(self) -> Values:
        """What another `Branching` of the question is made of to go on with these domains."""
        basis = {"sides": self.sides, "halves": torch.tensor(self.halves)}
        return basis if self.targets is None else basis | {"targets": self.targets}

    @property
    def tally(self) -> Tally:
        """What has become of the domains that are not on the list any more."""
        return Tally(self.closed, self.stuck, self.whole, self.branches)

    @property
    def open(self) -> int:
        """How many domains are still to be split."""
        return 0 if self._domains is None else len(self._domains)

    def release(self, count: int) -> Values:
        """Take up to so many domains from the list, those of least bound."""
        return self._domains.pop(count)

    def receive(self, values: Values) -> None:
        """Put domains on the list that have been taken from it, or from that of another search of the question."""
        if self._domains is None:
            self._domains = Domains(values, memory(values["bound"]))
        else:
            self._domains.add(values)

    def merge(self, other: Tally) -> None:
        """Take note of what has become of domains that were given to another search."""
        self.closed, self.stuck = min(self.closed, other.closed), min(self.stuck, other.stuck)
        self.whole &= other.whole
        self.branches += other.branches

    def put(self, targets: Tensor, bounds: Tensor, steps: int) -> None:
        """Bound the whole boxes of some targets (k,), and better than ``bounds`` (k,).

        Targets of one box are one domain as long as it is halved, so that its units are bounded once for all of them.
        """
        question = self.question
        alive = torch.nn.functional.one_hot(targets, len(question.group)).bool()
        if self.halves:
            groups = question.group[targets]
            alive = torch.stack([alive[groups == group].any(0) for group in groups.unique()])
            bounds = torch.stack([bounds[groups == group].min() for group in groups.unique()])
            targets = alive.int().argmax(1)
        values = {
            "target": targets,
            "alive": alive,
            "bound": bounds,
            "lower": question.lower[targets],
            "upper": question.upper[targets],
            "sides": self.sides[targets][:, :, self.units.kept],
            "origin": torch.zeros_like(targets),
        }
        self._take(values, self.halves, steps, anew=False)

    def step(self) -> None:
        """Split the domains of least bound, and bound their parts; an exception leaves them on the list."""
        taken = self._domains.pop(TRIED * self._batch // BATCH if self._tries else self._batch // 2)
        act = self._try if self._tries and (taken["unit"][:, 0] >= 0).all() else self._split
        try:
            act(taken)
        except BaseException:
            self.receive(taken)
            raise

    def _try(self, taken: Values) -> None:
        """Search some domains on their own; of those that take too long, put two tightened parts on the list."""
        slow = self._tried(taken)
        if self.question.refuted:
            self.receive(taken)
        elif len(slow["bound"]):
            parts = self._open(self._ascended(split_units(slow, EARLIEST), UNIT_STEPS))
            if len(parts["bound"]):
                self._take(self._tightened(parts), False, UNIT_STEPS)

    def _tried(self, taken: Values) -> Values:
        """Those domains that splits alone take too long for, with the bounds that they came to."""
        first = taken["bound"]
        trial, reached, slow = copy(self), first.clone(), torch.zeros_like(first, dtype=torch.bool)
        numbers = torch.arange(len(first), device=first.device)
        trial._tries, trial._domains = False, Domains(taken | {"origin": numbers}, memory(first))
        trial._bounded = torch.zeros_like(numbers)
        trial.closed, trial.stuck, trial.whole, trial.branches = Tally(math.inf, math.inf, True, 0)
        while trial.open and not self.question.refuted:
            trial.step()
            trial.closed = min(trial.closed, trial._domains.prune(self.question.cutoff))
            least = trial._domains.least(len(first))
            given_up = least.isfinite() & ~trial._promising(first, least)
            reached, slow = torch.where(given_up, torch.maximum(first, least), reached), slow | given_up
            trial._domains.leave(given_up)
        self.merge(trial.tally)
        return those(taken | {"bound": reached.clamp(max=trial.stuck)}, slow)

    def _promising(self, first: Tensor, least: Tensor) -> Tensor:
        """Whether bounds, which were ``first``, rise fast enough with the number of levels of a tree of splits."""
        levels = torch.log2(self._bounded.to(first.dtype))
        slack = torch.where(self._bounded < FIRST, SLACK, 1.0)
        return (least - first) * TRIAL * slack > (self.question.cutoff - first) * levels

    def _split(self, taken: Values) -> None:
        splits = taken["unit"][:, 0] >= 0
        for some, halves in ((splits, False), (~splits, True)):
            values = those(taken, some)
            if count := len(values["bound"]):
                for level in range(max(1, min(LEVELS, (self._batch // count).bit_length() - 1))):
                    values = halve_inputs(values) if halves else split_units(values, level)
                self._take(values, halves, UNIT_STEPS)

    def _take(self, values: Values, halves: bool, steps: int, anew: bool = True) -> None:
        """Bound domains, their units ``anew`` too, and put on the list what is still open and no linear program."""
        self.branches += len(values["bound"])
        if self._bounded is not None:
            self._bounded += torch.bincount(values["origin"], minlength=len(self._bounded))
        if halves:
            values = self._open(halved(self.question, self.reduced, values, anew))
            cases = values["undecided"].clamp(min=1) * values["alive"].sum(1)  # each target would be split by itself
            few = (cases <= self.question.dimension) & self.question.splittable
            self.receive(those(values, ~few))
            values = apart(those(values, few))
        if len(values["bound"]) == 0:
            return
        values = self._open(self._ascended(values, steps))
        leaf = (values["undecided"] == 0) & self.question.splittable
        self.receive(those(values, ~leaf))
        leaves = those(values, leaf)
        if leaf.any():  # an ascent of all takes less time than a program for each
            leaves = self._open(self._ascended(leaves, LEAF_STEPS))
        if len(leaves["bound"]):
            left = self._open(solved(self.question, leaves, self.sides[leaves["target"]], self.units.kept))
            self.stuck = min([self.stuck, *left["bound"].tolist()])

    def _open(self, found: Values) -> Values:
        """What is neither beyond the cutoff nor empty; as it is clipped, bounds hold no longer of all margins."""
        empty = (found["sides"].sum(1) > 0).any(1)
        done = (found["bound"] > self.question.cutoff) | empty
        self.closed = min([self.closed, *found["bound"][done & ~empty].tolist()])
        self.whole &= bool(done.all())
        return those(found, ~done)

    def _tightened(self, values: Values) -> Values:
        """Domains with bounds on their undecided units that hold below the cutoff."""
        question, boxes = self.question, Boxes(values["lower"], values["upper"])
        limits = below(question, question.mixture(values["target"], values["weights"]), values["bound"], boxes)
        sides = tightened(question, self.reduced, values["sides"].transpose(0, 1), limits)
        return values | {"sides": sides.transpose(0, 1)}

    def _ascended(self, values: Values, steps: int) -> Values:
        """Domains with the sides that splits have left them, bounded by the Lagrangian."""
        question, target = self.question, values["target"]
        sides = values["sides"].transpose(0, 1)
        start, pace = None, 1.0
        if "slopes" in values:
            start, pace = (values["slopes"].transpose(0, 1), values["prices"]), LATER
        mixture = question.mixture(target, values.get("weights"))
        boxes = Boxes(values["lower"], values["upper"])
        turns, self._turn = torch.arange(self._turn, self._turn + len(target)), self._turn + 1
        growth = torch.tensor(GROWTHS)[turns % len(GROWTHS), None].to(sides.device, DTYPE)
        options = {"mixture": mixture, "start": start, "pace": pace, "growth": growth}
        found = ascend(question.backward, self.reduced, sides, boxes, steps, **options)
        worst = foremost(found.bound)
        question.offer(found.point[worst], target[worst])
        unit, at = chosen(self.units, *found.enclosure.losses(found.lines))
        room = (question.cutoff - found.bound).clamp(min=0.0)
        lower, upper = clipped(values["lower"], values["upper"], found.slope, room)
        return {
            "target": target,
            "alive": values["alive"],
            "bound": torch.maximum(found.bound, values["bound"]),
            "lower": lower,
            "upper": upper,
            "sides": values["sides"],
            "slopes": found.multipliers[0].transpose(0, 1).float(),
            "prices": found.multipliers[1].float(),
            "weights": found.weights,
            "undecided": self.units.undecided(sides).sum(1),
            "unit": unit,
            "at": at,
            "slope": found.slope,
            "smear": torch.zeros_like(found.slope),
            "origin": values["origin"],
        }
