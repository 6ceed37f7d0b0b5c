"""HD-EPIC's narrations: several verbs and nouns a row, with EK100's classes.

    HD_EPIC_Narrations.pkl      a pandas DataFrame; or HD_EPIC_Narrations.csv, as `frame.to_csv` writes it
    HD_EPIC_verb_classes.csv, HD_EPIC_noun_classes.csv      id, key, instances, category

Targets `verb` and `noun` are those of the main action of a row that has one; `verbs` and `nouns` are all that
its narration names. Times are seconds.

`--classes verb=FILE`, and noun, takes `verb` and `noun` from a shorter list of the same ids, such as EK100's,
so that heads of these classes can be scored; a main action of another class is then no label.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mambavl.cache.canonical import file_sha256
from mambavl.cache.rows import Label
from mambavl.configs.errors import DataError, UsageError, counted
from mambavl.extract.class_lists import ClassList, read_classes
from mambavl.extract.lists.class_columns import class_list
from mambavl.extract.lists.json_source import Node, Unfit, class_of
from mambavl.extract.lists.listing import (
    Listed,
    Listing,
    Names,
    Request,
    agreement,
    file_in,
    split_of_all,
)
from mambavl.extract.lists.pandas_pickle import read_frame
from mambavl.extract.tables import Tables

NARRATIONS = ("HD_EPIC_Narrations.pkl", "HD_EPIC_Narrations.csv")
TEXTS = ("unique_narration_id", "participant_id", "video_id", "narration")
NUMBERS = ("start_timestamp", "end_timestamp")
LISTS = ("verbs", "nouns", "verb_classes", "noun_classes", "main_action_classes")


def read_hd_epic(source: Path, request: Request) -> Listing:
    """`source`: the folder with the files above. Raises DataError; UsageError where the split is not said."""
    split = split_of_all(request, f"{source}: HD-EPIC has no splits of its own")
    name = file_in(source, *NARRATIONS)
    tables = Tables(source)
    verbs, nouns = (
        read_classes(tables, file_in(source, f"HD_EPIC_{kind}_classes.csv"), ("id", "key", "instances"))
        for kind in ("verb", "noun")
    )
    if others := sorted(request.classes.keys() - {"verb", "noun"}):
        raise UsageError(f"--classes {others[0]}=...: of HD-EPIC verb and noun may have another list")
    main = {
        kind: _shorter(request.classes[kind], theirs) if kind in request.classes else theirs
        for kind, theirs in (("verb", verbs), ("noun", nouns))
    }
    listing = Listing(
        tables,
        {
            "verb": Names("single", main["verb"]),
            "noun": Names("single", main["noun"]),
            "verbs": Names("multi", verbs),
            "nouns": Names("multi", nouns),
        },
    )
    listing.derived["action"] = ("verb", "noun")
    words = {"verbs": [0, 0], "nouns": [0, 0]}  # of all words, those that are of the class of their id
    beyond = {"verb": 0, "noun": 0}  # rows whose main action has a class that a shorter list lacks
    for node in _rows(tables, name):
        try:
            listing.rows.append(_row(node, split, listing.classes, words, beyond))
        except ValueError as error:
            tables.problem(str(error))
    tables.finish()
    for column, (right, all) in words.items():
        agreement(f"{source / name}: {column}", right, all)
    for kind, count in beyond.items():
        if count:
            listing.notes.append(
                f"{counted(count, 'row')} of {len(listing.rows):,} have a {kind} that "
                f"{request.classes[kind]} does not list, and no label of it"
            )
    return listing


def _shorter(path: Path, theirs: ClassList) -> ClassList:
    """Another list of classes with ids of theirs. Raises DataError where its ids mean other things."""
    given = class_list(path)
    if unknown := [class_id for class_id in given.keys if class_id not in theirs.keys]:
        raise DataError(f"{path}: class {unknown[0]} ({given.keys[unknown[0]]}) is not in HD-EPIC's list")
    same = sum(
        key == theirs.keys[class_id] or key in theirs.instances[class_id]
        for class_id, key in given.keys.items()
    )
    agreement(str(path), same, len(given.keys))
    return given


def _rows(tables: Tables, name: str) -> list[Node]:
    """A record a row. Raises DataError for a table without the columns."""
    if name.endswith(".csv"):
        return [
            Node(row.where, {**{key: row[key].strip() for key in TEXTS}, **_evaluated(row.cells)})
            for row in tables.rows(name, (*TEXTS, *NUMBERS, *LISTS))
        ]
    path = tables.folder / name
    columns = read_frame(path)
    tables.sha256[name] = file_sha256(path)
    if missing := [column for column in (*TEXTS, *NUMBERS, *LISTS) if column not in columns]:
        raise DataError(f"{path}: has no column {', '.join(missing)}; its columns are {', '.join(columns)}")
    count = len(columns[TEXTS[0]])
    return [
        Node(
            f"{path}: row {place}", {column: columns[column][place] for column in (*TEXTS, *NUMBERS, *LISTS)}
        )
        for place in range(count)
    ]


def _evaluated(cells: Mapping[str, str]) -> dict[str, Any]:
    """Numbers and printed lists of a CSV file; what is neither stays text, and is refused as such."""
    found: dict[str, Any] = {}
    for column in (*NUMBERS, *LISTS):
        try:
            found[column] = ast.literal_eval(cells[column].strip()[:10_000])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found[column] = cells[column]
    return found


def _row(
    node: Node,
    split: str,
    classes: Mapping[str, Names],
    words: dict[str, list[int]],
    beyond: dict[str, int],
) -> Listed:
    """Raises ValueError for what does not fit, with its place."""
    name, participant, video, narration = (node.get(key).text() for key in TEXTS)
    if not name.startswith(f"{video}-"):
        raise Unfit(f"{node.where}: narration {name} is not of its video, {video}")
    if not video.startswith(f"{participant}-"):
        raise Unfit(f"{node.where}: video {video} is not of its participant, {participant}")
    start, stop = (node.get(key).number() for key in NUMBERS)
    labels: dict[str, Label] = {}
    for target, key in (("verbs", "verb_classes"), ("nouns", "noun_classes")):
        ids = [class_of(one, classes[target]) for one in node.get(key).list()]
        said = [one.text() for one in node.get(target).list()]
        if len(said) != len(ids):
            raise Unfit(f"{node.where}: has {len(said)} {target} and {len(ids)} {key}")
        for word, class_id in zip(said, ids, strict=True):
            words[target][0] += _is_of(word, class_id, classes[target])
            words[target][1] += 1
        labels[target] = tuple(dict.fromkeys(ids))
    mains = node.get("main_action_classes").list()
    for main in mains:
        pair = main.list()
        if len(pair) != 2:
            raise Unfit(f"{main.where}: has {len(pair)} classes, not a verb and a noun")
        for kind, one in zip(("verb", "noun"), pair, strict=True):
            class_id = class_of(one, classes[f"{kind}s"])
            if len(mains) > 1:
                continue
            if class_id in classes[kind].ids.values():
                labels[kind] = class_id
            else:
                beyond[kind] += 1
    return Listed(node.where, video, start, stop, split, labels, name, participant, narration)


def _is_of(word: str, class_id: int, names: Names) -> bool:
    """Whether a word is the key or an instance of a class; instances join their parts with - or a blank."""
    if names.given is None:
        return False
    known = (names.given.keys[class_id], *names.given.instances[class_id])
    return word.replace(" ", "-") in {one.replace(" ", "-") for one in known}
