"""Searches: as many trials as asked for, each trained and told once, whatever ends the processes."""

import os
import signal
from types import SimpleNamespace

import pytest

from helpers.forks import fork
from helpers.group import start_group, wait_for_group
from helpers.sweeps import count_updates, held_by_another, states, wait_for
from helpers.tiny import tiny_recipe
from mambavl.cache import fsops
from mambavl.configs.errors import DataError, Pruned, UsageError
from mambavl.fuse import train as training
from mambavl.fuse.member import Member
from mambavl.fuse.owner import held, note_failure, why_unfinished
from mambavl.fuse.run import RESULT, read_curves, write_pruning
from mambavl.fuse.search import LOCK, Search
from mambavl.fuse.study import Study
from mambavl.fuse.summary import read_summary, runs_without_folder
from mambavl.fuse.sweep import search_and_choose
from mambavl.fuse.train import train

RATES = {"low": 1e-3, "high": 1e-1, "log": True}


def search(stores, out, trials=3, *, keys=None, prune=False, seed=0, **train_keys):
    recipe = tiny_recipe(stores, title="", **{"epochs": 1, **train_keys})
    data = recipe.model_dump(mode="json", exclude_none=True)
    del data["title"]
    section = {"trials": trials, "seed": seed, "prune": prune, **(keys or {"train": {"lr": RATES}})}
    data["data"] = {**data.get("data", {}), "hold_out_by": "video"}
    out.mkdir(exist_ok=True)
    return Search({**data, "select_on": "0/2", "search": section}, out, "tiny.toml")


def ended(point, score=None, state="done", error=""):
    """What a sweep makes of a point: it has a score, or another end."""
    if score is not None:
        point.result = SimpleNamespace(metrics={"m": score}, measure_of=lambda _: "m")
    point.state, point.error = state, error
    return point


def trials(asked):
    return [(trial.state.name, trial.value) for trial in Study(asked.out, asked.settings).trials()]


def test_trials_are_points_compared_on_rows_held_out_and_the_best_is_trained_on_all(
    stores, tmp_path, monkeypatch
):
    counted = count_updates(monkeypatch, tmp_path / "log")
    out = tmp_path / "s"
    points, chosen = search_and_choose(search(stores, out, 4), out)
    assert set(states(points).values()) == {"done"}
    assert len(points) == 4
    assert {point.result.split for point in points} == {"train_0_of_2"}
    best = max(points, key=lambda point: point.result.metrics["all_action_top1"])
    assert (chosen.selection.among, chosen.selection.failed, chosen.selection.pruned) == (4, 0, 0)
    assert [run.run.name for run in chosen.runs] == [f"chosen,{best.name}"]
    assert chosen.runs[0].result.split == "validation"
    assert [line["values"] for line in read_summary(out / "summary.json").points] == [
        p.values for p in points
    ]

    before = counted()
    again, chosen_again = search_and_choose(search(stores, out, 4), out)
    assert counted() == before
    assert set(states(again).values()) == {"skipped"}
    assert chosen_again.selection == chosen.selection
    more, _ = search_and_choose(search(stores, out, 6), out)
    assert sorted(states(more).values()) == ["done"] * 2 + ["skipped"] * 4
    assert all(name in states(more) for name in states(points))


def test_a_trial_is_told_once_and_what_no_end_has_come_of_comes_first(stores, tmp_path):
    asked = search(stores, tmp_path, 3)
    first = asked.take()
    second = search(stores, tmp_path, 3).take()  # another process, or the same one killed and started again
    assert second.name == first.name
    asked.tell(ended(first, 40.0))
    other = search(stores, tmp_path, 3)
    other.begin()
    other.tell(ended(other._points[0], 99.0))  # whoever comes later does not change it
    third = other.take()
    assert third.name != first.name
    other.tell(ended(third, state="elsewhere"))
    fourth = other.take()
    assert (third.trial, fourth.trial) == (1, 2)
    other.tell(ended(fourth, state="failed", error="diverged"))
    assert other.take() is None
    assert other.left == 1
    assert other.take() is third
    other.tell(ended(third, 50.0))
    assert other.take() is None
    assert trials(other) == [("COMPLETE", 40.0), ("COMPLETE", 50.0), ("FAIL", None)]


def test_trials_of_others_are_waited_for_and_taken_over(stores, tmp_path):
    asked = search(stores, tmp_path, 2)
    first = asked.take()
    asked.tell(ended(first, state="elsewhere"))
    second = asked.take()
    assert second.trial == 1
    asked.tell(ended(second, 30.0))
    assert asked.take() is None
    assert asked.left == 1
    assert asked.take().trial == 0  # looked at again
    asked.tell(ended(first, state="failed", error="no room"))
    assert asked.take() is None
    assert asked.left == 0
    found = search(stores, tmp_path, 2).begin()
    assert (found[0].state, found[0].error) == ("failed", "no room")


