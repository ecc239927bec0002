"""Solutions and gradients that stand on their own: the KKT conditions hold in extended precision.

Rows that are thought to be active give, with w the gradient of the loss by z,

    [ Q  G_a' ] [ z   ]   [ -p  ]        [ Q  G_a' ] [ d_z ]     [ w ]
    [ G_a  0  ] [ lam ] = [ h_a ],       [ G_a  0  ] [ d_y ] = - [ 0 ]

(OptNet, equations 6 to 8). Both are solved by LU and refined with residuals in long double. That lam > 0, and G z < h
for the other rows, proves the solution, whoever's guess of the active rows it was.
"""

from __future__ import annotations

import numpy as np
from problems import Case
from rivals import full
from scipy.linalg import lu_factor, lu_solve
from torch import Tensor

import polyopt as po

REFINEMENTS = 5


def exact(case: Case, w: Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The solutions (B, n) and the gradients of the sum of w z by the arguments that are learned."""
    arguments = [getattr(case, name) for name in ("Q", "p", "G", "h")]
    guess = (po.qp.solve(*arguments).lam > 0).numpy()
    found = [_one(*one) for one in zip(*full(case, *arguments), w.numpy(), guess, strict=True)]
    gradients = {name: np.stack([one[1][name]() for one in found]) for name in case.learned}
    if case.V is not None:
        gradients["u0"] = -gradients["p"]
        gradients["V"] = -(case.signs.numpy()[..., None] * gradients["G"]).sum(0)
    return np.stack([one[0] for one in found]).astype(float), gradients


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
    return z, {
        "Q": lambda: (np.outer(dx, x) + np.outer(x, dx)) / 2,
        "p": lambda: dx,
        "G": lambda: np.outer(steps, x) + np.outer(multipliers, dx),
        "h": lambda: -steps,
    }


def _solve(K: np.ndarray, right: np.ndarray) -> np.ndarray:
    factors, exact_K = lu_factor(K), K.astype(np.longdouble)
    x = lu_solve(factors, right).astype(np.longdouble)
    for _ in range(REFINEMENTS):
        x += lu_solve(factors, (right - exact_K @ x).astype(float))
    return x


def errors(case: Case, z: Tensor, gradients: dict[str, Tensor], truth: tuple) -> dict[str, float | None]:
    """The largest violated constraint; the largest errors of z and of any gradient, beside their largest entries.

    ``case`` is the one that the truth is of; only the symmetric part of a gradient by Q has a meaning.
    """
    z, off = z.double().cpu(), {}
    for name, x in gradients.items():
        x = x.double().cpu().numpy()
        off[name] = _relative((x + x.swapaxes(-1, -2)) / 2 if name == "Q" else x, truth[1][name])
    violation = ((case.G @ z[..., None])[..., 0] - case.h).clamp(min=0).max()
    return {
        "violation": float(violation),
        "solution": _relative(z.numpy(), truth[0]),
        "gradient": max(off.values(), default=None),
    }


def _relative(x: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(x - truth).max() / np.abs(truth).max())
