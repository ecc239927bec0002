"""Tests that run in parallel take one thread each, or torch's threads would wait for each other's cores."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
