"""Do the tests bite? Plants the faults of data/mutations.toml one at a time, and runs the tests of each.

    python tests/mutations.py --jobs 2             every fault, in a quarter of an hour of two busy cores
    python tests/mutations.py --only 'fuse/head*'  those whose name fits the pattern
    python tests/mutations.py --check              no tests: is every text still there, exactly once?

A fault's name is its file and what is wrong: `fuse/train.py: the noun's loss is left out`. It is planted in a
copy of the tree, never in the tree itself. One of its tests must fail with it, and pass without it: those
that failed are run once more in the end.

    noticed      a test failed
    missed       all tests passed
    silent       all tests passed, as they must here: the fault's entry gives the reason
    in vain      something is wrong with the entry: the test fails without the fault, too, there is none, or
                 they ended otherwise than by a failed test
    too slow     the time was up; whether the tests would have noticed is not known

The exit code is 0 where each fault was noticed, or is silent for a reason that is given.
"""

import argparse
import contextlib
import fnmatch
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

# what a BLAS reads when it is loaded, as in conftest.py
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
LIST = TESTS / "data" / "mutations.toml"
KEYS = {"fault", "why", "text", "instead", "tests", "silent"}
LEFT_OUT = (".git", ".*_cache", "__pycache__", "*.egg-info", "build", "dist")
PASSED, FAILED = 0, 1  # pytest's exit codes
BROKEN = 99  # none of pytest's
# Each fault is tried in a fork of this process, which imports what takes five seconds once: nothing of the
# tree, of which each fork has its own.
PRELOADED = (
    "accelerate",
    "anyio",
    "hypothesis",
    "pydantic",
    "safetensors.torch",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "xdist.plugin",
    "zarr.testing.store",
)


@dataclass(frozen=True)
class Fault:
    """One change of the code that some test must notice."""

    file: str  # from the top of the tree
    fault: str  # what is wrong with it, in a few words
    why: str  # what it would do to somebody
    text: str  # stands in the file exactly once
    instead: str
    tests: str  # arguments of pytest, from tests/
    silent: str = ""  # why no test can notice it; empty for all others

    @property
    def name(self) -> str:
        return f"{self.file}: {self.fault}"


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    name: str
    state: str  # noticed, missed, silent, in vain, too slow
    said: str  # the first test that failed, or what is wrong
    seconds: float


def read_faults(path: Path = LIST) -> list[Fault]:
    """The faults in the order of the file. Raises ValueError for an entry that is not whole."""
    found = []
    for file, entries in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for entry in entries:
            wrong = sorted(({"fault", "why", "text", "instead"} - entry.keys()) | (entry.keys() - KEYS))
            if wrong:
                raise ValueError(f"{path}: {file}: {entry.get('fault', entry)}: keys {wrong}")
            found.append(Fault(**{"file": file, "tests": mirrored(file), **entry}))
    return found


def mirrored(file: str) -> str:
    """The test file of a module: fuse/head.py -> fuse/test_head.py, fuse/scan/__init__.py ->
    fuse/scan/test_scan.py.
    """
    path = Path(file)
    name = path.parent.name if path.stem == "__init__" else path.stem
    return str(path.with_name(f"test_{name}.py"))


def check(faults: Sequence[Fault], root: Path = ROOT) -> list[str]:
    """What is wrong with the list, by fault: a text that the file has not once, a test file that is gone."""
    wrong = [f"{name}: there are {n} faults of this name" for name, n in names_of(faults).items() if n > 1]
    for fault in faults:
        file = root / fault.file
        number = file.read_text(encoding="utf-8").count(fault.text) if file.is_file() else 0
        if number != 1:
            wrong.append(f"{fault.name}: the file holds its text {number} times: {fault.text!r}")
        if fault.text == fault.instead:
            wrong.append(f"{fault.name}: it changes nothing")
        paths = [one.partition("::")[0] for one in shlex.split(fault.tests) if ".py" in one]
        gone = [path for path in paths if not (root / "tests" / path).is_file()]
        if gone or not paths:
            wrong.append(f"{fault.name}: tests/{' '.join(gone) or '?'} is not there")
    return wrong


