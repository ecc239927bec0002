"""Which smallest change would flip a classifier's decision about a patient? Nearest counterfactuals, proven.

For patients of scikit-learn's breast-cancer data whom a network calls benign, the nearest input that it calls malignant
is found by a MILP around the network: with integer and one-hot features, features that may not move or only rise, and
relations between features. The same programs are given to other packages, and gradient descent answers as well.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import polyopt as po

sys.path.append(str(Path(__file__).resolve().parents[1]))

import descent
from common.report import folder, markdown, parser, write
from common.rivals import Clock, Polyopt, rivals
from patients import Patients, classifier, patients
from picture import draw, moved
from proof import nothing_nearer
from question import MARGIN, Question, anything, growth, model, start

HERE = Path(__file__).resolve().parent
QUESTIONS = {"growth": growth, "anything": anything}
FEASIBLE = 1e-5  # what solvers' tolerances leave of the margin and of the rules
NEARER = 0.99  # of the distance: up to this the search must prove that nothing flips
SAMPLES = 20_000


def answered(asked: Question, net: po.Network, limit: float, with_rivals: bool) -> dict:
    """Descent's point, the nearest one by polyopt, and the rivals' answers, all about one patient."""
    clock = Clock()
    found = descent.counterfactual(asked, net)
    case = {"asked": asked, "heuristic": found, "descent_work": clock()[1]}
    if found is None:
        raise RuntimeError("descent finds no point that flips the decision; give it more steps")
    case["descent"] = reach = float(asked.distance(found[None])[0])
    groups = [list(range(asked.people.numeric, net.input_size))]
    contenders = [Polyopt(tighten="lp", simplices=groups)] + [rival() for rival in rivals() if with_rivals]
    case |= {"answers": {}, "build": {}}
    for contender in contenders:
        clock = Clock()
        m = model(asked, net, reach * (1 + 1e-6), contender.embed)
        case["build"][contender.name] = clock()[1]
        if isinstance(contender, Polyopt):
            start(m, asked, found)
            case["answers"][contender.name] = contender.solve(m, limit, warm_start=True)
            case["exact"] = cleaned(asked, np.array([m.x[i].value for i in m.x]))
            case["distance"] = float(asked.distance(case["exact"][None])[0])
        else:
            case["answers"][contender.name] = contender.solve(m, limit)
    return case


def cleaned(asked: Question, x: np.ndarray) -> np.ndarray:
    """The solver's point with whole columns rounded."""
    x[asked.people.integers] = x[asked.people.integers].round()
    x[asked.people.numeric :] = x[asked.people.numeric :].round()
    return x


def check(case: dict, net: po.Network, rng: np.random.Generator) -> None:
    """RuntimeError if the point does not flip or keep the rules, bounds and points clash, or a sample is nearer."""
    asked, ours = case["asked"], case["answers"][Polyopt.name]
    size = max(1.0, case["distance"])
    if net(case["exact"][None])[0, 0] < MARGIN - FEASIBLE or not asked.allows(case["exact"][None], FEASIBLE)[0]:
        raise RuntimeError(f"patient {case['patient']}: the point found does not flip the decision or breaks a rule")
    if abs(case["distance"] - ours.objective) > FEASIBLE * size:
        raise RuntimeError(f"patient {case['patient']}: distance {case['distance']} but objective {ours.objective}")
    for name, answer in case["answers"].items():
        if answer.bound is not None and answer.bound > min(case["distance"], case["descent"]) + FEASIBLE * size:
            raise RuntimeError(
                f"patient {case['patient']}: {name} bounds by {answer.bound}, {case['distance']} is known"
            )
        if answer.objective is not None and ours.bound > answer.objective + FEASIBLE * size:
            raise RuntimeError(
                f"patient {case['patient']}: {name} finds {answer.objective}, polyopt bounds {ours.bound}"
            )
    points = sampled(asked, ours.bound, rng)
    if (net(points)[:, 0] >= MARGIN + FEASIBLE).any():
        raise RuntimeError(f"patient {case['patient']}: a sample nearer than the bound flips the decision")


def sampled(asked: Question, distance: float, rng: np.random.Generator) -> np.ndarray:
    """Random points (batch, n) within the rules and the distance, with few or many moves."""
    people, free, k = asked.people, np.array(asked.free), asked.people.numeric
    shares = rng.dirichlet(np.full(len(free), 0.1), SAMPLES) * rng.choice([-1.0, 1.0], (SAMPLES, len(free)))
    bins = np.flatnonzero((asked.costs < distance) & (asked.upper[k:] > 0))
    chosen = rng.choice(bins, SAMPLES)
    x = np.tile(asked.x, (SAMPLES, 1))
    x[:, free] += shares * (distance - asked.costs[chosen])[:, None] / people.weights[free]
    x[:, people.integers] = asked.x[people.integers] + np.trunc((x - asked.x)[:, people.integers])
    x[:, k:] = np.eye(len(asked.costs))[chosen]
    x = np.clip(x, asked.lower, asked.upper)
    return x[asked.allows(x, 0.0) & (asked.distance(x) <= distance)]


