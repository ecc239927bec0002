"""Small fixed networks, one for each kind of activation and graph, over which the contract tests run."""

import itertools

import numpy as np

from polyopt import Network
from polyopt.activations import (
    Abs,
    Clip,
    HardSigmoid,
    LeakyReLU,
    Max,
    Maxout,
    MaxPool2d,
    PReLU,
    ReLU,
    Sign,
    Step,
)
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Conv2d, Reshape

SIGN_KINDS = ("sign", "step")


def affine(rng, n_out, n_in):
    return Affine(rng.normal(size=(n_out, n_in)), 0.3 * rng.normal(size=n_out))


def chain(activation, seed=0, sizes=(3, 5, 4, 2)):
    """A dense network with ``activation(width)`` after each layer but the last."""
    rng = np.random.default_rng(seed)
    layers = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [affine(rng, n_out, n_in), activation(n_out)]
    return Network.sequential([*layers, affine(rng, sizes[-1], sizes[-2])], (sizes[0],))


def maxout():
    rng = np.random.default_rng(1)
    layers = [affine(rng, 9, 3), Maxout(3), affine(rng, 4, 3), Maxout(2), affine(rng, 2, 2)]
    return Network.sequential(layers, (3,))


def residual():
    """Two paths that meet in a sum, a maximum and a concatenation."""
    rng = np.random.default_rng(2)
    layers = [
        ("stem", affine(rng, 4, 3), ["input"]),
        ("relu1", ReLU(), ["stem"]),
        ("branch", affine(rng, 4, 4), ["relu1"]),
        ("sum", Add(), ["branch", "stem"]),
        ("relu2", ReLU(), ["sum"]),
        ("max", Max(), ["relu2", "branch"]),
        ("joined", Concat(), ["max", "input"]),
        ("head", affine(rng, 2, 7), ["joined"]),
    ]
    return Network(layers, (3,))


def convolution():
    """Images of 1 x 4 x 3 through a padded convolution, a leaky unit, max and mean pooling."""
    rng = np.random.default_rng(3)
    layers = [
        Conv2d(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2), padding=((1, 1), (1, 0))),
        LeakyReLU(0.2),
        MaxPool2d((2, 1), (2, 1)),
        AvgPool2d((1, 2), (1, 1)),
        Reshape((4,)),
        ReLU(),
        affine(rng, 2, 4),
    ]
    return Network.sequential(layers, (1, 4, 3))


NETWORKS = {
    "relu": chain(lambda n: ReLU()),
    "leaky": chain(lambda n: LeakyReLU(0.1)),
    "leaky_steep": chain(lambda n: LeakyReLU(1.7)),
    "prelu": chain(lambda n: PReLU(np.linspace(-0.4, 0.9, n))),
    "abs": chain(lambda n: Abs()),
    "relu6": chain(lambda n: Clip(0.0, 0.6)),
    "hardtanh": chain(lambda n: Clip(-1.0, 1.0)),
    "clip_below": chain(lambda n: Clip(lower=-0.2)),
    "hardsigmoid": chain(lambda n: HardSigmoid(0.4, 0.5)),
    "sign": chain(lambda n: Sign()),
    "step": chain(lambda n: Step()),
    "maxout": maxout(),
    "residual": residual(),
    "convolution": convolution(),
}
