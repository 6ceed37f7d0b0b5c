"""Questions written by a language model, as the paper has them made.

Two stages: the narration becomes a description of the action; {verb, noun, description} become a verb
question and a noun question. One request per distinct (narration, verb, noun), its answer for every row that
has them; then each row's own words are masked. What was paid for is kept in a ledger and is never paid for
again.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import Annotations, spoken
from mambavl.extract.questions.file import QUESTION_KEYS, Question
from mambavl.extract.questions.llm.attempts import Attempts, Client, Failure, Tally, Task, by_key
from mambavl.extract.questions.llm.ledger import Ledger
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import (
    Description,
    MaskedPair,
    QuestionPair,
    judge_description,
    judge_questions,
)
from mambavl.extract.questions.llm.requests import Prompt, Reply, Request, load_prompt

PROMPTS = ("describe-1", "ask-1")


PROTOCOLS = ("oracle", "predicted")


BYTES_PER_TOKEN = 4  # of English text, for estimates; what must not be exceeded is reckoned with 1


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
    """Writes the questions of some segments. `model` is the name in the keys; `backend` is the one in the
    file.
    """

    def __init__(
        self,
        annotations: Annotations,
        segments: Sequence[Segment],
        options: LLMSettings,
        *,
        model: str,
        backend: str,
        protocol: str = "oracle",
        pictures: Pictures | None = None,
        prompts: tuple[Prompt, Prompt] | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise UsageError(
                f"a language model makes no {protocol!r} questions; use --backend template for them"
            )
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

    async def write(self, asker: Client) -> Written:
        """Both stages, then a question for every row or a reason why not."""
        first = [Task(self.description_request(group), judge_description) for group in self.groups]
        described = await asker.ask_all(first)
        descriptions = [described[ask.request.key] for ask in first]
        second = {
            place: Task(self.question_request(self.groups[place], text), self.judge(self.groups[place]))
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
                    questions[row] = self._question(
                        segment, judge_questions(answer, self.annotations, segment)
                    )
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
        return replace(
            request, pictures=pictures.identity(segment), load_pictures=lambda: pictures.jpegs(segment)
        )

    def question_request(self, group: Group, description: str) -> Request:
        segment = group.first
        inputs = {"verb": spoken(segment.verb), "noun": spoken(segment.noun), "description": description}
        return Request(self.model, self.ask, inputs, QuestionPair, self._parameters())

    def _parameters(self) -> dict[str, Any]:
        """What the first attempt is asked with; later ones follow from it."""
        return self.options.model_dump(include={"temperature", "seed", "max_tokens", "structured"})

    def judge(self, group: Group) -> Callable[[Reply], Reply]:
        """A reply serves a group when it serves each (verb class, noun class) among its rows; the text is
        masked row by row.
        """
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


@dataclass(frozen=True)
class Plan:
    """What a run would ask, before it is asked. Tokens and money: an estimate, and a bound for one reply to
    each request.
    """

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
    """Count what is to be asked. Makes no call and needs no key; a description not known yet is taken to have
    40 words.
    """
    options, tally = writer.options, Tally()
    first = [Task(writer.description_request(group), judge_description) for group in writer.groups]
    describe = by_key(first, tally)
    texts = {key: verdicts.look(ledger) for key, verdicts in describe.items()}
    firm, guessed = [], []
    for group, ask in zip(writer.groups, first, strict=True):
        text = texts[ask.request.key]
        kind = guessed if text is None else firm
        kind.append(Task(writer.question_request(group, text or "describe " * 40), writer.judge(group)))
    question = by_key(firm, tally)
    pairs = {key: verdicts.look(ledger) for key, verdicts in question.items()}
    stages = (
        _to_ask(describe, texts, options),
        _to_ask(question, pairs, options) + [ask.request for ask in guessed],
    )
    open_batches = ledger.waiting
    waiting = {
        request.key: open_batches[request.key].token
        for s in stages
        for request in s
        if request.key in open_batches
    }
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


def _to_ask(found: dict[str, Attempts], made: dict[str, Any], options: LLMSettings) -> list[Request]:
    return [v.request for key, v in found.items() if made[key] is None and len(v.rejected) < options.attempts]


def _estimate(request: Request, options: LLMSettings) -> int:
    pictures = request.pictures["frames"] * options.image_tokens if request.pictures else 0
    return round(request.token_bound(0) / BYTES_PER_TOKEN) + pictures
