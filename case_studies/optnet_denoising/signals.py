"""Piecewise constant signals under Gaussian noise, drawn as the paper's published code draws them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PIECES, HEIGHTS, NOISE = (1, 10), (10, 100), 10.0  # the upper ends are not reached


class Signals(NamedTuple):
    """Signals (count, length) with noise, and what they are without."""

    noisy: np.ndarray
    clean: np.ndarray

    def some(self, first: int, end: int) -> Signals:
        return Signals(self.noisy[first:end], self.clean[first:end])

    def mirrored(self) -> Signals:
        """Four times as many: also backwards, also upside down, and both; the heights 10 to 99 become 99 to 10."""
        kinds = [np.concatenate([y, y[:, ::-1]]) for y in self]
        return Signals(*(np.concatenate([y, sum(HEIGHTS) - 1 - y]) for y in kinds))


def signals(count: int, length: int, seed: int) -> Signals:
    """Each signal has 1 to 9 pieces of any lengths with whole heights from 10 to 99, and noise of deviation 10.

    >>> drawn = signals(2, 8, seed=0)
    >>> drawn.clean
    array([[31., 31., 46., 97., 80., 98., 98., 98.],
           [39., 39., 39., 39., 39., 39., 39., 39.]])
    """
    rng, clean, noisy = np.random.RandomState(seed), [], []  # its stream of numbers is that of the published data
    for _ in range(count):
        pieces = min(rng.randint(*PIECES), length - 1)
        jumps = sorted(rng.choice(length - 2, pieces - 1, replace=False) + 1)
        heights = rng.randint(*HEIGHTS, pieces)
        clean.append(np.repeat(heights, np.diff([0, *jumps, length])).astype(float))
        noisy.append(clean[-1] + rng.normal(0.0, NOISE, length))
    return Signals(np.array(noisy), np.array(clean))
