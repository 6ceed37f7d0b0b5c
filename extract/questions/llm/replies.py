"""Which replies of a language model are accepted.

A reply is judged whenever it is read, from the server or from the cache, so that a rule that changes holds
for old replies too. What is accepted is a JSON object with the expected texts and nothing else, one fenced
block around it at most; the texts are of the expected kind and length, and enough of a question is left when
the segment's own words are masked. The language is not checked.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mambavl.cache.rows import Segment
from mambavl.configs.secrets import printable
from mambavl.extract import MASK
from mambavl.extract.annotations import Annotations
from mambavl.extract.questions.file import unique_keys
from mambavl.extract.questions.forms import Kind, contains_form, words_of
from mambavl.extract.questions.labels import classes_of
from mambavl.extract.questions.llm.requests import Reply
from mambavl.extract.questions.masking import Masked, mask

MAX_CHARACTERS = 20_000  # of a whole reply; two questions have some hundred
MAX_DESCRIPTION_WORDS = 90
MIN_QUESTION_WORDS, MAX_QUESTION_WORDS = 3, 45

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_REFUSAL = re.compile(
    r"\W*(?:i(?:['’]m| am) (?:sorry|unable|not able)|i (?:can(?:not|['’]t| not)|won['’]t|will "
    r"not)|sorry\b|as an ai\b"
    r"|unfortunately,? i\b)",
    re.IGNORECASE,
)
_ASKS: dict[Kind, re.Pattern[str]] = {
    "verb": re.compile(
        r"\b(?:what|which)\s+(?:\w+\s+){0,2}(?:action|activity|verb|movement|motion|task)s?\b"
        r"|\bwhat\b.*\b(?:do|does|did|doing|done|happen\w*)\b"
        r"|\bhow\b",
        re.IGNORECASE,
    ),
    "noun": re.compile(
        r"\b(?:what|which)\s+(?:\w+\s+){0,2}"
        r"(?:object|item|thing|noun|tool|utensil|ingredient|food|container|appliance|vessel|equipment)s?\b",
        re.IGNORECASE,
    ),
}


class Strict(BaseModel):
    """The JSON object of a reply: all of its fields, of these types, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)


Form = TypeVar("Form", bound=Strict)


class Description(Strict):
    """The reply of the first stage."""

    description: str


class QuestionPair(Strict):
    """The reply of the second stage."""

    verb_question: str
    noun_question: str


