"""Every row that some runs scored: what it is, and what each run answers; packed for the page's row browser.

A table (`scored_rows`) is an index as JSON, read when the page opens, and a block of answers for each of its
runs (`packing`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mambavl.cache.classes import Classes, Derived, Target
from mambavl.cache.licences import terms_of
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError, counted
from mambavl.fuse.report import packing
from mambavl.fuse.report.answers import number_of, parts_of
from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.pictured import Choice, Pictured, pictured, said_of_pictures
from mambavl.fuse.report.scored_rows import Scored, Table, scored, segments_of, tables_of
from mambavl.fuse.report.told import Told, question_of

MOST_RUNS = 10  # whose answers a page holds: 9,668 rows of EK100 take 0.26 MB a run


@dataclass(frozen=True)
class Section:
    """What the page holds of rows."""

    blocks: list[tuple[str, str]]  # id of an element, and its text
    titles: list[str]  # of the tables, each of which has an index `rows-NUMBER`
    rows: int
    shown: int  # entries whose answers are there
    left_out: list[str]  # entries whose answers are not there: MOST_RUNS
    notes: list[str]  # on what is not known of the rows
    pictures: list[str]  # on the pictures, or how to get some


def rows_section(entries: Sequence[Entry], told: Told) -> Section:
    """What some entries, the first MOST_RUNS of them, scored. Raises DataError for damaged scores, and
    where there are videos but nothing says where in them the rows are.
    """
    shown, left_out = entries[:MOST_RUNS], entries[MOST_RUNS:]
    tables = tables_of([scored(entry) for entry in shown])
    blocks: list[tuple[str, str]] = []
    notes: dict[str, None] = {}
    every: list[Pictured] = []
    for number, table in enumerate(tables):
        segments, faults = segments_of(table, told)
        unknown = sum(name not in segments for name in table.ids)
        if unknown:
            faults.append(
                f"Of {counted(unknown, 'row')} of {table.title} only the scores are known: the runs' stores "
                "are gone, or others now, and no list has these rows; `mambavl report ... --annotations DIR` "
                "reads lists."
            )
        if told.strips and not segments:
            raise DataError(
                f"--videos: where the rows of {table.title} are in them is not known, for the runs' stores "
                "are gone, or others now; name their lists with --annotations"
            )
        notes |= dict.fromkeys(faults)
        share = told.clips // len(tables) + (number < told.clips % len(tables))
        pictures = pictured(table.ids, segments, _choice(table), told, share)
        every.append(pictures)
        index, packed = _packed(table, segments, told, f"rows-{number}")
        index |= pictures.index
        blocks.append((f"rows-{number}", packing.pack_json(index)))
        blocks += packed
        if pictures.lines:
            blocks.append((f"rows-{number}-clips", "\n".join(pictures.lines)))
    rows = sum(len(table.ids) for table in tables)
    known = ([told.classes] if told.classes else []) + [run.classes for one in tables for run in one.runs]
    terms = next(filter(None, map(terms_of, known)), None)
    return Section(
        blocks=blocks,
        titles=[table.title for table in tables],
        rows=rows,
        shown=len(shown),
        left_out=[entry.title for entry in left_out],
        notes=list(notes),
        pictures=said_of_pictures(every, rows, told, terms),
    )


def _choice(table: Table) -> Choice:
    """By its last target."""
    target = list(table.targets)[-1]
    place = {name: row for row, name in enumerate(table.ids)}
    shape = (len(table.runs), len(table.ids))
    first, sure, right = np.full(shape, -1), np.zeros(shape), np.zeros(shape, bool)
    for number, run in enumerate(table.runs):
        if target in run.answers:
            at, answers = [place[name] for name in run.ids], run.answers[target]
            first[number, at] = answers.classes[:, 0]
            sure[number, at] = answers.probabilities[:, 0]
            right[number, at] = answers.is_right
    has_label = np.array([bool(labels) for labels in table.labels(target)])
    ahead = [_tau_a(run.entry) for run in table.runs]
    known = [one for one in ahead if one is not None]
    return Choice(first, sure, right, has_label, max(known) if len(known) == len(ahead) else None)


def _tau_a(entry: Entry) -> float | None:
    """Seconds before an action at which a run stops looking; None of one that looks into the action, and
    where nobody knows.
    """
    for stream in entry.first.streams.values():
        sampling, history = stream.recipe.sampling, stream.recipe.history
        if sampling and sampling.get("task") == "anticipation" and sampling.get("rule") != "inavit":
            tau = sampling.get("tau_a")  # stores of other tools may not say
            return float(tau) if isinstance(tau, int | float) else None
        if history:
            return history.tau_a
    return None


# --- packing


def _packed(
    table: Table, segments: Mapping[str, Segment], told: Told, name: str
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The index of a table, without pictures, and the blocks of its runs. name: of its element."""
    lists = _lists(table)
    names = list(table.targets)
    targets: list[dict[str, Any]] = []
    labels: list[list[int | list[int]]] = []
    for target, meaning in table.targets.items():
        if isinstance(meaning, Derived):
            targets.append({"name": target, "of": [names.index(part) for part in meaning.of]})
            labels.append([])
            continue
        called = [meaning.classes.get(one, f"{target} {one}") for one in lists[target].tolist()]
        several = meaning.kind == "multi"
        targets.append({"name": target, "names": called, "several": several})
        labels.append(list(_label_cells(table.labels(target), lists[target], several)))
    runs, sets, blocks = [], _Sets(table.ids), []
    for number, run in enumerate(table.runs):
        block = f"{name}-{number}"
        data, kept = _answers(table, run, lists)
        blocks.append((block, packing.pack(data)))
        first = run.entry.first
        runs.append(
            {
                "title": run.entry.title,
                "run": run.entry.runs[0].name,
                "seed": first.seed,
                "seeds": len(run.entry.runs),
                "protocols": first.protocols,
                "notice": first.notice,
                "block": block,
                "targets": kept,
                **sets.of_run(run.entry, told),
            }
        )
    index = {
        "title": table.title,
        "ids": table.ids,
        **_facts([segments.get(one) for one in table.ids]),
        "targets": targets,
        "labels": labels,
        "runs": runs,
        "questions": sets.found,
    }
    return index, blocks


