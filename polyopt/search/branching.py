"""Branch and bound on domains: parts of the targets' boxes in which the pre-activations keep to bounds of their own.

Where inputs are few, a domain is halved along one of them: its undecided units are bounded anew, layer by layer, and so
are the target's rows, each of which then clips the box (`polyopt.bounds.refine`). Where inputs are many, and where as
few units are undecided as there are inputs, it is split at a breakpoint of a unit: an optimum lies at a vertex, where
that many units stay undecided on boxes of any size. A split domain's bound is the Lagrangian's
(`polyopt.bounds.lagrangian`), which goes on from its parent's slopes, prices and weights. Where every unit keeps to one
piece, a domain is a linear program, whose prices bound it.

Sources: Wang et al. 2021 (beta-CROWN), Bunel et al. 2020, "Branch and bound for piecewise linear neural network
verification".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from polyopt.activations import PiecewiseLinear
from polyopt.bounds.climb import Reduced
from polyopt.bounds.lagrangian import ascend
from polyopt.bounds.refine import Boxes, Refinement
from polyopt.bounds.units import Units
from polyopt.search.descent import slide, survey
from polyopt.search.domains import Domains
from polyopt.search.leaves import solved
from polyopt.search.question import Question
from polyopt.search.splits import Values, clipped, halve_inputs, smear, split_units

BATCH = 256  # domains bounded at a time
OFFERED = 32  # of their points that are tried, those of least bound
MEMORY = 2e9  # bytes of open domains from which on the search goes depth first
HALF_STEPS = 3
UNIT_STEPS = 8  # of ascent, after splits of units
GROWTHS = (0.0, 0.3, 2.0)  # of prices, in turn: what suits one domain may fail on another
SURVEY = 1000  # branches, after which it is worthwhile to look for good points all over the boxes
LEVELS = 3  # at most, that a domain is split at once, to fill a batch
FEW_INPUTS = 12  # up to here inputs are halved


class _Pairs(NamedTuple):
    """Of pairs of a box and a target: bounds (p,), slopes and what is left of the boxes (p, n_in), weights (p, r)."""

    bound: Tensor
    slope: Tensor
    lower: Tensor
    upper: Tensor
    weights: Tensor


class Branching:
    """The open domains of a question, and how they are split and bounded.

    ``bound`` is no greater than any margin on what was put in; ``branches`` counts the domains that were bounded.
    Domains that are linear programs, and that rounding leaves open, are ``stuck``: nothing more can be done there.
    ``sides`` (k, 2, N) bound all units, fixed ones too, of each target; they fix units for those of the ``targets``
    that are given, where they are better than the question's.
    """

    def __init__(self, question: Question, sides: Tensor, targets: Tensor | None = None):
        self.question, self.sides, self.targets = question, sides, targets
        self.units = question.units
        if targets is not None:
            self.units = Units(question.form, question.backward, sides[targets].transpose(0, 1))
        self.reduced = Reduced(self.units, question.maps, question.output_map)
        self.branches = self._turn = 0
        self.surveyed = False
        self.splits_units = all(isinstance(part.node.layer, PiecewiseLinear) for part in self.units.parts)
        self.halves_inputs = question.net.input_size <= FEW_INPUTS or not self.splits_units
        self._domains: Domains | None = None
        self.closed = math.inf  # the least bound of what is done with
        self.stuck = math.inf  # and of what cannot be
        self.whole = True  # whether bounds hold of all margins; once boxes are clipped, of those below the cutoff

    @property
    def bound(self) -> float:
        """The least bound of all domains, done with or not."""
        if self._domains is None:
            return -math.inf
        self.closed = min(self.closed, self._domains.prune(self.question.cutoff))
        return min(self.closed, self.stuck, self._domains.bound)

    @property
    def open(self) -> int:
        """How many domains are still to be split."""
        return 0 if self._domains is None else len(self._domains)

    def release(self, count: int) -> Values:
        """Take up to so many domains from the list, those of least bound."""
        return self._domains.pop(count)

    def receive(self, values: Values) -> None:
        """Put domains on the list that have been taken from it, or from that of another search of the question."""
        self._list(values)

    def merge(self, closed: float, stuck: float, whole: bool, branches: int) -> None:
        """Take note of what has become of domains that were given to another search."""
        self.closed, self.stuck = min(self.closed, closed), min(self.stuck, stuck)
        self.whole &= whole
        self.branches += branches

    def put(self, targets: Tensor, bounds: Tensor, steps: int) -> None:
        """Bound the whole boxes of some targets (k,), and better than ``bounds`` (k,).

        Targets of one box are one domain as long as it is halved, so that its units are bounded once for all of them.
        """
        question = self.question
        alive = torch.nn.functional.one_hot(targets, len(question.group)).bool()
        if self.halves_inputs:
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
        }
        self._take(values, self.halves_inputs, steps)

    def step(self) -> None:
        """Split the domains of least bound, and bound their parts; an exception leaves them on the list."""
        if self.halves_inputs and self.branches >= SURVEY and not self.surveyed:
            self.surveyed = True
            survey(self.question)
        taken = self._domains.pop(BATCH // 2)
        try:
            self._split(taken)
        except BaseException:
            self._list(taken)
            raise

    def _split(self, taken: Values) -> None:
        splits = taken["unit"][:, 0] >= 0
        for some, halves in ((splits, False), (~splits, True)):
            values = {name: value[some] for name, value in taken.items()}
            if count := len(values["bound"]):
                for level in range(max(1, min(LEVELS, (BATCH // count).bit_length() - 1))):
                    values = halve_inputs(values) if halves else split_units(values, level)
                self._take(values, halves, UNIT_STEPS)

    def _take(self, values: Values, halves: bool, steps: int) -> None:
        """Bound domains, and put on the list what is still open and no linear program."""
        self.branches += len(values["bound"])
        if halves:
            values = self._open(self._halved(values))
            self.whole &= len(values["bound"]) == 0
            few = (values["undecided"] <= self.question.net.input_size) & self.splits_units
            self._list({name: value[~few] for name, value in values.items()})
            values = _apart({name: value[few] for name, value in values.items()})
        if len(values["bound"]) == 0:
            return
        values = self._open(self._ascended(values, steps))
        self.whole &= len(values["bound"]) == 0
        leaf = (values["undecided"] == 0) & self.splits_units
        self._list({name: value[~leaf] for name, value in values.items()})
        leaves = {name: value[leaf] for name, value in values.items()}
        if leaf.any():
            left = self._open(solved(self.question, leaves, self.sides[leaves["target"]], self.units.kept))
            self.stuck = min(self.stuck, float(left["bound"].min())) if len(left["bound"]) else self.stuck

    def _list(self, values: Values) -> None:
        if self._domains is None:
            self._domains = Domains(values, MEMORY)
        else:
            self._domains.add(values)

    def _open(self, found: Values) -> Values:
        """What is neither beyond the cutoff nor empty."""
        empty = ~(found["sides"].sum(1) <= 0).all(1)
        done = (found["bound"] > self.question.cutoff) | empty
        if (done & ~empty).any():
            self.closed = min(self.closed, float(found["bound"][done & ~empty].min()))
        return {name: value[~done] for name, value in found.items()}

    def _halved(self, values: Values) -> Values:
        """Boxes with the sides of what they are part of, refined, and bounded by the rows of all their targets.

        ``alive`` (batch, k) says which targets a box is still open for. The box is clipped to what any of them leaves.
        """
        question, boxes = self.question, Boxes(values["lower"], values["upper"])
        refined = Refinement(question.backward, self.units, boxes, values["sides"].transpose(0, 1))
        domain, target = values["alive"].nonzero().T
        found = self._rows(refined, domain, target)
        if question.constrained and "weights" in values:  # of the constraints' rows, which go on from the parent's
            found = found._replace(weights=values["weights"][domain])
        found = self._sharpened(refined, domain, target, found)
        left = found.bound <= question.cutoff
        alive = torch.zeros_like(values["alive"]).index_put((domain, target), left)
        bound = _least(found.bound, domain, len(alive))
        order = torch.where(left, found.bound, torch.inf).argsort(descending=True)
        worst = torch.zeros(len(alive), dtype=torch.int64, device=order.device)
        worst[domain[order]] = order  # the last to be written is the least
        lower = _least(torch.where(left.unsqueeze(1), found.lower, torch.inf), domain, len(alive))
        upper = -_least(torch.where(left.unsqueeze(1), -found.upper, torch.inf), domain, len(alive))
        open_ = alive.any(1, keepdim=True)
        tried = bound.topk(min(OFFERED, len(bound)), largest=False).indices
        corners = boxes.center - boxes.radius * found.slope[worst].sign()
        slide(question, corners[tried], target[worst][tried], boxes.take(tried))
        return {
            "target": target[worst],
            "alive": alive,
            "bound": torch.fmax(bound, values["bound"]),
            "lower": torch.where(open_, lower, boxes.lower),
            "upper": torch.where(open_, upper, boxes.upper),
            "sides": refined.sides.transpose(0, 1),
            "slopes": refined.slopes.transpose(0, 1).float(),
            "prices": torch.zeros_like(values["sides"][:, 0], dtype=torch.float32),
            "weights": found.weights[worst],
            "undecided": self.units.undecided(refined.sides).sum(1),
            "unit": torch.full_like(worst, -1).unsqueeze(1).expand(-1, LEVELS),
            "at": bound.new_zeros(len(bound), LEVELS),
            "slope": found.slope[worst],
            "smear": smear(question, self.units, target[worst], refined.slopes),
        }

    def _rows(self, refined: Refinement, domain: Tensor, target: Tensor) -> _Pairs:
        """Bounds on pairs of a box and a target (p,), by the best of the target's rows; every row clips the box."""
        question, count = self.question, self.question.rows.shape[1]
        rows, limits = question.rows[target].flatten(0, 1), question.limits[target].flatten()
        bounds, slopes = refined.bound({question.output: rows}, domain.repeat_interleave(count), limits)
        bounds, slopes = bounds.unflatten(0, (-1, count)), slopes.unflatten(0, (-1, count))
        lower, upper = refined.boxes.lower[domain], refined.boxes.upper[domain]
        for r, cutoff in enumerate(question.cutoffs):
            lower, upper = clipped(lower, upper, slopes[:, r], (cutoff - bounds[:, r]).clamp(min=0.0))
        best, row = question.strongest(bounds)
        slope = slopes[torch.arange(len(row), device=row.device), row]
        return _Pairs(best, slope, lower, upper, torch.nn.functional.one_hot(row, count).to(best.dtype))

    def _sharpened(self, refined: Refinement, domain: Tensor, target: Tensor, pairs: _Pairs) -> _Pairs:
        """The bounds of the pairs still open after some steps of ascent, which clip the boxes too."""
        question = self.question
        left = (pairs.bound <= question.cutoff).nonzero()[:, 0]
        if not len(left):
            return pairs
        domain, target = domain[left], target[left]
        mixture = question.mixture(target, pairs.weights[left])
        slopes = refined.slopes[:, domain]
        found = ascend(
            question.backward,
            self.reduced,
            refined.sides[:, domain],
            refined.boxes.take(domain),
            HALF_STEPS,
            start=(slopes, torch.zeros_like(slopes[0])),
            mixture=mixture,
            priced=False,
            fresh=True,
        )
        room = (question.cutoff - found.bound).clamp(min=0.0)
        lower, upper = clipped(pairs.lower[left], pairs.upper[left], found.slope, room)
        news = (torch.fmax(found.bound, pairs.bound[left]), found.slope, lower, upper, found.weights)
        return _Pairs(*(old.index_copy(0, left, new) for old, new in zip(pairs, news, strict=True)))

    def _ascended(self, values: Values, steps: int) -> Values:
        """Domains with the sides that splits have left them, bounded by the Lagrangian."""
        question, target = self.question, values["target"]
        sides = values["sides"].transpose(0, 1)
        start = None
        if "slopes" in values:
            start = values["slopes"].transpose(0, 1), values["prices"]
        mixture = question.mixture(target, values.get("weights"))
        boxes = Boxes(values["lower"], values["upper"])
        growth, self._turn = GROWTHS[self._turn % len(GROWTHS)], self._turn + 1
        found = ascend(
            question.backward, self.reduced, sides, boxes, steps, mixture=mixture, start=start, growth=growth
        )
        worst = found.bound.topk(min(OFFERED, len(found.bound)), largest=False).indices
        question.offer(found.point[worst], target[worst])
        loss, at = found.enclosure.losses(found.lines)
        most, unit = loss.topk(min(LEVELS, loss.shape[1]), dim=1)
        missing = (0, LEVELS - unit.shape[1])
        at = torch.nn.functional.pad(at.gather(1, unit), missing)
        unit = torch.nn.functional.pad(torch.where(most < 0, -1, unit), missing, value=-1)
        room = (question.cutoff - found.bound).clamp(min=0.0)
        lower, upper = clipped(values["lower"], values["upper"], found.slope, room)
        return {
            "target": target,
            "alive": values["alive"],
            "bound": torch.fmax(found.bound, values["bound"]),
            "lower": lower,
            "upper": upper,
            "sides": values["sides"],
            "slopes": found.multipliers[0].transpose(0, 1).float(),
            "prices": found.multipliers[1].float(),
            "weights": found.weights,
            "undecided": (loss >= 0).sum(1),
            "unit": unit,
            "at": at,
            "slope": found.slope,
            "smear": torch.zeros_like(found.slope),
        }


def _apart(values: Values) -> Values:
    """Domains that are open for several targets as one domain for each of them."""
    domain, target = values["alive"].nonzero().T
    values = {name: value[domain] for name, value in values.items()}
    return values | {"target": target, "alive": torch.zeros_like(values["alive"]).scatter(1, target[:, None], True)}


def _least(values: Tensor, index: Tensor, count: int) -> Tensor:
    """The least of the values (p, …) that belong to each index (p,)."""
    least = values.new_full((count, *values.shape[1:]), torch.inf)
    index = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    return least.scatter_reduce(0, index, values, "amin")
