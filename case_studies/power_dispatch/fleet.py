"""Five thermal units: what they truly burn and emit, and a network for each that knows a law by heart.

A unit with capacity P (MW) runs at a share s of it, in air of T degrees. For each MW of capacity it burns fuel (GJ/h)
and emits NOx (kg/h); in its normal band, s from 0.50 to 0.85, both are affine, as its maker warrants:

    fuel = 0.9 + e s + 0.004 (T - 15),        NOx = 0.02 + 0.25 s - 0.001 (T - 15)

with e the unit's incremental heat rate in GJ/MWh. Outside they are not: below, the burner leaves its premixed mode,
which costs fuel and multiplies NOx; above, valve points and a hotter flame cost both. In two gaps between the bands the
shaft vibrates: the unit runs in one of three bands, or is off. All numbers are made up, and of a plausible size.

The networks are trained by `polyopt.fit_surrogate` on noisy measurements all over the range. By mPOLICE
each band lies in one linear piece, in the normal band the law above holds exactly, and at the peak fuel rises at least
as fast as there. All of this is proven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import polyopt as po
from polyopt.police import AffineConstraint, SlopeConstraint

BANDS = {"low": (0.30, 0.40), "normal": (0.50, 0.85), "peak": (0.93, 1.00)}
COLD, HOT = -5.0, 35.0  # degrees
REGIONS = [po.Box([low, COLD], [high, HOT]) for low, high in BANDS.values()]
IDLE = BANDS["normal"][0]  # where the network of a unit that is off is asked
NOISE = 0.005  # standard deviation, relative to the value at full load


@dataclass(frozen=True)
class Unit:
    """``bus``, ``capacity`` in MW, ``rate`` e in GJ/MWh, ``price`` of fuel in $/GJ, ``start`` in $."""

    bus: int
    capacity: float
    rate: float
    price: float
    start: float

    def law(self) -> tuple[np.ndarray, np.ndarray]:
        """A (2, 2) and c (2,): in the normal band (fuel, NOx) = ``A (s, T) + c`` for each MW of capacity."""
        slope = np.array([[self.rate, 0.004], [0.25, -0.001]])
        return slope, np.array([0.9, 0.02]) - 15.0 * slope[:, 1]

    def by_law(self, x: np.ndarray) -> np.ndarray:
        """What the law says, (N, 2), at shares and temperatures (N, 2)."""
        slope, offset = self.law()
        return x @ slope.T + offset

    def truth(self, x: np.ndarray) -> np.ndarray:
        """Fuel and NOx (N, 2) for each MW of capacity, at shares and temperatures (N, 2)."""
        below, above = np.maximum(0.5 - x[:, 0], 0.0), np.maximum(x[:, 0] - 0.85, 0.0)
        ripple = np.abs(np.sin(3.0 * np.pi * above / 0.15))
        fuel = 8.0 * below**1.5 + 2.0 * above + 0.08 * ripple
        nox = 3.0 * below + 0.8 * above
        return self.by_law(x) + np.column_stack([fuel, nox])

    def measured(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (count, 2) all over the range, gaps included, and noisy outputs (count, 2)."""
        low, high = [BANDS["low"][0], COLD], [1.0, HOT]
        x = rng.uniform(low, high, (count, 2))
        x[:2] = low, high  # the domain is that of the data
        scale = self.truth(np.array([[1.0, 15.0]]))
        return x, self.truth(x) + NOISE * scale * rng.standard_normal((count, 2))

    def learn(self, hidden: Sequence[int], count: int, epochs: int, seed: int) -> po.Surrogate:
        """The unit's network, with proofs in its report."""
        slope, offset = self.law()
        constraints = [
            AffineConstraint(1, np.eye(2), offset, slope=slope),
            SlopeConstraint(2, E=[-1.0, 0.0], D=[1.0, 0.0], g=-self.rate, kind="le"),  # d fuel / d s >= rate
        ]
        x, y = self.measured(count, np.random.default_rng(seed))
        settings = {"hidden": hidden, "epochs": epochs, "seed": seed, "device": "cpu", "progress": False}
        return po.fit_surrogate(x, y, mpolice=REGIONS, constraints=constraints, **settings)


FLEET = [
    Unit(bus=1, capacity=332.4, rate=8.0, price=2.5, start=3000.0),
    Unit(bus=2, capacity=140.0, rate=8.2, price=2.7, start=900.0),
    Unit(bus=3, capacity=100.0, rate=8.6, price=4.6, start=400.0),
    Unit(bus=6, capacity=100.0, rate=8.8, price=4.4, start=400.0),
    Unit(bus=8, capacity=100.0, rate=9.0, price=4.2, start=400.0),
]
