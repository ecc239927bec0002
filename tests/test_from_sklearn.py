import numpy as np
import pytest
from scipy.special import expit, softmax

from polyopt.convert.from_sklearn import from_sklearn
from polyopt.network import UnsupportedLayer

neural_network = pytest.importorskip("sklearn.neural_network")
MLPRegressor, MLPClassifier = neural_network.MLPRegressor, neural_network.MLPClassifier
X = np.random.default_rng(0).normal(size=(40, 3))


def fitted(model, y):
    return model.partial_fit(X, y, **({"classes": np.unique(y)} if isinstance(model, MLPClassifier) else {}))


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("hidden", [(), (5,), (4, 6)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_regressors_predict(activation, hidden, outputs):
    y = np.stack([X[:, 0] * X[:, 1], X.sum(1)], 1)[:, :outputs]
    model = MLPRegressor(hidden_layer_sizes=hidden, activation=activation, random_state=0)
    net = from_sklearn(fitted(model, y.squeeze()))
    np.testing.assert_allclose(net(X), model.predict(X).reshape(-1, outputs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 4])
def test_classifiers_give_logits(classes):
    y = np.random.default_rng(1).integers(classes, size=len(X))
    model = fitted(MLPClassifier(hidden_layer_sizes=(6,), random_state=0), y)
    logits = from_sklearn(model)(X)
    probabilities = np.hstack([1 - expit(logits), expit(logits)]) if classes == 2 else softmax(logits, axis=1)
    np.testing.assert_allclose(probabilities, model.predict_proba(X), rtol=1e-10)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (MLPRegressor(), ValueError, "this MLPRegressor is not fitted; call fit"),
        (MLPClassifier, ValueError, "needs a fitted .* but gets MLPClassifier"),
        ("model", ValueError, "needs a fitted MLPRegressor or MLPClassifier, but gets str"),
    ],
)
def test_other_models_are_refused(model, error, message):
    with pytest.raises(error, match=message):
        from_sklearn(model)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("activation", "gelu", "'gelu'.*known are"), ("out_activation_", "exp", "poisson")],
)
def test_unknown_functions_are_refused(attribute, value, message):
    model = fitted(MLPRegressor(hidden_layer_sizes=(2,), random_state=0), X[:, 0])
    setattr(model, attribute, value)
    with pytest.raises(UnsupportedLayer, match=message):
        from_sklearn(model)
