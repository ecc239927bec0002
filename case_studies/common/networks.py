"""Networks as the paper's published code builds them: ``depth`` hidden layers of one width, and a linear output."""

from __future__ import annotations

import itertools

from torch import nn


def mlp(inputs: int, depth: int, width: int, outputs: int) -> nn.Sequential:
    """Linear layers with leaky ReLU between them.

    >>> mlp(2, 1, 3, 1)
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): LeakyReLU(negative_slope=0.01)
      (2): Linear(in_features=3, out_features=1, bias=True)
    )
    """
    sizes = [inputs, *[width] * depth, outputs]
    layers = [(nn.Linear(*pair), nn.LeakyReLU()) for pair in itertools.pairwise(sizes)]
    return nn.Sequential(*itertools.chain.from_iterable(layers[:-1]), layers[-1][0])
