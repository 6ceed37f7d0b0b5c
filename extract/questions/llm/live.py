"""Requests one by one, some at a time: paced, repeated after faults, asked again after bad replies, stopped
by a budget.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from mambavl.configs.errors import DataError, Interrupted
from mambavl.extract.questions.llm.attempts import Attempts, Failure, Tally, Task, by_key
from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.requests import Completer, Fault, Reply, Request, printable
from mambavl.extract.video import VideoError


class Pace:
    """Spreads an amount a minute evenly: never a burst, so no minute holds more than the limit and one call."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float]) -> None:
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._free = 0.0

    def delay(self, amount: float) -> float:
        """Seconds to wait before something of this amount; the place in the line is taken."""
        start = max(self._clock(), self._free)
        self._free = start + amount * self._seconds
        return start - self._clock()


def backoff(options: LLMSettings, call: int, asked_for: float | None, jitter: random.Random) -> float:
    """Seconds: doubled from call to call, halved at most by the jitter; what the server asks for holds, up to
    the limit.
    """
    own = min(options.max_wait, options.backoff * 2.0 ** min(call, 30)) * jitter.uniform(0.5, 1.0)
    if asked_for is None:
        return own
    return max(own, min(options.max_wait, asked_for) + own * jitter.random())


class LiveClient:
    """Asks a Completer. What it knows is in the ledger, so that another process goes on where this one was
    killed.
    """

    def __init__(
        self,
        completer: Completer,
        ledger: Ledger,
        options: LLMSettings,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
        should_stop: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: random.Random | None = None,
    ) -> None:
        self.completer, self.ledger, self.options = completer, ledger, options
        self.progress, self.should_stop = progress, should_stop
        self.tally = Tally()
        self._sleep, self._clock, self._jitter = sleep, clock, jitter or random.Random()
        self._requests = Pace(options.requests_per_minute, clock)
        self._tokens = Pace(options.tokens_per_minute, clock)
        self._halted = ""  # why nothing more is asked
        self._fatal = False
        self._unanswered = 0  # requests in a row
        self._refused = 0  # requests that the server will not answer however often it is asked
        self._served = False  # whether it has answered a request of this stage

    async def ask_all(self, asks: Sequence[Task]) -> dict[str, Any]:
        """As Asker says. Raises Interrupted after a signal, and DataError when the server refuses everybody
        or a batch has some of the requests."""
        found = by_key(asks, self.tally)
        self._refuse_waiting(found)
        self._served = any(key in self.ledger.replies for key in found)
        answers: dict[str, Any] = {}
        waiting = iter(found.items())

        async def worker() -> None:
            for key, verdicts in waiting:
                answers[key] = await self._answer(verdicts)
                self.progress(len(answers), len(found))

        await asyncio.gather(*(worker() for _ in range(self.options.concurrency)))
        if self._fatal:
            raise DataError(f"{self._halted}; what was answered is in {self.ledger.folder}")
        done = sum(not isinstance(answer, Failure) for answer in answers.values())
        if self.should_stop() and done < len(found):
            raise Interrupted(
                f"stopped with {done:,} of {len(found):,} requests answered, in {self.ledger.folder}; the same command goes on"
            )
        return answers

    def _refuse_waiting(self, keys: Iterable[str]) -> None:
        batches = [self.ledger.waiting[key] for key in keys if key in self.ledger.waiting]
        if batches:
            raise DataError(
                f"{self.ledger.folder}: {len(batches):,} of these requests wait in a batch that is paid for "
                f"({printable(batches[0].id or batches[0].token)}); add --set mode=batch to collect it"
            )

    async def _answer(self, verdicts: Attempts) -> Any:
        if (made := verdicts.look(self.ledger)) is not None:
            self.tally.from_cache += 1
            return made
        while len(verdicts.rejected) < self.options.attempts:
            if failure := await self._ask(verdicts.request, len(verdicts.rejected)):
                return failure
            if (made := verdicts.look(self.ledger)) is not None:
                return made
        return verdicts.failure()

    async def _ask(self, request: Request, attempt: int) -> Failure | None:
        """Have a reply put into the ledger, or say why there is none."""
        reason = ""
        for call in range(self.options.retries + 1):
            await self._wait_turn(request)
            if refusal := self._refusal(request):
                return Failure(refusal)
            try:
                outcome = await self._call(request, attempt)
            except VideoError as error:
                return Failure(f"no frames: {error}")
            if isinstance(outcome, Reply):
                self._unanswered, self._served = 0, True
                return None
            reason = outcome.reason
            if outcome.everybody:
                self._halted, self._fatal = reason, True
            if not outcome.again:
                self._refused += 1
                if not self._served and not self._fatal and self._refused >= self.options.give_up_after:
                    self._halted, self._fatal = (
                        f"the first {self._refused} requests were refused, the last one: {reason}",
                        True,
                    )
                return Failure(reason)
            if call < self.options.retries:
                await self._pause(backoff(self.options, call, outcome.wait, self._jitter))
        self._unanswered += 1
        if self._unanswered >= self.options.give_up_after:
            self._halted = f"{self._unanswered} requests in a row got no reply, the last one: {reason}"
        return Failure(f"no reply in {self.options.retries + 1} calls, the last one: {reason}")

    async def _call(self, request: Request, attempt: int) -> Reply | Fault:
        """Nothing is awaited between the look at the budget and the ledger's note, so no two calls spend the
        same money.
        """
        bound = self.options.bound(request)
        number = self.ledger.send(request.key, bound)
        try:
            outcome = await self.completer.complete(request, attempt)
        except VideoError as error:
            self.ledger.fault(number, str(error), 0.0)  # nothing was sent
            raise
        self.tally.calls += 1
        if isinstance(outcome, Reply):
            cost = self.options.reply_cost(request, outcome)
            self.ledger.reply(number, request.key, outcome, cost)
            self.tally.add(outcome, cost)
        else:
            self.tally.faults += 1
            cost = bound if outcome.may_cost else 0.0
            self.ledger.fault(number, outcome.reason, cost)
            self.tally.cost += cost
        return outcome

    def _refusal(self, request: Request) -> str:
        budget = self.options.budget
        if (
            not self._halted
            and budget is not None
            and self.ledger.spent + self.options.bound(request) > budget
        ):
            self._halted = (
                f"the next call could exceed the budget of {budget:g} (spent, or in open calls: {self.ledger.spent:.6g}); "
                "a higher --budget goes on"
            )
        if self._halted:
            return f"not asked: {self._halted}"
        return "not asked: stopped by a signal" if self.should_stop() else ""

    async def _wait_turn(self, request: Request) -> None:
        tokens = request.token_bound(self.options.image_tokens) // 4 + self.options.max_tokens
        await self._pause(max(self._requests.delay(1), self._tokens.delay(tokens)))

    async def _pause(self, seconds: float) -> None:
        """Sleep, in pieces, so that a signal ends it."""
        while seconds > 0 and not self.should_stop() and not self._halted:
            piece = min(seconds, 0.5)
            await self._sleep(piece)
            seconds -= piece
