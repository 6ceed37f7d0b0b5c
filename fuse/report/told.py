"""What is known of rows besides their scores: times and words, questions, pictures. Runs keep none of it, so
it comes from the stores that they were fed, where those are still there, or from whoever asks for the page.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mambavl.cache import FeatureStore, open_store
from mambavl.cache.classes import Classes
from mambavl.cache.rows import Segment
from mambavl.cache.spec import SPEC
from mambavl.configs.errors import DataError
from mambavl.fuse.result import Result, StreamProvenance

CLIPS = 300  # rows with pictures, unless another number is asked for

Wanted = tuple[Segment, list[float]]  # a row, and the moments to show, in seconds of its video
# a strip of pictures (WebP), one beside the other, by narration_id; or why there is none
Strips = Mapping[str, bytes | str]


@dataclass(frozen=True)
class Questions:
    """The texts of one question file."""

    protocol: str
    backend: str | None
    prompt_version: str | None
    sha256: str  # of the file
    texts: Mapping[str, Mapping[str, str]]  # name of a question (verb_question) -> narration_id -> its text

    def are_of(self, stream: StreamProvenance) -> bool:
        """Whether its stores were made from this file, as far as is known: from one that was made in the same
        way and, where they still lie there, from this very one.
        """
        made = stream.recipe.questions
        if made is None or question_of(stream) not in self.texts:
            return False
        how = (made.protocol, made.backend, made.prompt_version)
        if (self.protocol, self.backend, self.prompt_version) != how:
            return False
        # one that cannot be read says nothing of its file
        known = {store.spec.inputs.questions_sha256 for store in _stores_of(stream, [])} - {None}
        return not known or self.sha256 in known


@dataclass(frozen=True)
class Told:
    """What whoever asks for a page knows of its rows."""

    segments: Mapping[str, Segment] = field(default_factory=dict)  # by narration_id
    classes: Classes | None = None  # those of the lists that the segments are from
    questions: Sequence[Questions] = ()
    strips: Callable[[Sequence[Wanted]], Strips] | None = None  # None: there are no videos
    clips: int = CLIPS


UNTOLD = Told()


def question_of(stream: StreamProvenance) -> str:
    """Which of a file's questions a text stream has: `verb_question` of level `verb_question/last_hidden`."""
    return stream.level.partition("/")[0]


def rows_of_stores(result: Result) -> tuple[dict[str, Segment], list[str]]:
    """narration_id -> row, as the stores of a run's first stream with any left know them; and what is wrong
    with those that are there and cannot be read.
    """
    faults: list[str] = []
    for stream in result.streams.values():
        found: dict[str, Segment] = {}
        for store in _stores_of(stream, faults):
            try:
                found |= {segment.narration_id: segment for segment in store.segments}
            except DataError as error:
                faults.append(str(error))
        if found:
            return found, faults
    return {}, faults


def _stores_of(stream: StreamProvenance, faults: list[str]) -> Iterator[FeatureStore]:
    """Those that still lie where a run found them. faults: what is wrong with others is added."""
    for path, store_id in zip(stream.stores, stream.store_ids, strict=True):
        if not (Path(path) / SPEC).is_file():
            continue
        try:
            store = open_store(path)
        except DataError as error:
            faults.append(str(error))
            continue
        if store.store_id == store_id:  # else another one, made since
            yield store
