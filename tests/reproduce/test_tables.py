"""`mambavl reproduce table1|2|3` on made-up stores: what is run, what is said, what is made again."""

import json

import numpy as np
import pytest

from helpers.cli import call
from helpers.tables import ROWS, TINY, make_store
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.run import read_result, read_scores
from mambavl.reproduce import tables
from mambavl.reproduce.rows import table
from mambavl.reproduce.tables import Asked, slug

MAIN = "MambaVL (ORViT)"


def make_stores(folder, found, names=()):
    """Those that the rows of a table read; names: of these rows alone."""
    folder.mkdir(exist_ok=True)
    wanted = [one for row in found.rows if not names or row.name in names for one in row.stores]
    for one in dict.fromkeys(wanted):
        make_store(folder / f"{one.name}-{len(list(folder.iterdir()))}.zarr", one)
    return folder


@pytest.fixture(scope="module")
def third(tmp_path_factory):
    """Table 3, matched, all rows, two seeds."""
    folder = tmp_path_factory.mktemp("third")
    found = table(3, "matched")
    stores = make_stores(folder / "stores", found)
    asked = Asked(found, [stores], sets=TINY, seeds=2)
    tables.run(asked, folder / "out")
    return asked, folder / "out", json.loads((folder / "out/results.json").read_bytes())


def test_every_row_is_trained_and_its_numbers_are_those_of_its_runs(third):
    asked, out, found = third
    assert [row["name"] for row in found["rows"]] == [row.name for row in asked.table.rows]
    assert (found["table"], found["inputs"], found["sets"]) == (3, "matched", list(TINY))
    for row in found["rows"]:
        results = [read_result(run) for run in sorted((out / "runs" / slug(row["name"])).glob("*=*"))]
        assert {result.seed for result in results} == {0, 1}
        assert row["nothing"] == ""
        for target in ("verb", "noun", "action"):
            mean = np.mean([result.metrics[f"all_{target}_top1"] for result in results])
            assert row["measured"]["measured"][target]["interval"][0] == pytest.approx(mean)
        assert row["measured"]["rows"] == results[0].rows.scored == ROWS / 2
    heads = [read_result(next((out / "runs" / slug(row["name"])).glob("*=*"))).head for row in found["rows"]]
    assert heads == ["mambavl", "mlp", "transformer", "transformer", *["mambavl"] * 4]


def test_differences_are_to_the_first_row_seed_by_seed(third):
    found = third[-1]
    main, other = found["rows"][0], found["rows"][1]
    assert main["measured"]["measured"]["verb"]["difference"] is None
    value = other["measured"]["measured"]["verb"]["difference"][0][0]
    values = [row["measured"]["measured"]["verb"]["interval"][0] for row in (other, main)]
    assert value == pytest.approx(values[0] - values[1])


def test_protocol_weights_and_stores_stand_with_the_numbers(third):
    _, out, found = third
    untrained = found["rows"][-1]
    assert untrained["name"] == "random text encoder"
    assert untrained["streams"]["verb_question"]["weights"] == "random"
    assert found["rows"][0]["streams"]["verb_question"]["weights"] == "pretrained"
    assert [row["protocol"] for row in found["rows"]] == ["oracle"] * 4 + ["absent"] + ["oracle"] * 3
    text = (out / "results.md").read_text()
    stores = {
        store[:12] for row in found["rows"] for one in row["streams"].values() for store in one["store"]
    }
    assert len(stores) == 3
    assert all(store in text for store in stores)
    assert found["rows"][1]["published"]["values"] == {"verb": 62.8, "noun": 51.6, "action": 39.6}
    assert found["rows"][4]["published"] is None


def test_the_same_command_makes_nothing_twice(third, monkeypatch):
    asked, out, found = third
    made = {path: path.stat().st_mtime_ns for path in out.glob("**/result.json")}
    assert len(made) == 16
    tables.run(asked, out)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert json.loads((out / "results.json").read_bytes()) == found


