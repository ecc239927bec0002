"""One way to use the surrogate: with or without a trust region, and round by round of `polyopt.refine`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyomo.environ as pyo
from common.rivals import Answer, Clock, Polyopt, binaries, rivals
from plant import choice, plant
from reactor import INPUTS, simulate

import polyopt as po
from polyopt.surrogate.trust import hull

REGIONS = {"none": None, "box": "box", "hull": "hull", "ball": "ball"}
FEASIBLE, AGREES = 0.005, 1e-4  # limits missed by no more (K, percent), and profits no farther apart, end the rounds
PENALTY = 25.0  # EUR/h for each K or percent that a limit is missed by; relaxing both limits by one earns 10


@dataclass(frozen=True)
class Effort:
    """Points on record, the network, its training, rounds of refinement, seeds, and seconds for a MILP."""

    points: int = 150
    hidden: tuple[int, ...] = (16, 16)
    epochs: int = 400
    rounds: int = 8
    seeds: int = 5
    limit: float = 120.0


@dataclass(frozen=True)
class Step:
    """A round: what the MILP promised and took, and what is true. ``work`` is the process's time, with tightening."""

    predicted: float
    profit: float
    violation: float
    x: list[float]
    hired: dict
    status: str
    nodes: int
    binaries: int
    work: float


def fitted(x: np.ndarray, y: np.ndarray, effort: Effort, seed: int) -> po.Surrogate:
    """The surrogate of what is on record."""
    return po.fit_surrogate(x, y, effort.hidden, epochs=effort.epochs, seed=seed, device="cpu", progress=False)


def refined(surrogate: po.Surrogate, region: str | None, effort: Effort) -> tuple[list[Step], str]:
    """All rounds in a trust region, and what ended them."""
    solved, learnt = [], []

    def model(surrogate: po.Surrogate) -> pyo.ConcreteModel:
        return plant(lambda block, inputs: po.add_surrogate(block, surrogate, inputs, domain=region))

    def solver(m: pyo.ConcreteModel, time_limit: float | None = None) -> po.Result:
        clock = Clock()
        po.obbt(model=m)
        result = po.solve(m, time_limit=effort.limit, threads=1)
        if result.objective is not None:
            hired = {name: value for name, value in choice(m).items() if name not in INPUTS}
            solved.append((hired, result.status, result.nodes, binaries(m), clock()[1]))
        return result

    def refit(_, x: np.ndarray, y: np.ndarray) -> po.Surrogate:
        """The first surrogate, having learnt all points found so far."""
        learnt.append(np.hstack([x, y]))
        return surrogate.report.refit(*np.hsplit(np.vstack(learnt), [len(INPUTS)]))

    settings = {"tolerance": AGREES, "feasibility": FEASIBLE, "refit": refit, "solver": solver, "progress": False}
    found = po.refine(model, surrogate, simulate, effort.rounds, **settings)
    if not solved:
        raise RuntimeError(f"no plan in the trust region {region!r}: {found.stopped}")
    steps = [
        Step(one.predicted_objective, one.objective, one.violation, one.x[0].tolist(), *milp)
        for one, milp in zip(found.history, solved, strict=True)
    ]
    return steps, found.stopped


def worth(step: Step) -> float:
    """The true profit of a plan less the penalty for the limit that it misses most, EUR/h."""
    return step.profit - PENALTY * step.violation


def gaps(steps: list[Step], best: float, rounds: int) -> np.ndarray:
    """How far, in percent of the true optimum, the best plan so far is worth less, after each round."""
    worths = [worth(step) for step in steps]
    worths += worths[-1:] * (rounds - len(steps))
    return 100 * (1 - np.maximum.accumulate(worths) / best)


class Tightened(Polyopt):
    """polyopt with bounds that heed the whole model, and HiGHS; to tighten is part of its time."""

    def solve(self, m: pyo.ConcreteModel, limit: float, warm_start: bool = False) -> Answer:
        clock = Clock()
        po.obbt(model=m)
        answer = super().solve(m, limit, warm_start)
        seconds, work = clock()
        return replace(answer, seconds=seconds, work=work)


def contest(surrogate: po.Surrogate, limit: float) -> dict[str, Answer]:
    """One model, with the hull of the data as rows, by each contender that is installed."""
    region, answers = hull(surrogate.points), {}
    for contender in (Tightened(), *(rival() for rival in rivals())):

        def embed(block, inputs, contender=contender):
            block.region, block.net = pyo.Block(), pyo.Block()
            region.add_to(block.region, inputs)
            return contender.embed(block.net, surrogate.net, inputs)

        answers[contender.name] = contender.solve(plant(embed), limit)
    return answers
