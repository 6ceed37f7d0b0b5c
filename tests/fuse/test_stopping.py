"""When training stops early: counted on curves by hand, through whole runs, and what cannot be watched."""

import json

import pytest

from helpers.group import start_group, wait_for_group
from helpers.tiny import make_dense_store, tiny_recipe, weights
from helpers.tools import make_tool_stores, tool_recipe
from mambavl.configs import set_key, validate
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse.data import FeatureData
from mambavl.fuse.points import expand
from mambavl.fuse.recipe import Recipe, what_decides
from mambavl.fuse.run import read_curves, read_result
from mambavl.fuse.stopping import has_stalled
from mambavl.fuse.train import train


def curve(*measures, key="verb_top1"):
    return [
        {"epoch": epoch, **({} if measure is None else {key: measure})}
        for epoch, measure in enumerate(measures, start=1)
    ]


@pytest.mark.parametrize(
    ("measures", "epochs", "stalled"),
    [
        ((), 1, False),
        ((0.0,), 1, False),
        ((5, 6, 7), 1, False),
        ((5, 5), 1, True),  # as good is no better
        ((5, 4), 2, False),
        ((5, 4, 5), 2, True),
        ((5, 4, 6), 2, False),
        ((5, 4, 6, 5, 6), 2, True),
        ((5, 7, 6, 6, 6), 3, True),
        ((5, 7, 6, 6), 3, False),
        ((None, None, 5, None, None, 6), 1, False),  # every third epoch is scored
        ((None, None, 5, None, None, 4), 3, True),
        ((None, None, 5, None, None, 4), 4, False),
    ],
)
def test_training_stalls_when_so_many_epochs_brought_nothing_better(measures, epochs, stalled):
    assert has_stalled(curve(*measures), "verb", epochs) == stalled
    assert has_stalled(curve(*measures, key="verb_map"), "verb", epochs) == stalled
    recall = "verb_mean_class_recall5"
    assert has_stalled(curve(*measures, key=recall), recall, epochs) == stalled
    assert not has_stalled(curve(*measures), "noun", epochs)


@pytest.fixture(scope="module")
def cooks(tmp_path_factory):
    """Train rows of two participants."""
    folder = tmp_path_factory.mktemp("cooks")
    make_dense_store(folder / "video.zarr", 48, splits=("validation", "train", "train", "train"))
    return folder


def stopping(folder, *settings, **train_keys):
    """A recipe that begins at its peak, so that it soon gets no better."""
    keys = {"epochs": 20, "stop_after": 3, "warmup_epochs": 0, "lr": 0.05, **train_keys}
    raw = tiny_recipe(folder, text=False).model_dump(mode="json", exclude_none=True)
    raw["train"] |= keys
    raw["data"]["hold_out"] = "1/2"
    for key, value in settings:
        set_key(raw, key, value)
    return validate(raw, Recipe, "r.toml")


def first_stall(run, key, patience):
    """By hand: the first epoch that is so many after the first of the best ones before it."""
    measures = [json.loads(line)[key] for line in (run / "curves.jsonl").read_text().splitlines()]
    for epoch in range(1, len(measures) + 1):
        best = measures[:epoch].index(max(measures[:epoch])) + 1
        if epoch - best >= patience:
            return epoch
    return None


@pytest.fixture(scope="module")
def stopped(cooks, tmp_path_factory):
    run = tmp_path_factory.mktemp("stopped") / "run"
    return run, train(stopping(cooks), run)


def test_a_run_stops_where_its_curve_says_and_its_result_names_the_epoch(cooks, stopped, tmp_path):
    """On the same schedule, so that it is the beginning of the run that goes on."""
    run, result = stopped
    assert result.trained.stopped == len(read_curves(run)) == first_stall(run, "action_top1", 3) < 20
    assert (result.epochs, read_result(run).trained.stopped) == (20, result.trained.stopped)
    calls, updates = iter(range(1000)), result.trained.stopped * 3  # of 18 rows in batches of 8
    whole = stopping(cooks).model_copy(
        update={"train": stopping(cooks).train.model_copy(update={"stop_after": None})}
    )
    with pytest.raises(Interrupted):
        train(whole, tmp_path / "run", should_stop=lambda: next(calls) >= updates)
    lines = [{**line, "seconds": 0} for line in read_curves(tmp_path / "run")]
    assert lines == [{**line, "seconds": 0} for line in read_curves(run)]


