"""A time limit that long steps keep too: every backward pass looks at it."""

from __future__ import annotations

import time

from torch import Tensor

from polyopt.bounds.backward import Backward


class OutOfTime(Exception):
    """The time limit is over."""


class Timed(Backward):
    """A `Backward` that raises OutOfTime instead of a pass once ``deadline`` (of time.perf_counter) is over."""

    deadline = float("inf")

    def check(self) -> None:
        """Raise OutOfTime if it is."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime

    def pull(self, coefficients: dict[str, Tensor], constant: Tensor) -> tuple[Tensor, Tensor]:
        """As `Backward.pull`."""
        self.check()
        return super().pull(coefficients, constant)
