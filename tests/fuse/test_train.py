"""Training on tiny stores: learning, determinism, resuming, several processes."""

import contextlib
import itertools
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import plain
from helpers.faults import FailingCalls, Killed
from helpers.forks import fork
from helpers.group import start_group, wait_for_group
from helpers.tiny import make_dense_store, tiny_recipe, weights
from mambavl.cache import fsops
from mambavl.configs import set_key, validate
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse import owner
from mambavl.fuse import train as training
from mambavl.fuse.data import FeatureData
from mambavl.fuse.evaluate import evaluate_run
from mambavl.fuse.idle import SSM_HEADS
from mambavl.fuse.recipe import HEADS, Recipe, build_head, run_targets
from mambavl.fuse.run import read_curves, read_recipe, read_scores
from mambavl.fuse.scan import pick
from mambavl.fuse.train import train


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_and_its_result_names_where_it_comes_from(stores, tmp_path, head):
    lines = []
    result = train(tiny_recipe(stores, head=head, epochs=25, seed=1), tmp_path / "run", on_epoch=lines.append)
    # of 24 rows to be scored a few more or less are right by chance
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert set(result.metrics) >= {"all_verb_top1", "all_noun_top1", "all_action_top1"}
    assert result.text_protocol == "oracle"
    assert result.streams["video"].encoder.to_dict() == {
        "name": "fake",
        "state": "random",
        "sha256": "0" * 64,
        "width": 6,
    }
    assert result.streams["video"].store_ids[0]
    assert result.trained.scan_backend == (pick("auto") if head in SSM_HEADS else None)
    scores = read_scores(tmp_path / "run", "validation")
    np.testing.assert_allclose(np.exp(scores["verb"]).sum(1), 1, rtol=1e-4)
    assert len(scores["narration_id"]) == result.rows.scored
    assert len((tmp_path / "run" / "curves.jsonl").read_text().splitlines()) == 25


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(stores, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny_recipe(stores, seed=seed), tmp_path / name)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize("stop_after", [0, 1, 4, 7, 10])
def test_an_interrupted_run_resumes_to_the_same_bits(stores, tmp_path, stop_after):
    """Stopped before any batch of the 12, inside an epoch or between two: weights and curves equal the
    uninterrupted run's.
    """
    train(tiny_recipe(stores), tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted, match="resumes"):
        train(tiny_recipe(stores), tmp_path / "run", should_stop=lambda: next(calls) >= stop_after)
    assert not (tmp_path / "run" / "result.json").exists()
    train(tiny_recipe(stores), tmp_path / "run")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    curves = [
        [json.loads(line) for line in (tmp_path / name / "curves.jsonl").read_text().splitlines()]
        for name in ("whole", "run")
    ]
    for one, other in zip(*curves, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }


def same_run(one, other):
    """Weights and scores to the bit, curves but for the seconds."""
    both = [weights(one), weights(other)]
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])
    both = [read_scores(run, "validation") for run in (one, other)]
    assert all(np.array_equal(both[0][key], both[1][key]) for key in both[0])
    both = [
        [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()] for run in (one, other)
    ]
    for line in (*both[0], *both[1]):
        del line["seconds"]
    assert both[0] == both[1]


@pytest.mark.parametrize("numbers", [[3, 4, 29], pytest.param(range(1, 31), marks=pytest.mark.soak)], ids=len)
def test_a_run_killed_at_any_step_resumes_to_the_same_bits(stores, tmp_path, monkeypatch, numbers):
    """Of 30 steps, three an epoch, each in a process that SIGKILL ends in the middle of it."""
    recipe = tiny_recipe(stores, epochs=10)
    train(recipe, tmp_path / "whole")
    update = training._Trainer._update

    def trained_until(number):
        made = itertools.count(1)

        def deadly(self, *args):
            if next(made) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(self, *args)

        monkeypatch.setattr(training._Trainer, "_update", deadly)
        train(recipe, tmp_path / str(number))

    for number in numbers:
        assert fork(lambda number=number: trained_until(number)).wait() == -signal.SIGKILL
        assert not (tmp_path / str(number) / "result.json").exists()
        train(recipe, tmp_path / str(number))
        same_run(tmp_path / "whole", tmp_path / str(number))


