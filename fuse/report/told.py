"""What is known of rows besides their scores: times and words, questions, pictures. Runs keep none of it, so
it comes from the stores that they were fed, where those are still there, or from whoever asks for the page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mambavl.cache import open_store
from mambavl.cache.classes import Classes
from mambavl.cache.rows import Segment
from mambavl.cache.spec import SPEC
from mambavl.configs.errors import DataError
from mambavl.fuse.result import Result

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
    texts: Mapping[str, Mapping[str, str]]  # name of a question (verb_question) -> narration_id -> its text

    def are_of(self, protocol: str, backend: str | None, prompt_version: str | None) -> bool:
        return (self.protocol, self.backend, self.prompt_version) == (protocol, backend, prompt_version)


@dataclass(frozen=True)
class Told:
    """What whoever asks for a page knows of its rows."""

    segments: Mapping[str, Segment] = field(default_factory=dict)  # by narration_id
    classes: Classes | None = None  # those of the lists that the segments are from
    questions: Sequence[Questions] = ()
    strips: Callable[[Sequence[Wanted]], Strips] | None = None  # None: there are no videos
    clips: int = CLIPS


UNTOLD = Told()


def rows_of_stores(result: Result) -> tuple[dict[str, Segment], list[str]]:
    """narration_id -> row, as the stores of a run's first stream with any left know them; and what is wrong
    with those that are there and cannot be read.
    """
    faults = []
    for stream in result.streams.values():
        found: dict[str, Segment] = {}
        for path, store_id in zip(stream.stores, stream.store_ids, strict=True):
            if not (Path(path) / SPEC).is_file():
                continue
            try:
                store = open_store(path)
                if store.store_id == store_id:  # else another one, made since
                    found |= {segment.narration_id: segment for segment in store.segments}
            except DataError as error:
                faults.append(str(error))
        if found:
            return found, faults
    return {}, faults
