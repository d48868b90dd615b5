"""`python -m triune`: the command line."""

import sys

from triune.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
