"""What A and B are made of, and what is not compared: each refusal says what to type."""

import json
import shutil

import numpy as np
import pytest

from helpers.contests import make_sweep, write_run
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.run import read_result
from mambavl.fuse.sides import find_side, refuse_unlike

ROWS = 72


@pytest.fixture(scope="module")
def swept(mixable, tmp_path_factory):
    """Two candidates of three seeds."""
    return make_sweep(tmp_path_factory.mktemp("s") / "sweep", mixable / "mlp", {0.01: 0.8, 0.001: 0.5}, 3)


def named(side):
    return [one.path.name for one in side.members]


def test_a_side_is_a_run_a_folder_of_runs_a_pattern_or_files(swept, mixable, tmp_path, monkeypatch):
    assert named(find_side(str(swept / "lr=0.01,seed=1"))) == ["lr=0.01,seed=1"]
    three = ["lr=0.01,seed=0", "lr=0.01,seed=1", "lr=0.01,seed=2"]
    assert named(find_side(f"{swept}/lr=0.01,*")) == three
    assert named(find_side(f"{swept}/lr=0.01,seed=[02]")) == [three[0], three[2]]
    monkeypatch.chdir(swept)
    assert named(find_side("lr=0.01,*")) == three
    for name in three:
        shutil.copytree(swept / name, tmp_path / "mine" / name)
    side = find_side(str(tmp_path / "mine"))
    assert named(side) == three
    assert (side.seeds, side.has_seeds, side.task) == ([0, 1, 2], True, "anticipation")
    file = find_side(str(mixable / "mlp" / "scores" / "validation.npz"))
    assert (file.results, file.seeds, file.task) == ([], [], None)
    assert file.first.scores == mixable / "mlp" / "scores" / "validation.npz"
    assert find_side(str(mixable / "counts")).has_seeds is False


def test_seeds_finds_the_runs_that_differ_in_their_seed_alone(swept):
    found = find_side(str(swept / "lr=0.01,seed=1"), all_seeds=True)
    assert named(found) == ["lr=0.01,seed=0", "lr=0.01,seed=1", "lr=0.01,seed=2"]
    assert found.seeds == [0, 1, 2]
    with pytest.raises(UsageError, match=r"--seeds finds the other seeds of a run; .* is 3 of them"):
        find_side(f"{swept}/lr=0.01,*", all_seeds=True)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("none", "is no run, no folder of runs, no file of scores, and no pattern that fits any"),
        ("x*", "no pattern that fits any"),
        ("*", r"(?s)differ in more than their seed.*train\.lr: 0\.001 -> 0\.01"),
    ],
)
def test_what_is_no_side_is_refused(swept, asked, says):
    with pytest.raises(UsageError, match=says):
        find_side(str(swept / asked))


def test_a_side_of_two_kinds_or_with_a_seed_twice_is_refused(swept, tmp_path):
    shutil.copytree(swept / "lr=0.01,seed=0", tmp_path / "a")
    shutil.copytree(swept / "lr=0.01,seed=0", tmp_path / "b")
    with pytest.raises(UsageError, match="has seed 0 twice"):
        find_side(str(tmp_path / "?"))
    (tmp_path / "b" / "scores" / "validation.npz").rename(tmp_path / "c.npz")
    with pytest.raises(UsageError, match="holds runs and files of scores"):
        find_side(str(tmp_path / "[ac]*"))
    (tmp_path / "a" / "result.json").unlink()
    with pytest.raises(DataError, match=r"a: has no result\.json: it has not finished"):
        find_side(str(tmp_path / "[ab]"))
    for number in range(21):
        (tmp_path / f"x{number}.npz").touch()
    with pytest.raises(UsageError, match="is 21 runs; 20 seeds are the most"):
        find_side(str(tmp_path / "x*.npz"))


def test_runs_of_other_splits_or_stores_are_no_seeds_of_each_other(swept, mixable, tmp_path):
    shutil.copytree(mixable / "mlp", tmp_path / "a")
    other = write_run(tmp_path / "b", mixable / "mlp", np.ones(ROWS, bool), seed=1)
    change(other, lambda raw: raw["streams"]["past"].update(store_ids=["else"]))
    with pytest.raises(UsageError, match="they read other stores"):
        find_side(str(tmp_path))
    change(other, lambda raw: raw.update(split="test"))
    with pytest.raises(UsageError, match="they are scored on validation and on test"):
        find_side(str(tmp_path))


def change(run, how):
    raw = json.loads((run / "result.json").read_text())
    how(raw)
    (run / "result.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("how", "allow", "says"),
    [
        (lambda raw: raw.update(text_protocol="oracle"), "protocols", "A text absent, B text oracle"),
        (
            lambda raw: raw.update(history_protocol="predicted"),
            "protocols",
            "A history oracle, B history p",
        ),
        (
            lambda raw: raw["streams"]["past"].update(store_ids=["x"]),
            "stores",
            "1 of A's stores are not",
        ),
        (lambda raw: raw.update(seed=5), "seeds", "A 0, B 5; they are paired in this order"),
    ],
)
def test_what_differs_is_refused_until_it_is_allowed(mixable, tmp_path, how, allow, says):
    other = write_run(tmp_path / "b", mixable / "mlp", np.ones(ROWS, bool), seed=0)
    change(other, how)
    a, b = find_side(str(mixable / "mlp")), find_side(str(other))
    assert refuse_unlike(a, a, []) == []
    with pytest.raises(DataError, match=rf"{says}.* Where that is meant, say --allow {allow}"):
        refuse_unlike(a, b, [one for one in ("rows", "protocols", "stores", "seeds") if one != allow])
    [said] = refuse_unlike(a, b, [allow])
    assert says in said
    assert "as allowed" in said


def test_other_tasks_are_other_protocols(mixable, tmp_path):
    other = write_run(tmp_path / "b", mixable / "mlp", np.ones(ROWS, bool), seed=0)
    change(other, lambda raw: raw["streams"]["past"].update(sampling={"task": "recognition"}))
    a, b = find_side(str(mixable / "mlp")), find_side(str(other))
    assert (a.task, b.task) == ("anticipation", "recognition")
    with pytest.raises(DataError, match="A task anticipation, B task recognition"):
        refuse_unlike(a, b, [])
    change(other, lambda raw: raw["streams"]["past"].pop("sampling"))
    change(other, lambda raw: raw.update(history_protocol="absent"))
    assert read_result(other).task is None
    assert find_side(str(other)).task is None


def test_sides_that_do_not_pair_are_refused(swept, mixable):
    three, two = find_side(f"{swept}/lr=0.01,*"), find_side(f"{swept}/lr=0.001,seed=[01]")
    with pytest.raises(UsageError, match="A has 3 members and B 2, which do not pair"):
        refuse_unlike(three, two, [])
    assert refuse_unlike(three, find_side(f"{swept}/lr=0.001,seed=0"), []) == []
    file = find_side(str(mixable / "mlp" / "scores" / "validation.npz"))
    with pytest.raises(UsageError, match="one side is of runs and one of files"):
        refuse_unlike(three, file, [])
    held = find_side(str(mixable / "mlp-held"))
    with pytest.raises(DataError, match="A is scored on validation and B on train_0_of_3"):
        refuse_unlike(find_side(str(mixable / "mlp")), held, [])
    assert refuse_unlike(find_side(str(mixable / "mlp1")), find_side(str(mixable / "counts")), []) == []
