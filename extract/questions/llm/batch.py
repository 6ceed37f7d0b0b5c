"""Requests in batches: a file of them is uploaded, a batch created, polled and collected.

Creating a batch is what costs. Before it is created, its token and its requests are in the ledger, and the
token goes along as metadata; so a process that was killed before it knew the batch's id finds the batch on
the server by the token. One window remains: a batch that the server has created and does not list yet. A call
of unknown outcome is therefore never repeated by the run that made it; the next run looks twice, `batch_poll`
seconds apart, and a batch that it does not find counts with all that it may have cost before its requests are
sent again. So does one that the server no longer knows, once `resubmit` lets go of it.
"""

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from mambavl.configs.errors import DataError, Interrupted
from mambavl.extract.questions.llm.attempts import Attempts, Failure, Tally, Task, by_key
from mambavl.extract.questions.llm.ledger import Batch, Ledger
from mambavl.extract.questions.llm.live import backoff
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.requests import Fault, printable
from mambavl.extract.questions.llm.server import Completion, Endpoint
from mambavl.extract.video import VideoError

URL = "/v1/chat/completions"
TOKEN = "mambavl_token"
GOING = ("validating", "in_progress", "finalizing", "cancelling")
ENDED = ("completed", "failed", "expired", "cancelled")
MAX_BYTES = 100_000_000  # of an uploaded file; OpenAI takes 200 MB
TRANSFER = 20  # times the timeout that an upload or a download may take
LISTED = 2_000  # batches of the account that are searched for a token
_LET_GO = (
    "add --set resubmit=true: it then counts with all that it may have cost, and its requests are sent again"
)


class _File(BaseModel):
    id: str = Field(min_length=1)


class _State(BaseModel):
    """What is read of a batch."""

    id: str = Field(min_length=1)
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Any = None
    metadata: dict[str, Any] | None = None


class _Page(BaseModel):
    """Some of the account's batches."""

    data: list[_State]
    has_more: bool | None = False


class _Response(BaseModel):
    status_code: int
    body: Completion | Any = Field(default=None, union_mode="left_to_right")


class _Line(BaseModel):
    """A line of a batch's output or error file."""

    custom_id: str
    response: _Response | None = None
    error: Any = None


class _NotFound(DataError):
    """The server does not know what it was asked for."""


