"""Branch and bound on domains: parts of the box in which the pre-activations keep to bounds of their own.

A domain's bound is the Lagrangian's (`polyopt.bounds.lagrangian`), which goes on from its parent's slopes and prices.
It is halved along an input or split at a breakpoint of a unit (`polyopt.search.splits`). Halving tightens the bounds of
all layers, by CROWN over the new box; it serves where inputs are few. Splitting serves where they are many, and near an
optimum: it lies at a vertex, where as many units as there are inputs stay undecided on boxes of any size. Where every
unit keeps to one piece, a domain is a linear program. Before all that, the bounds of undecided units are tightened as
long as it is worthwhile (`polyopt.search.cutoff`).

Sources: Wang et al. 2021 (beta-CROWN), Bunel et al. 2020, "Branch and bound for piecewise linear neural network
verification".
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyopt.activations import PiecewiseLinear
from polyopt.bounds.backward import Backward
from polyopt.bounds.crown import propagate
from polyopt.bounds.interval import joined
from polyopt.bounds.lagrangian import ascend
from polyopt.bounds.result import Interval
from polyopt.bounds.rounding import gamma
from polyopt.network import INPUT
from polyopt.regions import Box
from polyopt.search.cutoff import tightened
from polyopt.search.domains import Domains
from polyopt.search.piece import least_on_piece
from polyopt.search.question import Question
from polyopt.search.splits import Axis, Values, clipped, halve_inputs, split_units

BATCH = 256  # domains bounded at a time
ROOT_STEPS, UNIT_STEPS, INPUT_STEPS = 10, 6, 0  # of ascent: at the root, after splits of units, and of inputs
WORTHWHILE = 0.02  # a round of tightening that shortens the units' ranges by less than this share is the last
LEVELS = 4  # at most, that a domain is split at once, to fill a batch
FEW_INPUTS = 12  # up to here inputs are halved


class Search:
    """A search in the making: `step` takes it further, ``bound`` is valid at any time."""

    def __init__(self, question: Question):
        self.question = question
        self.branches = 0
        self._splits_units = all(isinstance(node.layer, PiecewiseLinear) for node in question.form.activations)
        self._halves_inputs = question.net.input_size <= FEW_INPUTS or not self._splits_units
        self._axis = Axis(question)
        self._passes = Backward(question.form, question.lower.device)
        self._root: Values = {"lower": question.lower[None], "upper": question.upper[None]}
        self._root["sides"] = self._sides(question.bounds)
        self.bound = float(self._bounded(self._root, steps=0)["bound"])
        self._domains: Domains | None = None

    def step(self) -> None:
        """A round of tightening at the root, or a batch of branches."""
        if self._domains is not None:
            self._branch()
        elif not self._tighten():
            root = self._bounded(self._root, ROOT_STEPS)
            self._domains = Domains({name: value[:0] for name, value in root.items()})
            self._add(root)
        if self._domains is not None:
            self.bound = max(self.bound, self._domains.bound)
        self.bound = min(self.bound, self.question.cutoff)

    def _tighten(self) -> bool:
        """A round of tightening all undecided units; whether another one is worthwhile."""
        if not self._splits_units:
            return False
        before = self._root["sides"][0]
        after, self.bound = tightened(self.question, before, _Minimum(self._root), self.bound)
        self._root["sides"] = after.unsqueeze(0)
        lengths, shorter = -before.sum(0), -after.sum(0)
        if (shorter < 0).any():  # no point is better than the cutoff
            self.bound = self.question.cutoff
        changed = shorter < lengths
        return bool(shorter[changed].sum() < (1.0 - WORTHWHILE) * lengths[changed].sum())

    def _branch(self) -> None:
        """Split the domains of least bound, and bound their parts."""
        taken = self._domains.pop(BATCH // 2, self.question.cutoff)
        splits = ~torch.full_like(taken["bound"], self._halves_inputs, dtype=torch.bool)
        splits |= (taken["undecided"] <= self.question.net.input_size) & self._splits_units
        splits &= taken["undecided"] > 0  # a linear program that rounding errors have left open
        units = {name: value[splits] for name, value in taken.items()}
        inputs = {name: value[~splits] for name, value in taken.items()}
        if count := len(units["bound"]):
            for level in range(max(1, min(LEVELS, (BATCH // count).bit_length() - 1))):
                units = split_units(units, level)
            self._add(self._bounded(units, UNIT_STEPS))
        if len(inputs["bound"]):
            inputs = halve_inputs(inputs)
            fresh = self._crown(inputs["lower"], inputs["upper"])
            inputs["sides"] = torch.maximum(inputs["sides"], fresh)
            self._add(self._bounded(inputs, INPUT_STEPS))

    def _bounded(self, values: Values, steps: int) -> Values:
        """Domains with boxes and sides as the list keeps them: with a bound, and with what a split needs to know."""
        question, (lower, upper) = self.question, (values["lower"], values["upper"])
        rows = {question.output: question.row.expand(len(lower), -1)}
        start = tuple(values[name].transpose(0, 1) for name in ("slopes", "prices")) if "slopes" in values else None
        sides = values["sides"].transpose(0, 1)
        found = ascend(question.backward, question.units, rows, sides, _Minimum(values), steps, start=start)
        question.offer(found.point)
        bound = torch.fmax(found.bound, values["bound"]) if "bound" in values else found.bound
        loss, at = found.enclosure.losses(found.lines)
        most, unit = loss.topk(min(LEVELS, loss.shape[1]), dim=1)
        corners = found.enclosure.corners
        lower, upper = clipped(lower, upper, found.slope, (question.cutoff - found.last).clamp(min=0.0))
        steepest = torch.maximum(corners.greatest.abs(), corners.least.abs()).amax(0)
        return {
            "bound": bound,
            "lower": lower,
            "upper": upper,
            "sides": values["sides"],
            "slopes": found.enclosure.slopes.transpose(0, 1),
            "prices": found.enclosure.prices.transpose(0, 1),
            "undecided": (loss >= 0).sum(1),
            "unit": torch.where(most < 0, -1, unit),
            "at": at.gather(1, unit),
            "axis": self._axis.choose(lower, upper, found.slope, steepest),
        }

    def _add(self, found: Values) -> None:
        """Put on the list what is still open: neither beyond the cutoff, nor empty, nor solved as a linear program."""
        self.branches += len(found["bound"])
        found = self._open(found)
        leaf = (found["undecided"] == 0) & self._splits_units
        if leaf.any():
            leaves = self._solved({name: value[leaf] for name, value in found.items()})
            self._domains.add(self._open(leaves))
        self._domains.add({name: value[~leaf] for name, value in found.items()})

    def _open(self, found: Values) -> Values:
        open_ = (found["bound"] < self.question.cutoff) & (found["sides"].sum(1) <= 0).all(1)
        return {name: value[open_] for name, value in found.items()}

    def _solved(self, leaves: Values) -> Values:
        """Domains of one piece each, bounded anew with the prices of their linear programs."""
        needed = 2.0 * (self.question.cutoff - leaves["bound"])
        for i in range(len(needed)):
            box = Box(leaves["lower"][i].cpu().numpy(), leaves["upper"][i].cpu().numpy())
            least = least_on_piece(self.question, box, leaves["sides"][i].cpu().numpy())
            prices = self.question.backward.tensor(least.prices)
            if least.point is None:
                prices = prices * needed[i]
            else:
                self.question.offer(least.point[None])
            leaves["prices"][i] = prices
        return self._bounded(leaves, steps=0)

    def _crown(self, lower: Tensor, upper: Tensor) -> Tensor:
        """CROWN's bounds l and -u of all pre-activations on boxes, end to end: (batch, 2, n)."""
        box = Box(lower.cpu().numpy(), upper.cpu().numpy())
        return self._sides(propagate(self._passes, self.question.form, box))

    def _sides(self, values: dict[str, Interval]) -> Tensor:
        bounds = [joined(node, values) for node in self.question.form.activations]
        none = np.empty((len(values[INPUT].lower), 0))
        sides = [
            np.concatenate([none, *parts], axis=1)
            for parts in ([pre.lower for pre in bounds], [-pre.upper for pre in bounds])
        ]
        return self.question.backward.tensor(np.stack(sides, axis=1))


class _Minimum:
    """The least value of rows over boxes, and where it is attained."""

    def __init__(self, boxes: Values):
        lower, upper = boxes["lower"], boxes["upper"]
        self._center, self._radius = (upper + lower) / 2, (upper - lower) / 2
        # so that the box around the rounded centre contains the exact one, and the sums are rounded downwards
        self._reach = self._radius + gamma(lower.shape[1], lower.dtype) * (lower.abs() + upper.abs())

    def __call__(self, A: Tensor) -> tuple[Tensor, Tensor]:
        return (A * self._center).sum(1) - (A.abs() * self._reach).sum(1), self._center - self._radius * A.sign()
