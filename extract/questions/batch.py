"""Requests in batches: a file of them is uploaded, a batch created, polled and collected.

Creating a batch is what costs. Before it is created, its token and its requests are in the ledger, and the token goes along as
metadata; so a process that was killed before it knew the batch's id finds the batch on the server by the token. One window
remains: a batch that the server has created and does not list yet. It is looked for twice, `batch_poll` seconds apart.
"""

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mambavl.configs.errors import DataError, Interrupted
from mambavl.extract.questions.endpoint import Endpoint
from mambavl.extract.questions.exchange import Fault, Reply
from mambavl.extract.questions.ledger import Batch, Ledger
from mambavl.extract.questions.live import backoff
from mambavl.extract.questions.llm import Ask, Asking, Failure, Tally, Verdicts, by_key
from mambavl.extract.video import VideoError

URL = "/v1/chat/completions"
TOKEN = "mambavl_token"
ENDED = ("completed", "failed", "expired", "cancelled")
MAX_BYTES = 100_000_000  # of an uploaded file; OpenAI takes 200 MB
TRANSFER = 20  # times the timeout that an upload or a download may take
LISTED = 2_000  # batches of the account that are searched for a token


class _Response(BaseModel):
    status_code: int
    body: dict[str, Any] | None = None


class _Line(BaseModel):
    """A line of a batch's output or error file."""

    custom_id: str
    response: _Response | None = None
    error: dict[str, Any] | None = None


