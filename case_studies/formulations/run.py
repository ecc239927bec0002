"""How strong and how large is each formulation of a trained network, and what does it cost to solve?

For three networks every formulation of polyopt, on interval and on CROWN bounds, and those of OMLT and PySCIPOpt-ML
are built, relaxed and solved, each in a process of its own, and laid side by side.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from measure import Limits, Measurement, as_json, measure_polyopt, measure_search
from problems import Problem, problems
from rivals import RIVALS
from tqdm import tqdm

import polyopt as po

HERE = Path(__file__).resolve().parent
FORMULATIONS = {
    "big-M": po.BigM(),
    "partition(2)": po.Partition(2),
    "partition(4)": po.Partition(4),
    "extended": po.Extended(),
    "cutting planes": po.CuttingPlanes(),
    "auto": po.auto(),
}
BOUNDS = ("interval", "crown")
TIGHTENED = ("big-M", "partition(4)", "auto")  # also with CROWN's bounds tightened by LP over the layers before
SEARCH = "search, no MILP"
NO_START = "no start"
TOLERANCE = 1e-4  # relative; bounds and values that are apart by less do not contradict each other


def names(small: bool) -> list[str]:
    """What is measured on each network; without the rivals that are not installed, which is said."""
    if small:  # interval alone: loading torch for CROWN takes longer than all the rest
        return [f"{name}, interval" for name in FORMULATIONS]
    ours = [f"{name}, {bounds}" for name in FORMULATIONS for bounds in BOUNDS]
    ours += [f"{name}, crown + lp" for name in TIGHTENED] + [SEARCH]
    for name, (package, _, _) in RIVALS.items():
        if find_spec(package) is None:
            print(f"{name}: {package} is not installed, skipped")
    return ours + [name for name, (package, _, _) in RIVALS.items() if find_spec(package)]


def measure(name: str, problem: Problem, limits: Limits) -> Measurement:
    """In this process."""
    if name in RIVALS:
        _, function, formulation = RIVALS[name]
        return function(problem, name, formulation, limits)
    if name == SEARCH:
        return measure_search(problem, name, limits)
    formulation, bounds, *rest = name.split(", ")
    return measure_polyopt(problem, name, FORMULATIONS[formulation], bounds, rest != [NO_START], limits)


def measure_apart(name: str, problem: Problem, file: Path, limits: Limits) -> Measurement:
    """In a process of its own, which is killed where it stays far beyond its limit."""
    command = [sys.executable, __file__, "--one", name, "--problem", file]
    command += ["--time-limit", str(limits.seconds), "--threads", str(limits.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * limits.seconds + 60)
    except subprocess.TimeoutExpired:
        return Measurement(problem.name, name, "killed")
    if done.returncode:
        tqdm.write(f"{problem.name}, {name} failed:\n{done.stderr}", file=sys.stderr)
        return Measurement(problem.name, name, "failed")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def measure_all(
    asked: list[Problem], limits: Limits, small: bool, known: list[Measurement], save: Callable[[list], None]
) -> list[Measurement]:
    """Every name on every problem, and polyopt's best MILP once more without a start; saved as they come.

    What is ``known`` is not measured again.
    """
    found, chosen = [], names(small)
    known = {(m.problem, m.name): m for m in known}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(asked) * (len(chosen) + 1)) as bar:
        for problem in asked:
            file = Path(folder, f"{problem.name}.npz")
            problem.save(file)

            def one(name, problem=problem, file=file):
                bar.set_description(f"{problem.name}: {name}")
                found.append(known.get((problem.name, name)) or measure_apart(name, problem, file, limits))
                save(found)
                bar.update()
                return found[-1]

            here = [one(name) for name in chosen]
            best = min((m for m in here if m.name not in RIVALS and m.name != SEARCH), key=cost)
            one(f"{best.name}, {NO_START}")
    return found


def cost(m: Measurement) -> tuple:
    """Less is better: solved before unsolved, then sooner, or the smaller gap."""
    return (0, m.seconds) if m.status == "optimal" else (1, m.gap)


def faults(found: list[Measurement], problem: Problem) -> Iterator[str]:
    """Runs that failed, and bounds below a value that another run, or the start, has reached."""
    here = [m for m in found if m.problem == problem.name]
    best = max([problem.value(problem.start), *(m.objective - m.error for m in here if m.objective is not None)])
    for m in here:
        if m.status == "failed":
            yield f"{problem.name}, {m.name}: failed"
        for kind, bound in (("bound", m.bound), ("LP bound", m.lp_bound)):
            if bound is not None and bound < best - TOLERANCE * max(1.0, abs(best)):
                yield f"{problem.name}, {m.name}: {kind} {bound:.6f} is below the value {best:.6f} that was found"


def table(found: list[Measurement], limits: Limits) -> str:
    """One network's results in Markdown."""
    head = ["formulation", "rows", "columns", "nonzeros", "binaries", "LP bound", "build s", "solve s", "objective"]
    rows = [[*head, "bound", "gap", "nodes"], ["---", *["---:"] * 11]]
    for m in found:
        seconds = m.status if m.seconds is None or m.status not in ("optimal", "time limit") else f"{m.seconds:.1f}"
        seconds = f"> {limits.seconds:g}" if m.status == "time limit" else seconds
        gap = "0" if m.status == "optimal" else f"{m.gap:.1%}" if m.gap < float("inf") else "-"
        size = [m.rows, m.columns, m.nonzeros, m.binaries]
        row = [m.name, *size, number(m.lp_bound), number(m.build_seconds), seconds]
        rows.append([*row, number(m.objective), number(m.bound), gap, m.nodes])
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in row) + " |" for row in rows)


def number(value: float | None) -> str:
    """Four decimals for what is small, fewer for what is large."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def versions() -> dict[str, str]:
    """Of everything that was measured."""
    known = {"python": platform.python_version()}
    for package in ("pyomo", "highspy", "torch", "numpy", "omlt", "pyscipopt", "pyscipopt-ml"):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            known[package] = "not installed"
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small network, 3 s each, no rivals; writes to small/")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for each solve (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="threads for every solver (default 1)")
    parser.add_argument(
        "--resume", action="store_true", help="go on where a run that was stopped has left results.json"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--problem", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limits = Limits(3.0 if options.small else options.time_limit, options.threads)
    if options.one:
        found = measure(options.one, Problem.load(options.problem), limits)
        print(json.dumps(as_json(found)))
        return

    from picture import draw

    asked = problems(options.small)
    out = HERE / "small" if options.small else HERE
    out.mkdir(exist_ok=True)
    file, known = out / "results.json", []
    setting = {
        "versions": versions(),
        "time_limit": limits.seconds,
        "threads": limits.threads,
        "starts": {problem.name: problem.value(problem.start) for problem in asked},
    }
    if options.resume:
        before = json.loads(file.read_text())
        known = [Measurement(**m) for m in before.pop("measurements")]
        if before != setting:
            sys.exit(f"{file} was measured with {before}, which is not {setting}; run without --resume")

    def save(found: list[Measurement]) -> None:
        file.write_text(json.dumps(setting | {"measurements": [as_json(m) for m in found]}, indent=1))

    found = measure_all(asked, limits, options.small, known, save)
    draw(found, out / "bounds.png")
    for problem in asked:
        print(f"\n{problem.name}: MIP start {problem.value(problem.start):.4f}\n")
        print(table([m for m in found if m.problem == problem.name], limits))
    if wrong := [fault for problem in asked for fault in faults(found, problem)]:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
