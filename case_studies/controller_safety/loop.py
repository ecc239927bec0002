"""A plant and its controller as one closed loop: a step, k steps in a row as one network, simulations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from plants import Plant

import polyopt as po
from polyopt.layers import Add, Affine


@dataclass(frozen=True, eq=False)
class Loop:
    """``x+ = f(x) = A x + B net(x)`` from states of ``plant.start`` on."""

    plant: Plant
    net: po.Network

    @property
    def size(self) -> int:
        return len(self.plant.A)

    def step(self, x: np.ndarray) -> np.ndarray:
        """The next states of states (batch, n)."""
        return x @ self.plant.A.T + self.net(x) @ self.plant.B.T

    def simulate(self, x: np.ndarray, steps: int) -> np.ndarray:
        """Trajectories (steps + 1, batch, n) from states (batch, n)."""
        path = [x]
        for _ in range(steps):
            path.append(self.step(path[-1]))
        return np.array(path)

    def unrolled(self, steps: int) -> po.Network:
        """The network ``x -> f(f(... f(x)))``: copies of the controller, and the plant as affine layers around them."""
        layers, state = [], "input"
        for k in range(steps):
            before = state
            for node in self.net.nodes:
                inputs = [state if name == "input" else f"{name}.{k}" for name in node.inputs]
                layers.append((f"{node.name}.{k}", node.layer, inputs))
            drift, pushed, after = f"drift.{k}", f"pushed.{k}", f"state.{k}"
            layers.append((drift, Affine(self.plant.A, None), [before]))
            layers.append((pushed, Affine(self.plant.B, None), [f"{self.net.nodes[-1].name}.{k}"]))
            layers.append((after, Add(), [drift, pushed]))
            state = after
        return po.Network(layers, (self.size,))
