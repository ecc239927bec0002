"""What the benchmarks of quadratic programs share: a rival, the clock, and the command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor


def moreau_solver(batch: int, n: int, m: int, method: str, diagonal: bool = False):
    """moreau for a batch of problems in n variables with m inequalities, all dense but for a diagonal Q."""
    import moreau
    from moreau.torch import Solver

    def dense(rows):
        return torch.arange(rows + 1) * n, torch.arange(n).repeat(rows)

    Q = (torch.arange(n + 1), torch.arange(n)) if diagonal else dense(n)
    settings = moreau.Settings(device="cpu", batch_size=batch, solver=method, enable_grad=True)
    return Solver(n, m, *Q, *dense(m), moreau.Cones(num_nonneg_cones=m), settings)


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Milliseconds, and what the function returns."""
    start = time.perf_counter()
    found = function()
    return 1000 * (time.perf_counter() - start), found


def parser(about: str, runs: int, threads: int) -> argparse.ArgumentParser:
    """The command line of a benchmark, with these defaults."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--runs", type=int, default=runs)
    made.add_argument("--threads", type=int, default=threads)
    return made
