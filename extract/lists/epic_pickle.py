"""Rows of EPIC-KITCHENS as pickled DataFrames, as EPIC-55's annotations, the splits of MM-SADA and the
courses that use them keep them: EPIC's columns, a row an action.

    NAME.pkl    video_id, start_timestamp, stop_timestamp, verb_class; noun_class, participant_id, narration
                and uid or narration_id (columns, or the index) where they are there

Which split a file is, its name does not say: `--split-as D1_train=train --split-as D2_test=validation`; files
that are not named are not read. Times are HH:MM:SS.ss; frames are not looked at. A class has a number here,
and whatever word each row happened to use, so its name comes from a list: `--classes verb=FILE`. Nothing of a
pickle is run.
"""

import re
from pathlib import Path
from typing import Any

from mambavl.cache.canonical import file_sha256
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.extract.annotations import SPLITS
from mambavl.extract.lists.class_columns import class_list
from mambavl.extract.lists.json_source import Node, Unfit, class_of
from mambavl.extract.lists.listing import NOBODY, Listed, Listing, Names, Request
from mambavl.extract.lists.pandas_pickle import read_frame
from mambavl.extract.tables import Tables

TIMES = ("start_timestamp", "stop_timestamp")
KINDS = ("verb", "noun")
IDS = ("uid", "narration_id")
CLOCK = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)")


def read_epic_pickle(source: Path, request: Request) -> Listing:
    """`source`: a folder of NAME.pkl. Raises DataError; UsageError where splits or classes are not said."""
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    there = sorted(path.stem for path in source.glob("*.pkl"))
    if not request.splits:
        raise UsageError(
            f"{source}: say which of its files ({some(there) or 'none'}) is which split: --split-as "
            f"{there[0] if there else 'NAME'}=train (or {', '.join(SPLITS[1:])})"
        )
    tables = Tables(source)
    frames = {name: read_frame(source / f"{name}.pkl") for name in request.splits}
    kinds = _kinds(source, frames, request)
    listing = Listing(tables, {kind: Names("single", class_list(request.classes[kind])) for kind in kinds})
    if len(kinds) == len(KINDS):
        listing.derived["action"] = KINDS
    for name, columns in frames.items():
        tables.sha256[f"{name}.pkl"] = file_sha256(source / f"{name}.pkl")
        for place in range(len(columns["video_id"])):
            node = Node(f"{source / name}.pkl: row {place}", {key: columns[key][place] for key in columns})
            try:
                listing.rows.append(_row(node, request.splits[name], listing.classes))
            except Unfit as error:
                tables.problem(str(error))
    return listing


def _kinds(source: Path, frames: dict[str, dict[str, list[Any]]], request: Request) -> list[str]:
    """What all files are labelled with. Raises DataError for other columns, UsageError for missing lists."""
    for name, columns in frames.items():
        if missing := [column for column in ("video_id", *TIMES, "verb_class") if column not in columns]:
            raise DataError(
                f"{source / name}.pkl: has no column {', '.join(missing)}; its columns are "
                f"{', '.join(columns)}"
            )
    found = [kind for kind in KINDS if all(f"{kind}_class" in columns for columns in frames.values())]
    if asked := [
        f"--classes {kind}=FILE (its classes by id)" for kind in found if kind not in request.classes
    ]:
        raise UsageError("\n  ".join([f"{source}: say", *asked]))
    if loose := sorted(request.classes.keys() - set(found)):
        raise UsageError(f"--classes {loose[0]}=...: not every file has a column {loose[0]}_class")
    return found


def _row(node: Node, split: str, classes: dict[str, Names]) -> Listed:
    """Raises Unfit for what does not fit, with its place."""
    video = node.get("video_id").text()
    start, stop = (_seconds(node.get(key)) for key in TIMES)
    labels = {kind: class_of(node.get(f"{kind}_class"), names) for kind, names in classes.items()}
    named = next((node.get(key) for key in IDS if node.has(key)), None)
    name = ""
    if named is not None:
        name = str(named.value).strip() if isinstance(named.value, str) else f"{video}_{named.whole()}"
    participant = node.get("participant_id").text() if node.has("participant_id") else NOBODY
    text = node.get("narration").text() if node.has("narration") else ""
    return Listed(node.where, video, start, stop, split, dict(labels), name, participant, text)


def _seconds(node: Node) -> float:
    match = CLOCK.fullmatch(node.text())
    if not match:
        raise Unfit(f"{node.where}: {node.text()!r} is not a time HH:MM:SS.ss")
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
