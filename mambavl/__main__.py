"""`mambavl`, `python -m mambavl`, `accelerate launch -m mambavl`: one program."""

import os
import sys


def main() -> None:
    """Run the command line; a user's error is one clear message, never a traceback."""
    # Before torch is imported: spinning OpenMP threads cost 15-25x in time wherever a second process is busy (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from mambavl.cli import run
    except KeyboardInterrupt:
        sys.exit(75)
    sys.exit(run())


if __name__ == "__main__":
    main()
