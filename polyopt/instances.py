"""Instances of verification benchmarks: pairs of an ONNX and a VNN-LIB file, a time limit, and what is expected.

A table of them is a CSV file whose header names the columns ``onnx``, ``vnnlib``, ``timeout`` or ``timeout_s`` and, if
it likes, ``expected`` ("unsat" where the property holds, "sat" where it has a counterexample); or one of three columns
without a header, as the competitions publish it. File names are relative to the table's folder.
"""

from __future__ import annotations

import csv
import os
import time
from dataclasses import replace
from typing import NamedTuple

from polyopt.convert.from_onnx import from_onnx
from polyopt.verification.verdict import Verdict, verify
from polyopt.vnnlib import read_vnnlib

HEADLESS = ("onnx", "vnnlib", "timeout")


class Instance(NamedTuple):
    """One line of a table; ``timeout`` in seconds, ``expected`` "" where nothing is said."""

    onnx: str
    vnnlib: str
    timeout: float
    expected: str


def read_instances(path: str | os.PathLike, time_limit: float | None = None) -> list[Instance]:
    """The instances of a table, with ``time_limit`` in place of their own if that is given.

    Raises ValueError for a table without the columns that are needed, and for limits that are not positive, with the
    line.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "instances.csv"
    ...     _ = path.write_text("onnx,vnnlib,timeout_s,expected\\na.onnx,p.vnnlib,60,unsat\\n")
    ...     read_instances(path)
    [Instance(onnx='a.onnx', vnnlib='p.vnnlib', timeout=60.0, expected='unsat')]
    """
    with open(path, newline="", encoding="utf-8") as file:
        lines = [(number, [cell.strip() for cell in line]) for number, line in enumerate(csv.reader(file), 1) if line]
    headed = bool(lines) and {"onnx", "vnnlib"} <= set(lines[0][1])
    names = lines.pop(0)[1] if headed else list(HEADLESS)
    if not lines:
        raise ValueError(f"{path}: there are no instances; each line is onnx, vnnlib, timeout")
    return [_instance(path, number, dict(zip(names, line, strict=False)), time_limit) for number, line in lines]


def _instance(path, number: int, cells: dict[str, str], time_limit: float | None) -> Instance:
    limit = cells.get("timeout", cells.get("timeout_s", "")) if time_limit is None else time_limit
    try:
        timeout = float(limit)
    except ValueError:
        timeout = float("nan")
    if not cells.get("onnx") or not cells.get("vnnlib") or not timeout > 0:
        raise ValueError(
            f"{path}, line {number}: found {', '.join(cells.values())}; expected an ONNX file, a VNN-LIB file and a "
            "time limit in seconds (or give one for all)"
        )
    return Instance(cells["onnx"], cells["vnnlib"], timeout, cells.get("expected", ""))


def verify_files(
    onnx: str | os.PathLike,
    vnnlib: str | os.PathLike,
    time_limit: float | None = None,
    method: str = "auto",
    device=None,
    threads: int | None = None,
    progress: bool = False,
) -> Verdict:
    """The verdict on the files of an instance; the limit and the verdict's seconds count the time to read them too.

    ``threads`` are torch's, for this process from now on. Raises what `from_onnx`, `read_vnnlib` and `verify` raise.
    """
    import torch

    begin = time.perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
    net, prop = from_onnx(onnx), read_vnnlib(vnnlib)
    reading = time.perf_counter() - begin
    if time_limit is not None and not time_limit > reading:
        return Verdict("unknown", "reading", reason="time limit", seconds=reading)
    left = None if time_limit is None else time_limit - reading
    verdict = verify(net, prop, left, method, device=device, progress=progress)
    return replace(verdict, seconds=time.perf_counter() - begin)
