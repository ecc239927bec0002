"""Affine constraints on a network over regions where it is affine, ``f(x) = W h(x) + b`` with hidden features h.

    values    E f(x) = f + S x   or   E f(x) <= f + S x      for all x of region i
    slopes    E J d  = g         or   E J d  <= g            for each direction d, J the Jacobian of f on region i

The region's image in front of the last layer is ``{p + sum_k e_k g_k : p in conv(p_1, ..., p_P), |e| <= 1}``, see
`polyopt.police.hulls`. So the former hold on the whole region if and only if

    E (W p + b) - f = 0  and  E W g_k = 0           or    E (W p + b) - f + sum_k |E W g_k| <= 0

for all its points and generators: finitely many, and linear in [W b]. With S, f becomes f + S x at the point x that p
is the image of, and E W g_k becomes E W g_k - S r for the generator r that g_k is the image of. A direction d has the
image B d, as a generator has, with ``h(x) = B x + c`` on the region, and J d = W B d.

So all constraints together are about *rows*, points (t = 1) and directions (t = 0), which move through each layer as
``x -> slope * (W x + t b)``, with the slopes of their region's linear piece. ``Y = [X t] [W b]'`` are their outputs.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, sections 2.2 and 2.7. Slopes, and regions without a list of vertices,
are not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from polyopt.layers import broadcasts
from polyopt.regions import Region
from polyopt.regions.region import finite

KINDS = ("eq", "le")


@dataclass(frozen=True, eq=False)
class AffineConstraint:
    """``E f(x) = f`` ("eq") or ``E f(x) <= f`` ("le") for all x of a region; with a ``slope`` S, ``f + S x`` for f.

    ``region`` is one of the regions of the model, or its number; E is (k, n_out), or (n_out,) for one row; f is (k,) or
    a number; S is (k, n_in), or (n_in,) for one row. ValueError where they do not fit.

    >>> AffineConstraint(0, [1.0, -1.0], 0.5, kind="le").E  # f_0(x) <= f_1(x) + 1/2 on region 0
    array([[ 1., -1.]])
    """

    region: int | Region
    E: np.ndarray
    f: np.ndarray
    kind: Literal["eq", "le"] = "eq"
    slope: np.ndarray | None = None

    def __post_init__(self):
        E = _rows(type(self).__name__, "E", self.E, "n_out")
        if self.slope is not None:
            slope = _rows(type(self).__name__, "slope", self.slope, "n_in")
            if len(slope) != len(E):
                raise ValueError(
                    f"AffineConstraint: E has {len(E)} rows, but slope {len(slope)}; give one row for each"
                )
            object.__setattr__(self, "slope", slope)
        f = finite("AffineConstraint", "f", np.atleast_1d(np.asarray(self.f, dtype=float)), "(k,)")
        if len(f) not in (1, len(E)):
            raise ValueError(f"AffineConstraint: E has {len(E)} rows, but f has shape {f.shape}; give one number a row")
        _check_kind(self)
        object.__setattr__(self, "E", E)
        object.__setattr__(self, "f", np.broadcast_to(f, len(E)).copy())


@dataclass(frozen=True, eq=False)
class SlopeConstraint:
    """``E J d = g`` ("eq") or ``E J d <= g`` ("le") for each row d of D, J the Jacobian of the network on a region.

    So ``D = I, g = 0`` with "eq" makes E f constant on the region, and ``D = [-e_k], g = 0`` with "le" makes it
    nondecreasing in coordinate k. ``region`` and E are as in `AffineConstraint`; D is (q, n_in), or (n_in,); g is
    (k, q) or broadcasts. ValueError where they do not fit.

    >>> SlopeConstraint(0, [1.0], [0.0, -1.0], 0.0, kind="le").g  # nondecreasing in the second input
    array([[0.]])
    """

    region: int | Region
    E: np.ndarray
    D: np.ndarray
    g: np.ndarray
    kind: Literal["eq", "le"] = "eq"

    def __post_init__(self):
        E = _rows(type(self).__name__, "E", self.E, "n_out")
        D = _rows(type(self).__name__, "D", self.D, "n_in")
        g = np.asarray(self.g, dtype=float)
        if not broadcasts((len(E), len(D)), g):
            raise ValueError(
                f"SlopeConstraint: g has shape {g.shape}, but E has {len(E)} rows and D {len(D)}; give a number, or "
                f"({len(E)}, {len(D)})"
            )
        g = finite("SlopeConstraint", "g", np.broadcast_to(g, (len(E), len(D))), "(k, q)")
        _check_kind(self)
        for name, array in (("E", E), ("D", D), ("g", g)):
            object.__setattr__(self, name, array)


Constraint = AffineConstraint | SlopeConstraint


def _rows(owner: str, name: str, values, columns: str) -> np.ndarray:
    array = finite(owner, name, np.atleast_2d(np.asarray(values, dtype=float)), f"(k, {columns})")
    if not array.size:
        raise ValueError(f"{owner}: {name} has shape {array.shape}; give at least one row")
    return array


def _check_kind(constraint: Constraint) -> None:
    if constraint.kind not in KINDS:
        owner = type(constraint).__name__
        raise ValueError(f"{owner}: kind is {constraint.kind!r}, but must be one of {', '.join(map(repr, KINDS))}")
