"""Searches shared out to a Dask cluster whose workers are killed on the way."""

import os
import signal
import time
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from strategies import chain
from workers import deadly

import polyopt as po
from polyopt.search import sharing

distributed = pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
dask = pytest.importorskip("dask")

NET = chain(np.random.default_rng(2), "relu", sizes=(6, 32, 32, 1))
CUBE = po.Box([-1.0] * 6, [1.0] * 6)
pytestmark = pytest.mark.usefixtures("one_thread", "many_parts")


@pytest.fixture(scope="module")
def client():
    """Two processes, each of which is replaced when it dies, by one that need not load torch by itself."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        context = distributed.utils.get_mp_context()  # which sets what Dask itself wants to have loaded
        context.set_forkserver_preload(["distributed", "polyopt.search.sharing"])
        with distributed.LocalCluster(processes=True, **options) as cluster, distributed.Client(cluster) as client:
            yield client


@pytest.fixture(scope="module")
def alone(one_thread):
    best = po.optimize(NET, CUBE, [1.0])
    assert best.status == "optimal"
    return best


@pytest.fixture
def answers(monkeypatch):
    """What came back, in order: the errors, and by how much the number of open domains changed."""
    taken, take = [], sharing.Shared._take

    def noted(self, future, branching):
        before, error = self.open, take(self, future, branching)
        taken.append((error, self.open - before))
        return error

    monkeypatch.setattr(sharing.Shared, "_take", noted)
    return taken


def assert_same(best, alone):
    assert (best.status, best.value) == ("optimal", pytest.approx(alone.value, rel=2e-6, abs=2e-6))
    assert best.bound >= best.value - 1e-12
    assert net_value(best.x) == pytest.approx(best.value, abs=1e-12)


def net_value(x):
    return float(NET(x[None])[0, 0])


def test_a_part_whose_worker_is_killed_is_done_by_another(client, alone, answers, monkeypatch, tmp_path):
    """Dask sends it to the next worker by itself, and the others are shared out as ever."""
    flag = tmp_path / "flag"
    monkeypatch.setattr(sharing, "work", partial(deadly, str(flag)))
    assert_same(po.optimize(NET, CUBE, [1.0], executor=client.get_executor()), alone)
    assert flag.exists()
    assert len(answers) > 2
    assert all(error is None for error, _ in answers)


def test_a_part_that_dask_gives_up_goes_back_on_the_list(client, alone, answers, monkeypatch, tmp_path):
    flag = tmp_path / "flag"
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    monkeypatch.setattr(sharing, "work", partial(deadly, str(flag)))
    with pytest.warns(RuntimeWarning, match="failed with KilledWorker.*goes on"):
        assert_same(po.optimize(NET, CUBE, [1.0], executor=client.get_executor()), alone)
    assert flag.exists()
    lost = [change for error, change in answers if error is not None]
    assert 0 < len(lost) < len(answers)
    assert not any(lost)


def test_workers_killed_from_outside_one_after_the_other(client, alone, monkeypatch):
    """Whatever they are at, and those that replace them: the answer is the same."""
    killed, step = [], sharing.Shared.step

    def killing(self):
        step(self)
        if self._parts and len(killed) < 2:
            pids = client.run(os.getpid, on_error="ignore")  # of those that are alive
            for pid in list(pids.values())[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    monkeypatch.setattr(sharing.Shared, "step", killing)
    assert_same(po.optimize(NET, CUBE, [1.0], executor=client.get_executor()), alone)
    assert killed


def test_verdicts_by_a_cluster(client, alone, monkeypatch, tmp_path):
    """Too little to be reached is proven, though a worker is killed; what is reached has a witness."""
    flag = tmp_path / "flag"
    monkeypatch.setattr(sharing, "work", partial(deadly, str(flag)))
    executor = client.get_executor()

    def at_least(value):
        return po.Property(CUBE, [po.HPolytope([[-1.0]], [-value])])

    verdict = po.verify(NET, at_least(alone.value + 1e-3), method="search", executor=executor)
    assert verdict.status == "verified"
    assert flag.exists()
    verdict = po.verify(NET, at_least(alone.value - 1e-3), method="search", executor=executor)
    assert verdict.status == "falsified"
    assert net_value(verdict.witness) >= alone.value - 1e-3 - 1e-6


def test_a_time_limit_is_kept_and_what_is_left_goes_on(client, alone):
    executor = client.get_executor()
    begin = time.perf_counter()
    stopped = po.optimize(NET, CUBE, [1.0], time_limit=0.3 * alone.seconds, executor=executor, keep=True)
    assert time.perf_counter() - begin < 0.3 * alone.seconds + 5.0
    assert stopped.bound >= alone.value - 1e-9
    assert_same(po.optimize(NET, CUBE, [1.0], executor=executor, resume=stopped.state), alone)
