"""Tables of results and sweeps: a dash where nothing was measured, a warning that nobody can miss."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mambavl.cli import show

TARGETS = ("verb", "noun", "action")


def result(notice=None, **metrics):
    encoder = SimpleNamespace(name="orvit", state="random")
    return SimpleNamespace(
        title="Mine",
        split="validation",
        text_protocol="oracle",
        targets=TARGETS,
        metrics={f"all_{target}_top1": 50.0 for target in TARGETS} | metrics,
        prior_metrics={},
        streams={"video": SimpleNamespace(encoder=encoder)},
        notice=notice,
        rows=SimpleNamespace(scored=1200, scored_by_prior=3),
    )


def point(name, state="waiting", epoch=0, result=None, error=""):
    recipe = SimpleNamespace(train=SimpleNamespace(epochs=4))
    return SimpleNamespace(
        name=name, run=Path(name), state=state, epoch=epoch, result=result, recipe=recipe, error=error
    )


def test_a_result_shows_its_numbers_and_a_dash_for_what_was_not_measured(capsys):
    show.print_result(result(all_verb_top5=81.25))
    said = capsys.readouterr().out
    assert "Mine, validation, oracle text" in said
    assert said.count("50.0") == 3
    assert "81.2" in said
    assert "-" in said
    assert "text protocol oracle; video: orvit (random)" in said
    assert "1,200 rows scored, 3 of them by the prior (no features)" in said


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


def test_in_a_log_each_change_of_a_state_is_one_line(capsys):
    with show.show_sweep() as on_change:
        on_change([point("a"), point("b")])
        on_change([point("a", "running"), point("b")])
        on_change([point("a", "running", 1), point("b")])
        on_change([point("a", "done"), point("b", "elsewhere", error="pid 12 trains it")])
        on_change([point("a", "done"), point("b", "failed", error="no room")])
    lines = ["a: running", "a: done", "b: elsewhere (pid 12 trains it)", "b: failed (no room)"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("value", [0.0, 12.345])
def test_percents_have_one_digit(capsys, value):
    show.print_result(result(all_noun_top5=value))
    assert f"{value:.1f}" in capsys.readouterr().out
