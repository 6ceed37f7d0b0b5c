"""`evaluate --scores` and `fuse-scores`, from the shell."""

import json
import pickle
import shutil

import numpy as np
import pytest

from helpers.cli import call
from helpers.mixing import make_kitchens, write_annotations


@pytest.fixture(scope="module")
def folder(mixable, tmp_path_factory):
    """The runs, and the lists that they are of."""
    found = tmp_path_factory.mktemp("scores")
    shutil.copytree(mixable, found, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.zarr"))
    write_annotations(found / "annotations", make_kitchens())
    return found


def measured(folder, scores, capsys, *words):
    """What `--json` says."""
    capsys.readouterr()
    lists = ("--annotations", folder / "annotations")
    assert call("evaluate", "--scores", scores, *lists, "--json", *words) == 0
    return json.loads(capsys.readouterr().out)


def result_of(run):
    return json.loads((run / "result.json").read_bytes())


def test_a_file_is_measured_as_its_run_was_without_run_and_store(folder, tmp_path, capsys):
    shutil.copy(folder / "counts" / "scores" / "validation.npz", tmp_path / "scores.npz")
    found = measured(folder, tmp_path / "scores.npz", capsys)
    assert found["metrics"] == result_of(folder / "counts")["metrics"]
    assert found["rows"] == {"listed": 72, "scored": 72}
    assert found["missing"] == found["unlisted"] == []


def test_rows_that_were_held_out_are_measured_against_their_list(folder, capsys):
    scores = folder / "mlp-held" / "scores" / "train_0_of_3.npz"
    found = measured(folder, scores, capsys, "--split", "train")
    held = result_of(folder / "mlp-held")
    assert found["metrics"] == held["metrics"]
    assert (found["rows"]["listed"], found["rows"]["scored"]) == (72, held["rows"]["scored"])
    assert len(found["missing"]) == 72 - held["rows"]["scored"]
    lists = ("--annotations", folder / "annotations")
    assert call("evaluate", "--scores", scores, *lists) == 1
    assert "none of the 72 rows of validation; --split says" in capsys.readouterr().err


def test_what_others_wrote_is_measured_against_the_list(folder, tmp_path, capsys):
    """A pickle without `pairs`, with two views of each row: what was supposed and averaged is said."""
    arrays = dict(np.load(folder / "mlp" / "scores" / "validation.npz"))
    known = {f"{one.labels['verb']}:{one.labels['noun']}" for one in make_kitchens()}
    place = {f"{verb}:{noun}": column for column, (verb, noun) in enumerate(arrays["pairs"].tolist())}
    action = np.full((72, len(known)), -30, np.float32)
    for column, pair in enumerate(sorted(known)):
        if pair in place:  # the others are of validation rows alone
            action[:, column] = arrays["action"][:, place[pair]]
    file = {
        "narration_ids": arrays["narration_id"].tolist(),
        "verb_output": arrays["verb"],
        "noun_output": np.stack([arrays["noun"]] * 2, 1),
        "action": action,
    }
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(file))
    found = measured(folder, tmp_path / "f.pkl", capsys, "--average", "logits")
    own = result_of(folder / "mlp")["metrics"]
    assert found["metrics"] == pytest.approx(own)
    assert (found["views"], found["supposed"]) == (2, ["action"])
    lists = ("--annotations", folder / "annotations")
    assert call("evaluate", "--scores", tmp_path / "f.pkl", *lists) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "action: the file does not say what its columns are; they were taken for the pairs of the" in said
    assert "2 views a row, the mean of their probabilities; see --average" in said
    assert call("compare", tmp_path / "f.pkl", folder / "mlp" / "scores" / "validation.npz", *lists) == 0
    assert call("evaluate", folder / "mlp", "--without", "past", "--average", "logits") == 2


