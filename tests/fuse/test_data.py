"""Streams joined by name, rows without features, refusals; the order of an epoch."""

import numpy as np
import pytest
import torch

from helpers.tiny import ROWS, make_dense_store, make_segments, make_text_store, tiny_recipe, weights
from mambavl.configs.errors import DataError, UsageError
from mambavl.fuse.data import DataConfig, FeatureData, epoch_batches
from mambavl.fuse.evaluate import evaluate_run
from mambavl.fuse.recipe import build_head, run_targets
from mambavl.fuse.run import read_scores
from mambavl.fuse.sources import StreamSource
from mambavl.fuse.train import train


def test_streams_are_joined_by_id_and_rows_that_do_not_match_are_named(stores, tmp_path):
    make_text_store(tmp_path / "short.zarr", ROWS - 2)
    sources = {
        "video": StreamSource(store=stores / "video.zarr"),
        "verb_question": StreamSource(store=tmp_path / "short.zarr", level="verb_question/last_hidden"),
    }
    with pytest.raises(
        DataError,
        match=r"2 rows do not match.*\n  P01_105_6: is in stream video and not in stream verb_question\n"
        r"  P01_105_7: is",
    ):
        FeatureData(sources, DataConfig())


def test_text_streams_of_two_protocols_are_refused(stores, tmp_path):
    make_text_store(tmp_path / "generic.zarr", ROWS, protocol="generic")
    sources = {
        "video": StreamSource(store=stores / "video.zarr"),
        "verb_question": StreamSource(store=stores / "text.zarr", level="verb_question/last_hidden"),
        "noun_question": StreamSource(store=tmp_path / "generic.zarr", level="noun_question/last_hidden"),
    }
    with pytest.raises(DataError, match="different protocols: generic, oracle"):
        FeatureData(sources, DataConfig())


@pytest.mark.parametrize("resident", ["mmap", "ram", "device"])
def test_batches_are_the_same_wherever_features_lie(stores, resident):
    sources = {
        "video": StreamSource(store=stores / "video.zarr"),
        "verb_question": StreamSource(store=stores / "text.zarr", level="verb_question/last_hidden"),
    }
    rows = np.array([40, 3, 3, 17])
    expected = FeatureData(sources, DataConfig()).batch(rows)
    found = FeatureData(sources, DataConfig(resident=resident, verify="read")).batch(rows)
    for name in sources:
        assert all(torch.equal(a, b) for a, b in zip(expected[name], found[name], strict=True))
        assert found[name][0].dtype == torch.float32


def test_views_are_chosen_by_row_and_streams_of_one_view_have_just_that(stores, tmp_path):
    features = make_dense_store(tmp_path / "v.zarr", ROWS, views=3)
    sources = {
        "video": StreamSource(store=tmp_path / "v.zarr"),
        "other": StreamSource(store=stores / "video.zarr"),
    }
    data = FeatureData(sources, DataConfig())
    assert data.views == 3
    rows, views = np.array([40, 3, 3, 17]), np.array([2, 0, 1, 2])
    batch = data.batch(rows, view=views)
    np.testing.assert_array_equal(batch["video"][0], features[rows, views])
    assert torch.equal(batch["other"][0], data.batch(rows)["other"][0])
    seen = data.training_views(0, 0)
    assert set(seen) == {0, 1, 2}
    np.testing.assert_array_equal(seen, data.training_views(0, 0))
    assert (seen != data.training_views(0, 1)).any()
    make_dense_store(tmp_path / "two.zarr", ROWS, views=2)
    sources["other"] = StreamSource(store=tmp_path / "two.zarr")
    with pytest.raises(DataError, match=r"the same number of them: \{'video': 3, 'other': 2\}"):
        FeatureData(sources, DataConfig())


