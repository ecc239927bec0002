"""Pairs (i, j), i < j, of regions, and what sign vectors make of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import networkx as nx
import torch
from torch import Tensor

Pair = tuple[int, int]


def pairs_of(count: int) -> list[Pair]:
    """All pairs of ``count`` regions."""
    return list(itertools.combinations(range(count), 2))


def unseparated(count: int, separated: Iterable[Pair] = ()) -> nx.Graph:
    """The graph of the pairs of ``count`` regions that are not yet separated.

    >>> unseparated(3, [(0, 1), (2, 1)]).edges
    EdgeView([(0, 2)])
    """
    graph = nx.complete_graph(count)
    for pair in separated:
        if not graph.has_edge(*pair) and not (0 <= min(pair) < max(pair) < count):
            raise ValueError(f"mPOLICE: {pair} is no pair of the {count} regions; pairs are (i, j), counted from 0")
        graph.remove_edges_from([pair])
    return graph


def parted(signs: Tensor, pairs: Iterable[Pair]) -> Tensor:
    """Which sign vectors (S, N) give the regions of each pair different signs: bool (S, pairs)."""
    pairs = list(pairs)
    if not pairs:
        return torch.zeros(len(signs), 0, dtype=torch.bool, device=signs.device)
    first, second = (list(side) for side in zip(*pairs, strict=True))
    return signs[:, first] != signs[:, second]


def separated(signs: Tensor, pairs: Iterable[Pair], able: Tensor) -> list[bool]:
    """For each pair whether a unit that is ``able`` (units,) has it on different sides, for the units' signs."""
    return (parted(signs, pairs) & able[:, None]).any(0).tolist()
