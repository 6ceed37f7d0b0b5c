"""The two sides of a comparison: runs of one recipe and several seeds, or files of scores; and what may not
be compared.

    A, B -> Side, Side     what each is made of, paired
    ALLOWED                what the two may differ in where they are told to
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mambavl.cache import canonical
from mambavl.configs.errors import DataError, UsageError, counted, differs, some
from mambavl.fuse.counts import COUNTS
from mambavl.fuse.decided import decided
from mambavl.fuse.result import Result
from mambavl.fuse.run import FUSION, RECIPE, RESULT, read_result, scores_file
from mambavl.fuse.selection import SEED

MOST = 20  # pairs: all 2^20 ways to turn their signs are looked at
Allowed = Literal["rows", "protocols", "stores", "seeds"]
ANTICIPATION, RECOGNITION = "anticipation", "recognition"


@dataclass(frozen=True)
class Member:
    """One run, or one file of scores."""

    path: Path
    result: Result | None  # None: a file, of which nobody knows what made it

    @property
    def scores(self) -> Path:
        return scores_file(self.path, self.result.split) if self.result else self.path

    @property
    def store_ids(self) -> set[str]:
        streams = self.result.streams.values() if self.result else ()
        return {one for stream in streams for one in stream.store_ids}


@dataclass(frozen=True)
class Side:
    """What is compared with another side: its members differ in their seed alone."""

    asked: str  # as on the command line
    members: tuple[Member, ...]

    @property
    def first(self) -> Member:
        return self.members[0]

    @property
    def results(self) -> list[Result]:
        return [one.result for one in self.members if one.result]

    @property
    def seeds(self) -> list[int]:
        return [result.seed for result in self.results]

    @property
    def has_seeds(self) -> bool:
        """Whether another training would end elsewhere; counts come out alike every time."""
        return not self.results or self.results[0].head != COUNTS

    @property
    def task(self) -> str | None:
        """What the features were extracted for; None where that is not recorded."""
        return self.results[0].task if self.results else None


# --- finding


def find_side(asked: str, *, all_seeds: bool = False) -> Side:
    """A run, a file of scores, a folder of runs, or a pattern such as `runs/*,fusion.share=A` that fits
    several. all_seeds: a run stands for all of its folder that differ from it in the seed alone.

    Raises UsageError where there is nothing, and for members that differ in more than their seed; DataError
    for a run that has not finished.
    """
    members = [_member(path) for path in _paths(asked)]
    if all_seeds:
        [only] = members if len(members) == 1 else [None]
        if only is None or only.result is None:
            raise UsageError(f"--seeds finds the other seeds of a run; {asked} is {_in_words(members)}")
        members = seeds_of(only)
    _refuse_mixed(asked, members)
    return Side(asked, tuple(sorted(members, key=lambda one: one.result.seed if one.result else 0)))


def _paths(asked: str) -> list[Path]:
    path = Path(asked)
    if path.is_file() or _is_run(path):
        return [path]
    if path.is_dir():
        runs = [one for one in sorted(path.iterdir()) if _is_run(one)]
        return runs or [path]  # reading it says what it lacks
    folder = Path(path.anchor)
    fits = folder.glob(str(path.relative_to(folder))) if any(one in asked for one in "*?[") else ()
    found = sorted(one for one in fits if _is_run(one) or one.suffix == ".npz")
    if not found:
        raise UsageError(
            f"{asked}: is no run, no folder of runs, no file of scores, and no pattern that fits any"
        )
    return found


def _is_run(path: Path) -> bool:
    """Finished or not."""
    return any((path / name).is_file() for name in (RECIPE, FUSION, RESULT))


def _member(path: Path) -> Member:
    return Member(path, None if path.is_file() else read_result(path))


def seeds_of(member: Member) -> list[Member]:
    """The finished runs beside one that differ from it in the seed alone, itself among them."""
    key = key_of(member)
    beside = sorted(path.parent for path in member.path.absolute().parent.glob(f"*/{RESULT}"))
    found = [_member(member.path.parent / path.name) for path in beside]
    return [one for one in found if key_of(one) == key]


def key_of(member: Member) -> str:
    """Equal for runs that differ in their seed alone and are scored on the same rows."""
    assert member.result is not None
    fed = {name: [list(one.store_ids), one.level] for name, one in member.result.streams.items()}
    return json.dumps([decided(member.result, SEED), fed, member.result.split], sort_keys=True)


def _in_words(members: Sequence[Member]) -> str:
    return "a file" if len(members) == 1 else f"{len(members)} of them"


def _refuse_mixed(asked: str, members: Sequence[Member]) -> None:
    runs = [one for one in members if one.result]
    if len(members) > MOST:
        raise UsageError(f"{asked}: is {len(members)} runs; {MOST} seeds are the most that are compared")
    if runs and len(runs) < len(members):
        raise UsageError(f"{asked}: holds runs and files of scores; compare the one or the other")
    for one in runs[1:]:
        if key_of(one) == key_of(runs[0]):
            continue
        assert one.result is not None
        assert runs[0].result is not None
        if one.result.split != runs[0].result.split:
            what = f"they are scored on {runs[0].result.split} and on {one.result.split}"
        else:
            faults = canonical.differences(decided(runs[0].result, SEED), decided(one.result, SEED))
            what = (
                differs(faults, f"{runs[0].path.name} -> {one.path.name}")
                if faults
                else "they read other stores"
            )
        raise UsageError(
            f"{asked}: {runs[0].path} and {one.path} differ in more than their seed, so they are no pairs of "
            f"one side; {what}"
        )
    seeds = [one.result.seed for one in runs if one.result]
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise UsageError(f"{asked}: has seed {twice} twice; the same run again is no other seed")


# --- what is not compared


def refuse_unlike(a: Side, b: Side, allowed: Collection[Allowed]) -> list[str]:
    """What the two differ in although they should not, and were allowed to. Raises DataError for what was
    not, which names the option that allows it; UsageError for sides that do not pair.
    """
    if bool(a.results) != bool(b.results):
        raise UsageError(
            "one side is of runs and one of files; name RUN/scores/SPLIT.npz of the runs instead"
        )
    said: list[str] = []
    if a.results:
        one, other = a.results[0], b.results[0]
        if one.split != other.split:
            raise DataError(f"A is scored on {one.split} and B on {other.split}: they have no rows in common")
        protocols = [f"A {mine}, B {theirs}" for mine, theirs in _told(a, b) if mine != theirs]
        said += _judged("protocols", "were told otherwise", protocols, allowed)
        mine, theirs = a.first.store_ids, b.first.store_ids
        stores = [f"{len(mine - theirs)} of A's stores are not B's, {len(theirs - mine)} of B's not A's"]
        said += _judged("stores", "read other stores", stores if mine != theirs else [], allowed)
    if len(a.members) != len(b.members) and 1 not in (len(a.members), len(b.members)):
        raise UsageError(
            f"A has {counted(len(a.members), 'member')} and B {len(b.members)}, which do not pair; name as "
            "many of the same seeds, or one on one side"
        )
    if a.results and len(a.members) == len(b.members) and a.has_seeds and b.has_seeds and a.seeds != b.seeds:
        seeds = [f"A {_listed(a.seeds)}, B {_listed(b.seeds)}; they are paired in this order"]
        said += _judged("seeds", "have other seeds", seeds, allowed)
    return said


def _told(a: Side, b: Side) -> list[tuple[str, str]]:
    one, other = a.results[0], b.results[0]
    return [
        (f"text {one.text_protocol}", f"text {other.text_protocol}"),
        (f"history {one.history_protocol}", f"history {other.history_protocol}"),
        (f"task {a.task or 'unknown'}", f"task {b.task or 'unknown'}"),
    ]


def _judged(what: Allowed, how: str, faults: list[str], allowed: Collection[Allowed]) -> list[str]:
    if faults and what not in allowed:
        raise DataError(f"A and B {how}: {'; '.join(faults)}. Where that is meant, say --allow {what}")
    return [f"A and B {how}, as allowed: {one}" for one in faults]


def _listed(seeds: Sequence[int]) -> str:
    return some([str(seed) for seed in seeds], 8)
