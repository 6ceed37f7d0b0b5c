"""A run is opened with its own head, or refused in words that help."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from helpers.predicting import make_run
from mambavl.configs.errors import DataError, UsageError
from mambavl.predict.trained import open_trained


def test_the_head_is_the_one_that_was_trained(kit):
    trained = open_trained(kit / "rec", {})
    weights = load_file(kit / "rec" / "model.safetensors")
    assert weights.keys() == trained.head.state_dict().keys()
    assert all(torch.equal(trained.head.state_dict()[name].cpu(), one) for name, one in weights.items())
    assert not trained.head.training
    assert trained.views == 2
    assert set(trained.streams) == {"video", "verb_question", "noun_question"}
    assert {name for name, stream in trained.streams.items() if stream.is_text} == {
        "verb_question",
        "noun_question",
    }


def test_a_question_about_a_target_that_was_not_trained_reaches_no_classifier(kit):
    run = make_run(kit, "verb-only", "rec", has_text=True, above='use_targets = ["verb"]')
    trained = open_trained(run, {})
    assert list(trained.targets.outputs) == ["verb"]
    assert sorted(trained.head.routes["verb"]) == ["verb_question", "video"]


def test_what_is_no_finished_run_says_what_to_do(kit, tmp_path):
    with pytest.raises(DataError, match="is not a run"):
        open_trained(tmp_path, {})
    shutil.copytree(kit / "ant", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(DataError, match="has not finished; run the same `mambavl train` again"):
        open_trained(tmp_path / "run", {})
    shutil.copy(kit / "ant" / "result.json", tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"model\.safetensors: is damaged"):
        open_trained(tmp_path / "run", {})
    shutil.copy(kit / "rec" / "model.safetensors", tmp_path / "run")
    with pytest.raises(DataError, match="does not fit the run's recipe"):
        open_trained(tmp_path / "run", {})


def test_a_run_that_kept_no_head_says_how_to_train_one(kit, tmp_path):
    shutil.copytree(kit / "ant", tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('keep = "weights"', 'keep = "scores"'))
    with pytest.raises(DataError, match=r"kept its scores and no weights.*--set train\.keep=weights --out "):
        open_trained(tmp_path / "run", {})


def test_another_store_in_its_place_is_refused(kit, tmp_path):
    with pytest.raises(DataError, match="is not the store that") as error:
        open_trained(kit / "ant", {"video": kit / "rec.zarr"})
    assert "sampling.task: 'anticipation' -> 'recognition'" in str(error.value)
    assert "--moved video=PATH" in str(error.value)
    with pytest.raises(DataError, match=r"cannot be read.*--moved video=PATH"):
        open_trained(kit / "ant", {"video": tmp_path / "nowhere.zarr"})
    with pytest.raises(DataError, match=r"stream video: .*there is no level"):
        open_trained(_with_level(kit, tmp_path, "patch"), {})
    with pytest.raises(UsageError, match=r"--moved vide=\.\.\.: .*did you mean `video`"):
        open_trained(kit / "ant", {"vide": kit / "ant.zarr"})


def _with_level(kit, tmp_path, level):
    shutil.copytree(kit / "ant", tmp_path / "other")
    recipe = tmp_path / "other" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('level = "frame"', f'level = "{level}"'))
    assert json.loads((tmp_path / "other" / "result.json").read_text())
    return tmp_path / "other"
