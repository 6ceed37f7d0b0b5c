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
from mambavl.configs.errors import DataError, SystemFault, counted, some
from mambavl.extract.annotations import Annotations, nominal_rate
from mambavl.extract.pyav_reader import PyAVReader
from mambavl.extract.timeline import HOLD, VideoError
from mambavl.extract.video_folder import VideoFolder

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
    videos: Path,
    *,
    full: bool = False,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Open every video, scan its packets and decode a few frames (`full`: all of them).

    on_video(done, all): after each video. Raises DataError when the folder `videos` does not exist.
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
            path, reader = _open(folder, video_id, segments)
        except SystemFault as error:
            problems.append(f"{video_id}: {error}")
        except VideoError as error:
            problems.append(f"{video_id}: {error}")
            if error.status == "missing_video":
                missing.append(video_id)
        else:
            problems += _faults(video_id, path, reader, segments, annotations, full)
            for note in _notes(video_id, reader, segments, annotations):
                notes.setdefault(note, []).append(video_id)
            rates[round(float(reader.timeline.fps), 2)] += 1
            reader.close()
        on_video(done, len(rows))
    shown = [f"{note}: {len(ids)} videos ({some(ids)})" for note, ids in notes.items()]
    if missing:
        hint = folder.elsewhere(rows[missing[0]][0].participant_id, missing[0])
        if len(missing) == len(rows):  # one fault, of the folder
            problems = [f"{videos}: none of {counted(len(rows), 'video')} is there: {hint}"]
        else:
            shown.append(hint)
    return Report(problems, shown, rates, len(rows))


def _open(folder: VideoFolder, video_id: str, segments: list[Segment]) -> tuple[Path, PyAVReader]:
    """Raises VideoError for a video that is not there, is there twice or cannot be opened."""
    try:
        path = folder.find(segments[0].participant_id, video_id)
    except DataError as error:
        raise VideoError("unreadable_video", str(error).removeprefix(f"{video_id}: ")) from None
    if path is None:
        raise VideoError("missing_video", f"missing ({counted(len(segments), 'row')})")
    return path, PyAVReader(path)


def _faults(
    video_id: str,
    path: Path,
    reader: PyAVReader,
    segments: list[Segment],
    annotations: Annotations,
    full: bool,
) -> Iterator[str]:
    timeline = reader.timeline
    info = annotations.videos.get(video_id)
    if info is None:
        if annotations.videos:  # own lists need not say anything of videos
            yield f"{video_id}: is not in the list of videos (video_info.csv)"
    elif abs(timeline.end - info.duration) > DURATION_SLACK:
        kind = "short" if timeline.end < info.duration else "mismatched"
        yield f"{video_id}: {kind}: {path} lasts {timeline.end:.2f} s, the list says {info.duration:.2f} s"
    width, height = _shown_size(reader)
    if info is not None and abs(width / height / (info.width / info.height) - 1) > SHAPE_SLACK:
        listed = f"{info.width}x{info.height}"
        yield (
            f"{video_id}: mismatched: its picture is {width}x{height}, "
            f"of another shape than the listed {listed}"
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
        yield f"{video_id}: holds no frame between {begin:.2f} and {end:.2f} s"
    indices = np.arange(len(timeline.pts))
    if not full:
        indices = np.unique(np.linspace(0, indices[-1], SAMPLED_FRAMES).astype(int))
    damaged = [frame for _, frame in reader.frames(indices) if isinstance(frame, VideoError)]
    if damaged:
        yield (
            f"{video_id}: corrupt: {len(damaged)} of {len(indices)} frames tried cannot be decoded; "
            f"{damaged[0]}"
        )


def _shown_size(reader: PyAVReader) -> tuple[int, int]:
    """Width and height of the picture as it is shown: a rotation mark may turn it."""
    quarter_turns = round(reader.rotation() / 90) % 4
    return (reader.height, reader.width) if quarter_turns % 2 else (reader.width, reader.height)


def _notes(
    video_id: str, reader: PyAVReader, segments: list[Segment], annotations: Annotations
) -> Iterator[str]:
    info, fps = annotations.videos.get(video_id), reader.timeline.fps
    if reader.streams > 1:
        yield "more than one picture (the first is read)"
    if info is not None and _shown_size(reader) != (info.width, info.height):
        yield "another size than the list says (a resized copy)"
    if info is not None and abs(fps - info.fps) > 0.05 * info.fps:
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
