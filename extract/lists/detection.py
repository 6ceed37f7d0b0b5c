"""Temporal action detection: the JSON that ActivityNet began, and ActionFormer and OpenTAD read.

    {"database": {VIDEO: {"subset": "training", "duration": 81.2, "fps": 30.0, "annotations": [
        {"segment": [1.5, 4.0], "label": "pour", "label_id": 3, "segment(frames)": [45, 120]}]}}}

Segments are seconds. fps, label_id and segment(frames) need not be there; what is there must agree.
"""

from pathlib import Path

from mambavl.configs.errors import DataError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.json_source import Node, Unfit, read_json
from mambavl.extract.lists.listing import Listed, Listing, Names, Request, split_named
from mambavl.extract.tables import Tables

SUBSETS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
FRAME_SLACK = 2  # frames by which segment(frames) may differ from segment x fps: rounded up or down, from 1


def read_detection(source: Path, request: Request) -> Listing:
    """`source`: the file. Raises DataError."""
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    tables = Tables(source.parent)
    try:
        videos = list(read_json(tables, source.name).get("database").items())
        names = Names("single", _class_list(tables, videos))
    except Unfit as error:
        raise DataError(str(error)) from None
    listing = Listing(tables, {"action": names})
    for video, entry in videos:
        try:
            _read_video(listing, video, entry, request)
        except ValueError as error:
            tables.problem(str(error))
    return listing


def _read_video(listing: Listing, video: str, entry: Node, request: Request) -> None:
    """Raises Unfit for a video that is not as above; a problem of a segment does not keep from the others."""
    segments = entry.get("annotations").list()
    if entry.has("duration"):
        listing.durations[video] = entry.get("duration").number()
    if not segments:
        return
    try:
        split = split_named(entry.get("subset").text(), SUBSETS, request)
    except Unfit:
        raise
    except ValueError as error:
        raise Unfit(f"{entry.where}: {error}") from None
    rate = entry.get("fps").number() if entry.has("fps") else None
    for segment in segments:
        try:
            start, stop = _ends(segment, rate)
            label = listing.classes["action"].id_of(segment.get("label").text())
        except Unfit as error:
            listing.tables.problem(str(error))
        except ValueError as error:
            listing.tables.problem(f"{segment.where}: label {error}")
        else:
            listing.rows.append(Listed(segment.where, video, start, stop, split, {"action": label}))


def _ends(segment: Node, rate: float | None) -> tuple[float, float]:
    """Seconds. Raises Unfit where frames say something else."""
    ends = [end.number() for end in segment.get("segment").list()]
    if len(ends) != 2:
        raise Unfit(f"{segment.where}: its segment has {len(ends)} ends, not start and stop")
    if rate is not None and segment.has("segment(frames)"):
        frames = [end.number() for end in segment.get("segment(frames)").list()]
        for end, frame in zip(ends, frames, strict=False):
            if abs(end * rate - frame) > FRAME_SLACK:
                raise Unfit(
                    f"{segment.where}: {end:.2f} s at the fps of {rate:g} is frame {end * rate:.0f}, and "
                    f"segment(frames) says {frame:.0f}"
                )
    return ends[0], ends[1]


def _class_list(tables: Tables, videos: list[tuple[str, Node]]) -> ClassList | None:
    """The classes by label_id; None where no segment has one. Raises Unfit where only some have one."""
    keys: dict[int, str] = {}
    places: dict[int, str] = {}
    ids: dict[str, int] = {}
    with_id = without_id = ""
    for _, entry in videos:
        for segment in entry.get("annotations").list():
            if not segment.has("label_id"):
                without_id = without_id or segment.where
                continue
            with_id = with_id or segment.where
            class_id, label = segment.get("label_id").whole(), segment.get("label").text()
            place = places.setdefault(class_id, segment.where)
            if keys.setdefault(class_id, label) != label:
                other = f"{keys[class_id]!r} in {place}"
                tables.problem(f"{segment.where}: label_id {class_id} is {label!r}, but {other}")
            elif ids.setdefault(label, class_id) != class_id:
                other = f"{ids[label]} in {places[ids[label]]}"
                tables.problem(f"{segment.where}: {label!r} has the label_id {class_id}, but {other}")
    tables.finish()
    if with_id and without_id:
        raise Unfit(f"{without_id}: has no label_id, and {with_id} has one")
    if not keys:
        return None
    return ClassList.of(keys)
