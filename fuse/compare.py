"""Is A better than B, on the same rows? Each a run, a recipe's runs of several seeds, or files of scores.

    Side, Side -> Comparison     each measure of both, the difference, and a verdict (`verdict` has the rules)

Rows are paired, and so are seeds. What may differ between the two, and what may not, is in `sides`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from mambavl.configs.errors import DataError, UsageError, did_you_mean
from mambavl.fuse.aligned import Aligned, Listed, align, see
from mambavl.fuse.looked import Looked, Nested, looked_at, nested, rivals, stands_out_among
from mambavl.fuse.metrics import ranked_target
from mambavl.fuse.paired import ClassMeans, Interval
from mambavl.fuse.sides import ANTICIPATION, RECOGNITION, Allowed, Member, Side, refuse_unlike
from mambavl.fuse.verdict import Evidence, McNemar, Verdict, judge_in_order, mcnemar, weigh

Measure = Literal["top1", "top5", "recall5"]
MEASURES: dict[Measure, str] = {"top1": "top-1", "top5": "top-5", "recall5": "class-mean recall@5"}
OFFICIAL: dict[str | None, tuple[Measure, ...]] = {  # of EK100's challenges, by task
    RECOGNITION: ("top1", "top5"),
    ANTICIPATION: ("recall5",),
    None: ("top1", "top5", "recall5"),  # not recorded
}
DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure of one target over one group of rows, in percent."""

    name: str  # such as `unseen action top-1`
    group: str
    target: str
    measure: Measure
    rows: int
    videos: int
    a: float  # means over seeds
    b: float
    interval: Interval | None  # of A less B, 95 %; None: of too few videos
    by_seed: tuple[float, ...]  # A less B, of each pair
    mcnemar: McNemar | None  # of single runs; recall has none
    evidence: Evidence  # what the verdict is taken from


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out, and of what."""

    a: Side
    b: Side
    split: str
    rows: int
    left_out: int  # rows that not all have
    not_compared: tuple[str, ...]  # targets
    told: tuple[str, ...]  # what the two differ in, as allowed
    table: tuple[Row, ...]  # in the order in which it is judged
    verdicts: tuple[Verdict, ...]  # of each
    looked: tuple[Looked, ...]
    among: int  # candidates that the verdicts take into account
    planned: bool
    nested: dict[str, Nested]  # name of a sweep -> of the first row of the table, where it has candidates
    sha256: dict[str, str]  # file of scores -> of its bytes

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        for name, side in (("a", self.a), ("b", self.b)):
            found[name] = {
                "asked": side.asked,
                "scores": [str(one.scores) for one in side.members],
                "seeds": side.seeds,
            }
        for row, mine, verdict in zip(found["table"], self.table, found.pop("verdicts"), strict=True):
            row["interval"] = mine.interval and mine.interval._asdict()
            row["evidence"]["interval"] = mine.evidence.interval and mine.evidence.interval._asdict()
            row["verdict"] = verdict
        for one in found["looked"]:
            one["sweep"] = str(one["sweep"])
        return found


def compare(
    a: Side,
    b: Side,
    *,
    listed: Listed | None = None,
    split: str | None = None,
    measures: Sequence[Measure] = (),
    targets: Sequence[str] = (),
    allowed: Collection[Allowed] = (),
    planned: bool = False,
) -> Comparison:
    """listed: annotations, which files of scores need, of a split. measures, targets: in the order in which
    they are judged; by default those of the task, and the target that runs are ranked by before the others.
    planned: that these two would be compared was settled before any score was seen.

    Raises UsageError for sides that do not pair and for unknown targets; DataError as `align` does, and for
    runs that are not to be compared.
    """
    told = refuse_unlike(a, b, allowed)
    if listed is None and not a.results:
        raise UsageError(
            "a file of scores does not say of which video a row is; name the lists with --annotations"
        )
    seen_a, seen_b = ([see(one, listed) for one in side.members] for side in (a, b))
    aligned = align(seen_a, seen_b, listed, allowed)
    looked = looked_at([a, b])
    among = 1 if planned else stands_out_among([a, b], looked)
    order = _order(a, aligned, targets)
    single = single_training(a, b)
    table = []
    for group in aligned.group_names:
        for measure in measures or OFFICIAL[a.task]:
            rows = (_row(aligned, group, target, measure, among, single) for target in order)
            table += [row for row in rows if row]
    return Comparison(
        a=a,
        b=b,
        split=a.results[0].split if a.results else split or "validation",
        rows=len(aligned.segments),
        left_out=aligned.left_out,
        not_compared=aligned.not_compared,
        told=tuple(told),
        table=tuple(table),
        verdicts=tuple(judge_in_order([row.evidence for row in table])),
        looked=tuple(looked),
        among=among,
        planned=planned,
        nested=dict(_all_nested([a, b], aligned, listed, looked, table[0])),
        sha256={str(one.member.scores): one.sha256 for one in [*seen_a, *seen_b]},
    )


def _order(a: Side, aligned: Aligned, asked: Sequence[str]) -> list[str]:
    """The targets in the order in which they are judged."""
    known = list(aligned.targets)
    for name in asked:
        if name not in known:
            raise UsageError(f"--target {name}: is no target that both sides have{did_you_mean(name, known)}")
    if asked:
        return list(dict.fromkeys(asked))
    rank_by = a.results[0].recipe.get("rank_by") if a.results else None
    first = ranked_target(rank_by) if rank_by else known[-1]
    return sorted(known, key=lambda name: name != first)


def single_training(a: Side, b: Side) -> str:
    """The side, if any, that was trained once and stands beside several seeds; what counts is not trained."""
    for name, one, other in (("A", a, b), ("B", b, a)):
        if len(one.members) == 1 < len(other.members) and one.has_seeds:
            return name
    return ""


def _row(aligned: Aligned, group: str, target: str, measure: Measure, among: int, single: str) -> Row | None:
    """None where the group does not concern the target, or has no rows of it."""
    own = aligned.targets[target]
    mask = own.first.in_group(group, aligned.groups)
    if mask is None or not mask.any():
        return None
    a, b = (hits[:, mask] for hits in own.hits(measure))
    label = own.first.label[mask] if measure == "recall5" else np.zeros(int(mask.sum()), np.int64)
    video = [aligned.segments[row].video_id for row in own.first.rows[mask]]
    means = ClassMeans(label, video, DRAWS)
    evidence = weigh(means, a, b, among=among, single=single)
    return Row(
        name=f"{'' if group == 'all' else f'{group} '}{target} {MEASURES[measure]}",
        group=group,
        target=target,
        measure=measure,
        rows=len(video),
        videos=len(set(video)),
        a=float(np.mean([means.of(one) for one in a])),
        b=float(np.mean([means.of(one) for one in b])),
        interval=means.corrected(a, b) if evidence.interval else None,
        by_seed=tuple(means.by_seed(a, b)),
        mcnemar=mcnemar(a[0], b[0]) if len(a) == len(b) == 1 and measure != "recall5" else None,
        evidence=evidence,
    )


def _all_nested(
    sides: Sequence[Side], aligned: Aligned, listed: Listed | None, looked: Sequence[Looked], row: Row
) -> Iterator[tuple[str, Nested]]:
    """Of each sweep, by the first row of the table."""
    own = aligned.targets[row.target].first
    label = own.label if row.measure == "recall5" else np.zeros_like(own.label)
    people = [aligned.segments[number].participant_id for number in own.rows]
    for sweep in looked:
        side = next(side for side in sides if sweep.holds(side))
        members = rivals(side, sweep)
        if len(members) > 1 and len(set(people)) > 1:
            hits = {one[0].path.name: _hits(one, aligned, listed, row) for one in members}
            yield sweep.sweep.name, nested(hits, label, people)


def _hits(members: Sequence[Member], aligned: Aligned, listed: Listed | None, row: Row) -> np.ndarray:
    """(n,) of the rows that a row of the table is of, the mean over some runs."""
    ids = [segment.narration_id for segment in aligned.segments]
    own = []
    for member in members:
        seen = see(member, listed)
        if set(ids) - set(seen.ids):
            raise DataError(f"{member.path}: lacks rows that others of its sweep have; evaluate it again")
        ranked = seen.of(row.target, ids)
        own.append(ranked.best1 if row.measure == "top1" else ranked.best5)
    return np.mean(own, axis=0)