def test_what_is_missing_is_said_row_by_row_and_the_rest_is_measured(tmp_path, capsys):
    found = table(1, "matched")
    stores = make_stores(tmp_path / "stores", found, ("ORViT, video alone",))
    words = ("reproduce", "table1", "--stores", stores, "--out", tmp_path / "out", "--seeds", 1)
    sets = [word for one in TINY for word in ("--set", one)]
    assert call(*words, *sets) == 1
    said = capsys.readouterr()
    assert "7 rows without numbers: MambaVL (ORViT); AVION ViT-B, video alone;" in said.err
    rows = {row["name"]: row for row in json.loads((tmp_path / "out/results.json").read_bytes())["rows"]}
    assert rows["ORViT, video alone"]["measured"]
    nothing = rows[MAIN]["nothing"]
    assert nothing.startswith("needs text by roberta-base, levels verb_question/last_hidden, noun_question/")
    assert "make it by `mambavl extract text --annotations EK100 --questions questions-oracle" in nothing
    assert "needs video" not in nothing
    assert rows["MeMViT 24x3"]["nothing"].startswith("this package has no such encoder")
    assert f"- {MAIN}: needs text" in (tmp_path / "out/results.md").read_text()
    # before the first run: what each row needs
    assert said.out.index("MambaVL (ViT-L): published 74.3 / 67.1 / 55.0") < said.out.index("**Table 1")


def test_a_store_nearly_right_is_named_with_its_fault(tmp_path):
    found = table(1, "matched")
    [row] = [row for row in found.rows if row.name == "ORViT, video alone"]
    path = make_store(tmp_path / "v.zarr", row.stores[0], state="random")
    with pytest.raises(DataError, match="1 row without numbers: ORViT, video alone"):
        tables.run(Asked(found, [tmp_path], only=[row.name], seeds=1), tmp_path / "out")
    [line] = json.loads((tmp_path / "out/results.json").read_bytes())["rows"]
    assert f"({path}: its weights are random; --allow-random orvit-hr" in line["nothing"]
    assert not (tmp_path / "out/runs").exists()
    tables.run(Asked(found, [tmp_path], [row.name], TINY, seeds=1, allowed=["orvit-hr"]), tmp_path / "out")
    assert "orvit-hr random" in (tmp_path / "out/results.md").read_text()


def test_anticipation_is_measured_twice(tmp_path):
    found = table(2, "matched")
    stores = make_stores(tmp_path / "stores", found)
    tables.run(Asked(found, [stores], only=[MAIN], sets=TINY, seeds=1), tmp_path / "out")
    [row] = json.loads((tmp_path / "out/results.json").read_bytes())["rows"]
    [run] = (tmp_path / "out/runs").glob("*/*=*")
    metrics = read_result(run).metrics
    assert row["measured"]["measured"]["action"]["interval"][0] == pytest.approx(
        metrics["all_action_mean_class_recall5"]
    )
    assert row["relaxed"] == pytest.approx(metrics["relaxed_action_mean_class_recall5"])
    assert row["protocol"] == "predicted"
    assert "| relaxed |" in (tmp_path / "out/results.md").read_text()


def test_released_inputs_run_too(tmp_path):
    found = table(3, "released")
    stores = make_stores(tmp_path / "stores", found)
    names = ["MambaVL", "MLP, 2 layers", "Transformer 12x12"]
    tables.run(Asked(found, [stores], only=names, sets=TINY, seeds=1), tmp_path / "out")
    run = next((tmp_path / "out/runs/mlp-2-layers").glob("*=*"))
    assert read_scores(run, "validation")["verb"].shape == (ROWS / 2, 3)


def test_a_plan_runs_nothing_and_says_it_all(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "run_sweep", None)
    found = table(3, "matched")
    text = found.rows[0].stores[1]
    make_store(tmp_path / "text.zarr", text)
    assert call("reproduce", "table3", "--plan", "--stores", tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{text.said} (weights: hub FacebookAI/roberta-base): {tmp_path / 'text.zarr'}" in said
    assert "share none: a control, published nowhere; recipe fuse/paper" in said
    assert "mambavl extract video --annotations EK100" in said
    assert "--weights random" in said  # the control's text store
    # the one that is there is not made
    assert sum("mambavl extract text" in line for line in said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.zarr"]


def test_a_misspelt_row_and_key_are_refused_before_anything_runs(tmp_path):
    found = table(1, "matched")
    with pytest.raises(UsageError, match="--row 'MambaVL': Table 1 has no such row, but MeMViT"):
        tables.run(Asked(found, only=["MambaVL"]), tmp_path / "out")
    stores = make_stores(tmp_path / "stores", found, (MAIN,))
    with pytest.raises(UsageError, match="epoch"):
        tables.run(Asked(found, [stores], only=[MAIN], sets=["train.epochz=1"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
