"""The affine function that a POLICE network is on its region, and how to make it a given one.

On the region ``f(x) = J x + g``. One pass of the unit vectors through the chosen pieces yields J and g, exactly and
not at a sample, as functions of the parameters that can be differentiated: so

    minimise  |f - f*| + mu |J - A*|                                       (for the paper's equation 1)

is a loss like any other. Equation 2, ``f(x) = A x + b`` on the region, needs only the last layer ``f = W h + w``: its
input h is affine on the region too. With the images of the centre c and of the directions g_k in rows,

    X = [c 1; g_k 0],   H = [h(c) 1; (dh/dx) g_k 0],   H [W w]' = X [A b]'

is linear in W and w. The least change that brings it about is ``H^+ (X [A b]' - H [W w]')``, if there is one: if what
is missing lies in the column space of H, so that h tells apart what A tells apart.

Source: Balestriero and LeCun, POLICE, 2023, equations (1) and (2); Penrose, "On best approximate solutions of linear
matrix equations", 1956.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from polyopt.police.graph import Affine, Value
from polyopt.police.images import Image, written
from polyopt.police.module import POLICE
from polyopt.police.parts import Part

EXACT = 1e-6  # of the largest number: what may be missing from a solution


class AffineMap(NamedTuple):
    """``f(x) = slope x + offset`` for flattened x and f(x): slope (n_out, n), offset (n_out,)."""

    slope: Tensor
    offset: Tensor


def jacobian(model: POLICE) -> AffineMap:
    """The model's slope and offset on its region; both can be differentiated.

    >>> from torch import nn
    >>> from polyopt.regions import Box
    >>> _ = torch.manual_seed(0)
    >>> model = POLICE(nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1)), Box([0.0, 0.0], [1.0, 1.0]))
    >>> slope, offset = jacobian(model)
    >>> x = torch.rand(5, 2)
    >>> torch.allclose(model(x), x @ slope.T + offset, atol=1e-6)
    True
    """
    parts = [*model.cover.parts, model.cover.units]
    _, images = model.walk(model.tensors(), parts)
    stack = written(images[model.graph.output], parts).stack.flatten(1)
    slope = stack[-model.region.size :].T
    return AffineMap(slope, stack[0] - slope @ model.cover.center)


@torch.no_grad()
def set_affine(model: POLICE, A, b) -> None:
    """Make ``f(x) = A x + b`` on the region, by the least change of the last layer's weight and bias.

    A is (n_out, n) and b (n_out,), for flattened x and f(x). The next step of an optimiser moves the parameters on:
    call this after each step, or at the end. ValueError where the last layer cannot do it, with the reason.

    >>> from torch import nn
    >>> from polyopt.regions import Box
    >>> _ = torch.manual_seed(0)
    >>> model = POLICE(nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1)), Box([0.0, 0.0], [1.0, 1.0]))
    >>> set_affine(model, [[1.0, -2.0]], [3.0])
    >>> torch.allclose(model(torch.tensor([[0.0, 0.0], [0.5, 1.0]])), torch.tensor([[3.0], [1.5]]), atol=1e-5)
    True
    """
    source, weight, bias = _last_layer(model)
    A, b = (torch.as_tensor(part, dtype=torch.float64, device=weight.device) for part in (A, b))
    if A.shape != (len(weight), model.region.size) or b.shape != (len(weight),):
        raise ValueError(
            f"set_affine: A has shape {tuple(A.shape)} and b {tuple(b.shape)}, but they must be "
            f"{(len(weight), model.region.size)} and {(len(weight),)}"
        )
    parts = list(model.cover.parts)
    _, images = model.walk(model.tensors(), parts)
    x, h = (_points(images[name], parts) for name in (model.graph.input, source))
    now = torch.cat([weight, (b * 0 if bias is None else bias)[:, None]], 1).double()
    wanted = x @ torch.cat([A, b[:, None]], 1).T
    missing = wanted - h @ now.T
    h = h if bias is not None else h[:, :-1]
    change = torch.linalg.pinv(h, rtol=max(h.shape) * torch.finfo(weight.dtype).eps) @ missing
    left = abs(missing - h @ change).amax(1)
    if left.max() > EXACT * max(abs(wanted).max(), abs(missing).max()):
        spanned = [int(torch.linalg.matrix_rank(rows[1:])) for rows in (h, x)]
        raise ValueError(
            "set_affine: no weights of the last layer give this function on the region: its input there spans "
            f"{spanned[0]} dimensions, the region {spanned[1]}, and A sees one that is lost. Units that are inactive "
            "on the region lose it: use LeakyReLU or wider layers, a bias in the last layer, or an A that is zero there"
        )
    weight.add_(change[: weight.shape[1]].T)
    if bias is not None:
        bias.add_(change[-1])


def _points(image: Image, parts: list[Part]) -> Tensor:
    """The images of the centre with a 1, and of the directions with a 0, in float64: (1 + K, size + 1)."""
    stack = pad(written(image, parts).stack.flatten(1), (0, 1))
    stack[0, -1] = 1.0
    return stack.double()


def _last_layer(model: POLICE) -> tuple[str, Tensor, Tensor | None]:
    """The last linear layer's input, by name, and its weight and bias; ValueError where the model ends otherwise."""
    steps, uses = {step.name: step for step in model.graph.steps}, model.graph.uses()
    parameters = dict(model.module.named_parameters())
    step = steps.get(model.graph.output)
    if not isinstance(step, Affine) or step.op != "linear":
        raise ValueError(
            f"set_affine: the model ends with {step.op if step else 'its input'!r}, but must end with a linear layer, "
            "which is what set_affine changes; append torch.nn.Linear(n, n)"
        )
    source, *rest = step.args
    found = [parameters.get(model.graph.parameters.get(value.name)) for value in rest if isinstance(value, Value)]
    if any(part is None or uses[value.name] > 1 for part, value in zip(found, rest, strict=False)):
        raise ValueError("set_affine: the last layer's weight or bias is computed from others or used twice; untie it")
    return source.name, found[0], found[1] if len(found) > 1 else None
