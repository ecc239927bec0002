"""The command line, run in this process and in others: exit codes, output, tables that survive whatever stops them."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import strategies

import polyopt as po
from polyopt import bench as module
from polyopt import cli, instances
from polyopt.activations import ReLU
from polyopt.bench import COLUMNS, bench, read_rows, summary
from polyopt.cli import main
from polyopt.instances import read_instances
from polyopt.layers import Affine

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "vnn" / "test"
COMMAND = [sys.executable, "-m", "polyopt"]
SLACK = 3.0  # seconds that a busy machine may lose


def property_text(inputs, low, high, unsafe):
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)] + ["(declare-const Y_0 Real)"]
    lines += [f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))" for i in range(inputs)]
    return "\n".join([*lines, f"(assert {unsafe})"])


@pytest.fixture(autouse=True, scope="module")
def own_server():
    """A process has one server that others are forked from: another test may have started it, without our imports."""
    forkserver._forkserver._stop()


@pytest.fixture
def folder(tmp_path):
    """|x|, whose greatest value on [-1, 2] is 2, with properties that hold, fail, and take for ever."""
    absolute = [Affine([[1.0], [-1.0]], None), ReLU(), Affine([[1.0, 1.0]], None)]
    po.to_onnx(po.Network.sequential(absolute, (1,)), tmp_path / "abs.onnx")
    (tmp_path / "safe.vnnlib").write_text(property_text(1, -1.0, 2.0, "(>= Y_0 2.5)"))
    (tmp_path / "unsafe.vnnlib").write_text(property_text(1, -1.0, 2.0, "(>= Y_0 1.5)"))
    hard = strategies.chain(np.random.default_rng(0), "relu", (20, 100, 100, 100, 1))
    po.to_onnx(hard, tmp_path / "hard.onnx")
    low = hard(np.zeros((1, 20)))[0, 0] - 3.0
    (tmp_path / "hard.vnnlib").write_text(property_text(20, -1.0, 1.0, f"(<= Y_0 {low})"))
    return tmp_path


def table(folder, lines, header="onnx,vnnlib,timeout_s,expected"):
    path = folder / "instances.csv"
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n")
    return path


SAFE, UNSAFE = "abs.onnx,safe.vnnlib,20,unsat", "abs.onnx,unsafe.vnnlib,20,sat"


def hard(seconds):
    return f"hard.onnx,hard.vnnlib,{seconds},"


@pytest.mark.parametrize(("name", "status", "code"), [("safe", "verified", 0), ("unsafe", "falsified", 10)])
def test_verdicts_and_exit_codes(folder, capsys, name, status, code):
    files = [str(folder / "abs.onnx"), str(folder / f"{name}.vnnlib")]
    assert main(["verify", *files]) == code
    text = capsys.readouterr().out
    assert text.startswith(f"{status} in ")
    assert ("X_0 = " in text) == (status == "falsified")
    assert main(["verify", *files, "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == status
    if status == "falsified":
        (x,), (y,) = answer["witness"], answer["outputs"]
        assert -1.0 <= x <= 2.0
        assert abs(x) == y >= 1.5


def test_unknown(folder, capsys):
    files = [str(folder / "hard.onnx"), str(folder / "hard.vnnlib")]
    assert main(["verify", *files, "--time-limit", "1.5", "--json"]) == 20
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["reason"]) == ("unknown", "time limit")
    assert answer["seconds"] < 1.5 + SLACK
    assert main(["verify", *files, "--time-limit", "1e-6"]) == 20
    assert "unknown in 0." in capsys.readouterr().out


def test_bad_input(folder, capsys):
    onnx, vnnlib = str(folder / "abs.onnx"), str(folder / "safe.vnnlib")
    assert main(["verify", str(folder / "none.onnx"), vnnlib]) == 2
    assert "none.onnx" in capsys.readouterr().err
    assert main(["verify", vnnlib, vnnlib]) == 2
    assert "is not an ONNX file" in capsys.readouterr().err
    assert main(["verify", onnx, onnx]) == 2
    assert "line 1" in capsys.readouterr().err
    assert main(["verify", str(folder / "hard.onnx"), vnnlib]) == 2
    assert "1 inputs and 1 outputs, but the network 20 and 1" in capsys.readouterr().err
    for wrong in (["verify", onnx], ["verify", onnx, vnnlib, "--time-limit", "0"], ["prove"], []):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2


def test_as_a_module_from_another_folder(folder):
    done = subprocess.run([*COMMAND, "verify", "abs.onnx", "safe.vnnlib"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout[:8]) == (0, "verified")


def test_ctrl_c_gives_what_is_known(folder, capsys):
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    assert main(["verify", str(folder / "hard.onnx"), str(folder / "hard.vnnlib"), "--json"]) == 20
    timer.join()
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["reason"]) == ("unknown", "interrupted")


def test_ctrl_c_before_there_is_anything_to_know(folder, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "verify_files", interrupted)
    assert main(["verify", str(folder / "abs.onnx"), str(folder / "safe.vnnlib")]) == 130


def test_reading_counts(folder, monkeypatch):
    """What is left of the limit when the files are read is the limit of the rest."""
    limits, read = [], instances.read_vnnlib

    def slowly(path):
        time.sleep(0.5)
        return read(path)

    def answer(net, prop, time_limit, *_, **__):
        limits.append(time_limit)
        return po.Verdict("unknown", "attack")

    monkeypatch.setattr(instances, "read_vnnlib", slowly)
    monkeypatch.setattr(instances, "verify", answer)
    verdict = instances.verify_files(folder / "abs.onnx", folder / "safe.vnnlib", 20.0)
    assert limits[0] <= 19.5
    assert verdict.seconds >= 0.5
    verdict = instances.verify_files(folder / "abs.onnx", folder / "safe.vnnlib", 0.3)
    assert len(limits) == 1
    assert (verdict.status, verdict.reason) == ("unknown", "time limit")


# Tables of instances.


def test_tables_with_and_without_a_header(folder):
    lines = ["a.onnx, p.vnnlib, 3"]
    headless = read_instances(table(folder, lines, header=None))
    assert headless == read_instances(table(folder, lines, header="onnx,vnnlib,timeout"))
    assert headless == [("a.onnx", "p.vnnlib", 3.0, "")]
    assert read_instances(table(folder, ["p,7,a,x"], header="vnnlib,timeout_s,onnx,note"))[0][:3] == ("a", "p", 7.0)
    assert read_instances(table(folder, ["a,p"], header="onnx,vnnlib"), time_limit=5.0)[0].timeout == 5.0


@pytest.mark.parametrize("line", ["a.onnx,p.vnnlib", "a.onnx,p.vnnlib,soon", "a.onnx,p.vnnlib,-1", "a.onnx,,3"])
def test_lines_that_are_no_instances(folder, line):
    with pytest.raises(ValueError, match="line 3"):
        read_instances(table(folder, [SAFE, line]))


def test_empty_tables(folder):
    with pytest.raises(ValueError, match="no instances"):
        read_instances(table(folder, []))


# Benches.


def test_a_bench(folder, capsys):
    lines = [SAFE, UNSAFE, hard(1.0), "missing.onnx,safe.vnnlib,20,unsat", UNSAFE]
    out = folder / "results.csv"
    assert main(["bench", str(table(folder, lines)), "--out", str(out), "--jobs", "2", "--threads", "1"]) == 0
    rows = {(row["onnx"], row["vnnlib"]): row for row in read_rows(out)}
    assert [len(read_rows(out)), len(rows)] == [5, 4]
    assert list(read_rows(out)[0]) == COLUMNS
    assert rows["abs.onnx", "safe.vnnlib"]["status"] == "verified"
    assert rows["abs.onnx", "unsafe.vnnlib"]["status"] == "falsified"
    unknown = rows["hard.onnx", "hard.vnnlib"]
    assert (unknown["status"], unknown["reason"], unknown["expected"]) == ("unknown", "time limit", "")
    assert 1.0 <= float(unknown["seconds"]) <= float(unknown["wall"]) < 1.0 + SLACK
    error = rows["missing.onnx", "safe.vnnlib"]
    assert error["status"] == "error"
    assert error["error"].startswith("FileNotFoundError")
    text = capsys.readouterr().out
    assert "not as expected: 0" in text
    assert "all            5" in text


def test_a_wrong_verdict_is_not_passed_over(folder, capsys):
    lines = [SAFE.replace("unsat", "sat"), UNSAFE]
    assert main(["bench", str(table(folder, lines)), "--out", str(folder / "out.csv")]) == 10
    text = capsys.readouterr().out
    assert "not as expected: 1\n  abs.onnx safe.vnnlib: verified, expected sat" in text


def test_results_are_not_overwritten(folder, capsys):
    out = folder / "out.csv"
    out.write_text("precious")
    assert main(["bench", str(table(folder, [SAFE])), "--out", str(out)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert out.read_text() == "precious"


def processes(session):
    """The processes of a session that have not ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended in the meantime
            continue
        if owner == str(session) and state != "Z":
            yield path.parent.name


