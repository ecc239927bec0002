"""Points of a box that satisfy linear rows ``G z <= h``, and a proof where there are none.

The point deepest inside is that of the linear program

    max t   subject to   G z + t w <= h,   z in the box,

with the sizes w of the numbers in each row. Its dual values y prove that there is no point at all where the least
``y (G z - h)`` over the box is positive. From a point where rows do not hold one goes towards the deepest as far as
they ask for. Where no point has t > 0, as in flat polytopes, rows hold up to `TOLERANCE` times w.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from polyopt.regions import Box
from polyopt.regions.rounding import outward

TOLERANCE = 1e-9
SPARE = 1e-13  # of w, that rows keep where they can, so that they hold however they are evaluated


class Inside:
    """``{z in box : G z <= h}`` for G (m, n); ``deepest`` (n,) is None where there is no point.

    ``sizes`` (m,) are no less than ``|G| |z| + |h|`` on the box, and than the same of the products that G may consist
    of, whose terms together with those of a row are ``terms`` at most.

    >>> inside = Inside(Box([0.0, 0.0], [1.0, 1.0]), np.array([[1.0, 1.0]]), np.array([1.0]), np.array([3.0]), 2)
    >>> bool(inside(np.array([[1.0, 1.0]])).sum() <= 1.0), inside.proven_empty
    (True, False)
    """

    def __init__(self, box: Box, G: np.ndarray, h: np.ndarray, sizes: np.ndarray, terms: int):
        self._box, self._G, self._h, self._terms = box, G, h, terms
        self._sizes = np.maximum(sizes, np.finfo(float).tiny)
        self._weights = np.zeros(len(h))
        self.deepest, depth = box.center, np.inf
        if len(h):
            rows = np.column_stack([G, self._sizes])
            bounds = [*zip(box.lower, box.upper, strict=True), (-4.0, 1.0)]
            found = linprog(-np.eye(rows.shape[1])[-1], rows, h, bounds=bounds, method="highs")
            if found.status != 0:
                raise RuntimeError(f"the linear program for a point of the region ended with: {found.message}")
            self.deepest = np.clip(found.x[:-1], box.lower, box.upper)
            depth = ((h - G @ self.deepest) / self._sizes).min()
            self._weights = np.maximum(-found.ineqlin.marginals, 0.0)
        if depth < -TOLERANCE:
            self.deepest = None
        self._room = (-SPARE if depth > 10.0 * SPARE else TOLERANCE) * self._sizes

    @property
    def proven_empty(self) -> bool:
        """Whether the dual values prove, rounding errors included, that there is no point."""
        y, box = self._weights, self._box
        row = y @ self._G
        least = row @ box.center - abs(row) @ box.radius - y @ self._h
        return bool(outward(-least, 2.0 * (y @ self._sizes), self._terms + sum(self._G.shape) + 8) < 0)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Points (k, n) of the box, moved towards the deepest until all rows hold."""
        if not len(self._h):
            return points
        excess = points @ self._G.T - self._h
        outside = (excess > self._room).any(1)
        if not outside.any():
            return points
        points = points.copy()
        at_deepest = self._G @ self.deepest - self._h
        for shrink in (1.0, 1.0 - 1e-9, 0.0):
            rate = excess[outside] - at_deepest
            room = np.maximum(self._room - at_deepest, 0.0)
            crossed = excess[outside] > self._room
            shares = np.where(crossed, room / np.where(crossed, rate, 1.0), 1.0).min(1)
            moved = self.deepest + shrink * shares[:, None] * (points[outside] - self.deepest)
            points[outside] = np.clip(moved, self._box.lower, self._box.upper)
            excess = points @ self._G.T - self._h
            outside = (excess > self._room).any(1)
            if not outside.any():
                break
        return points