@pytest.mark.soak
def test_a_run_killed_at_any_file_operation_resumes_to_the_same_bits(stores, tmp_path, monkeypatch):
    recipe = tiny_recipe(stores, epochs=2, warmup_epochs=0)
    train(recipe, tmp_path / "whole")
    for at in itertools.count(1):
        calls = FailingCalls(at, "kill")
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(fsops, "calls", calls)
            train(recipe, tmp_path / "run")
        if not calls.failed:
            break
        train(recipe, tmp_path / "run")
        same_run(tmp_path / "whole", tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
    assert at > 60  # two epochs: inputs, a checkpoint, weights, scores, result


def test_checkpoints_that_a_kill_right_after_the_result_has_left_are_removed(stores, tmp_path):
    recipe, run = tiny_recipe(stores, epochs=1), tmp_path / "run"
    result = train(recipe, run)
    (run / "checkpoints" / "step-00000003").mkdir(parents=True)
    with owner.held(run):  # somebody is at it
        assert train(recipe, run) == result
        assert (run / "checkpoints").exists()
    assert train(recipe, run) == result
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(stores, tmp_path, first, then):
    """Stopped in the middle of an epoch: the rows that follow are those that would have, and the losses are
    those of an unbroken run in one process.
    """
    recipe = tiny_recipe(stores, batch_size=7, optimizer="sgd")
    train(recipe, tmp_path / "whole")

    def stopped():
        calls = itertools.count()
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "run", should_stop=lambda: next(calls) >= 5)

    for deed, count in ((stopped, first), (lambda: train(recipe, tmp_path / "run"), then)):
        codes = wait_for_group(start_group(deed, tmp_path, count))
        assert codes == [0] * count, "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
    whole, run = weights(tmp_path / "whole"), weights(tmp_path / "run")
    for name, value in whole.items():
        torch.testing.assert_close(run[name], value, rtol=1e-5, atol=1e-6)
    losses = [[line["loss"] for line in read_curves(tmp_path / name)] for name in ("whole", "run")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_seconds_count_the_part_of_an_epoch_that_an_interrupt_ended(stores, tmp_path, monkeypatch):
    """On a clock that is ten seconds on whenever it is looked at."""
    clock, calls = itertools.count(0, 10), iter(range(1000))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    recipe = tiny_recipe(stores, text=False, epochs=2)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", should_stop=lambda: next(calls) >= 4)
    assert train(recipe, tmp_path / "run").trained.train_seconds == 30  # an epoch, a part, the rest
    assert [line["seconds"] for line in read_curves(tmp_path / "run")] == [10, 30]


HARMLESS = {  # keys that change no weight -> another value
    "title": "another name",
    "published": {"verb": 70.9},
    "rank_by": "verb",
    "data.allow_missing": 3,
    "data.resident": "ram",
    "data.verify": "read",
    "train.eval_every": 3,
    "train.checkpoint_every": 2,
    "train.score_dtype": "float16",
}


@pytest.mark.parametrize("key", HARMLESS)
def test_a_run_resumes_with_another_value_of_a_key_that_changes_no_weight(stores, tmp_path, key):
    train(tiny_recipe(stores), tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores), tmp_path / "run", should_stop=lambda: next(calls) >= 5)
    raw = tiny_recipe(stores).model_dump(mode="json", exclude_none=True)
    set_key(raw, key, HARMLESS[key])
    result = train(validate(raw, Recipe, "r.toml"), tmp_path / "run")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert result.recipe == read_recipe(tmp_path / "run").model_dump(mode="json", exclude_none=True) == raw


