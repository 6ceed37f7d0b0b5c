"""`mambavl compare`, from the shell."""

import json

import pytest

from helpers.cli import call
from helpers.contests import make_sweep
from helpers.mixing import make_kitchens, write_annotations


@pytest.fixture(scope="module")
def swept(mixable, tmp_path_factory):
    """Three candidates with 90, 40 and 50 % of the rows right, six seeds each."""
    folder = tmp_path_factory.mktemp("shell") / "sweep"
    return make_sweep(folder, mixable / "mlp", {0.01: 0.9, 0.001: 0.4, 0.1: 0.5})


def test_a_verdict_and_what_it_rests_on_are_printed_and_written(swept, tmp_path, capsys):
    two = (swept / "lr=0.01,seed=0", swept / "lr=0.001,seed=0", "--seeds")
    assert call("compare", *two, "--planned", "--measure", "top1", "--out", tmp_path / "new" / "o.json") == 0
    said = capsys.readouterr().out
    assert f"A = {swept / 'lr=0.01,seed=0'}: “mlp”, 6 runs, seed 0, 1, 2, 3, 4, 5; text absent" in said
    assert "validation: 72 rows of 15 videos, 6 pairs of seeds" in said
    assert "A is better" in said
    assert "by sweep sweep: 18 runs of 3 candidates, scored after 36 epochs in all" in said
    assert "Other candidates do not count: the comparison was planned" in said
    assert "the best of 3 is lr=0.01,seed=0 with" in said
    assert json.loads((tmp_path / "new" / "o.json").read_text())["planned"] is True


def test_what_is_not_decided_is_said_with_its_reason(swept, capsys):
    assert call("compare", f"{swept}/lr=0.01,*", f"{swept}/lr=0.001,*") == 0
    said = capsys.readouterr().out
    assert "action class-mean recall@5: not decided: 6 pairs of seeds, and 7 are needed for one of 2" in said
    assert "What comes after it is shown and not judged" in said
    assert "One of 2 stands out by chance, too" in said
    assert "is better" not in said
    assert call("compare", swept / "lr=0.01,seed=0", swept / "lr=0.001,seed=0", "--measure", "top5") == 0
    said = capsys.readouterr().out
    assert "McNemar's mid-p" in said
    assert "It takes rows for independent, and decides nothing here." in said


def test_files_are_compared_against_a_list(swept, mixable, tmp_path, capsys):
    lists = ("--annotations", write_annotations(tmp_path / "lists", make_kitchens()))
    files = [f"{swept}/lr={lr},*/scores/validation.npz" for lr in (0.01, 0.001)]
    assert call("compare", *files, *lists, "--target", "verb") == 0
    said = capsys.readouterr().out
    assert ": 6 files" in said
    assert "A is better" in said  # nothing says that they are of a sweep
    assert "noun" not in said
    held = mixable / "mlp-held"
    assert call("compare", held, mixable / "mlp1-held", *lists, "--allow", "seeds") == 0  # the list of train
    assert "train_0_of_3: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--measure", "top2"), "--measure top2: use top1, top5, recall5"),
        (("--allow", "labels"), "--allow labels: use rows, protocols, stores, seeds"),
        (("--split", "train"), "--split says which list of --annotations"),
        (("--annotations", "x", "--split", "train,test"), "name one, that the scores are of"),
    ],
)
def test_wrong_calls_say_what_to_type(swept, words, says, capsys):
    assert call("compare", swept / "lr=0.01,seed=0", swept / "lr=0.001,seed=0", *words) == 2
    assert says in capsys.readouterr().err


def test_other_seeds_need_a_word(swept, capsys):
    two = (swept / "lr=0.01,seed=0", swept / "lr=0.001,seed=1")
    assert call("compare", *two) == 1
    assert "Where that is meant, say --allow seeds" in capsys.readouterr().err
    assert call("compare", *two, "--allow", "seeds") == 0
    assert "A and B have other seeds, as allowed: A 0, B 1" in capsys.readouterr().out
