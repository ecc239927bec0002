"""Candidates for the multipliers of Lagrangian bounds, by gradient ascent in single precision.

What `polyopt.bounds.lagrangian` evaluates is a bound whatever its multipliers are: they may be sought by arithmetic
that is fast and not sound. Here the network is what its free units see of it,

    a_k = sum_s W_{k,s} h_s + b_k,        h_s = f(a_s)

with the free units' pre-activations and values only (`polyopt.affine`): of the fixed units, which are affine, those are
put into the weights that outnumber the rows that read them.

For lines ``S a + C`` below f or below -f, as the sign of the row asks, and signed prices q, the bound is

    v = least of A x over the region + constants - sum_i max(q_i u_i, q_i l_i)

By Danskin's theorem its gradients need no graph: with the point x where it is least, and the values a and h that the
lines have there, they are ``|r| (a - p)`` for the slope of a line that turns about the point p of the graph,
``a - u`` or ``a - l`` for a price, and the rows' values at h for their weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from polyopt.affine import AffineMap
from polyopt.bounds.turning import lines_of
from polyopt.bounds.units import Units
from polyopt.network import INPUT

DTYPE = torch.float32
DECAY = 0.97  # what each step's length is of the one before
SPARSE = 0.1  # share of entries up to which a matrix is kept sparse


class Layer(NamedTuple):
    """The free units of a layer and, behind them, those fixed ones that are kept, as rows on what is before them."""

    name: str
    place: slice
    terms: dict[str, Tensor]
    offset: Tensor
    slope: Tensor
    intercept: Tensor


class Reduced:
    """The network between its free units, in single precision: made when it is first looked at."""

    def __init__(self, units: Units, maps: list[AffineMap], output: AffineMap):
        self.units, self.near = units, units.to(DTYPE)
        self.device = units.toll.device
        self._maps, self._output = maps, output

    @property
    def layers(self) -> list[Layer]:
        """The layers, in order."""
        return self._made[0]

    @property
    def output(self) -> dict[str, Tensor]:
        """The output as rows on what is before it, by name."""
        return self._made[1]

    @property
    def offset(self) -> Tensor:
        """What the output has besides."""
        return self._made[2]

    @cached_property
    def _made(self) -> tuple[list[Layer], dict[str, Tensor], Tensor]:
        units, maps = self.units, self._maps
        kept = _kept(units, maps, self._output)
        affine, layers = {}, []
        for part, each in zip(units.parts, maps, strict=True):
            each = _composed(each, affine)
            name, (free, linear, gone) = part.node.name, kept[part.node.name]
            rows = np.concatenate([free, linear])
            slope, intercept = (t.cpu().numpy() for t in (part.slope, part.intercept))
            terms = {source: self._tensor(term[rows]) for source, term in each.terms.items()}
            behind = (self._tensor(t) for t in (each.offset[rows], slope[linear], intercept[linear]))
            layers.append(Layer(name, part.place, terms, *behind))
            diagonal = sp.diags_array(slope[gone])
            inner = {source: diagonal @ term[gone] for source, term in each.terms.items()} if len(gone) else {}
            affine[name] = rows, gone, AffineMap(inner, slope[gone] * each.offset[gone] + intercept[gone])
        last = _composed(self._output, affine)
        rows = {source: self._tensor(term) for source, term in last.terms.items()}
        return layers, rows, self._tensor(last.offset)

    def _tensor(self, values) -> Tensor:
        if sp.issparse(values):
            if values.nnz > SPARSE * values.shape[0] * values.shape[1]:
                values = values.toarray()
            else:
                entries = values.tocoo()
                place = torch.tensor(np.array(entries.coords), dtype=torch.int64)
                made = torch.sparse_coo_tensor(place, torch.tensor(entries.data), values.shape, check_invariants=False)
                return made.to(self.device, DTYPE).coalesce()
        return torch.tensor(values, dtype=DTYPE, device=self.device)


def _kept(units: Units, maps: list[AffineMap], output: AffineMap) -> dict:
    """Of each layer the free units, the fixed ones that are kept, and those that are not."""
    kept, readers = {}, {source: len(output.offset) for source in output.terms}
    for part, each in reversed(list(zip(units.parts, maps, strict=True))):
        size, name = part.node.size, part.node.name
        free = np.arange(size) if part.free is None else part.free.cpu().numpy()
        fixed = np.setdiff1d(np.arange(size), free)
        alive = part.slope.cpu().numpy()[fixed] != 0
        linear = fixed[alive] if alive.sum() < readers.get(name, 0) else fixed[:0]
        kept[name] = free, linear, np.setdiff1d(fixed, linear)
        for source in each.terms:
            readers[source] = readers.get(source, 0) + len(free) + len(linear)
    return kept


def _composed(affine: AffineMap, before: dict) -> AffineMap:
    """A map of the kept units, from one of all units and those that are not kept as maps of the others."""
    terms, offset = {}, affine.offset
    for source, term in affine.terms.items():
        if source == INPUT:
            _add(terms, source, term)
            continue
        rows, gone, inner = before[source]
        _add(terms, source, term[:, rows])
        if len(gone):
            part = term[:, gone]
            offset = offset + part @ inner.offset
            for name, matrix in inner.terms.items():
                _add(terms, name, part @ matrix)
    return AffineMap(terms, offset)


def _add(terms: dict, name: str, term) -> None:
    terms[name] = terms[name] + term if name in terms else term


def _onto(rows: Tensor, term: Tensor) -> Tensor:
    return (term.T @ rows.T).T if term.is_sparse else rows @ term


def _value(h: dict[str, Tensor], terms: dict[str, Tensor], offset: Tensor) -> Tensor:
    return sum(((term @ h[name].T).T for name, term in terms.items()), offset)


class Adam:
    """Ascent of one tensor by Adam (Kingma and Ba 2015) with shrinking steps."""

    def __init__(self, values: Tensor, step: float):
        self.values, self._step, self._count = values, step, 0
        self._mean, self._square = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self, gradient: Tensor, scale: Tensor | float = 1.0) -> None:
        """Change the values, in place; ``scale`` is the size of what counts as a step of 1."""
        self._count += 1
        self._mean.lerp_(gradient, 0.1)
        self._square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        unbiased = (1.0 - 0.999**self._count) ** 0.5
        length = self._step * DECAY ** (self._count - 1) / (1.0 - 0.9**self._count)
        size = self._square.sqrt().add_(1e-8)
        self.values.addcdiv_(self._mean * scale, size, value=length * unbiased)


def projected(weights: Tensor, constrained: bool) -> Tensor:
    """Weights (batch, r) that are not negative and sum to one, or, if ``constrained``, the first of which is one."""
    weights = weights.clamp(min=0.0)
    if constrained:
        weights[:, 0] = 1.0
        return weights
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights / total, 1.0 / weights.shape[1])


class Steps(NamedTuple):
    """The lengths of the first steps: of slopes, prices, a cutoff's share, weights; zero where there are none."""

    slopes: float
    prices: float
    share: float
    weights: float


