"""The active sets of small problems by daqp, a dual active set in C, one problem after the other.

Where daqp is installed, this takes less time than a batch of small operations of torch. Only the sets count: they are
polished and judged like all others (`polyopt.qp.polish`), so that nothing depends on daqp's tolerances.

Source: Arnstrom, Bemporad and Axehill, A dual active-set solver for embedded quadratic programming using recursive
LDL' updates, IEEE Transactions on Automatic Control 67, 2022; https://github.com/darnstrom/daqp.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyopt.qp.problem import Problem

try:
    import daqp
except ImportError:
    daqp = None

SIZE, SIZE_ALONE = 80, 128  # variables, or pairs of rows, up to which daqp is faster for a batch, and for few problems
ALONE = 8  # problems
EQUALITY = 5  # daqp's code for a row that is always active
FAR = 1e30  # daqp's infinity
OPTIMAL = 1  # daqp's flag
PRECISION = 1e-9  # of the rows, scaled to length 1
LIMIT = 10  # iterations a row


def suits_daqp(problem: Problem) -> bool:
    """Whether daqp is there, and faster for strictly convex problems of this shape."""
    if daqp is None or problem.p.dtype != torch.float64 or problem.p.device.type != "cpu":
        return False
    n, rows = problem.p.shape[1], problem.equalities + problem.inequalities
    return n <= 2 * rows and max(n, rows / 2) <= (SIZE_ALONE if problem.batch <= ALONE else SIZE)


def by_daqp(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The active sets (B, k + m), which of them are solutions' (B,), and the iterations (B,)."""
    k, batch = problem.equalities, problem.batch
    tensors = problem.Q, problem.p, problem.C, problem.d
    # daqp takes vectors for contiguous, whatever they are
    Q, p, C, d = (x.contiguous().expand(batch, *x.shape[1:]).numpy() for x in tensors)
    low, kinds = np.full(d.shape, -FAR), np.zeros(d.shape[1], dtype=np.int32)
    low[:, :k], kinds[:k] = d[:, :k], EQUALITY
    options = {"primal_tol": PRECISION, "iter_limit": LIMIT * len(kinds)}
    found = [daqp.solve(*one, kinds, **options)[2:] for one in zip(Q, p, C, d, low, strict=True)]
    active = torch.from_numpy(np.stack([about["lam"] for _, about in found]) > 0)
    active[:, :k] = True
    solved = torch.tensor([flag == OPTIMAL for flag, _ in found])
    return active, solved, torch.tensor([about["iterations"] for _, about in found])
