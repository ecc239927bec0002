"""Bounds on linear forms over a polyhedron: two linear programs a form, each proven by its own multipliers.

Where a program's optimum may lie on lines that cuts can bring down, rounds of cuts (`polyopt.tighten.cuts`) follow; the
cuts stay in the polyhedron for all programs after. All of this runs in this process, or in several at once, each of
which builds one instance for its share of a layer's units and returns the cuts with the bounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from formulations import Hull
from polyopt.tighten.certificate import Form, lower_bound
from polyopt.tighten.cuts import separate
from polyopt.tighten.instance import Instance
from polyopt.tighten.polyhedron import Polyhedron
from polyopt.tighten.relaxed import Forms, Hinges

PATIENCE = 2.0  # seconds for workers to hand in what they have when someone presses Ctrl-C


class OutOfTime(Exception):
    """The time limit is reached; bounds found before stay."""


class Found(NamedTuple):
    """Bounds (k,) on these forms, and the rows that were added to the polyhedron on the way."""

    units: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    rows: tuple


@dataclass
class Programs:
    """All that the linear programs over one polyhedron need, but for their instance.

    ``hull`` says which cuts to make of which ``hinges``, None for none; ``deadline`` is a value of `time.monotonic`;
    ``primal`` is the method of an instance for them.
    """

    polyhedron: Polyhedron
    hinges: list[Hinges]
    hull: Hull | None
    exact: bool
    deadline: float
    primal: bool = False

    def least(self, instance: Instance, form: Form) -> float:
        """A lower bound on the form, after rounds of cuts; OutOfTime where there is none left."""
        if self.seconds <= 0:
            raise OutOfTime
        bound = self._solve(instance, form)
        for _ in range(self.hull.max_rounds if self.hull else 0):
            if self.seconds <= 0 or not separate(self.polyhedron, self.hinges, instance.point, self.hull):
                break
            instance.grow(self.polyhedron)
            bound = max(bound, self._solve(instance, form))
        return bound

    @property
    def seconds(self) -> float:
        """What is left of the time."""
        return self.deadline - time.monotonic()

    def _solve(self, instance: Instance, form: Form) -> float:
        if len(self.polyhedron.row_lower):
            y = instance.minimize(form.cost, max(self.seconds, 1e-3))
        else:  # a box needs no solver
            y = np.empty(0)
        return lower_bound(self.polyhedron, form, y, self.exact)


def bound_here(
    instance: Instance, programs: Programs, forms: Forms, units, lower: np.ndarray, upper: np.ndarray, tick: Callable
) -> None:
    """Tighten the bounds (p,) of some of the forms, in place, one after the other; ``tick(1)`` after two programs."""
    instance.grow(programs.polyhedron)
    units = np.asarray(units, dtype=int)
    for count, (k, sign) in enumerate(tour(forms.matrix[units])):
        i = units[k]
        form = forms.form(i, len(programs.polyhedron.lower))
        if sign > 0:
            lower[i] = max(lower[i], programs.least(instance, form))
        else:
            upper[i] = min(upper[i], -programs.least(instance, -form))
        tick(count % 2)


def tour(costs: sp.csr_array) -> Iterator[tuple[int, float]]:
    """An order of the programs that minimise ``sign cost x``, two for each row of (p, n): row and sign.

    The next one is that whose cost makes the smallest angle with the last one's, so that its optimum is not far: half
    the simplex iterations of two programs a row at a time.

    >>> list(tour(sp.csr_array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])))
    [(0, 1.0), (2, 1.0), (1, 1.0), (0, -1.0), (2, -1.0), (1, -1.0)]
    """
    norms = np.sqrt((costs * costs).sum(1))
    directions = sp.csr_array(sp.diags_array(1.0 / np.where(norms > 0, norms, 1.0)) @ costs)
    left = np.ones((2, len(norms)), dtype=bool)
    row, side = 0, 0
    while left.any():
        if left[side, row]:
            yield row, 1.0 - 2.0 * side
            left[side, row] = False
        here, last = slice(*directions.indptr[row : row + 2]), np.zeros(costs.shape[1])
        last[directions.indices[here]] = (1.0 - 2.0 * side) * directions.data[here]
        alike = directions @ last
        side, row = divmod(int(np.where(left, [alike, -alike], -np.inf).argmax()), len(norms))


def bound_elsewhere(
    executor: Executor,
    programs: Programs,
    forms: Forms,
    units: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    tick: Callable,
) -> None:
    """The same by the workers of an executor, a share of the units each."""
    parts = os.cpu_count() or 1
    shares = [units[k::parts] for k in range(min(parts, len(units)))]
    futures = [
        executor.submit(_share, programs, programs.seconds, forms, share, lower[share], upper[share])
        for share in shares
    ]
    waiting = set(futures)
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            _take(done, programs, lower, upper, tick)
    except KeyboardInterrupt:  # which workers on this machine hear too
        _take(wait(waiting, timeout=PATIENCE).done, programs, lower, upper, tick)
        raise
    finally:
        for future in futures:
            future.cancel()


def _take(done: set[Future], programs: Programs, lower: np.ndarray, upper: np.ndarray, tick: Callable) -> None:
    for future in done:
        found = future.result()
        lower[found.units], upper[found.units] = found.lower, found.upper
        programs.polyhedron.add_rows(*found.rows)
        tick(len(found.units))


def _share(programs: Programs, seconds: float, forms: Forms, units: np.ndarray, lower, upper) -> Found:
    """A share's bounds, or those found when the time is out or someone presses Ctrl-C."""
    first = len(programs.polyhedron.row_lower)
    own = replace(programs, polyhedron=replace(programs.polyhedron), deadline=time.monotonic() + seconds)
    with suppress(OutOfTime, KeyboardInterrupt):
        bound_here(Instance(own.primal), own, forms.take(units), range(len(units)), lower, upper, lambda count: None)
    return Found(units, lower, upper, own.polyhedron.rows_from(first))
