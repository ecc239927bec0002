"""Linear bounds carried backwards through a network: from rows on its nodes to rows on its input.

Rows ``sum_k A_k y_k + b`` on the values ``y_k`` of some nodes are bounded from below by replacing the last node's value
with what it is of its inputs: exactly for a linear layer, ``A y = (A W) x + A offset``; by its relaxation for a
nonlinear one, where a positive coefficient takes the line below and a negative coefficient the line above. What
remains at the input, ``A x + b``, is at least ``b - h(-A)`` on a region with the support function ``h``. What rounding
may have cost is subtracted at each step (`polyopt.bounds.rounding`), so that this holds for the exact numbers.

Coefficients have shape (batch, rows, size of the node); the batch is 1 as long as they depend on no box.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d

from polyopt.bounds.interval import rule_for
from polyopt.bounds.relaxation import Relaxation, dot
from polyopt.bounds.result import Interval
from polyopt.bounds.rounding import charge, down, floor, gamma, size
from polyopt.layers import Add, Affine, AvgPool2d, Concat, Constant, Conv2d, Linear, Reshape, Scale
from polyopt.network import INPUT, Network, Node
from polyopt.regions import Box, Region
from polyopt.regions.support import Support

ENTRIES = 2**24  # coefficients held at a time; more rows than this allows are bounded one part after the other
SMALL = 2**22  # multiplications that are done sooner than one has looked for columns of zeros
NARROW = 128  # rows of weights shorter than this are multiplied sooner, too


class Backward:
    """A network's layers ready to be passed backwards, on one device and in one precision.

    ``relaxations`` holds, by name, the relaxation of every nonlinear layer that a pass may meet, widened by `widened`
    or by `tolls`; and `observe` is to be called for each node that it may meet, in order, with bounds on it.
    """

    def __init__(self, net: Network, device=None, dtype: torch.dtype = torch.float64):
        self.nodes = net.nodes
        self._named = {node.name: node for node in net.nodes}
        self.input_size = net.input_size
        self.relaxations: dict[str, Relaxation] = {}
        self.device, self._dtype = device, dtype
        linear = [node for node in net.nodes if isinstance(node.layer, Linear)]
        self._transposed = {node.name: rule_for(node, RULES)(node, self.tensor) for node in linear}
        self._offsets = {node.name: self.tensor(node.layer.offset(*node.input_shapes)) for node in linear}
        # linear nodes whose rows come through relaxations, which pay their tolls, or are those that a pass begins with
        self._paid = {node.name for node in linear} - {n.name for n in net.nodes[-1:]}
        self._paid -= {name for node in linear for name in node.inputs}
        self._weights: dict[str, Tensor] = {}
        self._sizes: dict[str, np.ndarray] = {}
        self._tolls: dict[str, Tensor] = {}
        self._floors: dict[str, float] = {}
        self._reaches: dict[str, Tensor] = {}  # what a sum of two rows may lose

    def tensor(self, values: np.ndarray | sp.csr_array) -> Tensor:
        """A dense array or a sparse matrix as a tensor."""
        if sp.issparse(values):
            entries = values.tocoo()
            place = torch.tensor(np.array(entries.coords), dtype=torch.int64)
            matrix = torch.sparse_coo_tensor(place, torch.tensor(entries.data), values.shape, check_invariants=False)
            return matrix.to(self.device, self._dtype).coalesce()
        return torch.tensor(values, dtype=self._dtype, device=self.device)

    def observe(self, name: str, bounds: Interval) -> None:
        """Take note of bounds (batch, *shape) on a node, or the input, which hold wherever passes are to hold."""
        sizes = self._sizes[name] = size(bounds)
        self._reaches[name] = self.tensor(gamma(0, self._dtype) * sizes.ravel())
        if name == INPUT:
            self._floors = {name: floor(sizes.size, self._dtype, [])}
            self._tolls = {}
            return
        node = self._named[name]
        inputs = [self._sizes[each] for each in node.inputs]
        self._floors[name] = floor(node.size, self._dtype, [*inputs, sizes])
        if not isinstance(node.layer, Linear):
            self._tolls[name] = self.tensor(charge(self._count(node), self._dtype, node, inputs, sizes))

    def toll(self, name: str) -> Tensor:
        """What each unit of a row on a node may lose there (n,); of a linear one once its inputs are observed."""
        if name not in self._tolls:
            node = self._named[name]
            inputs = [self._sizes[each] for each in node.inputs]
            self._tolls[name] = self.tensor(charge(self._count(node), self._dtype, node, inputs))
        return self._tolls[name]

    def entries(self, node: Node) -> Tensor:
        """The tolls (node.input_size,) of the linear nodes before a nonlinear one that it has to pay."""
        none = [self.tensor(np.zeros(math.prod(shape))) for shape in node.input_shapes]
        pairs = zip(node.inputs, none, strict=True)
        return torch.cat([self.toll(name) if name in self._paid else zero for name, zero in pairs])

    def widened(self, node: Node, relaxation: Relaxation) -> Relaxation:
        """The relaxation of an observed node with lines so far apart that they pay its toll and those before it."""
        before = self.entries(node)
        before = before if relaxation.source is None else before[relaxation.source]
        toll = self.toll(node.name)
        return relaxation._replace(
            lower_intercept=relaxation.lower_intercept - (toll + relaxation.lower_slope.abs() * before),
            upper_intercept=relaxation.upper_intercept + (toll + relaxation.upper_slope.abs() * before),
        )

    def _count(self, node: Node) -> int:
        """The roundings that a term may see on its way into a sum, and in all those that the sum is added to."""
        return node.size + node.input_size + 2 * len(self.nodes)

    def bounds(self, node: Node, region: Region) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (batch, node.size) on a linear node over a region, or over each box of a batch.

        The upper bound of a row is minus the lower bound of its negative, so that one pass serves both.
        """
        operators = node.layer.operators(*node.input_shapes)
        widest = max(self.input_size, *(n.size for n in self.nodes))
        count = max(1, ENTRIES // (2 * math.prod(region.batch_shape) * widest))
        parts, least = [], _least_over(region)
        for first in range(0, node.size, count):
            rows = slice(first, first + count)
            offset = self._offsets[node.name][rows]
            # the weights may lose what the toll allows for as numbers of this precision
            coefficients, lost = {}, self.toll(node.name)[rows].repeat(2)[None]
            for name, operator in zip(node.inputs, operators, strict=True):
                part = operator[rows]
                part = self.tensor(part.toarray() if sp.issparse(part) else part)
                lost = lost + self.add(coefficients, name, torch.cat([part, -part])[None])
            A, b = self.pull(coefficients, torch.cat([offset, -offset])[None] - lost)
            parts.append(down(least(A) + b).unflatten(1, (2, -1)))
        both = torch.cat(parts, dim=2)
        return both[:, 0], -both[:, 1]

    def signed(self, name: str, unit: Tensor, sign: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Rows (t, 1, n) on nodes, and constants (t, 1), together no greater than units (t,) of a node times signs.

        They are on what an affine node reads, so that a pass need not look up its weights by a product.
        """
        node = self._named.get(name)
        if node is not None and isinstance(node.layer, Affine) and not sp.issparse(node.layer.weight):
            if name not in self._weights:
                self._weights[name] = self.tensor(node.layer.weight)
            rows = self._weights[name].index_select(0, unit) * sign.unsqueeze(1)
            constant = sign * self._offsets[name][unit] - self.toll(name)[unit]
            return {node.inputs[0]: rows.unsqueeze(1)}, constant.unsqueeze(1)
        size = self.input_size if node is None else node.size
        rows = sign.new_zeros(len(unit), size).scatter_(1, unit.unsqueeze(1), sign.unsqueeze(1))
        return {name: rows.unsqueeze(1)}, sign.new_zeros(len(unit), 1)

    def pull(self, coefficients: dict[str, Tensor], constant: Tensor) -> tuple[Tensor, Tensor]:
        """``A`` (batch, rows, n_in) and ``b`` (batch, rows) with ``A x + b <= sum_k A_k y_k(x) + constant``.

        ``coefficients`` holds the ``A_k`` by the names of their nodes, and is used up.
        """
        spare = gamma(2 * len(self.nodes), self._dtype)
        constant = constant - spare * constant.detach().abs() - sum(self._floors.values())
        for name in self._paid & coefficients.keys():
            constant = constant - self._lost(coefficients[name], self.toll(name))
        for node in reversed(self.nodes):
            rows = coefficients.pop(node.name, None)
            if rows is None:
                continue
            if node.name in self._transposed:
                if node.name not in self._paid and not isinstance(node.layer, (Reshape, Concat)):
                    constant = constant - self._lost(rows, self.toll(node.name))
                constant = constant + rows @ self._offsets[node.name]
                parts = self._transposed[node.name](rows)
            else:
                rows, shift = self.relaxations[node.name].through(rows, node.input_size)
                constant = constant + shift
                parts = rows.split([math.prod(shape) for shape in node.input_shapes], dim=2)
            for name, part in zip(node.inputs, parts, strict=True):
                constant = constant - self.add(coefficients, name, part)
        if INPUT not in coefficients:
            coefficients[INPUT] = constant.new_zeros(1, constant.shape[1], self.input_size)
        return coefficients[INPUT], constant

    def add(self, coefficients: dict[str, Tensor], name: str, part: Tensor) -> Tensor | float:
        """Add rows to those on a node; what this loses, (batch, rows) or 0.0."""
        if name not in coefficients:
            coefficients[name] = part
            return 0.0
        coefficients[name] = coefficients[name] + part
        return self.lost(name, coefficients[name])

    def lost(self, name: str, rows: Tensor) -> Tensor:
        """What it may cost that each entry of rows on a node was rounded, (batch, rows)."""
        return self._lost(rows, self._reaches[name])

    @staticmethod
    def _lost(rows: Tensor, toll: Tensor) -> Tensor:
        return dot(rows.detach().abs(), toll[None])


def _least_over(region: Region) -> Callable[[Tensor], Tensor]:
    """Lower bounds (batch, rows) on ``min A x`` over the region for A (batch or 1, rows, n), which is used up."""
    if not isinstance(region, Box):
        support = Support.of(region, exact=False)

        @np.errstate(over="ignore", invalid="ignore")
        def least(A: Tensor) -> Tensor:
            return down(-A.new_tensor(support(-A[0].cpu().double().numpy())))[None]

        return least

    def least(A: Tensor) -> Tensor:
        lower, upper = (torch.atleast_2d(side) for side in region.arrays(A))
        share = gamma(region.size, A.dtype)
        radius = (0.5 * upper - 0.5 * lower) + share * (lower.abs() + upper.abs()) + torch.finfo(A.dtype).tiny
        # in place: a copy of A would take longer than the product
        return dot(A, 0.5 * lower + 0.5 * upper) - dot(A.abs_(), radius)

    return least


# Each rule takes a node and a function that makes tensors, and returns the map from rows on the node's output to the
# rows on each of its inputs.


def _affine(node, tensor):
    weight = tensor(node.layer.weight)
    if weight.is_sparse:
        # a sparse matrix multiplies from the left only
        return lambda rows: ((weight.T @ rows.flatten(0, 1).T).T.unflatten(0, rows.shape[:2]),)

    def transposed(rows):
        if rows[..., 0].numel() * weight.numel() < SMALL or weight.shape[1] < NARROW:
            return (rows @ weight,)
        # units that are inactive on all boxes leave columns of zeros
        live = torch.nonzero((rows.amax((0, 1)) != 0) | (rows.amin((0, 1)) != 0))[:, 0]
        if len(live) > 0.8 * len(weight):
            return (rows @ weight,)
        return (rows.index_select(2, live) @ weight.index_select(0, live),)

    return transposed


def _scale(node, tensor):
    scale = tensor(np.broadcast_to(node.layer.scale, node.shape).ravel())
    return lambda rows: (rows * scale,)


def _conv(node, tensor):
    weight = tensor(node.layer.weight)
    return lambda rows: (
        _onto_image(node, rows.flatten(0, 1).unflatten(1, node.shape), weight).flatten(1).unflatten(0, rows.shape[:2]),
    )


def _avg_pool(node, tensor):
    """The mean's transpose: divide, then add each entry to all places of its window; channels do not mix."""
    ones = tensor(np.ones((1, 1, *node.layer.kernel)))
    counts = tensor(node.layer.counts(node.input_shapes[0]))
    return lambda rows: (
        _onto_image(node, rows.unflatten(2, node.shape).flatten(0, 2).unsqueeze(1) / counts, ones)
        .flatten(1)
        .reshape(*rows.shape[:2], node.input_size),
    )


def _onto_image(node: Node, images: Tensor, weight: Tensor) -> Tensor:
    """The transpose of a convolution: onto the padded image, whose padding is then cut off."""
    layer, (_, height, width) = node.layer, node.input_shapes[0]
    (top, bottom), (left, right) = layer.padding
    reached = [
        (n - 1) * s + d * (k - 1) + 1
        for n, s, d, k in zip(node.shape[1:], layer.stride, layer.dilation, layer.kernel, strict=True)
    ]
    rest = (top + height + bottom - reached[0], left + width + right - reached[1])  # places no window reaches
    groups = getattr(layer, "groups", 1)
    padded = conv_transpose2d(
        images, weight, stride=layer.stride, output_padding=rest, groups=groups, dilation=layer.dilation
    )
    return padded[:, :, top : top + height, left : left + width]


def _reshape(node, tensor):
    return lambda rows: (rows,)


def _add(node, tensor):
    return lambda rows: (rows,) * len(node.inputs)


def _concat(node, tensor):
    axis = node.layer.axis
    sizes = [shape[axis] for shape in node.input_shapes]
    return lambda rows: tuple(part.flatten(2) for part in rows.unflatten(2, node.shape).split(sizes, dim=2 + axis))


def _constant(node, tensor):
    return lambda rows: ()


RULES = {
    Affine: _affine,
    Scale: _scale,
    Conv2d: _conv,
    AvgPool2d: _avg_pool,
    Reshape: _reshape,
    Add: _add,
    Concat: _concat,
    Constant: _constant,
}
