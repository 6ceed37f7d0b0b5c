"""EGTEA Gaze+: `;` between cells, milliseconds, a verb and several nouns a row.

    action_labels.csv       clip id; prefix; session; start; end (ms); action; verb; noun,noun
                            (in the folder, or in raw_annotations/ below it)
    train_split1.txt, ...   a line a clip: its name, which begins with the prefix; ids of action, verb, nouns
    action_idx.txt, verb_idx.txt, noun_idx.txt      a name and its id, counted from 1, a line

Classes have their ids less 1 where the idx files are there, and else stand in order of appearance.
"""

from pathlib import Path

from mambavl.cache.rows import Label
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.class_lists import ClassList
from mambavl.extract.lists.listing import (
    Listed,
    Listing,
    Names,
    Request,
    file_in,
    split_of_all,
    text_lines,
    whole,
)
from mambavl.extract.tables import Row, Tables

LABELS = ("action_labels.csv", "raw_annotations/action_labels.csv")
PREFIX, SESSION, START, STOP = "Clip Prefix", "Video Session", "Starting Time", "Ending Time"
ACTION, VERB, NOUNS = "Action Label", "Verb Label", "Noun Label"
FOLDS = {"train_split{}.txt": "train", "test_split{}.txt": "validation"}


def read_egtea(source: Path, request: Request) -> Listing:
    """`source`: the folder with the files above. Raises DataError, UsageError where the split is not said."""
    name = file_in(source, *LABELS)
    tables = Tables(source)
    listing = Listing(
        tables,
        {
            "action": Names("single", _numbered(tables, "action_idx.txt")),
            "verb": Names("single", _numbered(tables, "verb_idx.txt")),
            "noun": Names("multi", _numbered(tables, "noun_idx.txt")),
        },
    )
    splits = _splits(tables, listing.classes, request)
    left_out = 0
    for row in tables.rows(name, (), ";"):
        row = _stripped(row)
        prefix, times = row[PREFIX], _times(row)
        split, ids = splits.pop(prefix, (None, [])) if splits is not None else (request.split, [])
        if splits is not None and split is None:
            left_out += 1
            continue
        labels = _labels(row, listing.classes, ids)
        if times is not None and labels is not None and split is not None:
            listing.rows.append(
                Listed(row.where, row[SESSION], *times, split, labels, name=prefix, text=row[ACTION])
            )
    for prefix in splits or ():
        tables.problem(f"{source / name}: has no clip {prefix}, which a list of fold {request.fold} names")
    if left_out:
        listing.notes.append(f"{left_out:,} clips are in neither list of fold {request.fold}, and left out")
    return listing


def _stripped(row: Row) -> Row:
    """With columns and cells as the file means them: blanks around them, a # before the first, units."""
    columns = (PREFIX, SESSION, START, STOP, ACTION, VERB, NOUNS)
    cells = {}
    for header, cell in row.cells.items():
        known = [column for column in columns if header.strip(" #").startswith(column)]
        cells.update({column: cell.strip() for column in known})
    if missing := [column for column in columns if column not in cells]:
        raise DataError(
            f"{row.tables.folder}: action_labels.csv has no column {', '.join(missing)}; its header is "
            f"{'; '.join(header.strip() for header in row.cells)}"
        )
    return Row(row.tables, row.where, cells)


def _times(row: Row) -> tuple[float, float] | None:
    """Seconds. The name of a clip holds its session and both times, and must say the same."""
    start, stop = row.integer(START, 0, 10**8), row.integer(STOP, 0, 10**8)
    if start is None or stop is None:
        return None
    if row[PREFIX] != f"{row[SESSION]}-{start}-{stop}":
        row.problem(f"clip {row[PREFIX]} is said to be {row[SESSION]}, from {start} to {stop} ms")
        return None
    return start / 1000, stop / 1000


def _labels(row: Row, classes: dict[str, Names], ids: list[int]) -> dict[str, Label] | None:
    """ids: of action, verb and nouns, by the list of the fold; they must be those of the names."""
    try:
        action, verb = classes["action"].id_of(row[ACTION]), classes["verb"].id_of(row[VERB])
        nouns = tuple(classes["noun"].id_of(noun.strip()) for noun in row[NOUNS].split(",") if noun.strip())
    except ValueError as error:
        row.problem(str(error))
        return None
    if ids and (ids[:2], sorted(ids[2:])) != ([action, verb], sorted(nouns)):
        said, own = ([one + 1 for one in found] for found in (ids, [action, verb, *nouns]))
        row.problem(f"its names have the ids {own} of action, verb, nouns; the list of the fold says {said}")
        return None
    if len(set(nouns)) < len(nouns):
        row.problem(f"names a noun twice: {row[NOUNS]}")
        return None
    return {"action": action, "verb": verb, "noun": nouns}


def _numbered(tables: Tables, name: str) -> ClassList | None:
    """A name and its id a line; None where there is no such file."""
    if not (tables.folder / name).is_file():
        return None
    keys: dict[int, str] = {}
    for where, line in text_lines(tables, name):
        key, _, number = line.rpartition(" ")
        class_id = whole(number)
        if class_id is None or not key.strip() or class_id - 1 in keys:
            tables.problem(f"{where}: {line!r} is not a name and an id of its own")
        else:
            keys[class_id - 1] = key.strip()
    if sorted(keys) != list(range(len(keys))):
        tables.problem(f"{tables.folder / name}: its ids are not 1 to {len(keys)}")
    tables.finish()
    return ClassList.of(keys)


def _splits(
    tables: Tables, classes: dict[str, Names], request: Request
) -> dict[str, tuple[str | None, list[int]]] | None:
    """The split of each clip of the fold, and the ids of its labels; None where all rows are of one split."""
    if request.fold is None:
        split_of_all(request, f"{tables.folder}: name the fold whose lists split it, --fold 1 (to 3), or")
        return None
    if request.split is not None:
        raise UsageError("--fold and --split: give one of them")
    has_ids = all(names.given is not None for names in classes.values())
    found: dict[str, tuple[str | None, list[int]]] = {}
    for pattern, split in FOLDS.items():
        for where, line in text_lines(tables, file_in(tables.folder, pattern.format(request.fold))):
            clip, *numbers = line.split()
            prefix = "-".join(clip.split("-")[:5])
            ids = [whole(number) for number in numbers]
            if None in ids or not clip:
                tables.problem(f"{where}: {line!r} is not the name of a clip and ids")
            elif prefix in found:
                tables.problem(f"{where}: clip {prefix} is in the lists of fold {request.fold} twice")
            else:
                found[prefix] = (split, [one - 1 for one in ids if one is not None] if has_ids else [])
    return found
