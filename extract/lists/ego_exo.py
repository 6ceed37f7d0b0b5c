"""Ego-Exo4D's keysteps: one class a segment, from a vocabulary that all scenarios share.

    keystep_train.json, keystep_val.json
        {"annotations": {TAKE_UID: {"take_uid", "take_name", "segments": [
            {"start_time", "end_time", "step_unique_id", "step_name", "step_description", ...}]}},
         "vocabulary": {"818": "Check the expiration date", ...}, "taxonomy": {...}}

Times are seconds of the take, for all of its cameras are cut alike. A video is a take: its file must be
called TAKE_NAME.mp4, since the frame-aligned videos of a camera have the same name in every take. Of the
scenario, of steps within the taxonomy and of `is_essential` nothing is kept. Who is seen is not said here.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mambavl.configs.errors import DataError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.json_source import Node, Unfit, class_of, read_json
from mambavl.extract.lists.listing import Listed, Listing, Names, Request, file_in, whole
from mambavl.extract.tables import Tables

SPLITS = {"keystep_train.json": "train", "keystep_val.json": "validation"}


def read_ego_exo(source: Path, request: Request) -> Listing:
    """`source`: the folder with the files above; those that are there are read. Raises DataError."""
    file_in(source, *SPLITS)
    tables = Tables(source)
    try:
        files = {name: read_json(tables, name) for name in SPLITS if (source / name).is_file()}
        said = _vocabulary(files)
        listing = Listing(tables, {"keystep": Names("single", ClassList.of(_told_apart(said)))})
        for name, whole_file in files.items():
            for uid, take in whole_file.get("annotations").items():
                _read_take(listing, uid, take, SPLITS[name], said)
    except Unfit as error:
        raise DataError(str(error)) from None
    return listing


def _vocabulary(files: Mapping[str, Node]) -> dict[int, str]:
    """The keysteps of all files. Raises Unfit where two say different things of an id."""
    keys: dict[int, str] = {}
    for file in files.values():
        for number, name in file.get("vocabulary").items():
            class_id = whole(number)
            if class_id is None:
                raise Unfit(f"{name.where}: {number!r} is not the id of a keystep")
            if keys.setdefault(class_id, name.text()) != name.text():
                raise Unfit(f"{name.where}: is {name.text()!r}, and {keys[class_id]!r} in the other list")
    if not keys:
        raise Unfit(f"{next(iter(files.values())).where}.vocabulary: names no keystep")
    return keys


def _told_apart(said: Mapping[int, str]) -> dict[int, str]:
    """Names by id, with the id behind a name that several have."""
    counts = Counter(said.values())
    return {number: name if counts[name] == 1 else f"{name} [{number}]" for number, name in said.items()}


def _read_take(listing: Listing, uid: str, take: Node, split: str, said: Mapping[int, str]) -> None:
    """What does not fit is a problem of the listing."""
    try:
        name, known_as = take.get("take_name").text(), take.get("take_uid").text()
        if known_as != uid:
            raise Unfit(f"{take.where}: its take_uid is {known_as}")
        segments = take.get("segments").list()
    except Unfit as error:
        listing.tables.problem(str(error))
        return
    for place, segment in enumerate(segments):
        try:
            start, stop = segment.get("start_time").number(), segment.get("end_time").number()
            step = _step(segment, listing.classes["keystep"], said)
            text = segment.get("step_description").text() if segment.has("step_description") else ""
        except Unfit as error:
            listing.tables.problem(str(error))
            continue
        listing.rows.append(
            Listed(segment.where, name, start, stop, split, {"keystep": step}, f"{name}_{place}", text=text)
        )


def _step(segment: Node, names: Names, vocabulary: Mapping[int, str]) -> int:
    """Raises Unfit for an id that the vocabulary does not have, or has for another name."""
    node, said = segment.get("step_unique_id"), segment.get("step_name").text()
    step = class_of(node, names)
    if vocabulary[step].casefold() != said.casefold():
        raise Unfit(f"{node.where}: {said!r} is {step} here, and {vocabulary[step]!r} in the vocabulary")
    return step
