"""Is a neural controller safe in closed loop? k-step reachability and invariance by mixed-integer programming.

Two plants, a double integrator and a pole on a cart, are controlled by small ReLU networks that imitate a model
predictive controller. What the closed loop can reach in k steps is bounded in template directions, one MILP each over k
indexed copies of the network's block; a polytope that is never left is proven invariant; together they say that the
loop is safe for ever. Every claim is checked a second way.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import polyopt as po

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, write
from common.rivals import Answer, Clock, Polyopt, rivals
from invariance import Trial, candidate, trial
from loop import Loop
from picture import draw
from plants import Plant, cart_pole, controller, double_integrator, mpc
from reach import Reached, directions, support

HERE = Path(__file__).resolve().parent
SLACK = 1e-6  # what HiGHS tolerates, in the unit of the safe box: by so much the proven polytopes are widened
AGREE = 1e-5  # two ways' optima, in the same unit
SAMPLES = 2000


@dataclass(frozen=True)
class Task:
    """What is asked about a plant: the picture's ``plane``, the numbers of directions in it and of steps, the sets."""

    plant: Plant
    plane: tuple[int, int]
    count: int
    steps: int
    scales: tuple[float, ...]
    width: int = 16
    points: int = 4000
    epochs: int = 100


def tasks(small: bool) -> list[Task]:
    if small:
        return [Task(double_integrator(), (0, 1), 8, 2, (0.5, 3.0), width=8, points=1000, epochs=30)]
    return [
        Task(double_integrator(), (0, 1), 16, 6, (0.3, 1.0, 1.5, 2.5)),
        Task(cart_pole(), (0, 2), 8, 5, (0.1, 0.4, 0.75, 1.2)),
    ]


def templates(task: Task) -> np.ndarray:
    """Directions around the plane, and both ways along each other coordinate, in units of the safe box."""
    radius = (task.plant.safe.upper - task.plant.safe.lower) / 2
    others = [i for i in range(len(radius)) if i not in task.plane]
    axes = [sign * np.eye(len(radius))[i] / radius[i] for i in others for sign in (1.0, -1.0)]
    return np.vstack([directions(task.count, radius, task.plane), *axes])


def studied(task: Task, limit: float, every: int) -> dict:
    """Everything about one plant; rivals answer each ``every``-th direction."""
    net = controller(task.plant, task.width, task.points, task.epochs)
    loop, toward = Loop(task.plant, net), templates(task)
    paths = loop.simulate(task.plant.start.sample(SAMPLES, np.random.default_rng(0)), task.steps)
    hulls = [po.HPolytope(toward, task.plant.start.support(toward))]
    boxed = [po.HPolytope(*_box_rows(task.plant.start))]
    po.crown(net, task.plant.start)  # loads torch, which is not to be counted
    steps = []
    for k in tqdm(range(1, task.steps + 1), desc=f"{task.plant.name}: steps"):
        ours = support(loop, k, boxed, toward, Polyopt(tighten="lp"), limit, paths[: k + 1])
        found = {Polyopt.name: ours}
        for rival in rivals():
            found[rival.name] = support(loop, k, boxed, toward[::every], rival(), limit)
        searched, work = [], Clock()
        for direction in toward:
            searched.append(po.optimize(loop.unrolled(k), task.plant.start, direction, time_limit=limit))
        search_work = work()[1] / len(toward)
        check(task.plant.name, k, ours, found, searched, (paths[k] @ toward.T).max(0), every)
        steps.append({"found": found, "searched": searched, "search_work": search_work})
        hulls.append(po.HPolytope(toward, ours.bounds + SLACK))
        boxed.append(hulls[-1])
    region = candidate(loop)
    trials = [trial(loop, region, scale, limit) for scale in tqdm(task.scales, desc=f"{task.plant.name}: sets")]
    invariant = max((t for t in trials if t.proven and _inside(t.region, task.plant.safe)), key=lambda t: t.scale)
    ends = support(loop, task.steps, boxed[:-1], region.A, Polyopt(tighten="lp"), limit, paths)
    study = {"task": task, "name": task.plant.name, "states": task.plant.states, "plane": task.plane, "loop": loop}
    study |= {"error": imitation(loop), "paths": paths, "hulls": hulls, "steps": steps, "trials": trials}
    study |= {"invariant": invariant, "ends": float((ends.bounds + SLACK).max())}
    return study | {"safe": forever(study)}


