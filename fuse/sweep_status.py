"""How far a sweep is: read from its folder, without a lock and without a change, while others train.

summary.json names the points; what its runs are at is in their folders, which are newer. Whether somebody
trains a run is told from begun.json, which a process that dies leaves: of this host's processes it is known
who lives, of another's how long ago they were heard of.
"""

import json
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.chosen import CHOSEN
from mambavl.fuse.owner import last_failure, signature_of
from mambavl.fuse.result import spoken
from mambavl.fuse.run import BEGUN, CURVES, LOCK, RECIPE, RESULT, read_recipe, read_result, why_pruned
from mambavl.fuse.summary import SUMMARY, read_summary

# stopped: begun, and nobody is at it; died: likewise, and its process did not end by itself
Seen = Literal["waiting", "running", "silent", "stopped", "died", "done", "failed", "pruned"]
AT_WORK = ("running", "silent")
SILENT = 600.0  # seconds, or three epochs, after which a run of another host is said to be silent


@dataclass(frozen=True)
class Run:
    """A point of the sweep, as far as its folder says."""

    name: str  # of its folder
    state: Seen
    why: str = ""  # it failed, or was pruned
    epoch: int = 0  # epochs done
    epochs: int | None = None  # of all; None: it has not begun
    seconds: float = 0.0  # that the epochs took
    since: float = 0.0  # seconds since it was heard of
    who: str = ""  # trains it
    score: float | None = None  # of one that is done, in percent
    measure: str = ""

    @property
    def rate(self) -> float:
        """Epochs a second."""
        return self.epoch / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        if self.epochs is None or not self.rate:
            return None
        return max(0.0, (self.epochs - self.epoch) / self.rate - self.since)


@dataclass(frozen=True)
class SweepStatus:
    """What is known of a sweep at one moment."""

    path: Path
    runs: list[Run]
    chosen: list[Run]  # runs of what was chosen

    @property
    def at_work(self) -> list[Run]:
        return [run for run in [*self.runs, *self.chosen] if run.state in AT_WORK]

    @property
    def counts(self) -> Counter[str]:
        return Counter(run.state for run in self.runs)

    @property
    def rate(self) -> float:
        """Epochs a second, of all runs that are being trained."""
        return sum(run.rate for run in self.at_work if run.state == "running")

    @property
    def seconds_left(self) -> float | None:
        """For all points that are known, at that rate; None where it is not known."""
        known = [run.epochs for run in self.runs if run.epochs is not None]
        if not self.rate or not known:
            return None
        usual = statistics.median(known)
        open_ = [run for run in self.runs if run.state not in ("done", "failed", "pruned")]
        return sum((run.epochs or usual) - run.epoch for run in open_) / self.rate

    def best(self, most: int) -> list[Run]:
        """The runs with the best scores."""
        done = [run for run in self.runs if run.score is not None]
        return sorted(done, key=lambda run: -(run.score or 0.0))[:most]


def sweep_status(folder: Path, known: dict[str, Run] | None = None, now: float | None = None) -> SweepStatus:
    """Look at a sweep. known: runs that were done at an earlier look, which are not read again; those found
    are added. now: seconds since 1970. Raises UsageError where the folder is no sweep's.
    """
    known, now = {} if known is None else known, time.time() if now is None else now
    summary = folder / SUMMARY
    lines = read_summary(summary).points if summary.exists() else []
    named = {line["run"]: line for line in lines}
    folders = {path.parent.name for name in (RECIPE, LOCK) for path in folder.glob(f"*/{name}")}
    if not named and not folders:
        raise UsageError(f"{folder}: is not the folder of a sweep: it has no {SUMMARY} and no runs")
    runs: dict[str, Run] = {}
    for name in [*named, *sorted(folders - named.keys())]:
        runs[name] = known.get(name) or _look(folder / name, now)
        if runs[name].state == "done":
            known[name] = runs[name]
        elif runs[name].state == "waiting" and named.get(name, {}).get("state") == "failed":
            runs[name] = Run(name, "failed", why=named[name]["error"])  # before it had a folder
    is_chosen = {name: name.startswith(f"{CHOSEN},") for name in runs}
    return SweepStatus(
        folder,
        [run for name, run in runs.items() if not is_chosen[name]],
        [run for name, run in runs.items() if is_chosen[name]],
    )


def _look(run: Path, now: float) -> Run:
    if (run / RESULT).exists():
        result = read_result(run)
        score = result.metrics.get(result.main_measure)
        epochs = result.epochs
        return Run(run.name, "done", "", epochs, epochs, score=score, measure=spoken(result.main_measure))
    if not (run / RECIPE).exists():
        state: Seen = "running" if (run / BEGUN).exists() else "waiting"  # what it is fed is being read
        return Run(run.name, state, who=signature_of(run) if state == "running" else "")
    epochs, (epoch, seconds) = read_recipe(run).train.epochs, _curve(run)
    since = now - max(_changed(run / name) for name in (CURVES, BEGUN, RECIPE))
    if (run / BEGUN).exists():
        state, who = _who(run, since, seconds / max(epoch, 1)), signature_of(run)
        return Run(run.name, state, "", epoch, epochs, seconds, since, who)
    if failure := last_failure(run):
        return Run(run.name, "failed", failure["error"], epoch, epochs)
    if why := why_pruned(run):
        return Run(run.name, "pruned", why, epoch, epochs)
    return Run(run.name, "stopped", "", epoch, epochs)


def _who(run: Path, since: float, seconds_an_epoch: float) -> Seen:
    """Whether the process that began it lives."""
    try:
        found = json.loads((run / LOCK).read_bytes())
        host, pid = str(found["host"]), int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "running"  # the lock is being signed
    if host == socket.gethostname():
        return "running" if fsops.is_alive(pid) else "died"
    return "running" if since <= max(SILENT, 3 * seconds_an_epoch) else "silent"


def _curve(run: Path) -> tuple[int, float]:
    """Epochs done and the seconds they took; half a line may be there."""
    if not (run / CURVES).exists():
        return 0, 0.0
    lines: Iterable[bytes] = (run / CURVES).read_bytes().split(b"\n")[:-1]
    done = [line for line in lines if line]
    if not done:
        return 0, 0.0
    try:
        return len(done), float(json.loads(done[-1])["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run / CURVES}: is damaged ({error}); the run cannot be shown") from None


def _changed(path: Path) -> float:
    """Seconds since 1970; 0 where it is not there."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
