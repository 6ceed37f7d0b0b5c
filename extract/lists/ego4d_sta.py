"""Ego4D's short-term object interaction anticipation: which objects will be touched next, and how.

    fho_sta_train.json, fho_sta_val.json, fho_sta_test_unannotated.json
        {"info": {"video_metadata": {VIDEO_UID: {"fps": 30.0, ...}}},
         "noun_categories": [{"id", "name"}], "verb_categories": [{"id", "name"}],
         "annotations": [{"uid", "video_id" or "video_uid", "frame", "clip_uid", "clip_frame", "objects": [
            {"box": [x1, y1, x2, y2], "noun_category_id", "verb_category_id", "time_to_contact"}]}]}

A row is a frame that was annotated. It begins there, at clip_frame / fps seconds of its clip (CLIP_UID.mp4),
and ends at the first contact, so that anticipation with tau_a = 0 sees all up to the frame and nothing after
it. Targets `verbs` and `nouns` are of all objects; `verb` and `noun` of the first that is touched, where
those touched at the same time have the same.

`--column video=video_uid` says that videos are the whole ones (VIDEO_UID.mp4), as those of Ego4D's own
features: rows then begin at frame / fps.

Boxes are not kept, and times to contact only as where the row ends: heads here say which classes, not where
or when, and the challenge's own measure, which asks for all, does not apply. Rows of the test list, without
objects, last for a frame.
"""

from collections.abc import Mapping
from pathlib import Path

from mambavl.cache.rows import Label
from mambavl.configs.errors import DataError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.ego4d import are_whole
from mambavl.extract.lists.json_source import Node, Unfit, class_of, read_json
from mambavl.extract.lists.listing import Listed, Listing, Names, Request, file_in
from mambavl.extract.tables import Tables

SPLITS = {
    "fho_sta_train.json": "train",
    "fho_sta_val.json": "validation",
    "fho_sta_test_unannotated.json": "test",
}
KINDS = ("verb", "noun")
FRAME_SLACK = 2  # frames by which the beginning of a clip, told by two of its rows, may differ
LATEST = 60.0  # seconds to contact; the task is of the next few


def read_sta(source: Path, request: Request) -> Listing:
    """`source`: the folder with the files above; those that are there are read. Raises DataError."""
    file_in(source, *SPLITS)
    tables, is_whole = Tables(source), are_whole(request)
    try:
        files = {name: read_json(tables, name) for name in SPLITS if (source / name).is_file()}
        lists = {kind: _categories(files, kind) for kind in KINDS}
        classes = {kind: Names("single", lists[kind]) for kind in KINDS}
        classes |= {f"{kind}s": Names("multi", lists[kind]) for kind in KINDS}
        listing = Listing(tables, classes, derived={"action": KINDS})
        begins: dict[str, tuple[float, str]] = {}  # clip -> its first frame in the video, and who says so
        for name, file in files.items():
            rates = {
                uid: one.get("fps").number() for uid, one in file.get("info").get("video_metadata").items()
            }
            for row in file.get("annotations").list():
                try:
                    _read_row(listing, row, SPLITS[name], rates, begins, is_whole)
                except Unfit as error:
                    tables.problem(str(error))
    except Unfit as error:
        raise DataError(str(error)) from None
    listing.notes.append("boxes are not kept, and of times to contact only the first, where a row ends")
    return listing


def _categories(files: Mapping[str, Node], kind: str) -> ClassList:
    """Of all files that have a list. Raises Unfit where an id has two names or a name two ids."""
    keys: dict[int, str] = {}
    for file in files.values():
        if file.has(f"{kind}_categories"):
            for one in file.get(f"{kind}_categories").list():
                class_id, name = one.get("id").whole(), one.get("name").text()
                if keys.setdefault(class_id, name) != name:
                    raise Unfit(f"{one.where}: {class_id} is {name!r}, and {keys[class_id]!r} before")
    if not keys:
        raise Unfit(f"{next(iter(files.values())).where}: names no class in {kind}_categories")
    if len(set(keys.values())) < len(keys):
        raise Unfit(f"{next(iter(files.values())).where}: two ids of {kind}_categories have one name")
    return ClassList.of(keys)


def _read_row(
    listing: Listing,
    row: Node,
    split: str,
    rates: Mapping[str, float],
    begins: dict[str, tuple[float, str]],
    is_whole: bool,
) -> None:
    """Raises Unfit for a row that does not fit."""
    name, clip = row.get("uid").text(), row.get("clip_uid").text()
    video = row.get("video_uid" if row.has("video_uid") else "video_id").text()
    if video not in rates:
        raise Unfit(f"{row.where}: info.video_metadata says no fps of its video, {video}")
    rate, frame = rates[video], row.get("clip_frame").whole()
    if not 0 < rate <= 1000:
        raise Unfit(f"{row.where}: its video has {rate:g} frames a second by info.video_metadata")
    begin = row.get("frame").whole() - frame
    known, where = begins.setdefault(clip, (begin, row.where))
    if abs(known - begin) > FRAME_SLACK:
        raise Unfit(
            f"{row.where}: clip {clip} begins at frame {begin} of its video by frame and clip_frame, and at "
            f"{known:g} by {where}"
        )
    frame, name_of_video = (row.get("frame").whole(), video) if is_whole else (frame, clip)
    start, stop = frame / rate, (frame + 1) / rate
    labels: dict[str, Label] = {}
    if split != "test":
        first, labels = _objects(row.get("objects").list(), row.where, listing.classes)
        stop = start + first
    listing.rows.append(Listed(row.where, name_of_video, start, stop, split, labels, name))


def _objects(objects: list[Node], where: str, classes: Mapping[str, Names]) -> tuple[float, dict[str, Label]]:
    """Seconds to the first contact, and the labels. Raises Unfit."""
    if not objects:
        raise Unfit(f"{where}: has no object")
    found: list[tuple[float, dict[str, int]]] = []
    for one in objects:
        seconds, box = one.get("time_to_contact").number(), [side.number() for side in one.get("box").list()]
        if not 0 < seconds <= LATEST:
            raise Unfit(
                f"{one.where}: its time to contact is {seconds:g} s, not above 0 and at most {LATEST:g}"
            )
        if len(box) != 4 or box[0] > box[2] or box[1] > box[3]:
            raise Unfit(f"{one.where}: its box {box} is not left, top, right, bottom")
        ids = {kind: one.get(f"{kind}_category_id") for kind in KINDS}
        found.append((seconds, {kind: class_of(node, classes[kind]) for kind, node in ids.items()}))
    first = min(seconds for seconds, _ in found)
    labels: dict[str, Label] = {}
    for kind in KINDS:
        labels[f"{kind}s"] = tuple(dict.fromkeys(ids[kind] for _, ids in found))
        next_ones = {ids[kind] for seconds, ids in found if seconds == first}
        if len(next_ones) == 1:
            labels[kind] = next_ones.pop()
    return first, labels
