"""Programs as forks of the test process, which has imported everything: a start costs milliseconds where a
new interpreter spends two seconds on importing torch. Each is a process of its own all the same, with its
own signals, limits, environment and exit code.
"""

import gc
import io
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

HANGING = 300  # seconds after which a child ends with SIGALRM


class Child:
    """A forked process, as far as tests need subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None  # of exit; minus the signal that ended it

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def fork(
    deed: Callable[[], object],
    stdout: Path | None = None,
    stderr: Path | None = None,
    env: dict[str, str] | None = None,
) -> Child:
    """Do something in a child, which ends with 0, with the code of a SystemExit, or with 1 and a traceback.

    stdout, stderr: files that take what it prints; both may be one. env: its whole environment.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: threads of pytest-xdist
        pid = os.fork()
    if pid:
        return Child(pid)
    code = 1
    try:
        gc.freeze()  # a decoder that was open in the parent would wait for threads that a fork does not have
        # not a handler of the tests', such as pytest-timeout's: it would wait for Python to go on
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(HANGING)
        _print_into(stdout or Path(os.devnull), stderr or Path(os.devnull))
        warnings.simplefilter("ignore")  # as in a program, where no test turns them into errors
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        try:
            deed()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)  # whatever happened: nothing of the parent's may run twice


def _print_into(stdout: Path, stderr: Path) -> None:
    for descriptor, file in ((1, stdout), (2, stderr)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), "utf-8", line_buffering=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), "utf-8", line_buffering=True)


def run(deed: Callable[[], object], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Do something in a child and wait for it: its exit code and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        code = fork(deed, out, err, env).wait()
        return subprocess.CompletedProcess((), code, out.read_text(), err.read_text())


def module(name: str, *words: object) -> Callable[[], object]:
    """`python -m NAME WORDS`, to be done in a child."""

    def deed() -> None:
        sys.argv = [name, *map(str, words)]
        runpy.run_module(name, run_name="__main__", alter_sys=True)

    return deed


def mambavl(*words: object) -> Callable[[], object]:
    """`python -m mambavl WORDS`, to be done in a child."""
    return module("mambavl", *words)
