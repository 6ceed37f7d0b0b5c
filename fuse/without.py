"""`mambavl evaluate --without`: what a stream is worth to a finished run. Its split is scored again with the
stream masked in every row, and the scores are set beside those of the run.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mambavl.configs.errors import DataError, UsageError, did_you_mean
from mambavl.fuse.data import FeatureData
from mambavl.fuse.evaluate import measure, open_run, score
from mambavl.fuse.missing import usable_rows
from mambavl.fuse.result import Metrics
from mambavl.fuse.run import as_kept, read_prior, read_scores, scores_file, write_scores
from mambavl.fuse.targets import RunTargets


@dataclass(frozen=True, kw_only=True)
class Without:
    """The scores of a run without some of its streams, and with all of them, on the same rows."""

    title: str
    split: str
    streams: tuple[str, ...]  # those left out
    targets: tuple[str, ...]
    notice: str | None  # what must be said whenever the scores are shown
    rows: int
    changed: int  # rows that had at least one of them, and were not scored by the prior before
    left_with_nothing: int  # rows among these that had no other stream: they got the training prior
    with_all: Metrics
    without: Metrics
    scores: Path  # the file that was written

    def difference(self, key: str) -> float | None:
        """What the streams are worth by a measure, in its unit; None where it was not measured."""
        one, other = self.with_all.get(key), self.without.get(key)
        return None if one is None or other is None else one - other


def evaluate_without(
    run: Path,
    names: Sequence[str],
    *,
    split: str | None = None,
    streams: dict[str, Path] | None = None,
) -> Without:
    """Score a finished run as if no row had the streams `names`; writes scores/SPLIT-without-NAMES.npz and
    leaves result.json alone.

    split, streams: as `evaluate_run` takes them, which raises the same errors. Raises UsageError also for a
    stream in `names` that the run does not have, and where none would be left; DataError also where the run's
    own scores of the split are missing or of other rows.
    """
    with open_run(run, split=split, streams=streams) as opened:
        recipe, targets, data = opened.recipe, opened.targets, opened.data
        rows, split = data.evaluation, recipe.data.scored
        left_out = _checked(run, names, data)
        with_all = _measured_before(run, split, data, targets)
        masked = mask_streams(data, left_out)
        precision, batch_size = opened.trained.precision, recipe.train.batch_size
        found = score(opened.head, masked, targets, rows, read_prior(run), precision, batch_size, run=run)
        scores = as_kept(found, recipe.train.score_dtype)
        name = "-".join([split, "without", *left_out])
        write_scores(run, name, data, targets, rows, scores)
        return Without(
            title=recipe.title or Path(run).name,
            split=split,
            streams=left_out,
            targets=targets.classes.names,
            notice=data.notice,
            rows=len(rows),
            changed=int((data.usable & usable_rows({n: data.has[n] for n in left_out}))[rows].sum()),
            left_with_nothing=int((data.usable & ~masked.usable)[rows].sum()),
            with_all=with_all,
            without=measure(data, targets, rows, scores),
            scores=scores_file(run, name),
        )


def mask_streams(data: FeatureData, names: Collection[str]) -> FeatureData:
    """The same data as if no row had the streams `names`; a row that has no other is not usable."""
    masked = copy.copy(data)
    masked.has = {name: of_all & (name not in names) for name, of_all in data.has.items()}
    masked.usable = data.usable & usable_rows(masked.has)
    return masked


def _checked(run: Path, names: Sequence[str], data: FeatureData) -> tuple[str, ...]:
    """The streams that are named, in the run's order."""
    for name in names:
        if name not in data.sources:
            hint = did_you_mean(name, list(data.sources))
            raise UsageError(f"{run}: has no stream {name!r} to be left out{hint}")
    left_out = tuple(name for name in data.sources if name in names)
    if len(left_out) == len(data.sources):
        raise UsageError(
            f"{run}: --without names all of its streams ({', '.join(left_out)}); leave one of them in, or "
            "there is nothing to score"
        )
    return left_out


def _measured_before(run: Path, split: str, data: FeatureData, targets: RunTargets) -> Metrics:
    """The measures of the scores that the run has of these rows."""
    before = read_scores(run, split)
    ids = [data.segments[row].narration_id for row in data.evaluation]
    if before["narration_id"].tolist() != ids:
        raise DataError(
            f"{scores_file(run, split)}: has other rows than the stores; `mambavl evaluate {run} --split "
            f"{split}` scores those again"
        )
    return measure(data, targets, data.evaluation, {name: before[name] for name in targets.scored})
