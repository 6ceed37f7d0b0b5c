"""benchmarks/plots.py: each figure shows its result, and one that shows another is noticed."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from helpers.benchmarks import BENCHMARKS, load
from helpers.paths import ROOT

WAYS = ("cpu", "loop", "jax")
KEY = "plain forward+backward"


@pytest.fixture(scope="module")
def plots():
    return load("plots")


def made_results():
    """Of three benchmarks, with numbers that stand nowhere else."""
    scans = {way: {KEY: 12.5 * 10**place, "plain forward": 3.0} for place, way in enumerate(WAYS)}
    readers = {"h5py": {"milliseconds": 9.75}, "mambavl": {"milliseconds": 0.125}, "lance": None}
    points = [
        {"kind": kind, "x": x, "fastest": x * 1.5, "megabytes": 7.0 + x}
        for x in (16, 4096)
        for kind in ("mambavl", "transformer 6x4")
    ]
    return {
        "scan": {
            "conditions": {},
            "ours": "cpu",
            "scans_milliseconds": {"128x16x1536": scans, "8x1569x1536": scans | {"jax": {KEY: None}}},
        },
        "loading": {"conditions": {}, "batches": {"16x768": readers}},
        "scaling": {"conditions": {}, "length": points, "rows": points, "heads": points},
    }


@pytest.fixture
def folders(tmp_path):
    results, figures = tmp_path / "results", tmp_path / "figures"
    results.mkdir()
    figures.mkdir()
    for name, found in made_results().items():
        (results / f"{name}.json").write_text(json.dumps(found))
    return results, figures


def test_figures_of_the_docs_show_the_results():
    """What CI runs."""
    command = [sys.executable, BENCHMARKS / "plots.py", "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_every_figure_is_embedded_in_a_page_with_words_for_those_who_cannot_see_it(plots):
    pages = {"scan": "docs/scan.md", "loading": "docs/store.md", "scaling": "benchmarks/scale.py"}
    assert pages.keys() == plots.PICTURES.keys()
    for name, page in pages.items():  # scale.py writes docs/scale.md
        _, embedded, _ = (ROOT / page).read_text().partition(f"](figures/{name}.svg)")
        assert embedded, page
        alternative = (ROOT / page).read_text().partition(f"](figures/{name}.svg)")[0].rpartition("![")[2]
        assert len(alternative.split()) >= 8, alternative


def test_what_was_drawn_is_as_it_should_be_until_a_number_changes(plots, folders):
    results, figures = folders
    missing = [f"{figures / name}.svg: does not show {name}.json" for name in plots.PICTURES]
    faults, _ = plots.renew(results, figures, write=False)
    assert [fault.partition(";")[0] for fault in faults] == missing
    assert plots.renew(results, figures, write=True) == ([], [])
    assert plots.renew(results, figures, write=False) == ([], [])
    changes = {
        "scan": lambda found: found["scans_milliseconds"]["128x16x1536"]["jax"].update({KEY: 1250.1}),
        "loading": lambda found: found["batches"]["16x768"].update(lance={"milliseconds": 1.0}),
        "scaling": lambda found: found["heads"][-1].update(megabytes=1.0),
    }
    for name, change in changes.items():
        found = made_results()[name]
        change(found)
        (results / f"{name}.json").write_text(json.dumps(found))
        drawn = (figures / f"{name}.svg").read_text()
        [fault] = plots.renew(results, figures, write=False)[0]
        assert fault == (
            f"{figures / name}.svg: does not show {name}.json; python benchmarks/plots.py draws it anew"
        )
        assert (figures / f"{name}.svg").read_text() == drawn
        (results / f"{name}.json").write_text(json.dumps(made_results()[name]))


def test_a_result_that_is_not_there_is_skipped_and_said_to_be(plots, folders, monkeypatch, capsys):
    results, figures = folders
    (results / "scaling.json").unlink()
    monkeypatch.setattr(plots, "RESULTS", results)
    monkeypatch.setattr(plots, "FIGURES", figures)
    for words in ([], ["--check"]):
        with pytest.raises(SystemExit) as end:
            plots.main(words)
        assert end.value.code == 0
        assert capsys.readouterr().out == "scaling.svg: skipped, since there is no scaling.json\n"
    assert sorted(path.name for path in figures.iterdir()) == ["loading.svg", "scan.svg"]
    (figures / "scan.svg").unlink()
    with pytest.raises(SystemExit) as end:
        plots.main(["--check"])
    assert end.value.code == 1
    assert "scan.svg: does not show scan.json" in capsys.readouterr().err


def test_the_same_numbers_give_the_same_bytes_with_words_as_text_on_white(plots):
    for name, found in made_results().items():
        picture = plots.PICTURES[name](found)
        drawn = plots.draw(picture)
        assert drawn == plots.draw(picture), name
        assert plots.fingerprint_of(drawn) == plots.fingerprint(picture)
        assert re.search(r"<text [^>]*>mambavl", drawn)
        assert re.search(r'id="patch_1">\s*<path [^>]*style="fill: #ffffff"', drawn)
    assert plots.fingerprint_of("<svg/>") is None


def test_bars_are_in_order_with_ours_among_them_and_without_what_was_not_run(plots):
    found = made_results()
    ((short, long),) = plots.scan(found["scan"]).panels
    assert list(short.values.items()) == [("mambavl, cpu", 12.5), ("PyTorch loop", 125.0), ("jax", 1250.0)]
    older = made_results()["scan"]
    older["conditions"]["ours"] = older.pop("ours")
    assert plots.scan(older).panels == ((short, long),)
    assert (list(long.values), long.title, long.ours) == (
        ["mambavl, cpu", "PyTorch loop"],
        "8 x 1,569 x 1,536",
        ("mambavl, cpu",),
    )
    ((bars,),) = plots.loading(found["loading"]).panels
    assert list(bars.values.items()) == [("mambavl", 0.125), ("h5py", 9.75)]
    assert "9.75" in plots.draw(plots.loading(found["loading"]))
    lines = plots.scaling(found["scaling"]).panels[1][0]
    assert lines.values["mambavl"] == ((16, 23.0), (4096, 4103.0))
    assert lines.unit == "MB"


def test_words_count_as_well_as_numbers(plots):
    picture = plots.loading(made_results()["loading"])
    [[bars]] = picture.panels
    others = [
        replace(picture, title="another"),
        replace(picture, panels=((replace(bars, unit="s"),),)),
        replace(picture, panels=((replace(bars, values={"memmap": 0.125, "h5py": 9.75}),),)),
        replace(picture, panels=((plots.Lines(bars.title, bars.unit, {}),),)),
    ]
    assert len({plots.fingerprint(one) for one in [picture, *others]}) == 5
