"""`mambavl data check`: every video that is missing, short, corrupt or not what the lists say, before any
work.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, counted, some
from mambavl.extract.annotations import Annotations, nominal_rate
from mambavl.extract.pyav_reader import PyAVReader
from mambavl.extract.timeline import HOLD, Reader, Timeline, VideoError
from mambavl.extract.video import open_video
from mambavl.extract.video_folder import Roots, VideoFolder
from mambavl.extract.video_index import VideoIndex

DURATION_SLACK = 0.5  # seconds; copies in another container or at another rate differ by less
SHAPE_SLACK = 0.05  # of width / height; resized copies round to even sides
SAMPLED_FRAMES = 5  # decoded per video by the quick check: the first, the last and some between


@dataclass(frozen=True)
class Report:
    """What was found. `problems` fail the check; `notes` are worth knowing and harmless, since rows are
    located in seconds.
    """

    problems: list[str]
    notes: list[str]
    rates: Counter[float]  # measured frames per second, rounded to 0.01 -> videos
    videos: int


def check_data(
    annotations: Annotations,
    videos: Roots,
    *,
    full: bool = False,
    index: VideoIndex | None = None,
    still_pictures: bool = False,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Open every video, scan its packets and decode a few frames (`full`: all of them).

    index: where scans are kept, and read from. still_pictures: as for `open_video`. on_video(done, all):
    after each video. Raises DataError when a folder of `videos` does not exist.
    """
    folder = VideoFolder(videos)
    rows: dict[str, list[Segment]] = {}
    for segment in annotations.segments:
        rows.setdefault(segment.video_id, []).append(segment)
    problems: list[str] = []
    notes: dict[str, list[str]] = {}
    missing: list[str] = []
    rates: Counter[float] = Counter()
    for done, (video_id, segments) in enumerate(sorted(rows.items()), 1):
        try:
            path = _find(folder, video_id, segments)
            reader = open_video(path, index=index, still_pictures=still_pictures)
        except DataError as error:
            problems.append(f"{video_id}: {str(error).removeprefix(f'{video_id}: ')}")
        except VideoError as error:
            problems.append(f"{video_id}: {error}")
            if error.status == "missing_video":
                missing.append(video_id)
        else:
            tried = _try(reader, full)
            problems += _faults(video_id, path, reader.timeline, segments, annotations, tried)
            for note in _notes(video_id, reader, segments, annotations, tried):
                notes.setdefault(note, []).append(video_id)
            rates[round(float(reader.timeline.fps), 2)] += 1
            reader.close()
        on_video(done, len(rows))
    shown = [f"{note}: {len(ids)} videos ({some(ids)})" for note, ids in notes.items()]
    if missing:
        hint = folder.elsewhere(rows[missing[0]][0].participant_id, missing[0])
        if len(missing) == len(rows):  # one fault, of the folder
            problems = [f"{folder}: none of {counted(len(rows), 'video')} is there: {hint}"]
        else:
            shown.append(hint)
    return Report(problems, shown, rates, len(rows))


def _find(folder: VideoFolder, video_id: str, segments: list[Segment]) -> Path:
    """Raises VideoError for a video that is not there, DataError for one that is there twice."""
    path = folder.find(segments[0].participant_id, video_id)
    if path is None:
        raise VideoError("missing_video", f"missing ({counted(len(segments), 'row')})")
    return path


@dataclass(frozen=True)
class _Tried:
    """What came of decoding some frames."""

    frames: int
    damaged: list[VideoError]
    size: tuple[int, int] | None  # width and height as shown of the first sound one


def _try(reader: Reader, full: bool) -> _Tried:
    indices = np.setdiff1d(np.arange(len(reader.timeline.pts)), list(reader.timeline.missing))
    if not full:
        indices = indices[np.unique(np.linspace(0, len(indices) - 1, SAMPLED_FRAMES).astype(int))]
    damaged: list[VideoError] = []
    size = None
    for _, frame in reader.frames(indices):
        if isinstance(frame, VideoError):
            damaged.append(frame)
        else:
            size = size or (frame.shape[1], frame.shape[0])
    return _Tried(len(indices), damaged, size)


def _faults(
    video_id: str,
    path: Path,
    timeline: Timeline,
    segments: list[Segment],
    annotations: Annotations,
    tried: _Tried,
) -> Iterator[str]:
    info = annotations.videos.get(video_id)
    if info is None:
        if annotations.videos:  # own lists need not say anything of videos
            yield f"{video_id}: is not in the list of videos (video_info.csv)"
    elif abs(timeline.end - info.duration) > DURATION_SLACK:
        kind = "short" if timeline.end < info.duration else "mismatched"
        yield f"{video_id}: {kind}: {path} lasts {timeline.end:.2f} s, the list says {info.duration:.2f} s"
    if info is not None and info.width and info.height and tried.size is not None:
        width, height = tried.size
        if abs(width / height / (info.width / info.height) - 1) > SHAPE_SLACK:
            yield (
                f"{video_id}: mismatched: its picture is {width}x{height}, "
                f"of another shape than the listed {info.width}x{info.height}"
            )
    late = [segment for segment in segments if segment.stop > timeline.end + HOLD]
    if late:
        last = max(late, key=lambda segment: segment.stop)
        yield (
            f"{video_id}: {len(late)} rows end after the video ({timeline.end:.2f} s), "
            f"the last is {last.narration_id} at {last.stop:.2f} s"
        )
    for hole in np.flatnonzero(np.diff(timeline.pts) > timeline.longest[:-1]):
        begin, end = timeline.pts[hole : hole + 2]
        yield (
            f"{video_id}: holds no frame between {begin:.2f} and {end:.2f} s; if nothing was lost there, "
            "check with --still-pictures and extract with --set still_pictures=true"
        )
    if timeline.missing:
        holes = list(timeline.missing.values())
        yield f"{video_id}: has {counted(len(holes), 'hole')}; {holes[0]}"
    if tried.damaged:
        yield (
            f"{video_id}: corrupt: {len(tried.damaged)} of {tried.frames} frames tried cannot be decoded; "
            f"{tried.damaged[0]}"
        )


def _notes(
    video_id: str, reader: Reader, segments: list[Segment], annotations: Annotations, tried: _Tried
) -> Iterator[str]:
    info, fps = annotations.videos.get(video_id), reader.timeline.fps
    if isinstance(reader, PyAVReader) and reader.streams > 1:
        yield "more than one picture (the first is read)"
    if info is not None and info.width and tried.size not in (None, (info.width, info.height)):
        yield "another size than the list says (a resized copy)"
    if info is not None and info.fps and abs(fps - info.fps) > 0.05 * info.fps:
        yield "another rate than the list says (a re-encoded copy)"
    nominal = nominal_rate(video_id)
    has_frame_columns = any(segment.start_frame for segment in segments)  # own lists have none
    if has_frame_columns and abs(fps - nominal) > 0.01 * nominal:
        yield (
            "frame columns that are not frame numbers of the file "
            "(rows are located in seconds, so this is harmless)"
        )
    if any(later.start < earlier.stop for earlier, later in pairwise(segments)):
        yield "rows that start before the one ahead of them has ended"
