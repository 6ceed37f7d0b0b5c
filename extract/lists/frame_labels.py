"""Temporal action segmentation as MS-TCN reads it (GTEA, 50Salads, Breakfast): a label a frame.

    mapping.txt                 id and name of a class a line, ids from 0
    groundTruth/VIDEO.txt       the name of the class a line, the first at 0 s
    splits/train.split1.bundle  names of files in groundTruth, a line each; test.split1.bundle: validation

A row is a run of one class. Nothing here says how many frames a second there are: --fps.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.listing import Listed, Listing, Names, Request, file_in, text_lines, whole
from mambavl.extract.tables import Tables

BUNDLES = {"splits/train.split{}.bundle": "train", "splits/test.split{}.bundle": "validation"}


def read_frame_labels(source: Path, request: Request) -> Listing:
    """`source`: the folder with the files above. Raises DataError, UsageError without a rate or a fold."""
    missing = [
        asked
        for asked, given in (
            ("--fps RATE, at which its labels are counted", request.fps),
            ("--fold NUMBER, whose bundles are the splits", request.fold),
        )
        if given is None
    ]
    if missing:
        raise UsageError("\n  ".join([f"{source}: say", *missing]))
    tables = Tables(source)
    names = Names("single", _mapping(tables))
    listing = Listing(tables, {"action": names}, is_whole=True)
    for video, split, where in _videos(tables, request.fold or 1):
        path = f"groundTruth/{video}.txt"
        if not (source / path).is_file():
            tables.problem(f"{where}: there is no {source / path}")
            continue
        listing.rows += _runs(tables, path, video, split, names, request.fps or 1.0)
    return listing


def _mapping(tables: Tables) -> ClassList:
    keys: dict[int, str] = {}
    for where, line in text_lines(tables, file_in(tables.folder, "mapping.txt")):
        number, _, key = line.partition(" ")
        class_id = whole(number)
        if class_id is None or not key.strip() or class_id in keys:
            tables.problem(f"{where}: {line!r} is not an id of its own and a name")
        else:
            keys[class_id] = key.strip()
    if sorted(keys) != list(range(len(keys))):
        tables.problem(f"{tables.folder / 'mapping.txt'}: its ids are not 0 to {len(keys) - 1}")
    tables.finish()
    if not keys:
        raise DataError(f"{tables.folder / 'mapping.txt'}: lists no class")
    return ClassList.of(keys)


def _videos(tables: Tables, fold: int) -> Iterator[tuple[str, str, str]]:
    """Video, split and place of each line of the fold's bundles."""
    first: dict[str, str] = {}
    for pattern, split in BUNDLES.items():
        for where, line in text_lines(tables, file_in(tables.folder, pattern.format(fold))):
            video = line.removesuffix(".txt")
            if (known := first.setdefault(video, where)) != where:
                tables.problem(
                    f"{where}: video {video} is in the bundles of fold {fold} twice, first in {known}"
                )
            else:
                yield video, split, where


def _runs(tables: Tables, path: str, video: str, split: str, names: Names, fps: float) -> Iterator[Listed]:
    place = 0
    if not tables.text(path).strip():
        tables.problem(f"{tables.folder / path}: holds no label")
    for label, run in groupby(text_lines(tables, path), key=lambda line: line[1]):
        lines = list(run)
        begin, place = place, place + len(lines)
        try:
            labels = {"action": names.id_of(label)}
        except ValueError as error:
            tables.problem(f"{lines[0][0]}: {error}")
            continue
        yield Listed(lines[0][0], video, begin / fps, place / fps, split, labels)
