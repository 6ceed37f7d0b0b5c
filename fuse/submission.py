"""EK100's challenge file: what it holds, and every fault of one, whoever wrote it.

    NAME.zip with test.json in it and nothing else; test.json, an object:
      version     "0.2"
      challenge   "action_recognition" or "action_anticipation"
      sls_pt, sls_tl, sls_td     supervision levels, 0 to 5
      results     narration_id -> verb    "0" to "96" -> number
                                  noun    "0" to "299" -> number
                                  action  "VERB,NOUN" -> number, of 100 pairs; in all rows or in none

A file may be a stranger's. Nothing in it is run, its size is limited, and it is read one row at a time, so
that what is no submission cannot fill the memory either.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mambavl.configs.errors import counted, some
from mambavl.fuse.bounded import Scanner, Unreadable, read_text

VERSION = "0.2"
CHALLENGES = {"recognition": "action_recognition", "anticipation": "action_anticipation"}  # by task
COUNTS = {"verb": 97, "noun": 300}
ACTIONS = 100  # pairs of a row
MEMBER = "test.json"
# What EK100 wants to know of the supervision; the levels between are defined on the challenge's page.
LEVELS = {
    "sls_pt": "pretraining: 2 public images and videos, 5 private data",
    "sls_tl": "training labels: 3 start and end of each action, 4 boxes or masks too, 5 outside knowledge",
    "sls_td": "training data: 3 the train list, 4 train and validation",
}
HIGHEST_LEVEL = 5
KEYS = {"version", "challenge", *LEVELS, "results"}

MAX_ROWS = 100_000  # EK100's test list has 13,092
MAX_KEYS = 100  # beside `results`

_CLASSES = {name: tuple(str(number) for number in range(count)) for name, count in COUNTS.items()}
_CLASS_SETS = {name: frozenset(keys) for name, keys in _CLASSES.items()}
_ID = re.compile(r"P\d{2}_\d{2,3}_\d+")
_PAIR = re.compile(r"(0|[1-9]\d?),(0|[1-9]\d{0,2})")


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A challenge file, and all that is wrong with it. What could not be read is None, or empty."""

    path: Path
    faults: tuple[str, ...]
    challenge: str | None
    levels: Mapping[str, int]
    ids: tuple[str, ...]
    scores: Mapping[str, np.ndarray]  # verb (N, 97), noun (N, 300); where no row has a fault
    pairs: np.ndarray | None  # (N, 100, 2) verb and noun, where rows have actions
    pair_scores: np.ndarray | None  # (N, 100)
    is_listed: bool  # whether its ids were held against a list


def examine(path: Path, *, listed: Collection[str] | None = None, task: str | None = None) -> Examined:
    """Read a challenge file and name its faults. listed: the ids that it must have, no more and no fewer.
    task: the one that it must be of.
    """
    path = Path(path)
    found = _Found(listed is not None)
    try:
        _read(Scanner(read_text(path, MEMBER, found.fault)), found)
    except Unreadable as error:
        found.fault(str(error))
    else:
        _check_head(found, task)
        _check_rows(found, listed)
    return found.examined(path)


def is_id(name: str) -> bool:
    """Whether it can be a narration_id of EK100."""
    return _ID.fullmatch(name) is not None


@dataclass
class _Found:
    """What has been read so far, and what is wrong with it."""

    is_listed: bool
    head: dict[str, Any] = field(default_factory=dict)  # its keys but for `results`
    ids: dict[str, None] = field(default_factory=dict)
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)  # the good ones
    with_actions: int = 0
    faults: dict[str, tuple[str, int]] = field(default_factory=dict)  # kind -> its first, how many
    count: int = 0  # of faults

    def fault(self, said: str, kind: str | None = None) -> None:
        """kind: what many rows may have wrong, each in its own words; it is said once."""
        first, count = self.faults.get(kind or said, (said, 0))
        self.faults[kind or said] = first, count + 1
        self.count += 1

    def examined(self, path: Path) -> Examined:
        said = [
            first + (f" (and {count - 1:,} more)" if count > 1 else "")
            for first, count in self.faults.values()
        ]
        whole = bool(self.rows) and len(self.rows) == len(self.ids)
        arrays = {}
        if whole:
            shared = set.intersection(*(set(row) for row in self.rows))
            arrays = {name: np.array([row[name] for row in self.rows]) for name in shared}
        challenge = self.head.get("challenge")
        return Examined(
            path=path,
            faults=tuple(said),
            challenge=challenge if isinstance(challenge, str) else None,
            levels={key: self.head[key] for key in LEVELS if _is_level(self.head.get(key))},
            ids=tuple(self.ids),
            scores={name: arrays[name] for name in COUNTS if name in arrays},
            pairs=arrays.get("pairs"),
            pair_scores=arrays.get("action"),
            is_listed=self.is_listed,
        )


