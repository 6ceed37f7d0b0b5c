"""Tasks for a language model, their attempts, and what a run did."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.replies import Rejected, is_fenced
from mambavl.extract.questions.llm.requests import Reply, Request

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Failure:
    """A request without an accepted answer."""

    reason: str


@dataclass(frozen=True, eq=False)
class Task(Generic[Answer]):
    """A request and the rule that its reply must pass. The rule returns the answer, or raises Rejected."""

    request: Request
    judge: Callable[[Reply], Answer]


@dataclass
class Tally:
    """What a run did. `rejected` counts by reason over all replies that were judged, cached ones too."""

    calls: int = 0
    faults: int = 0
    from_cache: int = 0
    fenced: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, reply: Reply, cost: float) -> None:
        """Count a reply that was paid for."""
        self.tokens_in += reply.tokens_in or 0
        self.tokens_out += reply.tokens_out or 0
        self.cost += cost


class Client(Protocol):
    """How requests are brought to a model: one by one (`live.LiveClient`) or in batches
    (`batch.BatchClient`).
    """

    tally: Tally

    async def run(self, tasks: Sequence[Task[Answer]]) -> dict[str, Answer | Failure]:
        """By request key: the answer of an accepted reply, or a Failure. Raises Interrupted after a signal,
        DataError when no request of the run can succeed.
        """


class Attempts(Generic[Answer]):
    """The tasks that share a request, and what its replies so far came to. A reply must pass the rule of
    each.
    """

    def __init__(self, tasks: Sequence[Task[Answer]], tally: Tally) -> None:
        self.request = tasks[0].request
        self.rejected: list[Rejected] = []
        self._judges = [task.judge for task in tasks]
        self._tally = tally

    def find_answer(self, ledger: Ledger) -> Answer | None:
        """The answer of the first acceptable reply in the ledger, or None. Replies that were judged before
        are passed over.
        """
        for reply in ledger.replies.get(self.request.key, ())[len(self.rejected) :]:
            try:
                answers = [judge(reply) for judge in self._judges]
            except Rejected as rejected:
                self.rejected.append(rejected)
                self._tally.rejected[rejected.kind] += 1
                continue
            self._tally.fenced += is_fenced(reply)
            return answers[0]
        return None

    def failure(self) -> Failure:
        """Why the attempts came to nothing; at least one reply was rejected."""
        count = len(self.rejected)
        replies = "reply" if count == 1 else "replies"
        return Failure(f"{count} {replies} rejected, the last one as {self.rejected[-1]}")


def by_key(tasks: Sequence[Task[Answer]], tally: Tally) -> dict[str, Attempts[Answer]]:
    """Each distinct request once, in order."""
    found: dict[str, list[Task[Answer]]] = defaultdict(list)
    for task in tasks:
        found[task.request.key].append(task)
    return {key: Attempts(same, tally) for key, same in found.items()}