def test_a_failure_or_a_pruning_that_was_not_told_is_and_one_of_another_sweep_is_not(stores, tmp_path):
    for number, leave in enumerate(
        (
            lambda run: note_failure(run, DataError("diverged")),
            lambda run: write_pruning(run, 1, "after epoch 1"),
        )
    ):
        out = tmp_path / str(number)
        point = search(stores, out).take()
        with held(point.run):
            leave(point.run)
        again = search(stores, out)
        point = again.take()
        with pytest.raises((DataError, Pruned), match=r"diverged|after epoch 1"):
            again.refuse_ended(point)
    name = search(stores, tmp_path / "probe").take().run.name
    run = tmp_path / "used" / name
    with held(run):
        note_failure(run, DataError("of a grid"))
    asked = search(stores, tmp_path / "used")
    asked.refuse_ended(asked.take())


def test_the_journal_is_not_looked_at_while_a_trial_is_asked_for(stores, tmp_path, monkeypatch):
    asked, ask, found = search(stores, tmp_path), Study.ask, []

    def looked_on(study):
        found.append(fsops.lock(tmp_path / LOCK, exclusive=False, wait=False))
        return ask(study)

    monkeypatch.setattr(Study, "ask", looked_on)
    asked.take()
    assert found == [None]


def test_a_point_of_which_nothing_could_be_measured_is_a_failed_trial(stores, tmp_path):
    asked = search(stores, tmp_path, 1)
    point = asked.take()
    point.result, point.state = SimpleNamespace(metrics={}, measure_of=lambda _: "m"), "done"
    asked.tell(point)
    assert trials(asked) == [("FAIL", None)]
    [found] = search(stores, tmp_path, 1).begin()
    assert (found.state, found.error) == ("failed", "nothing could be measured on the rows held out")


def test_a_proposal_that_equals_one_before_is_not_trained_again(stores, tmp_path, monkeypatch):
    counted = count_updates(monkeypatch, tmp_path / "log")
    out = tmp_path / "s"
    asked = search(stores, out, 9, keys={"head": {"dropout": [0.0, 0.2]}})
    points, chosen = search_and_choose(asked, out)
    assert len(points) == 2
    assert chosen.selection.among == 2
    assert len(chosen.runs) == 1
    scores = {point.name: point.result.metrics["all_action_top1"] for point in points}
    told = Study(out, asked.settings)
    assert len(told.trials()) == 9
    for number, trial in enumerate(told.trials()):
        assert trial.value == scores[f"head.dropout={told.values(number)['head.dropout']}"]
    assert len({counted()[point.name] for point in points}) == 1


def test_a_key_that_cannot_act_at_a_point_is_left_out_of_it(stores, tmp_path):
    asked = search(
        stores, tmp_path, 12, keys={"head.name": ["mambavl", "mlp"], "fusion.share": ["A", "none"]}
    )
    names = set()
    while (point := asked.take()) is not None:
        names.add(point.name)
        asked.tell(ended(point, 1.0))
    assert names <= {
        "head.name=mambavl,fusion.share=A",
        "head.name=mambavl,fusion.share=none",
        "head.name=mlp",
    }
    assert "head.name=mlp" in names
    with pytest.raises(UsageError, match=r"tiny\.toml \[search\]: fusion\.share"):
        search(stores, tmp_path, keys={"head.name": ["mlp"], "fusion.share": ["A", "none"]})
    with pytest.raises(UsageError, match="did you mean `lr`"):
        search(stores, tmp_path, keys={"train.lrr": RATES})


def test_what_no_trial_may_be_is_refused_before_the_first(stores, tmp_path):
    out = tmp_path / "s"
    with pytest.raises(UsageError, match="d_model is 16"):
        search_and_choose(search(stores, out, keys={"head.video_mlp_layers": [1, 0]}), out)
    assert not any(out.iterdir())
    search_and_choose(search(stores, out), out)
    with pytest.raises(UsageError, match=r"train\.epochs: 1 -> 2"):
        search_and_choose(search(stores, out, 9, epochs=2), out)
    with pytest.raises(UsageError, match=r"seed: 0 -> 1"):
        search_and_choose(search(stores, out, 9, seed=1), out)


