"""What all benchmarks share: options, the conditions that a result records, turns, and how figures are handed
out.

A benchmark asks one question, which stands first in its docstring. What it compares takes turns in one
process, so that noise from elsewhere meets all of it; medians are reported, with the fastest and the slowest.
It prints a table and, as its last line, JSON; with --out it writes a file whose `conditions` are those of
`Harness.conditions`, from which `readme.py` and `scale.py` put numbers into README and docs.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
K = TypeVar("K")


def options(doc: str | None, repeats: int | None = None) -> argparse.ArgumentParser:
    """A parser with what every benchmark has: --out, and with `repeats` also --repeats and --quick."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    if repeats:
        parser.add_argument("--repeats", type=int, default=repeats, help=f"turns; {repeats} by default")
        parser.add_argument(
            "--quick",
            action="store_true",
            help="next to no work, to try the program; the figures mean nothing",
        )
    return parser


class Harness:
    """One run of a benchmark, from here on.

    `packages` are those whose versions its figures depend on; `said` is what else a reader has to know.
    """

    def __init__(self, arguments: argparse.Namespace, *packages: str, **said: object) -> None:
        self.arguments, self.packages, self.said = arguments, packages, said
        self.load, self.since, self.before = os.getloadavg()[0], time.monotonic(), _seconds_of_cpu()
        out = arguments.out
        if getattr(arguments, "quick", False) and out and out.resolve().parent == RESULTS:
            raise SystemExit(f"{out}: figures of --quick mean nothing; write them elsewhere")

    def conditions(self) -> dict[str, object]:
        """Options as given, machine, versions, commit, date, and how busy the machine was with other things:
        the load of the minute before the run, and the percentage of all cores that other processes took
        during it (null where the system does not tell).
        """
        told = (bool, int, float, str, list)
        given = {key: value for key, value in vars(self.arguments).items() if isinstance(value, told)}
        busy, own = (after - before for after, before in zip(_seconds_of_cpu(), self.before, strict=True))
        seconds = (time.monotonic() - self.since) * (os.cpu_count() or 1)
        return {
            **_of_torch(),
            **given,  # --threads of a program whose work is done by others is theirs
            **self.said,
            "cpu": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "versions": {"python": platform.python_version(), **versions(*self.packages)},
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - self.since),
            "load_before": round(self.load, 1),
            "others_percent": round(max(0.0, 100 * (busy - own) / seconds), 1) if busy else None,
        }

    def write(self, figures: Mapping[str, object]) -> None:
        """To --out, if it was given; may be called again when more is known."""
        if self.arguments.out:
            self.arguments.out.parent.mkdir(parents=True, exist_ok=True)
            whole = {"conditions": self.conditions(), **figures}
            self.arguments.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    def end(self, figures: Mapping[str, object], last: Mapping[str, object]) -> None:
        """The figures to --out, and the last line."""
        self.write(figures)
        print(json.dumps(last))


def turns(
    jobs: Mapping[K, Callable[[], Any]],
    repeats: int,
    *,
    check: Callable[[K, Any], None] = lambda key, found: None,
    often: Callable[[float, int], int] = lambda seconds, repeats: repeats,
    wait: Callable[[], object] = lambda: None,
) -> dict[K, list[float]]:
    """Seconds of each job, `repeats` times, the jobs one after another in each turn.

    The first call of each warms up and goes to `check`; `often` says by its seconds how many of the turns the
    job takes part in. `wait` comes before the clock is read, as where a GPU is still at work.
    """
    allowed, found = {}, {}
    for key, job in jobs.items():
        seconds, result = clock(job, wait)
        check(key, result)
        allowed[key], found[key] = often(seconds, repeats), []
    for turn in range(repeats):
        for key, job in jobs.items():
            if turn < allowed[key]:
                found[key].append(clock(job, wait)[0])
    return found


def clock(job: Callable[[], Any], wait: Callable[[], object] = lambda: None) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    wait()
    since = time.perf_counter()
    found = job()
    wait()
    return time.perf_counter() - since, found


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, fastest and slowest in milliseconds, and of how many."""
    of = {"milliseconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
    return {**{key: round(1e3 * value, 3) for key, value in of.items()}, "repeats": len(seconds)}


def own_process(*words: object, **environment: str) -> Any:
    """What this program says in its last line when it is started anew with such words."""
    command = [sys.executable, sys.argv[0], *map(str, words)]
    env = {**os.environ, **environment}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


# --- the machine


def versions(*packages: str) -> dict[str, str | None]:
    """Of packages as pip names them; None for one that is not installed."""
    installed = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
    return {package: installed.get(package.lower()) for package in packages}


def processor() -> str:
    """Its name where Linux tells, else its architecture."""
    told = Path("/proc/cpuinfo")
    names = told.read_text().splitlines() if told.exists() else []
    named = (line.partition(":")[2].strip() for line in names if line.startswith("model name"))
    return next(named, platform.machine())


def commit(checkout: Path = ROOT) -> str | None:
    """The one that is checked out; with `+` where program files differ from it or are new."""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    code = ["*.py", "*.c", "*.h", "*.toml"]
    differs = subprocess.run(
        [*git, "status", "--porcelain", "--", *code], capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + ("+" if differs.stdout else "")


def status_bytes(field: str) -> int:
    """Of this process as Linux has it: `VmRSS`, what it holds, `VmHWM`, its peak, `RssAnon`, without
    files.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def free_gigabytes() -> float:
    """Memory that may still be taken, as Linux has it; infinite where it is not told."""
    told = Path("/proc/meminfo")
    lines = told.read_text().splitlines() if told.exists() else []
    free = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next((kilobytes * 1024 / 1e9 for kilobytes in free), math.inf)


def reset_peak() -> None:
    """`VmHWM` begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _of_torch() -> dict[str, object]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def _seconds_of_cpu() -> tuple[float, float]:
    """Of all processes, 0 where it is not told; of this one and those of its children that have ended."""
    told, own = Path("/proc/stat"), 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        own += used.ru_utime + used.ru_stime
    if not told.exists():
        return 0.0, own
    user, nice, system, _, _, interrupts, soft, *_ = map(int, told.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK"), own
