"""Which constraints are active: block principal pivoting on the condensed problem.

Given a set, its multipliers solve K_a y_a = -q_a, and the slack of the other rows is q + K y. Rows with the wrong sign
change sides, all at once, until there are none; this is also Newton's method on y = max(y - slack, 0), and takes a few
rounds, each a small factorisation. It may cycle: where the count of wrong rows has not reached a new least for some
rounds, only the last wrong row changes sides until it does (Murty), which ends if K is positive definite. What is left
after `ROUNDS` goes to the interior point.

Sources: Judice and Pires, A block principal pivoting algorithm for large-scale strictly monotone linear complementarity
problems, Computers and Operations Research 21, 1994; Hintermueller, Ito and Kunisch, The primal-dual active set
strategy as a semismooth Newton method, SIAM Journal on Optimization 13, 2002.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyopt.qp.active import factor
from polyopt.qp.condense import Condensed
from polyopt.qp.linalg import largest, transposed_times

PATIENCE = 3  # rounds without a new least count of wrong rows
ROUNDS = 30
PAUSE = 3  # rounds on CUDA between looks at what is finished, for which the host waits


def pivot(condensed: Condensed, guess: Tensor, equalities: int) -> tuple[Tensor, Tensor, Tensor]:
    """The active sets (B, r) from a guess, which problems are solved (B,), and the rounds taken (B,).

    The first ``equalities`` rows are active always. A row with neither multiplier nor slack is left out of the set.
    """
    K, q, scale = condensed.K, condensed.q, condensed.scale
    active, (batch, count) = guess.clone(), guess.shape
    active[:, :equalities] = True
    inequality = torch.arange(count, device=guess.device) >= equalities
    rounds = guess.new_zeros(batch, dtype=torch.int64)
    left = torch.full_like(rounds, PATIENCE)
    best = torch.full_like(rounds, count + 1)
    small = 1e3 * torch.finfo(q.dtype).eps * largest(q / scale)
    y, index = torch.zeros_like(q), torch.arange(batch, device=guess.device)
    going, wait = torch.ones_like(rounds, dtype=torch.bool), 1 if q.device.type == "cpu" else PAUSE
    for done in range(1, ROUNDS + 1):
        y[index] = factor(K, active[index], index).multipliers(-q[index])
        slack, pull = (q + transposed_times(K, y)) / scale, y * scale
        tolerance = torch.maximum(small, 1e3 * torch.finfo(q.dtype).eps * largest(pull))
        wrong = inequality & torch.where(active, pull < -tolerance, slack < -tolerance)
        wrongs = wrong.sum(-1)
        rounds += going
        left = torch.where(wrongs < best, PATIENCE, left - 1)
        best = torch.minimum(best, wrongs)
        last = wrong.flip(-1).cumsum(-1).flip(-1) == 1
        going = wrongs > 0
        active = active ^ (wrong & (last | (left > 0)[:, None]))
        if done % wait == 0:
            index = going.nonzero()[:, 0]
            if not len(index):
                break
    return active & ((pull > tolerance) | ~inequality), wrongs == 0, rounds
