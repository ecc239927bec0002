"""Constraints made exact by the last linear layer: a convex quadratic program with the least change of the function.

With the hidden features fixed, the constraints of `polyopt.police.demands` are linear in U = [W b]. Among those that
keep them, the one sought has outputs nearest to y_1, ..., y_N at data with features h_1, ..., h_N, h~ = (h, 1):

    minimize   1/N sum_i |U h~_i - y_i|^2 + r |U - U0|^2                                                           (1)

where y_i are the outputs before, or targets. The little ridge r decides where the data do not, as for units that are
never active on them. With M = 1/N sum h~ h~' + r I = L L' and the minimum U* of (1) without constraints, (1) is
``|Z|^2`` up to a constant, Z = (U - U*) L, and a row v of a constraint has ``E U v = E U* v + E Z v^`` with
v^ = L^-1 v.

Equalities are solved first, by singular values, which tell redundant from contradictory ones: ``z = z0 + y`` with z0 of
least norm and y orthogonal to them. Inequalities with absolute values, one for each direction of a zonotope, are kept
as the vertices that are violated most, until none is. What remains is a least-distance problem for `polyopt.qp.solve`.

Source: Ataei, Cheong and Butscher, mPOLICE, 2025, section 2.7, asks for this up to a tolerance, by training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.police.demands import Demand, Demands
from polyopt.qp import Status, solve

RIDGE = 1e-8  # of the mean square of a feature
RANK = 1e-10  # of the largest singular value, or of a row: what counts as zero
CONSISTENT = 1e-9  # of the sizes of both sides of an equation
ROOM, ROUNDING = 1e-11, 16.0  # that an inequality gets, of its terms, and in units of the stored weights' precision
MOST_ROUNDS = 500


class InfeasibleConstraints(ValueError):
    """No last layer keeps the ``constraints``, numbers in the model's list; without any of them it could."""

    def __init__(self, constraints: tuple[int, ...]):
        names = ", ".join(map(str, constraints))
        super().__init__(
            f"MPOLICE: no weights of the last layer keep the constraints {names} (numbers in the list) together, but "
            "they could without any one of these; relax or drop one, or give the hidden layers more units"
        )
        self.constraints = constraints


def hardened(
    wanted: Demands, rows: Tensor, U: Tensor, features: Tensor, targets: Tensor | None, stored: torch.dtype
) -> Tensor:
    """U (K, H + 1) of (1), in float64.

    ``rows`` (R, H + 1) are those of the constraints in front of the layer, ``features`` (N, H + 1) the data's with a
    column of ones, ``targets`` (N, K) or None for the outputs before. Inequalities get the room that rounding to the
    precision ``stored`` needs. Raises InfeasibleConstraints.
    """
    start, L = _unconstrained(U, features, targets)
    try:
        return _solved(wanted, rows, start, L, stored)
    except _NoSolution:
        raise InfeasibleConstraints(_irreducible(wanted, rows, start, L, stored)) from None


class _NoSolution(Exception):
    pass


