"""The market: a known law of demand, data generated from it, and the network that learns it.

A region has n products on the shelf. Each of its ``size`` thousand customers a week buys the product of greatest
utility, a competitor's, or nothing, which gives the multinomial logit law

    d_k = size exp(u_k) / (1 + exp(u_c) + sum_j exp(u_j)),    u_k = a_k + b_k peak + c_k income - s_k price_k,

where u_c = 2.2 + 0.5 peak - 1.8 competitor is the utility of the competitor's product at its own price. Products
compete: each demand depends on all prices. ``peak`` is 1 in the peak season, ``income`` the region's above or below
the average.

The network sees prices and features of past weeks, and the demands of these weeks with noise; it does not know the law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import polyopt as po

FEATURES = ("competitor", "income", "peak", "size")
LOWEST = np.array([0.8, -0.5, 0.0, 20.0])  # of the features; the competitor's price in dollars, the size in thousands
HIGHEST = np.array([2.2, 0.5, 1.0, 80.0])
NOISE = 0.05  # standard deviation of the logarithm of a demand
WEEKS, EPOCHS = 3000, 150
STABILITY = 1e-3  # see `polyopt.fit_surrogate`


@dataclass(frozen=True, eq=False)
class Law:
    """The true demand for n products, the later the finer and dearer; all arrays (n,), prices in dollars."""

    appeal: np.ndarray
    peak: np.ndarray
    income: np.ndarray
    slope: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def of(cls, products: int) -> Law:
        """Evenly spread products."""
        grade = np.linspace(0.0, 1.0, products)
        tastes = (2.0 + 1.2 * grade, 0.9 - 0.5 * grade, -0.6 + 2.0 * grade, 2.2 - 0.8 * grade)
        return cls(*tastes, lowest=0.6 + 0.6 * grade, highest=1.8 + 1.2 * grade)

    @property
    def products(self) -> int:
        """How many there are."""
        return len(self.appeal)

    def __call__(self, prices: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Thousands of units a week (N, n), at prices (N, n) and features (N, 4)."""
        competitor, income, peak, size = features.T[..., None]
        weight = np.exp(self.appeal + self.peak * peak + self.income * income - self.slope * prices)
        return size * weight / (1.0 + np.exp(2.2 + 0.5 * peak - 1.8 * competitor) + weight.sum(1, keepdims=True))

    def weeks(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (count, n + 4), prices before features, and demands (count, n) of past weeks."""
        prices = rng.uniform(self.lowest, self.highest, (count, self.products))
        features = rng.uniform(LOWEST, HIGHEST, (count, len(FEATURES)))
        features[:, FEATURES.index("peak")] = rng.integers(2, size=count)
        demands = self(prices, features) * np.exp(NOISE * rng.standard_normal(prices.shape))
        return np.hstack([prices, features]), demands


def learn(law: Law, hidden: tuple[int, ...], seed: int) -> po.Surrogate:
    """A ReLU network from prices and features to demands, in dollars and thousands of units, from generated weeks."""
    inputs, demands = law.weeks(WEEKS, np.random.default_rng(seed))
    settings = {"epochs": EPOCHS, "batch_size": 200, "stability": STABILITY, "seed": seed}
    return po.fit_surrogate(inputs, demands, hidden, device="cpu", progress=False, **settings)
