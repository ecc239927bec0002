"""Contenders take turns on the same problems: times, errors and peak memory of each.

With one thread on a CPU, times are those that the process was at work, so that others on the machine do not count.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from problems import Case
from reference import errors, exact
from rivals import CONTENDERS, Contender
from torch import Tensor

LIMIT = 20.0  # seconds that a call may take
LEAST = 3  # rounds
ABSENT = "not installed"


@dataclass
class Result:
    """Milliseconds of each round, errors (see `reference.errors`), MiB, and why nothing was measured."""

    forward: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    errors: dict[str, float | None] = field(default_factory=dict)
    memory: float | None = None
    out: str = ""

    def to_json(self) -> dict:
        medians = {"rounds": len(self.forward), "forward_ms": middle(self.forward), "both_ms": middle(self.both)}
        return {"out": self.out} if self.out else medians | self.errors | {"peak_mib": self.memory}


def middle(times: list[float]) -> float | None:
    return statistics.median(times) if times else None


def timer(w: Tensor) -> Callable[[], float]:
    """The clock for work on the device of a tensor."""
    return time.process_time if not w.is_cuda and torch.get_num_threads() == 1 else time.perf_counter


def one_pass(solver: Callable, contender: Contender, case: Case, w: Tensor) -> tuple[Tensor, dict, float, float | None]:
    """The solutions, the gradients of the sum of w z, and the milliseconds of forward, and of forward and backward."""
    arguments = {"u0": -case.p, "V": case.V} if contender.cone else {name: getattr(case, name) for name in "QpGh"}
    learned = tuple(arguments) if contender.cone else case.learned
    leaves = {name: x.clone().requires_grad_(name in learned) for name, x in arguments.items()}
    wait, clock = torch.cuda.synchronize if w.is_cuda else lambda: None, timer(w)
    wait()
    start = clock()
    z = solver(*leaves.values())
    wait()
    forward = 1000 * (clock() - start)
    if not contender.backward:
        return z, {}, forward, None
    (w * z).sum().backward()
    wait()
    both = 1000 * (clock() - start)
    return z.detach(), {name: leaves[name].grad for name in learned}, forward, both


def entered(contender: Contender, case: Case, w: Tensor) -> tuple[Callable | None, str]:
    """What is to be timed, or why it is not: a sixteenth of the batch tells first whether a call takes too long."""
    size, solver, clock = len(case.p), None, timer(w)
    try:
        for count in (math.ceil(size / 16), size):
            part = case.first(count)
            solver = contender.make(part)
            start = clock()
            one_pass(solver, contender, part, w[:count])
            seconds = (clock() - start) * size / count
            if seconds > LIMIT:
                return None, f"{seconds:.0f} s a call"
    except ModuleNotFoundError:
        return None, ABSENT
    except Exception as error:  # where a rival fails, that is its result
        return None, f"fails: {type(error).__name__} {error}".split("\n")[0][:100]
    return solver, ""


def race(case: Case, contenders: dict[str, Contender], *, rounds: int, seconds: float, seed: int) -> dict[str, Result]:
    """Up to ``rounds`` rounds after each has had its first call; without those who have used up their ``seconds``."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(case.p.shape, generator=generator, dtype=torch.float64).to(case.p)
    known = case.to("cpu", torch.float64)
    truth = exact(known, w.double().cpu())
    entries = {name: entered(contender, case, w) for name, contender in contenders.items()}
    results = {name: Result(out=out) for name, (_, out) in entries.items()}
    for done in range(rounds):
        for name, (solver, out) in entries.items():
            result = results[name]
            if out or (done >= LEAST and sum(result.both or result.forward) > 1000 * seconds):
                continue
            z, gradients, forward, both = one_pass(solver, contenders[name], case, w)
            result.forward.append(forward)
            if both is not None:
                result.both.append(both)
            if not done and contenders[name].solves:
                result.errors = errors(known, z, gradients, truth)
    return results


def peak(name: str, make: Callable[..., Case], device: str, dtype: torch.dtype, threads: int, seed: int) -> float:
    """MiB that a forward and a backward pass take at their peak, beyond those before, in a process of its own."""
    arguments = name, make, device, dtype, threads, seed
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, *arguments).result()


def _peak(name, make, device, dtype, threads, seed):
    torch.set_num_threads(threads)
    contender, case = CONTENDERS[name], make(seed=seed).to(device, dtype)
    few, w = case.first(2), torch.ones_like(case.p)
    one_pass(contender.make(few), contender, few, w[:2])  # loads libraries
    solver = contender.make(case)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one_pass(solver, contender, case, w)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is that from here on
    before = _status("VmRSS")
    one_pass(solver, contender, case, w)
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    """KiB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
