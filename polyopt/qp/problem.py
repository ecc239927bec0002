"""A batch of convex quadratic programs, and what their solution consists of.

    minimize 1/2 z'Qz + p'z   subject to   A z = b,   G z <= h                                           (2)

with multipliers nu of the equalities and lam >= 0 of the inequalities, and slack s = h - G z:

    Q z + p + A'nu + G'lam = 0,   A z = b,   G z + s = h,   s, lam >= 0,   s_i lam_i = 0                  (4)

Inside, C = [A; G] and d = [b; h] are all constraints, y = [nu; lam] all multipliers, equalities first.

Source: Amos and Kolter, OptNet: differentiable optimization as a layer in neural networks, ICML 2017, equations 2 to 4;
https://arxiv.org/abs/1703.00443.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import torch
from torch import Tensor

from polyopt.qp.linalg import largest, take, times, transposed_times

SHAPES = {"Q": "nn", "p": "n", "G": "mn", "h": "m", "A": "kn", "b": "k"}


class Status(IntEnum):
    """How the solve of one problem ended."""

    OPTIMAL = 0
    INFEASIBLE = 1
    UNBOUNDED = 2
    ITERATION_LIMIT = 3


@dataclass(frozen=True)
class Solution:
    """The solutions of a batch; without the batch dimension where no argument had one.

    ``status`` holds the codes of `Status`, ``names`` the same in words. Where a problem is not optimal:

    - infeasible: ``z`` and ``s`` are NaN, and ``lam``, ``nu`` prove it (Farkas): lam >= 0, G'lam + A'nu = 0 and
      h'lam + b'nu = -1, so that no z can have G z <= h and A z = b;
    - unbounded: all four are NaN, and ``ray`` proves it: G ray <= 0, A ray = 0, Q ray = 0 and p'ray = -1;
    - iteration limit: the last point, which ``residual`` says is not the solution.

    ``residual`` is the largest violation of the optimality conditions (4), in the units of the problem, and NaN where
    there is no point.
    """

    z: Tensor  # (B, n)
    lam: Tensor  # (B, m)
    nu: Tensor  # (B, k)
    s: Tensor  # (B, m)
    status: Tensor  # (B,), int64
    iterations: Tensor  # (B,), int64: factorisations of a Newton or an active system
    residual: Tensor  # (B,)
    ray: Tensor  # (B, n), NaN but for unbounded problems

    @property
    def optimal(self) -> Tensor:
        """Which problems are solved: (B,), bool."""
        return self.status == Status.OPTIMAL

    @property
    def names(self) -> list[str]:
        """The status of each problem in words, as "iteration limit"."""
        return [Status(code).name.lower().replace("_", " ") for code in self.status.flatten().tolist()]

    def squeeze(self) -> Solution:
        """The only problem of the batch, without the batch dimension."""
        return Solution(*(getattr(self, field.name)[0] for field in fields(self)))


@dataclass(frozen=True)
class Problem:
    """A batch of problems; each tensor has the leading dimension B, or 1 where it is shared."""

    Q: Tensor  # (1 or B, n, n)
    p: Tensor  # (1 or B, n)
    G: Tensor  # (1 or B, m, n)
    h: Tensor  # (1 or B, m)
    A: Tensor  # (1 or B, k, n)
    b: Tensor  # (1 or B, k)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Q, p, G, h, A, b."""
        return self.Q, self.p, self.G, self.h, self.A, self.b

    @property
    def batch(self) -> int:
        """B."""
        return max(map(len, self.tensors))

    @property
    def equalities(self) -> int:
        """k."""
        return self.A.shape[1]

    @property
    def inequalities(self) -> int:
        """m."""
        return self.G.shape[1]

    def symmetric(self) -> Problem:
        """The same problem with the symmetric part of Q, which is all that matters of it."""
        return replace(self, Q=(self.Q + self.Q.mT).div_(2))

    def take(self, index: Tensor) -> Problem:
        """Some problems of the batch."""
        return Problem(*(take(x, index) for x in self.tensors))

    def part(self, where: slice) -> Problem:
        """A run of neighbours in the batch."""
        return Problem(*(x if len(x) == 1 else x[where] for x in self.tensors))

    def rows(self, index: Tensor) -> Problem:
        """The same problems with some of their inequalities each: index (B, r)."""
        batch = torch.arange(len(index), device=index.device)[:, None]
        G = self.G[0, index] if len(self.G) == 1 else self.G[batch, index]
        h = self.h[0, index] if len(self.h) == 1 else self.h[batch, index]
        return replace(self, G=G, h=h)

    def apply(self, z: Tensor) -> Tensor:
        """C z, of shape (B, k + m)."""
        return torch.cat([times(self.A, z), times(self.G, z)], -1) if self.equalities else times(self.G, z)

    def pull(self, y: Tensor) -> Tensor:
        """C'y, of shape (B, n)."""
        k = self.equalities
        along = transposed_times(self.G, y[:, k:])
        return along + transposed_times(self.A, y[:, :k]) if k else along

    @property
    def C(self) -> Tensor:
        """[A; G], of shape (1 or B, k + m, n)."""
        return self.G if not self.equalities else torch.cat(alike(self.A, self.G), 1)

    @property
    def d(self) -> Tensor:
        """[b; h], of shape (1 or B, k + m)."""
        return torch.cat(alike(self.b, self.h), -1)

    def residual(self, z: Tensor, y: Tensor) -> Tensor:
        """The largest violation of (4) at a point: (B,)."""
        k = self.equalities
        stationarity = transposed_times(self.Q, z) + self.p + self.pull(y)
        gap, lam = self.d - self.apply(z), y[:, k:]
        violations = (stationarity, gap[:, :k], gap[:, k:].clamp(max=0), lam.clamp(max=0), lam * gap[:, k:])
        return torch.cat([largest(v) for v in violations], -1).amax(-1)


def alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors with the same leading dimension."""
    size = max(len(x), len(y))
    return x.expand(size, *x.shape[1:]), y.expand(size, *y.shape[1:])


def read(*arguments: Tensor | None) -> tuple[Problem, bool]:
    """The problem of the arguments Q, p, G, h, A, b, and whether any of them has a batch dimension.

    Half precision becomes float32, and mixed precisions the finest of them. ValueError for what makes no problem.
    """
    given = dict(zip(SHAPES, arguments, strict=True))
    for matrix, vector in (("G", "h"), ("A", "b")):
        if (given[matrix] is None) != (given[vector] is None):
            raise ValueError(f"qp: {matrix} and {vector} belong together; give both, or None for both")
    for name, x in given.items():
        if x is not None and not isinstance(x, Tensor):
            raise ValueError(f"qp: {name} is a {type(x).__name__}, but must be a torch tensor")
        if x is None and name in "Qp":
            raise ValueError(f"qp: {name} is missing")
    present = {name: x for name, x in given.items() if x is not None}
    _check_kinds(present)
    dtype = torch.float32
    for x in present.values():
        dtype = torch.promote_types(dtype, x.dtype)
    n = given["p"].shape[-1] if given["p"].dim() else 0
    empty = {name: given["p"].new_empty([0, n] if len(SHAPES[name]) == 2 else [0]) for name in given}
    full = {name: (empty[name] if x is None else x).to(dtype) for name, x in given.items()}
    batched = _check_shapes(full)
    full = {name: x if name in batched else x[None] for name, x in full.items()}
    return Problem(**full), bool(batched)


def _check_kinds(present: dict[str, Tensor]) -> None:
    """ValueError unless the tensors are finite, floating-point, and on one device."""
    for name, x in present.items():
        if not x.is_floating_point():
            raise ValueError(f"qp: {name} has dtype {x.dtype}, but must be floating-point; use {name}.double()")
    devices = {name: str(x.device) for name, x in present.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"qp: the tensors are on several devices, {devices}; move them to one")
    # a finite sum proves it at a fraction of the cost
    if not torch.isfinite(sum(x.detach().sum() for x in present.values())):
        for name, x in present.items():
            if not torch.isfinite(x.detach()).all():
                raise ValueError(f"qp: {name} has entries that are not finite; leave rows out that constrain nothing")


def _check_shapes(full: dict[str, Tensor]) -> list[str]:
    """The names of those with a batch dimension; ValueError unless the sizes agree."""
    sizes, batched = {}, []
    for name, x in full.items():
        shape, letters = tuple(x.shape), SHAPES[name]
        if x.dim() == len(letters) + 1:
            batched.append(name)
            letters = "B" + letters
        elif x.dim() != len(letters):
            raise ValueError(f"qp: {name} has shape {shape}, but must be {_spell(letters)} or {_spell('B' + letters)}")
        for letter, size in zip(letters, shape, strict=True):
            other, known = sizes.setdefault(letter, (name, size))
            if known != size:
                raise ValueError(
                    f"qp: {name} has shape {shape}, that is {_spell(letters)} with {letter} = {size}, but {letter} is "
                    f"{known} in {other}; an argument of the whole batch has no batch dimension"
                )
    for letter, words in (("n", "variables"), ("B", "problems")):
        if sizes.get(letter, ("", 1))[1] == 0:
            raise ValueError(
                f"qp: there are no {words}: {sizes[letter][0]} has shape {tuple(full[sizes[letter][0]].shape)}"
            )
    return batched


def _spell(letters: str) -> str:
    return f"({', '.join(letters)}{',' * (len(letters) == 1)})"
