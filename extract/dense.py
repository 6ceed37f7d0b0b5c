"""Dense extraction: windows of one length, one every so often, over whole videos, whatever happens in them.

    window k of a video    [k x stride, k x stride + length), seconds from the first frame, k = 0, 1, ...
    the last one           lies wholly in the video, as its file says how long that is

A window is a row like an annotated action, seen at the moments that `sampling` chooses in it, so its features
are those that `extract video` gives a segment of these times. It has no label, its split is `test`, and its
narration_id is VIDEO_ID_wNUMBER. A video that is not there or cannot be opened keeps window 0, which fails.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from mambavl.cache import spec
from mambavl.cache.classes import Classes
from mambavl.cache.fill import FillResult
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, Interrupted, UsageError, counted, some
from mambavl.configs.progress import Progress, ShouldStop, never, unseen
from mambavl.extract.annotations import ID, Annotations, canonical_order
from mambavl.extract.options import VideoExtraction
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import open_video
from mambavl.extract.video_folder import LAYOUTS, VideoFolder, find_videos, holds_parts
from mambavl.extract.video_index import VideoIndex
from mambavl.extract.video_job import extract_videos

SPLIT = "test"  # rows without labels
SHORTEST, LONGEST = Fraction(1, 1000), Fraction(86_400)  # seconds
ROUNDING = Fraction(2, 1000)  # seconds that a video may seem shorter than it is: Matroska counts milliseconds

_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?:/(\d{1,9}(?:\.\d{1,9})?))?s?")


@dataclass(frozen=True)
class Windows:
    """Where the windows of a video lie. Fractions, so that the times of the thousandth are exact, too."""

    length: Fraction  # seconds
    stride: Fraction  # seconds from the start of one to the start of the next

    def count(self, end: float) -> int:
        """How many windows lie wholly in a video of `end` seconds."""
        room = Fraction(end) + ROUNDING - self.length
        return int(room // self.stride) + 1 if room >= 0 else 0

    def segment(self, video_id: str, participant_id: str, number: int) -> Segment:
        """Window `number` of a video, as a row."""
        start = number * self.stride
        return Segment(
            narration_id=f"{video_id}_w{number:06d}",
            participant_id=participant_id,
            video_id=video_id,
            narration_timestamp="",
            start=float(start),
            stop=float(start + self.length),
            start_frame=0,  # of EK100's tars alone
            stop_frame=0,
            split=SPLIT,
        )


@dataclass(frozen=True)
class Plan:
    """The windows of some videos."""

    rows: Annotations  # the windows as segments, without labels
    paths: dict[str, Path | None]  # video_id -> its file, None where it is missing
    short: dict[str, float]  # videos that have no room for a window -> seconds that they last


def seconds(option: str, text: str) -> Fraction:
    """`2`, `0.5s` or `16/30s` as seconds. Raises UsageError, naming the option, for anything else."""
    match = _SECONDS.fullmatch(text.strip())
    divisor = Fraction(match[2] or 1) if match else Fraction(0)
    value = Fraction(match[1]) / divisor if match and divisor else None
    if value is None or not SHORTEST <= value <= LONGEST:
        raise UsageError(
            f"{option} {text!r}: expected seconds, from {float(SHORTEST):g} to {int(LONGEST)}, "
            f"such as {option} 0.5s or {option} 16/30s"
        )
    return value


def plan(
    videos: Sequence[Path],
    windows: Windows,
    out: Path,
    options: VideoExtraction,
    annotations: Annotations | None = None,
    *,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> Plan:
    """Open every video to see how long it is, and lay the windows over it.

    videos: files, and folders of which all videos are taken, or those that `annotations` lists. out: the
    store to be filled, or one of them; what the packets of a video say is kept beside it. progress counts
    videos.

    Raises UsageError for a task other than recognition; DataError for videos with names that cannot be
    video_ids, for more unreadable videos than `max_failed`, and where no video has room for a window;
    SystemFault where a file cannot be read, Interrupted when `should_stop()` turns true.
    """
    if options.sampling.task != "recognition":
        raise UsageError("a window is seen as it is: dense extraction takes sampling.task = recognition")
    if annotations is None:
        paths, participants = find_all(videos)
    else:
        paths, participants = _find_listed(annotations, videos, options.allow_missing)
    ends = _measure(paths, VideoIndex.beside(out), options, progress, should_stop)
    _refuse_broken(ends, options.max_failed)
    segments: list[Segment] = []
    short: dict[str, float] = {}
    for video, end in ends.items():
        # one row says what is wrong with a video that cannot be opened
        count = 1 if isinstance(end, VideoError) else windows.count(end)
        segments += [windows.segment(video, participants[video], number) for number in range(count)]
        if not isinstance(end, VideoError) and count == 0:
            short[video] = end
    if not segments:
        longest = max(short, key=lambda video: short[video])
        raise DataError(
            f"no video has room for a window of {float(windows.length):g} s: the longest, {longest}, lasts "
            f"{short[longest]:.2f} s; choose a shorter --window"
        )
    rows = Annotations(
        folder=Path(videos[0]),
        segments=tuple(sorted(segments, key=canonical_order)),
        classes=Classes({}),
        lists={},
        videos={},
        sha256=annotations.sha256 if annotations else {},
        windows=spec.Windows(length=float(windows.length), stride=float(windows.stride)),
    )
    return Plan(rows, paths, short)


def extract_dense(
    planned: Plan,
    jobs: Sequence[tuple[Path, VideoExtraction]],
    *,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    progress: Progress = unseen,
    should_stop: ShouldStop = never,
) -> list[FillResult]:
    """Run frozen encoders over the windows; write (or resume) each store of the jobs with its settings.

    Arguments and errors as of `extract_videos`.
    """
    return extract_videos(
        planned.rows,
        planned.paths,
        jobs,
        shard=shard,
        retry_failed=retry_failed,
        progress=progress,
        should_stop=should_stop,
    )


def find_all(videos: Sequence[Path]) -> tuple[dict[str, Path | None], dict[str, str]]:
    """video_id -> file, and video_id -> participant_id, of videos and of all videos in folders.

    A video is called as its file or folder, without the ending. A participant is the folder that a video lies
    in, where the layout has such folders, and "" elsewhere. Raises DataError for names that cannot be
    video_ids, two videos of one name, and where there is no video.
    """
    found: dict[str, tuple[Path, str]] = {}
    here: list[tuple[str, Path | None, str]]
    for place in map(Path, videos):
        if place.is_dir() and not holds_parts(place):
            folder = VideoFolder(place)
            here = [(video, folder.find(who, video), who) for video, who in folder.all()]
            if not here:
                raise DataError(f"{place}: holds no video; expected {LAYOUTS}")
        elif place.exists():
            here = [(place.stem, place, "")]
        else:
            raise DataError(f"{place}: no such file or folder; --videos takes videos, and folders of them")
        for video, path, who in here:
            assert path is not None
            other, _ = found.setdefault(video, (path, who))
            if not other.samefile(path):
                raise DataError(f"{video}: there are {other} and {path}; name or keep one of them")
    if strange := [str(path) for video, (path, _) in found.items() if not ID.fullmatch(video)]:
        raise DataError(
            f"{some(strange)}: {counted(len(strange), 'video')} with names that cannot be video_ids "
            "(letters, digits, _ and - only, at most 100); rename them, or link to them under other names"
        )
    ordered = sorted(found.items())
    return {video: path for video, (path, _) in ordered}, {video: who for video, (_, who) in ordered}


def _find_listed(
    annotations: Annotations, videos: Sequence[Path], allow_missing: bool
) -> tuple[dict[str, Path | None], dict[str, str]]:
    """As `find_all`, of the videos that some lists have rows of."""
    participants = {segment.video_id: segment.participant_id for segment in annotations.segments}
    if not all(Path(place).is_dir() for place in videos):
        raise UsageError("--annotations says which videos of a folder are wanted; give folders of videos")
    return find_videos(annotations, videos, allow_missing), participants


def _measure(
    paths: Mapping[str, Path | None],
    index: VideoIndex,
    options: VideoExtraction,
    progress: Progress,
    should_stop: ShouldStop,
) -> dict[str, float | VideoError]:
    """video_id -> how many seconds its file shows pictures, or why it cannot be opened.

    Raises SystemFault where a file cannot be read, Interrupted when `should_stop()` turns true.
    """
    ends: dict[str, float | VideoError] = {}
    for video, path in paths.items():
        if should_stop():
            raise Interrupted("stopped while the videos were measured; the same command starts over")
        progress(len(ends), len(paths))
        try:
            if path is None:
                raise VideoError("missing_video", f"{video}: no such video file")
            reader = open_video(path, options.decoder, options.retries, index)
            ends[video] = float(reader.timeline.end)
            reader.close()
        except VideoError as error:
            ends[video] = error
    progress(len(ends), len(paths))
    return ends


def _refuse_broken(ends: Mapping[str, float | VideoError], most: int) -> None:
    """Raises DataError where more videos cannot be opened than rows may fail.

    Now, while nothing is written: how many rows a video has is known only when it can be opened, so a store
    that was begun without it cannot take it up later.
    """
    errors = [end for end in ends.values() if isinstance(end, VideoError)]
    unreadable = [error for error in errors if error.status != "missing_video"]
    if len(unreadable) > most:
        listed = "\n  ".join(map(str, unreadable[:10])) + ("\n  ..." if len(unreadable) > 10 else "")
        raise DataError(
            f"{counted(len(unreadable), 'video')} cannot be opened, but max_failed is {most:,} "
            "(--set max_failed=N allows N). No store was begun: put sound files in place of these, or leave "
            f"them out.\n  {listed}"
        )
