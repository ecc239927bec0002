"""Whether a network can hold regions in linear pieces of their own at all, decided by linear programs.

A hyperplane *splits* a set of regions if it cuts none of them and has some of them on each side. Some ReLU network
gives all regions patterns of their own if and only if every set of two or more of them can be split:

- Only if. Let a set C have no split. As long as its regions share their pattern, the layers so far are one affine map
  on conv(C), since a piece is convex. A unit of the next layer that told two of them apart would be a hyperplane that
  splits their images, and so would be its preimage, a hyperplane too: there is none. By induction they share all.
- If. Let h > 0 on C1 and h < 0 on C2 split C. Behind a first layer with the units ``relu(-h)`` and ``x + c``, c so
  large that these are active, ``h1 + M relu(-h)`` is h1 on C1 and, for M large, positive on all of C2. So each part can
  be split by a later layer without harm to the other, and so on until all are alone.

So one takes any split there is, and goes on with both parts: a set without a split lies on one side of every split,
hence one of the sets that remain is without a split if there is any. Of that set regions are left out as long as the
rest has no split either. If the set C that remains is a pair, its regions meet. Else C without k has a split, for each
k, and this hyperplane cuts k: cut in two there, C has a split.

With ``|w|_inf <= 1`` and signs s_i the linear program

    max t   subject to   s_i (w v + b) >= t + sum_k |w g_ik|   for the points v and generators g_ik of region i

has t > 0 if and only if these sides can be had. Regions that its hyperplane cuts get a side next, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from polyopt.police.hulls import Hull, hulls
from polyopt.regions import Region
from polyopt.regions.lp import LinearProgram

GAP = 1e-9  # of the size of all regions: what is nearer counts as touching


@dataclass(frozen=True, eq=False)
class Cut:
    """``subdivide(regions[region], normal, offset)`` takes away what keeps a set of regions together."""

    region: int
    normal: np.ndarray  # (n,)
    offset: float


@dataclass(frozen=True, eq=False)
class Separability:
    """The answer, true or false as a condition; if false, the smallest set found, why, and what to cut."""

    separable: bool
    together: tuple[int, ...] = ()
    reason: str = ""
    cut: Cut | None = None

    def __bool__(self) -> bool:
        return self.separable


def separable(regions: Sequence[Region]) -> Separability:
    """Whether some ReLU network can give all regions patterns of their own.

    ValueError for regions of different dimensions, ellipsoids, and a list without any.

    >>> from polyopt import Box, VPolytope, subdivide
    >>> bool(separable([Box([0.0], [1.0]), Box([2.0], [3.0])]))
    True
    >>> bars = [[[1, 0], [6, 0]], [[4, 1], [2, 6]], [[2, 4], [-1, -2]]]
    >>> answer = separable([VPolytope(bar) for bar in bars])  # a pinwheel: each points at the side of another
    >>> answer.separable, answer.together
    (False, (0, 1, 2))
    >>> k, cut = answer.cut.region, answer.cut
    >>> parts = subdivide(VPolytope(bars[k]), cut.normal, cut.offset)
    >>> bool(separable([*parts, *(VPolytope(bar) for i, bar in enumerate(bars) if i != k)]))
    True
    """
    planes = Planes(hulls(regions))
    members = _unsplit(planes, list(range(len(planes.hulls))))
    if members is None:
        return Separability(True)
    members = _smallest(planes, members)
    if len(members) == 2:
        i, j = members
        reason = (
            f"regions {i} and {j} meet or touch; make them smaller, or one region of both (what is nearer than {GAP:g} "
            "of the size of all regions counts as touching)"
        )
        return Separability(False, (i, j), reason)
    cut = _cut(planes, members)
    names = ", ".join(map(str, members))
    reason = (
        f"every hyperplane with some of the regions {names} on each side cuts one of them, so that no network gives "
        f"them patterns of their own; cut region {cut.region} in two: subdivide(region, cut.normal, cut.offset)"
    )
    return Separability(False, tuple(members), reason, cut)


class Planes:
    """Hyperplanes with given regions on given sides, from one linear program whose rows are switched on and off.

    The variables are w, b, t and, for each region with generators, their ``|w g|``, in coordinates of size one.

    >>> from polyopt import Box
    >>> planes = Planes(hulls([Box([0.0], [1.0]), Box([2.0], [3.0])]))
    >>> w, b = planes.between({0: -1, 1: 1})
    >>> bool(w[0] > 0), bool(1 < -b / w[0] < 2), planes.cuts(w, b)
    (True, True, [])
    """

    def __init__(self, regions: Sequence[Hull]):
        self.hulls = regions
        points, generators = ([getattr(each, name).cpu().numpy() for each in regions] for name in _PARTS)
        ends = [(p - abs(g).sum(0), p + abs(g).sum(0)) for p, g in zip(points, generators, strict=True)]
        low, high = np.min([a.min(0) for a, _ in ends], axis=0), np.max([b.max(0) for _, b in ends], axis=0)
        self.center, self.size = (low + high) / 2, (high - low).max() / 2 or 1.0
        self.points = [(p - self.center) / self.size for p in points]
        self.generators = [g / self.size for g in generators]
        self.counts = [len(p) for p in self.points]
        self.program = self._program()

    def _program(self) -> LinearProgram:
        n, counts = len(self.center), [len(g) for g in self.generators]
        auxiliary = sp.block_diag([np.ones((1, k)) for k in counts]) if sum(counts) else np.zeros((len(counts), 0))
        reach = sp.csr_array(np.repeat(np.eye(len(counts)), self.counts, axis=0)) @ sp.csr_array(auxiliary)
        points = sp.csr_array(np.hstack([np.vstack(self.points), np.ones((sum(self.counts), 1))]))
        one = sp.csr_array(np.ones((sum(self.counts), 1)))
        g = sp.csr_array(np.vstack(self.generators))
        none, unit = sp.csr_array((g.shape[0], 2)), sp.eye_array(g.shape[0])
        rows = [[points, -one, -reach], [points, one, reach]]
        if g.shape[0]:
            sides = [sp.hstack([turn * g, none, unit]) for turn in (1, -1)]
            rows = [sp.hstack(row) for row in rows] + sides
        else:
            rows = [sp.hstack(row[:2]) for row in rows]
        self.extra = 2 * g.shape[0]
        limit = np.concatenate([np.ones(n), [n, 2 * n], np.full(g.shape[0], np.inf)])
        return LinearProgram(sp.vstack(rows), -np.inf, np.inf, -np.append(limit[: n + 2], np.zeros(g.shape[0])), limit)

    def between(self, sides: dict[int, int]) -> tuple[np.ndarray, float] | None:
        """w and b with ``w x + b`` positive on regions with side +1 and negative on those with -1; None if none has.

        The gap is as large as it can be, for the largest coefficient of w.
        """
        side = np.repeat([sides.get(i, 0) for i in range(len(self.counts))], self.counts)
        lower = np.concatenate([np.where(side > 0, 0.0, -np.inf), np.full(len(side), -np.inf), np.zeros(self.extra)])
        upper = np.concatenate([np.full(len(side), np.inf), np.where(side < 0, 0.0, np.inf)])
        self.program.set_rows(lower, np.append(upper, np.full(self.extra, np.inf)))
        n = len(self.center)
        found = self.program.maximizer(np.eye(1, n + 2 + self.extra // 2, n + 1)[0])
        w = found[:n] / self.size
        return (w, found[n] - w @ self.center) if found[n + 1] > GAP else None

    def cuts(self, w: np.ndarray, b: float) -> list[int]:
        """The regions on neither side, the one cut most evenly first."""
        middles = [p * self.size @ w + self.center @ w + b for p in self.points]
        reaches = [abs(g * self.size @ w).sum() for g in self.generators]
        room = [min((m - r).min() * -1, (m + r).max()) for m, r in zip(middles, reaches, strict=True)]
        return sorted((i for i, r in enumerate(room) if r > -GAP * abs(w).max() * self.size), key=lambda i: -room[i])

    def split(self, members: Sequence[int]) -> tuple[dict[int, int], np.ndarray, float] | None:
        """Sides of the members, w and b of a hyperplane that splits them; None where none does."""
        first, *others = members
        for other in others:
            if found := self._complete({first: 1, other: -1}, members):
                return found
        return None

    def _complete(self, sides: dict[int, int], members: Sequence[int]):
        """Give every member a side, by depth first search."""
        plane = self.between(sides)
        if plane is None:
            return None
        w, b = plane
        left = [i for i in self.cuts(w, b) if i in members]
        if not left:
            heights = {i: self.points[i].mean(0) * self.size @ w + self.center @ w + b for i in members}
            return {i: 1 if height > 0 else -1 for i, height in heights.items()}, w, b
        k = left[0]
        return self._complete(sides | {k: 1}, members) or self._complete(sides | {k: -1}, members)


_PARTS = ("points", "generators")


def _unsplit(planes: Planes, members: list[int]) -> list[int] | None:
    """Members that stay together whatever splits the others; None if all can be told apart."""
    if len(members) < 2:
        return None
    found = planes.split(members)
    if found is None:
        return members
    parts = [[i for i in members if found[0][i] == side] for side in (1, -1)]
    return _unsplit(planes, parts[0]) or _unsplit(planes, parts[1])


def _smallest(planes: Planes, members: list[int]) -> list[int]:
    """Leave out members as long as what remains has a set without a split."""
    for k in list(members):
        rest = [i for i in members if i != k]
        if k in members and (found := _unsplit(planes, rest)):
            members = found
    return members


def _cut(planes: Planes, members: list[int]) -> Cut:
    """A hyperplane that splits all but one of the members, which it cuts: of these the one that it cuts most evenly."""
    choices = []
    for k in members:
        _, w, b = planes.split([i for i in members if i != k])
        values = planes.points[k] * planes.size @ w + planes.center @ w + b
        reach = abs(planes.generators[k] * planes.size @ w).sum()
        low, high = values.min() - reach, values.max() + reach
        choices.append((min(-low, high) / (high - low), k, w, b))
    _, k, w, b = max(choices, key=lambda choice: choice[0])
    return Cut(k, w, -b)
