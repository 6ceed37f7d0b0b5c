"""Questions written by a language model, as the paper has them made.

Two stages: the narration becomes a description of the action; {verb, noun, description} become a verb question and a noun
question. One request per distinct (narration, verb, noun), its answer for every row that has them; then each row's own words are
masked. What was paid for is kept in a ledger and is never paid for again.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

from pydantic import ConfigDict, Field, model_validator

from mambavl.cache.rows import Segment
from mambavl.configs import Config
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations, spoken
from mambavl.extract.questions.exchange import Prompt, Reply, Request, load_prompt
from mambavl.extract.questions.file import QUESTION_KEYS, Question
from mambavl.extract.questions.ledger import Ledger
from mambavl.extract.questions.replies import (
    Description,
    MaskedPair,
    QuestionPair,
    Rejected,
    is_fenced,
    judge_description,
    judge_questions,
)

OPENAI = "https://api.openai.com/v1"
PROMPTS = ("describe-1", "ask-1")
PROTOCOLS = ("oracle", "predicted")
BYTES_PER_TOKEN = 4  # of English text, for estimates; what must not be exceeded is reckoned with 1


class Prices(Config):
    """Money per million tokens, in the currency of the budget. Batches often have prices of their own."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Asking(Config):
    """Knobs of `mambavl questions generate --backend llm|local`. Those of the first block shape answers and are in the keys."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a key may have been given where its name belongs

    model: str = Field(min_length=1)  # a server's name for it; for --backend local a folder
    temperature: Annotated[float, Field(ge=0, le=2)] | Literal["server"] = 0.7  # of the first attempt; "server" sends none
    seed: int = Field(default=0, ge=0, lt=2**31)
    max_tokens: int = Field(default=400, ge=16, le=32_768)  # of a reply
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"  # what the server can be held to
    frames: int = Field(default=0, ge=0, le=64)  # of the clip, attached to the first stage; then every row is asked for itself
    frame_side: int = Field(default=336, ge=16, le=2048)  # pixels of a frame's longer side

    attempts: int = Field(default=3, ge=1, le=100)  # replies paid for before a request is given up
    mode: Literal["live", "batch"] = "live"
    base_url: str = OPENAI
    key_variable: str = "OPENAI_API_KEY"  # the environment variable with the key; unset, it goes to OpenAI alone; "" sends none
    token_limit_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"  # older servers know the second
    concurrency: int = Field(default=8, ge=1, le=1024)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0)  # seconds that a call may take
    retries: int = Field(default=6, ge=0, le=100)  # further calls when one brings no reply
    backoff: float = Field(default=1.0, ge=0)  # seconds before the first of them, doubled each time, with jitter
    max_wait: float = Field(default=120.0, ge=0)  # seconds; a longer Retry-After is cut to it
    give_up_after: int = Field(default=8, ge=1)  # requests in a row without a reply, or the first ones refused: then no more
    image_tokens: int = Field(default=3_000, ge=0)  # no fewer than the server counts for a frame
    prices: Prices | None = None
    budget: float | None = Field(default=None, ge=0)  # money, over all runs with the same cache
    batch_requests: int = Field(default=20_000, ge=1, le=50_000)  # in one batch
    batch_poll: float = Field(default=30.0, gt=0)  # seconds between two looks at it
    resubmit: bool = False  # submit again what is in a batch that nobody can find or collect, though it may have been paid
    device: str = "auto"  # of --backend local

    @model_validator(mode="after")
    def _key_named(self) -> "Asking":
        """A rule of the whole, so that no message shows the value, which may be the key itself."""
        if not re.fullmatch(r"(?:[A-Z_][A-Z0-9_]*)?", self.key_variable):
            raise ValueError("key_variable: expected the NAME of an environment variable (capitals, digits, _), never a key")
        return self

    @model_validator(mode="after")
    def _priced(self) -> "Asking":
        if self.budget is not None and self.prices is None:
            raise ValueError("a budget needs prices: --set prices.input=... --set prices.output=... (per million tokens)")
        return self

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Money."""
        if self.prices is None:
            return 0.0
        return (tokens_in * self.prices.input + tokens_out * self.prices.output) / 1e6

    def bound(self, request: Request) -> float:
        """The most that a call can cost, in money."""
        return self.cost(request.token_bound(self.image_tokens), self.max_tokens)

    def reply_cost(self, request: Request, reply: Reply) -> float:
        """By the server's own count of tokens; the bound where it gives none."""
        if reply.tokens_in is None or reply.tokens_out is None:
            return self.bound(request)
        return self.cost(reply.tokens_in, reply.tokens_out)

    def attempt_temperature(self, attempt: int) -> float | None:
        """Later attempts are bolder: the same request at temperature 0 would bring the same reply."""
        if self.temperature == "server":
            return None
        return max(self.temperature, min(1.0, self.temperature + 0.3 * attempt))


