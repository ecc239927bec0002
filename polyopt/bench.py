"""A benchmark: a table of instances to a table of results, each instance in a process of its own.

A process that overstays its limit by more than `GRACE` is killed, and one that dies takes nothing with it but its own
answer. Rows are written to the disk as they come, so that a run which is stopped, however it is, goes on from where it
was. Processes are forked from a server that has imported everything and computed nothing: they start at once.

    onnx, vnnlib, timeout, expected   the instance, as in its table
    status                            "verified", "falsified", "unknown", or "error" with the exception in ``error``
    seconds                           from the reading of the files to the verdict, in the process
    wall                              from the start of the process to its answer
    branches, bound, by, reason       as in `polyopt.Verdict`
"""

from __future__ import annotations

import csv
import gc
import math
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from polyopt.instances import Instance, read_instances, verify_files

GRACE = 2.0  # seconds
MEANS = {"unsat": "verified", "sat": "falsified"}
STATUSES = ("verified", "falsified", "unknown", "error")
PRELOAD = [
    "onnx.reference.ops._op_list",
    "onnxruntime",
    "polyopt.bench",
    "polyopt.convert.from_onnx",
    "polyopt.search.decide",
    "polyopt.verification.attack",
    "polyopt.verification.programs",
    "polyopt.vnnlib",
]
COLUMNS = [*Instance._fields, "status", "seconds", "wall", "branches", "bound", "by", "reason", "error"]

Row = dict[str, Any]


class _Running(NamedTuple):
    instance: Instance
    process: Any
    answer: Connection
    begin: float

    @property
    def overstays(self) -> float:
        """When it is to be killed."""
        return self.begin + self.instance.timeout + GRACE


def bench(
    instances: str | os.PathLike,
    out: str | os.PathLike,
    jobs: int = 1,
    resume: bool = False,
    time_limit: float | None = None,
    method: str = "auto",
    device=None,
    threads: int | None = None,
) -> list[Row]:
    """Verify the instances of a table, ``jobs`` at a time, and return the rows that ``out`` then holds.

    ``time_limit`` stands for the instances' own limits; ``threads`` are those of each process, by default its share of
    the cores. With ``resume`` the instances that ``out`` already has are left out. An answer that comes after the limit
    counts as "unknown", and so does that of a process which has been killed.

    Raises ValueError for a table that cannot be read, and FileExistsError where ``out`` exists and is not resumed.
    """
    listed, folder, out = read_instances(instances, time_limit), Path(instances).parent, Path(out)
    if out.exists() and not resume:
        raise FileExistsError(f"{out} exists; give resume=True (--resume) to go on with it, or another name")
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    options = {"method": method, "device": device, "threads": threads}
    todo, running = _missing(listed, _repaired(out)), []
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # for numpy, in the processes
    context = _warmed()
    with open(out, "a", newline="", encoding="utf-8") as file, tqdm(total=len(todo), disable=None) as bar:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        try:
            while todo or running:
                while todo and len(running) < jobs:
                    running.append(_start(context, todo.pop(0), folder, options))
                for row in _finished(running):
                    writer.writerow(row)
                    file.flush()
                    os.fsync(file.fileno())
                    bar.update()
        finally:
            for one in running:
                _kill(one)
    return read_rows(out)


