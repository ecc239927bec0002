"""Training with enforcements: warm-up, then a penalty whose weight grows while constraints are violated.

    epochs 1, ..., w                loss
    enforcement, then epochs w + 1, w + 2, ...      loss + weight * penalty
    each few of these      enforcement; weight <- growth * weight, unless the constraints are kept, which ends it

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, sections 2.7 and 3.3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from polyopt import training
from polyopt.police.report import EnforcementError, LayerReport, Report


class Enforceable(Protocol):
    """What is trained: a `polyopt.police.MPOLICE`."""

    constraints: list
    done: Any

    def enforce(self) -> list[LayerReport]:
        """Put each region into a linear piece."""

    def penalty(self, tolerance: float) -> Tensor:
        """What violations cost."""

    def violation(self) -> float:
        """The greatest violation."""


@dataclass
class Fitting:
    """How a training went: the mean ``loss`` of each epoch with its penalty, the first ``warm_up`` of them without.

    Enforcement number k was before epoch ``enforced[k]``, or at the end; it cost ``costs[k]``, the squared change of
    all weights, and left ``violations[k]``, the greatest of the constraints'. ``failed`` says at which epochs it could
    not be done, and why. ``stopped`` is "tolerance", "epochs", "time limit" or "interrupted". Of the ``seconds`` of
    training, ``enforcing`` went into enforcement; ``report`` is the proof of what it all ended with.
    """

    warm_up: int = 0
    loss: list[float] = field(default_factory=list)
    enforced: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    violations: list[float] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    stopped: str = "epochs"
    seconds: float = 0.0
    enforcing: float = 0.0
    report: Report | None = None


@dataclass(frozen=True)
class Schedule:
    """The arguments of `polyopt.police.MPOLICE.fit`; ValueError for those out of range."""

    warm_up: int
    epochs: int
    every: int
    weight: float
    growth: float
    tolerance: float

    def __post_init__(self):
        for name, least in (("warm_up", 0), ("epochs", 0), ("every", 1)):
            if not (isinstance(value := getattr(self, name), int) and value >= least):
                raise ValueError(f"MPOLICE.fit: {name} is {value!r}, but must be a whole number, at least {least}")
        for name, least in (("weight", 0.0), ("growth", 1.0), ("tolerance", 0.0)):
            if not least <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"MPOLICE.fit: {name} is {value!r}, but must be a finite number, at least {least}")


def fit(
    model: Enforceable,
    inputs,
    targets,
    loss: Callable[[Tensor, Tensor], Tensor],
    schedule: Schedule,
    time_limit: float | None,
    options: Mapping[str, Any],
) -> Fitting:
    """All of it but the last enforcement."""
    begin, run = time.perf_counter(), _Run(model, schedule)

    def train(epochs: int, **more) -> None:
        left = None if time_limit is None else max(time_limit - (time.perf_counter() - begin), 0.0)
        history = training.fit(model, inputs, targets, loss, epochs=epochs, time_limit=left, **more, **options)
        run.found.loss += history.loss
        run.found.stopped = "tolerance" if history.stopped == "callback" else history.stopped

    if schedule.warm_up:
        train(schedule.warm_up)
    run.found.warm_up = len(run.found.loss)
    if schedule.epochs and run.found.stopped == "epochs":
        if run.enforce(run.found.warm_up):
            run.found.stopped = "tolerance"
        else:
            train(schedule.epochs, penalty=run.penalty if model.constraints else None, callback=run.after)
    run.found.seconds = time.perf_counter() - begin
    return run.found


def enforce(model: Enforceable, found: Fitting, epoch: int) -> None:
    """Enforce before an epoch, and take note of it."""
    begin = time.perf_counter()
    try:
        layers = model.enforce()
    finally:
        found.enforcing += time.perf_counter() - begin
    found.enforced.append(epoch)
    found.costs.append(sum(layer.cost for layer in layers))
    found.violations.append(model.violation())


class _Run:
    """The enforcements of a training, and the weight of the penalty."""

    def __init__(self, model: Enforceable, schedule: Schedule):
        self.model, self.schedule, self.weight, self.found = model, schedule, schedule.weight, Fitting()

    def penalty(self, _: nn.Module) -> Tensor | float:
        if self.model.done is None:  # no enforcement has succeeded
            return 0.0
        return self.weight * self.model.penalty(self.schedule.tolerance)

    def after(self, epoch: int, _: nn.Module) -> bool:
        """What follows an epoch; whether it was the last one."""
        done = epoch + 1
        now = done % self.schedule.every == 0 and done < self.schedule.epochs  # the last one is followed by another
        return now and self.enforce(self.found.warm_up + done)

    def enforce(self, epoch: int) -> bool:
        """Enforce before an epoch; whether there are constraints, kept up to the tolerance."""
        try:
            enforce(self.model, self.found, epoch)
        except EnforcementError as error:
            self.found.failed[epoch] = str(error)
            return False
        kept = self.found.violations[-1] <= self.schedule.tolerance
        if not kept:
            self.weight *= self.schedule.growth
        return kept and bool(self.model.constraints)
