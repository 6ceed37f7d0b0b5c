"""`mambavl`, `python -m mambavl`, `accelerate launch -m mambavl`: one program."""

import contextlib
import os
import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

INTERRUPTED = 75  # EX_TEMPFAIL: run it again
SHOW_CURSOR = "\x1b[?25h"


def use_own_package() -> None:
    """Make `mambavl` the package that this file belongs to.

    To `python -m`, a clone called mambavl in the current folder is a package of that name. It has no
    __init__.py, so an editable install still provides what it lacks, and the program would be put together
    from both: `cache`, `configs`, `extract` and `fuse` from the clone, whichever that is, and the rest from
    the install.
    """
    found = sys.modules.get("mambavl")
    if found is None or found.__file__ is not None:
        return
    folder = Path(__file__).parent
    spec = spec_from_file_location(
        "mambavl", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None  # it is a file of Python
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["mambavl"] = package
    spec.loader.exec_module(package)


use_own_package()  # here, for processes that multiprocessing spawns run this file as well, but not main()


def main() -> None:
    """Run the command line; a user's error is one clear message, never a traceback."""
    # Before torch is imported: spinning OpenMP threads cost 15-25x in time wherever a second process is busy
    # (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large pages under large tensors, on Linux: a fault for every 4 KiB took a fifth of a step at d_model 64
    # (measured).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
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
