"""What is known before the prices of a week are decided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from market import FEATURES, HIGHEST, LOWEST, Law

import polyopt as po

WASTE = 0.1  # dollars a unit
STEP = 0.1  # dollars
SLACK = 1e-9  # dollars; prices are multiples of ten cents up to rounding


@dataclass(frozen=True, eq=False)
class Week:
    """Features (R, 4), prices (R, n, L), transport (R,), shelf (R,) and harvest (n,)."""

    features: np.ndarray
    prices: np.ndarray
    transport: np.ndarray  # dollars a unit
    shelf: np.ndarray  # thousands of units
    harvest: np.ndarray

    @classmethod
    def of(cls, law: Law, regions: int, levels: int, seed: int) -> Week:
        """A random week of the peak season: prices may move up and down from where they are, in steps of 10 cents.

        Where some region's lists have no prices that keep the ladder, present prices are drawn again.
        """
        rng = np.random.default_rng([seed, regions])
        features = rng.uniform(LOWEST, HIGHEST, (regions, len(FEATURES)))
        features[:, FEATURES.index("peak")] = 1.0
        possible = False
        while not possible:
            now = rng.uniform(law.lowest + 0.3, law.highest - 0.3, (regions, law.products)).round(1)
            prices = (now[:, :, None] + 0.1 * (np.arange(levels) - levels // 2)).round(2)
            lower, upper = on_ladder(prices.min(2), prices.max(2))
            possible = (lower <= upper).all()
        size = features[:, FEATURES.index("size")]
        harvest = rng.uniform(0.15, 0.25, law.products) * size.sum()
        return cls(features, prices, rng.uniform(0.1, 0.5, regions), rng.uniform(0.5, 0.8, regions) * size, harvest)

    @property
    def size(self) -> tuple[int, int, int]:
        """Regions, products and prices on a list."""
        return self.prices.shape

    def most(self, r: int, k: int) -> float:
        """How many thousand units of a product a region can sell."""
        return float(min(self.shelf[r], self.harvest[k]))

    def inputs(self, r: int, lower: np.ndarray, upper: np.ndarray) -> po.Box:
        """A batch of boxes of the network's inputs, from ends (V, n) of the prices in one region."""
        features = np.tile(self.features[r], (len(lower), 1))
        return po.Box(np.hstack([lower, features]), np.hstack([upper, features]))


def on_ladder(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends (V, n) of ranges of prices, moved as far as ``price_{k+1} >= price_k + STEP`` allows.

    A lower end that passes its upper end says that no prices keep the ladder.
    """
    rungs = STEP * np.arange(lower.shape[1])
    lowest = np.maximum.accumulate(lower - rungs, axis=1) + rungs
    highest = np.minimum.accumulate((upper - rungs)[:, ::-1], axis=1)[:, ::-1] + rungs
    return np.maximum(lower, lowest - SLACK), np.minimum(upper, highest + SLACK)
