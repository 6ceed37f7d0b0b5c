"""The command line, called in this process."""

import sys

from mambavl.cli import app


def call(*words: object) -> int:
    """Run the program in this process; returns the exit code."""
    if words[0] == "extract":  # its workers are forks: what they need is imported here, and not in each
        import timm  # noqa: F401
        import transformers  # noqa: F401
    before = sys.argv
    sys.argv = ["mambavl", *map(str, words)]
    try:
        return app.run()
    finally:
        sys.argv = before
