"""A whole run with a language model: from annotations and a cache folder to a question file."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mambavl.cache.rows import Segment
from mambavl.configs import dump
from mambavl.configs.errors import UsageError
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions.file import write_questions
from mambavl.extract.questions.llm.attempts import Client, Tally
from mambavl.extract.questions.llm.batch import BatchClient
from mambavl.extract.questions.llm.frames import ClipFrames
from mambavl.extract.questions.llm.ledger import Ledger, open_ledger
from mambavl.extract.questions.llm.live import LiveClient
from mambavl.extract.questions.llm.local import LocalModel
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.plan import Plan, plan
from mambavl.extract.questions.llm.server import Endpoint
from mambavl.extract.questions.llm.writer import Writer, Written
from mambavl.extract.video_folder import Roots


@dataclass(frozen=True)
class Outcome:
    """What a run brought, what it did, and the cache's books after it."""

    written: Written
    tally: Tally
    ledger: Ledger


def generate_with_llm(
    annotations: Annotations,
    segments: Sequence[Segment],
    options: LLMSettings,
    cache: Path,
    *,
    backend: Literal["llm", "local"] = "llm",
    protocol: str = "oracle",
    videos: Roots | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Have a model write the questions of `segments`; every reply that is paid for is in `cache` before it is
    used.

    Rows without an accepted answer are in `written.failures`. Raises Interrupted after a signal, UsageError
    for a call that cannot work, DataError when the server refuses every request or another process has the
    cache.
    """
    if backend == "local" and options.mode == "batch":
        raise UsageError("--backend local has no batches; leave mode at live")
    completer = LocalModel(options) if backend == "local" else Endpoint(options)
    writer = Writer(
        annotations,
        segments,
        options,
        model=completer.model,
        backend=completer.backend,
        protocol=protocol,
        pictures=_pictures(options, videos),
    )

    async def run(ledger: Ledger) -> Outcome:
        async with completer:
            client: Client
            if isinstance(completer, Endpoint) and options.mode == "batch":
                client = BatchClient(completer, ledger, options, progress=progress, should_stop=should_stop)
            else:
                client = LiveClient(completer, ledger, options, progress=progress, should_stop=should_stop)
            return Outcome(await writer.write(client), client.tally, ledger)

    with open_ledger(cache) as ledger:
        return asyncio.run(run(ledger))


def plan_with_llm(
    annotations: Annotations,
    segments: Sequence[Segment],
    options: LLMSettings,
    cache: Path,
    *,
    protocol: str = "oracle",
    videos: Roots | None = None,
) -> Plan:
    """What `generate_with_llm` would send to a server now. Needs no key and sends nothing."""
    writer = Writer(
        annotations,
        segments,
        options,
        model=options.model,
        backend=f"llm:{options.model}",
        protocol=protocol,
        pictures=_pictures(options, videos),
    )
    return plan(writer, Ledger(cache))


def write_outcome(target: Path, written: Written, options: LLMSettings) -> int:
    """Write the question file and, next to it, the settings that made it: the key's variable by name, the key
    nowhere. Returns the number of questions.
    """
    count = write_questions(target, written.questions)
    target.with_name(target.name + ".toml").write_text(dump(options), encoding="utf-8")
    return count


def _pictures(options: LLMSettings, videos: Roots | None) -> ClipFrames | None:
    if videos is None:
        return None
    return ClipFrames(videos, options.frames, options.frame_side)
