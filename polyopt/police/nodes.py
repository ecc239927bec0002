"""Partial sign vectors of units, and what all columns that complete them are worth at least.

A node is a unit and a partial sign vector, s_i = 0 for the regions that are free. Its projection u' on the regions that
are not costs c', which no column of the node undercuts, and region i with sign s adds

    a_i(s) = ((margin - s u' v~)+ / |v~|)^2

for the point v that u' violates most: all columns are in the halfspace of v, of which u' is c' away from the unit at
the right angle (`polyopt.police.projections.alone`). So at prices pi a column of the node is worth at least

    c' + min over the free signs of [max_i a_i(s_i) - sum_i e_i(s_i)] - E - F                                       (1)

where E is what pairs of regions with signs earn, e_i(s) what i earns with those, and F all that pairs of free regions
can. For a given maximum t each free region takes the better of its signs with a_i <= t, so that the minimum is found by
sorting. The signs that (1) takes are tried as a column. Where all of them have a = 0, u' is its projection.

Where a unit takes all but one of the signs of a proof that some signs have no solution together, or of their negatives,
the last region has its sign too.

Source: Land and Doig, An automatic method of solving discrete programming problems, Econometrica 28, 1960, for branch
and bound.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import pad

from polyopt.police.pricing import Prices


@dataclass(frozen=True, eq=False)
class Nodes:
    """Partial sign vectors and their projections."""

    unit: Tensor  # (M,)
    signs: Tensor  # (M, N), 0 where free
    cost: Tensor  # (M,): c'
    alone: Tensor  # (M, N, 2): a, for +1 first; 0 for the sign of a region, infinite for the other

    def __len__(self) -> int:
        return len(self.unit)

    def __getitem__(self, which: Tensor) -> Nodes:
        return Nodes(*(getattr(self, each.name)[which] for each in fields(self)))

    def __add__(self, other: Nodes) -> Nodes:
        return Nodes(*(torch.cat([getattr(x, each.name) for x in (self, other)]) for each in fields(self)))


@dataclass(frozen=True, eq=False)
class Priced:
    """What nodes are worth at least by (1), and the signs that (1) takes."""

    bound: Tensor  # (M,)
    signs: Tensor  # (M, N)


def priced(nodes: Nodes, prices: Prices) -> Priced:
    """The bound (1)."""
    able = torch.cat([prices.able, prices.able.new_ones(1)])[nodes.unit][:, None]
    E, e, F = earned(nodes.signs, prices.P)
    a = torch.where(nodes.alone < torch.inf, 0.0, torch.inf) if prices.free else nodes.alone
    e, free = e * able[:, :, None], nodes.signs == 0
    low, side = a.min(2)
    first = e.gather(2, side[:, :, None])[:, :, 0]
    gain = ((e.sum(2) - 2 * first) * free).clamp(min=0)
    later, order = torch.where(gain > 0, a.amax(2), torch.inf).sort(1)
    t0 = low.amax(1, keepdim=True)
    steps = torch.cat([t0, torch.maximum(later, t0)], 1)
    total = pad(gain.gather(1, order).cumsum(1), (1, 0))
    value, k = (steps - total).min(1, keepdim=True)
    more = steps.gather(1, k)
    other = (gain > 0) & (a.amax(2) <= more)
    best = 1.0 - 2.0 * (side ^ other.long()).to(e.dtype)
    base = 0.0 if prices.free else nodes.cost
    bound = base + value[:, 0] - (first * free).sum(1) - (E + F) * able[:, 0]
    return Priced(bound, torch.where(free, best, nodes.signs))


def interest(nodes: Nodes, prices: Prices) -> Tensor:
    """For each region, how much (1) is expected to rise in the lesser of both branches, (M, N)."""
    able = torch.cat([prices.able, prices.able.new_ones(1)])[nodes.unit][:, None]
    _, e, _ = earned(nodes.signs, prices.P)
    lost = (e.amax(2, keepdim=True) - e) * able[:, :, None]
    free_pairs = ((nodes.signs == 0).to(e.dtype) @ prices.P) * able / 2
    return (nodes.alone * (not prices.free) + lost).amin(2) + free_pairs


def earned(signs: Tensor, P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E (M,), e (M, N, 2) with +1 first, and F (M,) of (1) for partial sign vectors (M, N).

    >>> P = torch.tensor([[0.0, 3.0, 5.0], [3.0, 0.0, 7.0], [5.0, 7.0, 0.0]])
    >>> E, e, F = earned(torch.tensor([[1.0, 0.0, 0.0]]), P)
    >>> E, e[:, 1:], F
    (tensor([0.]), tensor([[[0., 3.],
             [0., 5.]]]), tensor([7.]))
    """
    taken = abs(signs)
    free = 1.0 - taken
    E = ((taken @ P * taken).sum(1) - (signs @ P * signs).sum(1)) / 4
    e = torch.stack([(taken - signs) @ P, (taken + signs) @ P], 2) / 2
    return E, e, (free @ P * free).sum(1) / 2


def propagated(signs: Tensor, proofs: Tensor) -> tuple[Tensor, Tensor]:
    """Partial sign vectors (M, N) with the signs that proofs (K, N) force, and which of them (M,) none strikes.

    >>> proofs = torch.tensor([[1.0, -1.0, 1.0, 0.0]])
    >>> propagated(torch.tensor([[-1.0, 1.0, 0.0, 1.0], [1.0, -1.0, 1.0, 1.0]]), proofs)
    (tensor([[-1.,  1.,  1.,  1.],
            [ 1., -1.,  1.,  1.]]), tensor([ True, False]))
    """
    size, both = abs(proofs).sum(1), torch.cat([proofs, -proofs])
    positive, negative = (both > 0).to(signs.dtype), (both < 0).to(signs.dtype)
    size = torch.cat([size, size])
    while True:
        agree = signs @ both.T
        possible = (agree < size).all(1)
        # all but one sign of a proof agree, and that one is free
        nearly = ((agree == size - 1) & (abs(signs) @ abs(both).T == size - 1)).to(signs.dtype)
        free = (signs == 0) & possible[:, None]
        bars_plus, bars_minus = (nearly @ positive > 0) & free, (nearly @ negative > 0) & free
        possible &= ~(bars_plus & bars_minus).any(1)
        if not (bars_plus | bars_minus)[possible].any():
            return signs, possible
        signs = torch.where(bars_plus, -1.0, torch.where(bars_minus, 1.0, signs)).to(signs.dtype)


def beside(least: Tensor, signs: Tensor) -> Tensor:
    """`polyopt.police.projections.alone` (M, N, 2) where regions with signs (M, N) keep them."""
    own = torch.stack([signs > 0, signs < 0], 2)
    return least.masked_fill(own, 0.0).masked_fill(own.flip(2), torch.inf)
