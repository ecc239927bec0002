"""The global optimum of a network: po.optimize, and the mixed-integer programs of other packages, side by side.

Peaks is solved to 1e-6, ackley as far as a limit allows, and of test digits within eps = 0.1 the worst margin of each
of the nine other classes is found.
"""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common.report import folder, markdown, parser, write
from contenders import CUDA, OURS, Answer, Clock, polyopt, rivals
from picture import draw
from problems import Problem, ackley, images, peaks
from watch import History, watched

import polyopt as po

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data" / "nets"
ROUNDS = 5
LONG = 600.0  # seconds
TOLERANCE = 1e-4  # relative; values and bounds that are apart by less do not contradict each other
PACKAGES = ("polyopt", "scipy", "highspy", "pyscipopt", "pyscipopt-ml", "gurobipy", "gurobi-machinelearning", "omlt")


@dataclass
class Proof:
    """What `polyopt.verify` says of the image of a class, in so many seconds, and at work."""

    image: int
    label: int
    status: str
    seconds: float
    work: float


def repeated(solve: Callable[[], Answer], limit: float, rounds: int) -> list[Answer]:
    """Up to so many answers, no further one after so many seconds."""
    found = [solve()]
    while len(found) < rounds and sum(answer.seconds for answer in found) < limit:
        found.append(solve())
    return found


def ours() -> dict[str, Callable]:
    """The search on the CPU, and on the GPU where there is one."""
    made = {OURS: polyopt}
    if torch.cuda.is_available():
        made[CUDA] = lambda problem, limit: polyopt(problem, limit, "cuda")
    return made


def grouped(answers: list[Answer]) -> dict[str, list[Answer]]:
    """By contender."""
    groups = {}
    for answer in answers:
        groups.setdefault(answer.contender, []).append(answer)
    return groups


