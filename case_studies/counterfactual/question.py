"""The nearest input that flips a decision, as a mixed-integer linear program around the network.

For a patient x whom the classifier f calls benign, the nearest one whom it calls malignant by a margin:

    min  sum_i w_i |x'_i - x_i|  +  sum_b c_b z_b      subject to   f(x', z) >= margin,

    l <= x' <= u, integer columns integer,   z one-hot,   mean_j <= worst_j,   and the rules of the question.

w_i is one over the median absolute deviation of column i, c_b what it costs to come into bin b. A point that is known,
as from gradient descent, has a distance D that the optimum does not exceed: the row ``distance <= D`` and the bounds
``|x'_i - x_i| <= D / w_i`` cut off no better point, and leave the network a much smaller region.

Sources: Wachter, Mittelstadt, Russell, "Counterfactual explanations without opening the black box", 2017, for the
weights; Kanamori et al., "Ordered counterfactual explanation by mixed-integer linear optimization", AAAI 2021, for the
program; the survey on polyhedral theory for neural networks, section 4.1.2, for both as optimisation over networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from patients import Patients

import polyopt as po

MARGIN = 0.1  # in units of the output, whose sign is the decision


@dataclass(frozen=True, eq=False)
class Question:
    """One patient ``x`` (n,), the box ``lower``, ``upper`` (n,) in which columns may move, ``costs`` (4,) of bins."""

    people: Patients
    x: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    costs: np.ndarray

    @property
    def free(self) -> list[int]:
        """The numeric columns that may move."""
        return [i for i in range(self.people.numeric) if self.lower[i] < self.upper[i]]

    def distance(self, x: np.ndarray) -> np.ndarray:
        """What it costs (batch,) to come to points (batch, n) whose bins are one-hot."""
        k = self.people.numeric
        return abs(x - self.x)[:, :k] @ self.people.weights + x[:, k:] @ self.costs

    def within(self, distance: float) -> Question:
        """The question about points up to this distance."""
        reach = distance / self.people.weights
        k, reachable = self.people.numeric, self.costs <= distance
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[:k] = np.maximum(lower[:k], self.x[:k] - reach)
        upper[:k] = np.minimum(upper[:k], self.x[:k] + reach)
        lower[self.people.integers] = np.ceil(lower[self.people.integers])
        upper[self.people.integers] = np.floor(upper[self.people.integers])
        upper[k:] = np.where(reachable, upper[k:], 0.0)
        return Question(self.people, self.x, lower, upper, self.costs)

    def allows(self, x: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
        """Which points (batch, n) satisfy every rule but the classifier's."""
        k, size = self.people.numeric, np.maximum(1.0, abs(self.upper))
        inside = ((x >= self.lower - tolerance * size) & (x <= self.upper + tolerance * size)).all(1)
        whole = (abs(x - x.round())[:, [*self.people.integers, *range(k, x.shape[1])]] <= tolerance).all(1)
        ordered = [x[:, mean] <= x[:, worst] + tolerance * size[worst] for mean, worst in self.people.pairs]
        return inside & whole & (abs(x[:, k:].sum(1) - 1) <= tolerance) & np.all(ordered, axis=0)


def anything(people: Patients, x: np.ndarray) -> Question:
    """Every column may move within the range of the data."""
    now = x[people.numeric :] @ people.bins
    return Question(people, x, people.x.min(0), people.x.max(0), abs(people.bins - now))


def growth(people: Patients, x: np.ndarray) -> Question:
    """A tumour that grows: what measures its size may only rise, standard errors stay, the rest may move."""
    asked = anything(people, x)
    lower, upper, k = asked.lower.copy(), asked.upper.copy(), people.numeric
    lower[people.growing] = x[people.growing]
    lower[people.errors] = upper[people.errors] = x[people.errors]
    upper[k:] = np.where(people.bins >= x[k:] @ people.bins, 1.0, 0.0)
    return Question(people, x, lower, upper, asked.costs)


def model(asked: Question, net: po.Network, distance: float, embed: Callable) -> pyo.ConcreteModel:
    """The program for points up to a distance; ``embed(block, net, inputs)`` adds the network."""
    people, near = asked.people, asked.within(distance)
    k, n = people.numeric, net.input_size
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(n), bounds=lambda _, i: (float(near.lower[i]), float(near.upper[i])))
    for i in people.integers:
        m.x[i].domain = pyo.Integers
    for b in range(k, n):
        m.x[b].domain = pyo.Binary
    m.moved = pyo.Var(near.free, bounds=lambda _, i: (0.0, float(distance / people.weights[i])))
    m.up = pyo.Constraint(near.free, rule=lambda _, i: m.moved[i] >= m.x[i] - float(asked.x[i]))
    m.down = pyo.Constraint(near.free, rule=lambda _, i: m.moved[i] >= float(asked.x[i]) - m.x[i])
    m.one_bin = pyo.Constraint(expr=sum(m.x[b] for b in range(k, n)) == 1)
    m.ordered = pyo.Constraint(people.pairs, rule=lambda _, mean, worst: m.x[mean] <= m.x[worst])
    moves = sum(float(people.weights[i]) * m.moved[i] for i in near.free)
    cost = moves + sum(float(c) * m.x[k + b] for b, c in enumerate(asked.costs))
    m.near = pyo.Constraint(expr=cost <= distance)
    m.net = pyo.Block()
    (y,) = embed(m.net, net, [m.x[i] for i in range(n)])
    m.flipped = pyo.Constraint(expr=y >= MARGIN)
    m.objective = pyo.Objective(expr=cost)
    return m


def start(m: pyo.ConcreteModel, asked: Question, x: np.ndarray) -> None:
    """Set all variables of polyopt's model to what they are at a point (n,)."""
    po.set_point(m.net, x)
    for i in m.x:
        m.x[i].set_value(float(x[i]), skip_validation=True)
    for i in m.moved:
        m.moved[i].set_value(abs(float(x[i] - asked.x[i])), skip_validation=True)
