"""The command line, called in this process."""

import sys

from mambavl.cli import app


def call(*words: object) -> int:
    """Run the program in this process; returns the exit code."""
    before = sys.argv
    sys.argv = ["mambavl", *map(str, words)]
    try:
        return app.run()
    finally:
        sys.argv = before
