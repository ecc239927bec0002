"""From a fitted scikit-learn multilayer perceptron to a `Network`."""

from __future__ import annotations

from polyopt import activations as act
from polyopt.layers import Affine
from polyopt.network import Network, UnsupportedLayer

ACTIVATIONS = {"identity": None, "relu": act.ReLU, "tanh": act.Tanh, "logistic": act.Sigmoid}


def from_sklearn(model) -> Network:
    """The network of a fitted ``MLPRegressor`` or ``MLPClassifier``.

    A regressor's output is ``model.predict``. A classifier's output is what goes into its last softmax or logistic
    function: one logit for each class in ``model.classes_``, or, with two classes, one number that is positive where
    ``model.predict`` says ``classes_[1]``. Layers are named "hidden0", "relu0", …, "output".

    >>> from sklearn.neural_network import MLPRegressor
    >>> model = MLPRegressor(hidden_layer_sizes=(3,), random_state=0).partial_fit([[0.0, 1.0]], [1.0])
    >>> from_sklearn(model)
    Network (2,) -> (1,)
      hidden0: Affine (3,)
      relu0: ReLU (3,)
      output: Affine (1,)
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if not isinstance(model, MLPRegressor | MLPClassifier):
        found = model.__name__ if isinstance(model, type) else type(model).__name__
        raise ValueError(f"from_sklearn: needs a fitted MLPRegressor or MLPClassifier, but gets {found}")
    if not hasattr(model, "coefs_"):
        raise ValueError(f"from_sklearn: this {type(model).__name__} is not fitted; call fit first")
    if model.activation not in ACTIVATIONS:
        raise UnsupportedLayer(
            f"from_sklearn: activation {model.activation!r} is not known; known are {', '.join(ACTIVATIONS)}"
        )
    if model.out_activation_ == "exp":
        raise UnsupportedLayer("from_sklearn: a regressor with loss='poisson' ends in exp, which is no known layer")
    activation = ACTIVATIONS[model.activation]
    layers, before = [], "input"
    for k, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        last = k == len(model.coefs_) - 1
        name = "output" if last else f"hidden{k}"
        layers.append((name, Affine(weight.T, bias), [before]))
        before = name
        if activation and not last:
            before = f"{model.activation}{k}"
            layers.append((before, activation(), [name]))
    return Network(layers, (model.n_features_in_,))
