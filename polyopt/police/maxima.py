"""The shift that makes one member of each group the maximum on all of a region: POLICE for max-pooling and maxout.

The maximum over a group is affine on the region where one member w, the winner, leads at every point. With the greatest
value over the region of each difference, from the images' differences, w is raised by the most that it lacks:

    c_w = relu(max over j != w of  max_x (y_j - y_w)(x) + mu_jw),        mu_jw = margin * (size_j + size_w).

A raised number must win or lose nothing elsewhere, so where windows overlap the winner is one of the members that its
window shares with no other; a pooling of which some window has no such member (its stride is at most half its
kernel) is refused. Among those members the rule ``sign`` chooses: the least shift, the greatest at the centre, or the
greatest at most vertices; the first of equals.

The numbers are those of a convolution, say, whose bias is one for each channel. The shift is one for each place: it is
a tensor that is added to the operand of the maximum. A minimum is a maximum with its sign turned.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from polyopt.layers import Shape
from polyopt.network import UnsupportedLayer
from polyopt.police.constants import Constants
from polyopt.police.cover import Cover
from polyopt.police.graph import Maximum
from polyopt.police.images import Image


class Groups(Constants):
    """The groups of a maximum, and which members they share with no other group.

    >>> groups = Groups(Maximum("max", "amax", torch.amax, (), {}, np.array([[0, 1], [1, 2]]), ((3,),), (2,), 1, False))
    >>> groups.own
    tensor([[ True, False],
            [False,  True]])
    """

    def __init__(self, step: Maximum):
        super().__init__()
        self.step, self.sign, self.several = step.name, step.sign, step.several
        self.shapes, self.shape = step.shapes, step.shape
        members = [np.unique(group) for group in step.groups]
        shared = np.bincount(np.concatenate(members)) > 1
        own = ~shared[step.groups]
        if not own.any(1).all():
            raise UnsupportedLayer(
                f"POLICE: the windows of {step.name!r} overlap so much that window {int(np.argmin(own.any(1)))} shares "
                "each of its numbers with others, and no shift of single numbers makes one lead in all of them; use a "
                "stride of more than half the kernel, or average pooling"
            )
        self.keep(groups=step.groups, own=own)

    def forward(self, operands: list, bias: None, cover: Cover, sign: str, margin: float) -> tuple:
        """The maximum's image after the shift, and the operands' shifts, each (1, *shape)."""
        count = max(len(operand.stack) for operand in operands if isinstance(operand, Image))
        images = [self._image(*pair, count) for pair in zip(operands, self.shapes, strict=False)]
        # for each group and member: (1 + K, m, k), (1, m, k)
        stack, size = (torch.cat(parts, 1)[:, self.groups] for parts in zip(*images, strict=True))
        members = Image(self.sign * stack, size)
        with torch.no_grad():
            places = torch.arange(self.groups.shape[1], device=stack.device)
            needs = [self._need(members, place.expand(1, len(self.groups), 1), cover, margin) for place in places]
            cost = self._cost(torch.cat(needs, -1), members, cover, sign)
            winner = cost.masked_fill(~self.own, torch.inf).argmin(-1, keepdim=True)
        need = self._need(members, winner, cover, margin)
        stack = members.stack.gather(-1, winner.expand(len(stack), -1, -1))
        stack = torch.cat([stack[:1] + need, stack[1:]])
        with torch.no_grad():
            size = torch.maximum(*(abs(stack[:1] + end) for end in cover.extent(stack[1:], self.step)))
        image = Image(*(part.view(-1, *self.shape) for part in (self.sign * stack, size)))
        shifts = self._shifts(winner, self.sign * need)
        return ((image, None) if self.several else image), shifts

    def _image(self, operand: Image | Tensor, shape: Shape, count: int) -> Image:
        """The operand, which may be a constant, with flat images."""
        if isinstance(operand, Tensor):
            center = operand.expand(1, *shape)
            operand = Image(torch.cat([center, center.new_zeros(count - 1, *shape)]), abs(center))
        return Image(*(part.flatten(1) for part in operand))

    def _need(self, members: Image, winner: Tensor, cover: Cover, margin: float) -> Tensor:
        """By how much the winners (1, m, 1) of the groups must be raised: (1, m, 1)."""
        center, rows, size = members.center, members.rows, members.size
        _, high = cover.extent(rows - rows.gather(-1, winner.expand(len(rows), -1, -1)), self.step)
        gap = center - center.gather(-1, winner) + high + margin * (size + size.gather(-1, winner))
        # a smaller group repeats a member
        itself = self.groups == self.groups.gather(-1, winner[0])
        return gap.masked_fill(itself, -torch.inf).amax(-1, keepdim=True).relu()

    def _cost(self, needs: Tensor, members: Image, cover: Cover, sign: str) -> Tensor:
        """What the rule makes as small as possible: (1, m, k)."""
        if sign == "min-shift":
            return needs
        if sign == "center" or cover.symmetric:
            return -members.center
        points = members.center + cover.points(members.rows)
        return -(points >= points.amax(-1, keepdim=True)).sum(0, keepdim=True).to(points.dtype)

    def _shifts(self, winner: Tensor, need: Tensor) -> tuple[Tensor, ...]:
        """The winners' shifts in their places among the operands."""
        sizes = [math.prod(shape) for shape in self.shapes]
        places = self.groups.gather(-1, winner[0]).T
        shifts = need.new_zeros(1, sum(sizes)).scatter(1, places, need[..., 0])
        return tuple(part.view(1, *shape) for part, shape in zip(shifts.split(sizes, 1), self.shapes, strict=True))
