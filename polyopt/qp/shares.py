"""A batch shared out among threads: on a CPU, LAPACK takes the small matrices of a batch one after another.

Each thread solves a share of the batch by itself. Operations of torch let other threads run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor

from polyopt.qp.condense import factor_hessian
from polyopt.qp.core import Answer, Method, answer
from polyopt.qp.problem import Problem

WORTHWHILE = 1e6  # of one matrix's entries times the batch, for threads to pay


def answers(problem: Problem, limit: int, method: Method) -> list[Answer]:
    """The answers of the shares of a batch, in order; see `polyopt.qp.core.answer`."""
    n, rows, batch = problem.p.shape[1], problem.equalities + problem.inequalities, problem.batch
    threads = 1 if problem.p.device.type != "cpu" or batch * max(n, rows) ** 2 < WORTHWHILE else torch.get_num_threads()
    ends = [batch * k // threads for k in range(threads + 1)]
    shares = [problem.part(slice(*pair)) for pair in pairwise(ends) if pair[0] < pair[1]]
    try:
        return at_once(lambda share: answer(share, limit, method), shares)
    except ValueError:
        factor_hessian(problem.Q)  # says which problem of the whole batch is not convex
        raise


def joined(found: Sequence[Answer], *names: str) -> tuple[Tensor, ...]:
    """These fields of the answers, of the whole batch."""
    return tuple(torch.cat([getattr(one, name) for one in found]) for name in names)


def at_once(function: Callable, *arguments: Sequence) -> list:
    """``map(function, *arguments)``, several each in a thread of its own, without gradients."""
    alone = torch.no_grad()(function)  # a thread begins with gradients
    if len(arguments[0]) == 1:
        return list(map(alone, *arguments))
    with ThreadPoolExecutor(len(arguments[0])) as pool:
        return list(pool.map(alone, *arguments))
