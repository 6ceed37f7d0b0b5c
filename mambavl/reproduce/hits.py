"""Which labels are among the best five, by row and seed: what class means are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mambavl.cache.rows import Segment
from mambavl.fuse import fused
from mambavl.fuse.fused_runs import read_member
from mambavl.fuse.fusing import label_columns
from mambavl.fuse.metrics import Ranked, ranked
from mambavl.fuse.run import read_classes, read_result, scores_file
from mambavl.fuse.scored import ScoresFile, read_scores_file

TARGETS = ("verb", "noun", "action")

Scored = tuple[ScoresFile, Mapping[str, np.ndarray]]  # rows and labels, and scores by target


@dataclass(frozen=True)
class Hits:
    """How the labels of one target are ranked by some runs, N rows that have one."""

    label: np.ndarray  # (N,)
    video: list[str]
    best1: np.ndarray  # (runs, N) 0 to 1: whether the label is the best
    best5: np.ndarray  # (runs, N) likewise, whether it is among the best five
    seconds: float  # of training, of all runs
    parameters: int  # of the first, without classifiers


def hits(
    runs: Sequence[Path], scores_of: Callable[[Path], Scored], on_run: Callable[[], None] = lambda: None
) -> dict[str, Hits]:
    """By target, of runs that scored the same rows; rows without a target's label are left out.

    scores_of: `kept`, or `less_prior`. on_run is called after each run.
    """
    found: dict[str, list[Ranked]] = {name: [] for name in TARGETS}
    for run in runs:  # one after the other: the scores of one are 200 MB
        file, scores = scores_of(run)
        for name in TARGETS:
            found[name].append(ranked(name, file.classes, scores, file.labels))
        on_run()
    results = [read_result(run) for run in runs]
    seconds = sum(result.trained.train_seconds or 0.0 for result in results)
    size = results[0].params.without_classifiers
    of_target = {}
    for name, ranks in found.items():
        video = [file.ids[row].rpartition("_")[0] for row in ranks[0].rows]
        best1, best5 = (np.stack([getattr(one, best) for one in ranks]) for best in ("best1", "best5"))
        of_target[name] = Hits(ranks[0].label, video, best1, best5, seconds, size)
    return of_target


def kept(run: Path) -> Scored:
    """The scores as the run gave them."""
    file = read_scores_file(scores_file(run, read_result(run).split), read_classes(run))
    return file, file.scores


def less_prior(run: Path, rows_of: dict[str, tuple[Segment, ...]]) -> Scored:
    """log p - e log prior, which favours rare classes as class-mean recall does, whatever a head was trained
    for. Of each target e is chosen on one half of the participants for the rows of the other half, so no row
    has a part in what it is measured with. rows_of: as of `read_member`.
    """
    member = read_member(run, rows_of)
    owners = [member.segments[row].participant_id for row in member.file.ids]
    half = np.array([sorted(set(owners)).index(owner) % 2 for owner in owners])
    found = {}
    for name in member.file.scores:
        log_p, prior = member.log_p(name), member.prior[name]
        columns, classes = label_columns(member.file, name)
        found[name] = np.empty_like(log_p)
        for part in (0, 1):
            other = (half != part) & (classes >= 0)
            choice = fused.choose([log_p[other]], [prior], columns[other], classes[other])
            mine = half == part
            found[name][mine] = fused.loglinear([log_p[mine]], [prior], [1.0], choice.exponent)
    return member.file, found