def without_a_fault(faults: Sequence[Fault], root: Path = ROOT) -> list[str]:
    """The modules of stage two in which none is planted; packages' own that hold no code need none."""
    paths = [path for path in (root / "fuse").rglob("*.py") if not is_a_face(path)]
    names = {path.relative_to(root).as_posix() for path in paths}
    return sorted(names - {fault.file for fault in faults})


def is_a_face(path: Path) -> bool:
    """Whether a package's own module only says what is in it."""
    return path.name == "__init__.py" and "\ndef " not in path.read_text(encoding="utf-8")


def names_of(faults: Sequence[Fault]) -> Counter[str]:
    return Counter(fault.name for fault in faults)


class Tree:
    """A copy of the tree in which one fault at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder / "tree", folder / "output"
        shutil.copytree(ROOT, self.folder, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        shared = ROOT.parent / "shared"
        if shared.is_dir():
            (folder / "shared").symlink_to(shared.resolve())

    def plant(self, fault: Fault) -> Callable[[], None]:
        """Returns what takes it out again."""
        file = self.folder / fault.file
        before, times = file.read_bytes(), file.stat()
        file.write_text(before.decode().replace(fault.text, fault.instead), encoding="utf-8")
        # another time than before, or Python would take what it compiled then
        os.utime(file, (times.st_atime, times.st_mtime + 10))

        def take_out() -> None:
            file.write_bytes(before)
            os.utime(file, (times.st_atime, times.st_mtime))

        return take_out

    def start(self, tests: str) -> int:
        """pytest in a fork, in a group of its own; returns its process id."""
        pid = os.fork()
        if pid:
            return pid
        code = BROKEN
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.folder / "tests")
            os.environ["PYTHONPATH"] = str(self.folder)
            # nothing of the tree that the script itself lies in
            sys.path[:] = [str(self.folder), *(one for one in sys.path if not is_within(one, ROOT))]
            code = self._pytest(shlex.split(tests))
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _pytest(self, tests: list[str]) -> int:
        import mambavl

        if not is_within(mambavl.__file__, self.folder):
            print(f"mambavl is that of {mambavl.__file__}, in which no fault is planted")
            return BROKEN
        options = ["-q", "-n0", "--tb=no", "-rfE", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(pytest.main([*options, *tests]))


def is_within(path: str, folder: Path) -> bool:
    return Path(path).absolute().is_relative_to(folder)


@dataclass
class Running:
    """A tree that is being tested."""

    tree: Tree
    what: Fault | str  # a fault, or the tests that are run without one
    pid: int
    take_out: Callable[[], None]
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Ended:
    what: Fault | str
    code: int | None  # of pytest; None where the time was up
    said: str
    seconds: float


def run_all(whats: Iterable[Fault | str], trees: Iterable[Tree], limit: float) -> Iterator[Ended]:
    """The tests of faults, and tests without any, as they end: in each tree one at a time."""
    running: list[Running] = []
    try:
        yield from _run_all(iter(whats), list(trees), running, limit)
    finally:
        for one in running:
            stop(one.pid)


def _run_all(
    ahead: Iterator[Fault | str], free: list[Tree], running: list[Running], limit: float
) -> Iterator[Ended]:
    while True:
        while free and (what := next(ahead, None)) is not None:
            tree = free.pop()
            tests, take_out = what, lambda: None
            if isinstance(what, Fault):
                tests, take_out = f"-x {what.tests}", tree.plant(what)
            running.append(Running(tree, what, tree.start(tests), take_out))
        if not running:
            return
        for one in list(running):
            if (ended := ended_by(one, limit)) is not None:
                running.remove(one)
                free.append(one.tree)
                yield ended
        time.sleep(0.02)


def stop(pid: int) -> None:
    """And whatever a test left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def ended_by(one: Running, limit: float) -> Ended | None:
    """None while it runs and has time."""
    seconds = time.monotonic() - one.since
    pid, status = os.waitpid(one.pid, os.WNOHANG)
    if not pid and seconds < limit:
        return None
    stop(one.pid)
    code = os.waitstatus_to_exitcode(status) if pid else None
    if not pid:
        os.waitpid(one.pid, 0)
    one.take_out()
    return Ended(one.what, code, one.tree.output.read_text(errors="replace"), round(seconds, 1))


