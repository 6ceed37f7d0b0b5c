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
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Any

from pydantic import ValidationError

from mambavl.configs.errors import DataError, Interrupted
from mambavl.configs.secrets import printable
from mambavl.extract.questions.llm.attempts import Answer, Attempts, Failure, Tally, Task, by_key
from mambavl.extract.questions.llm.batch_server import (
    TOKEN,
    URL,
    BatchServer,
    BatchState,
    Line,
    NotFound,
)
from mambavl.extract.questions.llm.ledger import Batch, Ledger
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.requests import Fault
from mambavl.extract.questions.llm.server import Completion, Endpoint
from mambavl.extract.questions.llm.waits import wait
from mambavl.extract.timeline import VideoError

GOING = ("validating", "in_progress", "finalizing", "cancelling")
ENDED = ("completed", "failed", "expired", "cancelled")
MAX_BYTES = 100_000_000  # of an uploaded file; OpenAI takes 200 MB
LET_GO = (
    "add --set resubmit=true: it then counts with all that it may have cost, and its requests are sent again"
)


class BatchClient:
    """A Client that uses a server's batch interface."""

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
        self.server = BatchServer(endpoint, options, self._wait)
        self._sleep = sleep
        self._faults: dict[str, str] = {}  # key -> why its last call brought no reply
        self._calls: Counter[str] = Counter()
        self._url = options.base_url.rstrip("/")
        # tokens of batches that this run submitted; it lets go of none of them
        self._submitted: set[str] = set()
        self._halted = ""  # why nothing more is sent

    async def run(self, tasks: Sequence[Task[Answer]]) -> dict[str, Answer | Failure]:
        """As Client says. After a signal the batch goes on, and the same command collects it."""
        found = by_key(tasks, self.tally)
        answers: dict[str, Answer | Failure] = {}
        self._look_up(found, answers)
        self.tally.from_cache += len(answers)
        await self._recover(found.keys() - answers.keys())
        while True:
            self.progress(len(answers), len(found))
            answers |= await self._submit(self._to_submit(found, answers))
            if len(answers) == len(found):
                return answers  # batches that are still open hold other requests
            await self._collect(found.keys() - answers.keys())
            self._look_up(found, answers)

    def _look_up(self, found: dict[str, Attempts[Answer]], answers: dict[str, Answer | Failure]) -> None:
        """Add the answers that the ledger's replies hold by now."""
        for key, attempts in found.items():
            if key not in answers and (answer := attempts.find_answer(self.ledger)) is not None:
                answers[key] = answer

    def _to_submit(
        self, found: dict[str, Attempts[Answer]], answers: dict[str, Answer | Failure]
    ) -> list[Attempts[Answer]]:
        """What is neither answered nor in an open batch; what is given up goes into `answers`."""
        chosen = []
        for key, attempts in found.items():
            if key in answers or key in self.ledger.waiting:
                continue
            if failure := self._given_up(attempts):
                answers[key] = failure
            else:
                chosen.append(attempts)
        return chosen

    def _given_up(self, attempts: Attempts[Any]) -> Failure | None:
        key = attempts.request.key
        if len(attempts.rejected) >= self.options.attempts:
            return attempts.failure()
        if self._calls[key] > self.options.retries:
            return Failure(f"no reply in {self._calls[key]} batches, the last one: {self._faults[key]}")
        return Failure(f"not sent: {self._halted}") if self._halted else None

    # --- submitting

    async def _submit(self, unsent: Sequence[Attempts[Any]]) -> dict[str, Failure]:
        """Submit all that the budget allows; returns those that cannot be sent."""
        failures: dict[str, Failure] = {}
        reserved: dict[str, float] = {}
        lines: list[bytes] = []
        room = float("inf") if self.options.budget is None else self.options.budget - self.ledger.spent
        for attempts in unsent:
            request = attempts.request
            bound = self.options.bound(request)
            if bound > room:
                budget = f"the budget of {self.options.budget:g}"
                self._halted = f"the next call could exceed {budget}; raise --budget to continue"
                failures[request.key] = Failure(f"not sent: {self._halted}")
                continue
            try:
                body = self.endpoint.body(request, len(attempts.rejected))
            except VideoError as error:
                failures[request.key] = Failure(f"no frames: {error}")
                continue
            line = {"custom_id": request.key, "method": "POST", "url": URL, "body": body}
            data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            is_full = (
                len(lines) == self.options.batch_requests or sum(map(len, lines)) + len(data) > MAX_BYTES
            )
            if lines and is_full:
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
        file_id = await self.server.upload(data)
        token = uuid.uuid4().hex
        self.ledger.batch(token, reserved, self._url)
        self._submitted.add(token)
        self.tally.calls += len(reserved)
        reason = ""
        for call in range(self.options.retries + 1):
            created = await self.server.create(file_id, token)
            if not isinstance(created, Fault):
                self.ledger.batch_id(token, created.id)
                return
            reason = created.reason
            if not created.retryable:
                break
            await self.server.wait_to_retry(call, created, least=self.options.batch_poll)
            batch_id = await self._find(token)  # the server may have created it all the same
            if batch_id is not None:
                self.ledger.batch_id(token, batch_id)
                return
            if created.may_cost:
                raise DataError(
                    f"nobody knows whether the server took the batch with the metadata {TOKEN} {token} "
                    f"({reason}); run the same command again: it looks for it, and sends its requests again "
                    "only if it is not there"
                )
        self.ledger.batch_end(token, "refused", 0.0)
        raise DataError(
            f"the server takes no batch: {reason}; all answers so far are in {self.ledger.folder}; run the "
            "same command again to continue"
        )

    # --- batches of earlier processes

    async def _recover(self, keys: Set[str]) -> None:
        """Find the batches with some of these requests that an earlier process submitted without learning
        their ids.
        """
        for batch in self._open_with(keys):
            if batch.base_url not in ("", self._url):
                if not self.options.resubmit:
                    raise DataError(
                        f"some of these requests wait in a batch at {batch.base_url}; add --base-url "
                        f"{batch.base_url} to collect them, or {LET_GO}"
                    )
                self._let_go(batch, "sent to another server")
            elif batch.id is None:
                await self._recover_id(batch)

    async def _recover_id(self, batch: Batch) -> None:
        batch_id = await self._find(batch.token)
        if batch_id is None:
            await self._wait(self.options.batch_poll)
            batch_id = await self._find(batch.token)
        if batch_id is None:
            self._let_go(batch, "never listed")
        else:
            self.ledger.batch_id(batch.token, batch_id)

    async def _find(self, token: str) -> str | None:
        """The id of the batch with this token, if the server lists one; with `resubmit` a server need not
        list any.
        """
        try:
            return await self.server.find(token)
        except DataError as error:
            if self.options.resubmit:
                return None
            raise DataError(
                f"the server does not list its batches ({error}), so nobody knows whether the batch with "
                f"the metadata {TOKEN} {token} was submitted; look at the provider's page, and add --set "
                "resubmit=true if it is not there"
            ) from None

    def _open_with(self, keys: Set[str]) -> list[Batch]:
        """The open batches that hold any of these requests."""
        return [batch for batch in self.ledger.batches.values() if batch.reserved.keys() & keys]

    def _let_go(self, batch: Batch, status: str) -> None:
        """End a batch that nobody can collect, at the most that it may have cost."""
        cost = sum(batch.reserved.values())
        self.tally.faults += len(batch.reserved)
        self.tally.cost += cost
        self.ledger.batch_end(batch.token, status, cost)

    # --- collecting

    async def _collect(self, keys: Set[str]) -> None:
        """Wait until one of the open batches with these requests has ended and take what it brought."""
        while True:
            for batch in self._open_with(keys):
                if await self._has_ended(batch):
                    return
            await self._wait(self.options.batch_poll)

    async def _has_ended(self, batch: Batch) -> bool:
        """Look at a batch; whether it is over, and what it brought taken."""
        assert batch.id is not None  # _create and _recover have seen to it
        try:
            state = await self.server.state(batch.id)
            if state.status in ENDED:
                await self._take(batch, state)
                return True
        except NotFound as error:
            if not self.options.resubmit or batch.token in self._submitted:
                raise DataError(
                    f"the server no longer knows batch {printable(batch.id)} or its files ({error}); if "
                    f"--base-url and the account are those that it was sent with, {LET_GO}"
                ) from None
            self._let_go(batch, "unknown to the server")
            return True
        if state.status not in GOING:
            raise DataError(
                f"batch {printable(batch.id)} is {self.endpoint.credentials.say(state.status)!r}, and this "
                "program does not know what that means; look at the provider's page, and run the same "
                "command again once it has ended there"
            )
        return False

    async def _take(self, batch: Batch, state: BatchState) -> None:
        """Put a batch's replies into the ledger, one by one; a batch half taken is taken again, without those
        already there.
        """
        sent = set(batch.reserved)
        costs: dict[str, float] = {}  # what calls without a reply may have cost
        unreadable = 0
        for file_id in filter(None, (state.output_file_id, state.error_file_id)):
            for data in (await self.server.download(file_id)).splitlines():
                if not data.strip():
                    continue
                try:
                    self._take_line(batch, Line.model_validate_json(data), costs)
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
            reason = (
                self.endpoint.credentials.say(json.dumps(state.errors))
                if state.errors
                else "it gives no reason"
            )
            raise DataError(f"the server refused batch {printable(state.id)}: {reason}")

    def _take_line(self, batch: Batch, line: Line, costs: dict[str, float]) -> None:
        """One line of an output file; into `costs` goes what a call without a reply may have cost."""
        key, response = line.custom_id, line.response
        if key not in batch.reserved:
            return  # taken before a kill
        if response is None or response.status_code != 200:
            said = line.model_dump_json(include={"response", "error"}, exclude_none=True)
            self._faults[key] = self.endpoint.credentials.say(said)
            costs[key] = 0.0
            return
        if not isinstance(response.body, Completion):
            self._faults[key] = "the server's answer is not a chat completion"
            costs[key] = batch.reserved[key]
            return
        reply = response.body.reply(self.endpoint.credentials.redact)
        counted = self.options.counted_cost(reply)
        cost = batch.reserved[key] if counted is None else counted
        self.ledger.batch_reply(batch.token, key, reply, cost)
        self.tally.add(reply, cost)

    async def _wait(self, seconds: float) -> None:
        """Sleep. Raises Interrupted after a signal."""
        await wait(seconds, self.should_stop, self._sleep)
        if self.should_stop():
            raise Interrupted("stopped; batches go on at the server, and the same command collects them")
