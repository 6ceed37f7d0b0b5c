"""The page: self-contained, escaped, whole."""

import csv
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from helpers.pages import column_of, tables_of, text_of
from helpers.tiny import tiny_recipe
from mambavl.configs.errors import DataError, Interrupted
from mambavl.fuse import report
from mambavl.fuse.report.caveats import Caveat
from mambavl.fuse.report.page import coded, data_script
from mambavl.fuse.train import train


def test_the_report_escapes_what_it_is_given_and_needs_nothing_from_outside(page):
    _, text = page
    scripts = re.findall(r"<script( [^>]*)?>", text)
    assert len(scripts) == text.count("<script") == text.count("</script>")
    data = r' type="application/(json|octet-stream)" id="[-a-z0-9]+"'
    assert all(one == "" or re.fullmatch(data, one) for one in scripts)
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r'(src|href)="https?://', text)


def test_published_figures_stand_beside_what_was_measured_with_their_source(page, tmp_path):
    """Of a run that an older version made, too: its recipe holds the figures and no name."""
    folder, text = page
    assert "published verb" not in text
    runs = []
    for name, figures in (("listed", {"verb": 70.9, "noun": 61.1, "action": 49.1}), ("own", {"noun": 12.5})):
        run = shutil.copytree(folder / "text", tmp_path / name)
        result = json.loads((run / "result.json").read_text())
        result["recipe"]["published"] = figures
        (run / "result.json").write_text(json.dumps(result))
        runs.append(run)
    report.write_report(runs, tmp_path / "report.html")
    shown = (tmp_path / "report.html").read_text()
    headline = tables_of(shown)["headline"]
    published = [column_of(headline, f"published {name}")[:2] for name in ("verb", "noun", "action")]
    assert published == [["70.9", "–"], ["61.1", "12.5"], ["49.1", "–"]]
    assert (
        "<li>70.9 / 61.1 / 49.1: MambaVL (ViT-B), video and oracle text; MambaVL, arXiv 2409.11513v1" in shown
    )
    assert "<li>noun 12.5: the recipe&#39;s own figures, of no source that is listed</li>" in shown


def test_a_title_may_hold_anything_and_stores_may_be_gone(stores, tmp_path):
    shutil.copytree(stores, tmp_path / "stores")
    train(tiny_recipe(tmp_path / "stores", title=r"_$\frac$ & co"), tmp_path / "run")
    shutil.rmtree(tmp_path / "stores")
    report.write_report([tmp_path / "run"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert r"_$\frac$ &amp; co" in text


def test_runs_that_failed_or_wait_are_listed_and_the_others_shown(stores, tmp_path):
    train(tiny_recipe(stores, title="whole"), tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores), tmp_path / "half", should_stop=lambda: next(calls) >= 4)
    with pytest.raises(DataError, match="diverged"):
        train(tiny_recipe(stores, lr=1e30, clip_norm=0, warmup_epochs=0), tmp_path / "failed")
    lines = [{"run": run, "values": {}, "error": ""} for run in ("<b>waiting</b>", "whole")]
    (tmp_path / "summary.json").write_text(json.dumps(lines))
    runs = [tmp_path / name for name in ("whole", "half", "failed", "summary.json")]
    missing = report.write_report(runs, tmp_path / "r.html")
    assert [Path(name).name for name in missing] == ["half", "failed", "b>"]
    half, failed, new = missing.values()
    assert half == "has not finished: 1 of 4 epochs; the command that began it resumes"
    assert failed.startswith("failed: ")
    assert "diverged" in failed
    assert new == "has not begun"
    text = (tmp_path / "r.html").read_text()
    assert "Not on this page" in text
    assert "1 of 4 epochs" in text
    assert "&lt;b&gt;waiting" in text
    assert "“whole”" in text or ">whole<" in text
    with pytest.raises(DataError, match=r"no run has finished and been measured.*\n.*half: has not finished"):
        report.write_report([tmp_path / "half"], tmp_path / "r.html")
    with pytest.raises(DataError, match="is not a run"):
        report.write_report([tmp_path / "whole", stores], tmp_path / "r.html")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json: is damaged"):
        report.write_report(runs, tmp_path / "r.html")


def test_a_page_of_finished_runs_has_no_list_of_others(page):
    _, text = page
    assert "Not on this page" not in text


def test_data_for_scripts_ends_no_script_and_is_read_back():
    nasty = {"a": ["</script><script>alert(1)</script>", "<!--", "&amp;", "\u2028", "x\u202ey", None, 1.5]}
    text = str(data_script("here", nasty))
    assert text.startswith('<script type="application/json" id="here">')
    inner = text.partition(">")[2].removesuffix("</script>")
    assert "<" not in inner
    assert json.loads(inner) == {"a": [*nasty["a"][:4], "xy", None, 1.5]}


def test_every_table_of_the_page_is_written_as_csv_and_latex(page, tmp_path):
    """Each says what the page says."""
    folder, _ = page
    runs = [folder / name for name in ("fused0", "fused1", "text")]
    report.write_report(runs, tmp_path / "r.html", tables=tmp_path / "tables")
    shown = tables_of((tmp_path / "r.html").read_text())
    assert {"headline", "measures", "classes-verb", "confused-action", "calibration", "cost"} <= shown.keys()
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        f"{name}.{ending}" for name in shown for ending in ("csv", "tex")
    }
    for name, rows in shown.items():
        with (tmp_path / "tables" / f"{name}.csv").open(newline="") as file:
            read = [[cell.removeprefix("'") for cell in row] for row in csv.reader(file)]
        assert read == rows, name


