"""Contenders take turns on the same problems, in one process: times, and what there is to say of what they return.

Times are those of the process on its CPU, which other processes disturb less than those on the wall's clock.
An entry without a "cost" has "failed", and says why.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline import Failed

import polyopt as po


class Run(NamedTuple):
    ms: float
    result: object  # or the error
    given: object


def race(contenders: dict[str, Callable], given: Callable, rounds: int, seconds: float) -> dict[str, list[Run]]:
    """Up to ``rounds`` rounds after a first call of each, without those who have used up their ``seconds``.

    What ``given()`` returns is a contender's argument, made anew for each call, outside of its time.
    """
    runs = {name: [] for name in contenders}
    for done in range(-1, rounds):
        for name, call in contenders.items():
            if done < 1 or sum(run.ms for run in runs[name]) < 1000 * seconds:
                run = timed(call, given())
                runs[name] += [run] if done >= 0 else []
    return runs


def timed(call: Callable, given: object) -> Run:
    start = time.process_time()
    try:
        result = call(given)
    except (po.police.EnforcementError, Failed) as error:
        result = error
    return Run(1000 * (time.process_time() - start), result, given)


def summary(runs: Sequence[Run], describe: Callable[[Sequence[Run]], dict]) -> dict:
    """The median of the times, and what there is to say of the results, which are the same each time."""
    last = runs[-1].result
    said = {"failed": str(last)} if isinstance(last, Exception) else describe(runs)
    return {"ms": statistics.median(run.ms for run in runs), "rounds": len(runs)} | said


def reported(runs: Sequence[Run]) -> dict:
    """Of an enforcement by polyopt: ``share`` of its time goes to the layers, the rest to tests and proofs."""
    reports = [run.result for run in runs]
    proofs = reports[-1].certificates
    share = statistics.median(sum(layer.seconds for layer in report.layers) / report.seconds for report in reports)
    proven = {"affine": sum(c.status == "affine" for c in proofs), "margin": min(c.margin for c in proofs)}
    return {"cost": reports[-1].cost, "bound": reports[-1].bound, "share": share, "proofs": len(proofs)} | proven
