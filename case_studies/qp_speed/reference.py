"""Solutions and gradients that stand on their own: the KKT conditions hold in extended precision.

Rows that are thought to be active give, with w the gradient of the loss by z,

    [ Q  G_a' ] [ z   ]   [ -p  ]        [ Q  G_a' ] [ d_z ]     [ w ]
    [ G_a  0  ] [ lam ] = [ h_a ],       [ G_a  0  ] [ d_y ] = - [ 0 ]

(OptNet, equations 6 to 8). Both are solved by LU and refined with residuals in long double. That lam > 0, and G z < h
for the other rows, proves the solution, whoever's guess of the active rows it was.

A contender's z is judged by the KKT conditions too, with these multipliers for all, since not everyone returns theirs:
the largest violation of

    Q z + p + G'lam = 0,   G z <= h,   lam_i (h - G z)_i = 0        (lam >= 0 holds)

each beside the largest terms that it adds up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from problems import Case
from rivals import full
from scipy.linalg import lu_factor, lu_solve
from torch import Tensor

import polyopt as po

REFINEMENTS = 5


class Truth(NamedTuple):
    """Solutions, multipliers, and the gradients of the sum of w z by the arguments that are learned."""

    z: np.ndarray  # (B, n)
    lam: np.ndarray  # (B, m)
    gradients: dict[str, np.ndarray]


def exact(case: Case, w: Tensor) -> Truth:
    """What is true of the problems of a case, for w (B, n)."""
    arguments = [getattr(case, name) for name in ("Q", "p", "G", "h")]
    guess = (po.qp.solve(*arguments).lam > 0).numpy()
    found = [_one(*one) for one in zip(*full(case, *arguments), w.numpy(), guess, strict=True)]
    z, lam = (np.stack([one[k] for one in found]) for k in (0, 1))
    gradients = {name: np.stack([makers[name]() for _, _, makers in found]) for name in case.learned}
    if case.V is not None:
        gradients["u0"] = -gradients["p"]
        gradients["V"] = -(case.signs.numpy()[..., None] * gradients["G"]).sum(0)
    return Truth(z.astype(float), lam, gradients)


def _one(Q, p, G, h, w, active):
    n = len(p)
    rows = G[active]
    K = np.block([[Q, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
    z, lam = np.split(_solve(K, np.concatenate([-p, h[active]])), [n])
    if (lam <= 0).any() or (G[~active] @ z >= h[~active]).any():
        raise ValueError(f"the guess of {active.sum()} active rows is wrong: lam >= {lam.min()}")
    dz, dy = np.split(_solve(K, np.concatenate([-w, np.zeros(len(rows))])), [n])
    multipliers, steps = np.zeros((2, len(G)))
    multipliers[active], steps[active] = lam, dy
    x, dx = z.astype(float), dz.astype(float)
    return (
        z,
        multipliers,
        {
            "Q": lambda: (np.outer(dx, x) + np.outer(x, dx)) / 2,
            "p": lambda: dx,
            "G": lambda: np.outer(steps, x) + np.outer(multipliers, dx),
            "h": lambda: -steps,
        },
    )


def _solve(K: np.ndarray, right: np.ndarray) -> np.ndarray:
    factors, exact_K = lu_factor(K), K.astype(np.longdouble)
    x = lu_solve(factors, right).astype(np.longdouble)
    for _ in range(REFINEMENTS):
        x += lu_solve(factors, (right - exact_K @ x).astype(float))
    return x


def errors(case: Case, z: Tensor, gradients: dict[str, Tensor], truth: Truth) -> dict[str, float | None]:
    """The KKT residual, the largest violated constraint, and the largest errors of z and of any gradient.

    The last two are beside the largest entries. ``case`` is the one that the truth is of; only the symmetric part of a
    gradient by Q has a meaning.
    """
    z, off = z.double().cpu(), {}
    for name, x in gradients.items():
        x = x.double().cpu().numpy()
        off[name] = _relative((x + x.swapaxes(-1, -2)) / 2 if name == "Q" else x, truth.gradients[name])
    violation = ((case.G @ z[..., None])[..., 0] - case.h).clamp(min=0).max()
    return {
        "residual": residual(*full(case, case.Q, case.p, case.G, case.h), z.numpy(), truth.lam),
        "violation": float(violation),
        "solution": _relative(z.numpy(), truth.z),
        "gradient": max(off.values(), default=None),
    }


def residual(Q, p, G, h, z, lam) -> float:
    """The largest violation of a KKT condition in a batch, relative to its terms; all arrays (B, ...)."""
    (Qz, Gz), pull = ((M @ z[..., None])[..., 0] for M in (Q, G)), (lam[:, None] @ G)[:, 0]
    unit = _largest(h) + _largest(Gz)
    return max(
        (_largest(Qz + p + pull) / (_largest(Qz) + _largest(p) + _largest(pull))).max(),
        (_largest((Gz - h).clip(min=0)) / unit).max(),
        (_largest(lam * (h - Gz)) / np.where(lam.any(1), _largest(lam), 1.0) / unit).max(),
    )


def _largest(x: np.ndarray) -> np.ndarray:
    return np.abs(x).max(1)


def _relative(x: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(x - truth).max() / np.abs(truth).max())