def all_failed(said: str) -> list[str]:
    """The tests that pytest's summary names as failed."""
    return re.findall(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", said, re.MULTILINE)


def first_failed(said: str) -> str:
    """The first of them, or else the last line of what pytest said."""
    failed, lines = all_failed(said), said.strip().splitlines()
    return failed[0] if failed else lines[-1] if lines else ""


def described(ended: Ended) -> str:
    how = "the time was up" if ended.code is None else f"pytest ended with {ended.code}"
    return f"{how}: {first_failed(ended.said)}"


def outcome_of(fault: Fault, ended: Ended) -> Outcome:
    if ended.code == FAILED:
        state, said = "noticed", first_failed(ended.said)
    elif ended.code == PASSED:
        state, said = ("silent", fault.silent) if fault.silent else ("missed", "")
    else:
        state, said = "too slow" if ended.code is None else "in vain", described(ended)
    return Outcome(fault.name, state, said, ended.seconds)


def try_all(
    faults: Sequence[Fault], jobs: int, limit: float, say: Callable[[Outcome], None]
) -> list[Outcome]:
    """The outcomes, each also said as it comes. Each job has a copy of the tree."""
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # as in conftest.py; read when Triton is imported
    for name in PRELOADED:
        importlib.import_module(name)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        trees = [Tree(Path(folder) / str(number)) for number in range(jobs)]
        for ended in run_all(faults, trees, limit):
            assert isinstance(ended.what, Fault)
            outcomes.append(outcome_of(ended.what, ended))
            say(outcomes[-1])
        failed = dict.fromkeys(one.said for one in outcomes if one.state == "noticed")
        if not failed:
            return outcomes
        [ended] = run_all([shlex.join(failed)], trees[:1], 60 + limit * len(failed))
    return [without_those_that_fail_anyway(one, ended) for one in outcomes]


def without_those_that_fail_anyway(outcome: Outcome, ended: Ended) -> Outcome:
    """ended: all tests that failed with a fault, run without any."""
    if outcome.state != "noticed" or ended.code == PASSED:
        return outcome
    if ended.code == FAILED and outcome.said not in all_failed(ended.said):
        return outcome
    why = f"it fails without the fault, too: {outcome.said}" if ended.code == FAILED else described(ended)
    return replace(outcome, state="in vain", said=why)


def say(outcome: Outcome) -> None:
    print(f"{outcome.seconds:6.1f} s  {outcome.state:<8}  {outcome.name}  [{outcome.said}]", flush=True)


def show(outcomes: Sequence[Outcome]) -> None:
    """A line a file, then every fault that was not noticed."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.name.partition(": ")[0], Counter())[outcome.state] += 1
    width = max(map(len, counts))
    for file, states in counts.items():
        others = ", ".join(f"{number} {state}" for state, number in states.items() if state != "noticed")
        print(f"{file:<{width}}  {states['noticed']:>3} of {states.total():>3} noticed  {others}".rstrip())
    states = Counter(outcome.state for outcome in outcomes)
    print(f"{states['noticed']} of {len(outcomes)} noticed, {100 * states['noticed'] / len(outcomes):.1f} %")
    for outcome in outcomes:
        if outcome.state != "noticed":
            print(f"{outcome.state}: {outcome.name}\n    {outcome.said}".rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plant faults, one at a time, and see which tests notice.")
    parser.add_argument("--only", metavar="GLOB", default="*", help="faults whose name fits")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at a time")
    parser.add_argument("--limit", type=float, default=240, help="seconds that the tests of a fault may take")
    parser.add_argument("--out", type=Path, help="write all outcomes there as JSON")
    parser.add_argument("--check", action="store_true", help="run no tests; check the list alone")
    given = parser.parse_args(arguments)
    faults = read_faults()
    wrong = check(faults)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if given.check:
        print(f"{len(faults)} faults, each of whose texts stands once in its file")
        print(f"without any: {', '.join(without_a_fault(faults)) or 'no module'} of fuse/")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # as Ctrl-C: nothing is left behind
    chosen = [fault for fault in faults if fnmatch.fnmatch(fault.name, given.only)]
    if not chosen:
        print(f"no fault is called {given.only}", file=sys.stderr)
        return 1
    outcomes = try_all(chosen, given.jobs, given.limit, say)
    show(outcomes)
    if given.out:
        given.out.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return int(any(outcome.state not in ("noticed", "silent") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