class BatchClient:
    """An Asker over a server's batch interface."""

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        options: LLMSettings,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
        should_stop: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.endpoint, self.ledger, self.options = endpoint, ledger, options
        self.progress, self.should_stop = progress, should_stop
        self.tally = Tally()
        self._sleep = sleep
        self._jitter = random.Random()
        self._faults: dict[str, str] = {}  # key -> why its last call brought no reply
        self._calls: Counter[str] = Counter()
        self._url = options.base_url.rstrip("/")
        # tokens of the batches that this run submitted; it lets go of none of them
        self._made: set[str] = set()
        self._halted = ""

    async def ask_all(self, asks: Sequence[Task]) -> dict[str, Any]:
        """As Asker says. Raises Interrupted after a signal; the batch goes on, and the same command collects
        it.
        """
        found = by_key(asks, self.tally)
        answers = {
            key: made for key, verdicts in found.items() if (made := verdicts.look(self.ledger)) is not None
        }
        self.tally.from_cache += len(answers)
        await self._recover(found.keys() - answers.keys())
        while True:
            self.progress(len(answers), len(found))
            waiting = [verdicts for key, verdicts in found.items() if key not in answers]
            unsent = [verdicts for verdicts in waiting if verdicts.request.key not in self.ledger.waiting]
            for verdicts in unsent:
                if failure := self._given_up(verdicts):
                    answers[verdicts.request.key] = failure
            to_send = [verdicts for verdicts in unsent if verdicts.request.key not in answers]
            answers |= await self._submit(to_send)
            if len(answers) == len(found):
                return answers  # batches that are still open hold other requests
            await self._collect(found.keys() - answers.keys())
            for verdicts in waiting:
                if verdicts.request.key not in answers and (made := verdicts.look(self.ledger)) is not None:
                    answers[verdicts.request.key] = made

    def _given_up(self, verdicts: Attempts) -> Failure | None:
        key = verdicts.request.key
        if len(verdicts.rejected) >= self.options.attempts:
            return verdicts.failure()
        if self._calls[key] > self.options.retries:
            return Failure(f"no reply in {self._calls[key]} batches, the last one: {self._faults[key]}")
        return Failure(f"not asked: {self._halted}") if self._halted else None

    async def _submit(self, unsent: Sequence[Attempts]) -> dict[str, Failure]:
        """Submit all that the budget allows; returns those that cannot be sent."""
        failures: dict[str, Failure] = {}
        reserved: dict[str, float] = {}
        lines: list[bytes] = []
        room = float("inf") if self.options.budget is None else self.options.budget - self.ledger.spent
        for verdicts in unsent:
            request = verdicts.request
            bound = self.options.bound(request)
            if bound > room:
                self._halted = f"the next call could exceed the budget of {self.options.budget:g}; a higher --budget goes on"
                failures[request.key] = Failure(f"not asked: {self._halted}")
                continue
            try:
                body = self.endpoint.body(request, len(verdicts.rejected))
            except VideoError as error:
                failures[request.key] = Failure(f"no frames: {error}")
                continue
            line = {"custom_id": request.key, "method": "POST", "url": URL, "body": body}
            data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            if lines and (
                len(lines) == self.options.batch_requests or sum(map(len, lines)) + len(data) > MAX_BYTES
            ):
                await self._create(reserved, b"".join(lines))
                reserved, lines = {}, []
            reserved[request.key] = bound
            lines.append(data)
            room -= bound
        if lines:
            await self._create(reserved, b"".join(lines))
        return failures

    async def _create(self, reserved: dict[str, float], data: bytes) -> None:
        """Raises DataError when the server takes no batch, or when nobody knows whether it took this one."""
        client = self.endpoint.client
        try:
            upload = await self._repeat(
                lambda: client.files.with_raw_response.create(file=("requests.jsonl", data), purpose="batch"),
                _File,
                TRANSFER,
            )
        except _NotFound as error:
            raise DataError(
                f"the server takes no files, so no batches ({error}); leave mode at live"
            ) from None
        token = uuid.uuid4().hex
        self.ledger.batch(token, reserved, self._url)
        self._made.add(token)
        self.tally.calls += len(reserved)
        for call in range(self.options.retries + 1):
            made = await self.endpoint.fetch(
                lambda: client.batches.with_raw_response.create(
                    input_file_id=upload.id, endpoint=URL, completion_window="24h", metadata={TOKEN: token}
                ),
                _State,
            )
            if not isinstance(made, Fault):
                self.ledger.batch_id(token, made.id)
                return
            if not made.again:
                break
            await self._pause(
                max(self.options.batch_poll, backoff(self.options, call, made.wait, self._jitter))
            )
            batch_id = await self._find(token)  # the server may have created it all the same
            if batch_id is not None:
                self.ledger.batch_id(token, batch_id)
                return
            if made.may_cost:
                raise DataError(
                    f"nobody knows whether the server took the batch with the metadata {TOKEN} {token} ({made.reason}); "
                    "run the same command again: it looks for it, and sends its requests again only if it is not there"
                )
        self.ledger.batch_end(token, "refused", 0.0)
        raise DataError(
            f"the server takes no batch: {made.reason}; what was answered is in {self.ledger.folder}; the same command goes on"
        )

    async def _recover(self, keys: Set[str]) -> None:
        """Find the batches with some of these requests that an earlier process submitted without learning
        their ids.
        """
        for batch in self._open_with(keys):
            if batch.base_url not in ("", self._url):
                if not self.options.resubmit:
                    raise DataError(
                        f"some of these requests wait in a batch at {batch.base_url}; add --base-url {batch.base_url} to collect "
                        f"them, or {_LET_GO}"
                    )
                self._let_go(batch, "sent to another server")
            elif batch.id is None:
                batch_id = await self._find(batch.token)
                if batch_id is None:
                    await self._pause(self.options.batch_poll)
                    batch_id = await self._find(batch.token)
                if batch_id is None:
                    self._let_go(batch, "never listed")
                else:
                    self.ledger.batch_id(batch.token, batch_id)

    def _open_with(self, keys: Set[str]) -> list[Batch]:
        """The open batches that hold any of these requests."""
        return [batch for batch in self.ledger.batches.values() if batch.reserved.keys() & keys]

    def _let_go(self, batch: Batch, status: str) -> None:
        """End a batch that nobody can collect, at the most that it may have cost."""
        cost = sum(batch.reserved.values())
        self.tally.faults += len(batch.reserved)
        self.tally.cost += cost
        self.ledger.batch_end(batch.token, status, cost)

    async def _find(self, token: str) -> str | None:
        """The id of the batch with this token, if the server lists one; with `resubmit` a server need not
        list any.
        """
        seen, last = 0, None
        while seen < LISTED:
            after = {"after": last} if last else {}
            try:
                page = await self._repeat(
                    lambda after=after: self.endpoint.client.batches.with_raw_response.list(
                        limit=100, **after
                    ),
                    _Page,
                )
            except DataError as error:
                if self.options.resubmit:
                    return None
                raise DataError(
                    f"the server does not list its batches ({error}), so nobody knows whether the batch with the metadata "
                    f"{TOKEN} {token} was submitted; look at the provider's page, and add --set resubmit=true if it is not there"
                ) from None
            for batch in page.data:
                if (batch.metadata or {}).get(TOKEN) == token:
                    return batch.id
            if not page.has_more or not page.data:
                return None
            seen, last = seen + len(page.data), page.data[-1].id
        return None

    async def _collect(self, keys: Set[str]) -> None:
        """Wait until one of the open batches with these requests has ended and take what it brought."""
        while True:
            for batch in self._open_with(keys):
                try:
                    state = await self._repeat(
                        lambda batch=batch: self.endpoint.client.batches.with_raw_response.retrieve(batch.id),
                        _State,
                    )
                    if state.status in ENDED:
                        await self._take(batch, state)
                        return
                except _NotFound as error:
                    if not self.options.resubmit or batch.token in self._made:
                        raise DataError(
                            f"the server no longer knows batch {printable(batch.id)} or its files ({error}); if --base-url and "
                            f"the account are those that it was sent with, {_LET_GO}"
                        ) from None
                    self._let_go(batch, "unknown to the server")
                    return
                if state.status not in GOING:
                    raise DataError(
                        f"batch {printable(batch.id)} is {self.endpoint.said(state.status)!r}, and this program does not know "
                        "what that means; look at the provider's page, and run the same command again once it has ended there"
                    )
            await self._pause(self.options.batch_poll)

    async def _take(self, batch: Batch, state: _State) -> None:
        """Put a batch's replies into the ledger, one by one; a batch half taken is taken again, without those
        already there.
        """
        sent, costs, unreadable = set(batch.reserved), {}, 0
        for file_id in filter(None, (state.output_file_id, state.error_file_id)):
            content = await self._repeat(
                lambda file_id=file_id: self.endpoint.client.files.content(file_id), None, TRANSFER
            )
            for data in content.content.splitlines():
                if not data.strip():
                    continue
                try:
                    self._take_line(batch, _Line.model_validate_json(data), costs)
                except ValidationError:
                    unreadable += 1
        missing = sent & set(batch.reserved)
        for key in missing:
            self._calls[key] += 1
            self._faults.setdefault(key, f"the batch ended as {state.status} without it")
            if unreadable or state.status == "completed":  # its answer may be what could not be read
                costs.setdefault(key, batch.reserved[key])
        cost = sum(costs.values())
        self.tally.faults += len(missing)
        self.tally.cost += cost
        self.ledger.batch_end(batch.token, state.status, cost)
        if state.status == "failed":
            reason = self.endpoint.said(json.dumps(state.errors)) if state.errors else "it gives no reason"
            raise DataError(f"the server refused batch {printable(state.id)}: {reason}")

    def _take_line(self, batch: Batch, line: _Line, costs: dict[str, float]) -> None:
        """One line of an output file; into `costs` goes what a call without a reply may have cost."""
        key, response = line.custom_id, line.response
        if key not in batch.reserved:
            return  # taken before a kill
        if response is None or response.status_code != 200:
            self._faults[key] = self.endpoint.said(
                line.model_dump_json(include={"response", "error"}, exclude_none=True)
            )
            costs[key] = 0.0
            return
        if not isinstance(response.body, Completion):
            self._faults[key] = "the server's answer is no chat completion"
            costs[key] = batch.reserved[key]
            return
        reply = response.body.reply(self.endpoint.redact)
        counted = reply.tokens_in is not None and reply.tokens_out is not None
        cost = self.options.cost(reply.tokens_in, reply.tokens_out) if counted else batch.reserved[key]
        self.ledger.batch_reply(batch.token, key, reply, cost)
        self.tally.add(reply, cost)

    async def _repeat(
        self, make: Callable[[], Awaitable[Any]], kind: type[BaseModel] | None, patience: float = 1.0
    ) -> Any:
        """A call that costs nothing, repeated until it succeeds; its JSON as `kind`, or the answer itself.
        Raises DataError.
        """
        for call in range(self.options.retries + 1):
            found = await (
                self.endpoint.fetch(make, kind, patience) if kind else self.endpoint.call(make, patience)
            )
            if not isinstance(found, Fault):
                return found
            if found.status == 404:
                raise _NotFound(found.reason)
            if not found.again:
                break
            await self._pause(backoff(self.options, call, found.wait, self._jitter))
        raise DataError(f"{found.reason}; run the same command again to go on")

    async def _pause(self, seconds: float) -> None:
        """Sleep, in pieces. Raises Interrupted after a signal."""
        end = time.monotonic() + seconds
        while True:
            if self.should_stop():
                raise Interrupted("stopped; batches go on at the server, and the same command collects them")
            left = end - time.monotonic()
            if left <= 0:
                return
            await self._sleep(min(left, 0.5))
