"""`mambavl reproduce history` on a made-up kitchen where the next action follows from the last one."""

import json
import shutil

import numpy as np
import pytest

from helpers.dataset import COLUMNS, write
from helpers.jobs import make_roberta
from mambavl.configs import find_recipe
from mambavl.fuse.run import read_result
from mambavl.reproduce import history

VERBS, NOUNS, ACTIONS = 9, 8, 14
POINTS = """[[points]]
fusion.share = "A"

[[points]]
head.name = "transformer"

[grid]
train.seed = [0, 1]
"""


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Twelve kitchens; a verb is followed by the next one, and the noun changes with it, mostly."""
    folder, dice = tmp_path_factory.mktemp("annotations"), np.random.default_rng(1)
    header = ("id", "key", "instances", "category")
    for kind, count in (("verb", VERBS), ("noun", NOUNS)):
        names = [(number, f"{kind}{number}", f"['{kind}{number}']", "a") for number in range(count)]
        write(folder / f"EPIC_100_{kind}_classes.csv", header, names)
        write(folder / f"EPIC_100_tail_{kind}s.csv", (kind,), [(1,)])
    write(folder / "EPIC_100_unseen_participant_ids_validation.csv", ("participant_id",), [("P11",)])
    rows = {"train": [], "validation": []}
    for kitchen in range(12):
        verb, video = 0, f"P{kitchen:02d}_101"
        for number in range(ACTIONS):
            verb = (verb + 1) % VERBS if dice.random() < 0.8 else int(dice.integers(VERBS))
            noun, start = (2 * verb) % NOUNS, 3.0 * number
            words = f"verb{verb}", f"noun{noun}"
            rows["validation" if kitchen > 9 else "train"].append((
                f"{video}_{number}", f"P{kitchen:02d}", video, "00:00:01.000", f"00:00:{start:05.2f}",
                f"00:00:{start + 1:05.2f}", 1, 2, " ".join(words), words[0], verb, words[1], noun,
                f"['{words[1]}']", f"[{noun}]",
            ))  # fmt: skip
    for split, own in rows.items():
        write(folder / f"EPIC_100_{split}.csv", COLUMNS, own)
    info = [(f"P{kitchen:02d}_101", 3.0 * ACTIONS, 10.0, "160x48") for kitchen in range(12)]
    write(folder / "EPIC_100_video_info.csv", ("video_id", "duration", "fps", "resolution"), info)
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The packaged grid with two of its points and two seeds, narrow; and a text encoder of a few weights."""
    text = find_recipe(history.GRID).read_text()
    text = text[: text.index("[[points]]")].replace("d_model = 128", "d_model = 16") + POINTS
    recipe = tmp_path / "grid.toml"
    recipe.write_text(
        text.replace("epochs = 5 ", "epochs = 2 ").replace("batch_size = 512", "batch_size = 16")
    )
    monkeypatch.setattr(history, "GRID", recipe)
    (tmp_path / "model").mkdir()
    weights = str(make_roberta(tmp_path / "model"))
    return {"encoder": "hf:tiny", "weights": weights, "weights_state": "random"}


def test_one_command_makes_stores_runs_and_the_table_and_makes_nothing_twice(
    annotations, small, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    history.run(annotations, out, text=small)
    found = json.loads((out / "results.json").read_bytes())
    assert [row["name"] for row in found["validation"]] == [
        "counts",
        "head",
        "head less prior",
        "head and counts",
    ]
    for held in (found["held"], found["held_less_prior"]):
        assert [row["name"] for row in held] == [
            "share = A",
            "name = transformer",
            "share = A, order shuffled",
            "counts",
        ]
    assert [row["seeds"] for row in found["validation"]] == [1, 2, 2, 2]
    assert {row["rows"] for row in found["validation"]} == {2 * ACTIONS}
    assert {row["rows"] for row in found["held"]} == {2 * ACTIONS}  # two of ten kitchens
    for row, runs in (
        (found["validation"][0], [out / "runs/counts"]),
        (found["validation"][1], sorted((out / "runs/grid").glob("chosen,*"))),
        (found["validation"][2], sorted((out / "runs").glob("corrected,*"))),
        (found["validation"][3], sorted((out / "runs").glob("mixed,*"))),
    ):
        results = [read_result(run) for run in runs]
        assert {result.split for result in results} == {"validation"}
        for target in ("verb", "noun", "action"):
            mean = np.mean([result.metrics[f"all_{target}_mean_class_recall5"] for result in results])
            assert row["measured"][target]["interval"][0] == pytest.approx(mean)
    held = read_result(next((out / "runs/grid").glob("train.seed=0,fusion.share=A*")))
    assert (held.split, held.history_protocol) == ("train_0_of_5", "oracle")
    assert found["validation"][0]["measured"]["verb"]["interval"][0] > 60  # a guess of five of nine: 56
    assert "| head and counts | 2 |" in (out / "results.md").read_text()

    made = {path: path.stat().st_mtime_ns for path in out.glob("**/result.json")}
    monkeypatch.setattr(history, "train", None)
    history.run(annotations, out, text=small)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert json.loads((out / "results.json").read_bytes()) == found
    assert found["earlier"] == []
    [chosen] = (out / "runs/grid").glob("chosen,train.seed=1,*")
    shutil.copytree(chosen, chosen.with_name("chosen,train.seed=1,head.name=mlp,last=3"))
    history.run(annotations, out, text=small)
    again = json.loads((out / "results.json").read_bytes())
    assert again == found | {"earlier": ["head.name=mlp, last=3"]}
