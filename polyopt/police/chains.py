"""A torch chain of linear layers and (leaky) ReLUs, whose linear layers `polyopt.police.enforce` changes in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyopt.activations import LeakyReLU, ReLU
from polyopt.layers import Affine
from polyopt.network import Network, UnsupportedLayer

NOTHING = (nn.Identity, nn.Dropout)  # in evaluation mode


@dataclass(frozen=True, eq=False)
class Hidden:
    """A linear layer, its name, and the slope of its activation below zero."""

    name: str
    linear: nn.Linear
    slope: float

    def slopes(self, signs: Tensor, dtype: torch.dtype) -> Tensor:
        """The slope of each unit in the piece with this sign, of the shape of ``signs``."""
        one, slope = (torch.tensor(x, dtype=dtype, device=signs.device) for x in (1.0, self.slope))
        return torch.where(signs > 0, one, slope)


@dataclass(frozen=True, eq=False)
class Chain:
    """The hidden layers and the last linear layer.

    >>> chain(nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.1), nn.Linear(3, 1))).network()
    Network (2,) -> (1,)
      0: Affine (3,)
      1: LeakyReLU (3,)
      2: Affine (1,)
    """

    hidden: list[Hidden]
    last: nn.Linear

    def network(self) -> Network:
        """The function that the stored weights make, in float64."""
        layers = []
        for each in self.hidden:
            layers += [_affine(each.linear), LeakyReLU(each.slope) if each.slope else ReLU()]
        return Network.sequential([*layers, _affine(self.last)], (self.hidden[0].linear.in_features,))


def chain(module: nn.Module) -> Chain:
    """Read a Sequential, nested or not; UnsupportedLayer or ValueError where it is no such chain."""
    parts = [(name, part) for name, part in _leaves(module, "") if not isinstance(part, NOTHING)]
    hidden = []
    for (name, linear), (other, activation) in zip(parts[:-1:2], parts[1::2], strict=False):
        _expect(name, linear, nn.Linear)
        _expect(other, activation, nn.ReLU | nn.LeakyReLU)
        slope = float(getattr(activation, "negative_slope", 0.0))
        if slope == 1.0:
            raise ValueError(f"mPOLICE: the slope of {other!r} is 1 on both sides of zero, so that it has no pieces")
        hidden.append(Hidden(name, linear, slope))
    if not hidden or len(parts) % 2 == 0:
        raise ValueError(
            "mPOLICE: needs linear layers with a (leaky) ReLU between each two of them, and a linear layer at the end, "
            f"but gets {[type(part).__name__ for _, part in parts]}"
        )
    _expect(*parts[-1], nn.Linear)
    for each in hidden:
        if each.linear.bias is None:
            raise ValueError(f"mPOLICE: the layer {each.name!r} has no bias to move its units; add one")
    owned = [id(p) for _, part in parts for p in part.parameters()]
    if len(set(owned)) < len(owned):
        raise ValueError("mPOLICE: two layers share a parameter, so that changing one changes the other; untie them")
    return Chain(hidden, parts[-1][1])


def double(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64."""
    weight = linear.weight.detach().double()
    return weight, torch.zeros_like(weight[:, 0]) if linear.bias is None else linear.bias.detach().double()


def _leaves(module: nn.Module, path: str):
    if not isinstance(module, nn.Sequential):
        yield path, module
        return
    for name, part in module.named_modules(remove_duplicate=False):
        if name and "." not in name:
            yield from _leaves(part, f"{path}.{name}" if path else name)


def _expect(name: str, part: nn.Module, kind) -> None:
    if not isinstance(part, kind):
        wanted = "a Linear" if kind is nn.Linear else "a ReLU or LeakyReLU"
        raise UnsupportedLayer(
            f"mPOLICE: {name!r} is a {type(part).__name__} where {wanted} is needed; it takes a Sequential of Linear, "
            "ReLU and LeakyReLU layers that ends with a Linear"
        )


def _affine(linear: nn.Linear) -> Affine:
    return Affine(*(part.cpu().numpy() for part in double(linear)))
