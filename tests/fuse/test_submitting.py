"""A run's scores as a challenge file: the same numbers, the same ranking, and what is refused."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from helpers.submissions import LEVELS
from mambavl.cache import open_store
from mambavl.cache.spec import HistoryRecipe
from mambavl.configs.errors import DataError, UsageError
from mambavl.extract.annotations import read_annotations
from mambavl.fuse import metrics, submission, submitting
from mambavl.fuse.result import task_of
from mambavl.fuse.run import read_result, read_scores, write_result
from mambavl.fuse.submission import examine
from mambavl.fuse.submitting import write_submission


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    from helpers.submissions import make_submittable

    return make_submittable(tmp_path_factory.mktemp("submittable"))


@pytest.fixture(scope="module")
def ids(runs):
    rows = open_store(runs / "video.zarr").segments
    return [row.narration_id for row in rows if row.split == "test"]


@pytest.fixture
def run(runs, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(runs / "product", tmp_path / "run")


def submitted(run, target, **settings):
    written = write_submission(run, target, **{"levels": LEVELS, **settings})
    found = examine(target, listed=settings.get("listed"), task=written.task)
    assert found.faults == ()
    return found


def change_scores(run, change, split="test"):
    path = run / "scores" / f"{split}.npz"
    arrays = dict(np.load(path))
    change(arrays)
    np.savez(path, **arrays)


def change_result(run, **changes):
    """Also `stream`: changes of its stream's recipe."""
    result = read_result(run)
    if recipe := changes.pop("stream", None):
        stream = result.streams["video"]
        changes["streams"] = {"video": replace(stream, recipe=replace(stream.recipe, **recipe))}
    write_result(run, replace(result, **changes))