def once(answers: list[Answer]) -> Answer:
    """The answer of the median time."""
    return sorted(answers, key=lambda answer: answer.work)[len(answers) // 2]


def optimum_table(answers: list[Answer]) -> str:
    """One row a contender: median times, value, bound, gap, and how fast boxes or nodes came."""
    groups, rows = grouped(answers), []
    first = once(groups[OURS])
    for name, group in groups.items():
        one = once(group)
        more = "" if one.status == "optimal" else "> "
        ratio = f"{more}x{one.work / first.work:.3g}" if first.status == "optimal" else "-"
        times = [f"{one.seconds:.2f}", f"{one.work:.2f}", ratio]
        gap = f"{one.gap:.1e}" if one.gap < 1e-3 else f"{one.gap:.1%}"
        rate = f"{one.steps / one.seconds:.0f}"
        rows.append([name, one.status, *times, _number(one.value), _number(one.bound), gap, one.steps, rate])
    head = ["contender", "status", "s", "s at work", "times polyopt's", "value", "bound", "gap", "boxes or nodes"]
    return markdown([*head, "a second"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def measure_peaks(problem: Problem, contenders: dict[str, Callable], limit: float, rounds: int) -> list[Answer]:
    """Some answers of each contender."""
    return [
        answer
        for solve in tqdm(contenders.values(), desc="peaks")
        for answer in repeated(lambda solve=solve: solve(problem, limit), limit, rounds)
    ]


def measure_ackley(problem: Problem, contenders: dict[str, Callable], limit: float) -> tuple[list[Answer], History]:
    """An answer of each contender, and what polyopt's search did."""
    found, histories = [], []
    for solve in tqdm(contenders.values(), desc="ackley"):
        with watched() as history:
            found.append(solve(problem, limit))
        histories.append(history)
    return found, histories[0]


def measure_digits(data: Path, contenders: dict[str, Callable], options) -> Iterator[tuple[list[Answer], list[Proof]]]:
    """All margins of all images by polyopt, of the first of them by its rivals too; and `polyopt.verify`'s verdicts.

    All that is known so far, after each image.
    """
    net, chosen = images(data, options.images)
    answers, proofs = [], []
    for number, image in enumerate(tqdm(chosen, desc="digits")):
        clock = Clock()
        verdict = po.verify(net, image.property, time_limit=options.limit)
        proofs.append(Proof(image.number, image.label, verdict.status, *clock()))
        for problem in image.margins.values():
            for name, solve in contenders.items():
                if name == OURS or number < options.rival_images:
                    answers.append(solve(problem, options.limit))
        yield answers, proofs


def image_table(answers: list[Answer], proofs: list[Proof]) -> str:
    """One row an image: its worst margin by polyopt, the time of all nine, and the verdict."""
    rows = []
    for proof in proofs:
        mine = [a for a in answers if a.contender == OURS and _image(a) == f"digit {proof.image}"]
        worst = max(mine, key=lambda answer: answer.bound)
        margin = f"{worst.value:.4f}" + ("" if worst.status == "optimal" else f" to {worst.bound:.4f}")
        times = [f"{sum(a.work for a in mine):.2f}", f"{max(a.work for a in mine):.2f}"]
        rival = worst.problem.rpartition(" ")[2]
        rows.append([proof.image, proof.label, rival, margin, *times, proof.status, f"{proof.work:.2f}"])
    head = ["image", "class", "worst class", "its margin", "s, 9 margins", "slowest margin", "verdict", "s, verify"]
    return markdown(head, rows)


def _image(answer: Answer) -> str:
    return answer.problem.rpartition(",")[0]


def digits_table(answers: list[Answer]) -> str:
    """One row a contender, over the margins that it was asked for: its times beside polyopt's on the same."""
    mine = {answer.problem: answer for answer in answers if answer.contender == OURS}
    rows = []
    for name, group in grouped(answers).items():
        images = {}
        for answer in group:
            images[_image(answer)] = images.get(_image(answer), 0.0) + answer.work
        optimal = [answer for answer in group if answer.status == "optimal"]
        both = [a for a in optimal if mine[a.problem].status == "optimal"]
        apart = f"{max(abs(a.value - mine[a.problem].value) for a in both):.0e}" if both else "-"
        times = [f"{statistics.median(images.values()):.2f}", f"{max(images.values()):.2f}"]
        more = "" if len(optimal) == len(group) or name == OURS else "> "
        ratio = sum(a.work for a in group) / sum(mine[a.problem].work for a in group)
        rows.append([name, len(images), len(group), len(optimal), *times, f"{more}x{ratio:.3g}", apart])
    head = ["contender", "images", "margins", "optimal", "median s an image", "largest", "times polyopt's"]
    return markdown([*head, "values apart"], rows)


def contradictions(answers: list[Answer]) -> list[str]:
    """Bounds below a value that another contender has reached."""
    best = {}
    for answer in answers:
        if answer.value is not None:
            best[answer.problem] = max(best.get(answer.problem, -np.inf), answer.value)
    return [
        f"{a.problem}: {a.contender} says at most {a.bound}, but {best[a.problem]} was found"
        for a in answers
        if a.bound is not None and a.bound < best[a.problem] - TOLERANCE * max(1.0, abs(best[a.problem]))
    ]


def versions() -> dict[str, str]:
    """Of everything that took part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def options_of(arguments: list[str] | None = None):
    made = parser(__doc__, "a small network learnt on the spot, no rivals")
    made.add_argument("--data", type=Path, default=DATA, help="the folder with the networks")
    made.add_argument("--seconds", type=float, default=60.0, help="for ackley (default 60)")
    made.add_argument("--limit", type=float, default=60.0, help="seconds for each other question (default 60)")
    made.add_argument("--images", type=int, default=20, help="digits (default 20)")
    made.add_argument("--rival-images", type=int, default=20, help="of them for the rivals too (default 20)")
    made.add_argument("--long", action="store_true", help="ackley once more, to 1e-3 within 600 s, by polyopt alone")
    return made.parse_args(arguments)


def main() -> None:
    options = options_of()
    torch.set_num_threads(1)
    data = options.data if (options.data / "peaks_2_50_50_1.onnx").exists() and not options.small else None
    del options.data  # a path of this machine, which belongs in no table
    out, measured, history = folder(HERE, data is None), {}, None
    (out / "results").mkdir(exist_ok=True)

    def keep(**parts: list) -> None:
        """Whatever has been measured is on the disk."""
        measured.update(parts)
        plain = {name: [asdict(one) for one in part] for name, part in measured.items()}
        write(out / "results" / "answers.json", options, {"contenders": versions(), **plain})

    contenders = ours() | (rivals() if data else {})
    problem = peaks(data, options.seed)
    with watched(boxes=True) as boxes:
        polyopt(problem, options.limit)
    keep(peaks=measure_peaks(problem, contenders, options.limit, ROUNDS if data else 1))
    print(f"\npeaks to {problem.gap:g}\n\n{optimum_table(measured['peaks'])}\n")
    if data:
        steep = ackley(data, 1e-3)
        answers, history = measure_ackley(steep, contenders, options.seconds)
        keep(ackley=answers)
        print(f"\nackley, {options.seconds:g} s\n\n{optimum_table(answers)}\n")
        if options.long:
            keep(ackley_long=[polyopt(steep, LONG)])
            print(f"\nackley to {steep.gap:g}\n\n{optimum_table(measured['ackley_long'])}\n")
    else:
        print("a small network learnt on the spot; ackley, digits and rivals are left out")
    draw(problem, boxes, history, out / "boxes.png")
    if data:
        for answers, proofs in measure_digits(data, {n: s for n, s in contenders.items() if n != CUDA}, options):
            keep(digits=answers, proofs=proofs)
        print(f"\n{image_table(answers, proofs)}\n\n{digits_table(answers)}\n")
    answers = [answer for name, part in measured.items() if name != "proofs" for answer in part]
    if bad := contradictions(answers):
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
