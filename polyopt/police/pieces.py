"""The shift that moves a unit's pre-activations on a region into one piece of its activation.

Where they range over ``[low, high]``, the piece between the breakpoints t and t' holds them after the shift

    c = relu(t + mu - low) - relu(high + mu - t'),        mu = margin * (size + |breakpoints|),

if it is wide enough, ``high - low + 2 mu <= t' - t``; the outer pieces always are. For ReLU these are the paper's
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
        }
        for name, table in tables.items():
            same = (table == table[:, :1]).all()
            shape = (1,) * len(step.shape) if same else step.shape
            table = (table[:, :1] if same else table)[::-1].copy()
            self.keep(**{name: table.reshape(-1, *shape)})

    def forward(self, operands: list, cover: Cover, sign: str, margin: float) -> tuple[Image, tuple[Tensor]]:
        """The activation's image after the shift, and the shift (1, *shape)."""
        (center, rows, size), *rest = operands
        low, high = cover.extent(rows, self.step)
        low, high = center + low, center + high
        with torch.no_grad():
            mu = margin * (size + self.reach if self.reaches else size)
            lacks, exceeds = self.lower - (low - mu), (high + mu) - self.upper
            shifts = lacks.relu() - exceeds.relu()
            cost = self._cost(shifts, center, rows, cover, sign)
            if len(shifts) > 2:  # the outer pieces are always wide enough
                cost = cost.masked_fill(lacks + exceeds > 0, torch.inf)
            piece = cost.min(0, keepdim=True).indices
            shift = shifts.gather(0, piece)
        # the end of the range that the shift moves to a breakpoint gives it its derivative, -1
        end = torch.where(shift > 0, low, high)
        shift = torch.where(shift == 0, shift, (end.detach() + shift) - end)
        slope = self._chosen(self._trained(rest[0]) if self.trained else self.slopes, piece)
        center = slope * (center + shift)
        with torch.no_grad():
            size = abs(slope * torch.maximum(high + shift, -(low + shift)))
        if self.offset:
            intercept = self._chosen(self.intercepts, piece)
            center, size = center + intercept, size + abs(intercept)
        return Image(center, slope * rows, size), (shift,)

    def _chosen(self, table: Tensor, piece: Tensor) -> Tensor:
        return table.expand(-1, *piece.shape[1:]).gather(0, piece)

    def _trained(self, slope: Tensor) -> Tensor:
        """A PReLU's slopes as they are now: 1 above, and one below for all units or one for each channel."""
        below = slope.view(-1, *(1,) * (self.ndim - 1))
        return torch.stack([torch.ones_like(below), below])

    def _cost(self, shifts, center, rows, cover: Cover, sign: str) -> Tensor:
        """What the rule makes as small as possible: (pieces, *shape)."""
        if sign == "min-shift":
            return abs(shifts)
        if sign == "center" or cover.symmetric:
            return (self.lower - center).relu() + (center - self.upper).relu()
        points = (center + cover.points(rows)).unsqueeze(1)
        # counted in whole numbers: half of the vertices is half of them
        votes = ((points > self.lower) & (points <= self.upper)).sum(0)
        return -votes.to(shifts.dtype)
