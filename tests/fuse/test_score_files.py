"""Files of scores by other programs: numpy, pickle, torch, pyarrow, and EK100's own format."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from mambavl.configs.errors import DataError
from mambavl.fuse.score_files import read_arrays

IDS = ["P01_101_6", "P01_101_7", "P01_101_8"]
VERB = np.random.default_rng(0).normal(size=(3, 97)).astype(np.float32)
NOUN = np.random.default_rng(1).normal(size=(3, 300)).astype(np.float32)


def saved(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(one) for name, one in arrays.items()})
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pa.parquet = pytest.importorskip("pyarrow.parquet")
        columns = {
            name: pa.array([one.tolist() for one in map(np.asarray, all_)]) for name, all_ in arrays.items()
        }
        pa.parquet.write_table(pa.table(columns), path)
    elif path.suffix in (".pt", ".pth"):
        torch.save({name: torch.tensor(one) if name != "ids" else one for name, one in arrays.items()}, path)
    else:
        path.write_bytes(pickle.dumps(arrays))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".PKL"])
@pytest.mark.parametrize(
    "names", [("narration_id", "verb", "noun"), ("narration_ids", "verb_output", "noun_output")]
)
def test_the_same_arrays_are_read_from_every_form_and_under_both_names(names, suffix, tmp_path):
    path = saved(tmp_path / f"f{suffix}", dict(zip(names, (IDS, VERB, NOUN), strict=True)))
    sha256, found = read_arrays(path)
    assert sorted(found) == ["narration_id", "noun", "verb"]
    assert found["narration_id"].tolist() == IDS
    assert found["narration_id"].dtype.kind == "U"
    np.testing.assert_array_equal(found["verb"], VERB)
    np.testing.assert_array_equal(found["noun"], NOUN)
    assert len(sha256) == 64


def test_tensors_and_ids_as_bytes_are_read(tmp_path):
    torch.save({"verb": torch.tensor(VERB), "narration_id": IDS}, tmp_path / "f.pt")
    np.testing.assert_array_equal(read_arrays(tmp_path / "f.pt")[1]["verb"], VERB)
    np.savez(tmp_path / "f.npz", narration_id=np.array(IDS, "S"), verb=VERB)
    assert read_arrays(tmp_path / "f.npz")[1]["narration_id"].tolist() == IDS


def test_a_target_under_two_names_is_refused(tmp_path):
    saved(tmp_path / "f.npz", {"narration_id": IDS, "verb": VERB, "verb_output": VERB})
    with pytest.raises(DataError, match=r"f\.npz: holds verb twice, as verb and as verb_output"):
        read_arrays(tmp_path / "f.npz")


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pa.parquet = pytest.importorskip("pyarrow.parquet")
    for name, says in (
        ("f.pkl", "cannot be read"),
        ("f.pt", "cannot be read"),
        ("f.parquet", "is no Parquet file"),
        ("f.json", "begins with 'v'; a submission is a JSON object"),
        ("f.zip", "is called .zip and is none"),
        ("f.csv", r"is not a file of scores .* another of \.npz, \.parquet"),
    ):
        (tmp_path / name).write_text("verb")
        with pytest.raises(DataError, match=rf"{name}: .*{says}"):
            read_arrays(tmp_path / name)
    for column, says in (
        ([[1.0], [1.0, 2.0]], "rows of verb are of several lengths"),
        ([[1.0], None], "are of several lengths|holds neither numbers nor texts"),
        ([None, 1.0], "holds neither numbers nor texts, or lacks some"),
    ):
        pa.parquet.write_table(pa.table({"verb": pa.array(column)}), tmp_path / "g.parquet")
        with pytest.raises(DataError, match=rf"g\.parquet: .*({says})"):
            read_arrays(tmp_path / "g.parquet")


# --- challenge files


def challenge(path, actions=None, **head):
    results = {
        name: {
            "verb": {str(number): float(one) for number, one in enumerate(verb)},
            "noun": {str(number): float(one) for number, one in enumerate(noun)},
        }
        for name, verb, noun in zip(IDS, VERB, NOUN, strict=True)
    }
    for name, of_row in (actions or {}).items():
        results[name]["action"] = {f"{v},{n}": score for (v, n), score in of_row.items()}
    levels = {"sls_pt": 2, "sls_tl": 3, "sls_td": 3}
    text = json.dumps(
        {"version": "0.2", "challenge": "action_anticipation", **levels, "results": results, **head}
    )
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("test.json", text)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".json", ".zip"])
def test_a_challenge_file_is_scores_of_verbs_and_nouns(suffix, tmp_path):
    _, found = read_arrays(challenge(tmp_path / f"test{suffix}"))
    assert sorted(found) == ["narration_id", "noun", "verb"]
    assert found["narration_id"].tolist() == IDS
    np.testing.assert_array_equal(found["verb"].astype(np.float32), VERB)


def test_its_best_hundred_pairs_rank_labels_as_they_stand_there(tmp_path):
    """Of each row the place of every pair that can be among the best five is the one in its own list; pairs
    that it does not name lie behind all it does.
    """
    rng = np.random.default_rng(5)
    every = [(v, n) for v in range(12) for n in range(20)]
    actions = {}
    for name in IDS:
        chosen = [every[one] for one in rng.permutation(len(every))[:100]]
        scores = np.round(rng.normal(size=100), 1)  # so that some tie
        actions[name] = dict(zip(chosen, scores.tolist(), strict=True))
    _, found = read_arrays(challenge(tmp_path / "test.json", actions))
    pairs = [tuple(pair) for pair in found["pairs"].tolist()]
    assert len(set(pairs)) == len(pairs)
    for name, row in zip(IDS, found["action"], strict=True):
        listed = actions[name]
        fifth = sorted(listed.values())[-5]
        for pair, score in zip(pairs, row.tolist(), strict=True):
            if pair in listed:
                assert score == listed[pair]
            else:
                assert score < min(listed.values())
        assert {pair for pair, score in listed.items() if score >= fifth} <= set(pairs)
        assert sum(score >= fifth for score in row) == sum(score >= fifth for score in listed.values())


def test_faults_of_a_challenge_file_are_named(tmp_path):
    with pytest.raises(DataError, match=r"test\.json: .*sls_pt.*; `mambavl submit --check .*` names all"):
        read_arrays(challenge(tmp_path / "test.json", sls_pt=9))