# --- from text to rows


def _read(scanner: Scanner, found: _Found) -> None:
    """All of a file, row by row."""
    if (there := scanner.next()) != "{":
        raise Unreadable(f"begins with {repr(there) if there else 'nothing'}; a submission is a JSON object")
    for key in scanner.members():
        if key in found.head:
            found.fault(f"{_told(key, 40)} stands there twice", "key twice")
        if key == "results" and scanner.next() == "{":
            found.head[key] = {}
            for row in scanner.members():
                _read_row(row, scanner.value(), scanner.twice, found)
        else:
            found.head[key] = scanner.value()
            _note_twice(_told(key, 40), scanner.twice, found)
        if len(found.head) > MAX_KEYS:
            raise Unreadable(f"has more than {MAX_KEYS} keys beside results")
    if scanner.next():
        raise Unreadable(f"goes on after its end, at character {scanner.place:,}")


def _note_twice(where: str, twice: list[str], found: _Found) -> None:
    for key in twice:
        found.fault(f"{where}: key {_told(key, 40)} stands there twice", "key twice")
    twice.clear()


def _read_row(row: str, raw: Any, twice: list[str], found: _Found) -> None:
    """twice: keys that stand twice in it."""
    name = _told(row, 40)
    before = found.count
    if row in found.ids:
        found.fault(f"row {name} stands there twice", "row twice")
    elif not is_id(row):
        found.fault(f"row {name}: this is no narration_id, such as P01_11_0", "no id")
    found.ids[row] = None
    if len(found.ids) > MAX_ROWS:
        raise Unreadable(f"has more than {MAX_ROWS:,} rows, which no list of EK100 has")
    _note_twice(f"row {name}", twice, found)
    if not isinstance(raw, dict):
        found.fault(f"row {name} is {_told(raw)}; it is an object with verb and noun", "no row")
        return
    for key in sorted(raw.keys() - {*COUNTS, "action"}):
        found.fault(f"row {name} has {_told(key, 40)}; a row has verb, noun and perhaps action", "other key")
    arrays = {}
    for part in COUNTS:
        if part not in raw:
            found.fault(f"row {name} has no {part}", f"no {part}")
        else:
            arrays[part] = _scores(raw[part], name, part, found)
    if "action" in raw:
        found.with_actions += 1
        arrays["pairs"], arrays["action"] = _actions(raw["action"], name, found)
    if found.count == before:
        found.rows.append(arrays)


def _scores(raw: Any, row: str, part: str, found: _Found) -> np.ndarray:
    """(classes,) float64, of what has no fault."""
    if not isinstance(raw, dict):
        found.fault(
            f"row {row}: {part} is {_told(raw)}; it is an object, class to score", f"{part} no object"
        )
        return np.empty(0)
    classes = _CLASSES[part]
    if unknown := [key for key in raw if key not in _CLASS_SETS[part]]:
        found.fault(
            f"row {row}: {part} {some([_told(key, 20) for key in unknown])} is no class; they are "
            f'"0" to "{len(classes) - 1}"',
            f"{part} unknown",
        )
    if missing := [key for key in classes if key not in raw]:
        found.fault(
            f"row {row}: {part} has {len(classes) - len(missing)} of {len(classes)} scores, none of class "
            f"{some(missing)}",
            f"{part} missing",
        )
    return _numbers({key: raw[key] for key in classes if key in raw}, row, part, found)


