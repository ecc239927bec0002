"""How a surrogate was fitted: errors on data it has seen and on data it has not, its size as a MILP, and its proofs.

With errors e_i = f(x_i) - y_i, for each output: RMSE = sqrt(mean e_i^2), the largest |e_i|, and
R^2 = 1 - sum e_i^2 / sum (y_i - mean y)^2, which is not a number where the output is constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from polyopt.bounds.crown import crown
from polyopt.layers import Affine
from polyopt.network import Network
from polyopt.regions import Box
from polyopt.verification.affinity import AffineCertificate
from polyopt.verification.violation import Violation


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors on ``count`` points, in the user's units; one number for each output, (n_out,)."""

    count: int
    rmse: np.ndarray
    largest: np.ndarray
    r2: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, y: np.ndarray) -> Errors:
        """Those of predictions (N, n_out).

        >>> Errors.of(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
        Errors(count=2, rmse=array([0.70710678]), largest=array([1.]), r2=array([-1.]))
        """
        squares, spread = ((predicted - y) ** 2).sum(0), ((y - y.mean(0)) ** 2).sum(0)
        r2 = 1.0 - squares / np.where(np.ptp(y, axis=0) > 0, spread, np.nan)
        return cls(len(y), np.sqrt(squares / len(y)), abs(predicted - y).max(0), r2)


@dataclass(frozen=True, eq=False)
class FitReport:
    """How it went.

    ``training`` and ``held_out`` are the errors (None where nothing was held out). Of ``units`` ReLUs, ``unstable``
    change their piece on the box of the data by CROWN's bounds: that many binaries a `BigM` block has there. ``zeros``
    is the share of weights that are 0. ``stopped`` is "epochs", "time limit", "interrupted" or, where constraints were
    met before, "tolerance". ``certificates`` and ``violations`` prove, for the network in the user's units, that it is
    affine on each region, and by how much each constraint is violated there at most. ``refit(X, y, weight)`` fits the
    surrogate anew, see `polyopt.fit_surrogate`.
    """

    training: Errors
    held_out: Errors | None
    units: int
    unstable: int
    zeros: float
    seconds: float
    stopped: str
    certificates: tuple[AffineCertificate, ...] = ()
    violations: tuple[Violation, ...] = ()
    refit: Callable | None = field(default=None, repr=False)

    def __str__(self) -> str:
        lines = []
        for what, errors in (("training", self.training), ("held out", self.held_out)):
            if errors is not None:
                rmse, largest, r2 = (
                    np.array2string(part, precision=4) for part in (errors.rmse, errors.largest, errors.r2)
                )
                lines.append(f"{what}, {errors.count} points: RMSE {rmse}, largest error {largest}, R^2 {r2}")
        lines.append(
            f"{self.unstable} of {self.units} units unstable on the box of the data, {self.zeros:.0%} of the weights 0"
        )
        if self.certificates:
            margin = min(float(certificate.margin or 0.0) for certificate in self.certificates)
            lines.append(f"proven affine on {len(self.certificates)} regions, margin {margin:.3g}")
        for k, found in enumerate(self.violations):
            lines.append(f"constraint {k}: {found.status}, violated by at most {found.bound:.3g}")
        return "\n".join([*lines, f"stopped by {self.stopped} after {self.seconds:.1f} s"])


def size(net: Network, box: Box) -> tuple[int, int, float]:
    """The number of ReLUs, how many are unstable on the box, and the share of zero weights.

    >>> from polyopt.activations import ReLU
    >>> net = Network.sequential([Affine([[1.0], [0.0]], [0.0, 1.0]), ReLU(), Affine([[1.0, 1.0]], [0.0])], (1,))
    >>> size(net, Box([-1.0], [1.0]))
    (2, 1, 0.25)
    """
    pre = crown(net, box).pre
    weights = np.concatenate([layer.weight.ravel() for layer in net.layers if isinstance(layer, Affine)])
    unstable = sum(int(((bounds.lower < 0) & (bounds.upper > 0)).sum()) for bounds in pre)
    return sum(node.size for node in net.activations), unstable, float((weights == 0).mean())
