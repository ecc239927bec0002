"""The point nearest to the origin in each polyhedron of a batch, by a dual active set that takes several rows at once.

    minimize 1/2 |x|^2   subject to   s_i (n_i'x - e_i) >= 0,   s_i = +1 or -1                           (P)
    maximize e't - 1/2 t'K t   subject to   s_i t_i >= 0,       K = N N',   x = N't                      (D)

Every strictly convex quadratic program is one of these in other coordinates. The rows n_i have length 1 (or 0), so
that ``s_i v_i``, v = K t - e, are signed distances. The constraints of (D) are signs, and its gradient for the whole
batch is one product with K where all problems have the same rows. From t = 0 and no active rows A, each iteration

1. takes rows into A where t is the maximum of its face: of each run of neighbouring rows, which are often alike, the
   one violated most, and of these the `TAKEN` worst, if they come near the worst of all;
2. moves t towards the maximum of the new face, K_AA t_A = e_A, up to the first signs that would change; those rows
   leave A.

Where the new rows depend on A, the worst of them, p, is exchanged: along t_A - s_p r, t_p + s_p with K_AA r = K_Ap the
point N't stands still, until some t_j is 0, and j leaves A. If none ever is, the direction proves that (P) has no
feasible point: N't = 0 and e't > 0.

The dual objective never falls, and it rises from the maximum of a face to the next: of the rows taken at once at least
one gets the right sign, since the gradient along their directions is positive. So no A comes twice, and all is finite.
The systems of A are few and small, and factored anew in each iteration, so that no rounding errors gather.

Sources: Goldfarb and Idnani, A numerically stable dual method for solving strictly convex quadratic programs,
Mathematical Programming 27, 1983, one row at a time; Lawson and Hanson, Solving least squares problems, 1974, chapter
23, the same ascent seen from the dual; Portugal, Judice and Vicente, A comparison of block pivoting and interior-point
algorithms, Mathematics of Computation 63, 1994, for several rows at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from polyopt.qp.linalg import largest, times, transposed_times
from polyopt.qp.problem import Status

RUNS = (8, 7, 6, 5, 4)  # of neighbouring rows; the number that leaves the least over
TAKEN = 4  # rows at once
NEAR = 0.3  # of the worst violation, for the others
DEPENDENT = 1e-12  # squared length of a combination of rows, of the sum of its squared coefficients
PIVOT = 1e-9  # of the largest coordinate, for a row to be exchanged
VIOLATED = 1e-13  # of the terms that a violation is summed from
REFINED = 1e-14  # of the same
ACCEPTED = 1e-10  # of the distances, and of the same
REFINEMENTS = 4
FAR = 1e8  # times as far as the farthest violated row a feasible point would be, for a proof that there is none
WORTHWHILE = 0.5  # of the problems, for them to be put aside
PAUSE = 8  # iterations on CUDA between looks at what is finished, for which the host waits
RUNNING = -1
BATCHED = ("e", "s", "scale", "t", "place", "status", "iterations", "settled", "rows", "L", "candidates", "distances")


class Nearest(NamedTuple):
    """The solutions of a batch, in the coordinates of (D)."""

    t: Tensor  # (B, m): multipliers, or a proof where a problem is infeasible
    rows: Tensor  # (B, k): the active rows in their order; m fills up
    L: Tensor  # (B, k, k): the Cholesky factor of K_AA; of the identity beyond
    status: Tensor  # (B,)
    iterations: Tensor  # (B,)


def least_distance(N: Tensor, e: Tensor, s: Tensor, max_iterations: int) -> Nearest:
    """Solve (P) for N (1 or B, m, n) and e, s (B, m), in float64.

    A problem has the status of the iteration limit too if rounding errors spoil it: if neither its solution nor the
    proof that it has none is as good as the constants of this file ask.

    >>> N = torch.eye(2, dtype=torch.float64)[None]
    >>> e = torch.tensor([[3.0, -1.0], [3.0, 4.0]], dtype=torch.float64)
    >>> least_distance(N, e, torch.ones_like(e), 10).t  # nearest in x >= (3, -1) and in x >= (3, 4)
    tensor([[3., 0.],
            [3., 4.]], dtype=torch.float64)
    """
    K = (N[0] @ N[0].mT)[None] if len(N) == 1 else N @ N.mT
    m = e.shape[1]
    runs = min(RUNS, key=lambda count: count - m % count) if m >= max(RUNS) else m + 1
    extra = runs - m % runs  # a row of zeros, which fills the lists of active rows, and more for runs of one length
    K, e, s = pad(K, (0, extra, 0, extra)), pad(e, (0, extra)), pad(s, (0, extra), value=1.0)
    scale = (s * e).amax(1, keepdim=True)
    found = _refined(K, e, s, scale, _Ascent(K, e, s, scale, m, N.shape[2], runs).run(max_iterations))
    t = found.t[:, :m]
    apart = FAR * torch.linalg.vector_norm(transposed_times(N, t), dim=1, keepdim=True) * scale
    proved = (apart < (e[:, :m] * t).sum(1, keepdim=True))[:, 0]
    status = torch.where((found.status == Status.INFEASIBLE) & ~proved, Status.ITERATION_LIMIT, found.status)
    return found._replace(t=t, status=status)


def _refined(K: Tensor, e: Tensor, s: Tensor, scale: Tensor, found: Nearest) -> Nearest:
    """Multipliers to machine precision; the status of the iteration limit for a problem that they do not solve."""
    solved, t = (found.status == Status.OPTIMAL)[:, None], found.t
    terms = scale + t.abs().sum(1, keepdim=True)
    for _ in range(REFINEMENTS):
        v = times(K, t) - e
        off = torch.where(solved, v.gather(1, found.rows), 0.0)
        if bool((largest(off) <= REFINED * terms)[solved].all()):
            break
        t = t.scatter_add(1, found.rows, -torch.cholesky_solve(off[:, :, None], found.L)[:, :, 0])
    outside = torch.maximum((-s * v).scatter(1, found.rows, 0.0).amax(1, keepdim=True), largest(off))
    # multipliers of rows that nearly depend on each other are large, and no measure of the point that they cancel to
    length = (t * times(K, t)).sum(1, keepdim=True).clamp(min=0).sqrt()
    good = (outside <= ACCEPTED * (scale + length)) & ((-s * t).amax(1, keepdim=True) <= ACCEPTED * terms)
    t = torch.where(solved, s * (s * t).clamp(min=0), t)
    return found._replace(t=t, status=torch.where((solved & ~good)[:, 0], Status.ITERATION_LIMIT, found.status))


class _Ascent:
    """The problems of a batch that are still in work, each at its own step of the method."""

    def __init__(self, K: Tensor, e: Tensor, s: Tensor, scale: Tensor, empty: int, n: int, runs: int):
        self.K, self.e, self.s, self.scale = K, e, s, scale
        self.empty, self.n, self.runs = empty, n, runs
        self.waits = e.is_cuda  # the host for the device, if it counts anything
        self.t = torch.zeros_like(e)
        self.place = torch.arange(len(e), device=e.device)
        self.status = torch.full((len(e), 1), RUNNING, device=e.device)
        self.iterations = torch.zeros_like(self.status)
        self.settled = torch.ones_like(self.status, dtype=torch.bool)  # whether t is the maximum of its face
        self.rows = torch.full((len(e), 1), empty, device=e.device)
        self.L = torch.ones_like(e[:, :1, None])
        self.finished = []

    def run(self, limit: int) -> Nearest:
        pause = PAUSE if self.waits else 1
        for iteration in range(limit + 1):
            self.look()
            if (iteration % pause == 0 or iteration == limit) and self.leave(everyone=iteration == limit):
                break
            stuck = self.enter(trim=iteration % pause == 0)
            self.climb(stuck)
            self.exchange(stuck)
        return self.collect()

    def look(self) -> None:
        """Find candidates (B, taken) and their signed distances, the worst first; a problem without any is solved."""
        v = torch.addmm(self.e, self.t, self.K[0], beta=-1) if len(self.K) == 1 else times(self.K, self.t) - self.e
        distance = v.mul_(self.s).scatter_(1, self.rows, torch.inf)
        values, at = distance.unflatten(1, (self.runs, -1)).min(2)
        self.distances, run = values.topk(min(TAKEN, self.runs), largest=False)
        self.candidates = at.gather(1, run) + run * (v.shape[1] // self.runs)
        worst, terms = self.distances[:, :1], self.scale + self.t.abs().sum(1, keepdim=True)
        running = self.status == RUNNING
        self.status.masked_fill_(running & self.settled & (worst >= -VIOLATED * terms), Status.OPTIMAL)
        self.iterations += running

    def enter(self, trim: bool) -> Tensor:
        """Let the candidates in and factor; where A would become dependent (B, 1) it stays as it was, and L is void."""
        near = self.distances <= NEAR * self.distances[:, :1]
        new = torch.where((self.status == RUNNING) & self.settled & near, self.candidates, self.empty)
        rows = torch.cat([self.rows, new], 1).sort(1).values
        if trim:
            rows = rows[:, : max(1, int((rows != self.empty).sum(1).max()))]
        self.L, info = self.factor(rows)
        pivots = self.L.diagonal(dim1=1, dim2=2)
        void = (info[:, None] > 0) | (pivots.square().amin(1, keepdim=True) <= DEPENDENT)
        stuck = (void | ((rows != self.empty).sum(1, keepdim=True) > self.n)) & (self.status == RUNNING)
        self.status.masked_fill_(stuck & ~self.settled, Status.ITERATION_LIMIT)  # a fault of rounding errors
        before = pad(self.rows, (0, rows.shape[1] - self.rows.shape[1]), value=self.empty)
        self.rows = torch.where(stuck, before, rows)
        return stuck & self.settled

    def climb(self, stuck: Tensor) -> None:
        """Towards the maximum of each face, up to the first signs that change; those rows go."""
        t, s = self.t.gather(1, self.rows), self.s.gather(1, self.rows)
        top = torch.cholesky_solve(self.e.gather(1, self.rows)[:, :, None], self.L)[:, :, 0]
        now, then = (t * s).clamp(min=0), top * s
        steps = torch.where(then < 0, now / (now - then), torch.inf)
        step = steps.amin(1, keepdim=True)
        climbing = (self.status == RUNNING) & ~stuck
        blocked = climbing & (step <= 1)
        gone = blocked & (steps <= step)
        moved = torch.where(blocked, torch.where(gone, 0.0, torch.lerp(t, top, step)), top)
        self.t.scatter_(1, self.rows, torch.where(climbing, moved, t))
        self.rows = torch.where(gone, self.empty, self.rows)
        self.settled = ~blocked

    def exchange(self, stuck: Tensor) -> None:
        """Let the worst candidate in where not all could come, for another row if it depends on A."""
        index = torch.arange(len(stuck), device=stuck.device) if self.waits else stuck[:, 0].nonzero()[:, 0]
        if not len(index):
            return
        stuck = stuck[index]
        rows, p, t, s = self.rows[index], self.candidates[index, :1], self.t[index], self.s[index]
        k = self.gram(rows, p, index)
        r = torch.cholesky_solve(k, self.factor(rows, index)[0])
        rho = (self.gram(p, p, index) - k.mT @ r)[:, :, 0]
        r, sign = r[:, :, 0], s.gather(1, p)
        full = (rows != self.empty).sum(1, keepdim=True) >= self.n
        depends = stuck & (full | (rho <= DEPENDENT * (1 + r.square().sum(1, keepdim=True))))
        along = r * sign * s.gather(1, rows)
        steps = torch.where(along > PIVOT * largest(r), t.gather(1, rows).abs() / along, torch.inf)
        step, slot = steps.min(1, keepdim=True)
        endless, swap = depends & torch.isinf(step), depends & ~torch.isinf(step)
        move = sign * torch.where(endless, 1.0, torch.where(swap, step, 0.0))
        t = torch.where(endless, 0.0, t).scatter_add(1, rows, -move * r).scatter_add(1, p, move)
        gone = torch.where(swap, rows.gather(1, slot), self.empty)
        self.t[index] = t.scatter(1, gone, 0.0)
        new = torch.where(stuck & ~endless, p, self.empty)
        rows = torch.cat([torch.where(rows == gone, self.empty, rows), new], 1)
        self.rows = pad(self.rows, (0, 1), value=self.empty)
        self.rows[index] = rows.sort(1).values
        self.status[index] = torch.where(endless, Status.INFEASIBLE, self.status[index])
        self.settled[index] &= ~stuck

    def gram(self, left: Tensor, right: Tensor, index: Tensor | None = None) -> Tensor:
        """The products (B, i, j) of rows (B, i) and rows (B, j), for the problems at ``index``."""
        M = self.K.shape[-1]
        at = left[:, :, None] * M + right[:, None]
        if len(self.K) > 1:
            first = torch.arange(0, self.K.numel(), M * M, device=at.device)
            at = at + (first if index is None else first[index])[:, None, None]
        return self.K.view(-1).index_select(0, at.view(-1)).view_as(at)

    def factor(self, rows: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The Cholesky factors of K_AA, with units where there is no row, and where that failed."""
        S = self.gram(rows, rows, index)
        S.diagonal(dim1=1, dim2=2).add_(rows == self.empty)
        return torch.linalg.cholesky_ex(S)

    def leave(self, everyone: bool) -> bool:
        """Put aside the problems that are finished; whether none is left."""
        if everyone:
            self.status.masked_fill_(self.status == RUNNING, Status.ITERATION_LIMIT)
        done = (self.status != RUNNING)[:, 0]
        if int(done.sum()) < WORTHWHILE * len(done):
            return False
        gone, index = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
        parts = self.place, self.t, self.rows, self.L, self.status[:, 0], self.iterations[:, 0]
        self.finished.append([x.index_select(0, gone) for x in parts])
        for name in BATCHED if len(self.K) == 1 else ("K", *BATCHED):
            setattr(self, name, getattr(self, name).index_select(0, index))
        return not len(index)

    def collect(self) -> Nearest:
        """All problems, in their order."""
        width = max(rows.shape[1] for _, _, rows, *_ in self.finished)
        for part in self.finished:
            part[2] = pad(part[2], (0, width - part[2].shape[1]), value=self.empty)
            part[3] = pad(part[3], (0, width - part[3].shape[1], 0, width - part[3].shape[1]))
        place, t, rows, L, status, iterations = (torch.cat(parts) for parts in zip(*self.finished, strict=True))
        # where a problem is not solved, L may be that of other rows
        void = (status != Status.OPTIMAL)[:, None]
        rows, L = torch.where(void, self.empty, rows), torch.where(void[:, :, None], 0.0, L)
        L.diagonal(dim1=1, dim2=2).masked_fill_(rows == self.empty, 1.0)
        order = place.argsort()
        return Nearest(*(x.index_select(0, order) for x in (t, rows, L, status, iterations)))