class Rejected(Exception):
    """A reply that breaks a rule. `kind` is a word to count by; the text says more."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(printable(f"{kind}: {detail}"))  # it may hold the reply's own words
        self.kind, self.detail = kind, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.kind, self.detail)


@dataclass(frozen=True)
class MaskedPair:
    """Two questions as they go into a file."""

    verb: Masked
    noun: Masked


def judge_description(reply: Reply) -> str:
    """The description in a reply. Raises Rejected."""
    text = _plain(read_reply(reply, Description).description)
    if not 1 <= len(words_of(text)) <= MAX_DESCRIPTION_WORDS:
        raise Rejected(
            "length",
            f"the description has {len(words_of(text))} words; 1 to {MAX_DESCRIPTION_WORDS} are accepted",
        )
    return text


def judge_questions(reply: Reply, annotations: Annotations, segment: Segment) -> MaskedPair:
    """The two questions in a reply, masked for a segment. Raises Rejected."""
    pair = read_reply(reply, QuestionPair)
    verb, noun = _question("verb", pair.verb_question), _question("noun", pair.noun_question)
    if verb == noun:
        raise Rejected("swapped", "the two questions are the same")
    if _is_swapped(verb, noun, annotations, segment):
        raise Rejected(
            "swapped", f"the verb question asks for the noun, or the other way round: {verb!r}, {noun!r}"
        )
    return MaskedPair(_mask(verb, annotations, segment), _mask(noun, annotations, segment))


def is_fenced(reply: Reply) -> bool:
    """Whether the whole reply is one fenced block."""
    return bool(reply.text and _FENCE.fullmatch(reply.text.strip()))


def read_reply(reply: Reply, kind: type[Form]) -> Form:
    """The JSON object of a reply, checked field by field. Raises Rejected."""
    if reply.refusal or reply.finish_reason == "content_filter":
        raise Rejected("refused", (reply.refusal or "the server's filter cut it")[:200])
    if reply.finish_reason == "length":
        raise Rejected("truncated", "the reply was cut at max_tokens")
    if reply.finish_reason != "stop":
        raise Rejected("unfinished", f"finish_reason is {reply.finish_reason!r}, not 'stop'")
    text = (reply.text or "").strip()
    if not text:
        raise Rejected("empty", "the reply has no text")
    if len(text) > MAX_CHARACTERS:
        raise Rejected("length", f"the reply has more than {MAX_CHARACTERS:,} characters")
    if fenced := _FENCE.fullmatch(text):
        text = fenced.group(1)
    try:
        return kind.model_validate(json.loads(text, object_pairs_hook=unique_keys))
    except (ValueError, RecursionError) as error:  # pydantic's ValidationError is a ValueError
        if _REFUSAL.match(text):
            raise Rejected("refused", text[:200]) from None
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "reply"
            raise Rejected("fields", f"{where}: {first['msg']}") from None
        raise Rejected("malformed", f"no JSON object ({error}): {text[:100]!r}"[:300]) from None


def _plain(text: str) -> str:
    """One line of text without control characters. Raises Rejected, also where the text is a refusal."""
    text = " ".join(text.split())
    bad = next((letter for letter in text if unicodedata.category(letter).startswith("C")), None)
    if bad is not None:
        raise Rejected("characters", f"the text holds U+{ord(bad):04X}")
    if _REFUSAL.match(text):
        raise Rejected("refused", text[:200])
    return text


def _question(kind: Kind, text: str) -> str:
    text = re.sub(re.escape(MASK), MASK, _plain(text), flags=re.IGNORECASE)
    words = len(words_of(text))
    if not MIN_QUESTION_WORDS <= words <= MAX_QUESTION_WORDS:
        accepted = f"{MIN_QUESTION_WORDS} to {MAX_QUESTION_WORDS} are accepted"
        raise Rejected("length", f"the {kind} question has {words} words; {accepted}")
    if not text.endswith("?"):
        raise Rejected("no question", f"the {kind} question does not end with a question mark: {text!r}")
    return text


def _is_swapped(verb: str, noun: str, annotations: Annotations, segment: Segment) -> bool:
    """Whether the two questions seem to have changed places: by the words that ask, or because each names its
    own answer and not the other's.
    """
    if _asks_only(verb, "noun", "verb") or _asks_only(noun, "verb", "noun"):
        return True
    verb_class, noun_class = classes_of(segment)
    verbs = (segment.verb, annotations.verbs.keys[verb_class], *annotations.verbs.instances[verb_class])
    nouns = (segment.noun, annotations.nouns.keys[noun_class], *annotations.nouns.instances[noun_class])

    def names(text: str) -> tuple[bool, bool]:
        """Whether a text names the verb and the noun."""
        return contains_form(text, verbs, "verb"), contains_form(text, nouns, "noun")

    return (names(verb), names(noun)) == ((True, False), (False, True))


def _asks_only(text: str, one: Kind, other: Kind) -> bool:
    return bool(_ASKS[one].search(text)) and not _ASKS[other].search(text)


def _mask(text: str, annotations: Annotations, segment: Segment) -> Masked:
    verb_class, noun_class = classes_of(segment)
    masked = mask(
        text,
        annotations,
        verb_class,
        noun_class,
        verb_word=segment.verb,
        noun_word=segment.noun,
    )
    hidden = max(masked.text.count(MASK), len(masked.words))  # the model may have written masks of its own
    if len(words_of(masked.text.replace(MASK, " "))) < max(MIN_QUESTION_WORDS, hidden):
        raise Rejected(
            "leaking", f"little is left of {text!r} when the labels' words are masked: {masked.text!r}"
        )
    return masked