class Climb:
    """An ascent on domains with bounds ``sides`` (2, batch, n) on the first n free units.

    ``begin`` (batch,) are the free units, of one layer, whose pre-activations times ``sign`` (batch,) are bounded, if
    any; ``rows`` (batch, r, n_out) and ``limits`` (batch, r) count with ``weights`` (batch, r). Where ``of`` (batch,)
    is given, it is the domain of each of these, and there are fewer domains: the slopes of each are shared.
    """

    def __init__(self, reduced: Reduced, sides: Tensor, minimum: Callable, begin, rows, limits, constrained: bool, of):
        self.reduced, self.minimum = reduced, minimum
        self.rows, self.limits, self.constrained, self._of = rows, limits, constrained, of
        count = sides.shape[2]
        self.layers = [layer for layer in reduced.layers if layer.place.stop <= count]
        self.sides = self._each(sides)
        self._first, self._offset = ({}, None) if begin is None else self._begin(*begin)
        self.lines = lines_of(reduced.near, sides, self._each)

    def _each(self, values: Tensor, dim: int = 1) -> Tensor:
        """What domains have, along a dimension, for each of the batch."""
        return values if self._of is None else values.index_select(dim, self._of)

    def run(self, count: int, lengths: Steps, growth: float, slopes, prices, share, weights, scale, stop) -> None:
        """So many steps, in place. ``share`` times ``scale`` (batch,) is what ``weights`` are multiplied by.

        ``stop``, if any, is asked before each step whether the bounds (batch,) there are reason to end with it.
        Prices change by shares of what the first pass leaves on their layers, and of ``growth`` times the domain's
        greatest price: on empty domains, which the bound should close, they have to grow without end.
        """
        lines, slopes = self.lines, self.lines.turned(slopes)
        climbs = {
            name: Adam(values, length)
            for name, values, length in zip(Steps._fields, (slopes, prices, share, weights), lengths, strict=True)
            if length and values.numel()
        }
        unit, priced = None, "prices" in climbs or bool(prices.any())
        for _ in range(count):
            gradients, means, values = self._gradients(slopes, prices, share, weights, scale, priced)
            if stop is not None and stop(values):
                return
            if self._of is not None:
                total = torch.zeros_like(slopes)
                gradients["slopes"] = total.index_add_(slopes.dim() - 2, self._of, gradients["slopes"])
            unit = means if unit is None else unit
            for name, climb in climbs.items():
                if name == "prices":
                    before = prices.clone()
                    climb.step(gradients[name], unit + growth * prices.abs().amax(1, keepdim=True))
                    prices.mul_(prices * before >= 0)  # the price of one side stops at zero before the other has one
                else:
                    climb.step(gradients[name])
            torch.minimum(torch.maximum(slopes, lines.least, out=slopes), lines.greatest, out=slopes)
            share.clamp_(min=0.0)
            if "weights" in climbs:
                weights.copy_(projected(weights, self.constrained))

    def _gradients(self, slopes, prices, share, weights, scale, priced: bool):
        """The gradients by name, the mean sizes of the rows that prices add to, and the bounds (batch,)."""
        carried, kept = dict(self._first), []
        if self.rows is not None:
            row = ((share * scale).unsqueeze(1) * weights).unsqueeze(1) @ self.rows
            for name, term in self.reduced.output.items():
                _add(carried, name, _onto(row[:, 0], term))
        taken = self.lines.taken(slopes)
        means = []
        for layer in reversed(self.layers):
            rows = carried.pop(layer.name, None)
            if rows is None:
                rows = prices.new_zeros(len(prices), len(layer.offset))
            number = layer.place.stop - layer.place.start
            free, linear = rows[:, :number], rows[:, number:]
            inner, of_rows = self.lines.back(taken, free, layer.place)
            kept.append(of_rows)
            if priced:
                inner += prices[:, layer.place]
                means.append(inner.abs().mean(1, keepdim=True).expand_as(inner) if number else inner)
            if linear.shape[1]:
                inner = torch.cat([inner, linear * layer.slope], 1)
            for name, term in layer.terms.items():
                _add(carried, name, _onto(inner, term))
        x = self.minimum(carried[INPUT])
        h, gradient, places = {INPUT: x}, {"slopes": prices.new_empty(*slopes.shape[:-2], *prices.shape)}, []
        for layer, of_rows in zip(self.layers, reversed(kept), strict=True):
            a = _value(h, layer.terms, layer.offset)
            number = layer.place.stop - layer.place.start
            free, linear = a[:, :number], a[:, number:]
            value = self.lines.forth(taken, of_rows, free, layer.place, gradient["slopes"])
            places.append(free)
            h[layer.name] = torch.cat([value, linear * layer.slope + layer.intercept], 1) if linear.shape[1] else value
        value = share.new_zeros(len(share))
        if priced:
            low, high, a = self.sides[0], -self.sides[1], torch.cat(places, 1)
            nearest = torch.where(prices > 0, high, torch.where(prices < 0, low, a.clamp(low, high)))
            gradient["prices"] = a - nearest
            value = (prices * gradient["prices"]).sum(1)
        if self._offset is not None:
            value += sum(((rows * h[name]).sum(1) for name, rows in self._first.items()), self._offset)
        if self.rows is not None:
            margins = (self.rows @ _value(h, self.reduced.output, self.reduced.offset).unsqueeze(2))[:, :, 0]
            gradient["weights"] = margins - self.limits
            gradient["share"] = scale * (weights * gradient["weights"]).sum(1)
            value += share * gradient["share"]
        return gradient, torch.cat([prices[:, :0], *reversed(means)], 1), value

    def _begin(self, unit: Tensor, sign: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The rows (batch, …) of signed units on what is before their layer, and their offsets (batch,)."""
        (layer,) = [each for each in self.reduced.layers if each.place.start <= int(unit[0]) < each.place.stop]
        place, sign, rows = unit - layer.place.start, sign.to(DTYPE), {}
        for name, term in layer.terms.items():
            some = term.index_select(0, place)
            rows[name] = sign.unsqueeze(1) * (some.to_dense() if some.is_sparse else some)
        return rows, sign * layer.offset[place]
