"""LeRobot's data sets, version 3: episodes one after another in shared video files, tasks in words.

    meta/info.json                          codebase_version v3.x, fps, splits {"train": "0:50"}, features
    meta/tasks.parquet                      task_index, and the words: the column `task`, or pandas' index
    meta/subtasks.parquet                   likewise, where data has a subtask_index
    meta/episodes/chunk-*/file-*.parquet    episode_index, length, videos/KEY/chunk_index, .../file_index,
                                            .../from_timestamp, .../to_timestamp (s of the file)
    data/chunk-*/file-*.parquet             episode_index, frame_index, timestamp, task_index, a row a frame
    videos/KEY/chunk-000/file-000.mp4

A row is a run of frames of one task (and subtask) of an episode: a whole episode where it has one. Its times
are those of the shared file. Videos are those of one camera (`--column video=KEY` of several): `file-000` of
the participant `chunk-000`, for `--videos DATASET/videos/KEY`; where there are several chunks, which use the
same names, chunk-000_file-000, and the files must be called so. States and actions are not read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mambavl.cache.canonical import file_sha256
from mambavl.cache.interchange.parquet import read_columns
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.json_source import Node, Unfit, class_of, read_json
from mambavl.extract.lists.listing import NOBODY, Listed, Listing, Names, Request, file_in, split_named, whole
from mambavl.extract.tables import Tables

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
FRAME = ("frame_index", "timestamp")
WORDS = ("task", "subtask")  # what a frame can be of; the second need not be there
SLACK = 2.0  # frames by which times and counts of frames may differ


class _Frame(NamedTuple):
    """A row of data/: there may be millions, so its place is put into words only where it is wrong."""

    file: str
    place: int
    cells: tuple[Any, ...]


@dataclass(frozen=True)
class _Episode:
    where: str
    number: int
    length: int  # frames
    begin: float  # seconds of its file
    end: float
    video: str
    participant: str


def read_lerobot(source: Path, request: Request) -> Listing:
    """`source`: the folder with meta/. Raises DataError; UsageError where camera or split is not said, and
    without pyarrow.
    """
    tables = Tables(source)
    try:
        info = read_json(tables, file_in(source, "meta/info.json"))
        version, rate = info.get("codebase_version").text(), info.get("fps").number()
        if not version.startswith("v3"):
            raise Unfit(
                f"{info.where}: codebase_version is {version}, and v3.0 is read; LeRobot converts older"
            )
        if not 0 < rate <= 1000:
            raise Unfit(f"{info.where}: fps is {rate:g}")
        names = {kind: Names("single", _words(tables, kind)) for kind in WORDS if _is_there(source, kind)}
        listing = Listing(tables, names)
        splits = _splits(info, request)
        episodes = _episodes(tables, _camera(info, request), rate)
        frames = _frames(tables, tuple(f"{kind}_index" for kind in names))
        for number, episode in sorted(episodes.items()):
            if (split := splits.get(number)) is None:
                tables.problem(f"{episode.where}: episode {number} is in no split of {info.where}")
            else:
                listing.rows += _rows(tables, episode, frames.pop(number, []), split, rate, names)
        if frames:
            tables.problem(
                f"{source / 'data'}: has frames of episode {min(frames)}, which meta/episodes lacks"
            )
    except Unfit as error:
        raise DataError(str(error)) from None
    return listing


def _is_there(source: Path, kind: str) -> bool:
    return kind == WORDS[0] or (source / "meta" / f"{kind}s.parquet").is_file()


def _words(tables: Tables, kind: str) -> ClassList:
    """Of tasks.parquet or subtasks.parquet. Raises Unfit for what is no list of them."""
    name = f"meta/{kind}s.parquet"
    index, keys = f"{kind}_index", ("__index_level_0__", kind)
    found = _read(tables, file_in(tables.folder, name), index, optional=keys)
    where = str(tables.folder / name)
    words = next((found[key] for key in reversed(keys) if key in found), None)
    if words is None:
        raise Unfit(f"{where}: has no column {kind} with the words of its tasks")
    listed: dict[int, str] = {}
    for place, (number, word) in enumerate(zip(found[index], words, strict=True)):
        class_id = Node(f"{where}: row {place}", number).whole()
        key = Node(f"{where}: row {place}", word).text()
        if not key or class_id in listed or key in listed.values():
            raise Unfit(
                f"{where}: row {place}: {class_id} {key!r} is not a task of its own with a number of its own"
            )
        listed[class_id] = key
    if not listed:
        raise Unfit(f"{where}: lists nothing")
    return ClassList.of(listed)


def _camera(info: Node, request: Request) -> str:
    """The key of the videos. Raises UsageError where several are there and none is named."""
    keys = [key for key, one in info.get("features").items() if one.get("dtype").value == "video"]
    named = request.columns.get("video")
    if others := sorted(request.columns.keys() - {"video"}):
        raise UsageError(f"--column {others[0]}=...: of a LeRobot data set only video=KEY can be said")
    if not keys:
        raise Unfit(f"{info.where}: none of its features is a video")
    if named is None and len(keys) > 1:
        raise UsageError(
            f"{info.where}: has several cameras; say which: --column video={keys[0]} ({', '.join(keys)})"
        )
    if named is not None and named not in keys:
        raise UsageError(f"--column video={named}: the cameras are {', '.join(keys)}")
    return named or keys[0]


def _splits(info: Node, request: Request) -> dict[int, str]:
    """Episode -> split. Raises Unfit for an episode of two, and for what is no range."""
    found: dict[int, str] = {}
    for name, node in info.get("splits").items():
        try:
            split = request.split or split_named(name, SPLITS, request)
        except ValueError as error:
            raise Unfit(f"{node.where}: {error}") from None
        first, _, last = node.text().partition(":")
        begin, end = whole(first), whole(last)
        if begin is None or end is None:
            raise Unfit(f"{node.where}: {node.text()!r} is not a range of episodes such as 0:50")
        for number in range(begin, end):
            if number in found:
                raise Unfit(f"{node.where}: episode {number} is in two splits")
            found[number] = split
    return found


def _episodes(tables: Tables, camera: str, rate: float) -> dict[int, _Episode]:
    """Raises Unfit for times that do not fit together."""
    places = [
        f"videos/{camera}/{what}" for what in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    ]
    rows: list[dict[str, Node]] = []
    for name in _parts(tables.folder, "meta/episodes"):
        columns = _read(tables, name, "episode_index", "length", *places)
        for place in range(len(columns["length"])):
            where = f"{tables.folder / name}: row {place}"
            rows.append({key: Node(f"{where}: {key}", column[place]) for key, column in columns.items()})
    is_alone = len({row[places[0]].whole() for row in rows}) == 1
    found: dict[int, _Episode] = {}
    for row in rows:
        chunk, file = (
            f"{what}-{row[key].whole():03d}" for what, key in zip(("chunk", "file"), places[:2], strict=True)
        )
        number, length = row["episode_index"].whole(), row["length"].whole()
        begin, end = row[places[2]].number(), row[places[3]].number()
        where = row["episode_index"].where.rpartition(": ")[0]
        if number in found:
            raise Unfit(f"{where}: episode {number} occurs twice, first in {found[number].where}")
        if abs((end - begin) * rate - length) > SLACK:
            raise Unfit(
                f"{where}: episode {number} has {length} frames, and from {begin:.2f} to {end:.2f} s are "
                f"{(end - begin) * rate:.0f} at {rate:g} a second"
            )
        video, participant = (file, chunk) if is_alone else (f"{chunk}_{file}", NOBODY)
        found[number] = _Episode(where, number, length, begin, end, video, participant)
    _refuse_overlap(found, rate)
    return found


def _refuse_overlap(episodes: Mapping[int, _Episode], rate: float) -> None:
    by_file = sorted(episodes.values(), key=lambda one: (one.video, one.begin))
    for _, group in groupby(by_file, key=lambda one: one.video):
        ones = list(group)
        for earlier, later in pairwise(ones):
            if later.begin < earlier.end - SLACK / rate:
                raise Unfit(
                    f"{later.where}: episode {later.number} begins at {later.begin:.2f} s of {later.video}, "
                    f"before episode {earlier.number} has ended at {earlier.end:.2f} s"
                )


def _frames(tables: Tables, labels: tuple[str, ...]) -> dict[int, list[_Frame]]:
    """Episode -> its frames; cells: number, seconds, and the index of each of `labels`."""
    found: dict[int, list[_Frame]] = {}
    for name in _parts(tables.folder, "data"):
        keys = ("episode_index", *FRAME, *labels)
        columns = _read(tables, name, *keys)
        for place, cells in enumerate(zip(*(columns[key] for key in keys), strict=True)):
            number = Node(f"{tables.folder / name}: row {place}: episode_index", cells[0]).whole()
            found.setdefault(number, []).append(_Frame(name, place, cells[1:]))
    return found


def _rows(
    tables: Tables,
    episode: _Episode,
    frames: list[_Frame],
    split: str,
    rate: float,
    classes: Mapping[str, Names],
) -> Iterator[Listed]:
    """Its runs. Frames that are not 0, 1, 2, ... at `rate`, or not as many as it has, are a problem."""
    if len(frames) != episode.length:
        tables.problem(
            f"{episode.where}: episode {episode.number} has {episode.length} frames, data {len(frames)}"
        )
        return
    ids: list[tuple[int, ...]] = []
    for number, frame in enumerate(frames):
        place, seconds, *labels = (
            Node(f"{tables.folder / frame.file}: row {frame.place}: {key}", cell)
            for key, cell in zip(FRAME + tuple(f"{kind}_index" for kind in classes), frame.cells, strict=True)
        )
        try:
            if place.whole() != number:
                raise Unfit(
                    f"{place.where}: is {place.value}, where episode {episode.number} has frame {number}"
                )
            if abs(seconds.number() * rate - number) > SLACK:
                raise Unfit(
                    f"{seconds.where}: {seconds.number():.3f} s is not frame {number} at {rate:g} a second"
                )
            ids.append(tuple(map(class_of, labels, classes.values())))
        except Unfit as error:
            tables.problem(str(error))
            return
    begin = 0
    for run, (found, group) in enumerate(groupby(ids)):
        end = begin + len(list(group))
        words = [
            names.given.keys[one] for names, one in zip(classes.values(), found, strict=True) if names.given
        ]
        yield Listed(
            episode.where,
            episode.video,
            episode.begin + begin / rate,
            episode.begin + end / rate,
            split,
            dict(zip(classes, found, strict=True)),
            f"episode-{episode.number:06d}_{run}",
            episode.participant,
            words[-1],
        )
        begin = end


def _parts(folder: Path, name: str) -> list[str]:
    """chunk-000/file-000.parquet, ... of a folder, in order, as names in it."""
    found = sorted(
        path.relative_to(folder).as_posix() for path in (folder / name).glob("chunk-*/file-*.parquet")
    )
    if not found:
        raise DataError(f"{folder / name}: has no chunk-000/file-000.parquet")
    return found


def _read(tables: Tables, name: str, *required: str, optional: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    tables.sha256[name] = file_sha256(tables.folder / name)
    return read_columns(tables.folder / name, *required, optional=optional)
