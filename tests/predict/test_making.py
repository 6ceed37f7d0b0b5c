"""Features are made as those that a head was trained on, or the command says what stands in the way."""

import shutil
from dataclasses import replace

import pytest

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.own import GOOD
from helpers.predicting import make_run, scored, video_of
from helpers.sounds import ramp, save_audio, write_sound
from mambavl.cache import open_store
from mambavl.cache.spec import BoxesRecipe, Pooling
from mambavl.configs.errors import UsageError
from mambavl.predict import making
from mambavl.predict.making import refuse_what_cannot_be_made
from mambavl.predict.predict import Request, predict
from mambavl.predict.trained import open_trained


def assert_live_equals_scores(run, store, video, narration_id, **more):
    """The window of a row, encoded anew, gets the row's scores."""
    segment = next(s for s in open_store(store).segments if s.narration_id == narration_id)
    span = round(segment.stop - segment.start, 6)
    request = Request(run=run, video=video, window=span, start=segment.stop, stop=segment.stop, **more)
    [answer] = predict(request).answers
    for target, expected in scored(run, narration_id).items():
        found = {guess.ids[0]: guess.probability for guess in answer.best[target]}
        assert found == {one: pytest.approx(value, abs=1e-4) for one, value in enumerate(expected)}


def test_features_that_were_pooled_are_pooled_again(kit):
    assert call("cache", "pool", kit / "rec.zarr", "--to", "clip", "--out", kit / "pooled.zarr") == 0
    run = make_run(kit, "pooled", "pooled", level="clip")
    assert_live_equals_scores(run, kit / "pooled.zarr", video_of(kit, 104), "P01_104_2")


def test_sound_is_heard_as_in_training(tmp_path):
    folder = make_dataset(tmp_path / "data")
    for number in range(101, 105):
        write_sound(video_of(folder, number), ramp())
    save_audio(tmp_path / "hubert", "hubert")
    sound = ("extract", "audio", "--annotations", folder / "annotations", "--videos", folder / "videos")
    store = folder / "sound.zarr"
    words = ("--encoder", f"audio:{tmp_path / 'hubert'}", "--set", "steps=4", "--out", store)
    assert call(*sound, *words) == 0
    run = make_run(folder, "run", "sound")
    assert_live_equals_scores(run, store, video_of(folder, 104), "P01_104_2")


def test_another_encoder_under_the_same_name_is_refused_before_any_work(kit, tmp_path, monkeypatch):
    """Both weights are named, and nothing is encoded."""
    monkeypatch.setattr(making, "pool", None)
    trained = open_trained(kit / "ant", {}).streams["video"].store.spec.recipe.encoder
    request = Request(run=kit / "ant", video=video_of(kit, 104))
    import mambavl.extract.encoders.image as image

    monkeypatch.setattr(image, "weights_sha256", lambda model: "e" * 64)
    seen = []
    with pytest.raises(UsageError, match="which cannot be made here") as error:
        predict(replace(request), progress=lambda done, total: seen.append(done))
    said = str(error.value)
    assert f"encoder.sha256: '{trained.sha256}' -> '{'e' * 64}'" in said
    assert "--weights video=FILE" in said
    assert "--store video=PATH" in said
    assert seen == []


def test_weights_that_are_not_there_say_how_they_are_given_here(kit):
    with pytest.raises(UsageError, match=r"stream verb_question: .*encoder hf:tiny, pretrained") as error:
        predict(Request(run=kit / "rec", video=video_of(kit, 104), weights={"verb_question": "nowhere"}))
    assert "Weights are given as --weights verb_question=FILE here" in str(error.value)
    with pytest.raises(UsageError, match=r"stream video: .*w\.safetensors"):
        predict(Request(run=kit / "ant", video=video_of(kit, 104), weights={"video": "w.safetensors"}))


def test_code_runs_only_where_the_user_named_it(kit, tmp_path, monkeypatch):
    """A run that somebody sent must not be able to have code run by being asked."""
    (tmp_path / "mine_for_predict.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    store = tmp_path / "own.zarr"
    common = ("--annotations", kit / "annotations", "--videos", kit / "videos", "--out", store)
    words = ("--encoder", "mine_for_predict:build", "--set", "sampling.frames=4", "--set", "image_size=24")
    with_state = ("--set", "weights_state=random")
    import torch

    torch.manual_seed(5)
    from mine_for_predict import build

    torch.save(build(image_size=24).state_dict(), tmp_path / "w.pt")
    given = ("--weights", tmp_path / "w.pt")
    assert call("extract", "video", *common, *words, *given, *with_state) == 0
    shutil.copytree(kit / "annotations", tmp_path / "annotations")
    run = make_run(tmp_path, "run", "own")
    weights = {"video": str(tmp_path / "w.pt")}
    with pytest.raises(UsageError, match="code runs only where you name it: --encoder video=mine_for_pred"):
        predict(Request(run=run, video=video_of(kit, 104), weights=weights))
    with pytest.raises(UsageError, match="code runs only where you name it"):
        predict(Request(run=run, video=video_of(kit, 104), weights=weights, trusted={"video": "os:system"}))
    trusted = {"video": "mine_for_predict:build"}
    assert_live_equals_scores(run, store, video_of(kit, 104), "P01_104_1", weights=weights, trusted=trusted)


def changed(kit, **recipe):
    """The video stream of a run, as if its store said something else."""
    stream = open_trained(kit / "ant", {}).streams["video"]
    stream.store.spec = replace(stream.store.spec, recipe=replace(stream.store.spec.recipe, **recipe))
    return stream


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"source": "import"}, "were not made by `mambavl extract` but imported"),
        ({"encoder": None}, "but imported"),
        ({"boxes": BoxesRecipe(source="h5", transform="correct")}, r"show object boxes \(h5\)"),
        ({"pooled": Pooling(from_level="grid", to="frame", rule="mean")}, "pooled from a grid"),
    ],
)
def test_features_that_no_new_video_can_have_are_refused(kit, recipe, why):
    with pytest.raises(UsageError, match=f"stream video: its features .*{why}.*--store video=PATH"):
        refuse_what_cannot_be_made(changed(kit, **recipe))


def test_what_can_be_made_is_not_refused(kit):
    refuse_what_cannot_be_made(changed(kit))
    refuse_what_cannot_be_made(changed(kit, pooled=Pooling(from_level="patch", to="frame", rule="mean")))