def _actions(raw: Any, row: str, found: _Found) -> tuple[np.ndarray, np.ndarray]:
    """(100, 2) and (100,), of what has no fault."""
    if not isinstance(raw, dict):
        found.fault(
            f'row {row}: action is {_told(raw)}; it is an object, "VERB,NOUN" to score', "action no object"
        )
        return np.empty((0, 2)), np.empty(0)
    pairs, unknown = [], []
    for key in raw:
        parts = _PAIR.fullmatch(key)
        pair = (int(parts[1]), int(parts[2])) if parts else None
        if pair is None or pair[0] >= COUNTS["verb"] or pair[1] >= COUNTS["noun"]:
            unknown.append(key)
        else:
            pairs.append(pair)
    if unknown:
        found.fault(
            f'row {row}: action {some([_told(key, 20) for key in unknown])} is no pair; one is "3,17", verb '
            f"below {COUNTS['verb']} and noun below {COUNTS['noun']}",
            "action unknown",
        )
    if len(raw) != ACTIONS:
        found.fault(f"row {row}: action has {counted(len(raw), 'pair')}; it has {ACTIONS}", "action count")
    return np.array(pairs, np.int64).reshape(-1, 2), _numbers(raw, row, "action", found)


def _numbers(raw: Mapping[str, Any], row: str, part: str, found: _Found) -> np.ndarray:
    for key, value in raw.items():
        if type(value) is not float and type(value) is not int:  # True is no int here
            said = f"row {row}: {part} {_told(key, 20)} is {_told(value, 20)}, which is not a number"
            found.fault(said, f"{part} no number")
            return np.empty(0)
    try:
        numbers = np.fromiter(raw.values(), np.float64, len(raw))
    except OverflowError:  # a whole number that no float reaches
        numbers = np.array([_float(value) for value in raw.values()])
    if not np.isfinite(numbers).all():
        key = list(raw)[int(np.argmin(np.isfinite(numbers)))]
        found.fault(f"row {row}: {part} {_told(key, 20)} is NaN or infinite", f"{part} not finite")
    return numbers


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _told(value: Any, most: int = 60) -> str:
    """Something of a file, as it stands there, in a few characters."""
    said = json.dumps(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    said = {"a dict": "an object", "a list": "a list"}.get(said, said)
    return said if len(said) <= most else said[: most - 3] + "..."


# --- what the whole must be


def _check_head(found: _Found, task: str | None) -> None:
    head = found.head
    for key in sorted(KEYS - head.keys()):
        found.fault(f"has no {key}" + (f" ({LEVELS[key]})" if key in LEVELS else ""))
    for key in sorted(head.keys() - KEYS):
        found.fault(f"has {_told(key, 40)}, which is not of the format; it has {', '.join(sorted(KEYS))}")
    if "version" in head and head["version"] != VERSION:
        older = " (that was EPIC-KITCHENS-55's)" if head["version"] == "0.1" else ""
        found.fault(f'version is {_told(head["version"])}{older}; it is the text "{VERSION}"')
    wanted = [CHALLENGES[task]] if task else list(CHALLENGES.values())
    if "challenge" in head and head["challenge"] not in wanted:
        names = " or ".join(f'"{name}"' for name in wanted)
        found.fault(f"challenge is {_told(head['challenge'])}; it is {names}")
    for key, meaning in LEVELS.items():
        if key in head and not _is_level(head[key]):
            found.fault(
                f"{key} is {_told(head[key])}; it is a whole number from 0 to {HIGHEST_LEVEL} ({meaning})"
            )


def _is_level(value: Any) -> bool:
    return type(value) is int and 0 <= value <= HIGHEST_LEVEL


def _check_rows(found: _Found, listed: Collection[str] | None) -> None:
    if not isinstance(found.head.get("results", {}), dict):
        found.fault(f"results is {_told(found.head['results'])}; it is an object, narration_id to scores")
        return
    if "results" in found.head and not found.ids:
        found.fault("results holds no row")
    if 0 < found.with_actions < len(found.ids):
        found.fault(
            f"action stands in {found.with_actions:,} of {len(found.ids):,} rows; it is in all or in none"
        )
    if listed is None:
        return
    known = frozenset(listed)
    missing = [name for name in listed if name not in found.ids]
    unknown = [_told(name, 40) for name in found.ids if name not in known]
    if missing:
        found.fault(f"{counted(len(missing), 'row')} of the list not in the file: {some(missing)}")
    if unknown:
        found.fault(f"{counted(len(unknown), 'row')} of the file not in the list: {some(unknown)}")
