"""How far a store is, and who is at work on it: read from outside, without a lock and without a change, while
others write.

Rows that are done are counted in the journals; whether their files are sound is for `verify`. What living
runs add comes from their logs (`worker_log`): how fast they are, and what they have not yet written.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mambavl.cache import journal
from mambavl.cache.layout import Layout
from mambavl.cache.rows import EMPTY_WINDOW, STATUS
from mambavl.cache.spec import COMMIT, MANIFEST, read_json, read_spec
from mambavl.cache.work import slowest
from mambavl.cache.worker_log import Report, reports

AT_WORK = ("working", "waiting")


@dataclass(frozen=True)
class Worker:
    """A run that fills a store, or did."""

    report: Report
    seen: str  # `working`, `waiting`, `silent`, `killed`, `ended`, `stopped` or `failed`
    age: float  # seconds since it reported
    written: int = 0  # rows that its journal has

    @property
    def is_at_work(self) -> bool:
        return self.seen in AT_WORK

    def to_dict(self) -> dict[str, Any]:
        report = self.report
        return {
            "host": report.host,
            "pid": report.pid,
            "state": self.seen,
            "reported_seconds_ago": round(self.age, 1),
            "done": report.done,
            "total": report.total,
            "rows_per_s": report.rows_per_s,
            "seconds": report.seconds,
            "stalled": report.stalled,
            "video": report.video,
        }


@dataclass(frozen=True)
class Status:
    """What is known of a store at one moment."""

    path: Path
    is_finished: bool
    rows: int
    done: int  # rows that are on the disk
    # [narration_id, name of the status, reason] of rows that have failed; a window with nothing to observe
    # has not
    failures: list[list[str]]
    workers: list[Worker] = field(default_factory=list)  # those at work first

    @property
    def at_work(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_at_work]

    @property
    def encoded(self) -> int:
        """Rows that are encoded and not yet on the disk, as far as the logs say, which are older than the
        journals.
        """
        held = sum(max(0, worker.report.made - worker.written) for worker in self.at_work)
        return min(held, self.rows - self.done)

    @property
    def rows_per_s(self) -> float:
        """Of the runs that are working, together."""
        return sum(worker.report.rows_per_s for worker in self.workers if worker.seen == "working")

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None where nobody is working, or nothing was done yet."""
        if self.is_finished:
            return 0.0
        left = self.rows - self.done - self.encoded
        return left / self.rows_per_s if self.rows_per_s > 0 else None

    @property
    def slowest(self) -> str:
        """The stage that holds up the others, of the runs that are working; "" where nobody is."""
        seconds: dict[str, float] = {}
        stalled = 0.0
        for worker in self.at_work:
            stalled += worker.report.stalled
            for stage, busy in worker.report.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + busy
        return slowest(seconds, stalled)

    def to_dict(self) -> dict[str, Any]:
        """For programs: keys are added and never change their meaning."""
        return {
            "store": str(self.path),
            "state": "finished" if self.is_finished else "unfinished",
            "rows": self.rows,
            "done": self.done,
            "encoded": self.encoded,
            "failed": len(self.failures),
            "failures": self.failures[:10],
            "rows_per_s": round(self.rows_per_s, 4),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            "slowest": self.slowest or None,
            "workers": [worker.to_dict() for worker in self.workers],
        }


def status(path: Path, now: float | None = None) -> Status:
    """Look at a store. now: seconds since 1970. Raises DataError where there is none, or a damaged one."""
    now = time.time() if now is None else now
    path = Path(path)
    spec = read_spec(path)
    workers = {name: (report, report.seen(now), report.age(now)) for name, report in reports(path) if report}
    if (path / MANIFEST).exists():
        failures = read_json(path, MANIFEST)["failures"]
        found = [Worker(*worker) for worker in workers.values()]
        return Status(path, True, spec.rows, spec.rows, _named(failures), _in_order(found))
    layout = Layout.from_spec(spec)
    done: dict[int, dict[str, Any]] = {}
    written: dict[str, int] = {}
    for name, record in _records(path):
        if record["spec"] == layout.spec_sha256 and 0 <= record["group"] < layout.groups:
            done[record["group"]] = record
            written[name] = written.get(name, 0) + len(layout.rows_of(record["group"]))
    rows = sum(len(layout.rows_of(group)) for group in done)
    failures = sorted(failure for record in done.values() for failure in record["failures"])
    found = [Worker(*worker, written.get(name, 0)) for name, worker in workers.items()]
    return Status(path, False, layout.rows, rows, _named(failures), _in_order(found))


def _in_order(workers: list[Worker]) -> list[Worker]:
    return sorted(workers, key=lambda worker: (not worker.is_at_work, worker.report.host, worker.report.pid))


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The records of the journals, with the writer of each; also while row groups are opened again and
    journals go.
    """
    while True:
        try:
            journals = sorted((path / COMMIT).glob("*.journal"))
            return [(file.stem, record) for file in journals for record in journal.read(file)]
        except FileNotFoundError:
            continue


def _named(failures: list[list[Any]]) -> list[list[str]]:
    return [[row, STATUS[code], reason] for row, code, reason in failures if code != EMPTY_WINDOW]
