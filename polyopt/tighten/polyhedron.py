"""A polyhedron in a box, ``row_lower - slack <= A x <= row_upper + slack``, ``lower <= x <= upper``, that grows.

It encloses the values of a network: whatever the network computes in exact arithmetic from a point of the region,
together with the auxiliary coordinates of that point, is a point of it. Coefficients are floats as they stand; where
rounding has made a row from others, ``slack`` is what that may have cost on the box. Programs are solved without it, as
1e-15 is nothing to their tolerances; `polyopt.tighten.certificate`, which proves what they say, counts it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp


def _none() -> np.ndarray:
    return np.empty(0)


@dataclass(eq=False)
class Polyhedron:
    """Bounds (n,) on the columns, which are finite; a sparse matrix (m, n) with its rows' sides and slack (m,).

    >>> polyhedron = Polyhedron()
    >>> polyhedron.add_columns([0.0, 0.0], [1.0, 2.0])
    array([0, 1])
    >>> polyhedron.add_rows(sp.csr_array([[1.0, 1.0]]), [-np.inf], [1.5])
    >>> polyhedron.matrix.toarray(), polyhedron.row_upper, polyhedron.slack
    (array([[1., 1.]]), array([1.5]), array([0.]))
    """

    lower: np.ndarray = field(default_factory=_none)
    upper: np.ndarray = field(default_factory=_none)
    matrix: sp.csr_array = field(default_factory=lambda: sp.csr_array((0, 0)))
    row_lower: np.ndarray = field(default_factory=_none)
    row_upper: np.ndarray = field(default_factory=_none)
    slack: np.ndarray = field(default_factory=_none)
    _transposed: tuple = field(default=(), init=False, repr=False)

    @property
    def transposed(self) -> tuple[sp.csc_array, sp.csc_array]:
        """The matrix's transpose and that of its magnitudes: made once for all programs over the same rows."""
        if not self._transposed or self._transposed[0] is not self.matrix:
            self._transposed = self.matrix, (self.matrix.T, abs(self.matrix).T)
        return self._transposed[1]

    @property
    def magnitude(self) -> np.ndarray:
        """The greatest ``|x|`` (n,) between the bounds."""
        return np.maximum(abs(self.lower), abs(self.upper))

    def add_columns(self, lower, upper) -> np.ndarray:
        """New columns with these bounds, in no row yet; returns their numbers."""
        first = len(self.lower)
        self.lower, self.upper = np.append(self.lower, lower), np.append(self.upper, upper)
        self.matrix = widened(self.matrix, len(self.lower))
        return np.arange(first, len(self.lower))

    def add_rows(self, matrix: sp.csr_array, lower, upper, slack=0.0) -> None:
        """New rows on the first columns, as many as the matrix has."""
        matrix, count = sp.csr_array(matrix), matrix.shape[0]
        data, indices = (np.append(getattr(self.matrix, name), getattr(matrix, name)) for name in ("data", "indices"))
        starts = np.append(self.matrix.indptr, self.matrix.nnz + matrix.indptr[1:])
        self.matrix = sp.csr_array((data, indices, starts), shape=(len(starts) - 1, len(self.lower)))
        self.row_lower, self.row_upper, self.slack = (
            np.append(known, np.broadcast_to(np.float64(new), count))
            for known, new in ((self.row_lower, lower), (self.row_upper, upper), (self.slack, slack))
        )

    def rows_from(self, first: int) -> tuple[sp.csr_array, np.ndarray, np.ndarray, np.ndarray]:
        """The rows from this number on, as `add_rows` takes them."""
        return self.matrix[first:], self.row_lower[first:], self.row_upper[first:], self.slack[first:]


def widened(matrix: sp.csr_array, columns: int) -> sp.csr_array:
    """The matrix with so many columns, the new ones of zeros."""
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))
