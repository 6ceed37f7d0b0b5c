"""The labels of a segment where they must be there: rows of the test split have none."""

from collections.abc import Sequence

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError


def is_labelled(segment: Segment) -> bool:
    """Whether a segment has both classes."""
    return segment.verb_class is not None and segment.noun_class is not None


def classes_of(segment: Segment) -> tuple[int, int]:
    """(verb class, noun class) of a segment. Raises DataError where either is missing."""
    if segment.verb_class is None or segment.noun_class is None:
        raise DataError(f"{segment.narration_id}: has no verb and noun class")
    return segment.verb_class, segment.noun_class


def refuse_unlabelled(segments: Sequence[Segment], need: str) -> None:
    """Raises DataError naming the first segment without both classes. `need` says who needs labels."""
    unlabelled = [segment for segment in segments if not is_labelled(segment)]
    if unlabelled:
        raise DataError(
            f"{unlabelled[0].narration_id}: has no verb and noun class ({len(unlabelled):,} of "
            f"{len(segments):,} rows have none); {need}, use `--protocol generic`"
        )
