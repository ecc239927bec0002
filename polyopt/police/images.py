"""How a region's image moves through a step that is affine in its inputs, ``x -> W x + b``.

The image is that of the centre m, those of the directions (the rows of R), and a *size*, the magnitude of the numbers
with which the step computes:

    m <- W m + b        R <- R W'        size <- |W| size + |b|

The step's own operation f does the work: it yields f(m), f(R) - f(0), and, with absolute values for all constants, the
size. Wherever in the region x lies, rounding in f(x) is a small multiple of the size; so margins are multiples of it.
Sizes take no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyopt.convert.torch_ops import LINEAR_MAPS, MOVES
from polyopt.police.graph import Step, fill, mapped, names
from polyopt.police.parts import Part

BIASED = {"linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))}  # the bias comes third
RESHAPES = {"view", "reshape", "flatten"}
# whose plain numbers are constants, not axes or lengths
ARITHMETIC = set("add sub rsub mul div addmm addmv baddbmm masked_fill".split())
# moves and maps that may yield something for nothing
OFFSETS = set("constant_pad_nd pad masked_fill slice_scatter select_scatter stack addmm addmv baddbmm".split())
LINEAR = {*MOVES, *LINEAR_MAPS, *"getitem avg_pool2d adaptive_avg_pool2d mul div neg sum mean".split()} - OFFSETS


class Image(NamedTuple):
    """The images of the centre and, behind it, of the directions, (1 + K, *shape), and the size (1, *shape).

    The region itself is its centre alone: its directions are not written down where a linear layer comes first.
    """

    stack: Tensor
    size: Tensor

    @property
    def center(self) -> Tensor:
        """The centre's image, (1, *shape)."""
        return self.stack[:1]

    @property
    def rows(self) -> Tensor:
        """The directions' images, (K, *shape)."""
        return self.stack[1:]


def affine(step: Step, values: Mapping[str, Any], parts: Sequence[Part]) -> Image | tuple:
    """The image that an affine step yields, or several, for values that are images or constant tensors."""
    size = _size(step, values)
    if step.op in BIASED and isinstance(fill(step.args[0], values, 1), Image):
        return Image(_biased(step, values, parts), size)
    if step.op in RESHAPES:
        bare = step.run(values, 1, _view(lambda image: image.center))
        source = values[step.args[0].name]
        if bare.ndim == 2 and isinstance(source, Image) and source.stack.shape[0] == 1:
            return Image(bare, size)
    count = 1 + sum(part.count for part in parts)
    found = step.run(values, count, _view(lambda image: written(image, parts).stack))
    if not (step.op in LINEAR and any(isinstance(values[name], Image | tuple) for name in names(step.args))):
        zero = step.run(values, 1, _view(lambda image: torch.zeros_like(image.center)))
        found = _each(lambda stack, zero: torch.cat([stack[:1], stack[1:] - zero]), found, zero)
    return _each(Image, found, size)


def written(value: Image, parts: Sequence[Part]) -> Image:
    """The image with its rows, which the region itself lacks; other values stay what they are."""
    if not isinstance(value, Image) or value.stack.shape[0] > 1:
        return value
    rows = torch.cat([part.rows() for part in parts])
    return value._replace(stack=torch.cat([value.stack, rows.view(-1, *value.stack.shape[1:])]))


def _biased(step: Step, values, parts: Sequence[Part]) -> Tensor:
    """All pass together; the bias joins the centre."""
    source, weight, bias, *rest = (*fill(step.args, values, 1), None)[: max(3, len(step.args))]
    if source.stack.shape[0] == 1 and step.op == "linear" and source.stack.ndim == 2:
        return torch.cat([step.target(source.stack, weight, bias), *(part.through(weight) for part in parts)])
    moved = step.target(written(source, parts).stack, weight, None, *rest)
    if bias is None:
        return moved
    bias = bias if step.op == "linear" else bias.view(-1, *(1,) * (moved.ndim - 2))
    return torch.cat([moved[:1] + bias, moved[1:]])


@torch.no_grad()
def _size(step: Step, values):
    def absolute(leaf):
        number = isinstance(leaf, float) or (isinstance(leaf, int) and step.op in ARITHMETIC)
        return abs(leaf) if number or (isinstance(leaf, Tensor) and leaf.is_floating_point()) else leaf

    def run(view: Callable[[Image], Tensor]):
        args, kwargs = (fill(a, values, 1, _view(view)) for a in (step.args, dict(step.kwargs)))
        args, kwargs = mapped((args, kwargs), absolute)
        if step.op in ("sub", "rsub"):
            return torch.add(*args, **kwargs)
        return args[0] if step.op == "neg" else step.target(*args, **kwargs)

    found = run(lambda image: image.size)
    if step.op != "batch_norm":
        return _each(abs, found)
    # the shift of a normalisation is a difference: what the operation yields at 0
    zero = step.run(values, 1, _view(lambda image: torch.zeros_like(image.center)))
    at_zero = run(lambda image: torch.zeros_like(image.size))
    return found - at_zero + abs(zero)


def _view(function: Callable[[Image], Tensor]):
    """The function on images, within tuples too; other values stay what they are."""

    def view(value):
        if isinstance(value, Image):
            return function(value)
        return tuple(view(part) for part in value) if isinstance(value, tuple) else value

    return view


def _each(function: Callable, *results):
    """The function of the results, or of each of them where an operation has several."""
    if isinstance(results[0], list | tuple):
        return tuple(_each(function, *parts) for parts in zip(*results, strict=True))
    return function(*results)