@dataclass(frozen=True)
class Failure:
    """A request without an accepted answer."""

    reason: str


@dataclass(frozen=True, eq=False)
class Ask:
    """A request and the rule its reply must pass; the rule gives what is made of the reply, or raises Rejected."""

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


class Asker(Protocol):
    """How requests are brought to a model: one by one (`live.Live`) or in batches (`batch.Batches`)."""

    tally: Tally

    async def ask_all(self, asks: Sequence[Ask]) -> dict[str, Any]:
        """By request key: what the rule made of an accepted reply, or a Failure."""


class Pictures(Protocol):
    """Where the frames of a clip come from; `frames.ClipFrames` reads them from videos."""

    def identity(self, segment: Segment) -> dict[str, Any]: ...

    def jpegs(self, segment: Segment) -> list[bytes]: ...


@dataclass(frozen=True)
class Written:
    """The questions of all rows that have them, in row order, and why the others have none."""

    questions: tuple[Question, ...]
    failures: dict[str, str]  # narration_id -> reason


@dataclass(frozen=True)
class Group:
    """Rows that are asked about together: one narration, one verb, one noun; with frames one row."""

    first: Segment
    rows: tuple[int, ...]  # places in the segments


class Writer:
    """Writes the questions of some segments. `model` is the name in the keys; `backend` is the one in the file."""

    def __init__(
        self,
        annotations: Annotations,
        segments: Sequence[Segment],
        options: Asking,
        *,
        model: str,
        backend: str,
        protocol: str = "oracle",
        pictures: Pictures | None = None,
        prompts: tuple[Prompt, Prompt] | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise UsageError(f"a language model makes no {protocol!r} questions; use --backend template for them")
        unlabelled = [s for s in segments if s.verb_class is None or s.noun_class is None]
        if unlabelled:
            raise DataError(
                f"{unlabelled[0].narration_id}: has no verb and noun class ({len(unlabelled):,} of {len(segments):,} "
                "rows have none); a language model is asked about labels, use `--protocol generic`"
            )
        if (pictures is not None) != (options.frames > 0):
            raise UsageError("frames go with videos: give both --videos and --set frames=N, or neither")
        self.annotations, self.segments, self.options = annotations, segments, options
        self.model, self.backend, self.protocol, self.pictures = model, backend, protocol, pictures
        self.describe, self.ask = prompts or tuple(map(load_prompt, PROMPTS))
        self.groups = self._groups()

    @property
    def prompt_version(self) -> str:
        return f"{self.describe.version}+{self.ask.version}"

    async def write(self, asker: Asker) -> Written:
        """Both stages, then a question for every row or a reason why not."""
        first = [Ask(self.description_request(group), judge_description) for group in self.groups]
        described = await asker.ask_all(first)
        descriptions = [described[ask.request.key] for ask in first]
        second = {
            place: Ask(self.question_request(self.groups[place], text), self.judge(self.groups[place]))
            for place, text in enumerate(descriptions)
            if not isinstance(text, Failure)
        }
        asked = await asker.ask_all(list(second.values()))
        questions: list[Question | None] = [None] * len(self.segments)
        failures: dict[str, str] = {}
        for place, group in enumerate(self.groups):
            answer = asked[second[place].request.key] if place in second else descriptions[place]
            stage = "questions" if place in second else "description"
            for row in group.rows:
                segment = self.segments[row]
                if isinstance(answer, Failure):
                    failures[segment.narration_id] = f"{stage}: {answer.reason}"
                else:
                    questions[row] = self._question(segment, judge_questions(answer, self.annotations, segment))
        return Written(tuple(question for question in questions if question is not None), failures)

    def _groups(self) -> list[Group]:
        rows: dict[tuple, list[int]] = defaultdict(list)
        for row, segment in enumerate(self.segments):
            own = segment.narration_id if self.pictures is not None else ""
            rows[segment.narration, segment.verb, segment.noun, own].append(row)
        return [Group(self.segments[found[0]], tuple(found)) for found in rows.values()]

    def description_request(self, group: Group) -> Request:
        segment = group.first
        inputs = {"narration": segment.narration, "verb": spoken(segment.verb), "noun": spoken(segment.noun)}
        request = Request(self.model, self.describe, inputs, Description, self._parameters())
        if self.pictures is None:
            return request
        pictures = self.pictures
        return replace(request, pictures=pictures.identity(segment), load_pictures=lambda: pictures.jpegs(segment))

    def question_request(self, group: Group, description: str) -> Request:
        segment = group.first
        inputs = {"verb": spoken(segment.verb), "noun": spoken(segment.noun), "description": description}
        return Request(self.model, self.ask, inputs, QuestionPair, self._parameters())

    def _parameters(self) -> dict[str, Any]:
        """What the first attempt is asked with; later ones follow from it."""
        return self.options.model_dump(include={"temperature", "seed", "max_tokens", "structured"})

    def judge(self, group: Group) -> Callable[[Reply], Reply]:
        """A reply serves a group when it serves each (verb class, noun class) among its rows; the text is masked row by row."""
        one_each = {(s.verb_class, s.noun_class): s for s in (self.segments[row] for row in group.rows)}

        def judge(reply: Reply) -> Reply:
            for segment in one_each.values():
                judge_questions(reply, self.annotations, segment)
            return reply

        return judge

    def _question(self, segment: Segment, pair: MaskedPair) -> Question:
        return Question(
            narration_id=segment.narration_id,
            verb_question=pair.verb.text,
            noun_question=pair.noun.text,
            protocol=self.protocol,
            backend=self.backend,
            prompt_version=self.prompt_version,
            masked=dict(zip(QUESTION_KEYS, (list(pair.verb.words), list(pair.noun.words)), strict=True)),
            hint=dict.fromkeys(QUESTION_KEYS),
        )


class Verdicts:
    """All asks of one key and what the replies so far came to. A reply must pass the rule of each."""

    def __init__(self, asks: Sequence[Ask], tally: Tally) -> None:
        self.request = asks[0].request
        self.rejected: list[Rejected] = []
        self._judges = [ask.judge for ask in asks]
        self._tally = tally

    def look(self, ledger: Ledger) -> Any:
        """What the rules make of the first acceptable reply in the ledger, or None. Replies looked at before are passed over."""
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
        return Failure(f"{count} {'reply' if count == 1 else 'replies'} rejected, the last one as {self.rejected[-1]}")


def by_key(asks: Sequence[Ask], tally: Tally) -> dict[str, Verdicts]:
    """Each distinct request once, in order."""
    found: dict[str, list[Ask]] = defaultdict(list)
    for ask in asks:
        found[ask.request.key].append(ask)
    return {key: Verdicts(same, tally) for key, same in found.items()}


@dataclass(frozen=True)
class Plan:
    """What a run would ask, before it is asked. Tokens and money: an estimate, and a bound for one reply to each request."""

    rows: int
    groups: int
    cached: tuple[int, int]  # requests of each stage whose answer is in the cache
    calls: tuple[int, int]
    tokens_in: int
    tokens_out: int
    cost: float | None  # None without prices
    most: float | None
    spent: float  # by the cache's ledger, so far
    waiting: tuple[int, int]  # requests in open batches, which are not among the calls, and how many batches


def plan(writer: Writer, ledger: Ledger) -> Plan:
    """Count what is to be asked. Makes no call and needs no key; a description not known yet is taken to have 40 words."""
    options, tally = writer.options, Tally()
    first = [Ask(writer.description_request(group), judge_description) for group in writer.groups]
    describe = by_key(first, tally)
    texts = {key: verdicts.look(ledger) for key, verdicts in describe.items()}
    firm, guessed = [], []
    for group, ask in zip(writer.groups, first, strict=True):
        text = texts[ask.request.key]
        kind = guessed if text is None else firm
        kind.append(Ask(writer.question_request(group, text or "describe " * 40), writer.judge(group)))
    question = by_key(firm, tally)
    pairs = {key: verdicts.look(ledger) for key, verdicts in question.items()}
    stages = (_to_ask(describe, texts, options), _to_ask(question, pairs, options) + [ask.request for ask in guessed])
    open_batches = ledger.waiting
    waiting = {request.key: open_batches[request.key].token for s in stages for request in s if request.key in open_batches}
    stages = tuple([request for request in stage if request.key not in waiting] for stage in stages)
    requests = [request for stage in stages for request in stage]
    tokens_in = sum(_estimate(request, options) for request in requests)
    tokens_out = sum(60 if request.reply is Description else 70 for request in requests)
    priced = options.prices is not None
    return Plan(
        rows=len(writer.segments),
        groups=len(writer.groups),
        cached=tuple(sum(made is not None for made in stage.values()) for stage in (texts, pairs)),
        calls=tuple(map(len, stages)),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=options.cost(tokens_in, tokens_out) if priced else None,
        most=sum(options.bound(request) for request in requests) if priced else None,
        spent=ledger.spent,
        waiting=(len(waiting), len(set(waiting.values()))),
    )


def _to_ask(found: dict[str, Verdicts], made: dict[str, Any], options: Asking) -> list[Request]:
    return [v.request for key, v in found.items() if made[key] is None and len(v.rejected) < options.attempts]


def _estimate(request: Request, options: Asking) -> int:
    pictures = request.pictures["frames"] * options.image_tokens if request.pictures else 0
    return round(request.token_bound(0) / BYTES_PER_TOKEN) + pictures