def test_what_is_known_of_the_data_stands_first(page, tmp_path):
    folder, _ = page
    report.write_report([folder / "text"], tmp_path / "r.html", known=[Caveat("A toy.", "It is <rendered>.")])
    text = (tmp_path / "r.html").read_text()
    assert text.index("<strong>A toy.</strong> It is &lt;rendered&gt;.") < text.index("<strong>Few rows.")


def test_of_many_entries_the_first_are_looked_at_closer(page, tmp_path, monkeypatch):
    folder, _ = page
    monkeypatch.setattr("mambavl.fuse.report.page.CLOSER", 1)
    report.write_report([folder / "fused0", folder / "text"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    shown = tables_of(text)
    assert "participants are those of the first 1 of 2 entries" in text_of(text)
    assert "text only" in column_of(shown["headline"], "entry")
    assert "text only" not in column_of(shown["calibration"], "entry")
    assert "text only" not in column_of(shown["confused-verb"], "entry")


def test_the_same_runs_give_the_same_page(page, tmp_path):
    folder, _ = page
    pages = []
    for name in ("a", "b"):
        report.write_report([folder / "fused0", folder / "text"], tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


STYLE = resources.files("mambavl.fuse.report").joinpath("style.css").read_text()
PAIRS = [  # text, and what it stands on
    ("ink", "paper"), ("ink", "panel"), ("muted", "paper"), ("muted", "panel"), ("accent", "paper"),
    ("accent", "panel"), ("warn", "warn-paper"), ("warn", "paper"), ("ink", "warn-paper"), ("ink", "bar"),
    ("good", "paper"), ("bad", "paper"),
]  # fmt: skip


def luminance(colour):
    """Of WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("number", range(4))
def test_text_has_contrast_in_every_theme(number):
    """Light, dark by the button, dark by the reader's system, and on paper."""
    blocks = [block for block in re.findall(r"\{([^{}]*)\}", STYLE) if "--paper:" in block]
    assert len(blocks) == 4
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[number]))
    for text, ground in PAIRS:
        light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_both_ways_to_the_dark_theme_have_the_same_colours():
    blocks = [block for block in re.findall(r"\{([^{}]*)\}", STYLE) if "--paper:" in block]
    assert blocks[1].split() == blocks[2].split()


def test_commands_in_sentences_are_code_and_nothing_else_is():
    """Also where a title within has marks of its own: an odd one is left, and all is escaped."""
    assert coded("try `mambavl <x>` & go") == "try <code>mambavl &lt;x&gt;</code> &amp; go"
    assert coded("a ` alone <b>") == "a ` alone &lt;b&gt;"
    assert coded("turned\u202e round") == "turned round"
