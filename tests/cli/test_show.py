"""Tables of results and sweeps: a dash where nothing was measured, a warning that nobody can miss."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from mambavl.cli import show
from mambavl.fuse.chosen import Chosen
from mambavl.fuse.result import Selection
from mambavl.fuse.without import Without

TARGETS = ("verb", "noun", "action")


def result(notice=None, missing=None, split="validation", main_measure="all_action_top1", **metrics):
    encoder = SimpleNamespace(name="orvit", state="random")
    return SimpleNamespace(
        title="Mine",
        split=split,
        text_protocol="oracle",
        history_protocol="absent",
        protocols="oracle",
        trained=SimpleNamespace(stopped=None),
        targets=TARGETS,
        measure_of=lambda target: f"all_{target}_top1" if target else main_measure,
        metrics={f"all_{target}_top1": 50.0 for target in TARGETS} | metrics,
        prior_metrics={},
        streams={"video": SimpleNamespace(encoder=encoder)},
        notice=notice,
        rows=SimpleNamespace(scored=1200, scored_by_prior=3, missing=missing),
    )


def point(name, state="waiting", epoch=0, result=None, error="", **values):
    recipe = SimpleNamespace(train=SimpleNamespace(epochs=4), rank_by=None)
    return SimpleNamespace(
        name=name,
        run=Path(name),
        values=values,
        state=state,
        epoch=epoch,
        result=result,
        recipe=recipe,
        error=error,
    )


def test_a_result_shows_its_numbers_and_a_dash_for_what_was_not_measured(capsys):
    show.print_result(result(all_verb_top5=81.25))
    said = capsys.readouterr().out
    assert "Mine, validation, oracle text" in said
    assert said.count("50.0") == 3
    assert "81.2" in said
    assert "-" in said
    assert "text protocol oracle; video: orvit (random)" in said
    assert "1,200 rows scored, 3 of them by the prior (a stream was missing)" in said


def test_rows_are_counted_by_the_stream_that_they_do_not_have(capsys):
    show.print_result(result(missing={"video": 0, "audio": 1234, "hands": 1}))
    assert "rows without a stream: audio 1,234, hands 1\n" in capsys.readouterr().out
    for nothing in (None, {"video": 0}):
        show.print_result(result(missing=nothing))
        assert "without a stream" not in capsys.readouterr().out


@pytest.mark.parametrize(("done", "epoch"), [(1, 1), (7, 1), (8, 2), (14, 2), (15, 3), (21, 3)])
def test_updates_are_of_epochs(done, epoch):
    """Seven each."""
    assert show.epoch_in_words(done, 21, 3) == f"epoch {epoch} of 3"


def test_an_epoch_says_its_loss_and_what_was_scored():
    line = {"epoch": 3, "loss": 2.31449, "lr": 1e-3, "seconds": 12.5}
    assert show.line_in_words(line, 30) == "epoch 3 of 30: loss 2.3145"
    scored = {"verb_top1": 41.25, "tools_map": 7.0, "action_top1": None}
    assert (
        show.line_in_words(line | scored, 30) == "epoch 3 of 30: loss 2.3145, verb top-1 41.2, tools mAP 7.0"
    )
    recall = show.line_in_words(line | {"noun_mean_class_recall5": 32.04}, 30)
    assert recall == "epoch 3 of 30: loss 2.3145, noun mean class recall@5 32.0"


def test_what_a_stream_is_worth_stands_below_both_scores(capsys):
    found = Without(
        title="Mine",
        split="validation",
        streams=("audio", "hands"),
        targets=TARGETS,
        notice="ORACLE",
        rows=1200,
        changed=1100,
        left_with_nothing=2,
        with_all={"all_verb_top1": 50.0, "all_noun_top1": 40.0, "all_action_top1": None},
        without={"all_verb_top1": 47.5, "all_noun_top1": 40.25, "all_action_top1": None},
        scores=Path("x.npz"),
    )
    show.print_without(found)
    said = capsys.readouterr().out
    assert "Mine, validation, without audio, hands" in said
    lines = [line.split() for line in said.splitlines()]
    assert ["top-1", "50.0", "40.0", "-"] in [[w for w in line if w not in "│┃"] for line in lines]
    assert ["difference", "+2.5", "-0.2", "-"] in [[w for w in line if w not in "│┃"] for line in lines]
    assert "ORACLE" in said
    assert "1,200 rows scored, 1,100 of them had audio or hands; 2 of these had nothing else" in said


def test_a_notice_is_printed_as_it_is(capsys):
    show.print_result(result(notice="ORACLE [bold] TEXT"))
    assert "ORACLE [bold] TEXT" in capsys.readouterr().out


def test_a_sweep_says_how_far_each_point_is_and_each_notice_once(capsys):
    finished = result(notice="an upper bound")
    points = [
        point("a", "done", 4, finished),
        point("b", "done", 4, finished),
        point("c", "running", 2),
        point("d"),
    ]
    show.out.print(show.sweep_table(points))
    said = capsys.readouterr().out
    assert said.count("oracle (!)") == 2
    assert said.count("an upper bound") == 1
    assert "2/4" in said
    assert "waiting" in said


def seen(points, height, width=100):
    """The lines of a live table on a screen."""
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(show.sweep_view(points, console))
    return console.file.getvalue()


def test_of_more_points_than_the_screen_holds_the_running_and_the_best_are_shown():
    """The running one is number 150."""
    points = [point(f"p{i:03}", "done", 4, result(all_action_top1=float(i % 150))) for i in range(150)]
    points += [point("p150", "running", 2), *(point(f"p{i}") for i in range(151, 200))]
    said = seen(points, 45)
    assert len(said.splitlines()) <= 45
    assert said.startswith("200 points: 150 done, 49 waiting, 1 running")
    assert re.findall(r"p\d+", said) == ["p150", *(f"p{i}" for i in range(149, 139, -1))]
    few = seen(points[140:170], 45)
    assert all(f"p{i}" in few for i in range(140, 170))


@pytest.mark.parametrize(("running", "best", "more"), [(8, 4, 0), (12, 0, 0), (60, 0, 48)])
def test_running_points_come_before_the_best_where_there_are_few_lines(running, best, more):
    points = [point(f"d{i}", "done", 4, result()) for i in range(20)]
    points += [point(f"r{i:02}", "running", 1) for i in range(running)]
    said = seen(points, 20)
    assert len(said.splitlines()) <= 20
    assert len(re.findall(r"r\d\d", said)) == min(running, 12)
    assert len(re.findall(r"d\d", said)) == best
    assert (f"; {more} more are running" in said) == (more > 0)


def test_no_running_point_is_pushed_off_the_screen_by_long_names_or_notices():
    """Names that a narrow screen has no room for, and a notice of many lines below the table."""
    finished = result(notice="an upper bound " * 40)
    points = [point(f"{i:02} " + "train.lr=0.001," * 9, "done", 4, finished) for i in range(16)]
    points.append(point("99 " + "train.lr=0.001," * 9, "running", 1))
    for height in (20, 24, 60):
        said = seen(points, height, width=80)
        [line] = [number for number, line in enumerate(said.splitlines()) if " 99 " in line]
        assert line < height - 1
    assert len(re.findall(r"│ \d\d ", said)) == 17  # 60 lines hold all
    assert "│ running │ 1/4 " in said
    assert said.count("oracle (!)") == 16


def test_a_name_that_looks_like_markup_is_shown_as_it_is(capsys):
    show.out.print(show.sweep_table([point("use_streams=[video]")]))
    assert "use_streams=[video]" in capsys.readouterr().out


def test_in_a_log_each_change_of_a_state_is_one_line(capsys):
    with show.show_sweep() as on_change:
        on_change([point("a"), point("b")])
        on_change([point("a", "running"), point("b")])
        on_change([point("a", "running", 1), point("b")])
        on_change([point("a", "done"), point("b", "elsewhere", error="pid 12 trains it")])
        on_change([point("a", "done"), point("b", "failed", error="no room")])
    lines = ["a: running", "a: done", "b: elsewhere (pid 12 trains it)", "b: failed (no room)"]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_title_longer_than_its_table_is_not_broken(capsys):
    long = result()
    long.title = "all that was done before, and by whom, and in which kitchen"
    show.print_result(long)
    assert f"{long.title}, validation, oracle text\n" in capsys.readouterr().out


@pytest.mark.parametrize("ends", [True, False])
def test_on_a_terminal_the_table_that_was_redrawn_is_taken_away_at_the_end(monkeypatch, ends):
    """The program prints it once more, whole; where it stops in the middle it does not."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    monkeypatch.setattr(show, "console", screen)

    def run():
        with show.show_sweep() as on_change:
            on_change([point("a", "running", 1)])
            if not ends:
                raise KeyboardInterrupt

    if ends:
        run()
    else:
        with pytest.raises(KeyboardInterrupt):
            run()
    after = screen.file.getvalue().rpartition("running")[2]
    assert ("\x1b[1A\x1b[2K" in after) == ends


