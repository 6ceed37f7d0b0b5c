"""The cache of replies: a folder of journals that hold every call, what it may cost, and what came of it.

A call is written down before it is made, with the most that it can cost, and settled when its reply or its
fault is known; a call that a kill left open counts with that sum for ever, so what was spent is never below
what was paid. A reply is durable before anything is done with it. Each process adds a journal of its own:
nothing that was paid for is ever cut or rewritten.
"""

import re
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mambavl.cache import fsops, journal
from mambavl.configs.errors import DataError
from mambavl.extract.questions.llm.requests import Reply

LOCK = "lock"
_NAME = re.compile(r"\d{6,}-[0-9a-f]{8}\.journal")


@dataclass
class Batch:
    """A batch that was or is about to be submitted. `id` is None until the server's answer is known."""

    token: str  # ours, sent along, so that a batch whose id was lost can be found on the server
    reserved: dict[str, float]  # key -> the most that its call may cost, while it is open
    base_url: str = ""  # where it was submitted; "" in old journals
    id: str | None = None


@dataclass
class Ledger:
    """What the journals of a folder say. Reading needs no lock; to add to it, take it from `open_ledger`."""

    folder: Path
    # key -> all that were paid for, in order
    replies: dict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))
    batches: dict[str, Batch] = field(default_factory=dict)  # token -> those that are not over
    settled: float = 0.0
    torn: dict[str, int] = field(default_factory=dict)  # journal -> bytes behind its last whole record
    _open: dict[tuple[str, int], float] = field(default_factory=dict)
    _calls: int = 0

    def __post_init__(self) -> None:
        paths = sorted(self.folder.glob("*.journal"))
        for path in paths:
            if not _NAME.fullmatch(path.name):
                raise DataError(
                    f"{path}: is not a journal of a cache of replies (000001-0123abcd.journal); move it "
                    "elsewhere"
                )
            for record in journal.read(path):
                self._apply(path.name, record)
            if torn := journal.torn_bytes(path):
                self.torn[path.name] = torn
        number = 1 + max((int(path.name.split("-")[0]) for path in paths), default=0)
        self._path = self.folder / f"{number:06d}-{uuid.uuid4().hex[:8]}.journal"

    @property
    def spent(self) -> float:
        """Money: what replies cost, and the most that open calls may cost."""
        waiting = sum(sum(batch.reserved.values()) for batch in self.batches.values())
        return self.settled + sum(self._open.values()) + waiting

    @property
    def waiting(self) -> dict[str, Batch]:
        """By request key: the open batch that it was submitted in."""
        return {key: batch for batch in self.batches.values() for key in batch.reserved}

    def send(self, key: str, reserved: float) -> int:
        """Note a call that is about to be made; returns its number."""
        self._calls += 1
        self._add({"event": "send", "call": self._calls, "key": key, "reserved": reserved})
        return self._calls

    def reply(self, call: int, key: str, reply: Reply, cost: float) -> None:
        """Settle a call that brought a reply."""
        self._add({"event": "reply", "call": call, "key": key, "cost": cost, **asdict(reply)})

    def fault(self, call: int, reason: str, cost: float) -> None:
        """Settle a call that brought none."""
        self._add({"event": "fault", "call": call, "reason": reason, "cost": cost})

    def batch(self, token: str, reserved: dict[str, float], base_url: str) -> None:
        """Note a batch that is about to be submitted."""
        self._add({"event": "batch", "token": token, "reserved": reserved, "base_url": base_url})

    def batch_id(self, token: str, batch_id: str) -> None:
        """Note what the server calls a batch."""
        self._add({"event": "batch id", "token": token, "id": batch_id})

    def batch_reply(self, token: str, key: str, reply: Reply, cost: float) -> None:
        """Settle one request of a batch."""
        self._add({"event": "batch reply", "token": token, "key": key, "cost": cost, **asdict(reply)})

    def batch_end(self, token: str, status: str, cost: float) -> None:
        """Settle all other requests of a batch. cost: the most that they may have cost."""
        self._add({"event": "batch end", "token": token, "status": status, "cost": cost})

    def _add(self, record: dict[str, Any]) -> None:
        # durable from here on; a few tenths of a millisecond on a local disk
        journal.append(self._path, record)
        self._apply(self._path.name, record)

    def _apply(self, file: str, record: dict[str, Any]) -> None:
        match record["event"]:
            case "send":
                self._open[file, record["call"]] = record["reserved"]
            case "reply" | "fault":
                del self._open[file, record["call"]]
                self.settled += record["cost"]
            case "batch":
                self.batches[record["token"]] = Batch(
                    record["token"], dict(record["reserved"]), record.get("base_url", "")
                )
            case "batch id":
                self.batches[record["token"]].id = record["id"]
            case "batch reply":
                del self.batches[record["token"]].reserved[record["key"]]
                self.settled += record["cost"]
            case "batch end":
                del self.batches[record["token"]]
                self.settled += record["cost"]
        if record["event"] in ("reply", "batch reply"):
            values = {field.name: record[field.name] for field in fields(Reply)}
            self.replies[record["key"]].append(Reply(**values))


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """A ledger to add to, for one process at a time. Raises DataError while another one has it."""
    fsops.make_folder(folder)
    held = fsops.lock(folder / LOCK, exclusive=True, wait=False)
    if held is None:
        raise DataError(
            f"{folder}: another process is using this cache; wait for it, or name another --cache"
        )
    try:
        yield Ledger(folder)
    finally:
        fsops.unlock(held)
