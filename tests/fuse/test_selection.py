"""A sweep chooses on rows that it reports nothing on: which they are, what is compared, and what is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.forks import fork
from helpers.group import start_group, wait_for_group
from helpers.sweeps import count_updates, grid_of, held_by_another, states, wait_for
from helpers.tiny import ROWS, make_dense_store, make_segments, tiny_recipe, weights
from mambavl.configs import validate
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse import evaluate, report
from mambavl.fuse import train as training
from mambavl.fuse.recipe import Recipe
from mambavl.fuse.result import Selection
from mambavl.fuse.run import RESULT, SELECTION, read_curves, read_recipe, read_result, read_scores
from mambavl.fuse.selection import candidates, choose
from mambavl.fuse.summary import read_summary
from mambavl.fuse.sweep import sweep, sweep_and_choose
from mambavl.fuse.train import train

SPLITS = ("validation", "train", "train", "train")
ON = {"select_on": "1/2"}  # the second cook's rows: 12 of 36
LR = {"train": {"lr": [1e-4, 1e-2]}}


@pytest.fixture(scope="module")
def cooks(tmp_path_factory):
    """Train rows of two participants, P01 and P02, and validation rows."""
    folder = tmp_path_factory.mktemp("cooks")
    make_dense_store(folder / "video.zarr", ROWS, splits=SPLITS)
    return folder


@pytest.fixture(scope="module")
def result(cooks, tmp_path_factory):
    """Any result, of which the tests below make others."""
    return train(tiny_recipe(cooks, text=False, epochs=1), tmp_path_factory.mktemp("run") / "run")


def scoring(result, *scores):
    """Results with these scores; None: a point without one."""
    return [
        None if score is None else replace(result, metrics={"all_action_top1": score}) for score in scores
    ]


def rows_of(split, participant):
    segments = make_segments(ROWS, SPLITS)
    return [n for n, s in enumerate(segments) if (s.split, s.participant_id) == (split, participant)]


# --- the choice


def test_seeds_are_one_candidate_and_their_mean_is_compared(result):
    values = [{"train.lr": lr, "train.seed": seed} for lr in (1, 2) for seed in (0, 1)]
    assert candidates(values) == [[0, 1], [2, 3]]
    choice = choose(values, scoring(result, 10.0, 90.0, 52.0, 50.0))
    assert choice.points == (2, 3)
    assert choice.selection == Selection(among=2, failed=0, on="validation", by="all_action_top1", score=51.0)


def test_of_equals_the_first_of_the_grid_is_chosen(result):
    values = [{"train.lr": lr, "train.seed": seed} for lr in (1, 2) for seed in (0, 1, 2)]
    up, down = (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)  # added in turn, their sums differ in the last digit
    assert choose(values, scoring(result, *up, *down)).points == (0, 1, 2)
    assert choose(values, scoring(result, *down, *up)).points == (0, 1, 2)


def test_a_candidate_of_which_a_seed_failed_is_not_compared_and_counted(result):
    values = [{"train.lr": lr, "train.seed": seed} for lr in (1, 2, 3) for seed in (0, 1)]
    choice = choose(values, scoring(result, 10.0, 20.0, 99.0, None, 11.0, 21.0))
    assert choice.points == (4, 5)
    assert (choice.selection.among, choice.selection.failed) == (2, 1)
    assert choice.selection.in_words == (
        "chosen among 2 on validation, by action top-1 (16.0 there); 1 more could not be compared"
    )
    assert choose(values[:2], scoring(result, None, 3.0)) is None


def test_points_that_were_measured_on_other_rows_are_not_compared(result):
    one, other = scoring(result, 1.0, 2.0)
    fewer = replace(other, rows=replace(other.rows, scored=11))
    with pytest.raises(DataError, match=r"cannot be compared.*on 11 rows of validation; .* on 12 rows"):
        choose([{"a": 1}, {"a": 2}], [one, fewer])


# --- what is refused


@pytest.mark.parametrize("part", ["5/5", "1", 3, None])
def test_a_part_that_is_none_is_refused_by_its_key(cooks, tmp_path, part):
    with pytest.raises(UsageError, match=r"^tiny\.toml: select_on = .*: expected i/n"):
        grid_of(cooks, tmp_path, LR, top={"select_on": part})


def test_rows_are_held_out_by_one_key_alone(cooks, tmp_path):
    for top, grid, said in (
        ({"data": {"hold_out": "0/2"}}, {}, "both hold rows out of training"),
        ({}, {"data": {"eval_split": ["validation", "test"]}}, r"leave data\.eval_split out of \[grid\]"),
        ({}, {"data": {"hold_out_by": ["video", "participant"]}}, r"leave data\.hold_out_by out"),
    ):
        with pytest.raises(UsageError, match=said):
            grid_of(cooks, tmp_path, {**LR, **grid}, top={**ON, **top})


def test_there_is_nothing_to_select_among_without_a_grid(cooks):
    data = tiny_recipe(cooks, text=False).model_dump(mode="json", exclude_none=True)
    with pytest.raises(UsageError, match=r"select_on chooses among the points of a \[grid\]"):
        validate({**data, **ON}, Recipe, "tiny.toml")
    with pytest.raises(UsageError, match="expected i/n"):
        validate({**data, "select_on": "2/2", "grid": LR}, Recipe, "tiny.toml")
    validate({**data, **ON, "grid": LR}, Recipe, "tiny.toml")


def test_a_split_that_is_not_there_is_refused_before_anything_is_trained(cooks, tmp_path, monkeypatch):
    updates = count_updates(monkeypatch, tmp_path / "log")
    points = grid_of(cooks, tmp_path / "out", LR, top={**ON, "data": {"eval_split": "valid"}}, epochs=1)
    with pytest.raises(UsageError, match="no row of the stores belongs to split 'valid'"):
        sweep_and_choose(points, tmp_path / "out")
    assert not updates()


# --- which rows do what


def test_no_row_that_is_reported_on_has_a_part_in_the_choice(cooks, tmp_path, monkeypatch):
    """Other labels of the validation rows, and features that no head can score: the choice is the same."""
    points, chosen = sweep_and_choose(grid_of(cooks, tmp_path / "a", LR, top=ON, epochs=2), tmp_path / "a")
    assert {point.result.split for point in points} == {"train_1_of_2"}
    assert {point.result.rows.scored for point in points} == {12}

    def relabelled(count, splits=SPLITS):
        segments = make_segments(count, splits)
        return tuple(
            replace(s, labels={"verb": 0, "noun": 0}) if s.split == "validation" else s for s in segments
        )

    monkeypatch.setattr(tiny, "make_segments", relabelled)
    rows = rows_of("validation", "P01")
    broken = {(row, 0, step): np.nan for row in rows for step in range(4)}
    (tmp_path / "other").mkdir()
    make_dense_store(tmp_path / "other" / "video.zarr", ROWS, splits=SPLITS, broken=broken)
    others, again = sweep_and_choose(
        grid_of(tmp_path / "other", tmp_path / "b", LR, top=ON, epochs=2), tmp_path / "b"
    )
    assert again.selection == chosen.selection
    assert [point.name for point in again.runs] == [point.name for point in chosen.runs]
    [failed] = again.runs  # only now was a validation row scored
    assert failed.state == "failed"
    assert "features are not finite" in failed.error
    for one, other in zip(points, others, strict=True):
        assert one.name == other.name
        before, after = weights(one.run), weights(other.run)
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_points_are_trained_without_the_rows_that_they_are_compared_on(cooks, tmp_path):
    """The held-out cook's features, other than they were, change scores and no weight; of the chosen run,
    both.
    """
    step = {(row, 0, step): 9.0 for row in rows_of("train", "P02") for step in range(4)}
    (tmp_path / "other").mkdir()
    make_dense_store(tmp_path / "other" / "video.zarr", ROWS, splits=SPLITS, broken=step)
    found = {}
    for name, stores in (("a", cooks), ("b", tmp_path / "other")):
        points = grid_of(stores, tmp_path / name, {"train": {"lr": [1e-2]}}, top=ON, epochs=2)
        found[name] = sweep_and_choose(points, tmp_path / name)
    [[point], chosen], [[other], chosen_other] = found["a"], found["b"]
    assert point.result.trained.train_rows == 24
    scores, other_scores = (read_scores(one.run, "train_1_of_2")["verb"] for one in (point, other))
    assert not np.array_equal(scores, other_scores)
    before, after = weights(point.run), weights(other.run)
    assert all(torch.equal(before[key], after[key]) for key in before)
    [run], [run_other] = chosen.runs, chosen_other.runs
    assert run.result.trained.train_rows == 36
    assert run.result.split == "validation"
    before, after = weights(run.run), weights(run_other.run)
    assert not all(torch.equal(before[key], after[key]) for key in before)


def test_the_chosen_run_is_the_one_that_its_recipe_gives_alone(cooks, tmp_path):
    grid = {"train": {"lr": [1e-4, 1e-2], "seed": [0, 1]}}
    points, chosen = sweep_and_choose(grid_of(cooks, tmp_path / "s", grid, top=ON, epochs=2), tmp_path / "s")
    assert len(points) == 4
    assert [run.result.seed for run in chosen.runs] == [0, 1]
    assert len({run.values["train.lr"] for run in chosen.runs}) == 1
    [lr] = {run.values["train.lr"] for run in chosen.runs}
    scores = {
        value: np.mean([p.result.metrics["all_action_top1"] for p in points if p.values["train.lr"] == value])
        for value in (1e-4, 1e-2)
    }
    assert scores[lr] == max(scores.values()) == chosen.selection.score
    alone = train(tiny_recipe(cooks, text=False, title="", lr=lr, seed=1, epochs=2), tmp_path / "alone")
    assert alone.metrics == chosen.runs[1].result.metrics
    assert chosen.runs[1].run.name == f"chosen,train.lr={lr},train.seed=1"


# --- what is kept of it


def test_a_result_says_what_it_was_chosen_among_and_scoring_again_keeps_it(cooks, tmp_path):
    out = tmp_path / "out"
    _, chosen = sweep_and_choose(grid_of(cooks, out, LR, top=ON, epochs=1), out)
    [point] = chosen.runs
    said = {"among": 2, "failed": 0, "pruned": 0, "on": "train_1_of_2", "by": "all_action_top1"}
    raw = json.loads((point.run / RESULT).read_text())
    assert raw["selection"] == {**said, "score": chosen.selection.score}
    (point.run / RESULT).unlink()  # lost, and made again
    again = evaluate.evaluate_run(point.run)
    assert again.selection == chosen.selection == read_result(point.run).selection
    assert again.trained.environment is None
    summary = read_summary(out / "summary.json")
    assert summary.selection == chosen.selection
    assert [line["run"] for line in summary.chosen] == [point.run.name]
    assert len(summary.points) == 2
    report.write_report([point.run, out / "summary.json"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert f"”, on validation: {chosen.selection.in_words}." in page
    assert "chance is part of its score" not in page
    (point.run / SELECTION).write_text("{}")
    with pytest.raises(DataError, match=r"selection\.json: is damaged \(it has no among\)"):
        evaluate.evaluate_run(point.run)


def test_asked_again_nothing_is_trained_and_nothing_is_written(cooks, tmp_path, monkeypatch):
    out = tmp_path / "out"
    _, chosen = sweep_and_choose(grid_of(cooks, out, LR, top=ON, epochs=1), out)
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "lock"}
    files.pop(out / "summary.json")  # `done` is `skipped` now
    updates = count_updates(monkeypatch, tmp_path / "log")
    points, again = sweep_and_choose(grid_of(cooks, out, LR, top=ON, epochs=1), out)
    assert not updates()
    assert {*states(points).values(), again.runs[0].state} == {"skipped"}
    assert again.selection == chosen.selection
    assert again.runs[0].result == chosen.runs[0].result
    assert all(path.read_bytes() == content for path, content in files.items())


def test_an_interrupted_chosen_run_resumes(cooks, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def stop(points):
        if points[-1].name.startswith("chosen") and points[-1].epoch == 1:
            raise Interrupted("now")

    with pytest.raises(Interrupted):
        sweep_and_choose(grid_of(cooks, out, LR, top=ON, epochs=2), out, on_change=stop)
    updates = count_updates(monkeypatch, tmp_path / "log")
    _, chosen = sweep_and_choose(grid_of(cooks, out, LR, top=ON, epochs=2), out)
    assert updates() == {chosen.runs[0].run.name: 5}  # 36 rows, 8 an update: the second epoch
    assert chosen.runs[0].result.selection == chosen.selection
    assert [line["epoch"] for line in read_curves(chosen.runs[0].run)] == [1, 2]


def test_a_chosen_run_that_is_resumed_without_its_sweep_says_all_the_same_what_it_is(cooks, tmp_path):
    def stop(points):
        if points[-1].name.startswith("chosen") and points[-1].epoch == 1:
            raise Interrupted("now")

    with pytest.raises(Interrupted):
        sweep_and_choose(grid_of(cooks, tmp_path, LR, top=ON, epochs=2), tmp_path, on_change=stop)
    [run] = tmp_path.glob("chosen,*")
    assert train(read_recipe(run), run).selection.among == 2


def by_rate(monkeypatch):
    """The larger the learning rate, the better a point scores on what is held out."""
    evaluated = evaluate.measure

    def measure(data, targets, rows, scores):
        found = evaluated(data, targets, rows, scores)
        return {**found, "all_action_top1": rate[0]} if len(rows) == 12 and rate else found

    rate = []
    fit = training._Trainer.fit

    def noted(self, *args):
        rate[:] = [] if self.member.recipe.data.hold_out is None else [self.config.lr * 1000]
        return fit(self, *args)

    monkeypatch.setattr(evaluate, "measure", measure)
    monkeypatch.setattr(training._Trainer, "fit", noted)


def test_another_choice_later_leaves_the_first_one_where_it_is_and_says_so(cooks, tmp_path, monkeypatch):
    by_rate(monkeypatch)
    out = tmp_path / "out"

    def choice(*rates):
        return sweep_and_choose(grid_of(cooks, out, {"train": {"lr": [*rates]}}, top=ON, epochs=1), out)[1]

    first = choice(1e-3, 1e-2)
    assert [point.run.name for point in first.runs] == ["chosen,train.lr=0.01"]
    before = (first.runs[0].run / RESULT).read_bytes()
    later = choice(1e-3, 1e-2, 5e-2)
    assert [point.run.name for point in later.runs] == ["chosen,train.lr=0.05"]
    assert later.selection.among == 3
    assert later.earlier == [first.runs[0].run]
    assert (first.runs[0].run / RESULT).read_bytes() == before


def test_the_same_choice_among_more_is_said_and_among_fewer_forgets_nothing(cooks, tmp_path, monkeypatch):
    by_rate(monkeypatch)
    out = tmp_path / "out"

    def chosen(*rates):
        points = grid_of(cooks, out, {"train": {"lr": [*rates]}}, top=ON, epochs=1)
        [point] = sweep_and_choose(points, out)[1].runs
        assert read_result(point.run) == point.result
        return point.result.selection.among

    assert chosen(1e-3, 1e-2) == 2
    updates = count_updates(monkeypatch, tmp_path / "log")
    assert chosen(1e-4, 1e-3, 1e-2) == 3
    assert set(updates()) == {"train.lr=0.0001"}
    assert chosen(1e-3, 1e-2) == 3


def test_a_failed_point_is_counted_and_the_others_are_compared(cooks, tmp_path, monkeypatch):
    update = training._Trainer._update

    def fail(self, *args):
        if self.config.lr == 1e-4:
            raise DataError("diverged")
        return update(self, *args)

    monkeypatch.setattr(training._Trainer, "_update", fail)
    points, chosen = sweep_and_choose(grid_of(cooks, tmp_path, LR, top=ON, epochs=1), tmp_path)
    assert sorted(states(points).values()) == ["done", "failed"]
    assert (chosen.selection.among, chosen.selection.failed) == (1, 1)
    assert chosen.runs[0].result.selection.failed == 1


def test_where_all_points_fail_nothing_is_chosen(cooks, tmp_path, monkeypatch):
    monkeypatch.setattr(training._Trainer, "_update", lambda *args: 1 / 0)
    _, chosen = sweep_and_choose(grid_of(cooks, tmp_path, LR, top=ON, epochs=1), tmp_path)
    assert (chosen.selection, chosen.runs) == (None, [])
    assert read_summary(tmp_path / "summary.json").selection is None


def test_a_sweep_that_chooses_nothing_says_so_on_the_page(cooks, tmp_path):
    points = sweep(grid_of(cooks, tmp_path, LR, epochs=1), tmp_path)
    report.write_report([points[0].run, tmp_path / "summary.json"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert f"2 candidates of sweep {tmp_path.name} were tried. The best of them was not chosen on" in page


# --- several processes


def test_two_sweeps_at_once_choose_alike_and_train_the_chosen_run_once(cooks, tmp_path, monkeypatch):
    out = tmp_path / "both"
    updates = count_updates(monkeypatch, tmp_path / "log")

    def one(name):
        def on_change(points):
            (tmp_path / name).touch()
            for other in "ab":
                wait_for(tmp_path / other)

        points = grid_of(cooks, out, {"train": {"seed": [0, 1, 2], "lr": [1e-3, 1e-2]}}, top=ON, epochs=1)
        points, chosen = sweep_and_choose(points, out, on_change=on_change)
        assert {point.state for point in [*points, *chosen.runs]} <= {"done", "skipped"}
        assert chosen.selection.among == 2
        (tmp_path / f"chose-{name}").write_text("\n".join(run.run.name for run in chosen.runs))

    children = {name: fork(lambda name=name: one(name), *[tmp_path / f"{name}.log"] * 2) for name in "ab"}
    codes = {name: child.wait() for name, child in children.items()}
    assert codes == {"a": 0, "b": 0}, [(tmp_path / f"{name}.log").read_text() for name in "ab"]
    chosen = (tmp_path / "chose-a").read_text()
    assert chosen == (tmp_path / "chose-b").read_text()
    counted = updates()
    assert {name: number for name, number in counted.items() if name.startswith("chosen")} == dict.fromkeys(
        chosen.split("\n"), 5
    )
    assert all(number == 3 for name, number in counted.items() if not name.startswith("chosen"))


def test_the_choice_waits_for_points_of_others(cooks, tmp_path):
    points = grid_of(cooks, tmp_path, LR, top=ON, epochs=1)
    other = held_by_another(points[0].run, tmp_path / "release", lambda: None)
    seen = []

    def on_change(now):
        seen.append([point.name for point in now if point.state == "elsewhere"])
        assert len(now) == 2 or not seen[-1]  # no chosen run while a point is elsewhere
        if now[1].state == "done" and other.code is None:
            (tmp_path / "release").touch()
            other.wait()

    _, chosen = sweep_and_choose(points, tmp_path, on_change=on_change)
    assert seen[0] == ["train.lr=0.0001"]
    assert chosen.selection.among == 2


def test_several_processes_choose_together(cooks, tmp_path):
    def two():
        points = grid_of(cooks, tmp_path / "two", LR, top=ON, epochs=1)
        _, chosen = sweep_and_choose(points, tmp_path / "two")
        assert chosen.runs[0].state == "done"
        assert chosen.runs[0].result.trained.processes == 2
        assert chosen.runs[0].result.selection == chosen.selection

    codes = wait_for_group(start_group(two, tmp_path))
    assert codes == [0, 0], "".join(path.read_text() for path in sorted(tmp_path.glob("rank-*.log")))
