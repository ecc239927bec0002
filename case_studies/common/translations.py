"""A dense ReLU network in the terms of the packages that it is compared in."""

from __future__ import annotations

import itertools

import polyopt as po
from polyopt.layers import Affine


def omlt_definition(net: po.Network, bounds: list[tuple[float, float]]):
    """A dense ReLU network as OMLT describes it."""
    from omlt.neuralnet import NetworkDefinition
    from omlt.neuralnet.layer import DenseLayer, InputLayer

    found, layers, affine = NetworkDefinition(scaled_input_bounds=dict(enumerate(bounds))), [], _affine(net)
    layers.append(InputLayer([net.input_size]))
    for layer in affine:
        n_out, n_in = layer.weight.shape
        activation = "linear" if layer is affine[-1] else "relu"
        layers.append(DenseLayer([n_in], [n_out], layer.weight.T, layer.bias, activation=activation))
    for layer in layers:
        found.add_layer(layer)
    for pair in itertools.pairwise(layers):
        found.add_edge(*pair)
    return found


def torch_sequential(net: po.Network):
    """A dense ReLU network as torch's own modules, in float64."""
    import torch

    layers = []
    for layer in _affine(net):
        linear = torch.nn.Linear(*layer.weight.shape[::-1], dtype=torch.float64)
        linear.load_state_dict({"weight": torch.tensor(layer.weight), "bias": torch.tensor(layer.bias)})
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _affine(net: po.Network) -> list[Affine]:
    return [layer for layer in net.layers if isinstance(layer, Affine)]