def test_several_views_are_scored_by_their_mean_probability(stores, tmp_path):
    make_dense_store(tmp_path / "v.zarr", ROWS, views=3)
    recipe = tiny_recipe(stores, text=False).model_copy(
        update={"streams": {"video": StreamSource(store=tmp_path / "v.zarr")}}
    )
    result = train(recipe, tmp_path / "run")
    assert result.streams["video"].views == 3
    data = FeatureData(recipe.sources, recipe.data)
    head = build_head(recipe, data, run_targets(recipe, data))
    head.load_state_dict(weights(tmp_path / "run"))
    with torch.inference_mode():
        views = [head.eval()(data.batch(data.evaluation, view=view))["verb"].softmax(-1) for view in range(3)]
    expected = torch.stack(views).mean(0).log()
    found = torch.from_numpy(read_scores(tmp_path / "run", "validation")["verb"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, views[0].log(), atol=1e-3)  # one view alone would say something else


def test_several_views_are_scored_by_their_mean_logits_where_that_is_asked(stores, tmp_path):
    """Into a file of its own: the run's scores and result stay."""
    make_dense_store(tmp_path / "v.zarr", ROWS, views=3)
    streams = {"video": StreamSource(store=tmp_path / "v.zarr")}
    recipe = tiny_recipe(stores, text=False, head="mlp", epochs=30, lr=0.1)  # so that it is sure of itself
    recipe = recipe.model_copy(update={"streams": streams})
    train(recipe, tmp_path / "run")
    with open(tmp_path / "run" / "result.json", "a") as file:
        file.write("\n")  # so that it would not be the same if it was written again
    before = {
        name: (tmp_path / "run" / name).read_bytes() for name in ("result.json", "scores/validation.npz")
    }
    result = evaluate_run(tmp_path / "run", average="logits")
    data = FeatureData(recipe.sources, recipe.data)
    head = build_head(recipe, data, run_targets(recipe, data))
    head.load_state_dict(weights(tmp_path / "run"))
    with torch.inference_mode():
        views = [head.eval()(data.batch(data.evaluation, view=view))["verb"] for view in range(3)]
    found = torch.from_numpy(read_scores(tmp_path / "run", "validation-logits")["verb"])
    torch.testing.assert_close(found, torch.stack(views).mean(0).log_softmax(-1), rtol=1e-4, atol=1e-4)
    by_probabilities = torch.from_numpy(read_scores(tmp_path / "run", "validation")["verb"])
    assert not torch.allclose(found, by_probabilities, rtol=0, atol=1e-3)
    assert result.metrics["all_verb_n"] == len(data.evaluation)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    train(tiny_recipe(stores), tmp_path / "one")
    with pytest.raises(UsageError, match="its rows have one view, so there is nothing to average"):
        evaluate_run(tmp_path / "one", average="logits")


def test_the_class_token_comes_before_the_tokens(stores, tmp_path):
    features = make_dense_store(tmp_path / "v.zarr", ROWS, views=2, short={3: 2}, class_token=True)
    data = FeatureData({"video": StreamSource(store=tmp_path / "v.zarr", class_token=True)}, DataConfig())
    tokens, lengths = data.batch(np.array([3, 5]), view=1)["video"]
    assert lengths.tolist() == [3, 5]
    np.testing.assert_allclose(tokens[1, 0], features[5, 1].mean(0) + 1, rtol=1e-6)
    np.testing.assert_array_equal(tokens[1, 1:], features[5, 1])
    assert data.provenance["video"].class_token
    with pytest.raises(UsageError, match="and they are it already"):
        FeatureData(
            {"video": StreamSource(store=tmp_path / "v.zarr", level="cls", class_token=True)}, DataConfig()
        )
    with pytest.raises(UsageError, match="no level 'cls'; this store holds frame"):
        FeatureData({"video": StreamSource(store=stores / "video.zarr", class_token=True)}, DataConfig())


def test_an_unknown_level_or_split_is_named(stores):
    with pytest.raises(UsageError, match="no level 'patch'; this store holds frame"):
        FeatureData({"video": StreamSource(store=stores / "video.zarr", level="patch")}, DataConfig())
    with pytest.raises(UsageError, match="no row of the stores belongs to split 'test'"):
        FeatureData({"video": StreamSource(store=stores / "video.zarr")}, DataConfig(eval_split="test"))


def test_rows_without_features_are_refused_or_scored_by_the_prior_and_counted(stores, tmp_path):
    # one missing video, two empty windows
    make_dense_store(tmp_path / "holes.zarr", ROWS, failed={5: 3, 7: 2, 20: 2})
    loaded = tiny_recipe(stores, text=False)
    streams = {"video": StreamSource(store=tmp_path / "holes.zarr")}
    with pytest.raises(
        DataError, match=r"1 rows lack a stream that they need .*missing_video.*allow_missing=1"
    ):
        train(loaded.model_copy(update={"streams": streams}), tmp_path / "run")
    loaded = loaded.model_copy(update={"streams": streams, "data": DataConfig(allow_missing=1)})
    result = train(loaded, tmp_path / "run")
    data = FeatureData(streams, loaded.data)
    holes = [row for row in data.evaluation if not data.usable[row]]
    assert result.rows.scored_by_prior == len(holes) > 0
    assert result.rows.failed == 1
    scores = read_scores(tmp_path / "run", "validation")
    row = list(data.evaluation).index(holes[0])
    counts = np.bincount([data.segments[row].verb_class for row in data.train], minlength=3) + 1
    np.testing.assert_allclose(scores["verb"][row], np.log(counts / counts.sum()), rtol=1e-5)


def test_groups_hold_the_rows_whose_column_has_one_of_their_values(stores):
    """Unseen kitchens are those of the participants that are listed, here P02."""
    data = FeatureData({"video": StreamSource(store=stores / "video.zarr")}, DataConfig())
    found = {name: mask.tolist() for name, mask in data.groups.items()}
    assert found == {"unseen": [segment.participant_id == "P02" for segment in make_segments(ROWS)]}
    assert sum(found["unseen"]) == 12


def test_an_epoch_sees_every_row_once_in_an_order_of_its_own():
    rows = np.arange(100, 150)
    first, second = (list(epoch_batches(rows, 16, 0, epoch)) for epoch in (0, 1))
    assert [len(batch) for batch in first] == [16, 16, 16, 2]
    assert sorted(np.concatenate(first)) == rows.tolist()
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    again = list(epoch_batches(rows, 16, 0, 1))
    assert all((a == b).all() for a, b in zip(second, again, strict=True))
