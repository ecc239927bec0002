"""Two plants, the model predictive controllers that are to be imitated, and the networks that imitate them.

A plant is ``x+ = A x + B u`` with ``|u| <= u_max``. Its MPC applies the first input of the least

    sum_{k<N} (x_k'Q x_k + R u_k^2) + x_N'P x_N,      x_0 = x,  x_{k+1} = A x_k + B u_k,  |u_k| <= u_max,

a QP in u_0 ... u_{N-1} whose cost ``1/2 u'H u + x'F'u`` has the state in its linear term alone; P solves the Riccati
equation, so that near 0 the MPC is the LQR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import solve_discrete_are
from scipy.signal import cont2discrete
from torch import nn

import polyopt as po
from polyopt.activations import ReLU
from polyopt.layers import Affine
from polyopt.training import fit

HORIZON = 10


@dataclass(frozen=True, eq=False)
class Plant:
    """``x+ = A x + B u``, the costs Q (diagonal) and R, the states' names, start ``start`` and what is safe."""

    name: str
    A: np.ndarray
    B: np.ndarray
    u_max: float
    Q: np.ndarray
    R: float
    states: tuple[str, ...]
    start: po.Box  # the states from which the controller is switched on
    safe: po.Box
    working: po.Box  # where the imitation is learnt

    @property
    def riccati(self) -> np.ndarray:
        """P (n, n): ``x'P x`` is the LQR's cost from x."""
        return solve_discrete_are(self.A, self.B, np.diag(self.Q), [[self.R]])

    @property
    def gain(self) -> np.ndarray:
        """K (1, n) of the LQR, ``u = -K x``."""
        P = self.riccati
        return np.linalg.solve(self.B.T @ P @ self.B + self.R, self.B.T @ P @ self.A)


def double_integrator() -> Plant:
    """Position and speed of a unit mass, pushed for one second at a time; start and limits as in Hu et al. 2020."""
    A, B = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.5], [1.0]])
    start, safe = po.Box([0.0, -1.0], [4.5, 1.0]), po.Box([-2.0, -2.5], [6.0, 1.5])
    working = po.Box([-6.0, -3.0], [6.0, 3.0])
    return Plant("double integrator", A, B, 1.0, np.ones(2), 1.0, ("position", "speed"), start, safe, working)


def cart_pole() -> Plant:
    """A pole upright on a cart, linearised: cart 1 kg, pole 0.1 kg and 1 m long, the force held for 0.1 s.

    With the pole's angle t and the cart's position p: ``(M + m) p'' + m l t'' = u`` and ``p'' + l t'' = g t``.
    """
    M, m, length, g = 1.0, 0.1, 0.5, 9.81
    continuous = np.zeros((4, 4))
    continuous[0, 1] = continuous[2, 3] = 1.0
    continuous[1, 2], continuous[3, 2] = -m * g / M, (M + m) * g / (M * length)
    force = np.array([[0.0], [1.0 / M], [0.0], [-1.0 / (M * length)]])
    A, B, *_ = cont2discrete((continuous, force, np.eye(4), np.zeros((4, 1))), 0.1)
    start = po.Box([0.2, -0.1, -0.03, -0.1], [0.4, 0.1, 0.03, 0.1])
    safe = po.Box([-1.0, -2.0, -0.2, -1.5], [1.0, 2.0, 0.2, 1.5])
    working = po.Box([-1.0, -1.2, -0.25, -1.0], [1.0, 1.2, 0.25, 1.0])
    states = ("position", "speed", "angle", "turning")
    return Plant("cart-pole", A, B, 3.0, np.array([10.0, 1.0, 10.0, 1.0]), 0.1, states, start, safe, working)


def mpc(plant: Plant, x: np.ndarray) -> np.ndarray:
    """The MPC's inputs (batch,) at states (batch, n), by one batched call of `polyopt.qp.solve`."""
    n, N = len(plant.A), HORIZON
    powers = [np.linalg.matrix_power(plant.A, k) for k in range(N + 1)]
    free = np.vstack(powers[1:])  # of x_1 ... x_N on x
    forced = np.zeros((N * n, N))
    for k in range(N):
        for j in range(k + 1):
            forced[k * n : (k + 1) * n, [j]] = powers[k - j] @ plant.B
    weight = np.kron(np.eye(N), np.diag(plant.Q))
    weight[-n:, -n:] = plant.riccati
    H, F = forced.T @ weight @ forced + plant.R * np.eye(N), forced.T @ weight @ free
    G, h = np.vstack([np.eye(N), -np.eye(N)]), np.full(2 * N, plant.u_max)
    found = po.qp.solve(*map(torch.from_numpy, (H, x @ F.T, G, h)))
    if set(found.names) != {"optimal"}:
        raise RuntimeError(f"{plant.name}: the MPC's QPs are {set(found.names)}")
    return found.z[:, 0].numpy()


def controller(plant: Plant, width: int, points: int, epochs: int) -> po.Network:
    """Two hidden layers that imitate the MPC at random states, then the limits of the input as two more ReLU units.

    ``clip(v, -m, m) = -m + relu(v + m) - relu(v - m)`` with the output v of the trained module, whose states are scaled
    by the working box: that too is folded into the first layer.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    n, radius, limit = len(plant.A), plant.working.upper, plant.u_max
    x = plant.working.sample(points, rng) * rng.uniform(0.02, 1.0, (points, 1))  # more of them near the target
    u = mpc(plant, x)[:, None] / limit
    hidden = [nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    module = nn.Sequential(*hidden, nn.Linear(width, 1), nn.Hardtanh()).double()
    schedules = []

    def optimizer(parameters, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        schedules.append(torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs))
        return adam

    settings = {"epochs": epochs, "batch_size": 128, "lr": 3e-3, "device": "cpu", "optimizer": optimizer}
    fit(module, x / radius, u, nn.functional.mse_loss, callback=lambda *_: schedules[0].step(), **settings)
    first, _, second, _, last, _ = po.from_torch(module.eval(), input_shape=(n,)).layers
    both, ends = np.vstack([last.weight] * 2) * limit, np.array([limit, -limit])
    saturated = [Affine(both, last.bias * limit + ends), ReLU(), Affine([[1.0, -1.0]], [-limit])]
    scaled = Affine(first.weight / radius, first.bias)
    return po.Network.sequential([scaled, ReLU(), second, ReLU(), *saturated], (n,))