def _lists(table: Table) -> dict[str, np.ndarray]:
    """Target -> its classes that are a label or an answer of any row, or part of one, sorted."""
    single = [name for name, one in table.targets.items() if isinstance(one, Target)]
    found: dict[str, set[int]] = {name: set() for name in single}
    for name, meaning in table.targets.items():
        shown = {one for labels in table.labels(name) for one in labels}
        for run in table.runs:
            if name in run.answers:
                shown |= set(np.unique(run.answers[name].classes).tolist())
        if isinstance(meaning, Target):
            found[name] |= shown
            continue
        classes = next(run.classes for run in table.runs if name in run.answers)
        for number in shown:
            for part, one in zip(meaning.of, parts_of(number, meaning, classes), strict=True):
                found[part].add(one)
    return {name: np.array(sorted(own), np.int64) for name, own in found.items()}


def _label_cells(
    labels: Sequence[tuple[int, ...]], numbers: np.ndarray, several: bool
) -> Iterator[int | list[int]]:
    """Of each row the place of its label in the list of names, -1 for none; of a target of several a list."""
    for own in labels:
        places = np.searchsorted(numbers, own).tolist()
        yield places if several else (places[0] if places else -1)


def _answers(table: Table, run: Scored, lists: Mapping[str, np.ndarray]) -> tuple[bytes, list[list[int]]]:
    """What a run answers (`packing`); and of each of its targets: place in the table, classes of a row, bytes
    of a number, 1 where these are ranks.
    """
    place = run.place
    at = np.array([place.get(name, -1) for name in table.ids])
    there, found, kept = at >= 0, [], []
    for number, (name, meaning) in enumerate(table.targets.items()):
        if name not in run.answers:
            continue
        one = run.answers[name]
        count = one.classes.shape[1]
        if one.ranks is not None:
            assert isinstance(meaning, Derived)
            width = packing.width_of(math.prod(run.answers[part].classes.shape[1] for part in meaning.of))
            found.append(packing.ranks(one.ranks[at], width))
        else:
            names, size = _places(name, meaning, one.classes, run.classes, lists)
            width = packing.width_of(size)
            names = np.where(there[:, None], names[at], size)
            shares = np.where(there[:, None], one.probabilities[at], 0.0)
            of_label = np.where(there, one.of_label[at], 0.0)
            found.append(packing.answers(names, width, shares, of_label))
        kept.append([number, count, width, int(one.ranks is not None)])
    return b"".join(found), kept


