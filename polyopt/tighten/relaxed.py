"""The relaxation of a network's layers so far, as a polyhedron that holds the network's values on a region.

A unit that its bounds leave on one piece is ``scale a + shift``, an affine map of the columns there are: it is folded
into whatever reads it, and costs neither a column nor a row. All other units have a column for their input a, tied to
the columns before by one row, and one for their value h, between the ends of its range and the lines of
`polyopt.tighten.envelope`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from polyopt.activations import PiecewiseLinear
from polyopt.network import INPUT, Node
from polyopt.regions.rounding import TINY, U, gamma
from polyopt.tighten.certificate import Form
from polyopt.tighten.envelope import envelope
from polyopt.tighten.maps import Map
from polyopt.tighten.polyhedron import Polyhedron, widened


class Forms(NamedTuple):
    """``a = matrix x + offset`` on the columns that there were, up to ``slack``: (p, n), (p,), (p,)."""

    matrix: sp.csr_array
    offset: np.ndarray
    slack: np.ndarray

    def form(self, i: int, columns: int) -> Form:
        """The i-th on so many columns."""
        cost = np.zeros(columns)
        row = slice(*self.matrix.indptr[i : i + 2])
        cost[self.matrix.indices[row]] = self.matrix.data[row]
        return Form(cost, self.offset[i], self.slack[i])

    def take(self, some) -> Forms:
        """Some of them."""
        return Forms(self.matrix[some], self.offset[some], self.slack[some])


def columns_as_forms(columns: np.ndarray, count: int) -> Forms:
    """Some of so many columns themselves.

    >>> columns_as_forms(np.array([2, 0]), 3).matrix.toarray()
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    size = len(columns)
    matrix = sp.csr_array((np.ones(size), (np.arange(size), columns)), shape=(size, count))
    return Forms(matrix, np.zeros(size), np.zeros(size))


def stacked(forms: list[Forms], columns: int) -> Forms:
    """Forms on the first of so many columns, one below the other."""
    matrix = sp.vstack([widened(part.matrix, columns) for part in forms], format="csr")
    return Forms(sp.csr_array(matrix), *(np.concatenate(parts) for parts in list(zip(*forms, strict=True))[1:]))


class Hinges(NamedTuple):
    """Units that change their slope once between their bounds: ``h = slopes[j] a + intercepts[j]`` with j = 0 or 1.

    ``forms`` are their a, ``columns`` (p,) their h; ``slopes``, ``intercepts`` (2, p).
    """

    forms: Forms
    columns: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray


class Relaxed:
    """The polyhedron, which grows, and where in it the values of activations are.

    ``inputs`` (n_in,) are the columns of the network's inputs. ``hinges`` are those of each layer, which
    `polyopt.tighten.cuts` separates.
    """

    def __init__(self, polyhedron: Polyhedron, inputs: np.ndarray):
        self.polyhedron = polyhedron
        self._values = {INPUT: columns_as_forms(inputs, self._count)}
        self.hinges: list[Hinges] = []

    def forms(self, map_: Map) -> Forms:
        """An affine map of activations as one of the columns.

        >>> polyhedron = Polyhedron()
        >>> relaxed = Relaxed(polyhedron, polyhedron.add_columns([0.0], [1.0]))
        >>> term = {INPUT: sp.csr_array([[2.0]])}
        >>> forms = relaxed.forms(Map(term, term, np.array([3.0]), np.array([3.0])))
        >>> forms.matrix.toarray(), forms.offset, forms.slack
        (array([[2.]]), array([3.]), array([0.]))
        """
        matrix = sp.csr_array((len(map_.offset), self._count))
        offset, size, slack = map_.offset, map_.offset_size, np.zeros(len(map_.offset))
        roundings = map_.roundings + (len(map_.terms) if len(map_.terms) > 1 else 0)
        for name, term in map_.terms.items():
            value, reach = self._values[name], self._reach(self._values[name])
            matrix, offset = matrix + term @ widened(value.matrix, self._count), offset + term @ value.offset
            size, slack = size + map_.sizes[name] @ reach, slack + map_.sizes[name] @ value.slack
            if not _is_plain(value):
                roundings += int(np.diff(term.indptr).max(initial=0)) + 4
        matrix = sp.csr_array(matrix)
        matrix.eliminate_zeros()
        return Forms(matrix, offset, self._enlarged(slack, size, roundings))

    def add(self, node: Node, forms: Forms, lower: np.ndarray, upper: np.ndarray) -> None:
        """Add an activation whose inputs are these forms, between these bounds."""
        around = envelope(node, lower, upper)
        bent, tied = np.flatnonzero(~around.linear), np.unique(around.unit)
        pre, post = np.full(node.size, -1), np.full(node.size, -1)
        pre[tied] = self.polyhedron.add_columns(lower[tied], upper[tied])
        post[bent] = self.polyhedron.add_columns(around.lower[bent], around.upper[bent])
        rows = self._at(np.arange(len(tied)), pre[tied], len(tied)) - widened(forms.matrix[tied], self._count)
        self.polyhedron.add_rows(rows, forms.offset[tied], forms.offset[tied], forms.slack[tied])
        line = np.arange(len(around.unit))
        lines = self._at(line, post[around.unit], len(line), around.sign)
        lines = lines - self._at(line, pre[around.unit], len(line), around.slope)
        self.polyhedron.add_rows(lines, -np.inf, around.intercept, around.slack)
        scaled = sp.diags_array(around.scale) @ widened(forms.matrix, self._count)
        size = abs(around.scale) * self._reach(forms) + abs(around.shift)
        exact = np.isin(around.scale, (0.0, 1.0)) & (around.shift == 0)
        matrix = sp.csr_array(scaled + self._at(bent, post[bent], node.size))
        matrix.eliminate_zeros()
        slack = self._enlarged(abs(around.scale) * forms.slack, np.where(exact, 0.0, size), 0 if exact.all() else 2)
        self._values[node.name] = Forms(matrix, around.scale * forms.offset + around.shift, slack)
        if isinstance(node.layer, PiecewiseLinear):
            self.hinges.append(_hinges(node, forms, post, lower, upper))

    def limit(self, forms: Forms, lower: np.ndarray, upper: np.ndarray) -> None:
        """Add the rows ``lower <= a <= upper``, which hold for what these forms stand for."""
        slack = forms.slack + 4.0 * U * (abs(forms.offset) + abs(lower) + abs(upper))
        self.polyhedron.add_rows(forms.matrix, lower - forms.offset, upper - forms.offset, slack)

    @property
    def _count(self) -> int:
        return len(self.polyhedron.lower)

    def _reach(self, forms: Forms) -> np.ndarray:
        """The sum of the terms' magnitudes (p,)."""
        return abs(forms.matrix) @ self.polyhedron.magnitude[: forms.matrix.shape[1]] + abs(forms.offset)

    def _enlarged(self, slack: np.ndarray, size: np.ndarray, roundings: int) -> np.ndarray:
        """Slack carried on, and what so many roundings of numbers of this size add, or underflow."""
        carried = slack * (1.0 + 1e-9)  # more than the rounding of any sum of slacks
        if not roundings:
            return carried
        return carried + 2.0 * gamma(roundings + 4) * size + TINY * roundings * (1.0 + self.polyhedron.magnitude.sum())

    def _at(self, rows: np.ndarray, columns: np.ndarray, count: int, entries=1.0) -> sp.csr_array:
        """The matrix of so many rows on all columns with these entries at these places, one a row, rows ascending."""
        entries = np.broadcast_to(np.float64(entries), columns.shape)
        return sp.csr_array((entries, columns, np.searchsorted(rows, np.arange(count + 1))), shape=(count, self._count))


def _is_plain(value: Forms) -> bool:
    """Whether each entry is a column of its own, or nothing: then a product with it only selects."""
    own = (np.diff(value.matrix.indptr) <= 1).all() and np.bincount(value.matrix.indices).max(initial=0) <= 1
    return bool(own and np.isin(value.matrix.data, (0.0, 1.0)).all() and not value.offset.any())


def _hinges(node: Node, forms: Forms, post: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> Hinges:
    breakpoints, slopes, intercepts = node.layer.pieces(node.input_shapes[0])
    crossed = (lower < breakpoints) & (breakpoints < upper)
    units = np.flatnonzero((crossed.sum(0) == 1) & (post >= 0))
    first = (crossed[:, units].cumsum(0) == 0).sum(0)
    pieces = np.stack([first, first + 1])
    return Hinges(forms.take(units), post[units], slopes[pieces, units], intercepts[pieces, units])
