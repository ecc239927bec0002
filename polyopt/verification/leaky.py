"""Gradients that pass through ReLUs which are off: each lets a share a of them through, while its values stay its own.

    relu(z) = max(z, 0),    d relu / dz := 1 where z > 0, else a.

Where most units are off around a point, the gradient (a = 0) says nothing of what the function does some way off, and
descents stay where they are: the gradient is *masked*. With a > 0 it also counts units that a longer step would switch
on. Such a direction may be wrong, and none of them is right everywhere, so different descents take different shares.

Source: Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, section 4.1.2
(another function in the backward pass only).
"""

from __future__ import annotations

import torch
from torch import Tensor


class Leaky(torch.nn.Module):
    """A module whose ReLUs leak: called with points (batch, …) and shares (batch,), it returns the module's outputs.

    The module given is changed and must be made of torch modules, such as those of `polyopt.to_torch`.

    >>> leaky = Leaky(torch.nn.Sequential(torch.nn.ReLU()))
    >>> x = torch.tensor([[-1.0], [-1.0]], requires_grad=True)
    >>> y = leaky(x, torch.tensor([0.0, 0.25]))
    >>> y.flatten().tolist(), torch.autograd.grad(y.sum(), x)[0].flatten().tolist()
    ([0.0, 0.0], [0.0, 0.25])
    """

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module
        self._leaks = list(_replaced(module))

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        """The module's outputs at x."""
        for leak in self._leaks:
            leak.share = share
        return self.module(x)


class _Leak(torch.nn.Module):
    share: Tensor

    def forward(self, z: Tensor) -> Tensor:
        return _LeakyReLU.apply(z, self.share.reshape(-1, *[1] * (z.ndim - 1)))


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(z, share)
        return z.relu()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        z, share = ctx.saved_tensors
        return torch.where(z > 0, gradient, share * gradient), None


def _replaced(module: torch.nn.Module):
    """The leaks put in the place of all ReLUs."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ReLU):
            leak = _Leak()
            setattr(module, name, leak)
            yield leak
        else:
            yield from _replaced(child)
