"""What a video extraction would do, counted from the lists, the folders and the stores. Nothing is written;
how long it would take is for `trial`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mambavl.cache import canonical, fsops
from mambavl.cache.canonical import sha256
from mambavl.cache.layout import Layout
from mambavl.cache.reopen import failed_groups
from mambavl.cache.repair import known_records
from mambavl.cache.rows import Segment, write_segments
from mambavl.cache.spec import SPEC, Inputs, Spec, read_spec
from mambavl.configs.errors import UsageError, differs
from mambavl.extract.annotations import Annotations
from mambavl.extract.clips import Shown, unit_rows
from mambavl.extract.encoders.base import VideoEncoder
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_folder import Roots, find_videos
from mambavl.extract.video_job import build_encoder, refuse_different_readings, shown_to, spec_of

OTHER_ARRAYS = "lengths, times, status"  # what a store keeps of a row beside its levels


@dataclass(frozen=True)
class StorePlan:
    """What is to be done of one store."""

    path: Path
    options: VideoExtraction
    encoder: VideoEncoder
    shown: Shown
    layout: Layout
    done: int  # rows that are on the disk, and stay
    groups: list[int]  # row groups to do

    @property
    def rows(self) -> int:
        """Rows to do."""
        return _rows(self.layout, self.groups)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each level, and of the other arrays, once the store is whole; before compression."""
        return _sizes(self.layout, range(self.layout.groups))

    @property
    def to_write(self) -> int:
        """Bytes of the row groups to do; before compression."""
        return sum(_sizes(self.layout, self.groups).values())

    def of_share(self, shard: tuple[int, int], step: int) -> "StorePlan":
        """Every n-th block of `step` rows only, from the i-th on."""
        first = {group: self.layout.rows_of(group).start for group in self.groups}
        ours = [group for group in self.groups if first[group] // step % shard[1] == shard[0]]
        return replace(self, groups=ours)


@dataclass(frozen=True)
class Plan:
    """What is to be done of some stores of the same rows."""

    segments: Sequence[Segment]
    paths: dict[str, Path | None]  # video_id -> its file, None where it is missing
    stores: list[StorePlan]
    to_read: list[int]  # rows to do of any store, whose videos are there

    @property
    def missing(self) -> list[str]:
        return [video for video, path in self.paths.items() if path is None]

    @property
    def rows_missing(self) -> int:
        return sum(self.paths[segment.video_id] is None for segment in self.segments)

    @property
    def videos_to_read(self) -> list[str]:
        return list(dict.fromkeys(self.segments[row].video_id for row in self.to_read))

    def lacking(self) -> dict[Path, tuple[int, int]]:
        """Stores that the disk has no room for: bytes to be written until then, bytes that are free."""
        found: dict[Path, tuple[int, int]] = {}
        needed = 0
        for store in self.stores:
            needed += store.to_write
            if needed > (free := fsops.free_bytes(store.path)):
                found[store.path] = needed, free
        return found


def plan(
    annotations: Annotations,
    videos: Roots,
    jobs: Sequence[tuple[Path, VideoExtraction]],
    shard: tuple[int, int] = (0, 1),
    *,
    retry_failed: bool = False,
) -> Plan:
    """jobs: the store and the settings of each encoder. shard (i, n): what this share would do. retry_failed:
    rows that failed are to be tried again.

    Raises as `video_job.extract_videos`, UsageError where a store was made by another recipe, DataError where
    none of the videos is there, or a store is damaged.
    """
    refuse_different_readings(jobs)
    encoders = [build_encoder(options) for _, options in jobs]
    paths = find_videos(annotations, videos, allow_missing=True)
    segments = annotations.segments
    known_by = sha256(write_segments(segments))
    stores: list[StorePlan] = []
    for encoder, (path, options) in zip(encoders, jobs, strict=True):
        shown = shown_to(encoder, options)
        recipe = spec_of(encoder, options, shown, Inputs())
        spec = replace(recipe, rows=len(segments), segments_sha256=known_by)
        layout, done = _state(path, spec, retry_failed=retry_failed)
        left = [group for group in range(layout.groups) if group not in done]
        stores.append(StorePlan(path, options, encoder, shown, layout, _rows(layout, done), left))
    step = max(unit_rows(jobs[0][1].sampling), *(store.layout.rows_per_group for store in stores))
    stores = [store.of_share(shard, step) for store in stores]
    rows = {row for store in stores for group in store.groups for row in store.layout.rows_of(group)}
    to_read = [row for row in sorted(rows) if paths[segments[row].video_id] is not None]
    return Plan(segments, paths, stores, to_read)


def _state(path: Path, spec: Spec, *, retry_failed: bool) -> tuple[Layout, set[int]]:
    """The layout of a store that may not be there yet, and its row groups that are done."""
    if not (path / SPEC).exists():
        return Layout.from_spec(spec), set()
    existing = read_spec(path)
    _refuse_other_recipe(path, existing, spec)
    layout = Layout.from_spec(existing)
    records = known_records(path, layout)
    return layout, set(records) - (failed_groups(records) if retry_failed else set())


def _rows(layout: Layout, groups: Iterable[int]) -> int:
    return sum(len(layout.rows_of(group)) for group in groups)


def _sizes(layout: Layout, groups: Iterable[int]) -> dict[str, int]:
    """Bytes of each level of some row groups, and of the other arrays; before compression."""
    sizes = dict.fromkeys([*(level.name for level in layout.levels), OTHER_ARRAYS], 0)
    for group in groups:
        files = layout.file_sizes(group)
        for level in layout.levels:
            size = files.pop(layout.level_file(level, group))
            sizes[level.name] += level.chunk_bytes * len(layout.rows_of(group)) if size is None else size
        sizes[OTHER_ARRAYS] += sum(size or 0 for size in files.values())
    return sizes


def _refuse_other_recipe(path: Path, existing: Spec, wanted: Spec) -> None:
    """Raises UsageError where `path` is the store of another recipe, or of other rows. Which files the videos
    are is not compared.
    """
    parts = ("kind", "recipe", "levels", "frame_pts", "rows_per_group", "rows", "segments_sha256")
    there, here = ({part: spec.to_dict().get(part) for part in parts} for spec in (existing, wanted))
    if found := canonical.differences(there, here):
        raise UsageError(
            f"{path}: was made by another recipe; stores never mix. {differs(found, 'there -> asked for')}\n"
            "Use the same settings to resume, or another --out."
        )
