"""POLICE: a network that is affine on a region at every step of its training (Algorithm 1).

At each activation the region's pre-activations are moved into one linear piece by a shift c of the bias:

    c from the images of the region's centre m and directions R     `polyopt.police.pieces`, `polyopt.police.maxima`
    X <- sigma(X W' + (b + c))                                      for the batch, which passes each layer once
    m <- slope (m + c) + intercept,  R <- R diag(slope)             for the region, which stays in this piece

A composition of affine pieces is affine. Gradients flow through c, so the network is trained as it will be used.

The paper lets the vertices v_1, ..., v_P pass through each layer twice, before and after the shift. Here a region
passes once, as K directions: the vertices of a V-polytope, the generators of a box, zonotope or ellipsoid, however many
vertices these have. New too are a margin that outlasts rounding, and votes that count in whole numbers.

Source: Balestriero and LeCun, POLICE: provably optimal linear constraint enforcement for deep neural networks, ICASSP
2023, Algorithm 1; https://arxiv.org/abs/2211.01340.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polyopt.police.constants import Constants
from polyopt.police.cover import Cover
from polyopt.police.fold import Shifts, fold
from polyopt.police.graph import Affine, Constant, Graph, Maximum, Pointwise, Step, fill, tensors
from polyopt.police.images import Image, affine, written
from polyopt.police.maxima import Groups
from polyopt.police.parts import Part
from polyopt.police.pieces import Pieces
from polyopt.police.reading import read
from polyopt.regions import Region, VPolytope

BIASED = ("linear", "batch_norm")  # steps with one bias for each unit of a flat output, their third argument
SIGNS = ("min-shift", "majority", "center")


class POLICE(nn.Module):
    """``module``, made affine on ``region``: train it and use it in place of the module, whose parameters it shares.

    The module is anything feed-forward that `polyopt.from_torch` reads, with piecewise-linear activations and maxima.
    It takes inputs of shape (batch, *input_shape), or (batch, region.size) if none is given. Batch normalisation uses
    its running statistics, and dropout does nothing, in training too: else the network would be another function for
    each batch. ``region`` is a Box, Zonotope, Ellipsoid, VPolytope, HPolytope or a Product of these, of flat inputs.

    ``margin`` is how far pre-activations on the region stay from breakpoints, relative to the magnitude of what each
    unit adds up, ``|W| |x| + |b|``; 1e-5 outlasts rounding in float32. ``sign`` is the rule that chooses linear pieces:
    "min-shift" (the least shift), "majority" (most vertices, as in the paper; without a list of vertices the same as
    "center") or "center" (the centre's). Under autocast the shifts are computed in full precision all the same.

    >>> from polyopt.regions import Box
    >>> _ = torch.manual_seed(0)
    >>> mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    >>> model = POLICE(mlp, Box([0.0, 0.0], [1.0, 1.0]))
    >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> def bend(f):  # 0 if f is affine
    ...     y = f(corners)
    ...     return round((y[0] - y[1] - y[2] + y[3]).item(), 5)
    >>> bend(mlp) == 0, bend(model) == 0, bend(model.fold()) == 0
    (False, True, True)
    """

    def __init__(
        self,
        module: nn.Module,
        region: Region,
        margin: float = 1e-5,
        sign: Literal["min-shift", "majority", "center"] = "min-shift",
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        self.input_shape = _check(module, region, margin, sign, input_shape)
        self.module, self.region, self.margin, self.sign = module, region, float(margin), sign
        self.graph = read(module, self.input_shape)
        self.biased = _biased(self.graph)
        steps = {step.name: step for step in self.graph.steps}
        self.biases = {name: (*steps[source].args, None)[2] for name, source in self.biased.items()}
        self.unbiased = {source: _unbiased(steps[source]) for source in self.biased.values()}
        self.cover = Cover(region)
        if sign == "majority" and not (self.cover.symmetric or isinstance(region, VPolytope)):
            raise ValueError(
                f"POLICE: sign='majority' counts vertices, and the {type(region).__name__} lists none; use "
                "'min-shift', 'center', or VPolytope(region.vertices())"
            )
        makers = {Pointwise: Pieces, Maximum: Groups}
        self.enforced = nn.ModuleDict({s.name: makers[type(s)](s) for s in self.graph.steps if type(s) in makers})
        self.needed = max((k + 1 for k, s in enumerate(self.graph.steps) if s.name in self.enforced), default=0)
        self.constants = Constants()
        self.constants.keep(**{name: tensor.numpy() for name, tensor in self.graph.tensors.items()})
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
        for part in (self.cover, self.enforced, self.constants):
            part.to(like.device, like.dtype)
        self.tighten()

    def forward(self, x: Tensor) -> Tensor:
        """The outputs at inputs of shape (batch, *input_shape)."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"POLICE: inputs have shape {tuple(x.shape)}, but must be (batch, *{self.input_shape})")
        values = self.tensors()
        shifts, _ = self.walk(values, list(self.cover.parts), self.needed)
        biases = {source: shifts.pop(name)[0].flatten() for name, source in self.biased.items()}
        values[self.graph.input] = x
        for step in self.graph.steps:
            if type(step) is Constant:
                continue
            args = fill(step.args, values, len(x))
            if step.name in biases:
                args = (*args[:2], biases[step.name], *args[3:])
            elif step.name in shifts:
                moved = tuple(map(torch.add, args, shifts[step.name]))
                args = (*moved, *args[len(moved) :])
            values[step.name] = step.target(*args, **fill(step.kwargs, values, len(x)))
        return values[self.graph.output]

    def fold(self) -> nn.Module:
        """A plain module that computes what this one computes, without the region; see `polyopt.police.fold`.

        The linear programs of an H-polytope are solved anew before, see `tighten`, in this model too.
        """
        self.tighten()
        with torch.no_grad():
            values = self.tensors()
            return fold(self.module, self.graph, self.biased, self.shifts(values), values)

    def tighten(self) -> None:
        """Solve the linear programs of H-polytopes anew, after which the shifts are as small as they can be.

        This is done when the model is made. From then on it is affine on the region at every step, with shifts from a
        bound that grows looser as the weights move: call this now and then, as after each epoch. `fold` calls it.
        Other regions need no linear programs.
        """
        if self.cover.halfspaces:
            with torch.no_grad():
                self.walk(self.tensors(), list(self.cover.parts), tighten=True)

    def tensors(self) -> dict[str, Any]:
        """The values that do not depend on the input, by the names of the steps."""
        values = tensors(self.graph, self.module, self.cover.center)
        values.update({name: getattr(self.constants, name) for name in self.graph.tensors})
        for step in self.graph.steps:
            if type(step) is Constant:
                values[step.name] = step.run(values, 1)
        return values

    def shifts(self, values: dict[str, Any]) -> Shifts:
        """The shifts of all activations."""
        shifts, _ = self.walk(values, list(self.cover.parts), self.needed)
        moved = {name: fill(bias, values, 1) for name, bias in self.biases.items() if bias is not None}
        return shifts | {name: ((shifts[name][0] - bias)[None],) for name, bias in moved.items()}

    def walk(
        self, values: Mapping[str, Any], parts: list[Part], count: int | None = None, tighten: bool = False
    ) -> tuple[Shifts, dict[str, Any]]:
        """The shifts of the first ``count`` steps, or the shifted biases that `biases` holds, and the region's images.

        The images have the directions of all ``parts``: those of the region, and others behind them.
        """
        cover, enforced, values, shifts = self.cover, self.enforced, dict(values), {}
        center, reach = (x.view(1, *self.input_shape) for x in (cover.center, cover.reach))
        values[self.graph.input] = Image(center, reach)
        # fewer digits would undo the margin
        with torch.autocast(cover.center.device.type, enabled=False):
            for step in self.graph.steps[:count]:
                if type(step) is Affine:
                    values[step.name] = affine(self.unbiased.get(step.name, step), values, parts)
                elif type(step) is not Constant:
                    operands = [written(value, parts) for value in fill(step.args, values, 1)]
                    if tighten and type(step) is Pointwise:
                        cover.tighten(operands[0].rows, step.name)
                    bias = fill(self.biases.get(step.name), values, 1)
                    found = enforced[step.name](operands, bias, cover, self.sign, self.margin)
                    values[step.name], shifts[step.name] = found
        return shifts, values


def _biased(graph: Graph) -> dict[str, str]:
    """The activations whose shift fits into the bias of the step before, which has no other use: activation -> step."""
    steps, uses = {step.name: step for step in graph.steps}, graph.uses()
    sources = {s.name: steps.get(s.args[0].name) for s in graph.steps if type(s) is Pointwise and len(s.shape) == 1}
    return {name: step.name for name, step in sources.items() if step and step.op in BIASED and uses[step.name] == 1}


def _unbiased(step: Step) -> Step:
    return replace(step, args=(*step.args[:2], None, *step.args[3:]))


def _check(module, region, margin, sign, input_shape) -> tuple[int, ...]:
    """The input shape; ValueError where POLICE cannot be had."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"POLICE: needs a torch.nn.Module, but gets {type(module).__name__}")
    several = len(region) if isinstance(region, Sequence) else next(iter(getattr(region, "batch_shape", ())), None)
    if several is not None:
        raise ValueError(
            f"POLICE: makes a network affine on one region, but gets {several}; use polyopt.police.MPOLICE for several"
        )
    if not isinstance(region, Region):
        raise ValueError(f"POLICE: the region is a {type(region).__name__}; give a region, such as polyopt.Box")
    if not (isinstance(margin, Real) and 0 <= margin < 1):
        raise ValueError(f"POLICE: margin is {margin!r}, but must be a number from 0 to 1; 1e-5 suits float32")
    if sign not in SIGNS:
        raise ValueError(f"POLICE: sign is {sign!r}, but must be one of {', '.join(map(repr, SIGNS))}")
    shape = (region.size,) if input_shape is None else tuple(map(int, input_shape))
    if math.prod(shape) != region.size:
        raise ValueError(f"POLICE: the region has {region.size} dimensions, but input_shape is {shape}")
    return shape
