"""Many models on many machines: each a task for a worker of an executor, its result taken in as it is ready.

A task is the model's arrays (`polyopt.program`), which pickle whatever rules and data the model was made with; the
worker solves a model of these arrays, to HiGHS the same problem. Only a model whose networks ask for cut rounds has to
travel whole. Back come a `Result` and the values of the variables in their order. A task that fails, or whose worker
dies, is given out again some times.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import threading
import time
import types
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr.numeric_expr import LinearExpression
from tqdm import tqdm

from formulations import Rows
from polyopt.cut_rounds import separable
from polyopt.embedding import check_domains
from polyopt.highs import Result, solve
from polyopt.implied import without_implied
from polyopt.processes import Processes
from polyopt.program import Program, to_program

AHEAD = 2  # tasks a worker: the one that it is at, and the next
_ONE_SOLVER = threading.Lock()  # a process: neither highspy's Highs.solve nor Pyomo is made for threads


@dataclass(frozen=True)
class Failure(Result):
    """A `Result` of status "error": there is no point, and ``message`` says why."""

    message: str


def solve_many(
    models: Iterable,
    executor: Executor | None = None,
    workers: int | None = None,
    *,
    time_limit: float | None = None,
    gap: float = 1e-6,
    threads: int = 1,
    warm_start: bool = False,
    retries: int = 2,
    progress: bool = False,
) -> Iterator[tuple[int, object, Result]]:
    """Solve Pyomo models as `solve` does, in parallel; yields ``(index, model, result)`` as they are ready.

    The best point found is loaded in the model. ``models`` may be a generator: two models a worker are held at a time.
    ``executor`` is any of `concurrent.futures`, such as Dask's ``client.get_executor()`` or mpi4py's
    ``MPIPoolExecutor()``, and ``workers`` says how many it has (threads of one process wait for each other); by default
    it is as many processes as there are processors, replaced where they die. ``time_limit`` (seconds), ``gap``,
    ``threads`` and ``warm_start`` are each model's, see `solve`; ``progress`` shows a bar.

    What fails is tried ``retries`` times more, then its result is a `Failure`; so is that of a model that `solve` would
    refuse. Where the loop over the results ends early, by ``break`` or Ctrl-C, the rest is given up. Cuts that a
    formulation adds stay with the worker. Raises ValueError for options out of range, and where processes are started
    by a script without ``if __name__ == "__main__":`` RuntimeError.

    >>> def scenario(most):
    ...     m = pyo.ConcreteModel()
    ...     m.x = pyo.Var(bounds=(0, most), domain=pyo.Integers)
    ...     m.objective = pyo.Objective(expr=3 * m.x, sense=pyo.maximize)
    ...     return m
    >>> for index, m, result in solve_many(map(scenario, [1.5, 2.5]), workers=1):
    ...     print(index, result.status, result.objective, m.x.value)
    0 optimal 3.0 1.0
    1 optimal 6.0 2.0
    """
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"solve_many: time_limit is {time_limit}, but must be positive seconds")
    if retries < 0 or (workers is not None and workers < 1):
        raise ValueError(f"solve_many: retries must be at least 0 and workers 1, but are {retries} and {workers}")
    if isinstance(models, pyo.Block):
        raise ValueError(f"solve_many: an iterable of models is needed, but one model, {models.name!r}, is given")
    options = {"time_limit": time_limit, "gap": gap, "threads": threads, "warm_start": warm_start}
    return _solve_many(models, executor, workers or os.cpu_count() or 1, options, retries, progress)


def _solve_many(models, executor, workers, options, retries, progress):
    own = executor is None
    executor = Processes(workers, preload=[__name__]) if own else executor
    batch = _Batch(executor, options, retries)
    total = len(models) if hasattr(models, "__len__") else None
    try:
        with tqdm(total=total, desc="solve_many", unit="model", disable=not progress) as bar:
            for answer in batch.answers(models, AHEAD * workers):
                bar.update()
                yield answer
    finally:
        for future in batch.tasks:
            future.cancel()
        if own:
            executor.shutdown(cancel_futures=True)


@dataclass
class _Task:
    index: int
    model: object
    variables: list
    payload: bytes
    begin: float = field(default_factory=time.perf_counter)
    failures: int = 0


class _Batch:
    """The tasks that are out, by their futures."""

    def __init__(self, executor: Executor, options: dict, retries: int):
        self.tasks: dict[Future, _Task] = {}
        self._executor, self._options, self._retries = executor, options, retries

    def answers(self, models: Iterable, window: int) -> Iterator[tuple[int, object, Result]]:
        """What becomes of the models, with at most ``window`` of them out at a time."""
        for index, model in enumerate(models):
            try:
                task = _Task(index, model, *_packed(model))
            except Exception as error:  # whatever is wrong with this model, it is not wrong with the others
                yield index, model, _failure(error, 0.0)
                continue
            self._submit(task)
            yield from self._finished(None if len(self.tasks) >= window else 0.0)
        while self.tasks:
            yield from self._finished(None)

    def _submit(self, task: _Task) -> None:
        try:  # the number of failures makes a call of its own to schedulers that know calls by their arguments
            future = self._executor.submit(work, task.payload, self._options, task.failures)
        except Exception as error:  # a broken executor
            future = Future()
            future.set_exception(error)
        self.tasks[future] = task

    def _finished(self, timeout: float | None) -> Iterator[tuple[int, object, Result]]:
        for future in wait(self.tasks, timeout, return_when=FIRST_COMPLETED).done:
            task = self.tasks.pop(future)
            try:
                result, values = future.result()
            except Exception as error:
                task.failures += 1
                if task.failures <= self._retries:
                    self._submit(task)
                    continue
                result, values = _failure(error, time.perf_counter() - task.begin), None
            if values is not None:
                _load(task.variables, values)
            yield task.index, task.model, result


def work(payload: bytes, options: dict, attempt: int) -> tuple[Result, np.ndarray | None]:
    """In a worker: what `solve` finds, with the variables' values where there is a point."""
    found = pickle.loads(payload)
    with _ONE_SOLVER:
        model = to_model(*found) if isinstance(found[0], Program) else found[0]
        variables = to_program(model).variables
        result = solve(model, **options)
    return result, None if result.objective is None else np.array([variable.value for variable in variables])


