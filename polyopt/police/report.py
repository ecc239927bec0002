"""What `polyopt.police.enforce` has done: costs, signs, where pairs were separated, affine maps and their proofs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from polyopt.police.pairs import Pair
from polyopt.verification.affinity import AffineCertificate
from polyopt.verification.violation import Violation


class EnforcementError(ValueError):
    """Nothing was changed: ``layer`` is the name of the layer where it failed, or None; ``pairs`` are to blame."""

    def __init__(self, message: str, layer: str | None = None, pairs: tuple[Pair, ...] = ()):
        super().__init__(message)
        self.layer, self.pairs = layer, pairs


@dataclass(frozen=True, eq=False)
class LayerReport:
    """One layer: as in `polyopt.police.solve_layer.LayerSolution`, without the weights.

    ``separated`` are all pairs that differ in the sign of a unit, whether they had to or not.
    """

    name: str
    status: str
    cost: float
    bound: float
    signs: Tensor  # (N, units)
    separated: tuple[Pair, ...]
    flips: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Report:
    """All layers. ``bound`` is the sum of their bounds: each is the least cost of a layer behind those before it.

    On region i the network is ``slope[i] x + offset[i]``, and ``difference[i, j]`` is the largest coefficient in which
    two of these maps differ. ``separated`` names the layers that separate each pair. ``certificates`` are those of
    `polyopt.affine_on`, one for each region, and ``violations`` those of `polyopt.verification.violation`, one for each
    constraint of an `MPOLICE` model.
    """

    cost: float
    bound: float
    seconds: float
    signs: list[Tensor]
    layers: list[LayerReport]
    separated: dict[Pair, tuple[str, ...]]
    slope: Tensor  # (N, n_out, n_in)
    offset: Tensor  # (N, n_out)
    difference: Tensor  # (N, N)
    certificates: list[AffineCertificate]
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{layer.name}: {layer.status}, cost {layer.cost:.6g} (bound {layer.bound:.6g}), {len(layer.separated)} "
            f"pairs separated, {1000 * layer.seconds:.1f} ms"
            for layer in self.layers
        ]
        margin = min(float(c.margin) for c in self.certificates)
        proof = f"{len(self.certificates)} regions proven to lie in a linear region each, margin {margin:.3g}"
        kept = [
            f"constraint {k}: {found.status}, violated by at least {found.value:.3g} and at most {found.bound:.3g}"
            + (f" (by MILP {found.milp_bound:.3g})" if math.isfinite(found.milp_bound) else "")
            for k, found in enumerate(self.violations)
        ]
        return "\n".join([*lines, proof, *kept])
