"""Published numbers: each has its source, stands once, and is what pages, recipes and the report show."""

import json
import re
from dataclasses import replace

import pytest

from helpers.paths import ROOT
from helpers.tiny import tiny_recipe
from mambavl.configs import find_recipe, load, read_toml
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.published import (
    Published,
    figures_of,
    published,
    read_published,
    rows_of,
    said_of,
    to_json,
    to_markdown,
)
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.run import read_result
from mambavl.fuse.train import train

ROW = {
    "name": "a-model",
    "model": "A model",
    "task": "recognition",
    "split": "validation",
    "measure": "top1",
    "protocol": "video",
    "values": {"verb": 60.0, "action": 40},
    "source": "its paper, Table 1",
    "date": "2024-09",
    "tier": "claimed",
}
# The paper's tables once more, as printed: verb, noun, action
TABLE_1 = [
    (71.4, 60.3, 48.4), (69.5, 61.7, 49.9), (70.6, 58.5, 46.2), (68.4, 58.7, 45.7), (69.1, 63.9, 48.6),
    (70.0, 59.8, 49.1),
    (69.0, 58.4, 46.9), (70.9, 61.1, 49.1), (73.0, 65.4, 54.4), (72.0, 62.9, 51.0), (74.3, 67.1, 55.0),
]  # fmt: skip
TABLE_2 = [
    (28.2, 32.0, 15.9), (32.2, 37.0, 17.7), (32.8, 33.2, 15.1), (22.8, 34.6, 18.5), (26.9, 34.2, 23.3),
    (29.1, 35.1, 23.9),
]  # fmt: skip
TABLE_3 = [(62.8, 51.6, 39.6), (62.9, 51.9, 40.0), (62.5, 51.8, 39.5), (69.1, 63.9, 48.6)]
TABLE_4 = [(405, 148), (413.5, 242), (413, 157)]


def read(*rows):
    return read_published(json.dumps({"rows": rows}), "rows.json")


@pytest.fixture(scope="module")
def run(mixable):
    return mixable / "mlp"


def test_every_number_of_the_paper_is_there_once_with_its_table():
    for number, table in enumerate((TABLE_1, TABLE_2, TABLE_3, TABLE_4), 1):
        cited = [row for row in published().values() if number in tables_cited(row.source)]
        assert sorted(tuple(row.values.values()) for row in cited) == sorted(table), number


def tables_cited(source):
    """Numbers of the paper's tables that a source names."""
    found = re.search(r"2409\.11513v1, Tables? (\d)(?: and (\d))?", source)
    return {int(one) for one in found.groups() if one} if found else set()


def test_every_row_says_where_it_is_from():
    for row in published().values():
        assert row.source.strip()
        assert row.date[:2] == "20"
        assert row.protocol
        assert row.tier in ("claimed", "released")


def test_only_what_the_action_itself_was_shown_for_has_the_relaxed_measure_of_its_kind():
    """The two recalls never stand in one table: MambaVL's and InAViT's own are the relaxed one."""
    relaxed = {name for name, row in published().items() if row.measure.startswith("relaxed")}
    assert relaxed == {"inavit-log", "orvit-anticipation", "mambavl-orvit-anticipation"}


@pytest.mark.parametrize("key", sorted(ROW))
@pytest.mark.parametrize("value", [None, "  ", 7])
def test_a_row_that_lacks_something_is_refused_by_name(key, value):
    row = {**ROW, key: value}
    if value is None:
        del row[key]
    who = "1" if key == "name" and value is None else re.escape(str(row.get("name")))
    with pytest.raises(DataError, match=rf"rows\.json: row {who}: (it lacks its {key}|values are)"):
        read(row)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tier": "rumoured"}, "tier is 'rumoured'; it is one of claimed, released, reproduced"),
        ({"task": "detection"}, "task is 'detection'"),
        ({"split": "val"}, "split is 'val'"),
        ({"measure": "recall5"}, "measure is 'recall5'; it is one of top1, mean_class_recall5"),
        ({"date": "September 2024"}, "date is 'September 2024'"),
        ({"date": "2024-13"}, "date is '2024-13'"),
        ({"name": "A model"}, "name is 'A model'"),
        ({"values": {}}, "values are {}"),
        ({"values": {"verb": "60"}}, "they are numbers by target"),
        ({"values": {"verb": True}}, "they are numbers by target"),
        ({"values": {"verb": 100.5}}, "they are percent"),
        ({"values": {"verb": -1}}, "they are numbers"),
        ({"url": "x"}, "there is no key url"),
    ],
)
def test_a_row_that_means_nothing_is_refused(change, says):
    with pytest.raises(DataError, match=f"row .*{says}"):
        read({**ROW, **change})


def test_two_rows_of_one_name_are_refused():
    with pytest.raises(DataError, match="row a-model: there are two"):
        read(ROW, ROW)
    assert list(read(ROW, {**ROW, "name": "b"})) == ["a-model", "b"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [1]}', '{"rows": 3}'])
def test_what_is_no_list_of_rows_is_refused(text):
    with pytest.raises(DataError, match=r"rows\.json: is no list of published numbers"):
        read_published(text, "rows.json")