def to_model(program: Program, values: list):
    """A Pyomo model of arrays: the same program, its variables now ``x[0]``, ``x[1]``, … with these values or None.

    >>> program = Program([], np.zeros(2), np.ones(2), np.array([True, False]), np.array([[1.0, 2.0]]), np.array([0.5]),
    ...                   np.array([2.0]), np.array([1.0, -1.0]), None, 4.0, False)
    >>> m = to_model(program, [None, 0.5])
    >>> print(m.rows[0].expr, m.objective.expr, m.x[0].domain, sep="; ")
    0.5  <=  x[0] + 2.0*x[1]  <=  2.0; 4.0 + x[0] - x[1]; Integers
    """
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(len(program.lower)))
    x = list(m.x.values())
    for j, (low, high) in enumerate(zip(program.lower.tolist(), program.upper.tolist(), strict=True)):
        x[j].setlb(low if math.isfinite(low) else None)
        x[j].setub(high if math.isfinite(high) else None)
        x[j].set_value(values[j], skip_validation=True)
    for j in np.flatnonzero(program.integer):
        x[j].domain = pyo.Integers
    m.rows = Rows([(program.matrix, x)], program.row_lower, program.row_upper)
    expression = LinearExpression(constant=program.offset, linear_coefs=program.cost.tolist(), linear_vars=x)
    if program.quadratic is not None:  # a lower triangle, of a matrix that is halved
        q = program.quadratic.tocoo()
        entries = zip(q.row.tolist(), q.col.tolist(), q.data.tolist(), strict=True)
        expression += sum((0.5 * v if i == j else v) * x[i] * x[j] for i, j, v in entries)
    m.objective = pyo.Objective(expr=expression, sense=pyo.maximize if program.maximize else pyo.minimize)
    return m


def _packed(model) -> tuple[list, bytes]:
    """A model's variables, and what a worker needs to solve it."""
    program = to_program(model)
    check_domains(model)
    if separable(model):
        return program.variables, _pickled((model,))
    values = [variable.value for variable in program.variables]
    return program.variables, pickle.dumps((replace(without_implied(program, model), variables=[]), values))


def _pickled(model) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(model)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    """Pickles Pyomo models whose rules a worker could not import: they have done their work, and are left behind."""

    def reducer_override(self, thing):
        """What stands for a function that is a lambda, or local, or of the main script."""
        if isinstance(thing, types.FunctionType) and ("<" in thing.__qualname__ or thing.__module__ == "__main__"):
            return partial, (_left_behind, thing.__qualname__)
        return NotImplemented


def _left_behind(name: str, *args):
    raise RuntimeError(f"the function {name!r} was left behind when its model was sent to a worker")


def _load(variables: list, values: np.ndarray) -> None:
    for variable, value in zip(variables, values.tolist(), strict=True):
        if not variable.fixed:
            variable.set_value(value, skip_validation=True)


def _failure(error: Exception, seconds: float) -> Failure:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return Failure("error", None, None, math.inf, 0, seconds, text)
