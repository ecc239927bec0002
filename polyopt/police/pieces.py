"""The shift that moves a unit's pre-activations on a region into one piece of its activation.

Where they range over ``[low, high]``, the piece between the breakpoints t and t' holds them after the shift

    c = the number nearest to 0 in [t + mu - low, t' - mu - high],        mu = margin * (size + |breakpoints|),

if it is wide enough for that interval not to be empty; the outer pieces always are. For ReLU these are the paper's
shifts, ``relu(mu - low)`` where its s is 1 and ``-relu(high + mu)`` where it is -1: the sign is the piece. The rule
chooses one of the pieces that are wide enough:

    min-shift   the least |c|: for ReLU the sign of low + high
    center      the piece nearest to the centre's pre-activation
    majority    the piece with the most vertices (the paper's)

and among equals the uppermost. Where a region has a centre of symmetry and no list of vertices, the majority is the
centre's piece; of two pieces it has at least half of the vertices. All of the region is in the chosen piece, so its
image moves by this piece's slope and intercept, whatever rounding does to single numbers.

Source: Balestriero and LeCun, POLICE, 2023, Algorithm 1 (lines 4 and 5) and Proposition 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyopt.police.constants import Constants
from polyopt.police.cover import Cover
from polyopt.police.graph import Pointwise
from polyopt.police.held import Held
from polyopt.police.images import Image


class Pieces(Constants):
    """The pieces of a pointwise step, the uppermost first: ends, slopes and intercepts (pieces, *shape or ones).

    >>> from polyopt.activations import Clip
    >>> pieces = Pieces(Pointwise("clip", "clamp", torch.clamp, (), {}, Clip(-1.0, 1.0), (4,)))
    >>> pieces.lower.T, pieces.upper.T
    (tensor([[ 1., -1., -inf]], dtype=torch.float64), tensor([[inf,  1., -1.]], dtype=torch.float64))
    """

    def __init__(self, step: Pointwise):
        super().__init__()
        self.step, self.trained, self.ndim = step.name, step.op == "prelu", len(step.shape)
        breakpoints, slopes, intercepts = step.layer.pieces(step.shape)
        self.reaches, self.offset = bool(breakpoints.any()), bool(intercepts.any())
        infinite = np.full((1, slopes.shape[1]), np.inf)
        tables = {
            "lower": np.vstack([-infinite, breakpoints]),
            "upper": np.vstack([breakpoints, infinite]),
            "slopes": slopes,
            "intercepts": intercepts,
            "reach": abs(breakpoints).max(0, keepdims=True, initial=0.0),
            "zero": np.zeros((1, 1)),
        }
        for name, table in tables.items():
            same = (table == table[:, :1]).all()
            shape = (1,) * len(step.shape) if same else step.shape
            table = (table[:, :1] if same else table)[::-1].copy()
            self.keep(**{name: table.reshape(-1, *shape)})

    def forward(self, operands: list, bias: Tensor | None, cover: Cover, sign: str, margin: float):
        """The activation's image after the shift, and the shift (1, *shape); or the shifted bias, if one is given.

        That is the bias of the layer before, whose image lacks it.
        """
        (stack, size), *rest = operands
        slopes = self._trained(rest[0]) if self.trained else self.slopes
        stack, shift, size = Held.apply(stack, size, bias, slopes, self, cover, sign, margin)
        return Image(stack, size), (shift[None] if bias is None else shift,)

    def choice(self, low: Tensor, high: Tensor, center, rows, cover: Cover, sign: str) -> tuple[Tensor, Tensor]:
        """The pieces' indices and the shifts, for ranges with their margin and for the images: each (*shape)."""
        least, most = self.lower - low, self.upper - high
        shifts = torch.clamp(self.zero, least, most)
        cost = abs(shifts) if sign == "min-shift" else self._cost(center, rows, cover, sign)
        if len(shifts) > 2:  # the outer pieces are always wide enough
            cost = cost.masked_fill(least > most, torch.inf)
        piece = cost.min(0).indices
        return piece, self.chosen(shifts, piece)

    def chosen(self, table: Tensor, piece: Tensor) -> Tensor:
        """The entries of these pieces, (*shape)."""
        return table.expand(-1, *piece.shape).gather(0, piece[None])[0]

    def _trained(self, slope: Tensor) -> Tensor:
        """A PReLU's slopes as they are now: 1 above, and one below for all units or one for each channel."""
        below = slope.view(-1, *(1,) * (self.ndim - 1))
        return torch.stack([torch.ones_like(below), below])

    def _cost(self, center: Tensor, rows: Tensor, cover: Cover, sign: str) -> Tensor:
        """What the rules "center" and "majority" make as small as possible: (pieces, *shape)."""
        if sign == "center" or cover.symmetric:
            return (self.lower - center).relu() + (center - self.upper).relu()
        points = (center + cover.points(rows)).unsqueeze(1)
        # counted in whole numbers: half of the vertices is half of them
        votes = ((points > self.lower) & (points <= self.upper)).sum(0)
        return -votes.to(points.dtype)