class Batches:
    """An Asker over a server's batch interface."""

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        options: Asking,
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
        self._halted = ""

    async def ask_all(self, asks: Sequence[Ask]) -> dict[str, Any]:
        """As Asker says. Raises Interrupted after a signal; the batch goes on, and the same command collects it."""
        found = by_key(asks, self.tally)
        answers = {key: made for key, verdicts in found.items() if (made := verdicts.look(self.ledger)) is not None}
        self.tally.from_cache += len(answers)
        await self._recover()
        while True:
            self.progress(len(answers), len(found))
            waiting = [verdicts for key, verdicts in found.items() if key not in answers]
            sent = {key for batch in self.ledger.batches.values() for key in batch.reserved}
            unsent = [verdicts for verdicts in waiting if verdicts.request.key not in sent]
            for verdicts in unsent:
                if failure := self._given_up(verdicts):
                    answers[verdicts.request.key] = failure
            to_send = [verdicts for verdicts in unsent if verdicts.request.key not in answers]
            answers |= await self._submit(to_send)
            if not self.ledger.batches:
                return answers
            await self._collect()
            for verdicts in waiting:
                if verdicts.request.key not in answers and (made := verdicts.look(self.ledger)) is not None:
                    answers[verdicts.request.key] = made

    def _given_up(self, verdicts: Verdicts) -> Failure | None:
        key = verdicts.request.key
        if len(verdicts.rejected) >= self.options.attempts:
            return verdicts.failure()
        if self._calls[key] > self.options.retries:
            return Failure(f"no reply in {self._calls[key]} batches, the last one: {self._faults[key]}")
        return Failure(f"not asked: {self._halted}") if self._halted else None

    async def _submit(self, unsent: Sequence[Verdicts]) -> dict[str, Failure]:
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
            if lines and (len(lines) == self.options.batch_requests or sum(map(len, lines)) + len(data) > MAX_BYTES):
                await self._create(reserved, b"".join(lines))
                reserved, lines = {}, []
            reserved[request.key] = bound
            lines.append(data)
            room -= bound
        if lines:
            await self._create(reserved, b"".join(lines))
        return failures

    async def _create(self, reserved: dict[str, float], data: bytes) -> None:
        client = self.endpoint.client
        upload = await self._repeat(lambda: client.files.create(file=("requests.jsonl", data), purpose="batch"), TRANSFER)
        token = uuid.uuid4().hex
        self.ledger.batch(token, reserved)
        self.tally.calls += len(reserved)
        for call in range(self.options.retries + 1):
            made = await self.endpoint.call(
                lambda: client.batches.create(
                    input_file_id=upload.id, endpoint=URL, completion_window="24h", metadata={TOKEN: token}
                )
            )
            if not isinstance(made, Fault):
                self.ledger.batch_id(token, made.id)
                return
            batch_id = await self._find(token)  # the server may have created it all the same
            if batch_id is not None:
                self.ledger.batch_id(token, batch_id)
                return
            if not made.again:
                self.ledger.batch_end(token, "refused", 0.0)
                raise DataError(f"the server takes no batch: {made.reason}")
            await self._pause(backoff(self.options, call, made.wait, self._jitter))
        raise DataError(f"the server took no batch in {self.options.retries + 1} calls: {made.reason}; run the command again")

    async def _recover(self) -> None:
        """Find the batches that an earlier process submitted without learning their ids."""
        for batch in [batch for batch in self.ledger.batches.values() if batch.id is None]:
            batch_id = await self._find(batch.token)
            if batch_id is None:
                await self._pause(self.options.batch_poll)
                batch_id = await self._find(batch.token)
            if batch_id is None:
                self.ledger.batch_end(batch.token, "never submitted", 0.0)
            else:
                self.ledger.batch_id(batch.token, batch_id)

    async def _find(self, token: str) -> str | None:
        """The id of the batch with this token, if the server lists one."""
        if self.options.resubmit:
            return None

        async def search() -> str | None:
            seen = 0
            async for batch in self.endpoint.client.batches.list(limit=100):
                seen += 1
                if (batch.metadata or {}).get(TOKEN) == token:
                    return batch.id
                if seen >= LISTED:
                    break
            return None

        for call in range(self.options.retries + 1):
            found = await self.endpoint.call(search)
            if not isinstance(found, Fault):
                return found
            if not found.again:
                break
            await self._pause(backoff(self.options, call, found.wait, self._jitter))
        raise DataError(
            f"the server does not list its batches ({found.reason}), so nobody knows whether the batch with the metadata "
            f"{TOKEN} {token} was submitted; look at the provider's page, and add --set resubmit=true if it is not there"
        )

    async def _collect(self) -> None:
        """Wait until one of the open batches has ended and take what it brought."""
        while True:
            for batch in list(self.ledger.batches.values()):
                state = await self._repeat(lambda batch=batch: self.endpoint.client.batches.retrieve(batch.id))
                if state.status in ENDED:
                    await self._take(batch, state)
                    return
            await self._pause(self.options.batch_poll)

    async def _take(self, batch: Batch, state: Any) -> None:
        """Put a batch's replies into the ledger, one by one; a batch half taken is taken again, without those already there."""
        sent, cost = set(batch.reserved), 0.0
        for file_id in filter(None, (state.output_file_id, state.error_file_id)):
            content = await self._repeat(lambda file_id=file_id: self.endpoint.client.files.content(file_id), TRANSFER)
            for line in content.content.splitlines():
                cost += self._take_line(batch, line)
        missing = sent & set(batch.reserved)
        for key in missing:
            self._calls[key] += 1
            self._faults.setdefault(key, f"the batch ended as {state.status} without it")
        self.tally.faults += len(missing)
        self.tally.cost += cost
        self.ledger.batch_end(batch.token, state.status, cost)
        if state.status == "failed":
            faults = [self.endpoint.redact(str(fault.message)) for fault in (state.errors and state.errors.data) or ()]
            raise DataError(f"the server refused batch {state.id}: {'; '.join(faults)[:500] or 'it gives no reason'}")

    def _take_line(self, batch: Batch, data: bytes) -> float:
        """One line of an output file; returns what a call without a reply may have cost."""
        try:
            line = _Line.model_validate_json(data)
        except ValidationError:
            return 0.0  # its request counts as one without an answer
        key = line.custom_id
        if key not in batch.reserved:
            return 0.0  # taken before a kill
        bound = batch.reserved[key]
        if line.response is None or line.response.status_code != 200:
            said = line.error or (line.response and line.response.body) or {}
            self._faults[key] = self.endpoint.redact(json.dumps(said, ensure_ascii=False))[:300]
            return 0.0
        outcome = self.endpoint.read(json.dumps(line.response.body).encode())
        if not isinstance(outcome, Reply):
            self._faults[key] = outcome.reason
            return bound
        counted = outcome.tokens_in is not None and outcome.tokens_out is not None
        cost = self.options.cost(outcome.tokens_in, outcome.tokens_out) if counted else bound
        self.ledger.batch_reply(batch.token, key, outcome, cost)
        self.tally.add(outcome, cost)
        return 0.0

    async def _repeat(self, make: Callable[[], Awaitable[Any]], patience: float = 1.0) -> Any:
        """A call that costs nothing, repeated until it succeeds. Raises DataError."""
        for call in range(self.options.retries + 1):
            found = await self.endpoint.call(make, patience)
            if not isinstance(found, Fault):
                return found
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
