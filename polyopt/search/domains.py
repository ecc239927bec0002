"""The list of open domains: what is still to be searched, each with a bound, best first."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Domains:
    """Named tensors whose first dimension counts the open domains; ``bound`` is one of them."""

    def __init__(self, values: dict[str, Tensor]):
        self._values = values

    def __len__(self) -> int:
        return len(self._values["bound"])

    @property
    def bound(self) -> float:
        """The least bound of all; infinite where nothing is open."""
        return float(self._values["bound"].min()) if len(self) else math.inf

    def add(self, values: dict[str, Tensor]) -> None:
        """Put domains on the list."""
        self._values = {name: torch.cat([known, values[name]]) for name, known in self._values.items()}

    def pop(self, count: int, cutoff: float) -> dict[str, Tensor]:
        """Take up to ``count`` domains of least bound from the list, and those that reach the cutoff out of it."""
        bound = self._values["bound"]
        order = bound.argsort()
        order = order[bound[order] < cutoff]
        taken, left = order[:count], order[count:]
        values = {name: known[taken] for name, known in self._values.items()}
        self._values = {name: known[left] for name, known in self._values.items()}
        return values