@pytest.mark.parametrize("head", ["mambavl", "transformer"])
def test_two_processes_train_what_one_trains_with_dropout(stores, tmp_path, head):
    """Batches of 7, so that one process has a row more and the texts of one are longer: a mask belongs to
    its row, whoever has it.
    """
    keys = {"head": head, "batch_size": 7, "epochs": 2, "optimizer": "sgd"}
    raw = tiny_recipe(stores, **keys).model_dump(mode="json", exclude_none=True)
    raw["head"] |= {"question_routing": "both", "dropout": 0.3}
    if head == "transformer":
        raw["transformer"]["block_dropout"] = 0.3
    recipe = validate(raw, Recipe, "r.toml")
    train(recipe, tmp_path / "one")
    codes = wait_for_group(start_group(lambda: train(recipe, tmp_path / "two"), tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "curves.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


OPTIONS = {  # of training, other than they are by default
    "accumulate": 4,
    "ema": 0.8,
    "mixup": 0.5,
    "feature_dropout": {"video": 0.3, "verb_question": 0.2},
}


@pytest.mark.parametrize("stop_after", [4, 7, 9])
def test_a_run_with_every_option_resumes_to_the_same_bits(stores, tmp_path, stop_after):
    train(tiny_recipe(stores, **OPTIONS), tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores, **OPTIONS), tmp_path / "run", should_stop=lambda: next(calls) >= stop_after)
    train(tiny_recipe(stores, **OPTIONS), tmp_path / "run")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_curves_are_of_the_averaged_weights(stores, tmp_path):
    """Steps so large that the weights of one update say nothing about those of the next."""
    lines, steep = [], {"lr": 1.0, "lr_end": 1.0, "lr_start": 1.0, "warmup_epochs": 0}
    result = train(tiny_recipe(stores, ema=0.99, **steep), tmp_path / "run", on_epoch=lines.append)
    measures = [lines[-1][f"{name}_top1"] for name in ("verb", "noun", "action")]
    assert measures == [result.metrics[f"all_{name}_top1"] for name in ("verb", "noun", "action")]


def test_a_result_is_of_the_averaged_weights_that_are_saved(stores, tmp_path):
    """Scored once more from the file."""
    steep = {"lr": 1.0, "lr_end": 1.0, "lr_start": 1.0, "warmup_epochs": 0}
    train(tiny_recipe(stores, ema=0.99, **steep), tmp_path / "run")
    before = read_scores(tmp_path / "run", "validation")
    evaluate_run(tmp_path / "run")
    again = read_scores(tmp_path / "run", "validation")
    for target in ("verb", "noun"):
        np.testing.assert_allclose(again[target], before[target], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_with_every_option_what_one_does(stores, tmp_path, count):
    """Batches of 7, so that one process has more rows than another, and more parts."""
    recipe = tiny_recipe(stores, batch_size=7, epochs=2, optimizer="sgd", **OPTIONS)
    train(recipe, tmp_path / "one")
    codes = wait_for_group(start_group(lambda: train(recipe, tmp_path / "many"), tmp_path, count))
    assert codes == [0] * count, "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, rtol=1e-5, atol=1e-6)


def test_an_update_waits_for_the_device_once(stores, tmp_path, monkeypatch):
    """For loss and norm together: a device whose numbers are read has to finish all it was asked for."""
    update, reads, updates = training._Trainer._update, [], []

    def watched(self, *args):
        updates.append(1)
        with monkeypatch.context() as patch:
            for name in ("tolist", "__float__", "__bool__"):
                read = getattr(torch.Tensor, name)
                patch.setattr(torch.Tensor, name, lambda *a, read=read: reads.append(1) or read(*a))
            return update(self, *args)

    monkeypatch.setattr(training._Trainer, "_update", watched)
    train(tiny_recipe(stores, text=False, epochs=1), tmp_path / "run")
    assert len(reads) == len(updates) == 3


def test_a_run_goes_on_with_its_batches_in_other_parts(stores, tmp_path):
    train(tiny_recipe(stores), tmp_path / "whole")
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tiny_recipe(stores), tmp_path / "run", should_stop=lambda: next(calls) >= 5)
    train(tiny_recipe(stores, accumulate=3), tmp_path / "run")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-5)


