"""Opening row groups of a store again: those of rows that failed, and of videos that came or changed since.

What stays done is recorded anew before anything is taken away:

    1  a journal with the records of the row groups that stay, of the spec that the store is to have
    2  seal and manifest go: the store is unfinished
    3  that spec is put in place, if it is another; records of the old one count for nothing from now on
    4  the old journals go

A kill in between leaves a store in which the same command begins again with 1, or goes on.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mambavl.cache import canonical, fsops, journal
from mambavl.cache.layout import Layout
from mambavl.cache.repair import known_records, nobody_writing
from mambavl.cache.rows import NOT_RETRIED, Segment
from mambavl.cache.spec import COMMIT, LOCK, MANIFEST, SEAL, SPEC, Spec, read_spec
from mambavl.configs.errors import DataError, UsageError, differs


def reopen_failed(path: Path) -> list[int]:
    """Open the row groups again that hold rows which failed when they were tried; returns them.

    Raises DataError while somebody writes the store.
    """
    with nobody_writing(path):
        layout = Layout.from_spec(read_spec(path))
        records = known_records(path, layout)
        groups = failed_groups(records)
        if groups:
            _reopen(path, layout, records, groups)
    return sorted(groups)


def failed_groups(records: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """The row groups that hold rows which failed when they were tried."""
    return {group for group, record in records.items() if _tried_and_failed(record)}


def adopt_videos(path: Path, spec: Spec, segments: tuple[Segment, ...]) -> None:
    """Make a store one of `spec`, which may name other video files than the store's own; the row groups that
    hold rows of those are opened again.

    A video may be there that was missing, and be another file where none of its rows is done or some failed.
    Raises UsageError, naming the fields, for a spec that differs in anything else; DataError while somebody
    writes the store.
    """
    if not _is_adoptable(path, read_spec(path), spec, segments):
        _refuse(path, read_spec(path), spec)
    held = fsops.lock(path / LOCK, exclusive=True, wait=False)
    if held is None:  # whoever has it may be doing the same: it is then free in a moment
        fsops.unlock(fsops.lock(path / LOCK, exclusive=False, wait=True))
    else:
        try:
            existing = read_spec(path)
            layout = Layout.from_spec(existing)
            changed = _changed(existing, spec)
            rows = [row for row, segment in enumerate(segments) if segment.video_id in changed]
            groups = {row // layout.rows_per_group for row in rows}
            _reopen(path, Layout.from_spec(spec), known_records(path, layout), groups, spec)
        finally:
            fsops.unlock(held)
    if read_spec(path) != spec:
        raise DataError(
            f"{path}: videos have come or changed since it was begun, and another process is writing it; "
            "let it end, then run the same command again"
        )


def _is_adoptable(path: Path, existing: Spec, wanted: Spec, segments: tuple[Segment, ...]) -> bool:
    videos = wanted.inputs.videos
    if replace(existing, inputs=replace(existing.inputs, videos=videos)) != wanted:
        return False
    if videos is None or existing.inputs.videos is None or videos.keys() != existing.inputs.videos.keys():
        return False
    changed = _changed(existing, wanted)
    if any(videos[video] is None for video in changed):
        return False
    exchanged = {video for video in changed if existing.inputs.videos[video] is not None}
    return not exchanged or exchanged.isdisjoint(_sound_videos(path, existing, segments))


def _sound_videos(path: Path, spec: Spec, segments: tuple[Segment, ...]) -> set[str]:
    """Videos that have rows that are done, and none that failed."""
    layout = Layout.from_spec(spec)
    video_of = {segment.narration_id: segment.video_id for segment in segments}
    done: set[str] = set()
    failed: set[str] = set()
    for group, record in known_records(path, layout).items():
        done.update(segments[row].video_id for row in layout.rows_of(group))
        failed.update(video_of[failure[0]] for failure in _tried_and_failed(record))
    return done - failed


def _changed(existing: Spec, wanted: Spec) -> set[str]:
    before, after = existing.inputs.videos or {}, wanted.inputs.videos or {}
    return {video for video in after if after[video] != before.get(video)}


def _refuse(path: Path, existing: Spec, wanted: Spec) -> None:
    found = canonical.differences(existing.to_dict(), wanted.to_dict())
    raise UsageError(
        f"{path}: was made by another recipe; stores never mix. "
        f"{differs(found, 'there -> asked for')}\n"
        "Use the same settings to resume, or another --out."
    )


def _tried_and_failed(record: Mapping[str, Any]) -> list[list[Any]]:
    return [failure for failure in record["failures"] if failure[1] not in NOT_RETRIED]


def _reopen(
    path: Path,
    layout: Layout,
    records: Mapping[int, Mapping[str, Any]],
    groups: Iterable[int],
    spec: Spec | None = None,
) -> None:
    """layout: of the spec that the store is to have."""
    old = sorted((path / COMMIT).glob("*.journal"))
    target = path / COMMIT / f"reopened-{uuid.uuid4().hex[:8]}.journal"
    for group in sorted(records.keys() - set(groups)):
        journal.append(target, {**records[group], "spec": layout.spec_sha256})
    for name in (SEAL, MANIFEST):
        fsops.remove(path / name)
    if spec:
        fsops.write_file(path / SPEC, canonical.pretty_json(spec.to_dict()))
    for file in old:
        fsops.remove(file)