def check(name: str, k: int, ours: Reached, found: dict, searched: list, simulated: np.ndarray, every: int) -> None:
    """RuntimeError if a simulation leaves the proven polytope, a bound lies below a point, or two ways differ."""
    where = f"{name}, step {k}"
    if not (np.isfinite(ours.values) & np.isfinite(ours.bounds)).all():
        raise RuntimeError(f"{where}: no bound or no point within the limit; give it more time")
    if (simulated > ours.bounds + SLACK).any():
        raise RuntimeError(f"{where}: a simulated state lies outside by {(simulated - ours.bounds).max()}")
    for i, best in enumerate(searched):
        if best.bound < ours.values[i] - AGREE or ours.bounds[i] < best.value - AGREE:
            raise RuntimeError(f"{where}, direction {i}: the search says {best}, the MILP {ours.answers[i]}")
        if best.status == ours.answers[i].status == "optimal" and abs(best.value - ours.values[i]) > AGREE:
            raise RuntimeError(f"{where}, direction {i}: optima {best.value} and {ours.values[i]}")
    for rival in found:
        for mine, other in zip(_asked(found, Polyopt.name, every), _asked(found, rival, every), strict=True):
            if mine.status == other.status == "optimal" and abs(mine.objective - other.objective) > AGREE:
                raise RuntimeError(f"{where}: {rival} says {other}, polyopt {mine}")


def forever(study: dict) -> bool:
    """Whether all that is reached is safe, and at the last step in the invariant set, which is safe too."""
    safe = study["task"].plant.safe
    return all(_inside(hull, safe) for hull in study["hulls"]) and study["ends"] <= study["invariant"].scale


def _inside(region: po.HPolytope, safe: po.Box) -> bool:
    """Whether a polytope lies in a box, up to what HiGHS tolerates."""
    rows, edges = _box_rows(safe)
    return bool((region.support(rows) <= edges + SLACK).all())


def imitation(loop: Loop) -> float:
    """The root of the mean squared difference from the MPC in the working box, as a share of the input's limit."""
    x = loop.plant.working.sample(2000, np.random.default_rng(2))
    return float(np.sqrt(np.mean((loop.net(x)[:, 0] - mpc(loop.plant, x)) ** 2)) / loop.plant.u_max)


def _box_rows(box: po.Box) -> tuple[np.ndarray, np.ndarray]:
    n = box.size
    return np.vstack([np.eye(n), -np.eye(n)]), np.concatenate([box.upper, -box.lower])


def total(reached: Reached, answers: list[Answer], every: int) -> float:
    """Seconds at work for these of the directions, and their share of the building of the model."""
    return reached.build / every + sum(a.work for a in answers)


def steps_table(study: dict, every: int) -> str:
    names = list(study["steps"][0]["found"])
    head = ["step", *(f"{name}: binaries, median s" for name in names), *(f"{name} / polyopt" for name in names[1:])]
    rows = []
    for k, step in enumerate(study["steps"], 1):
        found = step["found"]
        ours = total(found[Polyopt.name], _asked(found, Polyopt.name, every), every)
        cells = [_cell(found[name].answers) for name in names]
        ratios = [
            (_late(found[name].answers), total(found[name], found[name].answers, every) / ours) for name in names[1:]
        ]
        rows.append([k, *cells, *(f"{late}x{ratio:.1f}" for late, ratio in ratios), f"{step['search_work']:.3f}"])
    return markdown([*head, "po.optimize: mean s"], [*rows, _all_steps(study, every)])


