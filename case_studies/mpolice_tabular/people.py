"""Diabetes patients, two clinically named ranges of their features, and what a surrogate has to keep in them.

The data are scikit-learn's `load_diabetes` in clinical units: ten features of 442 patients, and a measure of disease
progression a year later, in points from 25 to 346. A range fixes bmi and mean blood pressure, either sex, and lets the
seven other features vary over the middle share of all patients (half of them: the interquartile range):

    normal      bmi 18.5 to 25, blood pressure 70 to 93    the same prediction for everybody, at most 120
    obese I     bmi 30 to 35, blood pressure 93 to 107     nondecreasing in bmi and blood pressure, from 150 to 300

A mean pressure of 93 is that of 120/80 mmHg, 107 that of 140/90: (systolic + 2 diastolic) / 3.

A network sees x and y less their means over the training patients, in their standard deviations. The constraints are
written so that their numbers are points, or points per standard deviation of a feature: E is the deviation of y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import nn

import polyopt as po
from polyopt.police import AffineConstraint, SlopeConstraint

SEX, BMI, BP = 1, 2, 3
NAMED = {"normal": {BMI: (18.5, 25.0), BP: (70.0, 93.0)}, "obese I": {BMI: (30.0, 35.0), BP: (93.0, 107.0)}}
MOST_NORMAL, LEAST_OBESE, MOST_OBESE = 120.0, 150.0, 300.0
CONSTRAINTS = [
    "normal: the same for all (slopes)",
    f"normal: at most {MOST_NORMAL:.0f}",
    "obese I: nondecreasing in bmi, bp (slopes)",
    f"obese I: from {LEAST_OBESE:.0f} to {MOST_OBESE:.0f}",
]


@dataclass
class Split:
    """Training and test patients, both in standard deviations, and the way back to points."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    center: np.ndarray
    deviation: np.ndarray
    mean: float
    points: float

    def region(self, box: po.Box) -> po.Box:
        """A box in clinical units, as the network sees it."""
        return po.Box((box.lower - self.center) / self.deviation, (box.upper - self.center) / self.deviation)

    def constraints(self) -> list:
        """What a network must keep on the two ranges, in the order of `CONSTRAINTS`."""
        E, axes = np.array([[self.points]]), np.eye(len(self.center))
        bounds = [MOST_OBESE - self.mean, self.mean - LEAST_OBESE]
        return [
            SlopeConstraint(0, E, axes, 0.0),
            AffineConstraint(0, E, MOST_NORMAL - self.mean, kind="le"),
            SlopeConstraint(1, E, -axes[[BMI, BP]], 0.0, kind="le"),
            AffineConstraint(1, np.concatenate([E, -E]), bounds, kind="le"),
        ]

    def errors(self, predicted: np.ndarray) -> dict[str, float]:
        """Root mean squared error in points, and R^2, of predictions for the test patients."""
        squares = np.square(predicted - self.y_test).mean()
        return {"rmse": float(np.sqrt(squares) * self.points), "r2": float(1.0 - squares / self.y_test.var())}

    def plane(self, module: nn.Module, middle: np.ndarray) -> po.Network:
        """The network as a function of bmi and blood pressure, other features in the middle, in clinical units."""
        into, back = nn.Linear(2, len(self.center)), nn.Linear(1, 1)
        with torch.no_grad():
            into.weight.zero_()
            into.weight[[BMI, BP], [0, 1]] = torch.tensor(1.0 / self.deviation[[BMI, BP]], dtype=torch.float32)
            others = np.where(np.isin(np.arange(len(middle)), [BMI, BP]), 0.0, middle)
            into.bias.copy_(torch.tensor((others - self.center) / self.deviation))
            back.weight.fill_(self.points)
            back.bias.fill_(self.mean)
        return po.from_torch(nn.Sequential(into, *module, back).double().eval(), input_shape=(2,))


def patients() -> tuple[np.ndarray, np.ndarray]:
    """Features (442, 10) and progression (442, 1), in clinical units."""
    data = load_diabetes(scaled=False)
    return data.data, data.target[:, None]


def ranges(x: np.ndarray, share: float) -> dict[str, po.Box]:
    """The named ranges, with all other features in the middle share of all patients."""
    ends = np.quantile(x, [(1.0 - share) / 2.0, (1.0 + share) / 2.0], axis=0)
    ends[:, SEX] = 1.0, 2.0
    found = {}
    for name, fixed in NAMED.items():
        own = ends.copy()
        own[:, list(fixed)] = np.transpose(list(fixed.values()))
        found[name] = po.Box(*own)
    return found


def split(x: np.ndarray, y: np.ndarray, seed: int) -> Split:
    """Three quarters of the patients for training, at random."""
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=seed)
    center, deviation, mean, points = x.mean(0), x.std(0), float(y.mean()), float(y.std())
    scaled = [(each - center) / deviation for each in (x, x_test)]
    targets = [(each - mean) / points for each in (y, y_test)]
    return Split(scaled[0], targets[0], scaled[1], targets[1], center, deviation, mean, points)
