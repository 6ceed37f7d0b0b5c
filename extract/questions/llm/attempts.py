"""Tasks for a language model, their attempts, and what a run came to."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.replies import Rejected, is_fenced
from mambavl.extract.questions.llm.requests import Reply, Request


@dataclass(frozen=True)
class Failure:
    """A request without an accepted answer."""

    reason: str


@dataclass(frozen=True, eq=False)
class Task:
    """A request and the rule its reply must pass; the rule gives what is made of the reply, or raises
    Rejected.
    """

    request: Request
    judge: Callable[[Reply], Any]


@dataclass
class Tally:
    """What a run did. `rejected` counts by reason over all replies that were looked at, cached ones too."""

    calls: int = 0
    faults: int = 0
    from_cache: int = 0
    fenced: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    rejected: Counter = field(default_factory=Counter)

    def add(self, reply: Reply, cost: float) -> None:
        self.tokens_in += reply.tokens_in or 0
        self.tokens_out += reply.tokens_out or 0
        self.cost += cost


class Client(Protocol):
    """How requests are brought to a model: one by one (`live.Live`) or in batches (`batch.Batches`)."""

    tally: Tally

    async def ask_all(self, asks: Sequence[Task]) -> dict[str, Any]:
        """By request key: what the rule made of an accepted reply, or a Failure."""


class Attempts:
    """All asks of one key and what the replies so far came to. A reply must pass the rule of each."""

    def __init__(self, asks: Sequence[Task], tally: Tally) -> None:
        self.request = asks[0].request
        self.rejected: list[Rejected] = []
        self._judges = [ask.judge for ask in asks]
        self._tally = tally

    def look(self, ledger: Ledger) -> Any:
        """What the rules make of the first acceptable reply in the ledger, or None. Replies looked at before
        are passed over.
        """
        for reply in ledger.replies.get(self.request.key, ())[len(self.rejected) :]:
            try:
                made = [judge(reply) for judge in self._judges]
            except Rejected as rejected:
                self.rejected.append(rejected)
                self._tally.rejected[rejected.kind] += 1
                continue
            self._tally.fenced += is_fenced(reply)
            return made[0]
        return None

    def failure(self) -> Failure:
        count = len(self.rejected)
        return Failure(
            f"{count} {'reply' if count == 1 else 'replies'} rejected, the last one as {self.rejected[-1]}"
        )


def by_key(asks: Sequence[Task], tally: Tally) -> dict[str, Attempts]:
    """Each distinct request once, in order."""
    found: dict[str, list[Task]] = defaultdict(list)
    for ask in asks:
        found[ask.request.key].append(ask)
    return {key: Attempts(same, tally) for key, same in found.items()}