@pytest.mark.parametrize("before", [1, 0])
def test_a_run_killed_about_where_it_stops_resumes_to_the_same_end(
    cooks, stopped, tmp_path, before, monkeypatch
):
    """In its last epoch, and after it."""
    run, result = stopped
    calls, updates = iter(range(1000)), result.trained.stopped * 3 - before
    recipe = stopping(cooks)
    if before:
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "run", should_stop=lambda: next(calls) >= updates)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("mambavl.fuse.checkpoint.save_weights", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                train(recipe, tmp_path / "run")
    resumed = train(recipe, tmp_path / "run")
    assert resumed.trained.stopped == result.trained.stopped
    one, other = weights(run), weights(tmp_path / "run")
    assert all((one[name] == other[name]).all() for name in one)


def test_a_run_that_gets_better_goes_to_its_end(cooks, tmp_path):
    result = train(stopping(cooks, epochs=3, stop_after=3), tmp_path / "run")
    assert result.trained.stopped is None
    assert len(read_curves(tmp_path / "run")) == 3


def test_the_target_that_rank_by_names_is_watched(cooks, tmp_path):
    for number, target in enumerate(("verb", "noun")):
        run = tmp_path / target
        result = train(stopping(cooks, ("rank_by", target), stop_after=1 + number), run)
        assert result.trained.stopped == first_stall(run, f"{target}_top1", 1 + number)


def test_several_processes_stop_together(cooks, stopped, tmp_path):
    codes = wait_for_group(start_group(lambda: train(stopping(cooks), tmp_path / "run"), tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
    assert read_result(tmp_path / "run").trained.stopped == stopped[1].trained.stopped


def test_what_cannot_be_watched_is_refused(cooks, tmp_path):
    raw = stopping(cooks).model_dump(mode="json", exclude_none=True)
    del raw["data"]["hold_out"]
    with pytest.raises(UsageError, match=r"stop_after = 3 watches rows .*set data\.hold_out=0/5"):
        validate(raw, Recipe, "r.toml")
    for sets in ({"grid": {"train": {"lr": [1, 2]}}}, {"grid": {"train.stop_after": [3, 4]}}):
        raw["train"] = {"stop_after": 3} if "train" in sets["grid"] else {}
        with pytest.raises(UsageError, match=r"none are left for train\.stop_after to watch"):
            expand({**raw, **sets, "select_on": "1/2"}, tmp_path, "r.toml")


def test_a_target_without_held_out_labels_is_refused_before_the_first_update(tmp_path):
    held_out = (("data.hold_out", "0/3"), ("data.hold_out_by", "video"), ("train.stop_after", 1))
    recipe = tool_recipe(make_tool_stores(tmp_path), *held_out, ("rank_by", "use"))
    data = FeatureData(recipe.sources, recipe.data)
    data.labels["grip"][data.evaluation] = -1  # of tool and grip, that use is made of
    with pytest.raises(DataError, match=r"watches use, and none of the \d+ held-out rows"):
        train(recipe, tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "curves.jsonl").exists()
    data.labels["grip"][data.evaluation[0]] = 1
    assert train(recipe, tmp_path / "run", data=data).trained.stopped


def test_a_run_that_is_ranked_by_recall_has_it_in_its_curve_and_stops_by_it(cooks, tmp_path):
    recall = "noun_mean_class_recall5"
    result = train(stopping(cooks, ("rank_by", recall), stop_after=2), tmp_path / "run")
    curve = read_curves(tmp_path / "run")
    assert curve[-1][recall] == result.metrics[f"all_{recall}"]
    assert result.trained.stopped == first_stall(tmp_path / "run", recall, 2)


def test_what_says_when_to_stop_decides(cooks):
    one = stopping(cooks)
    assert what_decides(one) != what_decides(stopping(cooks, eval_every=2))
    assert what_decides(one) != what_decides(stopping(cooks, ("rank_by", "verb")))
    assert what_decides(one) != what_decides(stopping(cooks, stop_after=4))
    assert what_decides(one) == what_decides(stopping(cooks, checkpoint_every=2))