def test_a_finished_run_is_returned_and_another_recipe_refused(stores, tmp_path):
    first = train(tiny_recipe(stores), tmp_path / "run")
    assert train(tiny_recipe(stores), tmp_path / "run") == first
    with pytest.raises(UsageError, match=r"train\.seed: 0 -> 3"):
        train(tiny_recipe(stores, seed=3), tmp_path / "run")


def test_a_run_finished_meanwhile_is_not_trained_again(stores, tmp_path, monkeypatch):
    """Another process had the folder between the first look at it and the lock."""
    recipe, run, started = tiny_recipe(stores, epochs=1), tmp_path / "run", []

    def finish_first(run, max_deaths):
        monkeypatch.undo()
        train(recipe, run)
        return owner.owned(run, max_deaths)

    monkeypatch.setattr(owner, "owned", finish_first)
    assert train(recipe, run, on_start=lambda: started.append(1)).epochs == 1
    assert not started
    assert train(recipe, tmp_path / "another", on_start=lambda: started.append(1)).epochs == 1
    assert started == [1]


def test_a_curve_has_the_mean_loss_of_an_epochs_batches_and_the_rate_of_its_last_update(stores, tmp_path):
    """At a rate of next to nothing the weights stay as they were drawn, so every loss is known."""
    rates = {"lr": 1e-12, "lr_ssm": 1e-12, "lr_start": 1e-13, "lr_end": 1e-14}
    recipe = tiny_recipe(stores, batch_size=7, warmup_epochs=1.5, label_smoothing=0.2, **rates)
    raw = recipe.model_dump(mode="json", exclude_none=True)
    set_key(raw, "head.dropout", 0.0)
    recipe = validate(raw, Recipe, "r.toml")
    train(recipe, tmp_path / "run")
    data = FeatureData(recipe.sources, recipe.data)
    head = build_head(recipe, data, run_targets(recipe, data)).requires_grad_(False)
    keys = plain.resolved({f"train.{key}": value for key, value in recipe.train.model_dump().items()})
    for epoch, line in enumerate(read_curves(tmp_path / "run")):
        order = np.random.default_rng([0, epoch]).permutation(data.train)
        batches = [order[first : first + 7] for first in range(0, len(order), 7)]
        losses = []
        for rows in batches:
            logits = head(data.batch(rows))
            labels = {name: torch.from_numpy(data.labels[name][rows]) for name in logits}
            by_target = [F.cross_entropy(logits[name], labels[name], label_smoothing=0.2) for name in logits]
            losses.append(sum(by_target))
        assert len(losses) == 4
        assert line["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
        assert line["lr"] == pytest.approx(plain.rate((4 * epoch + 3) / 4, keys), rel=1e-12, abs=0)


def test_a_run_without_text_is_called_none(stores, tmp_path):
    assert train(tiny_recipe(stores, text=False), tmp_path / "run").text_protocol == "absent"


def test_a_loss_that_is_not_finite_ends_the_run_with_its_rows(stores, tmp_path):
    with pytest.raises(DataError, match=r"diverged: loss (nan|inf).* in epoch \d+, batch \d+ \(rows P01_"):
        train(tiny_recipe(stores, lr=1e30, lr_ssm=1e30, clip_norm=0, warmup_epochs=0), tmp_path / "run")


def test_a_gradient_alone_that_is_not_finite_ends_the_run(stores, tmp_path, monkeypatch):
    """Clipping would divide all the others by its norm, and leave NaN or nothing."""

    def built(*arguments):
        head = build_head(*arguments)
        head.verb_head.weight.register_hook(lambda gradient: gradient * torch.inf)
        return head

    monkeypatch.setattr(training, "build_head", built)
    with pytest.raises(DataError, match=r"diverged: loss \d.*, gradient norm (inf|nan) in epoch 1, batch 1 "):
        train(tiny_recipe(stores), tmp_path / "run")


@pytest.mark.parametrize("every", [2, 4, 100])
def test_losses_that_are_read_later_are_the_same(stores, tmp_path, monkeypatch, every):
    """As on a GPU, of which nothing can be read without waiting for it. Six updates an epoch."""
    recipe = tiny_recipe(stores, batch_size=4, ema=0.8)
    train(recipe, tmp_path / "whole")
    monkeypatch.setitem(training.READ_EVERY, "cpu", every)
    calls, steps = iter(range(1000)), []
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", should_stop=lambda: next(calls) >= 9)
    train(recipe, tmp_path / "run", on_step=lambda done, total: steps.append((done, total)))
    whole, run = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], run[name]) for name in whole)
    losses = [[line["loss"] for line in read_curves(tmp_path / name)] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    assert steps == [(done, 24) for done in range(10, 25)]


def test_a_loss_that_is_read_later_names_its_own_batch(stores, tmp_path, monkeypatch):
    """The gradient of the fourth update of eight is infinite; it spoils all after it."""
    said = {}
    for every in (1, 3, 5, 100):
        monkeypatch.setitem(training.READ_EVERY, "cpu", every)
        calls = iter(range(1000))

        def built(*arguments, calls=calls):
            head = build_head(*arguments)
            head.verb_head.weight.register_hook(lambda g: g * torch.inf if next(calls) == 3 else g)
            return head

        monkeypatch.setattr(training, "build_head", built)
        with pytest.raises(DataError, match=r"gradient norm (inf|nan) in epoch 1, batch 4 ") as error:
            train(tiny_recipe(stores, batch_size=3), tmp_path / "run")
        said[every] = str(error.value)
        assert not (tmp_path / "run" / "curves.jsonl").exists()
    assert len(set(said.values())) == 1


def test_weights_that_explode_in_the_last_update_are_a_clear_error_too(stores, tmp_path):
    with pytest.raises(DataError, match="diverged"):
        train(
            tiny_recipe(stores, lr=1e30, lr_ssm=1e30, warmup_epochs=0, batch_size=100, epochs=1),
            tmp_path / "run",
        )


def test_a_run_does_not_go_on_with_other_features(stores, tmp_path):
    """The store of an interrupted run was replaced in place: its second half must not be trained on something
    else.
    """
    shutil.copytree(stores / "video.zarr", tmp_path / "video.zarr")
    recipe = tiny_recipe(stores, text=False)
    source = recipe.streams["video"].model_copy(update={"store": tmp_path / "video.zarr"})
    recipe = recipe.model_copy(update={"streams": {"video": source}})
    calls = iter(range(1000))
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", should_stop=lambda: next(calls) >= 5)
    shutil.rmtree(tmp_path / "video.zarr")
    make_dense_store(tmp_path / "video.zarr", 48, group_rows=16)
    with pytest.raises(UsageError, match=r"begun with other stores.*\n  video\.store_ids"):
        train(recipe, tmp_path / "run")


def test_a_run_may_use_some_of_its_streams(stores, tmp_path):
    recipe = tiny_recipe(stores).model_copy(update={"use_streams": ["verb_question", "noun_question"]})
    result = train(recipe, tmp_path / "run")
    assert set(result.streams) == {"verb_question", "noun_question"}
    with pytest.raises(UsageError, match="did you mean `video`"):
        validate(
            {**recipe.model_dump(mode="json", exclude_none=True), "use_streams": ["vidoe"]}, Recipe, "r.toml"
        )
