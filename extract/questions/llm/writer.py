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
from mambavl.configs.errors import UsageError
from mambavl.extract.annotations import Annotations
from mambavl.extract.class_lists import spoken
from mambavl.extract.questions.file import QUESTION_KEYS, Question
from mambavl.extract.questions.labels import classes_of, refuse_unlabelled
from mambavl.extract.questions.llm.attempts import Client, Failure, Task
from mambavl.extract.questions.llm.options import LLMSettings
from mambavl.extract.questions.llm.replies import (
    Description,
    MaskedPair,
    QuestionPair,
    judge_description,
    judge_questions,
)
from mambavl.extract.questions.llm.requests import Reply, Request, load_prompt

DESCRIBE_PROMPT, QUESTION_PROMPT = "describe-1", "ask-1"  # versions of the two stages' prompts
PROTOCOLS = ("oracle", "predicted")  # that a model can write


class Pictures(Protocol):
    """Where the frames of a clip come from; `frames.ClipFrames` reads them from videos."""

    def identity(self, segment: Segment) -> dict[str, Any]:
        """The frames as a request's key knows them."""

    def jpegs(self, segment: Segment) -> list[bytes]:
        """The frames as JPEG files, in order of time."""


@dataclass(frozen=True)
class Written:
    """The questions of all rows that have them, in row order, and why the others have none."""

    questions: tuple[Question, ...]
    failures: dict[str, str]  # narration_id -> reason


@dataclass(frozen=True)
class Group:
    """Rows that share their requests: one narration, one verb, one noun; with frames one row."""

    first: Segment
    rows: tuple[int, ...]  # places in the segments


class Writer:
    """Writes the questions of some segments. `model` is the name in the keys; `backend` is the one in the
    file.

    Raises UsageError for a protocol that a model cannot write and for frames without videos or videos without
    frames, DataError for a segment without labels.
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
    ) -> None:
        if protocol not in PROTOCOLS:
            raise UsageError(
                f"a language model makes no {protocol!r} questions; use --backend template for them"
            )
        refuse_unlabelled(segments, "a language model is given labels")
        if (pictures is not None) != (options.frames > 0):
            raise UsageError("frames go with videos: give both --videos and --set frames=N, or neither")
        self.annotations, self.segments, self.options = annotations, segments, options
        self.model, self.backend, self.protocol, self.pictures = model, backend, protocol, pictures
        self.describe_prompt, self.question_prompt = (
            load_prompt(DESCRIBE_PROMPT),
            load_prompt(QUESTION_PROMPT),
        )
        self.groups = self._groups()

    @property
    def prompt_version(self) -> str:
        """The versions of both prompts, as the question file names them."""
        return f"{self.describe_prompt.version}+{self.question_prompt.version}"

    async def write(self, client: Client) -> Written:
        """Both stages, then a question for every row or a reason why not. Raises as `client.run`."""
        description_tasks = [self.description_task(group) for group in self.groups]
        described = await client.run(description_tasks)
        descriptions = [described[task.request.key] for task in description_tasks]
        question_tasks = {
            place: self.question_task(self.groups[place], text)
            for place, text in enumerate(descriptions)
            if not isinstance(text, Failure)
        }
        answered = await client.run(list(question_tasks.values()))
        questions: dict[int, Question] = {}  # by place in the segments
        failures: dict[str, str] = {}
        for place, group in enumerate(self.groups):
            stage = "questions" if place in question_tasks else "description"
            answer: Reply | str | Failure = descriptions[place]
            if place in question_tasks:
                answer = answered[question_tasks[place].request.key]
            for row in group.rows:
                segment = self.segments[row]
                if isinstance(answer, Reply):
                    questions[row] = self._question(
                        segment, judge_questions(answer, self.annotations, segment)
                    )
                elif isinstance(answer, Failure):
                    failures[segment.narration_id] = f"{stage}: {answer.reason}"
        return Written(tuple(questions[row] for row in sorted(questions)), failures)

    def description_task(self, group: Group) -> Task[str]:
        """The first stage of a group."""
        return Task(self.description_request(group), judge_description)

    def question_task(self, group: Group, description: str) -> Task[Reply]:
        """The second stage of a group. Its answer is the reply itself, which is masked row by row."""
        return Task(self.question_request(group, description), self._judge(group))

    def description_request(self, group: Group) -> Request:
        """Narration, verb and noun, and the clip's frames where they are to be attached."""
        segment = group.first
        inputs = {"narration": segment.narration, "verb": spoken(segment.verb), "noun": spoken(segment.noun)}
        request = Request(self.model, self.describe_prompt, inputs, Description, self._parameters())
        if self.pictures is None:
            return request
        pictures = self.pictures
        return replace(
            request, pictures=pictures.identity(segment), load_pictures=lambda: pictures.jpegs(segment)
        )

    def question_request(self, group: Group, description: str) -> Request:
        """Verb, noun and the description of the first stage."""
        segment = group.first
        inputs = {"verb": spoken(segment.verb), "noun": spoken(segment.noun), "description": description}
        return Request(self.model, self.question_prompt, inputs, QuestionPair, self._parameters())

    def _groups(self) -> list[Group]:
        rows: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
        for row, segment in enumerate(self.segments):
            own = segment.narration_id if self.pictures is not None else ""
            rows[segment.narration, segment.verb, segment.noun, own].append(row)
        return [Group(self.segments[found[0]], tuple(found)) for found in rows.values()]

    def _parameters(self) -> dict[str, Any]:
        """What shapes the first attempt; later ones follow from it."""
        return self.options.model_dump(include={"temperature", "seed", "max_tokens", "structured"})

    def _judge(self, group: Group) -> Callable[[Reply], Reply]:
        """A reply serves a group when it serves each (verb class, noun class) among its rows."""
        one_each = {classes_of(segment): segment for segment in (self.segments[row] for row in group.rows)}

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
