"""What is said of the runs of a report besides their numbers."""

from mambavl.fuse.report.entries import Entry
from mambavl.fuse.result import Environment, Result


def leak_sentences(entries: list[Entry]) -> list[str]:
    """What the questions gave away, in words and in numbers measured here."""
    with_oracle = [entry for entry in entries if entry.first.text_protocol == "oracle"]
    said = [f"“{entry.title}”: {entry.notice}." for entry in entries if entry.notice]
    said += [_text_alone(entry) for entry in with_oracle if "video" not in entry.first.streams]
    if with_oracle:
        said.append(
            "Oracle questions are written from each row's own labels, validation rows included. Where no "
            "label exists, at deployment or on a test server, they do not exist either: the rows marked "
            "“oracle” are upper bounds for a reader who already knows part of the answer, and the honest "
            "comparison is against generic text or none."
        )
    return said


def _text_alone(entry: Entry) -> str:
    prior = entry.first.prior_metrics
    keys = {name: f"all_{name}_top1" for name in entry.single}
    named = " and ".join(f"{entry.mean(key):.1f} % of the {name}s" for name, key in keys.items())
    guessed = " and ".join(f"{prior[key]:.1f} %" for key in keys.values())
    return (
        f"“{entry.title}” never sees a frame and still names {named}; the most frequent class alone gives "
        f"{guessed}. The difference is what the oracle questions leak from the labels: "
        "the category of the answer and the other words of the narration."
    )


def notes(entries: list[Entry]) -> list[str]:
    found = []
    for entry in entries:
        rows = entry.first.rows
        lacking = [f"{name} {count}" for name, count in (rows.missing or {}).items() if count]
        if lacking:
            found.append(f"“{entry.title}”: rows without a stream, of {rows.scored}: {', '.join(lacking)}.")
        if entry.first.selection:
            found.append(f"“{entry.title}”, on {entry.first.split}: {entry.first.selection.in_words}.")
        if entry.first.fused:
            found += [f"“{entry.title}”, {line}." for line in entry.first.fused.in_words]
    return found


def what_ran(result: Result) -> list[str]:
    """What trained the head, and what scored it where that is not the same."""
    trained, scored = result.trained, result.scored
    by_scorer = _named(scored.environment, scored.scan_backend)
    if trained.environment is None:
        return ["what trained it: not recorded", f"scored {by_scorer}"]
    by_trainer = _named(trained.environment, trained.scan_backend)
    if by_trainer == by_scorer:
        return [f"trained and scored {by_trainer}"]
    return [f"trained {by_trainer}", f"scored {by_scorer}"]


def _named(environment: Environment, scan_backend: str | None) -> str:
    commit = f" at commit {environment.commit[:12]}" if environment.commit else ""
    return (
        f"on {environment.device} with mambavl {environment.mambavl}{commit}, torch {environment.torch}, "
        f"scan backend {scan_backend or 'none'}"
    )
