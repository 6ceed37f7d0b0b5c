"""`mambavl published`, from the shell."""

import json

from helpers.cli import call
from mambavl.fuse.published import published, read_published


def test_the_list_is_printed_by_table_and_as_json(capsys):
    assert call("published") == 0
    said = capsys.readouterr().out
    assert "Recognition, validation, top-1" in said
    assert "70.9 / 61.1 / 49.1" in said
    assert "Anticipation, test, class-mean recall@5" in said
    assert call("published", "--json") == 0
    assert read_published(capsys.readouterr().out, "out") == published()
    assert call("published", "--json", "--task", "anticipation") == 0
    found = read_published(capsys.readouterr().out, "out")
    assert {row.task for row in found.values()} == {"anticipation"}
    assert len(found) < len(published())


def test_runs_are_printed_in_the_same_form(mixable, capsys):
    assert call("published", mixable / "mlp", mixable / "counts", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == [
        f"{name}-{kind}" for name in ("mlp", "counts") for kind in ("top1", "mean-class-recall5")
    ]
    assert {row["tier"] for row in rows} == {"reproduced"}
    assert call("published", mixable / "mlp") == 0
    assert "oracle history" in capsys.readouterr().out
    assert call("published", mixable / "mlp", mixable / "mlp", "--json") == 1
    assert "row mlp-top1: there are two of this name" in capsys.readouterr().err


def test_the_page_is_the_whole_list(capsys):
    assert call("published", "--markdown") == 0
    assert capsys.readouterr().out.startswith("# Published numbers\n")
    assert call("published", "--markdown", "--task", "recognition") == 2
    assert "--markdown prints the whole list" in capsys.readouterr().err
