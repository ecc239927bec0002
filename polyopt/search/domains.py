"""The list of open domains: what is still to be searched, each with a bound, best first while there is room."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Values = dict[str, Tensor]  # of domains, by name; the first dimension counts them


def those(values: Values, index: Tensor) -> Values:
    """Some of the domains."""
    return {name: value[index] for name, value in values.items()}


class Domains:
    """Named tensors whose first dimension counts the open domains; ``bound`` is one of them.

    The domains of least bound come first, as long as the list takes less than ``limit`` bytes; beyond that those of
    greatest bound, which are nearest to being done with, so that it grows no further than depth first.
    """

    def __init__(self, values: Values, limit: float):
        self._places = {name: value.new_empty(0, *value.shape[1:]) for name, value in values.items()}
        self._taken = torch.zeros(0, dtype=torch.bool, device=values["bound"].device)
        self._limit = limit
        self.add(values)

    def __len__(self) -> int:
        return int(self._taken.sum())

    @property
    def bound(self) -> float:
        """The least bound of all; infinite where nothing is open."""
        return float(self._places["bound"][self._taken].min()) if len(self) else math.inf

    @property
    def full(self) -> bool:
        """Whether the list has reached its limit."""
        size = sum(place[:1].numel() * place.element_size() for place in self._places.values())
        return size * len(self) > self._limit

    def add(self, values: Values) -> None:
        """Put domains on the list."""
        count = len(values["bound"])
        if (missing := count - int((~self._taken).sum())) > 0:
            self._grow(max(missing, len(self._taken)))
        free = (~self._taken).nonzero()[:count, 0]
        for name, place in self._places.items():
            place[free] = values[name].to(place.dtype)
        self._taken[free] = True  # last, so that Ctrl-C leaves none that is half there

    def pop(self, count: int) -> Values:
        """Take up to ``count`` domains from the list."""
        taken = self._taken.nonzero()[:, 0]
        bounds = self._places["bound"][taken]
        chosen = taken[bounds.topk(min(count, len(taken)), largest=self.full).indices]
        values = those(self._places, chosen)
        self._taken[chosen] = False
        return values

    def prune(self, cutoff: float) -> float:
        """Take out the domains whose bound exceeds the cutoff; the least of their bounds, or infinity."""
        done = self._taken & (self._places["bound"] > cutoff)
        self._taken &= ~done
        return float(self._places["bound"][done].min()) if done.any() else math.inf

    def least(self, count: int) -> Tensor:
        """The least bounds of the domains of each origin (count,); infinite where none is open."""
        origin, bounds = (self._places[name][self._taken] for name in ("origin", "bound"))
        return bounds.new_full((count,), math.inf).scatter_reduce(0, origin, bounds, "amin")

    def leave(self, origins: Tensor) -> None:
        """Take out the domains of some origins, which is true of them (count,)."""
        self._taken[self._taken.clone()] = ~origins[self._places["origin"][self._taken]]

    def _grow(self, count: int) -> None:
        self._taken = torch.cat([self._taken, self._taken.new_zeros(count)])
        for name, place in self._places.items():
            self._places[name] = torch.cat([place, place.new_empty(count, *place.shape[1:])])
