"""Assembly101's fine-grained actions: CSV files, frames at 30 a second, verb, noun and action by id and name.

    train.csv, validation.csv, test.csv     id, video, start_frame, end_frame, action_id, verb_id, noun_id,
                                            action_cls, verb_cls, noun_cls, ...
    actions.csv                             action_id, verb_id, noun_id, action_cls, verb_cls, noun_cls

A video is SEQUENCE/VIEW.mp4; its id here is SEQUENCE_VIEW, and so must its file be called, for views have the
same names in all sequences.
"""

from collections.abc import Mapping
from pathlib import Path

from mambavl.cache.rows import Label
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.listing import Listed, Listing, Names, Request, file_in
from mambavl.extract.tables import Row, Tables

SPLITS = {"train.csv": "train", "validation.csv": "validation", "test.csv": "test"}
KINDS = ("action", "verb", "noun")
LABELS = tuple(f"{kind}_{what}" for what in ("id", "cls") for kind in KINDS)
FPS = 30  # at which frames are counted, whatever the video has


def read_assembly101(source: Path, request: Request) -> Listing:
    """`source`: the folder with the files above; the splits that are there are read. Raises DataError."""
    file_in(source, *SPLITS)
    tables = Tables(source)
    actions: dict[int, tuple[int, int]] = {}  # action -> verb and noun
    lists = _classes(tables, file_in(source, "actions.csv"), actions)
    listing = Listing(tables, {kind: Names("single", lists[kind]) for kind in KINDS})
    for name, split in SPLITS.items():
        if not (source / name).is_file():
            continue
        for row in tables.rows(name, ("id", "video", "start_frame", "end_frame", *LABELS)):
            frames = [row.integer(column, 0, 10**9) for column in ("start_frame", "end_frame")]
            labels = _labels(row, listing.classes, actions)
            video = row["video"].strip().removesuffix(".mp4").replace("/", "_")
            if labels is not None and frames[0] is not None and frames[1] is not None:
                times = frames[0] / FPS, frames[1] / FPS
                named = f"{video}_{row['id'].strip()}"
                text = row["action_cls"].strip()
                listing.rows.append(Listed(row.where, video, *times, split, labels, named, text=text))
    return listing


def _classes(tables: Tables, name: str, actions: dict[int, tuple[int, int]]) -> dict[str, ClassList]:
    """The names of all ids; fills `actions`. An id of two names, and a name of two ids, are problems."""
    keys: dict[str, dict[int, str]] = {kind: {} for kind in KINDS}
    known: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for row in tables.rows(name, LABELS):
        ids = [row.integer(f"{kind}_id", 0, 99_999) for kind in KINDS]
        for kind, class_id in zip(KINDS, ids, strict=True):
            key = row.text(f"{kind}_cls")
            if class_id is not None and keys[kind].setdefault(class_id, key) != key:
                row.problem(f"{kind}_id {class_id} is {key!r}, and {keys[kind][class_id]!r} before")
            elif class_id is not None and known[kind].setdefault(key, class_id) != class_id:
                row.problem(f"{key!r} is {kind}_id {class_id}, and {known[kind][key]} before")
        if ids[0] is not None and ids[1] is not None and ids[2] is not None:
            if ids[0] in actions:
                row.problem(f"action_id {ids[0]} occurs twice")
            actions[ids[0]] = (ids[1], ids[2])
    tables.finish()
    return {kind: ClassList.of(found) for kind, found in keys.items()}


def _labels(
    row: Row, classes: Mapping[str, Names], actions: Mapping[int, tuple[int, int]]
) -> dict[str, Label] | None:
    """None, and a problem, where ids, names and the verb and noun of the action say different things."""
    found: dict[str, int] = {}
    try:
        for kind, names in classes.items():
            class_id = row.integer(f"{kind}_id", 0, 99_999)
            if class_id is None:
                return None
            said = row[f"{kind}_cls"].strip()
            if (by_name := names.id_of(said)) != names.known(class_id):
                raise ValueError(f"{kind}_id {class_id}: {said!r} is {by_name} in actions.csv")
            found[kind] = class_id
    except ValueError as error:
        row.problem(str(error))
        return None
    if (pair := actions[found["action"]]) != (found["verb"], found["noun"]):
        row.problem(f"action {found['action']} is of verb {pair[0]} and noun {pair[1]} in actions.csv")
        return None
    return dict(found)