def test_a_point_that_diverges_is_told_and_the_search_goes_on(stores, tmp_path):
    out = tmp_path / "s"
    asked = search(stores, out, 4, keys={"train.lr": [1e30, 1e-2]}, clip_norm=0, warmup_epochs=0)
    points, chosen = search_and_choose(asked, out)
    assert states(points) == {"train.lr=1e+30": "failed", "train.lr=0.01": "done"}
    assert "diverged" in next(point.error for point in points if point.state == "failed")
    assert {state for state, _ in trials(asked)} == {"FAIL", "COMPLETE"}
    assert (chosen.selection.among, chosen.selection.failed) == (1, 1)
    again, _ = search_and_choose(
        search(stores, out, 4, keys={"train.lr": [1e30, 1e-2]}, clip_norm=0, warmup_epochs=0), out
    )
    assert states(again) == {"train.lr=1e+30": "failed", "train.lr=0.01": "skipped"}


def scripted(monkeypatch, value):
    """Curves of points are what `value(recipe, epoch)` says."""
    line = Member.line

    def scripted_line(self, *args):
        return {**line(self, *args), "action_top1": value(self.recipe, self.epoch + 1)}

    monkeypatch.setattr(Member, "line", scripted_line)


def test_what_is_below_the_median_ends_as_a_result_and_is_no_candidate(stores, tmp_path, monkeypatch):
    """Trials 0 to 4 score 10, 20, ... 50 after each epoch; 5 is at their median, 6 below it."""
    out = tmp_path / "s"
    order = {}

    def value(recipe, epoch):
        number = order.setdefault(recipe.train.lr, len(order))
        late = 50.0 if epoch == 3 else 0.0  # after the last epoch nothing is left to save
        return 10.0 * (number + 1) + late if number < 5 else 30.0 if number == 5 else 29.9

    scripted(monkeypatch, value)
    asked = search(stores, out, 7, prune=True, epochs=3, checkpoint_every=3)
    points, chosen = search_and_choose(asked, out)
    by_trial = {point.trial: point for point in points}
    assert [by_trial[number].state for number in range(7)] == ["done"] * 6 + ["pruned"]
    pruned = by_trial[6]
    assert pruned.error == "after epoch 1 of 3: below the median of earlier trials there"
    assert [state for state, _ in trials(asked)] == ["COMPLETE"] * 6 + ["PRUNED"]
    assert (chosen.selection.among, chosen.selection.pruned) == (6, 1)
    assert chosen.selection.in_words.endswith("; 1 more were pruned by the same rows")
    assert chosen.runs[0].result.selection.pruned == 1

    line = read_summary(out / "summary.json").points[-1]
    assert (line["state"], line["epoch"], line["error"]) == ("pruned", 1, pruned.error)
    assert runs_without_folder(out / "summary.json") == {}
    assert why_unfinished(pruned.run) == f"was pruned {pruned.error}"
    assert not (pruned.run / "failure.json").exists()
    assert not (pruned.run / "begun.json").exists()
    again, _ = search_and_choose(search(stores, out, 7, prune=True, epochs=3, checkpoint_every=3), out)
    assert {point.trial: point.state for point in again}[6] == "pruned"

    counted = count_updates(monkeypatch, tmp_path / "log")
    result = train(pruned.recipe, pruned.run)  # it can be taken up again, from where it was
    assert result.metrics
    per_epoch = -(-result.trained.train_rows // 8)
    assert counted() == {pruned.run.name: 2 * per_epoch}
    assert why_unfinished(pruned.run) is None
    assert not (pruned.run / "pruned.json").exists()


def test_of_points_that_keep_their_scores_alone_those_given_up_leave_no_checkpoint(
    stores, tmp_path, monkeypatch
):
    """They can be trained again, from the start, by whoever wants to know."""
    order = {}
    scripted(monkeypatch, lambda recipe, epoch: 9.0 - order.setdefault(recipe.train.lr, len(order)))
    out = tmp_path / "s"
    points, chosen = search_and_choose(search(stores, out, 6, prune=True, epochs=2, keep="scores"), out)
    [pruned] = [point for point in points if point.state == "pruned"]
    assert not list(out.glob("*/checkpoints"))
    assert [path.parent for path in out.glob("*/model.safetensors")] == [chosen.runs[0].run]
    assert len(read_curves(pruned.run)) == 1
    counted = count_updates(monkeypatch, tmp_path / "log")
    result = train(pruned.recipe, pruned.run)
    per_epoch = -(-result.trained.train_rows // 8)
    assert counted() == {pruned.run.name: 2 * per_epoch}
    assert [line["epoch"] for line in read_curves(pruned.run)] == [1, 2]


def test_nothing_is_pruned_unless_asked_for(stores, tmp_path, monkeypatch):
    scores = iter([50.0] * 10 + [1.0] * 10)
    scripted(monkeypatch, lambda recipe, epoch: next(scores))
    points, _ = search_and_choose(search(stores, tmp_path, 6, epochs=2), tmp_path)
    assert set(states(points).values()) == {"done"}


def test_a_pruning_whose_process_died_before_it_was_told_is_told_and_not_trained_on(stores, tmp_path):
    point = search(stores, tmp_path, 2).take()
    with held(point.run):
        write_pruning(point.run, 1, "after epoch 1 of 4")
    points, chosen = search_and_choose(search(stores, tmp_path, 2), tmp_path)
    assert [(one.state, one.error) for one in points if one.trial == 0] == [("pruned", "after epoch 1 of 4")]
    assert (chosen.selection.among, chosen.selection.pruned) == (1, 1)


@pytest.mark.parametrize("at", [2, 7])
def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(stores, tmp_path, monkeypatch, at):
    whole, _ = search_and_choose(search(stores, tmp_path / "whole", 3, epochs=2), tmp_path / "whole")
    out = tmp_path / "s"
    with monkeypatch.context() as patched:
        update, count = training._Trainer._update, []

        def deadly(self, *args):
            count.append(None)
            if len(count) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(self, *args)

        patched.setattr(training._Trainer, "_update", deadly)
        child = fork(lambda: search_and_choose(search(stores, out, 3, epochs=2), out))
        assert child.wait() == -signal.SIGKILL
    points, _ = search_and_choose(search(stores, out, 3, epochs=2), out)
    score = lambda point: point.result.metrics["all_action_top1"]
    assert {p.name: score(p) for p in points} == {p.name: score(p) for p in whole}
    assert len(trials(search(stores, out, 3, epochs=2))) == 3


@pytest.mark.parametrize("deed", ["end", "report"])
def test_a_kill_between_an_end_and_its_telling_loses_nothing(stores, tmp_path, monkeypatch, deed):
    """The result is there and not told; or an epoch is, and not reported."""
    out = tmp_path / "s"
    with monkeypatch.context() as patched:
        patched.setattr(Study, deed, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        child = fork(lambda: search_and_choose(search(stores, out, 2, epochs=2), out))
        assert child.wait() == -signal.SIGKILL
    points, _ = search_and_choose(search(stores, out, 2, epochs=2), out)
    assert set(states(points).values()) <= {"done", "skipped"}
    found = Study(out, search(stores, out, 2, epochs=2).settings).trials()
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 2
    for trial, point in zip(found, sorted(points, key=lambda point: point.trial), strict=True):
        assert trial.value == point.result.metrics["all_action_top1"]
        if deed == "report" or trial.number == 1:
            curve = {line["epoch"]: line["action_top1"] for line in read_curves(point.run)}
            assert trial.intermediate_values == curve


def test_two_searches_at_once_share_the_trials(stores, tmp_path, monkeypatch):
    out = tmp_path / "both"
    counted = count_updates(monkeypatch, tmp_path / "log")

    def one(name):
        def on_change(points):
            if any(point.state == "running" for point in points):
                (tmp_path / name).touch()
                wait_for(tmp_path / ("b" if name == "a" else "a"))

        points, chosen = search_and_choose(search(stores, out, 5), out, on_change=on_change)
        assert len(points) == 5
        assert set(states(points).values()) <= {"done", "skipped"}
        assert chosen.selection.among == 5

    children = [fork(lambda name=name: one(name)) for name in "ab"]
    assert [child.wait() for child in children] == [0, 0]
    assert [state for state, _ in trials(search(stores, out, 5))] == ["COMPLETE"] * 5
    assert len(list(out.glob(f"train.lr*/{RESULT}"))) == 5
    assert len({count for run, count in counted().items() if not run.startswith("chosen")}) == 1


def test_a_trial_that_another_process_trains_is_waited_for(stores, tmp_path):
    out = tmp_path / "s"
    first = search(stores, out, 2).take()
    child = held_by_another(first.run, tmp_path / "release", lambda: None)
    seen = []

    def on_change(points):
        seen.append(states(points))
        if seen[-1].get(first.name) == "elsewhere" and len(seen[-1]) == 2:
            (tmp_path / "release").touch()

    points, _ = search_and_choose(search(stores, out, 2), out, on_change=on_change)
    assert child.wait() == 0
    assert set(states(points).values()) == {"done"}
    assert len(points) == 2


def test_two_processes_of_a_launcher_search_what_one_would(stores, tmp_path):
    one, _ = search_and_choose(search(stores, tmp_path / "one", 3), tmp_path / "one")

    def job():
        points, chosen = search_and_choose(search(stores, tmp_path / "two", 3), tmp_path / "two")
        assert {point.name for point in points} == {point.name for point in one}
        assert chosen.selection.among == 3

    assert wait_for_group(start_group(job, tmp_path)) == [0, 0], (tmp_path / "rank-0.log").read_text()
