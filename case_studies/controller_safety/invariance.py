"""Polytopes that the closed loop never leaves: ``x in X  ->  f(x) in X``, proven by `polyopt.verify` and by MILP.

Candidates come from the LQR, which the controller resembles near the target. With its closed loop ``A_K = A - B K`` and
a rate c between the spectral radius of A_K and 1, the polytope

    X = {x : |K A_K^i x| <= c^i u_max  and  A_K^i x in c^i S  for all i >= 0}       (S: the safe box around the target)

is mapped into c X by A_K: after finitely many i further rows are redundant. So X shrunk by a factor s, too, leaves room
of ``(1 - c) s`` for the network's error. Whether the loop with the network maps s X into s X is a question about one
network with the input region s X: it does not, if some facet a'x <= b of s X has an x in s X with a'f(x) >= b.

Sources: Gilbert and Tan, "Linear systems with state and control constraints: the theory and application of maximal
output admissible sets", IEEE Transactions on Automatic Control 1991; Blanchini, "Set invariance in control", 1999.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from common.rivals import Polyopt
from loop import Loop
from reach import Reached, support

import polyopt as po

TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Trial:
    """Whether the loop keeps to ``region``, which is ``scale`` times the candidate: a verdict, and a MILP per facet.

    ``reached`` holds ``max a'f(x)`` over the region for each facet a'x <= b; None where the verdict has a witness.
    """

    scale: float
    region: po.HPolytope
    verdict: po.Verdict
    reached: Reached | None

    @property
    def worst(self) -> float | None:
        """The largest ``max a'f(x) / b``, as HiGHS bounds it: below 1 the region is invariant."""
        return None if self.reached is None else float((self.reached.bounds / self.region.b).max())

    @property
    def proven(self) -> str:
        """By what: "verify", whose bounds are rounded outwards, or "MILP", which holds up to HiGHS's tolerances."""
        if self.verdict.status == "verified":
            return "verify"
        return "MILP" if self.worst is not None and self.worst < 1.0 - 1e-5 else ""


def candidate(loop: Loop) -> po.HPolytope:
    """X, as rows ``a'x <= 1``, each of which some point of X attains."""
    plant = loop.plant
    A_K = plant.A - plant.B @ plant.gain
    rate = 0.5 + 0.5 * abs(np.linalg.eigvals(A_K)).max()
    radius = np.minimum(plant.safe.upper, -plant.safe.lower)
    rows = np.vstack([plant.gain / plant.u_max, np.diag(1.0 / radius)])
    newest = rows = np.vstack([rows, -rows])
    while len(newest):
        newest = newest @ A_K / rate
        newest = newest[_unit(rows).support(newest) > 1.0 + TOLERANCE]
        rows = np.vstack([rows, newest])
    k = 0
    while k < len(rows):  # drop what the others imply
        others = np.delete(rows, k, axis=0)
        k, rows = (k, others) if _unit(others).support(rows[[k]])[0] <= 1.0 + TOLERANCE else (k + 1, rows)
    return _unit(rows)


def trial(loop: Loop, region: po.HPolytope, scale: float, limit: float) -> Trial:
    """Whether ``scale`` times the region is mapped into itself."""
    scaled = po.HPolytope(region.A, scale * region.b)
    leaving = [po.HPolytope([-row], [-edge]) for row, edge in zip(scaled.A, scaled.b, strict=True)]
    verdict = po.verify(loop.unrolled(1), po.Property(scaled, leaving), time_limit=limit)
    if verdict.status == "falsified":
        return Trial(scale, scaled, verdict, None)
    paths = loop.simulate(scaled.sample(2000, np.random.default_rng(0)), 1)
    reached = support(loop, 1, [scaled], scaled.A, Polyopt(tighten="lp"), limit, paths)
    return Trial(scale, scaled, verdict, reached)


def _unit(rows: np.ndarray) -> po.HPolytope:
    return po.HPolytope(rows, np.ones(len(rows)))