def _places(
    name: str, meaning: Target | Derived, found: np.ndarray, classes: Classes, lists: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, int]:
    """Classes -> their numbers on the page, and how many there could be."""
    if isinstance(meaning, Target):
        return np.searchsorted(lists[name], found), len(lists[name])
    counts = [classes.targets[part].count for part in meaning.of]
    parts = np.unravel_index(found, counts)
    sizes = [len(lists[part]) for part in meaning.of]
    own = [np.searchsorted(lists[part], one) for part, one in zip(meaning.of, parts, strict=True)]
    return number_of(own, sizes), math.prod(sizes)


def _facts(rows: Sequence[Segment | None]) -> dict[str, Any]:
    """What is known of each row, column by column; times in hundredths of a second, -1 for unknown ones."""
    videos = list(dict.fromkeys(row.video_id for row in rows if row))
    number = {video: place for place, video in enumerate(videos)}
    participant = {row.video_id: row.participant_id for row in rows if row}
    return {
        "videos": videos,
        "participants": [participant[video] for video in videos],
        "video": [number[row.video_id] if row else -1 for row in rows],
        "start": [round(100 * row.start) if row else -1 for row in rows],
        "stop": [round(100 * row.stop) if row else -1 for row in rows],
        "narration": [row.narration if row else "" for row in rows],
    }


class _Sets:
    """The question texts of a table's runs, each file's once."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        self.found: list[dict[str, Any]] = []
        self._places: dict[tuple[int, str], int] = {}
        self._files: dict[object, int | None] = {}  # what a stream was fed -> number of a file

    def of_run(self, entry: Entry, told: Told) -> dict[str, Any]:
        """asked: numbers of the texts that a run was given; untold: names of those that nobody knows."""
        asked, untold = [], []
        for stream in entry.first.streams.values():
            made, name = stream.recipe.questions, question_of(stream)
            if made is None or made.protocol == "none":
                continue
            fed = (stream.store_ids, name, made.protocol, made.backend, made.prompt_version)
            if fed not in self._files:  # stores are opened for it, and runs have many in common
                fits = (place for place, one in enumerate(told.questions) if one.are_of(stream))
                self._files[fed] = next(fits, None)
            number = self._files[fed]
            if number is None:
                untold.append(name)
            else:
                asked.append(self._place(number, name, told))
        return {"asked": asked, "untold": untold}

    def _place(self, number: int, name: str, told: Told) -> int:
        if (number, name) not in self._places:
            one = told.questions[number]
            texts = [one.texts[name].get(row) for row in self.ids]
            distinct = list(dict.fromkeys(texts))
            place = {text: here for here, text in enumerate(distinct)}
            self._places[number, name] = len(self.found)
            self.found.append(
                {
                    "name": name,
                    "protocol": one.protocol,
                    "texts": distinct,
                    "rows": [place[text] for text in texts],
                }
            )
        return self._places[number, name]
