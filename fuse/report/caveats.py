"""What the numbers of these runs do not show, in plain words: the box that a report opens with.

Each caveat is made from the results and is there only where it is true of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mambavl.configs.errors import counted, some
from mambavl.fuse.looked import looked_at
from mambavl.fuse.paired import SEEDS
from mambavl.fuse.report.entries import Entry
from mambavl.fuse.report.intervals import parted
from mambavl.fuse.report.measured import Measured
from mambavl.fuse.result import spoken
from mambavl.fuse.run import read_curves
from mambavl.fuse.submission import COUNTS
from mambavl.fuse.verdict import WORTH

FEW_ROWS = 2000
AGREES = 0.05  # points: result.json and the scores beside it may be rounded, no more


@dataclass(frozen=True)
class Caveat:
    lead: str
    text: str


def caveats(measured: Sequence[Measured], known: Sequence[Caveat] = ()) -> list[Caveat]:
    """known: what whoever asks for the report knows of its data. Those that make a number no result at all
    come first.
    """
    entries = [one.entry for one in measured]
    found = list(known)
    for make in OF_ENTRIES:
        found += make(entries)
    for rule in OF_MEASURED:
        found += rule(measured)
    return found


def _titles(entries: Sequence[Entry]) -> str:
    return some([f"“{entry.short}”" for entry in entries], 4)


def _these(entries: Sequence[Entry], among: Sequence[Entry]) -> str:
    return "every entry" if len(entries) == len(among) else _titles(entries)


# --- of what was fed


def _upper_bounds(entries: Sequence[Entry]) -> Iterator[Caveat]:
    text = [entry for entry in entries if entry.first.text_protocol == "oracle"]
    if text:
        yield Caveat(
            "Oracle text is an upper bound.",
            f"The questions of {_titles(text)} were written from the labels of the very rows that are scored"
            ". Where no label exists, they do not either.",
        )
    history = [entry for entry in entries if entry.first.history_protocol == "oracle"]
    if history:
        yield Caveat(
            "Oracle history is an upper bound.",
            f"{_titles(history)} know past actions by their true labels, which no camera gives.",
        )
    unknown = [entry for entry in entries if entry.first.text_protocol == "unknown"]
    if unknown:
        yield Caveat(
            "Nobody knows what the text tells.",
            f"The stores of {_titles(unknown)} do not say where their texts come from: they may hold "
            "the labels.",
        )


def _weights(entries: Sequence[Entry]) -> Iterator[Caveat]:
    streams: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        for stream in entry.ordered.values():
            state = stream.encoder.state or "unknown"
            own = streams.setdefault(state, {}).setdefault(stream.encoder.name, [])
            if entry not in own:
                own.append(entry)
    for name, of in streams.get("random", {}).items():
        yield Caveat(
            "Untrained features.",
            f"Encoder {name} of {_these(of, entries)} has random weights: what is measured there is what a "
            "head learns of random features, not what the encoder is worth.",
        )
    for name, of in streams.get("unknown", {}).items():
        yield Caveat(
            "Features of unknown origin.",
            f"Of encoder {name} ({_these(of, entries)}) nobody recorded what its weights were trained on; "
            "they may have seen the rows that are scored.",
        )


def _data(entries: Sequence[Entry]) -> Iterator[Caveat]:
    classes = entries[0].classes.targets
    counts = {name: len(target.ids) for name, target in classes.items()}
    if counts != COUNTS:
        held = ", ".join(f"{count:,} classes of {name}" for name, count in counts.items())
        yield Caveat(
            "These are not EK100's classes.",
            f"Rows have {held}; EK100 has 97 verbs and 300 nouns. No number here compares with one that is "
            "published for it.",
        )
    splits = list(dict.fromkeys(entry.first.split for entry in entries))
    if len(splits) > 1:
        yield Caveat(
            "Not one set of rows.",
            f"Entries are scored on {', '.join(splits)}: compare only those of one split.",
        )


def _published(entries: Sequence[Entry]) -> Iterator[Caveat]:
    if any(entry.first.published for entry in entries):
        yield Caveat(
            "Published numbers are of another experiment.",
            "They stand beside a recipe because it names them: other weights, often trained together with "
            "the encoder, other text. A difference from them is nobody's effect.",
        )


def _prior(entries: Sequence[Entry]) -> Iterator[Caveat]:
    for entry in entries:
        rows = entry.first.rows
        if rows.scored_by_prior:
            yield Caveat(
                "Rows without features.",
                f"{rows.scored_by_prior:,} of {rows.scored:,} rows of “{entry.title}” lack a stream "
                "that they need; they count, with the training prior as their scores.",
            )


# --- of how much was looked at


def _seeds(entries: Sequence[Entry]) -> Iterator[Caveat]:
    trained = [entry for entry in entries if entry.side.has_seeds]
    once = [entry for entry in trained if len(entry.seeds) == 1]
    if once:
        yield Caveat(
            "One training each.",
            f"Of {_these(once, entries)} one seed was trained. What another would give is not known, and no "
            "interval here knows it.",
        )
    few = [entry for entry in trained if 1 < len(entry.seeds) < SEEDS]
    if few:
        least = min(len(entry.seeds) for entry in few)
        yield Caveat(
            "Few seeds.",
            f"Of {_these(few, entries)} {least} seeds were trained, or a few more. With fewer than "
            f"{SEEDS} nobody can be called better, whatever the intervals look like: `mambavl compare` has "
            "the rules.",
        )


def _chosen(entries: Sequence[Entry]) -> Iterator[Caveat]:
    for sweep in looked_at([entry.side for entry in entries]):
        own = [entry for entry in entries if sweep.holds(entry.side)]
        if len(sweep.candidates) < 2:
            continue
        if chosen := [entry for entry in own if entry.first.selection]:
            text = f"Chosen on other rows than these: {_titles(chosen)}; the others were not."
        else:
            text = "None of them was chosen on other rows, so chance is part of the best score."
        yield Caveat(
            "The best of many stands out by chance.", f"{sweep.in_words}, on these rows. {text}".strip()
        )
    epochs = {entry.title: _scorings(entry) for entry in entries}
    looked = {title: number for title, number in epochs.items() if number > 1}
    if looked:
        yield Caveat(
            "These rows were looked at while training.",
            f"They were scored after {max(looked.values()):,} epochs of an entry at the most, "
            f"{sum(looked.values()):,} times in all; whoever saw those curves may have set epochs or "
            "settings by them.",
        )
    for entry in entries:
        if entry.first.trained.stopped and _watched(entry):
            yield Caveat(
                "Stopped by the rows it is scored on.",
                f"“{entry.title}” ended where its score on {entry.first.split} stopped getting better.",
            )


def _watched(entry: Entry) -> bool:
    """Whether the rows that were scored while it trained are those of its result."""
    return entry.recipe is not None and entry.recipe.data.scored == entry.first.split


def _scorings(entry: Entry) -> int:
    """How often its rows were scored while its runs trained."""
    if not _watched(entry):
        return 0
    lines = [line for run in entry.runs for line in read_curves(run)]
    return sum(any(key.endswith(("_top1", "_map", "_recall5")) for key in line) for line in lines)


def _unclean(entries: Sequence[Entry]) -> Iterator[Caveat]:
    commits = {
        (one.trained.environment or one.scored.environment).commit
        for entry in entries
        for one in entry.results
    }
    if any(commit and commit.endswith("-dirty") for commit in commits):
        yield Caveat(
            "Made by code that nobody else has.",
            "Runs were trained from a checkout with uncommitted changes.",
        )


# --- of rows


def _rows(measured: Sequence[Measured]) -> Iterator[Caveat]:
    least = min(measured, key=lambda one: one.entry.first.rows.scored)
    rows = least.entry.first.rows.scored
    videos = len({one.video_id for one in least.segments}) if least.segments else 0
    if rows < FEW_ROWS:
        noise = 196 * (0.25 / rows) ** 0.5
        of = f" of {counted(videos, 'video')}" if videos else ""
        yield Caveat(
            "Few rows.",
            f"{counted(rows, 'row')}{of} {'was' if rows == 1 else 'were'} scored: which rows they are moves "
            f"a share near 50 % by about ±{noise:.0f} points (95 %), more where rows of a video are alike.",
        )


def _without_intervals(measured: Sequence[Measured]) -> Iterator[Caveat]:
    for why in dict.fromkeys(one.why for one in measured if one.why):
        yield Caveat("No intervals, no participants.", f"{why}.")
    few = [one for one in measured if one.segments is not None and _worth(one) < WORTH]
    if few:
        yield Caveat(
            "Too few videos for an interval.",
            f"The rows of {_titles([one.entry for one in few])} are of videos that are worth fewer "
            f"than {WORTH} of equal size.",
        )
    if any(one.segments is not None and _worth(one) >= WORTH for one in measured):
        yield Caveat(
            "Intervals are over videos like these.",
            "Videos are drawn, and seeds; participants and data sets are not. An interval that leaves out 0 "
            "is no verdict: `mambavl compare` takes one, and counts what was looked at.",
        )


def _worth(one: Measured) -> float:
    """Videos of equal size that tell as much (Kish)."""
    assert one.segments is not None
    _, rows = np.unique([segment.video_id for segment in one.segments], return_counts=True)
    return float(rows.sum() ** 2 / (rows**2).sum()) if len(rows) else 0.0


def _disagreeing(measured: Sequence[Measured]) -> Iterator[Caveat]:
    """A result.json that was changed, or scores that were."""
    for one in measured:
        for key, value in _from_scores(one).items():
            said = one.entry.mean(key)
            if said is not None and abs(said - value) > AGREES:
                yield Caveat(
                    "A number that its scores do not give.",
                    f"“{one.entry.title}”: result.json says {said:.2f} for {spoken(key)}, the scores beside "
                    f"it give {value:.2f}. `mambavl evaluate` makes both again.",
                )


def _from_scores(one: Measured) -> Mapping[str, float]:
    found = {}
    for key in one.entry.first.metrics:
        if key.startswith("all_") and key.endswith("_top1"):
            hits = (
                one.hits(target, five=False) if (target := parted(key)[0]) in one.tops else np.zeros((0, 0))
            )
            if hits.size:
                found[key] = 100 * float(hits.mean())
    return found


OF_ENTRIES: tuple[Callable[[Sequence[Entry]], Iterator[Caveat]], ...] = (
    _upper_bounds, _weights, _data, _published, _prior, _seeds, _chosen, _unclean,
)  # fmt: skip
OF_MEASURED: tuple[Callable[[Sequence[Measured]], Iterator[Caveat]], ...] = (
    _disagreeing, _rows, _without_intervals,
)  # fmt: skip
