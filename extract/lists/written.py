"""A listing as a folder of own lists (`extract.data_set`): targets.toml, classes and rows as CSV; and how
long the videos last, where that is known of all.
"""

import csv
import io
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import tomli_w

from mambavl.cache import fsops
from mambavl.cache.rows import Label, label_column
from mambavl.configs.errors import UsageError
from mambavl.extract.annotations import SPLITS, Annotations
from mambavl.extract.data_set import DATA_SET, ROW_COLUMNS, VIDEO_INFO, read_data_set
from mambavl.extract.lists.listing import Listed, Listing, Names

README = "# Written by `mambavl data init` from other lists; the digests of what it read:\n"


def write(listing: Listing, out: Path, durations: Mapping[str, float]) -> Annotations:
    """Write `out`, a folder that is not there yet, and read it again. durations: seconds by video.

    Either the whole folder is put in place or nothing. Raises UsageError where something lies there.
    """
    if out.exists():
        raise UsageError(f"{out}: is already there; choose another --out, or delete it first")
    fsops.make_folder(out.parent)
    aside = fsops.temporary_name(out)
    fsops.make_folder(aside)
    try:
        splits = _write_files(listing, aside, durations)
        read_data_set(aside, splits)  # what is put in place can be read
        fsops.rename(aside, out)
    finally:
        if aside.exists():
            fsops.remove_folder(aside)
    return read_data_set(out, splits)


def _write_files(listing: Listing, folder: Path, durations: Mapping[str, float]) -> tuple[str, ...]:
    """Returns the splits that have rows."""
    described: dict[str, object] = {
        "targets": {name: {"kind": names.kind} for name, names in listing.classes.items()}
    }
    if listing.derived:
        described["derived"] = {name: {"of": list(of)} for name, of in listing.derived.items()}
    read = "".join(f"#   {name} {digest}\n" for name, digest in sorted(listing.tables.sha256.items()))
    text = f"{README}{read}\n{tomli_w.dumps(described)}"
    fsops.write_file(folder / DATA_SET, text.encode())
    for name, names in listing.classes.items():
        fsops.write_file(folder / f"{name}_classes.csv", _classes(names))
    splits = tuple(split for split in SPLITS if any(row.split == split for row in listing.rows))
    for split in splits:
        rows = [row for row in listing.rows if row.split == split]
        fsops.write_file(folder / f"{split}.csv", _rows(rows, listing.classes))
    videos = sorted({row.video for row in listing.rows})
    if durations.keys() >= set(videos):
        table = [[video, _seconds(durations[video])] for video in videos]
        fsops.write_file(folder / VIDEO_INFO, _csv([["video_id", "duration"], *table]))
    return splits


def _csv(rows: list[list[str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _classes(names: Names) -> bytes:
    if names.given is None:
        return _csv([["id", "key"], *([str(class_id), key] for key, class_id in names.ids.items())])
    table = [["id", "key", "instances", "category"]]
    for class_id, key in names.given.keys.items():
        words = [str(word) for word in names.given.instances[class_id]]
        table.append([str(class_id), key, repr(words), names.given.categories[class_id]])
    return _csv(table)


def _rows(rows: list[Listed], classes: dict[str, Names]) -> bytes:
    columns = [label_column(name, names.kind == "multi") for name, names in classes.items()]
    table = [[*ROW_COLUMNS, "narration", *columns]]
    for row in rows:
        labels = [_label(row.labels.get(name)) for name in classes]
        times = [_seconds(row.start), _seconds(row.stop)]
        table.append([row.name, row.participant, row.video, *times, row.text, *labels])
    return _csv(table)


def _label(label: Label | None) -> str:
    if label is None:
        return ""
    return str(label) if isinstance(label, int) else repr(list(label))


def _seconds(value: float) -> str:
    """The shortest digits that are this number, without an exponent; 20 after the point at most."""
    before, _, after = format(Decimal(repr(value)), "f").partition(".")
    return f"{before}.{after[:20] or 0}"
