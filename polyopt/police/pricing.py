"""What `polyopt.police.covering` asks about the costs of sign vectors, and never about how they are kept.

A column is a sign vector s for a unit n, at the cost c[n, s] of its projection. At prices pi_ij >= 0 for pairs of
regions on different sides, and with a_n = 1 where the unit may separate pairs, else 0, it is worth

    c[n, s] - a_n paid(s),     paid(s) = sum over pairs of pi_ij [s_i != s_j] = (sum P - s'P s) / 4                 (1)

with the symmetric P that holds pi. `polyopt.police.signs` keeps a table of all columns, `polyopt.police.tree` grows
the few that matter by branch and bound.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from polyopt.police.pairs import Pair


class OutOfTime(Exception):
    """The deadline has passed; what was computed so far stands."""


@dataclass(frozen=True)
class Clock:
    """A deadline, as a time of `time.perf_counter`."""

    deadline: float = math.inf

    def check(self) -> None:
        """OutOfTime if it has passed."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.perf_counter()


@dataclass(frozen=True, eq=False)
class Prices:
    """P (N, N) and ``able`` (units,), 1 or 0; ``free`` where columns cost nothing, if only they have a solution."""

    P: Tensor
    able: Tensor
    free: bool = False

    def paid(self, signs: Tensor) -> Tensor:
        """What sign vectors (S, N) earn, (S,).

        >>> P = torch.tensor([[0.0, 3.0], [3.0, 0.0]])
        >>> Prices(P, torch.ones(1)).paid(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor([0., 3.])
        """
        return (self.P.sum() - ((signs @ self.P) * signs).sum(1)) / 4


def no_prices(count: int, able: Tensor) -> Prices:
    """Pairs of ``count`` regions earn nothing."""
    return Prices(able.new_zeros(count, count), able)


@dataclass(frozen=True, eq=False)
class Columns:
    """Any number k of columns, with exact costs."""

    unit: Tensor  # (k,)
    signs: Tensor  # (k, N)
    cost: Tensor  # (k,)

    def __len__(self) -> int:
        return len(self.unit)

    def __getitem__(self, which: Tensor) -> Columns:
        return Columns(self.unit[which], self.signs[which], self.cost[which])

    def __add__(self, other: Columns) -> Columns:
        parts = zip((self.unit, self.signs, self.cost), (other.unit, other.signs, other.cost), strict=True)
        return Columns(*(torch.cat(both) for both in parts))


class Pricing(Protocol):
    """All costs; each method but the last may raise OutOfTime. ``unresolved`` counts columns spoilt by rounding,
    ``size`` is the largest squared length of a unit: about what it costs to make another one of it.
    """

    unresolved: int
    size: float

    def cheapest(self) -> Columns:
        """A column of least cost for each unit, in their order."""

    def inseparable(self, pairs: list[Pair]) -> tuple[Pair, ...]:
        """The pairs that no column with a solution has on different sides."""

    def improving(self, prices: Prices, limit: Tensor) -> Columns:
        """Some columns worth less than ``limit`` (units,) to their units; none only if there is none."""

    def below(self, prices: Prices, limit: Tensor) -> Columns:
        """All columns worth at most ``limit`` (units,), which may be infinite."""

    def least(self, prices: Prices) -> Tensor:
        """Lower bounds for what the units' columns are worth, (units,); exact after ``improving`` found none."""

    def points(self, signs: Tensor) -> Tensor:
        """The units (units, n + 1) projected for one column each, (units, N)."""
