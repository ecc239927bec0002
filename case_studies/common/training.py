"""A network trained with or without POLICE, by `polyopt.training.fit` and the published code's schedule."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Collection

import numpy as np
import torch
from common.networks import mlp
from torch import Tensor, nn

import polyopt as po
from polyopt.training import fit

NAMES = {"plain": "without POLICE", "police": "with POLICE"}


def train(
    kind: str,
    region: po.Region,
    shape: tuple[int, int, int, int],
    data: tuple,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    looks: Collection[int] = (),
) -> tuple[dict[int, nn.Module], float]:
    """The stored networks after epochs ``looks`` and the last, by their numbers, and the median milliseconds of a step.

    ``shape`` are the arguments of `networks.mlp`; ``kind`` is "plain" or "police". AdamW's rate falls to 0.3 of itself
    after each quarter of the epochs.
    """
    torch.manual_seed(seed)
    network = mlp(*shape)
    model = po.police.POLICE(network, region) if kind == "police" else network
    schedules, stored, ends = [], {}, []

    def optimizer(parameters, lr):
        made = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-5)
        schedules.append(torch.optim.lr_scheduler.StepLR(made, max(1, epochs // 4), gamma=0.3))
        return made

    def callback(epoch: int, model: nn.Module) -> None:
        ends.append(time.perf_counter())
        schedules[0].step()
        if epoch + 1 in looks or epoch + 1 == epochs:
            plain = model.fold() if kind == "police" else copy.deepcopy(model).eval()
            stored[epoch + 1] = plain.cpu()

    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    fit(model, *data, loss, optimizer=optimizer, callback=callback, **settings)
    return stored, 1000 * statistics.median(np.diff(ends)) / math.ceil(len(data[0]) / batch_size)
