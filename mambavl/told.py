"""What the lists, videos and question files of stage one tell a report of its rows (`fuse.report.told`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mambavl.cache.canonical import file_sha256
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, counted
from mambavl.configs.progress import say
from mambavl.extract import stills
from mambavl.extract.annotations import DEFAULT_SPLITS, SPLITS, Annotations
from mambavl.extract.data_set import read_data_set
from mambavl.extract.questions import QUESTION_KEYS, read_questions
from mambavl.extract.video_folder import VideoFolder
from mambavl.fuse.report.told import CLIPS, Questions, Strips, Told, Wanted
from mambavl.fuse.run import RESULT, read_result
from mambavl.terminal import progress


def read_told(
    runs: Sequence[Path],
    annotations: Path | None = None,
    videos: Sequence[Path] = (),
    questions: Sequence[Path] = (),
    clips: int = CLIPS,
) -> Told:
    """Of the rows that some runs were scored on. annotations: the folder of their lists; videos: folders of
    videos; questions: question files; clips: how many rows get pictures.

    Raises DataError for what is not there or damaged. A video that cannot be read is not looked at here.
    """
    lists = read_data_set(annotations, splits_scored(runs)) if annotations else None
    return told_of(lists, videos, questions, clips)


def told_of(
    lists: Annotations | None, videos: Sequence[Path], questions: Sequence[Path] = (), clips: int = CLIPS
) -> Told:
    """As `read_told`, of lists that are read already."""
    folder = VideoFolder(videos) if videos else None
    return Told(
        segments={segment.narration_id: segment for segment in lists.segments} if lists else {},
        classes=lists.classes if lists else None,
        questions=[_read_questions(path) for path in questions],
        strips=(lambda rows: strips_of(rows, folder)) if folder else None,
        clips=clips,
    )


def splits_scored(runs: Sequence[Path]) -> tuple[str, ...]:
    """The splits whose rows finished runs were scored on, as lists name them: `train` of `train_0_of_5`."""
    scored = [read_result(run).split for run in runs if (run / RESULT).is_file()]
    found = tuple(one for one in SPLITS if any(name == one or name.startswith(f"{one}_") for name in scored))
    return found or DEFAULT_SPLITS


def strips_of(rows: Sequence[Wanted], folder: VideoFolder) -> Strips:
    """The pictures of rows, and on stderr which have none and why. Raises DataError where no video is
    there.
    """
    videos = {segment.video_id: segment for segment, _ in rows}
    paths: dict[str, Path | None] = {}
    faults: dict[str, str] = {}
    for video, segment in videos.items():
        try:
            paths[video] = folder.find(segment.participant_id, video)
        except DataError as error:  # it is there twice
            faults[video] = str(error)
    if videos and not faults and not any(paths.values()):
        first = next(iter(videos.values()))
        raise DataError(
            f"{folder}: of {counted(len(videos), 'video')} that the page is to show none is there: "
            f"{folder.elsewhere(first.participant_id, first.video_id)}"
        )

    def find(segment: Segment) -> Path | None:
        if segment.video_id in faults:
            raise DataError(faults[segment.video_id])
        return paths[segment.video_id]

    with progress("reading pictures", "videos") as update:
        found = stills.strips(rows, find, update)
    _say_what_is_missing(found)
    return found


def _say_what_is_missing(found: Mapping[str, bytes | str]) -> None:
    for reason, number in Counter(one for one in found.values() if isinstance(one, str)).items():
        say(f"no pictures of {counted(number, 'row')}: {reason}")


def _read_questions(path: Path) -> Questions:
    found = read_questions(path)
    first = next(iter(found.values()))
    texts = {key: {name: getattr(one, key) for name, one in found.items()} for key in QUESTION_KEYS}
    return Questions(first.protocol, first.backend, first.prompt_version, file_sha256(path), texts)
