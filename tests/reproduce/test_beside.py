"""Published beside measured: the lines of a table from figures by hand."""

import json

from mambavl.fuse.paired import Difference, Interval
from mambavl.reproduce.beside import Line, markdown, to_dict
from mambavl.reproduce.rows import table
from mambavl.reproduce.table import Measured, Row

STREAMS = {
    "video": {"encoder": "orvit-hr", "weights": "ek100-finetuned", "sha256": "ab" * 32, "store": ["c" * 64]},
    "verb_question": {
        "encoder": "roberta-base",
        "weights": "pretrained",
        "sha256": None,
        "store": ["d" * 64],
    },
}


def row(value, apart=None, p=1.0):
    difference = None if apart is None else Difference(Interval(*apart), p)
    measured = {
        target: Measured(Interval(value + place, value + place - 1, value + place + 1.25), difference)
        for place, target in enumerate(("verb", "noun", "action"))
    }
    return Row("any", 6, 9668, measured, 12, 34)


def line(name, published=None, **changes):
    return Line(name=name, published=published, protocol="oracle", streams=STREAMS, **changes)


def test_published_and_measured_stand_side_by_side():
    lines = [
        line("MambaVL", "mambavl-orvit", measured=row(60.0)),
        line("MLP, 2 layers", "table3-mlp", measured=row(58.0, (-2, -3, -1), 2 / 64)),
        Line(name="share none", published=None, nothing="needs a store"),
    ]
    text = markdown(table(3, "matched"), lines, ["train.lr=1e-4"])
    assert (
        "| MambaVL | 69.1 / 63.9 / 48.6 | 60.0 (59.0 to 61.2) |  | 61.0 (60.0 to 62.2) |  | "
        "62.0 (61.0 to 63.2) |  | oracle | orvit-hr ek100-finetuned, roberta-base pretrained | 6 | 9,668 |"
    ) in text
    assert "| MLP, 2 layers | 62.8 / 51.6 / 39.6 | 58.0 (57.0 to 59.2) | **-2.0** | 59.0" in text
    assert "| share none | – | – | – | – | – | – | – |  |  |  |  |" in text
    assert "- share none: needs a store" in text
    assert "The recipes were changed: `train.lr=1e-4`." in text
    assert text.count("`video`: orvit-hr (ek100-finetuned, sha256 abababababab), store cccccccccccc") == 1
    assert "`verb_question`: roberta-base (pretrained), store dddddddddddd" in text
    assert len({one.count("|") for one in text.splitlines() if one.startswith("|")}) == 1


def test_the_easier_recall_of_actions_has_a_column_of_its_own_in_anticipation():
    measured = line("MambaVL (ORViT)", "mambavl-orvit-anticipation", measured=row(30.0), relaxed=33.25)
    text = markdown(table(2, "released"), [measured], [])
    assert "| action | relaxed | text |" in text
    assert "| 32.0 (31.0 to 33.2) | 33.2 | oracle |" in text
    assert "| relaxed |" not in markdown(table(1, "released"), [line("x", measured=row(1.0))], [])
    assert "recipes were changed" not in text


def test_what_must_be_said_is_said_with_the_row():
    text = markdown(table(1, "matched"), [line("a", measured=row(1.0), notice="an upper bound")], [])
    assert "- a: an upper bound" in text


def test_json_holds_the_published_row_whole():
    lines = [
        line("MambaVL", "mambavl-orvit", measured=row(60.0)),
        Line(name="b", published=None, nothing="x"),
    ]
    found = json.loads(json.dumps(to_dict(table(3, "matched"), lines, [])))
    first, second = found["rows"]
    assert first["published"]["source"].startswith("MambaVL, arXiv 2409.11513v1")
    assert first["measured"]["measured"]["verb"]["interval"] == [60.0, 59.0, 61.25]
    assert (second["published"], second["measured"], second["nothing"]) == (None, None, "x")
