"""`mambavl`, `python -m mambavl`, `accelerate launch -m mambavl`: one program."""

import contextlib
import os
import signal
import sys

INTERRUPTED = 75  # EX_TEMPFAIL: run it again
SHOW_CURSOR = "\x1b[?25h"


def main() -> None:
    """Run the command line; a user's error is one clear message, never a traceback."""
    # Before torch is imported: spinning OpenMP threads cost 15-25x in time wherever a second process is busy
    # (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    from mambavl.cli.app import run

    sys.exit(run())


def stop(number: int, frame: object) -> None:
    """Outside the loops that finish their unit of work first (terminal.stop_on_signal), end at once.

    Not by an exception: one raised in the middle of an import or a callback may be swallowed there. Whatever
    was being written is whole or absent, as after any kill.
    """
    # a write that the signal came in the middle of
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        sys.stdout.flush()
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    os.write(2, f"{cursor}mambavl: interrupted; the same command resumes\n".encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