def assert_nobody_is_left(session):
    deadline = time.perf_counter() + 10.0
    while left := list(processes(session)):
        assert time.perf_counter() < deadline, left
        time.sleep(0.2)


def test_a_bench_resumes_after_it_was_killed(folder):
    """By SIGKILL in the middle, with a row half written: what is whole stays, the rest is done, nothing twice."""
    listed, out = table(folder, [SAFE, UNSAFE, UNSAFE, hard(60)]), folder / "out.csv"
    command = [*COMMAND, "bench", str(listed), "--out", str(out), "--threads", "1"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.perf_counter() + 60.0
    while (not out.exists() or out.read_text().count("\n") < 4) and time.perf_counter() < deadline:
        time.sleep(0.1)
    running.kill()
    running.wait()
    assert_nobody_is_left(running.pid)
    before = out.read_text()
    assert before.count("\n") == 4
    out.write_text(before.rsplit("\n", 2)[0] + "\nabs.onnx,unsa")  # the third row, cut short
    table(folder, [SAFE, UNSAFE, UNSAFE, hard(1)])
    rows = bench(listed, out, resume=True, threads=1)
    assert out.read_text().startswith(before.rsplit("\n", 2)[0])
    assert [row["status"] for row in rows] == ["verified", "falsified", "falsified", "unknown"]
    assert bench(listed, out, resume=True) == rows


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_bench_leaves_its_rows_and_no_process(folder, sent, code):
    listed, out = table(folder, [SAFE, hard(300), hard(300)]), folder / "out.csv"
    command = [*COMMAND, "bench", str(listed), "--out", str(out), "--jobs", "2", "--threads", "1"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.perf_counter() + 60.0
    while (not out.exists() or out.read_text().count("\n") < 2) and time.perf_counter() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    os.killpg(running.pid, sent) if sent == signal.SIGINT else running.send_signal(sent)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == code, errors
    assert [row["status"] for row in read_rows(out)] == ["verified"]
    assert_nobody_is_left(running.pid)


def overstay(end, instance, folder, options):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60.0)


def die(end, instance, folder, options):
    os.kill(os.getpid(), signal.SIGSEGV)


def late(end, instance, folder, options):
    module.verify_files = lambda *_, **__: po.Verdict("verified", "search", seconds=instance.timeout + 0.5)
    module._work(end, instance, folder, options)


def test_a_process_that_overstays_is_killed(folder, monkeypatch):
    monkeypatch.setattr(module, "_work", overstay)
    start = time.perf_counter()
    (row,) = bench(table(folder, [hard(0.5)]), folder / "out.csv", threads=1)
    assert (row["status"], row["reason"]) == ("unknown", "killed")
    assert 0.5 < float(row["wall"]) < 0.5 + module.GRACE + SLACK
    assert time.perf_counter() - start < 30.0


def test_a_process_that_dies_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(module, "_work", die)
    rows = bench(table(folder, [SAFE, UNSAFE]), folder / "out.csv", threads=1)
    assert [row["status"] for row in rows] == ["error", "error"]
    assert all("exit code" in row["error"] and "-11" in row["error"] for row in rows)
    assert "error          2" in summary(rows)


def test_a_late_answer_is_none(folder, monkeypatch):
    monkeypatch.setattr(module, "_work", late)
    (row,) = bench(table(folder, [hard(0.5)]), folder / "out.csv", threads=1)
    assert (row["status"], row["reason"]) == ("unknown", "verified too late")


def test_the_competitions_test_instances(tmp_path):
    if not DATA.exists():
        pytest.skip(f"the shared data are absent: no {DATA}")
    out = tmp_path / "out.csv"
    assert main(["bench", str(DATA / "instances.csv"), "--out", str(out), "--threads", "1"]) == 0
    rows = read_rows(out)
    with open(DATA / "instances.csv") as file:
        expected = {(row["onnx"], row["vnnlib"]): row["expected"] for row in csv.DictReader(file)}
    words = {"unsat": "verified", "sat": "falsified"}
    assert {(row["onnx"], row["vnnlib"]): row["status"] for row in rows} == {k: words[v] for k, v in expected.items()}