@pytest.mark.parametrize("name", ["product", "pairs"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_the_file_holds_the_run_s_numbers_to_the_last_bit(runs, tmp_path, ids, name, dtype):
    run = shutil.copytree(runs / name, tmp_path / "run")
    change_scores(
        run, lambda arrays: arrays.update({one: arrays[one].astype(dtype) for one in ("verb", "noun")})
    )
    found = submitted(run, tmp_path / "s.zip", listed=ids)
    assert found.ids == tuple(ids)
    scores = read_scores(run, "test")  # float16 as float32, exactly
    order = [scores["narration_id"].tolist().index(one) for one in ids]
    for part in ("verb", "noun"):
        own = scores[part][order]
        assert np.array_equal(found.scores[part].astype(own.dtype), own)
        assert np.array_equal(found.scores[part].argsort(1, kind="stable"), own.argsort(1, kind="stable"))


def test_a_run_that_ranks_pairs_gives_its_best_hundred_in_order(runs, tmp_path, ids):
    found = submitted(runs / "pairs", tmp_path / "s.zip", listed=ids)
    scores = read_scores(runs / "pairs", "test")
    assert len(scores["pairs"]) > 100
    for number in (0, 7, 155):
        order = sorted(range(len(scores["pairs"])), key=lambda column: -scores["action"][number, column])
        assert found.pairs[number].tolist() == scores["pairs"][order[:100]].tolist()
        best = scores["action"][number][order[:100]]
        assert found.pair_scores[number].astype(np.float32).tolist() == best.tolist()


def test_a_run_that_ranks_products_leaves_actions_to_the_official_programs(runs, tmp_path, ids):
    found = submitted(runs / "product", tmp_path / "s.zip", listed=ids)
    assert found.pairs is None


def test_scores_stand_a_softmax_over_all_rows_at_once(runs, tmp_path, ids):
    """The official recognition program normalises the whole array: exp(log p) / sum keeps each row's order
    and its ranking of pairs, measured here by top-1.
    """
    found = submitted(runs / "product", tmp_path / "s.zip", listed=ids)
    parts = {}
    for part, scores in found.scores.items():
        exponents = np.exp(scores - scores.max())
        parts[part] = exponents / exponents.sum()
        assert np.array_equal(parts[part].argmax(1), scores.argmax(1))
        assert parts[part].min() > 0
    labels = read_scores(runs / "product", "test")
    products = parts["verb"][:, :, None] * parts["noun"][:, None, :]
    best = products.reshape(len(ids), -1).argmax(1)
    hits = best == labels["verb_label"] * 300 + labels["noun_label"]
    own = metrics.evaluate(
        found.scores["verb"], found.scores["noun"], labels["verb_label"], labels["noun_label"]
    )
    assert 100 * hits.mean() == pytest.approx(own["all_action_top1"])


def test_the_same_run_makes_the_same_bytes_and_the_zip_holds_one_member(runs, tmp_path, ids):
    for name in ("a.zip", "b.zip"):
        submitted(runs / "pairs", tmp_path / name, listed=ids)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert packed.namelist() == ["test.json"]
        raw = json.loads(packed.read("test.json"))
    assert list(raw) == ["version", "challenge", "sls_pt", "sls_tl", "sls_td", "results"]
    assert {key: raw[key] for key in LEVELS} == LEVELS
    assert (raw["version"], raw["challenge"]) == ("0.2", "action_recognition")


def test_rows_stand_in_the_list_s_order(runs, tmp_path, ids):
    turned = ids[::-1]
    one = submitted(runs / "pairs", tmp_path / "a.zip", listed=ids)
    other = submitted(runs / "pairs", tmp_path / "b.zip", listed=turned)
    assert other.ids == tuple(turned)
    assert np.array_equal(other.scores["noun"], one.scores["noun"][::-1])
    assert np.array_equal(other.pairs, one.pairs[::-1])


def test_rows_without_a_score_and_others_are_named_and_nothing_is_written(runs, tmp_path, ids):
    for listed, says in (
        (
            [*ids, "P37_101_0", "P37_101_1"],
            "2 rows without a score: P37_101_0, P37_101_1. The challenge takes",
        ),
        (ids[1:], f"1 row that the list does not have: {ids[0]}. "),
    ):
        with pytest.raises(DataError, match=says):
            write_submission(runs / "product", tmp_path / "s.zip", levels=LEVELS, listed=listed)
    assert not (tmp_path / "s.zip").exists()


def test_without_a_list_the_number_of_rows_must_be_ek100_s(runs, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="has 156 rows, and EK100's test list has 13,092; name the list"):
        write_submission(runs / "product", tmp_path / "s.zip", levels=LEVELS)
    with pytest.raises(DataError, match="validation list has 9,668"):
        write_submission(runs / "product", tmp_path / "s.zip", levels=LEVELS, split="validation")
    monkeypatch.setitem(submitting.ROWS, "test", 156)
    assert len(submitted(runs / "product", tmp_path / "s.zip").ids) == 156


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"text_protocol": "oracle"},
            "text protocol is oracle: .* has no labels.*Train with generic, predicted",
        ),
        ({"history_protocol": "oracle"}, "history protocol is oracle: .*--protocol predicted"),
    ],
)
def test_what_was_told_by_labels_is_refused_for_test_alone(run, tmp_path, ids, changes, says):
    change_result(run, **changes)
    with pytest.raises(UsageError, match=says):
        write_submission(run, tmp_path / "s.zip", levels=LEVELS, listed=ids)
    assert not (tmp_path / "s.zip").exists()
    rows = read_scores(run, "validation")["narration_id"].tolist()
    assert submitted(run, tmp_path / "s.zip", split="validation", listed=rows).ids == tuple(rows)


@pytest.mark.parametrize("protocol", ["generic", "predicted", "none", "absent", "unknown"])
def test_other_text_is_allowed(run, tmp_path, ids, protocol):
    change_result(run, text_protocol=protocol)
    submitted(run, tmp_path / "s.zip", listed=ids)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"sampling": {"task": "anticipation", "rule": "inavit", "tau_a": 1.0}}, "shows the very action"),
        ({"sampling": {"task": "anticipation", "rule": "strict", "tau_a": 0.5}}, "looks until 0.5 s before"),
        (
            {
                "sampling": None,
                "history": HistoryRecipe(
                    protocol="predicted", last=8, tau_a=0.25, age="log(1 + seconds)", order="time"
                ),
            },
            "looks until 0.25 s before",
        ),
    ],
)
def test_an_anticipation_that_sees_too_much_is_refused(run, tmp_path, ids, recipe, says):
    history = {"history_protocol": "predicted"} if recipe.get("history") else {}
    change_result(run, stream=recipe, **history)
    with pytest.raises(UsageError, match=says):
        write_submission(run, tmp_path / "s.zip", levels=LEVELS, listed=ids)


