"""A run's scores -> EK100's challenge file. What it holds, and the check of one: `submission`."""

import io
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache import fsops
from mambavl.configs.errors import DataError, UsageError, counted, some
from mambavl.fuse.result import Result, task_of
from mambavl.fuse.run import read_classes, read_result, scores_file
from mambavl.fuse.scored import ScoresFile, read_scores_file
from mambavl.fuse.submission import ACTIONS, CHALLENGES, COUNTS, LEVELS, MEMBER, VERSION

ROWS = {"validation": 9_668, "test": 13_092}  # of EK100's lists
TAU_A = 1.0  # seconds before the action at which an anticipation may stop looking, by the challenge's rules
SUMS_TO_1 = 0.02  # by how much the probabilities of a row may miss 1: in float16 they do by a little
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time that the zip gives its member, whenever it is written


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What was written."""

    path: Path
    task: str
    split: str
    ids: tuple[str, ...]
    actions: bool  # whether the run ranks pairs itself, and so the file
    result: Result  # that the scores belong to


def write_submission(
    run: Path,
    target: Path,
    *,
    levels: dict[str, int],
    split: str = "test",
    task: str | None = None,
    listed: Sequence[str] | None = None,
) -> Submitted:
    """Write the scores that `evaluate` gave a run's rows of a split. levels: those of `submission.LEVELS`.
    task: where the run's streams do not say it. listed: the ids of the split; without them their number must
    be that of EK100's list.

    Scores are log-probabilities, for the official recognition program normalises over all rows at once. A
    class of probability 0, whose logarithm JSON cannot hold, stands 1 below the lowest other score. A run
    that ranks pairs itself gives its best 100; for others the official programs make the products.
    Raises UsageError for a run whose inputs the challenge does not allow, and DataError, naming rows, where
    its scores are not those of the list, or no log-probabilities of EK100's classes.
    """
    run = Path(run)
    result = read_result(run)
    found_task = task_of(result, task, run)
    if split == "test":
        refuse_forbidden(result, found_task, run)
    path = scores_file(run, split)
    if not path.is_file():
        raise DataError(
            f"{run}: has no scores of {split}; `mambavl evaluate {run} --split {split} --store STREAM=PATH` "
            f"makes them from stores that hold its rows"
        )
    file = read_scores_file(path, read_classes(run))
    _refuse_other_classes(file)
    rows = _in_order(file, split, listed)
    verbs, nouns = (_finite(file, name)[rows] for name in COUNTS)
    texts = {"verb": _objects(verbs), "noun": _objects(nouns)}
    if "action" in file.scores:
        texts["action"] = _best_pairs(file, rows)
    ids = [file.ids[row] for row in rows]
    fsops.write_file(Path(target), _packed(_json(CHALLENGES[found_task], levels, ids, texts)))
    return Submitted(
        path=Path(target),
        task=found_task,
        split=split,
        ids=tuple(ids),
        actions="action" in texts,
        result=result,
    )


def refuse_forbidden(result: Result, task: str, run: Path) -> None:
    """Raises UsageError where a run was told what nobody knows of the test list, or sees too much of it."""
    if result.text_protocol == "oracle":
        raise UsageError(
            f"{run}: its text protocol is oracle: its questions are written from the labels of the very rows "
            "they are asked about. The test list has no labels, so no such questions can be made for it, and "
            "no supervision level covers them. Train with generic, predicted or no text, and submit that run"
        )
    if result.history_protocol == "oracle":
        raise UsageError(
            f"{run}: its history protocol is oracle: the past is told by its true labels, and the test list "
            "has none. Train on a history that a recogniser told (`mambavl extract history --protocol "
            "predicted`), and submit that run"
        )
    if task != "anticipation":
        return
    for name, stream in result.streams.items():
        sampling, history = stream.recipe.sampling or {}, stream.recipe.history
        if sampling.get("rule") == "inavit":
            raise UsageError(
                f"{run}: stream {name} was extracted under sampling.rule inavit, which shows the very action "
                "that is to be foreseen; extract it under another rule"
            )
        tau = history.tau_a if history else sampling.get("tau_a", TAU_A)
        if isinstance(tau, int | float) and tau < TAU_A:
            raise UsageError(
                f"{run}: stream {name} looks until {tau:g} s before the action; the challenge allows "
                f"{TAU_A:g} s. Extract it with that tau_a"
            )


def _refuse_other_classes(file: ScoresFile) -> None:
    for name, count in COUNTS.items():
        target = file.classes.targets.get(name)
        if name not in file.scores or target is None:
            raise DataError(f"{file.path}: has no scores of {name}; the challenge wants {count} for each row")
        if target.kind != "single" or target.count != count:
            raise DataError(
                f"{file.path}: has {target.count} classes of {name}; EK100 has {count}, and the challenge is "
                "of EK100 alone"
            )


def _in_order(file: ScoresFile, split: str, listed: Sequence[str] | None) -> np.ndarray:
    """The rows of the file in the order of the list."""
    if listed is None:
        if len(file.ids) != ROWS[split]:
            raise DataError(
                f"{file.path}: has {counted(len(file.ids), 'row')}, and EK100's {split} list has "
                f"{ROWS[split]:,}; name the list with --annotations, to see which they are"
            )
        return np.arange(len(file.ids))
    place = {name: number for number, name in enumerate(file.ids)}
    _refuse_rows(file, split, "without a score", [name for name in listed if name not in place])
    known: Collection[str] = frozenset(listed)
    _refuse_rows(file, split, "that the list does not have", [one for one in file.ids if one not in known])
    return np.array([place[name] for name in listed], np.int64)


def _refuse_rows(file: ScoresFile, split: str, what: str, rows: list[str]) -> None:
    if rows:
        raise DataError(
            f"{file.path}: {counted(len(rows), 'row')} {what}: {some(rows)}. The challenge takes all rows of "
            f"{split} and no others; extract those of the list, and `mambavl evaluate` the run again"
        )


def _finite(file: ScoresFile, name: str) -> np.ndarray:
    """Log-probabilities (N, columns), those of probability 0 below all others."""
    scores = file.scores[name]
    with np.errstate(under="ignore"):
        sums = np.exp(scores.astype(np.float64)).sum(1)
    if len(sums) and not (np.abs(sums - 1) < SUMS_TO_1).all():
        row = int(np.argmax(np.abs(sums - 1)))
        raise DataError(
            f"{file.path}: the probabilities of {name} of row {file.ids[row]} sum to {sums[row]:.3g}; a "
            "run's scores are log-probabilities, and `mambavl evaluate` writes them so"
        )
    zero = np.isneginf(scores)
    return np.where(zero, scores[~zero].min() - 1, scores) if zero.any() else scores


def _best_pairs(file: ScoresFile, rows: np.ndarray) -> list[str]:
    """Each row's object of its best pairs; of equal ones the first columns."""
    pairs = file.classes.derived["action"].pairs or ()
    if len(pairs) < ACTIONS:
        raise DataError(
            f"{file.path}: ranks {counted(len(pairs), 'pair')}; the challenge wants {ACTIONS} a row"
        )
    scores = _finite(file, "action")[rows]
    keys = np.array([f"{verb},{noun}" for verb, noun in pairs])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :ACTIONS]
    chosen = np.take_along_axis(scores, best, 1)
    return [_object(keys[one].tolist(), row) for one, row in zip(best, _printed(chosen), strict=True)]


