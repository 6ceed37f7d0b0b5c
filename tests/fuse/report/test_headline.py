"""The first table of a report."""

from dataclasses import replace

from mambavl.fuse import report
from mambavl.fuse.report.headline import headline_table, headlines, stores_of, weights_of
from mambavl.fuse.report.intervals import Intervals
from mambavl.fuse.report.measured import measure


def row_of(table, number=0):
    labels = [column.label for column in table.columns]
    return dict(zip(labels, table.texts[1 + number], strict=True))


def test_recognition_is_shown_by_top1_and_anticipation_by_recall(page, contest):
    folder, _ = page
    entries, targets = report.collect([folder / "fused0"]), ["verb", "noun", "action"]
    assert headlines(entries, targets)[2] == ("action top-1", "all_action_top1")
    ahead = [one.entry for one in contest]
    assert headlines(ahead, targets)[0] == ("verb recall@5", "all_verb_mean_class_recall5")
    assert [label for label, _ in headlines([*entries, *ahead], targets)] == [
        "verb top-1", "noun top-1", "action top-1", "verb recall@5", "noun recall@5", "action recall@5",
    ]  # fmt: skip


def test_an_entry_says_what_it_reached_what_it_was_told_and_what_it_read(page):
    folder, _ = page
    entries = report.collect([folder / "fused0", folder / "fused1"])
    columns = headlines(entries, ["verb"])
    table = headline_table([measure(entry) for entry in entries], columns, Intervals(draws=50))
    found = row_of(table)
    entry = entries[0]
    assert found["verb top-1"].startswith(entry.cell("all_verb_top1"))
    assert (found["text"], found["history"], found["head"]) == ("oracle", "absent", "mambavl")
    assert found["weights"] == (
        "video: fake, random 00000000; verb_question, noun_question: fake-text, random 11111111"
    )
    ids = {name: stream.store_ids[0][:8] for name, stream in entry.first.streams.items()}
    assert found["stores"] == f"video: {ids['video']}; verb_question, noun_question: {ids['verb_question']}"
    assert (found["seeds"], found["parameters"]) == ("0, 1", f"{entry.first.params.total:,}")
    assert "scored on" not in found
    assert [row.kind for row in table.rows] == ["", "prior"]
    oracle = next(cell for cell in table.rows[0].cells if cell.text == "oracle")
    assert oracle.kind == "oracle"


def test_intervals_stand_in_brackets_where_there_are_videos_enough(contest):
    columns = headlines([one.entry for one in contest], ["verb"])
    made = Intervals(draws=50)
    table = headline_table(contest, columns, made)
    interval = made.of(contest[0], "all_verb_mean_class_recall5")
    assert row_of(table)["verb recall@5"].endswith(f"({interval.low:.1f} to {interval.high:.1f})")
    assert row_of(table)["history"] == "oracle"


def test_an_upper_bound_is_called_so_and_other_splits_are_named(page):
    folder, _ = page
    entries = report.collect([folder / "fused0", folder / "text"])
    entries[0].results = [replace(entries[0].first, notice="ORACLE TEXT")]
    entries[1].results = [replace(entries[1].first, split="test")]
    measured = [replace(measure(entry), segments=None) for entry in report.collect([folder / "text"])]
    shown = [replace(measured[0], entry=entry) for entry in entries]
    table = headline_table(shown, [], Intervals())
    assert row_of(table)["text"] == "oracle: upper bound, no forecast"
    assert [row_of(table, number)["scored on"] for number in (0, 1)] == ["validation", "test"]


def test_streams_without_weights_say_so(contest):
    assert weights_of(contest[0].entry) == "past: classes, no weights"
    [store] = contest[0].entry.first.streams["past"].store_ids
    assert stores_of(contest[0].entry) == f"past: {store[:8]}"
