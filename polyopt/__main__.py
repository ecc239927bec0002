"""``python -m polyopt``: the command line."""

import sys

from polyopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
