"""scikit-learn's breast-cancer data with integer and one-hot features, and a classifier that speaks in their own units.

The data have 30 numbers for each of 569 tumours: ten quantities, each as its mean over the cells of an image, its
standard error and its worst value. Three of them are made coarser, so that all kinds of features occur:

    mean texture, worst texture     rounded to integers
    worst area                      replaced by one-hot columns, one for each quarter of the patients

That leaves 29 numeric columns and 4 one-hot columns. The classifier's one output is positive where it says malignant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import polyopt as po
from polyopt.layers import Scale

INTEGERS = ("mean texture", "worst texture")
BINNED = "worst area"
GROWING = ("mean radius", "mean perimeter", "mean area", "worst radius", "worst perimeter")


@dataclass(frozen=True, eq=False)
class Patients:
    """``x`` (patients, 33): numeric columns, then the bins; ``malignant`` (patients,).

    ``weights`` (29,) are one over each numeric column's median absolute deviation: a change by that costs 1. A bin is
    worth the median of ``BINNED`` in it, in the same measure: ``bins`` (4,). ``edges`` (3,) lie between the bins.
    """

    names: list[str]
    x: np.ndarray
    malignant: np.ndarray
    weights: np.ndarray
    bins: np.ndarray
    edges: np.ndarray

    @property
    def numeric(self) -> int:
        return len(self.weights)

    @property
    def integers(self) -> list[int]:
        return [self.names.index(name) for name in INTEGERS]

    @property
    def growing(self) -> list[int]:
        return [self.names.index(name) for name in GROWING]

    @property
    def errors(self) -> list[int]:
        """The standard errors."""
        return [i for i, name in enumerate(self.names) if name.endswith("error")]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Columns (mean, worst) of one quantity: a mean is never above the worst value."""
        means = [name for name in self.names if name.startswith("mean ")]
        both = [(mean, mean.replace("mean ", "worst ")) for mean in means]
        return [(self.names.index(a), self.names.index(b)) for a, b in both if b in self.names]

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the patients for training and for testing."""
        return train_test_split(np.arange(len(self.x)), test_size=0.3, random_state=0, stratify=self.malignant)


def patients() -> Patients:
    data = load_breast_cancer()
    names = [str(name) for name in data.feature_names]
    for name in INTEGERS:
        data.data[:, names.index(name)] = data.data[:, names.index(name)].round()
    area = data.data[:, names.index(BINNED)]
    edges = np.quantile(area, [0.25, 0.5, 0.75])
    which = np.digitize(area, edges)
    kept = [i for i, name in enumerate(names) if name != BINNED]
    numeric = data.data[:, kept]
    bins = np.array([np.median(area[which == k]) for k in range(4)]) / _deviation(area)
    labels = [names[i] for i in kept] + [f"{BINNED}, quarter {k + 1}" for k in range(4)]
    malignant = data.target == 0
    return Patients(labels, np.hstack([numeric, np.eye(4)[which]]), malignant, 1 / _deviation(numeric), bins, edges)


def classifier(people: Patients, width: int) -> tuple[po.Network, float]:
    """A network with two hidden layers, its scaling folded into the first of them; and its accuracy in the test."""
    train, test = people.split()
    scaler = StandardScaler().fit(people.x[train])
    model = MLPClassifier((width, width), alpha=1.0, learning_rate_init=3e-3, max_iter=300, random_state=0)
    model.fit(scaler.transform(people.x[train]), people.malignant[train])
    layers = [(node.name, node.layer, node.inputs) for node in po.from_sklearn(model).nodes]
    first, hidden, _ = layers[0]
    scale = ("scale", Scale(1 / scaler.scale_, -scaler.mean_ / scaler.scale_), ["input"])
    net = po.Network([scale, (first, hidden, ["scale"]), *layers[1:]], (people.x.shape[1],)).fold_scaling()
    assert np.array_equal(net(people.x)[:, 0] > 0, model.predict(scaler.transform(people.x)))
    return net, float(np.mean((net(people.x[test])[:, 0] > 0) == people.malignant[test]))


def _deviation(x: np.ndarray) -> np.ndarray:
    """The median absolute deviation of each column."""
    return np.median(abs(x - np.median(x, axis=0)), axis=0)
