"""A worker that dies, for the tests of models that are solved by many; light, as every worker imports it."""

import os
import signal
from typing import NamedTuple


class Killed(NamedTuple):
    """`scenarios.work`, but a worker that has found the objective ``doomed`` is killed by the system.

    This happens ``deaths`` times; the file ``flag`` has a letter for every time that somebody found it.
    """

    deaths: int
    flag: str
    doomed: float

    def __call__(self, payload, options, attempt):
        from polyopt.scenarios import work

        result, values = work(payload, options, attempt)
        if abs(result.objective - self.doomed) < 1e-6:
            with open(self.flag, "a+") as file:
                file.write("x")
                file.seek(0)
                dies = len(file.read()) <= self.deaths
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
        return result, values