def test_an_anticipation_of_one_second_is_of_the_other_challenge(run, tmp_path, ids):
    change_result(run, stream={"sampling": {"task": "anticipation", "rule": "strict", "tau_a": 1.0}})
    assert submitted(run, tmp_path / "s.zip", listed=ids).challenge == "action_anticipation"


def test_the_task_is_what_the_streams_say_or_what_is_asked(run):
    result = read_result(run)
    assert task_of(result, None, run) == task_of(result, "recognition", run) == "recognition"
    with pytest.raises(UsageError, match="--task anticipation: its streams were extracted for recognition"):
        task_of(result, "anticipation", run)
    change_result(run, stream={"sampling": None})
    silent = read_result(run)
    with pytest.raises(UsageError, match="say it with --task"):
        task_of(silent, None, run)
    assert task_of(silent, "anticipation", run) == "anticipation"
    change_result(run, history_protocol="predicted")
    assert task_of(read_result(run), None, run) == "anticipation"


def test_a_split_that_was_not_scored_says_how_to_score_it(run, tmp_path):
    (run / "scores" / "test.npz").unlink()
    with pytest.raises(
        DataError, match=r"has no scores of test; `mambavl evaluate .*run --split test --store"
    ):
        write_submission(run, tmp_path / "s.zip", levels=LEVELS)


def test_a_class_of_probability_0_stands_below_all_others(run, tmp_path, ids):
    def change(arrays):
        arrays["verb"][3, 5] = -np.inf

    change_scores(run, change)
    found = submitted(run, tmp_path / "s.zip", listed=ids)
    row = ids.index(read_scores(run, "test")["narration_id"][3])
    others = np.delete(found.scores["verb"].ravel(), row * 97 + 5)
    assert found.scores["verb"][row, 5] == pytest.approx(others.min() - 1)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda arrays: arrays.update(verb=arrays["verb"] + 1),
            "probabilities of verb of row .* sum to 2.72",
        ),
        (lambda arrays: arrays.update(noun=arrays["noun"] * 0.5), "probabilities of noun of row .* sum to"),
        (lambda arrays: arrays.pop("noun"), "has no scores of noun; the challenge wants 300"),
    ],
)
def test_scores_that_are_no_log_probabilities_of_both_are_refused(run, tmp_path, ids, spoil, says):
    change_scores(run, spoil)
    with pytest.raises(DataError, match=says):
        write_submission(run, tmp_path / "s.zip", levels=LEVELS, listed=ids)


def test_classes_that_are_not_ek100_s_are_refused(mixable, tmp_path):
    settings = {"levels": LEVELS, "split": "validation"}
    with pytest.raises(DataError, match="has 8 classes of verb; EK100 has 97"):
        write_submission(mixable / "mlp", tmp_path / "s.zip", **settings)


def test_fewer_than_a_hundred_pairs_are_refused(runs, tmp_path, ids):
    run = shutil.copytree(runs / "pairs", tmp_path / "run")

    def change(arrays):
        arrays["pairs"] = arrays["pairs"][:99]
        kept = arrays["action"][:, :99].astype(np.float64)
        arrays["action"] = (kept - np.log(np.exp(kept).sum(1, keepdims=True))).astype(np.float32)

    change_scores(run, change)
    with pytest.raises(DataError, match="ranks 99 pairs; the challenge wants 100 a row"):
        write_submission(run, tmp_path / "s.zip", levels=LEVELS, listed=ids)


def test_ek100_s_own_lists_are_what_is_assumed(shared):
    """Numbers of rows and of classes, and how ids look."""
    read = read_annotations(shared / "data" / "ek100", ("validation", "test"))
    ids = {
        split: [row.narration_id for row in read.segments if row.split == split] for split in submitting.ROWS
    }
    assert {split: len(names) for split, names in ids.items()} == submitting.ROWS
    assert {name: target.count for name, target in read.classes.targets.items()} == submission.COUNTS
    assert all(submission.is_id(name) for names in ids.values() for name in names)
