"""What all tests need of their process: one thread each where they run in parallel, and a Ctrl-C that arrives."""

import os
import signal

if "PYTEST_XDIST_WORKER" in os.environ:  # or torch's threads would wait for each other's cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell's background jobs begin with SIGINT ignored, and pass that on: then nothing could be interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
