"""A search run to its end, to its time limit, or until Ctrl-C."""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor
from typing import NamedTuple

from tqdm import tqdm

from polyopt.search.deadline import OutOfTime
from polyopt.search.search import Search
from polyopt.search.sharing import Shared


class Run(NamedTuple):
    """How a search ended: ``status`` is "over", "time limit" or "interrupted"; its bound; domains bounded."""

    status: str
    bound: float
    branches: int


def run(
    search: Search,
    begin: float,
    time_limit: float | None,
    executor: Executor | None,
    progress: bool,
) -> Run:
    """Take steps, for ``time_limit`` seconds since ``begin``.

    Long steps are cut short, and what they were about stays open; the bound is that before them.
    """
    question, already = search.question, search.branches
    question.backward.deadline = math.inf if time_limit is None else begin + time_limit
    steps = search if executor is None else Shared(search, executor)
    bound, status = steps.bound, "over"
    start = time.perf_counter()
    try:
        with tqdm(disable=not progress, bar_format="{desc} [{elapsed}]", leave=False) as bar:
            while not steps.over:
                question.backward.check()
                steps.step()
                bound = max(bound, steps.bound)
                rate = (steps.branches - already) / (time.perf_counter() - start)
                bar.set_description_str(
                    f"best {question.value:.6g}, bound {bound:.6g}, {steps.open} boxes open, {rate:.0f} a second"
                )
    except OutOfTime:
        status, bound = "time limit", max(bound, steps.bound)
    except KeyboardInterrupt:
        status = "interrupted"
    finally:
        if isinstance(steps, Shared):
            steps.recall()
    return Run(status, bound, steps.branches)
