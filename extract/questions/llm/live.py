"""Requests sent one by one, several at a time: paced, repeated after faults, sent again after bad replies,
stopped by a budget.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from mambavl.configs.errors import DataError, Interrupted
from mambavl.configs.secrets import printable
from mambavl.extract.questions.llm.attempts import Answer, Attempts, Failure, Tally, Task, by_key
from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.requests import Completer, Fault, Reply, Request
from mambavl.extract.questions.llm.waits import Pace, backoff, wait
from mambavl.extract.timeline import VideoError


class LiveClient:
    """A Client that calls a Completer. Whatever it knows is in the ledger, so that another process can
    continue where this one was killed.
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
        self._sleep, self._jitter = sleep, jitter or random.Random()
        self._requests = Pace(options.requests_per_minute, clock)
        self._tokens = Pace(options.tokens_per_minute, clock)
        self._halted = ""  # why nothing more is sent
        self._fatal = False  # whether that ends the run with an error
        self._unanswered = 0  # requests in a row
        self._refused = 0  # requests that the server will not answer however often they are sent
        self._served = False  # whether it has answered a request of this stage

    async def run(self, tasks: Sequence[Task[Answer]]) -> dict[str, Answer | Failure]:
        """As Client says. Raises DataError also when a batch holds some of the requests."""
        found = by_key(tasks, self.tally)
        self._refuse_waiting(found)
        self._served = any(key in self.ledger.replies for key in found)
        answers: dict[str, Answer | Failure] = {}
        waiting = iter(found.items())

        async def work() -> None:
            for key, attempts in waiting:
                answer = await self._answer(attempts)
                answers[key] = answer
                self.progress(len(answers), len(found))

        await asyncio.gather(*(work() for _ in range(self.options.concurrency)))
        if self._fatal:
            raise DataError(f"{self._halted}; all answers so far are in {self.ledger.folder}")
        done = sum(not isinstance(answer, Failure) for answer in answers.values())
        if self.should_stop() and done < len(found):
            raise Interrupted(
                f"stopped with {done:,} of {len(found):,} requests answered, in {self.ledger.folder}; run "
                "the same command again to continue"
            )
        return answers

    def _refuse_waiting(self, keys: Iterable[str]) -> None:
        batches = [self.ledger.waiting[key] for key in keys if key in self.ledger.waiting]
        if batches:
            name = printable(batches[0].id or batches[0].token)
            raise DataError(
                f"{self.ledger.folder}: {len(batches):,} of these requests wait in a batch that is paid for "
                f"({name}); add --set mode=batch to collect it"
            )

    async def _answer(self, attempts: Attempts[Answer]) -> Answer | Failure:
        if (answer := attempts.find_answer(self.ledger)) is not None:
            self.tally.from_cache += 1
            return answer
        while len(attempts.rejected) < self.options.attempts:
            if failure := await self._get_reply(attempts.request, len(attempts.rejected)):
                return failure
            if (answer := attempts.find_answer(self.ledger)) is not None:
                return answer
        return attempts.failure()

    async def _get_reply(self, request: Request, attempt: int) -> Failure | None:
        """Have a reply put into the ledger, or say why there is none."""
        reason = ""
        for call in range(self.options.retries + 1):
            await self._wait_turn(request)
            if reason := self._reason_to_hold(request):
                return Failure(f"not sent: {reason}")
            try:
                outcome = await self._call(request, attempt)
            except VideoError as error:
                return Failure(f"no frames: {error}")
            if isinstance(outcome, Reply):
                self._unanswered, self._served = 0, True
                return None
            reason = outcome.reason
            if not outcome.retryable:
                self._note_refusal(outcome)
                return Failure(reason)
            if call < self.options.retries:
                await self._wait(backoff(self.options, call, outcome.wait, self._jitter))
        self._unanswered += 1
        if self._unanswered >= self.options.give_up_after:
            self._halted = f"{self._unanswered} requests in a row got no reply, the last one: {reason}"
        return Failure(f"no reply in {self.options.retries + 1} calls, the last one: {reason}")

    def _note_refusal(self, fault: Fault) -> None:
        """A request was refused for good; decide whether that says something about all others."""
        self._refused += 1
        if fault.ends_run:
            self._halted, self._fatal = fault.reason, True
        elif not self._served and not self._fatal and self._refused >= self.options.give_up_after:
            self._halted = f"the first {self._refused} requests were refused, the last one: {fault.reason}"
            self._fatal = True

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
            counted = self.options.counted_cost(outcome)
            cost = bound if counted is None else counted
            self.ledger.reply(number, request.key, outcome, cost)
            self.tally.add(outcome, cost)
        else:
            self.tally.faults += 1
            cost = bound if outcome.may_cost else 0.0
            self.ledger.fault(number, outcome.reason, cost)
            self.tally.cost += cost
        return outcome

    def _reason_to_hold(self, request: Request) -> str:
        """Why this request must not be sent now; "" where it may."""
        budget = self.options.budget
        spent = self.ledger.spent
        if not self._halted and budget is not None and spent + self.options.bound(request) > budget:
            self._halted = (
                f"the next call could exceed the budget of {budget:g} (spent, or in open calls: "
                f"{spent:.6g}); raise --budget to continue"
            )
        if self._halted:
            return self._halted
        return "stopped by a signal" if self.should_stop() else ""

    async def _wait_turn(self, request: Request) -> None:
        tokens = request.token_bound(self.options.image_tokens) // 4 + self.options.max_tokens
        await self._wait(max(self._requests.delay(1), self._tokens.delay(tokens)))

    async def _wait(self, seconds: float) -> None:
        await wait(seconds, lambda: self.should_stop() or bool(self._halted), self._sleep)