def _all_steps(study: dict, every: int) -> list:
    """The last row: what all steps take together."""
    found = [step["found"] for step in study["steps"]]
    names = list(found[0])
    sums = [sum(total(f[name], _asked(f, name, every), every) for f in found) for name in names]
    late = ["> " if any(_late(f[name].answers) for f in found) else "" for name in names]
    ratios = [f"{mark}x{seconds / sums[0]:.1f}" for mark, seconds in zip(late[1:], sums[1:], strict=True)]
    return ["all", *(f"{seconds:.2f} s" for seconds in sums), *ratios, "-"]


def _asked(found: dict, name: str, every: int) -> list[Answer]:
    """The answers to what all contenders were asked."""
    return found[name].answers[::every] if name == Polyopt.name else found[name].answers


def _cell(answers: list[Answer]) -> str:
    solved = sum(a.status == "optimal" for a in answers)
    note = "" if solved == len(answers) else f" ({solved} of {len(answers)} solved)"
    return f"{answers[0].binaries}, {np.median([a.work for a in answers]):.3f}{note}"


def _late(answers: list[Answer]) -> str:
    return "> " if any(a.status != "optimal" for a in answers) else ""


def sets_table(study: dict) -> str:
    head = ["scale", "facets", "po.verify", "s", "MILP: worst facet", "s", "proven by"]
    return markdown(head, [_set_row(t) for t in study["trials"]])


def _set_row(t: Trial) -> list:
    seconds = "-" if t.reached is None else f"{sum(a.work for a in t.reached.answers) + t.reached.build:.2f}"
    worst = "-" if t.worst is None else f"{t.worst:.4f}"
    return [t.scale, len(t.region.b), t.verdict.status, f"{t.verdict.seconds:.2f}", worst, seconds, t.proven or "-"]


def summary(study: dict) -> str:
    ends, scale, steps = study["ends"], study["invariant"].scale, study["task"].steps
    verdict = "safe for ever" if study["safe"] else "not proven safe"
    return (
        f"{study['name']}: the network misses the MPC by {study['error']:.2%} of the input's limit (root mean square); "
        f"after {steps} steps all states lie in {ends:.4f} X, and {scale:g} X is invariant: {verdict}"
    )


def as_json(study: dict) -> dict:
    steps = []
    for step in study["steps"]:
        found = {
            name: asdict(r) | {"values": r.values.tolist(), "bounds": r.bounds.tolist()}
            for name, r in step["found"].items()
        }
        searched = [
            {k: getattr(b, k) for k in ("status", "value", "bound", "branches", "seconds")} for b in step["searched"]
        ]
        steps.append({"found": found, "search": searched, "search_work": step["search_work"]})
    trials = [
        {"scale": t.scale, "facets": len(t.region.b), "status": t.verdict.status, "seconds": t.verdict.seconds}
        | {"witness": None if t.verdict.witness is None else t.verdict.witness.tolist()}
        | {"worst": t.worst, "proven": t.proven}
        for t in study["trials"]
    ]
    plain = {k: study[k] for k in ("name", "error", "ends", "safe")}
    return plain | {"invariant": study["invariant"].scale, "trials": trials, "steps": steps}


def main() -> None:
    options = parser(__doc__, "a smaller controller, two steps")
    options.add_argument("--limit", type=float, default=60.0, help="seconds for each question")
    options.add_argument("--every", type=int, default=4, help="rivals answer each so-many-th direction")
    options = options.parse_args()
    torch.set_num_threads(1)
    studies = [studied(task, options.limit, options.every) for task in tasks(options.small)]
    out = folder(HERE, options.small)
    draw(studies, out / "reach.png")
    write(out / "results.json", options, {"studies": [as_json(study) for study in studies]})
    for study in studies:
        print(summary(study), steps_table(study, options.every), sets_table(study), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
