"""Simplices among a layer's incoming variables: groups that are non-negative and sum to one, such as one-hot inputs.

Over a product of simplices and intervals the convex hull of a unit's disjunction has, beside the bounds of its copies
``x_j^k`` of the inputs in each piece k, one row for each simplex and piece (Balas 1998; Anderson et al. 2020, section
on products of simplices, write the same hull by cuts):

    sum_{j in simplex} x_j^k <= lambda_k

Summed over the pieces this is ``sum_j x_j <= 1``, which holds with equality, so each row does too. Where an input of
the simplex has no copies, because the unit has no weight on it, the others' sum is only bounded: the copies left out
take what remains, and are not negative. The rows are then the projection of the hull, unless the inputs left out are
bounded to less than [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse as sp


def checked_simplices(groups: Iterable[Sequence[int]], size: int, where: str) -> tuple[np.ndarray, ...]:
    """The groups as arrays of positions; ValueError where one is empty, out of range, or meets itself or another.

    >>> checked_simplices([[0, 1], range(2, 4)], 5, "layer 'hidden'")
    (array([0, 1]), array([2, 3]))
    """
    found, taken = tuple(np.asarray(group) for group in groups), np.zeros(size, dtype=int)
    for group in found:
        if group.ndim != 1 or group.dtype.kind not in "iu" or ((group < 0) | (group >= size)).any():
            raise ValueError(
                f"{where}: a simplex is a sequence of positions among {size} inputs, counted from 0, "
                f"but one of simplices is {group.tolist()}"
            )
        np.add.at(taken, group, 1)
        if taken.max() > 1:
            raise ValueError(
                f"{where}: input {taken.argmax()} is named twice in simplices; one input is in one simplex"
            )
    return found


def simplex_of(simplices: Sequence[np.ndarray], size: int) -> np.ndarray:
    """For each of ``size`` inputs the number of its simplex, -1 where it is in none.

    >>> simplex_of([np.array([0, 3]), np.array([1])], 5)
    array([ 0,  1, -1,  0, -1])
    """
    number = np.full(size, -1)
    for k, group in enumerate(simplices):
        number[group] = k
    return number


def membership(simplices: Sequence[np.ndarray], size: int) -> sp.csr_array:
    """The matrix (s, size) that sums the inputs of each simplex.

    >>> membership([np.array([0, 3]), np.array([1])], 4).toarray()
    array([[1., 0., 0., 1.],
           [0., 1., 0., 0.]])
    """
    number = simplex_of(simplices, size)
    (members,) = np.nonzero(number >= 0)
    return sp.csr_array((np.ones(len(members)), (number[members], members)), shape=(len(simplices), size))


def simplex_sums(simplices, size: int, owner, column) -> tuple[sp.csr_array, np.ndarray]:
    """The sums over a simplex of the copies of one owner: matrix (r, n), and the owner (r,) of each.

    Copy v of the n is one of input ``column[v]`` and belongs to ``owner[v]``; -1 says that v is no copy of an input.

    >>> owner, column = np.array([7, 7, 7, 8, 8]), np.array([2, 0, 3, -1, 0])
    >>> sums, owner = simplex_sums([np.array([0, 2])], 4, owner, column)
    >>> sums.toarray(), owner
    (array([[1., 1., 0., 0., 0.],
           [0., 0., 0., 0., 1.]]), array([7, 8]))
    """
    simplex = np.where(column >= 0, simplex_of(simplices, size)[column], -1)
    (here,) = np.nonzero(simplex >= 0)
    count = len(simplices)
    keys, row = np.unique(owner[here] * count + simplex[here], return_inverse=True)
    return sp.csr_array((np.ones(len(here)), (row, here)), shape=(len(keys), len(owner))), keys // count