@pytest.mark.parametrize("value", [0.0, 12.345])
def test_percents_have_one_digit(capsys, value):
    show.print_result(result(all_noun_top5=value))
    assert f"{value:.1f}" in capsys.readouterr().out


def test_a_sweep_with_nothing_to_choose_among_says_nothing_of_chance():
    one = [point("a", result=result())]
    seeds = [point("a", result=result(), **{"train.seed": seed}) for seed in range(2)]
    folds = [
        point("a", result=result(split=f"train_{part}_of_2"), **{"data.hold_out": f"{part}/2"})
        for part in range(2)
    ]
    unscored = [point(name, result=result(all_action_top1=None), x=name) for name in "ab"]
    one_left = [point("a", result=result(), x=1), point("b", "failed", x=2)]
    for points in (one, seeds, folds, unscored, one_left):
        assert show.said_without_choice(points, Path("x.toml")) == []


def test_points_of_different_measures_have_no_best_one():
    points = [point("a", result=result(), x=1), point("b", result=result(main_measure="all_verb_top1"), x=2)]
    [line] = show.said_without_choice(points, Path("x.toml"))
    assert "cannot be compared" in line
    assert "action top-1, verb top-1" in line


def test_an_earlier_choice_is_named_and_a_run_that_failed_says_why():
    selection = Selection(among=3, failed=1, on="train_0_of_5", by="all_action_top1", score=41.26)
    failed = point("chosen,a", "failed", error="no room")
    chosen = Chosen(selection=selection, runs=[failed], earlier=[Path("s/chosen,b")])
    first, run, earlier = show.said_of_choice(chosen)
    assert first.startswith("chosen among 3 on train_0_of_5, by action top-1 (41.3 there); 1 more could not")
    assert run.endswith("failed (no room)")
    assert earlier.startswith("an earlier choice of this sweep is in s/chosen,b")
    nothing = Chosen(selection=None, runs=[], earlier=[])
    assert show.said_of_choice(nothing) == []  # the command ends with an error
