"""What one setting is worth: pairs of entries that differ in nothing else, on the same rows.

Settings of a recipe are told one by one. A head with all that is its own, the streams, and what the streams
tell (their stores, with the protocols of text and history) count as one setting each.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from mambavl.fuse.decided import decided
from mambavl.fuse.idle import OWN, flatten
from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.intervals import Intervals, are_alike, cell, parted
from mambavl.fuse.report.measured import Measured
from mambavl.fuse.report.tables import DASH, Cell, Column, Table, table
from mambavl.fuse.result import spoken

HEAD, STREAMS, TOLD, SPLIT = "head", "streams", "what streams tell", "split"
OF_HEAD = (*(f"{section}." for section in OWN), "head.name", "train.lr_ssm")


def setting_apart(one: Entry, other: Entry) -> tuple[str, str, str] | None:
    """The only setting in which two entries differ, and what it is in each; None where it is none or several,
    or where one of them mixes several runs.
    """
    return _apart(_settings(one), _settings(other))


def _apart(mine: dict[str, Any] | None, theirs: dict[str, Any] | None) -> tuple[str, str, str] | None:
    if mine is None or theirs is None or mine[SPLIT] != theirs[SPLIT]:
        return None
    apart = [key for key in dict.fromkeys([*mine, *theirs]) if mine.get(key) != theirs.get(key)]
    if HEAD in apart:  # keys that one of the heads alone has go with it
        apart = [key for key in apart if not key.startswith(OF_HEAD) or (key in mine and key in theirs)]
    if STREAMS in apart:  # as what they tell does with streams that one has alone
        if mine[TOLD].keys() - theirs[TOLD].keys() and theirs[TOLD].keys() - mine[TOLD].keys():
            return None  # one in the place of another
        both = mine[TOLD].keys() & theirs[TOLD].keys()
        is_same = all(mine[TOLD][name] == theirs[TOLD][name] for name in both)
        apart = [key for key in apart if key != TOLD or not is_same]
    if len(apart) != 1:
        return None
    return apart[0], _in_words(mine.get(apart[0])), _in_words(theirs.get(apart[0]))


def _settings(entry: Entry) -> dict[str, Any] | None:
    """None of a mixture."""
    if entry.first.fused:
        return None
    raw = flatten(decided(entry.first, "train.seed"))
    found = {key: value for key, value in raw.items() if not key.startswith("streams.")}
    found[HEAD] = found.pop("head.name", entry.first.head)
    found[SPLIT], found[STREAMS] = entry.first.split, entry.streams
    found[TOLD] = {
        name: [list(one.store_ids), one.level, _apart_from_store(raw, name)]
        for name, one in entry.first.streams.items()
    }
    return found


def _apart_from_store(raw: dict[str, Any], name: str) -> dict[str, Any]:
    """What the recipe says of a stream: which of its tokens are read, whose modality it shares."""
    prefix = f"streams.{name}."
    return {key: one for key, one in raw.items() if key.startswith(prefix) and key != f"{prefix}store"}


def _in_words(value: Any) -> str:
    return "default" if value is None else str(value)


def controls(
    measured: Sequence[Measured], columns: Sequence[tuple[str, str]], intervals: Intervals
) -> tuple[Table | None, list[str]]:
    """The table, where there is a pair, and a line for each pair that has other rows or seeds, or a main
    measure to tell. Of several values of a setting each is shown beside the first. columns: those of
    `headlines`.
    """
    rows: list[list[Cell]] = []
    said: list[str] = []
    seen: set[tuple[int, str]] = set()
    settings = [_settings(one.entry) for one in measured]
    for first, number in itertools.combinations(range(len(measured)), 2):
        one, other = measured[number], measured[first]
        found = _apart(settings[number], settings[first])
        if found is None or (number, found[0]) in seen:
            continue
        setting, mine, theirs = found
        seen.add((number, setting))
        if setting == TOLD:
            mine, theirs = one.entry.first.protocols, other.entry.first.protocols
        if setting == "fusion.share" and mine == "none":  # told of what shares
            one, other, mine, theirs = other, one, theirs, mine
        if why := _why_not(one, other, [key for _, key in columns]):
            said.append(
                f"“{one.entry.title}” and “{other.entry.title}” differ in {setting} alone, but {why}."
            )
            continue
        cells = [Cell(f"{setting}: {mine} against {theirs}"), Cell(one.entry.title), Cell(other.entry.title)]
        for _, key in columns:
            a, b = one.entry.mean(key), other.entry.mean(key)
            apart = None if a is None or b is None else a - b
            cells.append(cell(apart, intervals.difference(one, other, key), form="+.1f"))
        cells.append(Cell(_seeds(one.entry, other.entry)))
        rows.append(cells)
        if setting == "fusion.share" and theirs == "none":
            said += _sharing(one.entry, other.entry)
    heads = [
        Column("setting", is_text=True),
        Column("of", is_text=True),
        Column("less that of", is_text=True),
    ]
    heads += [Column(label) for label, _ in columns] + [Column("seeds", is_text=True)]
    caption = "Differences in points between entries that differ in one setting, with 95 % intervals"
    return (table("controls", caption, heads, rows) if rows else None), said


def _why_not(one: Measured, other: Measured, keys: Sequence[str]) -> str:
    """Why their difference has no interval that means something; empty where it has."""
    mine, theirs = one.entry, other.entry
    targets = {parted(key)[0] for key in keys} & one.seen[0].ranked.keys() & other.seen[0].ranked.keys()
    if not are_alike(one, other, targets):
        return "they are scored on other rows or labels"
    has_seeds = mine.side.has_seeds and theirs.side.has_seeds
    if has_seeds and mine.seeds != theirs.seeds:
        return f"their seeds do not pair: {mine.seeds} and {theirs.seeds}"
    return ""


def _seeds(one: Entry, other: Entry) -> str:
    seeds = one.seeds if len(one.seeds) >= len(other.seeds) else other.seeds
    return ", ".join(map(str, seeds)) or DASH


def _sharing(shared: Entry, control: Entry) -> list[str]:
    """The paper's claim, in words."""
    main = shared.first.main_measure
    score, without = shared.mean(main), control.mean(main)
    if score is None or without is None:
        return []
    return [
        f"Sharing {shared.first.shared} is worth {score - without:+.1f} points of {spoken(main)} here: "
        f"{shared.cell(main)} (“{shared.title}”) against {control.cell(main)} with nothing shared."
    ]