def test_a_cost_may_be_above_100():
    [row] = read({**ROW, "measure": "cost", "split": "none", "values": {"gflops": 413.5}}).values()
    assert row.figures == "413.5"


def test_figures_are_those_of_a_row_and_a_dash_where_there_are_none():
    assert figures_of("mambavl-vit-b") == {"verb": 70.9, "noun": 61.1, "action": 49.1}
    assert Published(**ROW).figures == "60.0 / – / 40.0"
    with pytest.raises(ValueError, match="no published row 'mambavl-vit-bb'; did you mean `mambavl-vit-b`"):
        figures_of("mambavl-vit-bb")
    with pytest.raises(ValueError, match=r"memvit-32x3-anticipation is of class-mean recall@5, not of top-1"):
        figures_of("memvit-32x3-anticipation")


def test_where_figures_are_from_is_said_of_those_that_are_listed():
    said = said_of({"verb": 70.9, "noun": 61.1, "action": 49.1})
    assert said == (
        "70.9 / 61.1 / 49.1: MambaVL (ViT-B), video and oracle text; MambaVL, arXiv 2409.11513v1, Table 1 "
        "(2024-09-17, claimed)"
    )
    own = "the recipe's own figures, of no source that is listed"
    assert said_of({"verb": 70.9}) == f"verb 70.9: {own}"  # one figure of a row is not the row
    assert said_of({"verb": 28.2, "noun": 32.0, "action": 15.9}).endswith(own)  # AVT+'s, which are no top-1


# --- who shows them


def test_a_recipe_names_a_row_and_has_its_figures(stores):
    raw = read_toml(find_recipe("fuse/paper"))
    assert raw["published"] == "mambavl-vit-b"
    assert load("fuse/paper", Recipe).published == figures_of("mambavl-vit-b")
    assert load("fuse/paper", Recipe, ["published=mambavl-vit-l"]).published["action"] == 55.0
    assert load("fuse/default", Recipe, ["published.verb=60.5"]).published == {"verb": 60.5}
    with pytest.raises(UsageError, match=r"published = 'mambavl': there is no published row 'mambavl'; did"):
        load("fuse/default", Recipe, ["published=mambavl"])


def test_recipes_and_pages_show_no_other_numbers():
    """Of lines that say `published`: three figures in a row are those of a row of the list."""
    known = {tuple(row.values.values()) for row in published().values()}
    shown = set()
    figure = r"(?:\w+ )?(\d\d\.\d)"
    for path in [*(ROOT / "configs" / "fuse").glob("*.toml"), ROOT / "README.md"]:
        text = path.read_text()
        if path.suffix == ".toml":
            comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
            text = " ".join(re.findall(r"Published.*?(?=Measured|$)", comments))
        else:  # the fourth column of its table of results is what was measured
            rows = [
                line.split("|") for line in text.partition("| recipe |")[2].partition("## ")[0].splitlines()
            ]
            text = " ".join(cells[3] for cells in rows if len(cells) == 6)
        found = re.findall(rf"{figure}(?:, | ?/ ?){figure}(?:, | ?/ ?){figure}", text)
        figures = {tuple(map(float, one)) for one in found}
        assert figures <= known, path
        shown |= figures
    assert {*TABLE_3, (70.9, 61.1, 49.1)} <= shown  # they are found


def test_the_page_is_what_is_printed():
    page = (ROOT / "docs" / "published.md").read_text()
    assert page == to_markdown(list(published().values())), (
        "run `mambavl published --markdown > docs/published.md`"
    )


# --- ours in the same form


def test_a_run_s_rows_are_its_measures_in_the_same_form(run):
    result = read_result(run)
    rows = rows_of(result, "My Run_1", "2026-01-31")
    assert read_published(to_json(rows), "ours") == {row.name: row for row in rows}
    assert [row.name for row in rows] == ["my-run-1-top1", "my-run-1-mean-class-recall5"]
    for row, kind in zip(rows, ("top1", "mean_class_recall5"), strict=True):
        assert row.measure == kind
        assert set(row.values) == {"verb", "noun", "action"}
        for target, value in row.values.items():
            assert value == pytest.approx(result.metrics[f"all_{target}_{kind}"], abs=0.005)
        assert (row.task, row.split, row.tier, row.date) == (
            "anticipation", "validation", "reproduced", "2026-01-31",
        )  # fmt: skip
        assert row.protocol == "past, oracle history"
        assert row.note == result.notice
        assert result.scored.environment.mambavl in row.source
        assert "seed 0" in row.source


def test_a_run_whose_task_nobody_says_or_that_was_not_measured_has_none(stores, tmp_path):
    result = train(tiny_recipe(stores), tmp_path / "run")
    with pytest.raises(UsageError, match=r"mine: its stores do not say what .*--task"):
        rows_of(result, "mine", "2026-01-31")
    [row, *_] = rows_of(result, "mine", "2026-01-31", "recognition")
    assert row.task == "recognition"
    assert set(row.protocol.split(", ")) == {"video", "verb_question", "noun_question", "oracle text"}
    with pytest.raises(UsageError, match="has no labels, so nothing was measured"):
        rows_of(replace(result, metrics={}), "mine", "2026-01-31", "recognition")