def _objects(scores: np.ndarray) -> list[str]:
    keys = [str(number) for number in range(scores.shape[1])]
    return [_object(keys, row) for row in _printed(scores)]


def _object(keys: list[str], numbers: list[str]) -> str:
    return "{" + ",".join(f'"{key}":{number}' for key, number in zip(keys, numbers, strict=True)) + "}"


def _printed(scores: np.ndarray) -> list[list[str]]:
    """Each number in the fewest digits that lead back to it in its own precision."""
    printed: list[list[str]] = scores.astype("U32").tolist()
    return printed


def _json(challenge: str, levels: dict[str, int], ids: list[str], texts: dict[str, list[str]]) -> bytes:
    head = f'"version":"{VERSION}","challenge":"{challenge}"'
    told = "".join(f',"{key}":{levels[key]}' for key in LEVELS)
    rows = []
    for number, name in enumerate(ids):
        parts = ",".join(f'"{part}":{objects[number]}' for part, objects in texts.items())
        rows.append(f'"{name}":{{{parts}}}')
    results = ",\n".join(rows)
    return f'{{{head}{told},"results":{{\n{results}\n}}}}\n'.encode()


def _packed(text: bytes) -> bytes:
    """A zip of it, the same bytes whenever it is made."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        member = zipfile.ZipInfo(MEMBER, EPOCH)
        member.external_attr = 0o644 << 16
        file.writestr(member, text, zipfile.ZIP_DEFLATED, 6)
    return packed.getvalue()