def chosen(people: Patients, net: po.Network, count: int) -> list[int]:
    """The first test patients who are benign and are called so."""
    _, test = people.split()
    benign = ~people.malignant[test] & (net(people.x[test])[:, 0] < 0)
    return test[benign][:count].tolist()


def nearest(cases: list[dict]) -> list[dict]:
    return sorted(cases, key=lambda case: case["distance"])


def contenders_table(cases: list[dict]) -> str:
    """How fast: each contender on the patients that all were asked about."""
    both = [case for case in cases if len(case["answers"]) > 1] or cases
    ours = np.array([_spent(case, Polyopt.name) for case in both])
    head = ["contender", "patients", "optimal", "binaries", "median s", "largest s", "times polyopt's"]
    rows = []
    for name in both[0]["answers"]:
        answers = [case["answers"][name] for case in both]
        spent = np.array([_spent(case, name) for case in both])
        solved = sum(a.status == "optimal" for a in answers)
        late = "" if solved == len(answers) else "> "
        size = int(np.median([a.binaries for a in answers]))
        ratio = f"{late}x{spent.sum() / ours.sum():.1f}"
        rows.append([name, len(both), solved, size, f"{np.median(spent):.2f}", f"{spent.max():.2f}", ratio])
    return markdown(head, rows)


def _spent(case: dict, name: str) -> float:
    return case["build"][name] + case["answers"][name].work


def distances_table(questions: dict[str, list[dict]]) -> str:
    """How near, and with how few changes, by the program and by descent; over all patients."""
    head = [
        "question",
        "patients",
        "optimal",
        "median s",
        "distance",
        "columns moved",
        "descent: farther by",
        "at most",
    ]
    head += ["columns moved", "median s"]
    rows = []
    for name, cases in questions.items():
        solved = sum(case["answers"][Polyopt.name].status == "optimal" for case in cases)
        farther = np.array([case["descent"] / case["distance"] - 1 for case in cases])
        cells = [name, len(cases), solved, f"{np.median([_spent(c, Polyopt.name) for c in cases]):.2f}"]
        cells += [f"{np.median([c['distance'] for c in cases]):.2f}", _columns(cases, "exact")]
        cells += [f"{np.median(farther):.1%}", f"{farther.max():.1%}", _columns(cases, "heuristic")]
        rows.append([*cells, f"{np.median([c['descent_work'] for c in cases]):.2f}"])
    return markdown(head, rows)


def _columns(cases: list[dict], kind: str) -> str:
    return f"{np.median([(abs(moved(case['asked'], case[kind])) > 1e-6).sum() for case in cases]):g}"


def as_json(case: dict) -> dict:
    plain = {k: case[k] for k in ("patient", "descent", "descent_work", "distance", "build", "proven")}
    points = {k: case[k].tolist() for k in ("exact", "heuristic")}
    return plain | points | {"answers": {name: asdict(a) for name, a in case["answers"].items()}}


def main() -> None:
    options = parser(__doc__, "two patients, a network with 2 x 8 units")
    options.add_argument("--limit", type=float, default=60.0, help="seconds for each question")
    options.add_argument("--patients", type=int, default=20)
    options.add_argument("--rivals", type=int, default=5, help="patients that rivals are asked about")
    options.add_argument(
        "--proofs", type=int, default=3, help="how many of the shortest distances are proven without a solver, too"
    )
    options = options.parse_args()
    if options.small:
        options.patients, options.rivals, options.proofs, options.limit = 2, 1, 1, 3.0
    torch.set_num_threads(1)
    people = patients()
    net, accuracy = classifier(people, 8 if options.small else 24)
    po.crown(net, po.Box(people.x.min(0), people.x.max(0)))  # loads what is not to be counted
    rng, questions = np.random.default_rng(options.seed), {}
    for name, ask in QUESTIONS.items():
        questions[name] = []
        for k, patient in enumerate(tqdm(chosen(people, net, options.patients), desc=name)):
            asked = ask(people, people.x[patient])
            case = {"patient": patient} | answered(asked, net, options.limit, k < options.rivals)
            check(case, net, rng)
            questions[name].append(case | {"proven": None})
        for case in tqdm(nearest(questions[name])[: options.proofs], desc=f"{name}, proofs"):
            case["proven"] = nothing_nearer(case["asked"], net, NEARER * case["distance"], options.limit)
    out = folder(HERE, options.small)
    draw(questions["growth"][:3], out / "changes.png")
    kept = {name: [as_json(case) for case in cases] for name, cases in questions.items()}
    write(out / "results.json", options, {"accuracy": accuracy, "questions": kept})
    print(f"test accuracy {accuracy:.3f}", distances_table(questions), sep="\n\n", end="\n\n")
    for name, cases in questions.items():
        print(name, contenders_table(cases), sep="\n\n", end="\n\n")
        proven = [case["proven"] for case in cases if case["proven"] is not None]
        print(f"nothing within {NEARER:.0%} of the distance, by po.verify: {sum(proven)} of {len(proven)}\n")


if __name__ == "__main__":
    main()
