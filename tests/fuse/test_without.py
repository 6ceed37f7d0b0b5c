"""What a stream is worth to a finished run: scored with the stream masked, beside the run's own scores."""

import numpy as np
import pytest
import torch

from helpers.holed import holed_recipe, make_holed_stores
from helpers.tiny import ROWS, make_dense_store, weights
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse import evaluate
from mambavl.fuse.data import FeatureData
from mambavl.fuse.head import ABSENT
from mambavl.fuse.recipe import build_head, run_targets
from mambavl.fuse.run import read_prior, read_scores
from mambavl.fuse.train import train
from mambavl.fuse.without import evaluate_without


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with stores that have holes, and `run`, which reads their video and audio."""
    folder = make_holed_stores(tmp_path_factory.mktemp("without"))
    train(holed_recipe(folder), folder / "run")
    return folder


def test_a_run_is_scored_as_if_no_row_had_the_stream(trained):
    """By hand: of 24 rows, 20 has neither, 7 no audio; so 22 lose it, and all have video left."""
    run = trained / "run"
    before = (run / "result.json").read_bytes()
    found = evaluate_without(run, ["audio"])
    assert (run / "result.json").read_bytes() == before
    assert (found.rows, found.changed, found.left_with_nothing) == (24, 22, 0)
    assert found.scores == run / "scores" / "validation-without-audio.npz"
    whole, scores = read_scores(run, "validation"), read_scores(run, "validation-without-audio")
    recipe = holed_recipe(trained)
    data = FeatureData(recipe.sources, recipe.data)
    head = build_head(recipe, data, run_targets(recipe, data))
    head.load_state_dict(weights(run))
    for number, row in enumerate(data.evaluation):
        if row in (7, 20):
            np.testing.assert_allclose(scores["verb"][number], whole["verb"][number], rtol=1e-5)
            continue
        video = data.batch(np.array([row]))["video"]
        audio = torch.full((1, 3, 6), torch.nan), torch.tensor([ABSENT])
        with torch.inference_mode():
            expected = head.eval()({"video": video, "audio": audio})["verb"].log_softmax(-1)[0]
        torch.testing.assert_close(torch.from_numpy(scores["verb"][number]), expected, rtol=1e-4, atol=1e-5)
        assert not np.allclose(scores["verb"][number], whole["verb"][number], atol=1e-4)


def test_its_measures_stand_beside_those_of_the_run(trained):
    found = evaluate_without(trained / "run", ["video"])
    assert found.with_all == evaluate.evaluate_run(trained / "run").metrics
    assert found.without != found.with_all
    key = "all_verb_top1"
    assert found.difference(key) == found.with_all[key] - found.without[key]
    assert found.difference("all_verb_top3") is None
    assert (found.changed, found.left_with_nothing) == (23, 1)  # row 7 has nothing but its video
    scores = read_scores(trained / "run", "validation-without-video")
    np.testing.assert_allclose(scores["verb"][1], read_prior(trained / "run")["verb"], rtol=1e-5)


def test_rows_that_the_run_scored_by_the_prior_stay_so(trained, tmp_path):
    """Row 7 was refused for want of audio; without audio it would have all it needs."""
    recipe = holed_recipe(trained, [("data.missing", "refuse"), ("data.allow_missing", 3)], epochs=1)
    train(recipe, tmp_path / "run")
    found = evaluate_without(tmp_path / "run", ["audio"])
    assert (found.rows, found.changed, found.left_with_nothing) == (24, 22, 0)
    scores = read_scores(tmp_path / "run", "validation-without-audio")
    np.testing.assert_allclose(scores["verb"][1], read_prior(tmp_path / "run")["verb"], rtol=1e-5)
    assert evaluate_without(tmp_path / "run", ["video"]).changed == 22  # row 7's is not one of them


def test_several_streams_are_left_out_in_the_order_of_the_run(trained, tmp_path):
    recipe = holed_recipe(trained, epochs=1)
    hands = recipe.streams["video"]
    recipe = recipe.model_copy(update={"streams": {**recipe.streams, "hands": hands}})
    train(recipe, tmp_path / "run")
    found = evaluate_without(tmp_path / "run", ["hands", "audio"])
    assert found.streams == ("audio", "hands")
    assert found.scores.name == "validation-without-audio-hands.npz"
    assert found.changed == 23


def test_another_split_is_compared_with_its_own_scores(trained):
    with pytest.raises(DataError, match=r"mambavl evaluate .*run --split train` makes them"):
        evaluate_without(trained / "run", ["audio"], split="train")
    whole = evaluate.evaluate_run(trained / "run", split="train")
    found = evaluate_without(trained / "run", ["audio"], split="train")
    assert found.with_all == whole.metrics
    assert found.scores.name == "train-without-audio.npz"


def test_scores_of_other_rows_are_not_compared(trained, tmp_path):
    make_dense_store(tmp_path / "video.zarr", ROWS - 6)
    make_dense_store(tmp_path / "audio.zarr", ROWS - 6)
    moved = {name: tmp_path / f"{name}.zarr" for name in ("video", "audio")}
    recipe = holed_recipe(trained)
    train(recipe, tmp_path / "run")
    with pytest.raises(DataError, match=r"validation\.npz: has other rows than the stores"):
        evaluate_without(tmp_path / "run", ["audio"], streams=moved)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["vidoe"], r"has no stream 'vidoe' to be left out; did you mean `video`\?"),
        (["audio", "video"], r"names all of its streams \(video, audio\); leave one"),
    ],
)
def test_a_stream_that_is_not_there_and_all_of_them_are_refused(trained, names, says):
    with pytest.raises(UsageError, match=says):
        evaluate_without(trained / "run", names)
