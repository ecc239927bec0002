"""Penalties that make a network cheap to embed: few unstable units, few weights.

A unit whose pre-activation has bounds l <= a <= u needs a binary only if l < 0 < u. Its *ReLU stability loss*

    RS = -tanh(1 + l u)

is least where l and u have the same sign and differentiable everywhere. The bounds are those of interval arithmetic on
the box ``|x - c| <= r``: behind a linear layer ``W c + b -/+ |W| r``, and behind a ReLU the ReLU of both. Weights that
an L1 penalty leaves near zero are set to zero (`prune`), and the rest is trained on with them held there (`held`).

Source: Xiao, Tjeng, Shafiullah and Madry, Training for faster adversarial robustness verification via inducing ReLU
stability, ICLR 2019, sections 3.1 (weight sparsity) and 3.2 (the loss).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

PRUNED = 0.02  # of the largest weight of a layer


def instability(layers: Iterable[tuple[Tensor, Tensor]], center: Tensor, radius: Tensor) -> Tensor:
    """The sum of RS over all units of the hidden layers, pairs of weight and bias, on a box.

    >>> layer = torch.tensor([[1.0], [1.0]]), torch.tensor([0.0, 2.0])  # -1 <= a_0 <= 1, 1 <= a_1 <= 3
    >>> instability([layer], torch.zeros(1), torch.ones(1))  # -tanh(0) - tanh(4)
    tensor(-0.9993)
    """
    total = center.new_zeros(())
    for weight, bias in layers:
        middle, reach = linear(center, weight, bias), linear(radius, weight.abs())
        lower, upper = middle - reach, middle + reach
        total = total - torch.tanh(1.0 + lower * upper).sum()
        lower, upper = lower.relu(), upper.relu()
        center, radius = (lower + upper) / 2, (upper - lower) / 2
    return total


@torch.no_grad()
def prune(layers: Sequence[nn.Linear]) -> None:
    """Set to zero what is less than 2 percent of the largest weight of its layer.

    >>> layer = nn.Linear(3, 1)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[1.0, -0.01, 0.1]]))
    >>> prune([layer])
    >>> layer.weight
    Parameter containing:
    tensor([[1.0000, 0.0000, 0.1000]], requires_grad=True)
    """
    for layer in layers:
        size = layer.weight.abs()
        layer.weight[size < PRUNED * size.max()] = 0.0


@contextmanager
def held(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Within this context the weights that are zero get no gradient, so that they stay zero."""
    hooks = [layer.weight.register_hook(_Mask(layer.weight.detach() != 0)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Mask:
    """What multiplies a gradient by a mask."""

    def __init__(self, kept: Tensor):
        self.kept = kept

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self.kept.to(gradient)
