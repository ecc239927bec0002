"""The command line: ``polyopt verify`` for one property, ``polyopt bench`` for a table of them.

Exit codes say what was found, and none of them is 1, with which Python ends where something goes wrong:

    0    verified; a bench without a wrong verdict
    10   falsified; a bench with a verdict that is not what its table expects
    20   unknown
    2    bad input: arguments, files that are missing or cannot be read
    130  stopped by Ctrl-C: a bench, whose table has what was done, or before there was anything to know
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from dataclasses import asdict

from polyopt.bench import bench, summary, wrong
from polyopt.instances import verify_files
from polyopt.verification.verdict import STAGES, Verdict

EXIT = {"verified": 0, "falsified": 10, "unknown": 20}
BAD_INPUT, WRONG, STOPPED = 2, 10, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line's arguments and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, NotImplementedError, OSError) as error:
        print(f"polyopt: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("polyopt: stopped", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    codes = __doc__[__doc__.index("Exit codes") :]
    parser = argparse.ArgumentParser(
        prog="polyopt",
        description="Prove properties of neural networks, or find counterexamples.",
        epilog=codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--time-limit", type=_positive, metavar="S", help="seconds, with the reading of the files")
    common.add_argument("--method", choices=list(STAGES), default="auto", help="what looks for an answer (auto)")
    common.add_argument("--device", help="torch's device, such as cpu or cuda")
    common.add_argument("--threads", type=_count, metavar="N", help="torch's threads")

    one = commands.add_parser("verify", parents=[common], help="verify one property of one network")
    one.add_argument("onnx", help="the network, .onnx or .onnx.gz")
    one.add_argument("vnnlib", help="the property, .vnnlib or .vnnlib.gz")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    one.set_defaults(run=_verify)

    many = commands.add_parser("bench", parents=[common], help="verify all instances of a table, and write a table")
    many.add_argument("instances", help="CSV: onnx, vnnlib, timeout[, expected], files relative to its folder")
    many.add_argument("--out", required=True, metavar="CSV", help="the table of results, written row by row")
    many.add_argument("--jobs", type=_count, default=1, metavar="N", help="processes at a time (1)")
    many.add_argument("--resume", action="store_true", help="leave out what the table of results already has")
    many.set_defaults(run=_bench)
    return parser


def _positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def _verify(options) -> int:
    verdict = verify_files(
        options.onnx,
        options.vnnlib,
        options.time_limit,
        options.method,
        options.device,
        options.threads,
        progress=sys.stderr.isatty(),
    )
    print(_json(verdict) if options.json else _text(verdict))
    return EXIT[verdict.status]


def _bench(options) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that processes are cleared away
    rows = bench(
        options.instances,
        options.out,
        options.jobs,
        options.resume,
        options.time_limit,
        options.method,
        options.device,
        options.threads,
    )
    print(summary(rows))
    return WRONG if wrong(rows) else 0


def _json(verdict: Verdict) -> str:
    cells = asdict(verdict)
    for name in ("witness", "outputs"):
        cells[name] = None if cells[name] is None else cells[name].tolist()
    cells["bound"] = verdict.bound if math.isfinite(verdict.bound) else None
    return json.dumps(cells)


def _text(verdict: Verdict) -> str:
    reason = f", {verdict.reason}" if verdict.reason else ""
    lines = [f"{verdict.status} in {verdict.seconds:.3f} s by {verdict.by}{reason}"]
    if verdict.by in ("search", "milp"):
        lines.append(f"no margin is below {verdict.bound:.6g}, after {verdict.branches} branches")
    if verdict.witness is not None:
        lines += [f"X_{i} = {value!r}" for i, value in enumerate(verdict.witness.tolist())]
        lines += [f"Y_{i} = {value!r}" for i, value in enumerate(verdict.outputs.tolist())]
    return "\n".join(lines)
