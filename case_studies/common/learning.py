"""A model trained by `polyopt.training.fit`, and looked at after each epoch: what every OptNet study has in common."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polyopt.training import fit


@dataclass
class Learned:
    """The mean loss (with penalty) in each epoch and what was ``measured`` after it, and what the steps took."""

    loss: list[float] = field(default_factory=list)
    measured: list = field(default_factory=list)
    steps: int = 0
    step_ms: float = 0.0
    seconds: float = 0.0


def learn(
    model: nn.Module,
    data: tuple,
    loss: Callable[[Tensor, Tensor], Tensor],
    measure: Callable[[nn.Module], object],
    *,
    epochs: int,
    batch_size: int,
    annealed: bool = False,
    **settings,
) -> Learned:
    """Train the model by Adam; ``measure`` is no part of the times. Other settings are those of `fit`.

    If ``annealed``, the rate falls to 0 along a cosine. A step is forward, backward and the
    optimizer's; its time is the median over the epochs of their means.
    """
    found, times, schedules, start = Learned(), [], [], time.perf_counter()

    def optimizer(parameters, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        if annealed:
            schedules.append(torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs))
        return adam

    def callback(epoch: int, model: nn.Module) -> None:
        nonlocal start
        times.append(time.perf_counter() - start)
        for schedule in schedules:
            schedule.step()
        model.eval()
        with torch.no_grad():
            found.measured.append(measure(model))
        start = time.perf_counter()

    settings |= {"epochs": epochs, "batch_size": batch_size}
    history = fit(model, *data, loss, optimizer=optimizer, callback=callback, **settings)
    found.loss, found.seconds = history.loss, sum(times)
    steps = math.ceil(len(data[0]) / batch_size)
    found.steps, found.step_ms = steps * len(times), 1000 * statistics.median(times) / steps
    return found