def read_rows(path: str | os.PathLike) -> list[Row]:
    """The rows of a table of results, as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wrong(rows: list[Row]) -> list[Row]:
    """The rows whose verdict is not what is expected."""
    decided = [row for row in rows if row["status"] in MEANS.values() and row["expected"] in MEANS]
    return [row for row in decided if MEANS[row["expected"]] != row["status"]]


def summary(rows: list[Row]) -> str:
    """The number of instances and their seconds by status, and how many verdicts are not what is expected.

    >>> row = {"onnx": "a.onnx", "vnnlib": "p.vnnlib", "expected": "sat", "status": "verified", "seconds": "0.5"}
    >>> print(summary([row, row | {"status": "falsified", "seconds": "1.5"}]))
    status     count   median s    total s
    verified       1      0.500        0.5
    falsified      1      1.500        1.5
    all            2      1.000        2.0
    not as expected: 1
      a.onnx p.vnnlib: verified, expected sat
    """
    groups = {status: [row for row in rows if row["status"] == status] for status in STATUSES}
    lines = [f"{'status':<9} {'count':>6} {'median s':>10} {'total s':>10}"]
    for name, group in [*groups.items(), ("all", rows)]:
        if group:
            seconds = [float(row["seconds"]) for row in group]
            lines.append(f"{name:<9} {len(group):>6} {statistics.median(seconds):>10.3f} {sum(seconds):>10.1f}")
    lines.append(f"not as expected: {len(wrong(rows))}")
    lines += [f"  {r['onnx']} {r['vnnlib']}: {r['status']}, expected {r['expected']}" for r in wrong(rows)]
    return "\n".join(lines)


def _repaired(out: Path) -> list[Row]:
    """The rows that are there already; a last line that was cut short is removed."""
    if not out.exists():
        return []
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        out.write_bytes(whole)
    return read_rows(out)


def _missing(listed: list[Instance], rows: list[Row]) -> list[Instance]:
    """The instances that have no row; one that is listed twice needs two."""
    done = Counter((row["onnx"], row["vnnlib"]) for row in rows)
    missing = []
    for instance in listed:
        done[instance[:2]] -= 1
        if done[instance[:2]] < 0:
            missing.append(instance)
    return missing


def _warmed():
    """What processes are made by, its server ready to fork them."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(PRELOAD)
    first = context.Process(target=int)  # does nothing, when all is imported
    first.start()
    first.join()
    return context


def _start(context, instance: Instance, folder: Path, options: dict) -> _Running:
    answer, end = context.Pipe(duplex=False)
    begin = time.perf_counter()
    process = context.Process(target=_work, args=(end, instance, folder, options), daemon=True)
    process.start()
    end.close()
    return _Running(instance, process, answer, begin)


def _work(end: Connection, instance: Instance, folder: Path, options: dict) -> None:
    """In the process: the verdict, or the exception, as a row."""
    gc.freeze()  # or the first full collection would go through all that the server has imported, and copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then kills
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which those that are killed would leak
    begin = time.perf_counter()
    try:
        verdict = verify_files(folder / instance.onnx, folder / instance.vnnlib, instance.timeout, **options)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        end.send({"status": "error", "seconds": time.perf_counter() - begin, "error": text})
        return
    row = {name: getattr(verdict, name) for name in ("status", "by", "reason", "bound", "branches", "seconds")}
    if verdict.status != "unknown" and verdict.seconds > instance.timeout:
        row |= {"status": "unknown", "reason": f"{verdict.status} too late"}
    end.send(row)


def _end_with_parent() -> None:
    """For the case that the parent is killed: nobody waits for the answer any more."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _finished(running: list[_Running]) -> list[Row]:
    """Wait for the first to end, by itself or by its limit; the rows of all that did, which run no more."""
    first = min(one.overstays for one in running)
    wait([one.answer for one in running], max(0.0, first - time.perf_counter()))
    ended = [(one, row) for one in list(running) if (row := _row(one)) is not None]
    for one, _ in ended:
        running.remove(one)
        _kill(one)
    return [row for _, row in ended]


def _row(one: _Running) -> Row | None:
    """The row of a process that has answered, died or overstayed; None where it is still at work."""
    wall = time.perf_counter() - one.begin
    if one.answer.poll():
        try:
            found = one.answer.recv()
        except EOFError:
            one.process.join()
            found = {"status": "error", "seconds": wall, "error": f"the process died, exit code {one.process.exitcode}"}
    elif time.perf_counter() > one.overstays:
        found = {"status": "unknown", "seconds": wall, "reason": "killed", "bound": -math.inf}
    else:
        return None
    seconds = {"seconds": f"{found['seconds']:.6f}", "wall": f"{wall:.6f}"}
    return one.instance._asdict() | found | seconds


def _kill(one: _Running) -> None:
    one.process.kill()
    one.process.join()
    one.answer.close()