def test_what_is_printed_covers_groups_and_names_rows(folder, tmp_path, capsys):
    arrays = dict(np.load(folder / "mlp" / "scores" / "validation.npz"))
    arrays["narration_id"][0] = "P09_01_0"
    arrays["verb_label"][5] = 3 if arrays["verb_label"][5] != 3 else 4
    np.savez(tmp_path / "f.npz", other=np.zeros(3), **arrays)
    lists = ("--annotations", folder / "annotations")
    capsys.readouterr()
    assert call("evaluate", "--scores", tmp_path / "f.npz", *lists) == 0
    said = capsys.readouterr().out
    assert "71 of 72 rows of validation are in the file" in said
    assert "1 row of the list is not in the file: P01_" in said
    assert "1 row of the file is not in the list: P09_01_0" in said
    assert f"1 row has another label of verb in the file: {arrays['narration_id'][5]}" in said
    assert "no target of the list is called so: other" in said
    assert "unseen" in said
    assert "tail" in said
    assert "mean class recall@5" in said
    assert "top-1" in said
    assert call("evaluate", "--scores", tmp_path / "f.npz", *lists, "--task", "anticipation") == 0
    said = capsys.readouterr().out
    assert "mean class recall@5" in said
    assert "relaxed recall@5, each part among its own five best: action" in said
    assert "top-1" not in said
    assert call("evaluate", "--scores", tmp_path / "f.npz", *lists, "--task", "recognition") == 0
    said = capsys.readouterr().out
    assert "top-5" in said
    assert "recall@5" not in said


def test_wrong_calls_of_evaluate_say_what_to_type(folder, capsys):
    scores = folder / "mlp" / "scores" / "validation.npz"
    lists = ("--annotations", folder / "annotations")
    for words, says in (
        ((), "name a run folder"),
        ((folder / "mlp", *lists), "are for the second"),
        ((folder / "mlp", "--json"), "are for the second"),
        (("--scores", scores), "with --annotations"),
        ((folder / "mlp", "--scores", scores, *lists), "leave RUN, --store and --without out"),
        (("--scores", scores, *lists, "--without", "past"), "leave RUN, --store and --without out"),
        (("--scores", scores, *lists, "--split", "train,validation"), "name one"),
        (("--scores", scores, *lists, "--split", "held"), "use train, validation or test"),
    ):
        assert call("evaluate", *words) == 2, words
        assert says in capsys.readouterr().err, words


def test_runs_are_mixed_measured_and_reported(folder, tmp_path, capsys):
    twins = ("--chosen-on", folder / "mlp-held", "--chosen-on", folder / "counts-held")
    runs = (folder / "mlp", folder / "counts")
    assert call("fuse-scores", *runs, "--out", tmp_path / "out", *twins) == 0
    said = capsys.readouterr().out
    assert "mlp + counts, loglinear, validation" in said
    assert "ORACLE HISTORY" in said
    assert "chosen among 55 on train_0_of_3, by class-mean recall@5 (" in said
    assert f"wrote {tmp_path / 'out' / 'scores' / 'validation'}.npz and " in said
    again = measured(folder, tmp_path / "out" / "scores" / "validation.npz", capsys)
    assert again["metrics"] == result_of(tmp_path / "out")["metrics"]
    assert call("report", tmp_path / "out", *runs, "--out", tmp_path / "r.html") == 0
    assert "wrote 3 runs to" in capsys.readouterr().out
    assert call("fuse-scores", *runs, "--out", tmp_path / "out", "--rule", "mean") == 2
    assert "is a loglinear mixture of other scores" in capsys.readouterr().err
    assert call("fuse-scores", *runs, "--out", tmp_path / "mean", "--rule", "mean") == 0
    assert "mean mixture of mlp, counts" in capsys.readouterr().out
    words = ("--rule", "confidence", *twins, "--per", "verb, noun")
    assert call("fuse-scores", *runs, "--out", tmp_path / "sure", *words) == 0
    said = capsys.readouterr().out
    assert "verb: weights " in said
    assert "noun: weights " in said
    assert "action: weights " not in said
    assert call("evaluate", tmp_path / "out") == 1
    assert "holds scores of several runs as one, and no head" in capsys.readouterr().err


def test_the_toy_kitchen_from_videos_to_a_mixture(road, tmp_path, capsys):
    """By video: it has one cook."""
    held = ("--set", "data.hold_out=0/2", "--set", "data.hold_out_by=video", "--out", tmp_path / "held")
    assert call("train", road / "mine.toml", *held) == 0
    twin = ("--chosen-on", tmp_path / "held")
    assert call("fuse-scores", road / "run", "--out", tmp_path / "out", *twin) == 0
    said = capsys.readouterr().out
    assert "chosen on other videos of participants that were trained on, too: P01" in said
    lists = ("--annotations", road / "annotations")
    scores = tmp_path / "out" / "scores" / "validation.npz"
    assert call("evaluate", "--scores", scores, *lists, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == result_of(tmp_path / "out")["metrics"]
    assert result_of(tmp_path / "out")["text_protocol"] == "oracle"
