"""An optimisation as the search asks it: of a network on a box, whose first row is least where the others are met.

With x = x(z), ``z in box, R z <= s`` for the region (`polyopt.search.coordinates`) and the rows ``A x <= b``,

    min  c f(x) + p x   subject to   A x <= b,   R z <= s

has rows on the outputs of ``g(z) = (f(x), A x, p x, R z)``. A row that is a constraint may be multiplied with any
positive number: it gets a power of two, so that it varies about as much as the objective, and so do steps along their
prices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polyopt.network import Network
from polyopt.regions import Region
from polyopt.search.coordinates import Coordinates, coordinates, moved
from polyopt.search.inside import Inside
from polyopt.search.question import Target

SAMPLES = 256


class Program(NamedTuple):
    """The network g, its one target, the way back to the region, and the points of the box that satisfy all rows."""

    net: Network
    target: Target
    where: Coordinates
    inside: Inside


def program(
    net: Network, region: Region, c: np.ndarray, p: np.ndarray, constraints: tuple[np.ndarray, np.ndarray]
) -> Program:
    """To minimise ``c f(x) + p x`` with c (n_out,) and p (n_in,) over a region where ``A x <= b``."""
    where, (A, b) = coordinates(region), constraints
    if p.any():
        g = moved(net, where, np.vstack([A, p]))
        objective = np.concatenate([c, np.zeros(len(A)), np.ones(1), np.zeros(len(where.s))])
    else:
        g = moved(net, where, A)
        objective = np.concatenate([c, np.zeros(len(A) + len(where.s))])
    first = net.output_size
    outputs = np.concatenate(
        [np.arange(first, first + len(A)), np.arange(len(objective) - len(where.s), len(objective))]
    )
    rows, limits = np.eye(len(objective))[outputs], np.concatenate([b, where.s])
    values = g(where.box.sample(SAMPLES, np.random.default_rng(0)))
    scales = _powers(values @ objective, values[:, outputs])
    rows, limits = np.vstack([objective, scales[:, None] * rows]), np.concatenate([[0.0], scales * limits])
    return Program(g, Target(where.box, rows, limits), where, _inside(where, A, b))


def _powers(objective: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Powers of two (m,) with which rows (k, m) vary as the objective (k,) does."""
    spread, spreads = np.std(objective), np.std(rows, axis=0)
    known = (spreads > 0) & (spread > 0)
    ratios = np.where(known, spread / np.where(known, spreads, 1.0), 1.0)
    return 2.0 ** np.clip(np.round(np.log2(ratios)), -60, 60)


def _inside(where: Coordinates, A: np.ndarray, b: np.ndarray) -> Inside:
    c, M, e, E, box, R, s = where
    reach = np.maximum(abs(box.lower), abs(box.upper))
    G = np.vstack([A @ M @ E, R])
    h = np.concatenate([b - A @ (c + M @ e), s])
    sizes = [abs(A) @ (abs(c) + abs(M) @ (abs(e) + abs(E) @ reach)) + abs(b), abs(R) @ reach + abs(s)]
    return Inside(box, G, h, np.concatenate(sizes), sum(M.shape) + sum(E.shape))
