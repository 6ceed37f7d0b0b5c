"""Ego4D's long-term anticipation (forecasting of hands and objects): verbs and nouns by clip.

    fho_lta_train.json, fho_lta_val.json, fho_lta_test_unannotated.json
        {"clips": [{"clip_uid", "action_idx", "action_clip_start_sec", "action_clip_end_sec",
                    "verb_label", "noun_label", "verb", "noun", ...}]}
    fho_lta_taxonomy.json       {"verbs": [name, ...], "nouns": [name, ...]}, by id

Videos are the clips (CLIP_UID.mp4), and times are seconds of these. `--column video=video_uid` says that they
are the whole videos (VIDEO_UID.mp4), as those of Ego4D's own features; times are then seconds of these.
"""

from collections.abc import Mapping
from pathlib import Path

from mambavl.cache.rows import Label
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.json_source import Node, Unfit, read_json
from mambavl.extract.lists.listing import Listed, Listing, Names, Request, file_in
from mambavl.extract.tables import Tables

SPLITS = {
    "fho_lta_train.json": "train",
    "fho_lta_val.json": "validation",
    "fho_lta_test_unannotated.json": "test",
}
FPS = 30  # of clips; the frames of a row, where it has any, count at it
FRAME_SLACK = 2  # frames by which they may differ from the seconds


def read_ego4d(source: Path, request: Request) -> Listing:
    """`source`: the folder with the files above; those that are there are read. Raises DataError."""
    file_in(source, *SPLITS)
    tables, is_whole = Tables(source), are_whole(request)
    try:
        taxonomy = read_json(tables, file_in(source, "fho_lta_taxonomy.json"))
        classes = {kind: Names("single", _class_list(taxonomy.get(f"{kind}s"))) for kind in ("verb", "noun")}
        listing = Listing(tables, classes, derived={"action": ("verb", "noun")})
        for name, split in SPLITS.items():
            if (source / name).is_file():
                for clip in read_json(tables, name).get("clips").list():
                    _read_row(listing, clip, split, is_whole)
    except Unfit as error:
        raise DataError(str(error)) from None
    return listing


def are_whole(request: Request) -> bool:
    """Whether videos are whole ones and not clips. Raises UsageError for what is neither."""
    named = dict(request.columns)
    if (key := named.pop("video", "clip_uid")) not in ("clip_uid", "video_uid") or named:
        raise UsageError("--column: of Ego4D only video=clip_uid or video=video_uid can be said")
    return key == "video_uid"


def _class_list(names: Node) -> ClassList:
    keys = {number: name.text() for number, name in enumerate(names.list())}
    if not keys:
        raise Unfit(f"{names.where}: names no class")
    return ClassList.of(keys)


def _read_row(listing: Listing, row: Node, split: str, is_whole: bool) -> None:
    """A row that does not fit is a problem of the listing."""
    try:
        clip, place = row.get("clip_uid").text(), row.get("action_idx").whole()
        start, stop = (_seconds(row, end) for end in ("start", "end"))
        labels = {} if split == "test" else _labels(row, listing.classes)
        video = clip
        if is_whole:
            video, begin = row.get("video_uid").text(), row.get("clip_parent_start_sec").number()
            start, stop = begin + start, begin + stop
        elif row.has("clip_parent_start_sec") and row.has("clip_parent_end_sec"):
            ends = row.get("clip_parent_start_sec").number(), row.get("clip_parent_end_sec").number()
            listing.durations[clip] = ends[1] - ends[0]
    except Unfit as error:
        listing.tables.problem(str(error))
        return
    text = " ".join(row.get(key).text() for key in ("verb", "noun")) if labels else ""
    listing.rows.append(Listed(row.where, video, start, stop, split, labels, f"{clip}_{place}", text=text))


def _seconds(row: Node, end: str) -> float:
    """Raises Unfit where a frame says something else."""
    seconds = row.get(f"action_clip_{end}_sec").number()
    key = f"action_clip_{end}_frame"
    if row.has(key) and abs(row.get(key).number() - seconds * FPS) > FRAME_SLACK:
        raise Unfit(
            f"{row.where}: its {end} is at {seconds:.2f} s, frame {seconds * FPS:.0f} at {FPS} a second, and "
            f"{key} says {row.get(key).number():.0f}"
        )
    return seconds


def _labels(row: Node, classes: Mapping[str, Names]) -> dict[str, Label]:
    """Raises Unfit for an id that the taxonomy does not have, or has for another name."""
    found: dict[str, Label] = {}
    for kind, names in classes.items():
        node, said = row.get(f"{kind}_label"), row.get(kind).text()
        try:
            found[kind] = names.known(node.whole())
            by_name = names.id_of(said)
        except Unfit:
            raise
        except ValueError as error:
            raise Unfit(f"{node.where}: {error}") from None
        if by_name != found[kind]:
            raise Unfit(f"{node.where}: {said!r} is {by_name} in the taxonomy, and {found[kind]} here")
    return found
