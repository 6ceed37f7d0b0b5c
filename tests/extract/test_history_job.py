"""The history job: stores whose tokens are known by hand, and that nothing of a row's own labels reaches."""

import csv
import itertools
import json

import numpy as np
import pytest
import torch

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.jobs import make_roberta, tree
from mambavl.cache import open_store
from mambavl.cache.rows import EMPTY_WINDOW, OK
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.extract.encoders import registry
from mambavl.extract.history_job import LEVEL, extract_history
from mambavl.extract.options import HistoryExtraction

VERBS, NOUNS = 2, 2
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Rows n of four videos are [1.1 n, 1.1 n + 1.6] s; a fifth video is a test list, without labels."""
    folder = make_dataset(tmp_path_factory.mktemp("data")) / "annotations"
    header = ["narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp"]
    header += ["stop_timestamp", "start_frame", "stop_frame"]
    with open(folder / "EPIC_100_test_timestamps.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for n in range(3):
            times = (f"00:00:{n * 2:05.2f}", f"00:00:{n * 2 + 0.5:05.2f}")
            writer.writerow([f"P02_101_{n}", "P02", "P02_101", "", *times, 1, 2])
    return folder


def history(folder, out, *, splits=("train", "validation"), **changes):
    hooks = {key: changes.pop(key) for key in ("scores", "train_from", "should_stop") if key in changes}
    options = HistoryExtraction.model_validate({"splits": splits, "rows_per_group": 4, **changes})
    return extract_history(read_annotations(folder, splits), out, options, **hooks)


def test_tokens_are_one_hot_classes_and_the_age(dataset, tmp_path):
    """Row n starts at 1.1 n; row m has ended by 1 s before if 1.1 m + 1.6 <= 1.1 n - 1, so m <= n - 3."""
    summary = history(dataset, tmp_path / "h.zarr")
    store = open_store(tmp_path / "h.zarr")
    assert summary.finalized
    assert (summary.empty, summary.failed) == (4 * 3, [])
    assert store.levels[LEVEL].width == VERBS + NOUNS + 1
    for row, segment in enumerate(store.segments):
        n = int(segment.narration_id.rpartition("_")[2])
        if n < 3:
            assert store.status[row] == EMPTY_WINDOW
            continue
        assert store.status[row] == OK
        tokens, lengths = store.batch([row], LEVEL)
        video = int(segment.video_id[-1]) - 1
        expected = np.zeros((n - 2, VERBS + NOUNS + 1))
        for m in range(n - 2):
            expected[m, m % 2] = expected[m, VERBS + (m + video) % 2] = ((VERBS + NOUNS) / 2) ** 0.5
            expected[m, -1] = np.log(1 + (1.1 * n - 1) - (1.1 * m + 1.6))
        assert lengths.tolist() == [n - 2]
        np.testing.assert_allclose(tokens[0].float().numpy(), expected, atol=2e-3)


def test_the_reason_names_the_moment_and_the_recipe_what_was_told(dataset, tmp_path):
    summary = history(dataset, tmp_path / "h.zarr", last=2, tau=0.5, dtype="float32")
    assert summary.failures[1] == ["P01_101_1", EMPTY_WINDOW, "no action of P01_101 had ended by 0.60 s"]
    recipe = json.loads((tmp_path / "h.zarr" / "spec.json").read_bytes())["recipe"]
    assert recipe["history"] == {
        "age": "log(1 + seconds)", "last": 2, "order": "time", "protocol": "oracle", "tau_a": 0.5,
    }  # fmt: skip
    assert recipe["encoder"]["details"] == {"verb": VERBS, "noun": NOUNS, "hot": pytest.approx(2**0.5)}
    _, lengths = open_store(tmp_path / "h.zarr").batch([4], LEVEL)
    assert lengths.tolist() == [2]  # of the actions 0 to 2, the last two


def rewritten(folder, out, change):
    """A copy of the annotations whose rows `change` has looked at."""
    out.mkdir()
    for file in folder.glob("*.csv"):
        (out / file.name).write_bytes(file.read_bytes())
    for split in ("train", "validation"):
        with open(folder / f"EPIC_100_{split}.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with open(out / f"EPIC_100_{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(change(row) for row in rows)
    return out


def arrays(store):
    """What a head can read of a store: every byte but the lists of rows and what names them."""
    return {name: data for name, data in tree(store).items() if "/" in name}


@pytest.mark.parametrize("encoder", ["classes", "hf:tiny"])
def test_labels_of_rows_that_are_nobodys_past_change_no_byte(dataset, tmp_path, encoder):
    """Rows 2 to 4 of a video of five end too late for any other; all that is said of them is dealt anew."""

    def dealt(row):
        if int(row["narration_id"][-1]) < 2:
            return row
        verb, noun = 1 - int(row["verb_class"]), 1 - int(row["noun_class"])
        return row | {
            "verb_class": verb, "noun_class": noun, "all_noun_classes": f"[{noun}]",
            "narration": "stir the soup", "verb": "stir", "noun": "soup", "all_nouns": "['soup']",
        }  # fmt: skip

    settings = {"encoder": encoder, "tau": 1.2, "dtype": "float32"}
    if encoder != "classes":
        (tmp_path / "model").mkdir()
        settings |= {"weights": str(make_roberta(tmp_path / "model")), "weights_state": "random"}
    history(dataset, tmp_path / "before.zarr", **settings)
    history(rewritten(dataset, tmp_path / "other", dealt), tmp_path / "after.zarr", **settings)
    before, after = arrays(tmp_path / "before.zarr"), arrays(tmp_path / "after.zarr")
    assert any(name.startswith(f"{LEVEL}/c") for name in before)
    assert before == after


def test_a_label_of_the_past_is_in_the_store(dataset, tmp_path):
    """Else the test above would hold of a store that is told nothing."""
    other = rewritten(dataset, tmp_path / "other", lambda row: row | {"verb_class": 1})
    history(dataset, tmp_path / "before.zarr")
    history(other, tmp_path / "after.zarr")
    assert arrays(tmp_path / "before.zarr") != arrays(tmp_path / "after.zarr")


def test_a_text_encoder_writes_the_pooled_narration_of_each(dataset, tmp_path):
    (tmp_path / "model").mkdir()
    weights = str(make_roberta(tmp_path / "model"))
    settings = {"encoder": "hf:tiny", "weights": weights, "weights_state": "random", "dtype": "float32"}
    history(dataset, tmp_path / "h.zarr", tau=0.0, **settings)
    store, encoder = open_store(tmp_path / "h.zarr"), registry.build("hf:tiny", weights=weights)
    places = {segment.narration_id: row for row, segment in enumerate(store.segments)}
    tokens, lengths = store.batch([places["P01_102_4"]], LEVEL)
    assert lengths.tolist() == [3]  # 0 to 2 have ended by 4.4 s
    for m in range(3):
        text = store.segments[places[f"P01_102_{m}"]].narration
        (pooled,) = encoder.encode([encoder.tokenize(text)], ("pooled",))["pooled"]
        torch.testing.assert_close(tokens[0, m, :-1], pooled[0], rtol=0, atol=1e-5)
        assert tokens[0, m, -1].item() == pytest.approx(np.log(1 + 4.4 - 1.1 * m - 1.6), abs=1e-5)


def test_test_rows_are_told_by_a_recogniser_and_by_no_label(dataset, tmp_path):
    """Its best classes stand in the history of rows that have no labels, and nowhere is a label read."""
    read = read_annotations(dataset, SPLITS)
    with pytest.raises(UsageError, match="no row of split test has a verb and a noun class"):
        history(dataset, tmp_path / "o.zarr", splits=SPLITS)
    assert not (tmp_path / "o.zarr").exists()
    with pytest.raises(UsageError, match="name a recogniser's scores"):
        history(dataset, tmp_path / "o.zarr", splits=SPLITS, protocol="predicted")
    with pytest.raises(UsageError, match="add --protocol predicted"):
        history(dataset, tmp_path / "o.zarr", scores=[tmp_path / "s.npz"])
    names = [segment.narration_id for segment in read.segments if segment.split != "train"]
    rng = np.random.default_rng(0)
    said = {"verb": rng.normal(size=(len(names), VERBS)), "noun": rng.normal(size=(len(names), NOUNS))}
    np.savez(tmp_path / "s.npz", narration_id=np.array(names), **said)
    asked = {"splits": SPLITS, "protocol": "predicted", "scores": [tmp_path / "s.npz"], "tau": 1.0}
    summary = history(dataset, tmp_path / "p.zarr", **asked)
    store = open_store(tmp_path / "p.zarr")
    places = {segment.narration_id: row for row, segment in enumerate(store.segments)}
    tokens, lengths = store.batch([places["P02_101_2"]], LEVEL)
    assert lengths.tolist() == [2]  # tests 0 and 1 have ended by 3 s
    for m in range(2):
        best = {key: said[key][names.index(f"P02_101_{m}")].argmax() for key in said}
        assert tokens[0, m, :-1].nonzero()[:, 0].tolist() == [best["verb"], VERBS + best["noun"]]
    assert store.spec.recipe.history.protocol == "predicted"
    assert store.spec.recipe.history.train_rows == "labels"
    assert len(store.spec.inputs.scores) == 1
    assert summary.empty == 3 * 4 + 1

    def without_labels(row):
        is_scored = row["video_id"] == "P01_104"  # validation
        return row | ({"verb_class": 0, "noun_class": 0} if is_scored else {})

    history(rewritten(dataset, tmp_path / "blind", without_labels), tmp_path / "b.zarr", **asked)
    assert arrays(tmp_path / "p.zarr") == arrays(tmp_path / "b.zarr")
    del said["noun"]
    np.savez(tmp_path / "s.npz", narration_id=np.array(names), **said)
    with pytest.raises(DataError, match="a scores file holds"):
        history(dataset, tmp_path / "q.zarr", **asked)


def test_an_interrupted_store_is_resumed_to_the_same_bytes(dataset, tmp_path):
    history(dataset, tmp_path / "whole.zarr")
    calls = itertools.count()
    with pytest.raises(Interrupted):
        history(dataset, tmp_path / "cut.zarr", should_stop=lambda: next(calls) >= 2)
    assert not (tmp_path / "cut.zarr" / "manifest.json").exists()
    assert history(dataset, tmp_path / "cut.zarr").finalized
    assert tree(tmp_path / "cut.zarr") == tree(tmp_path / "whole.zarr")


def test_a_store_of_another_history_is_refused(dataset, tmp_path):
    history(dataset, tmp_path / "h.zarr")
    with pytest.raises(UsageError, match=r"recipe\.history\.order: 'time' -> 'shuffled'"):
        history(dataset, tmp_path / "h.zarr", order="shuffled")


def test_the_command_counts_rows_without_a_past_and_refuses_recognition(dataset, tmp_path, capsys):
    words = ("extract", "history", "--annotations", dataset, "--out", tmp_path / "h.zarr")
    assert call(*words, "--tau", "-0.5") == 2
    assert "recognition has no history" in capsys.readouterr().err
    assert call(*words, "--set", "last=3") == 2
    assert "use --last" in capsys.readouterr().err
    assert call(*words, "--last", "3", "--encoder", "classes", "--weights", "there") == 2
    assert "has no weights" in capsys.readouterr().err
    assert call(*words, "--last", "3") == 0
    assert "oracle history; rows without a past: 12 (empty_window)" in capsys.readouterr().out
    assert call("cache", "verify", "--deep", tmp_path / "h.zarr") == 0
