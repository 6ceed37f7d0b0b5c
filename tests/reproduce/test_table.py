"""The table of results: cells and verdicts as they are read, from figures by hand."""

import json
from dataclasses import replace
from pathlib import Path

from mambavl.fuse.paired import Difference, Interval
from mambavl.reproduce.table import Measured, Row, Table, markdown, picture

DOCS = Path(__file__).parents[2] / "docs"
STREAMS = {"past": {"encoder": "classes", "weights": "none", "sha256": None, "store": ["a"]}}


def row(name, value, apart=None, p=1.0):
    difference = None if apart is None else Difference(Interval(*apart), p)
    measured = {"action": Measured(Interval(value, value - 1, value + 1.25), difference)}
    return Row(name, 6, 50, measured, 1234, 5678)


def table():
    held = [row("share = A", 14.5), row("share = none", 14.0, (-0.5, -0.9, -0.1), 2 / 64)]
    less_prior = [row("share = A", 17.5), row("share = none", 17.25, (-0.25, -0.5, 0.1), 2 / 64)]
    validation = [
        row("counts", 15),
        row("head", 14.9, (-0.1, -0.2, 0.1), 1.0),
        row("both", 17, (2, 1, 3), 0.03),
    ]
    return Table(held, less_prior, validation, "share = A", 2, [], STREAMS)


def test_a_difference_is_bold_where_both_rules_hold():
    lines = markdown(table()).splitlines()
    assert "| head | 6 | 5,678 | 14.9 (13.9 to 16.1) | -0.1 | 1,234 |" in lines
    assert "| both | 6 | 5,678 | 17.0 (16.0 to 18.2) | **+2.0** | 1,234 |" in lines
    assert "| counts | 6 | 5,678 | 15.0 (14.0 to 16.2) |  | 1,234 |" in lines
    assert "| share = none | 6 | 5,678 | 14.0 (13.0 to 15.2) | **-0.5** | 1,234 |" in lines
    assert "| share = none | 6 | 5,678 | 17.2 (16.2 to 18.5) | -0.2 | 1,234 |" in lines


def test_it_says_what_was_compared_with_what_and_among_how_many():
    text = markdown(table())
    assert "| | seeds | parameters | action | - counts | training, s |" in text
    assert "| | seeds | parameters | action | - share = A | training, s |" in text
    assert "`head` is `share = A`, the best of 2 candidates on training kitchens" in text
    assert "Stream `past`: classes (none)." in text
    assert "Validation was scored by these rows alone." in text
    again = markdown(replace(table(), earlier=["fusion.share=none"]))
    assert (
        "Validation was scored by these rows, and before, when `fusion.share=none` had been chosen" in again
    )
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {7}


def test_a_table_comes_back_from_json():
    assert Table.from_dict(json.loads(json.dumps(table().to_dict()))) == table()
    several = table()
    for one in (*several.held, *several.held_less_prior, *several.validation):
        for target in ("verb", "noun"):
            one.measured[target] = one.measured["action"]
    again = Table.from_dict(json.loads(json.dumps(several.to_dict(), sort_keys=True)))
    assert "| | seeds | parameters | verb | - counts | noun | - counts | action | - counts |" in markdown(
        again
    )


def test_the_page_holds_what_was_measured():
    """docs/history.md is made of docs/history.json, as `mambavl reproduce history` wrote it."""
    measured = Table.from_dict(json.loads((DOCS / "history.json").read_bytes()))
    assert markdown(measured) in (DOCS / "history.md").read_text(encoding="utf-8")


def test_the_picture_shows_every_row_once():
    drawn = picture(table())
    assert drawn.startswith("<svg")
    assert drawn == picture(table())
