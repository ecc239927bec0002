"""Worker processes that outlive each other's deaths.

`concurrent.futures.ProcessPoolExecutor` is broken for good when one of its processes dies, and fails all that it was
given, so that nobody knows whose death it was. Here each process is a pool of its own, served by a thread: a death
fails the one call that was at work there, and the next call finds a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from tqdm import tqdm


class Processes(Executor):
    """An executor of ``workers`` processes, by default one a processor; a call whose process dies raises
    `BrokenProcessPool`, and no other does.

    Processes are forked from a server that has imported ``preload`` where the system can, and end with the process that
    asks, however it ends. `shutdown` with ``cancel_futures`` ends them at once. Raises RuntimeError where they cannot
    be started, as from a script without ``if __name__ == "__main__":``.

    >>> with Processes(1) as processes:
    ...     processes.submit(abs, -2).result()
    2
    """

    def __init__(self, workers: int | None = None, preload: Sequence[str] = ()):
        workers = workers or os.cpu_count() or 1
        methods = multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:  # a plain fork would copy locks that other threads hold, as HiGHS's do
            self._context.set_forkserver_preload(list(preload))
        self._end, self._lifeline = self._context.Pipe(duplex=False)
        self._threads = ThreadPoolExecutor(workers, "process")
        self._pools: dict[int, ProcessPoolExecutor] = {}  # by thread
        self._first = [self._found_to_work()]  # for the thread that is there first

    def submit(self, function, /, *args, **kwargs) -> Future:
        """The call's future."""
        return self._threads.submit(self._call, function, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes when all calls are done; with ``cancel_futures`` at once, whatever they are at."""
        self._threads.shutdown(wait and not cancel_futures, cancel_futures=cancel_futures)
        if not (wait or cancel_futures):
            return
        self._lifeline.close()
        self._threads.shutdown()
        for pool in [*self._pools.values(), *self._first]:
            pool.shutdown()
        self._end.close()

    def _call(self, function, args, kwargs):
        """In a thread: the call in the thread's process."""
        thread = threading.get_ident()
        if thread not in self._pools:
            try:
                self._pools[thread] = self._first.pop()
            except IndexError:
                self._pools[thread] = self._new()
        try:
            return self._pools[thread].submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            self._pools.pop(thread).shutdown()
            raise

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._context, _live_by, (self._end,))

    def _found_to_work(self) -> ProcessPoolExecutor:
        """A process that has started; RuntimeError where that fails."""
        pool = self._new()
        try:
            pool.submit(int).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process could not start, its own message is above; processes import the script that starts "
                'them: what it does must stand below `if __name__ == "__main__":`'
            ) from error
        return pool


def _live_by(end: Connection) -> None:
    """In a process: end where the other side of the pipe does. Ctrl-C is for the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which those that are ended so would leak
    threading.Thread(target=lambda: (end.poll(None), os._exit(1)), daemon=True).start()
