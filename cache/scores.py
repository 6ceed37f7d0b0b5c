"""A scores file: what a recogniser thinks of some rows, as npz. `fuse` writes them, predicted questions are
made from them.

    narration_id (N,)                    text, each once
    verb (N, verbs), noun (N, nouns)     log-probabilities, or any real scores
    or action (N, P) and pairs (P, 2)    scores of verb-noun pairs; verbs and nouns are sums over their pairs
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.configs.errors import DataError

KEYS = "narration_id, verb and noun, or narration_id, action and pairs"
AT_ONCE = 4096  # rows of pair scores that are summed together: 67,000 x 3,806 in float64 would be 2 GB


@dataclass(frozen=True)
class BestClasses:
    """The best verb and noun class of each row. verb, noun: (N,) int64."""

    path: Path
    narration_ids: tuple[str, ...]
    verb: np.ndarray
    noun: np.ndarray


def best_classes(path: Path, *, num_verbs: int, num_nouns: int) -> BestClasses:
    """Read a scores file; equal scores go to the smaller class. A file that has verb and noun scores is not
    asked for pairs.

    Raises DataError for a file that is not a scores file, lacks an array, holds an id twice, a wrong shape,
    NaN or infinity (-inf, a probability of 0, may stand next to finite scores).
    """
    path = Path(path)
    arrays = _read(path)
    if (
        not {"narration_id", "verb", "noun"} <= arrays.keys()
        and not {"narration_id", "action", "pairs"} <= arrays.keys()
    ):
        raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}; a scores file holds {KEYS}")
    ids = checked_ids(path, arrays["narration_id"])
    if {"verb", "noun"} <= arrays.keys():
        verb = checked_scores(path, "verb", arrays["verb"], ids, num_verbs).argmax(1)
        noun = checked_scores(path, "noun", arrays["noun"], ids, num_nouns).argmax(1)
    else:
        pairs = _pairs(path, arrays["pairs"], num_verbs, num_nouns)
        action = checked_scores(path, "action", arrays["action"], ids, len(pairs))
        verb, noun = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
        for first in range(0, len(ids), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            verbs, nouns = marginalize(action[part], pairs, num_verbs=num_verbs, num_nouns=num_nouns)
            verb[part], noun[part] = verbs.argmax(1), nouns.argmax(1)
    return BestClasses(path, ids, verb, noun)


def marginalize(
    action_scores: np.ndarray,
    pairs: Sequence[tuple[int, int]] | np.ndarray,
    *,
    num_verbs: int = 97,
    num_nouns: int = 300,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores over verb-noun pairs (N, pairs) -> probabilities (N, num_verbs) and (N, num_nouns), each summed
    over its class's pairs.

    A class without a pair gets probability 0 (peers' code gives it pair 0's, which crowds the noun top 5).
    """
    verbs, nouns = sums_over_pairs(action_scores, pairs, (num_verbs, num_nouns))
    return verbs, nouns


def sums_over_pairs(
    scores: np.ndarray, pairs: Sequence[Sequence[int]] | np.ndarray, counts: Sequence[int]
) -> list[np.ndarray]:
    """Scores over combinations (N, pairs) -> probabilities (N, count) of each part, as `marginalize`."""
    probabilities = np.exp(log_softmax(scores))
    found = []
    for class_of, count in zip(np.asarray(pairs).T, counts, strict=True):
        # one row after the other, each in the order of its pairs: what np.add.at gives, ten times as fast
        sums = [np.bincount(class_of, row, minlength=count) for row in probabilities]
        found.append(np.array(sums).reshape(len(sums), count))
    return found


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Per row, in float64."""
    scores = np.asarray(scores, np.float64)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise ValueError("it is a single array")
            wanted = [
                key for key in ("narration_id", "verb", "noun", "action", "pairs") if key in found.files
            ]
            if {"verb", "noun"} <= set(wanted):
                wanted = [key for key in wanted if key not in ("action", "pairs")]
            return {key: found[key] for key in wanted}
    except OSError as error:
        how = error.strerror or error
        raise DataError(
            f"{path}: cannot be read ({how}); `mambavl evaluate RUN` writes RUN/scores/"
        ) from None
    except (
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        MemoryError,
    ) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: is not a scores file ({reason}); it is an npz of {KEYS}") from None


def checked_ids(path: Path, array: np.ndarray) -> tuple[str, ...]:
    """The ids of the rows. Raises DataError for anything but texts, each once."""
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(
            f"{path}: narration_id is {array.dtype} of shape {array.shape}; "
            "it is a text for each row, such as <U12"
        )
    ids: tuple[str, ...] = tuple(array.tolist())
    seen: set[str] = set()
    twice = []
    for name in ids:
        if name in seen:
            twice.append(name)
        seen.add(name)
    if twice:
        raise DataError(
            f"{path}: narration_id {twice[0]} stands there twice ({len(twice):,} such rows); keep one of each"
        )
    return ids


def checked_scores(
    path: Path, name: str, scores: np.ndarray, ids: tuple[str, ...], columns: int
) -> np.ndarray:
    """The scores, half precision as float32. Raises DataError where they are not (ids, columns) numbers."""
    if scores.dtype.kind not in "fiu" or scores.shape != (len(ids), columns):
        raise DataError(
            f"{path}: {name} is {scores.dtype} of shape {scores.shape}; "
            f"{len(ids):,} ids and {columns} columns make numbers of shape ({len(ids)}, {columns})"
        )
    usable = (scores < np.inf).all(1) & (scores > -np.inf).any(1)  # False for NaN
    if not usable.all():
        bad = int(np.argmin(usable))
        raise DataError(
            f"{path}: {name} of row {ids[bad]} holds NaN, infinity or nothing but -infinity "
            f"({int((~usable).sum()):,} such rows)"
        )
    return scores.astype(np.float32) if scores.dtype == np.float16 else scores


def _pairs(path: Path, pairs: np.ndarray, num_verbs: int, num_nouns: int) -> np.ndarray:
    if pairs.dtype.kind not in "iu" or pairs.ndim != 2 or pairs.shape[1:] != (2,) or not len(pairs):
        raise DataError(
            f"{path}: pairs is {pairs.dtype} of shape {pairs.shape}; "
            "it is a verb and a noun class for each column"
        )
    if (pairs < 0).any() or (pairs >= (num_verbs, num_nouns)).any():
        bad = pairs[((pairs < 0) | (pairs >= (num_verbs, num_nouns))).any(1)][0].tolist()
        raise DataError(f"{path}: pairs names {bad}; there are {num_verbs} verb and {num_nouns} noun classes")
    if len(np.unique(pairs, axis=0)) < len(pairs):
        raise DataError(f"{path}: pairs names a verb-noun pair twice")
    return pairs
