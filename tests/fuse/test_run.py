"""The folder of a run: what is read back, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import tomli_w

from helpers.tiny import tiny_recipe
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import run as folder
from mambavl.fuse.data import FeatureData
from mambavl.fuse.evaluate import evaluate_run
from mambavl.fuse.fusion import FusionSettings
from mambavl.fuse.recipe import run_targets
from mambavl.fuse.report import write_report
from mambavl.fuse.targets import log_prior
from mambavl.fuse.train import train


@pytest.fixture(scope="module")
def recipe(stores):
    return tiny_recipe(stores, epochs=2)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(recipe, run)
    return run


def test_a_finished_run_holds_its_files_and_no_checkpoint(finished):
    not_now = {folder.CHECKPOINTS, folder.FAILURE, folder.PRUNED, folder.SELECTION}
    not_now |= {folder.TRACKERS, folder.BEGUN, folder.CHOICE}
    assert {path.name for path in finished.iterdir()} == folder.FILES - not_now


def test_what_a_run_was_fed_is_read_back(finished, recipe):
    data = FeatureData(recipe.sources, recipe.data)
    assert folder.read_recipe(finished) == recipe
    assert folder.read_classes(finished) == data.classes
    found = folder.read_prior(finished)
    expected = log_prior(run_targets(recipe, data), data.labels, data.train)
    assert found.keys() == expected.keys() == {"verb", "noun"}
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


def test_curves_have_a_line_for_each_epoch_and_may_be_missing(finished, tmp_path):
    assert [line["epoch"] for line in folder.read_curves(finished)] == [1, 2]
    assert folder.read_curves(tmp_path) == []
    (tmp_path / folder.CURVES).write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(DataError, match=r"curves\.jsonl: is damaged"):
        folder.read_curves(tmp_path)


def test_scores_name_their_rows_and_labels(finished, recipe):
    data = FeatureData(recipe.sources, recipe.data)
    scores = folder.read_scores(finished, "validation")
    assert scores["narration_id"].tolist() == [data.segments[row].narration_id for row in data.evaluation]
    for target in ("verb", "noun"):
        np.testing.assert_array_equal(scores[f"{target}_label"], data.labels[target][data.evaluation])
    assert scores["noun"].shape == (len(data.evaluation), data.classes.targets["noun"].count)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has not finished; run the same"),
        ("{", "is damaged"),
        ("[]", "is damaged .it is not an object"),
        ("{}", "is damaged .it has no"),
    ],
)
def test_a_result_that_is_missing_or_damaged_says_what_to_do(tmp_path, content, says):
    (tmp_path / folder.RECIPE).write_text("")
    if content is not None:
        (tmp_path / folder.RESULT).write_text(content)
    with pytest.raises(DataError, match=says):
        folder.read_result(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    folder.refuse_other_folder(tmp_path / "new")
    folder.refuse_other_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"is not a run and not empty \(notes\.txt\)"):
        folder.refuse_other_folder(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        folder.refuse_other_folder(tmp_path / "notes.txt")


def test_another_recipe_is_refused_with_what_differs(finished, stores):
    folder.refuse_other_recipe(finished, tiny_recipe(stores, epochs=2))
    with pytest.raises(UsageError, match=r"What differs \(there -> asked for\):\n  train\.epochs: 2 -> 5"):
        folder.refuse_other_recipe(finished, tiny_recipe(stores, epochs=5))


def begun(run, recipe, **changes):
    """A folder of a run whose recipe.toml differs from `recipe` in some keys; None: the key is left out."""
    raw = recipe.model_dump(mode="json", exclude_none=True)
    for key, value in changes.items():
        section, name = key.split("__")
        raw[section][name] = value
        if value is None:
            del raw[section][name]
    (run / folder.RECIPE).write_text(tomli_w.dumps(raw))


def test_a_run_that_is_older_than_a_key_stays_its_own(recipe, stores, tmp_path):
    """What a version without `decay_all` and `share` wrote; their defaults are what it did."""
    begun(tmp_path, recipe, train__decay_all=None, fusion__share=None)
    folder.refuse_other_recipe(tmp_path, recipe)
    with pytest.raises(UsageError, match=r"belongs to another recipe.*\n  train\.decay_all: False -> True"):
        folder.refuse_other_recipe(tmp_path, tiny_recipe(stores, epochs=2, decay_all=True))


def test_a_preset_fills_in_its_own_defaults(recipe, tmp_path):
    paper = recipe.model_copy(update={"fusion": FusionSettings(preset="paper", d_state=4)})
    begun(tmp_path, paper, fusion__mixer=None, fusion__zoh=None)
    folder.refuse_other_recipe(tmp_path, paper)


def test_a_recipe_of_another_version_is_refused_by_its_key(recipe, tmp_path):
    begun(tmp_path, recipe, train__colour="red")
    with pytest.raises(UsageError, match=r"cannot be compared; use another --out\n.*no key `colour`"):
        folder.refuse_other_recipe(tmp_path, recipe)


def test_a_finished_run_of_a_schedule_that_is_refused_now_is_still_scored_and_shown(
    finished, recipe, tmp_path
):
    run = shutil.copytree(finished, tmp_path / "run")
    begun(run, recipe, train__epochs=2, train__warmup_epochs=2.0, train__lr_end=1.0)
    assert evaluate_run(run).metrics == folder.read_result(finished).metrics
    write_report([run], tmp_path / "report.html")
    with pytest.raises(UsageError, match=r"train\.warmup_epochs: 2\.0 -> 1\.0"):
        folder.refuse_other_recipe(run, recipe)


def test_other_stores_are_refused_and_moved_ones_are_not(finished, recipe, tmp_path):
    data = FeatureData(recipe.sources, recipe.data)
    for name in (folder.STREAMS, folder.RECIPE):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    streams = json.loads((tmp_path / folder.STREAMS).read_text())
    streams["video"]["stores"] = ["elsewhere.zarr"]
    (tmp_path / folder.STREAMS).write_text(json.dumps(streams))
    folder.refuse_other_stores(tmp_path, data)
    streams["video"]["store_ids"] = ["another"]
    (tmp_path / folder.STREAMS).write_text(json.dumps(streams))
    folder.refuse_other_features(tmp_path, data)  # features of the same recipe may be scored
    with pytest.raises(UsageError, match=r"begun with other stores.*\n  video\.store_ids"):
        folder.refuse_other_stores(tmp_path, data)
    streams["video"]["encoder"]["name"] = "another"
    (tmp_path / folder.STREAMS).write_text(json.dumps(streams))
    with pytest.raises(
        DataError, match=r"trained on other features.*\n  video\.encoder\.name: 'another' -> 'fake'"
    ):
        folder.refuse_other_features(tmp_path, data)
