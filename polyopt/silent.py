"""HiGHS instances that print nothing.

HiGHS 1.16 announces itself when the first instance of a process is made, before it can be told to be silent: between
the lines of a program whose output another one reads. That line is caught here.
"""

from __future__ import annotations

from functools import cache

import highspy


def silent_highs() -> highspy.Highs:
    """A new instance, silent.

    >>> silent_highs().getNumCol()
    0
    """
    _catch_announcement()
    solver = highspy.Highs()
    solver.silent()
    return solver


@cache
def _catch_announcement() -> None:
    from pyomo.common.tee import capture_output  # not for those who ask no program

    with capture_output(capture_fd=True):
        highspy.Highs()
