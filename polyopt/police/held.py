"""A region's image held in one piece of an activation, and the derivative of the shift that holds it.

With the pre-activations m of the centre and R of the directions, a bias b, the piece's slope a and the shift c,

    m' = a (m + b + c)        R' = a R        c = constant - (m + b + e(R))  where c is not 0,

where e(R) is the end of the range that the shift moves to a breakpoint: the least deviation of the region's points if
c > 0, the greatest if c < 0. With the gradients m*, R* and c* of m', R' and b + c, those of the inputs are

    b, m <- a m* - g        R <- a R* - g de/dR        g = c* + a m*  where c is not 0, else 0,

and b gets c* too. de/dR is the deviation that reaches the end. All of this is one step for torch's autograd: recorded
operation by operation, a small layer takes longer over its region than over its batch.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from polyopt.police.cover import Cover


class Held(torch.autograd.Function):
    """``(m', R')`` of shape (1 + K, *shape), b + c and the sizes of the outputs, (*shape), for ``(m, R)``."""

    @staticmethod
    def forward(ctx, stack, size, bias, slopes, pieces: nn.Module, cover: Cover, sign: str, margin: float):
        """The image, the shifted bias and the sizes after the activation with these `polyopt.police.pieces.Pieces`."""
        center, rows, size = stack[0], stack[1:], size[0]
        if bias is not None:
            center, size = center + bias, size + abs(bias)
        low, high = cover.extent(rows, pieces.step)
        if pieces.reaches:
            size = size + pieces.reach[0]
        low, high = center + low.sub_(size, alpha=margin), center + high.add_(size, alpha=margin)
        piece, shift = pieces.choice(low, high, center, rows, cover, sign)
        slope = pieces.chosen(slopes, piece)
        moved = slope * stack
        torch.mul(slope, center + shift, out=moved[0])
        size = torch.maximum(high + shift, -(low + shift)).sub_(size, alpha=margin).mul_(abs(slope))
        if pieces.offset:
            intercept = pieces.chosen(pieces.intercepts, piece)
            moved[0] += intercept
            size += abs(intercept)
        ctx.pieces, ctx.cover = pieces, cover
        ctx.save_for_backward(stack, bias, slopes, piece, slope, shift)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(size)
        return moved, shift if bias is None else bias + shift, size[None]

    @staticmethod
    @once_differentiable
    def backward(ctx, moved, shifted, _):
        """The gradients with respect to the image, the bias and the slopes."""
        stack, bias, slopes, piece, slope, shift = ctx.saved_tensors
        found = torch.zeros_like(stack) if moved is None else slope * moved
        center, side = found[0], shift.sign()
        total = center if shifted is None else center + shifted
        toward = total * side
        center.addcmul_(toward, side, value=-1)
        ctx.cover.pull(stack[1:], ctx.pieces.step, side, toward, found[1:])
        steeper = None
        if ctx.needs_input_grad[3] and moved is not None:
            held = (moved * stack).sum(0).addcmul_(moved[0], shift if bias is None else shift + bias)
            table = held.new_zeros(len(slopes), *held.shape).scatter_(0, piece[None], held[None])
            steeper = table.sum_to_size(slopes.shape)
        biased = None if bias is None else center if shifted is None else center + shifted
        return found, None, biased, steeper, None, None, None, None
