"""What a run would send and what that costs, before anything is sent."""

from dataclasses import dataclass

from mambavl.extract.questions.llm.attempts import Answer, Attempts, Tally, Task, by_key
from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import Description
from mambavl.extract.questions.llm.requests import Reply, Request
from mambavl.extract.questions.llm.writer import Writer

# for estimates; what must not be exceeded is counted with 1 byte for a token
BYTES_PER_TOKEN = 4  # of English text
DESCRIPTION_TOKENS, QUESTION_TOKENS = 60, 70  # of a reply
UNKNOWN_DESCRIPTION = "describe " * 40  # stands in for one that is not known yet


@dataclass(frozen=True)
class Plan:
    """What a run would send. Tokens and money: an estimate, and a bound for one reply to each request."""

    rows: int
    groups: int
    cached: tuple[int, int]  # requests of each stage whose answer is in the cache
    calls: tuple[int, int]  # requests of each stage that would be sent
    tokens_in: int
    tokens_out: int
    cost: float | None  # None without prices
    most: float | None
    spent: float  # by the cache's ledger, so far
    waiting: tuple[int, int]  # requests in open batches, which are not among the calls, and how many batches


def plan(writer: Writer, ledger: Ledger) -> Plan:
    """Count what is to be sent. Makes no call and needs no key."""
    options, tally = writer.options, Tally()
    description_tasks = [writer.description_task(group) for group in writer.groups]
    descriptions, described = _look_up(description_tasks, ledger, tally)
    known: list[Task[Reply]] = []
    guessed: list[Request] = []  # their description is not known, so no answer to them can be
    for group, task in zip(writer.groups, description_tasks, strict=True):
        text = described.get(task.request.key)
        if text is None:
            guessed.append(writer.question_request(group, UNKNOWN_DESCRIPTION))
        else:
            known.append(writer.question_task(group, text))
    pairs, paired = _look_up(known, ledger, tally)
    first = _unanswered(descriptions, described, options)
    second = _unanswered(pairs, paired, options) + guessed
    open_batches = ledger.waiting
    waiting = {request.key for request in first + second if request.key in open_batches}
    first = [request for request in first if request.key not in waiting]
    second = [request for request in second if request.key not in waiting]
    requests = first + second
    tokens_in = sum(_estimate(request, options) for request in requests)
    tokens_out = sum(
        DESCRIPTION_TOKENS if request.reply is Description else QUESTION_TOKENS for request in requests
    )
    priced = options.prices is not None
    return Plan(
        rows=len(writer.segments),
        groups=len(writer.groups),
        cached=(len(described), len(paired)),
        calls=(len(first), len(second)),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=options.cost(tokens_in, tokens_out) if priced else None,
        most=sum(options.bound(request) for request in requests) if priced else None,
        spent=ledger.spent,
        waiting=(len(waiting), len({open_batches[key].token for key in waiting})),
    )


def _look_up(
    tasks: list[Task[Answer]], ledger: Ledger, tally: Tally
) -> tuple[dict[str, Attempts[Answer]], dict[str, Answer]]:
    """By request key: all attempts, and the answers that the ledger's replies hold."""
    attempts = by_key(tasks, tally)
    answers: dict[str, Answer] = {}
    for key, found in attempts.items():
        if (answer := found.find_answer(ledger)) is not None:
            answers[key] = answer
    return attempts, answers


def _unanswered(
    attempts: dict[str, Attempts[Answer]], answers: dict[str, Answer], options: LLMSettings
) -> list[Request]:
    """The requests that a run would send: neither answered nor given up."""
    return [
        found.request
        for key, found in attempts.items()
        if key not in answers and len(found.rejected) < options.attempts
    ]


def _estimate(request: Request, options: LLMSettings) -> int:
    """Tokens that are sent with a request."""
    pictures = request.pictures["frames"] * options.image_tokens if request.pictures else 0
    return round(request.token_bound(0) / BYTES_PER_TOKEN) + pictures
