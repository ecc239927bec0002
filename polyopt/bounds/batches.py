"""How much is done at a time: on a CPU what stays in its cache, on a GPU what keeps all of it at work."""

from __future__ import annotations

import torch
from torch import Tensor

GPU = 256  # times as much as on a CPU
MEMORY = 2e9  # bytes on a CPU
SHARE = 8  # of a GPU's memory
COPIES = 64  # of a number, that are held at a time while something is computed of it


def at_once(count: int, values: Tensor, size: int = 1) -> int:
    """So many things on a CPU as ``count`` says; on a GPU, where ``values`` are, as many more as there is room for.

    Each has so many numbers as ``size`` says.

    >>> at_once(256, torch.zeros(1))
    256
    """
    if not values.is_cuda:
        return count
    room = memory(values) / (COPIES * values.element_size() * size)
    return max(count, min(GPU * count, int(room)))


def memory(values: Tensor) -> float:
    """The bytes that a list of things may take on the device of ``values``."""
    return torch.cuda.get_device_properties(values.device).total_memory / SHARE if values.is_cuda else MEMORY
