"""Solve, ask the truth, learn, repeat: a surrogate that becomes right where the optimum is.

A surrogate fits its data on average; an optimiser evaluates it at one point, and likes points where it errs in the
model's favour (the optimizer's curse: Smith and Winkler, Management Science 2006; survey section 4.1.2). So each round

    1. solves the model with the surrogate f in it,
    2. evaluates the truth g at the optimum x,
    3. puts g(x) in place of f(x): that is the point's true objective and violation,
    4. adds (x, g(x)) to the data and fits the surrogate anew,

until predicted and true objective agree at a feasible point, or x has been there before. The result is not the optimum
of the truth, but the best point at which the truth has been evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyomo.environ as pyo
from tqdm import tqdm

from polyopt.embedding import is_embedded
from polyopt.highs import Result, solve
from polyopt.inputs import input_ranges
from polyopt.surrogate.surrogate import Surrogate

SAME = 1e-7  # of the width of the domain: points no farther apart are one point


@dataclass(frozen=True, eq=False)
class Round:
    """One round: what the model promised at its optimum, and what is true there.

    With m copies of the surrogate in the model, ``x`` is (m, n_in), and ``predicted`` and ``true``, the surrogate's
    outputs and the truth's, are (m, n_out). ``predicted_objective`` is the solver's; ``objective`` and ``violation``,
    the largest of all rows outside the surrogate's blocks, are those with the truth in its place; ``gap`` is the
    difference of the two objectives. ``status`` and ``bound`` are the solver's.
    """

    x: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    predicted_objective: float
    objective: float
    violation: float
    status: str
    bound: float | None
    seconds: float

    @property
    def gap(self) -> float:
        """``|predicted_objective - objective|``."""
        return abs(self.predicted_objective - self.objective)


@dataclass(frozen=True, eq=False)
class Refinement:
    """What `refine` found.

    ``best`` is the round with the best true objective among those whose violation is tolerated, else the one that is
    violated least; None if there is no round. ``surrogate`` has learnt all points, ``best_surrogate`` is the one that
    led to the best point. ``stopped`` is "tolerance", "rounds", "repeated", "time limit", "interrupted", or the
    solver's status where it found no point, such as "infeasible".
    """

    best: Round | None
    surrogate: Surrogate
    best_surrogate: Surrogate
    history: tuple[Round, ...]
    stopped: str
    seconds: float

    def __str__(self) -> str:
        lines = ["round   predicted        true         gap   violation"]
        for k, one in enumerate(self.history):
            mark = " *" if one is self.best else ""
            numbers = (one.predicted_objective, one.objective, one.gap, one.violation)
            lines.append(f"{k:5d}" + "".join(f"{number:12.5g}" for number in numbers) + mark)
        return "\n".join([*lines, f"stopped by {self.stopped} after {self.seconds:.1f} s"])


def refine(
    model: Callable[[Surrogate], pyo.ConcreteModel],
    surrogate: Surrogate,
    truth: Callable[[np.ndarray], object],
    rounds: int = 10,
    *,
    tolerance: float = 1e-3,
    feasibility: float = 1e-6,
    weight: float = 10.0,
    refit: Callable[[Surrogate, np.ndarray, np.ndarray], Surrogate] | None = None,
    solver: Callable[..., Result] = solve,
    time_limit: float | None = None,
    progress: bool = True,
) -> Refinement:
    """Improve a surrogate at the optimum of a model, in at most so many ``rounds``.

    ``model(surrogate)`` makes a new Pyomo model with one or more copies of the surrogate in it, by ``add_surrogate`` or
    ``add_network``. ``truth(x)`` maps an input (n_in,) to the true outputs, (n_out,) or a number. Rounds end where
    ``|predicted - true| <= tolerance max(1, |true|)`` for the objective and no row is violated by more than
    ``feasibility``.

    Each new point is learnt with the ``weight`` of that many points, by ``surrogate.report.refit``; for a surrogate
    that is not of `polyopt.fit_surrogate`, give ``refit(surrogate, X, y)``, which returns a surrogate that has learnt
    the further points X (k, n_in), y (k, n_out). ``solver(model, time_limit=)`` is called as `polyopt.solve` is.
    ``time_limit`` in seconds ends it after a round, and Ctrl-C anywhere: what is best so far is returned.

    Violations are absolute. The truth takes the place of the outputs themselves: write what follows from them as
    ``pyo.Expression``. A variable that a row sets equal to an output keeps what was predicted, and the row is violated.
    Rows on the surrogate's own block count as the surrogate's.

    Raises ValueError where the model holds no copy of the surrogate or not one objective, where the truth has the wrong
    size or is not finite, and where there is no way to refit.

    >>> from polyopt.surrogate.add import add_surrogate
    >>> from polyopt.surrogate.fit import fit_surrogate
    >>> def truth(x):
    ...     return (x[0] - 0.3) ** 2
    >>> def model(surrogate):
    ...     m = pyo.ConcreteModel()
    ...     m.x, m.net = pyo.Var(), pyo.Block()
    ...     m.cost = pyo.Objective(expr=add_surrogate(m.net, surrogate, [m.x])[0])
    ...     return m
    >>> X = np.linspace(-1.0, 1.0, 6)[:, None]
    >>> start = fit_surrogate(X, truth(X.T), hidden=(8,), held_out=0, epochs=300, progress=False)
    >>> found = refine(model, start, truth, rounds=3, progress=False)
    >>> found.best.objective < 0.01, found.best.objective < found.history[0].objective
    (True, True)
    """
    if rounds < 1:
        raise ValueError(f"refine: rounds is {rounds}, but must be at least 1")
    if refit is None and not hasattr(surrogate.report, "refit"):
        raise ValueError(
            "refine: the surrogate is not of fit_surrogate, or was loaded from a file without its training: "
            "give refit(surrogate, X, y), which returns a surrogate that has learnt these points too"
        )
    refit = refit or (lambda old, X, y: old.report.refit(X, y, weight))
    begin, run = time.perf_counter(), _Run(surrogate, truth, feasibility)
    stopped = "rounds"
    try:
        for _ in (bar := tqdm(range(rounds), disable=not progress, desc="refining", leave=False)):
            left = None if time_limit is None else time_limit - (time.perf_counter() - begin)
            if left is not None and left <= 0:
                stopped = "time limit"
                break
            made = model(run.surrogate)
            result = solver(made, time_limit=left)
            if result.objective is None or result.status == "interrupted":
                stopped = result.status
                break
            new = run.ask(made, result)
            bar.set_postfix(best=run.best.objective, gap=run.history[-1].gap, violation=run.best.violation)
            if run.agrees(tolerance):
                stopped = "tolerance"
                break
            if not len(new[0]):
                stopped = "repeated"
                break
            run.surrogate = refit(run.surrogate, *new)
            if getattr(run.surrogate.report, "stopped", None) == "interrupted":
                stopped = "interrupted"
                break
    except KeyboardInterrupt:
        stopped = "interrupted"
    seconds = time.perf_counter() - begin
    return Refinement(run.best, run.surrogate, run.best_surrogate, tuple(run.history), stopped, seconds)


class _Run:
    """The rounds so far, and every point at which the truth is known."""

    def __init__(self, surrogate: Surrogate, truth: Callable, feasibility: float):
        self.surrogate = self.best_surrogate = surrogate
        self.truth, self.feasibility = truth, feasibility
        self.same = SAME * np.maximum(surrogate.upper - surrogate.lower, 1e-300)
        self.known: list[tuple[np.ndarray, np.ndarray]] = []
        self.history: list[Round] = []
        self.best: Round | None = None

    def ask(self, model, result: Result) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate the truth at the model's point, as a round of the history; points and outputs that are new."""
        begin = time.perf_counter() - result.seconds
        copies = _copies(model, self.surrogate)
        x = np.array([_point(copy) for copy in copies])
        answers = [self._true(point) for point in x]
        true = np.array([y for y, _ in answers])
        objective, violation = _with_truth(model, copies, true)
        self.history.append(
            Round(
                x,
                self.surrogate(x),
                true,
                result.objective,
                objective,
                violation,
                result.status,
                result.bound,
                time.perf_counter() - begin,
            )
        )
        if self.best is None or self._rank(model, self.history[-1]) < self._rank(model, self.best):
            self.best, self.best_surrogate = self.history[-1], self.surrogate
        new = np.array([is_new for _, is_new in answers])
        return x[new], true[new]

    def agrees(self, tolerance: float) -> bool:
        """Whether the last round's point is feasible, with the objective that was predicted."""
        last = self.history[-1]
        return last.violation <= self.feasibility and last.gap <= tolerance * max(1.0, abs(last.objective))

    def _rank(self, model, one: Round) -> tuple[bool, float]:
        """What is least for the best round."""
        if one.violation > self.feasibility:
            return True, one.violation
        return False, one.objective if _objective(model).is_minimizing() else -one.objective

    def _true(self, x: np.ndarray) -> tuple[np.ndarray, bool]:
        """The truth at a point (n_in,), and whether it was not known yet."""
        for point, y in self.known:
            if (abs(point - x) <= self.same).all():
                return y, False
        y = np.asarray(self.truth(x.copy()), dtype=np.float64).ravel()
        if y.shape != (self.surrogate.net.output_size,) or not np.isfinite(y).all():
            raise ValueError(
                f"refine: the truth at {x} is {y}, but must be {self.surrogate.net.output_size} finite numbers, as the "
                "surrogate has outputs"
            )
        self.known.append((x, y))
        return y, True