def _unconstrained(U: Tensor, features: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """U* and L."""
    gram = features.T @ features / len(features)
    ridge = RIDGE * gram.diagonal().mean()
    M = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    L = torch.linalg.cholesky(M)
    if targets is not None:
        U = torch.cholesky_solve(features.T @ targets / len(features) + ridge * U.T, L).T
    return U, L


def _irreducible(wanted: Demands, rows, start, L, stored) -> tuple[int, ...]:
    """Constraints that cannot be kept together, by leaving out one after the other."""
    members = list(range(len(wanted.each)))
    for one in list(members):
        rest = [k for k in members if k != one]
        try:
            _solved(wanted.only(rest), rows, start, L, stored)
        except _NoSolution:
            members = rest
    return tuple(members)


def _solved(wanted: Demands, rows: Tensor, start: Tensor, L: Tensor, stored: torch.dtype) -> Tensor:
    whitened = torch.linalg.solve_triangular(L, rows.T, upper=False).T
    basis, Z = _equalities(wanted, rows, whitened, start)
    unequal = [_Inequality(one, rows, whitened, start, basis, Z, stored) for one in wanted.each if one.kind == "le"]
    y, G, h = torch.zeros_like(Z), Z.new_zeros(0, Z.numel()), Z.new_zeros(0)
    for _ in range(MOST_ROUNDS):
        U = start + torch.linalg.solve_triangular(L, Z + y, upper=False, left=False)
        new = [row for one in unequal for row in one.violated(U)]
        if not new:
            return U
        G, h = torch.cat([G, *(g for g, _ in new)]), torch.cat([h, *(side for _, side in new)])
        solution = solve(torch.eye(G.shape[1], dtype=G.dtype, device=G.device), torch.zeros_like(G[0]), G, h)
        if solution.status == Status.INFEASIBLE:
            raise _NoSolution
        if solution.status != Status.OPTIMAL:
            raise ArithmeticError("MPOLICE: rounding errors spoil the last layer's program; scale the constraints")
        y = solution.z.view_as(y)
    raise ArithmeticError(f"MPOLICE: the last layer's program is not solved after {MOST_ROUNDS} rounds")


def _equalities(wanted: Demands, rows: Tensor, whitened: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis (rank, K (H + 1)) of the equations' rows, and their solution Z of least norm, (K, H + 1)."""
    matrix, side, size = [whitened.new_zeros(0, start.numel())], [start.new_zeros(0)], [start.new_zeros(0)]
    for one in (one for one in wanted.each if one.kind == "eq"):
        for places, goal in ((one.points, one.goal), (one.directions, one.tilt)):
            now = one.E @ start @ rows[places].T
            matrix.append(_products(one.E, whitened[places]))
            side.append((goal - now).flatten())
            size.append((abs(one.E) @ abs(start) @ abs(rows[places]).T + abs(goal)).flatten())
    matrix, side, size = torch.cat(matrix), torch.cat(side), torch.cat(size)
    length = torch.linalg.vector_norm(matrix, dim=1).clamp(min=torch.finfo(matrix.dtype).tiny)
    left, values, basis = torch.linalg.svd(matrix / length[:, None], full_matrices=False)
    kept = values > RANK * values.max() if len(values) else values > 0
    left, values, basis = left[:, kept], values[kept], basis[kept]
    z = basis.T @ ((left.T @ (side / length)) / values)
    z = z + basis.T @ ((left.T @ ((side - matrix @ z) / length)) / values)  # once more, for the rounding errors
    if (abs(matrix @ z - side) > CONSISTENT * (size + abs(matrix) @ abs(z))).any():
        raise _NoSolution
    return basis, z.view_as(start)


class _Inequality:
    """The rows of one constraint "le", orthogonal to the equations."""

    def __init__(self, one: Demand, rows, whitened, start, basis, Z, stored: torch.dtype):
        self.one, self.rows, self.whitened, self.basis, self.Z, self.start = one, rows, whitened, basis, Z, start
        reach = abs(rows[one.points]) + abs(rows[one.directions]).sum(0)
        self.terms = abs(one.E) @ abs(start) @ reach.T + abs(one.goal) + abs(one.tilt).sum(1, keepdim=True)
        self.room = (ROOM + ROUNDING * torch.finfo(stored).eps) * self.terms

    def violated(self, U: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The rows and right-hand sides of the vertices that U violates, for each row of E the worst at each point."""
        one = self.one
        outputs = self.rows @ U.T
        missing = one.excess(outputs) + self.room / 2
        found = []
        for k, p in (missing > 0).nonzero().tolist():
            sides = one.along(outputs)[k].sign()
            at = self.rows[one.points][p] + sides @ self.rows[one.directions]
            v = self.whitened[one.points][p] + sides @ self.whitened[one.directions]
            row = _products(one.E[k : k + 1], v[None])
            goal = one.goal[k, p] + sides @ one.tilt[k] - self.room[k, p]
            side = goal - one.E[k] @ self.start @ at - row[0] @ self.Z.flatten()
            free = row - row @ self.basis.T @ self.basis
            if torch.linalg.vector_norm(free) > RANK * torch.linalg.vector_norm(row):
                found.append((free, side[None]))
            elif side + self.room[k, p] < -CONSISTENT * self.terms[k, p]:  # the equations decide it
                raise _NoSolution
        return found


def _products(E: Tensor, rows: Tensor) -> Tensor:
    """For each row e of E and v of ``rows`` the coefficients of ``e Z v`` in Z, (k P, K (H + 1))."""
    return torch.einsum("kj,pi->kpji", E, rows).flatten(2).flatten(0, 1)
