"""Executors whose workers die, for the tests of what is shared out."""

import multiprocessing
import os
import signal
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import suppress


def deadly(flag, *arguments):
    """`sharing.work`, but the first worker to come here is killed by the system."""
    with suppress(FileExistsError), open(flag, "x"):  # of two that come at once one goes on
        os.kill(os.getpid(), signal.SIGKILL)
    from polyopt.search.sharing import work  # which loads torch

    return work(*arguments)


class Reviving(Executor):
    """Two processes, replaced by others where one of them has died."""

    def __init__(self):
        self._pool = self._new()

    @staticmethod
    def _new() -> ProcessPoolExecutor:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["polyopt.search.sharing"])  # or every worker would load torch by itself
        return ProcessPoolExecutor(2, mp_context=context)

    def submit(self, *arguments) -> Future:
        """As the pool's, or a new one's where that is broken."""
        try:
            return self._pool.submit(*arguments)
        except RuntimeError:
            self._pool = self._new()
            return self._pool.submit(*arguments)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """As the pool's."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)