def _copies(model, surrogate: Surrogate) -> list:
    """The blocks that hold the surrogate."""
    blocks = [b for b in model.block_data_objects(active=True) if is_embedded(b) and b.embedding.net is surrogate.net]
    if not blocks:
        raise ValueError("refine: the model holds no copy of the surrogate it was given; add it by add_surrogate")
    for block in blocks:
        if not all(getattr(y, "is_variable_type", bool)() for y in block.embedding.outputs):
            raise ValueError(
                f"refine: the outputs of block {block.name!r} are expressions, so that the truth cannot take their "
                "place; use a formulation with output variables, such as po.BigM()"
            )
    return blocks


def _point(block) -> np.ndarray:
    """The inputs' values (n_in,), without what solvers tolerate beyond their bounds."""
    held = block.embedding
    ranges = input_ranges(held.inputs, held.region)
    return np.clip([pyo.value(expression) for expression in held.inputs], *ranges.T)


def _with_truth(model, copies: list, true: np.ndarray) -> tuple[float, float]:
    """Objective and largest violation with the true outputs (m, n_out) in the model."""
    violation = 0.0
    for block, y in zip(copies, true, strict=True):
        proven = block.embedding.bounds.output
        for k, (variable, value) in enumerate(zip(block.embedding.outputs, y.tolist(), strict=True)):
            variable.set_value(value, skip_validation=True)
            # bounds that are tighter than those of the network are the user's
            if variable.lb is not None and variable.lb > proven.lower[k]:
                violation = max(violation, variable.lb - value)
            if variable.ub is not None and variable.ub < proven.upper[k]:
                violation = max(violation, value - variable.ub)
    own = {id(part) for block in copies for part in block.block_data_objects()}
    for row in model.component_data_objects(pyo.Constraint, active=True):
        if id(row.parent_block()) not in own:
            violation = max(violation, -row.slack())
    return pyo.value(_objective(model)), float(violation)


def _objective(model):
    objectives = list(model.component_data_objects(pyo.Objective, active=True))
    if len(objectives) != 1:
        raise ValueError(f"refine: the model has {len(objectives)} active objectives, but must have one")
    return objectives[0]
