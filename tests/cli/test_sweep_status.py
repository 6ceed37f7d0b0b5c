"""`mambavl sweep-status`: one page, or a line a minute, while somebody is at work."""

import io
import json
from pathlib import Path

from rich.console import Console

from helpers.cli import call
from mambavl.cli import sweep_status as command
from mambavl.fuse.sweep_status import Run, SweepStatus


def status(*runs, chosen=()):
    return SweepStatus(Path("s"), list(runs), list(chosen))


def page(found, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(command.drawn(found))
    return console.file.getvalue()


DONE = [Run(f"p{i:02}", "done", "", 4, 4, score=float(i), measure="action top-1") for i in range(12)]
WORKING = Run("w", "running", "", 1, 5, 60.0, 0.0, "pid 3 on host h")


def test_the_page_has_counts_rates_the_best_and_why_others_failed():
    failed = [Run(f"f{i}", "failed", f"reason {i}") for i in range(7)]
    silent = Run("q", "silent", "", 2, 5, 60.0, 700.0, "pid 4 on host g")
    final = Run("chosen,p11", "running", "", 1, 5, 30.0)
    said = page(status(*DONE, WORKING, silent, *failed, Run("d", "died"), chosen=[final]))
    assert said.startswith("s: 22 points: 12 done, 7 failed, 1 running, 1 silent, 1 died; 3.0 epochs/min; ")
    assert "1/5" in said
    assert "4 min" in said  # of 4 epochs, one a minute
    assert "pid 4 on host g (silent for 12 min)" in said
    assert "p11" in said
    assert "p02" in said
    assert "p01" not in said
    assert "chosen,p11: running" in said
    assert "f4: failed: reason 4" in said
    assert "f5" not in said
    assert "... and 2 more failed" in said
    assert "the process died in d; the same command resumes" in said


def test_on_a_narrow_screen_names_that_differ_in_their_ends_can_be_told_apart():
    names = [f"train.lr=0.00123456,head.dropout=0.3,train.seed={seed}" for seed in "78"]
    runs = [Run(name, "running", "", 100, 2000, 60.0, 0.0, "pid 17294 on host vm") for name in names]
    done = [Run(name, "done", "", 4, 4, score=1.0, measure="action mean class recall@5") for name in names]
    for found in (status(*runs), status(*done)):
        said = page(found, 80)
        assert "…" not in said
        assert "".join(line.split("│")[1].strip() for line in said.splitlines() if "│" in line) == "".join(
            names
        )


def test_a_name_that_looks_like_markup_is_shown_as_it_is():
    run = Run("use_streams=[video]", "done", "", 4, 4, score=1.0, measure="m")
    assert "use_streams=[video]" in page(status(run))


def test_watching_ends_when_nobody_has_been_at_work_for_a_while(monkeypatch, capsys):
    """Between two points there is a moment in which nobody is."""
    work, idle = status(WORKING), status(*DONE)
    looks = [work, idle, idle, work, *[work] * 12, idle, idle, idle]
    at = iter([work, *looks, idle])
    monkeypatch.setattr(command, "sweep_status", lambda *_: next(at))
    monkeypatch.setattr(command.time, "sleep", lambda _: None)
    command.show_status(Path("s"), watch=True)
    said = capsys.readouterr().out
    assert said.count("1 point: 1 running") == 2  # of looks 0 and 12
    assert said.count("12 points: 12 done; nobody is at work") == 1
    assert next(at, None) is None


def test_the_same_as_json(monkeypatch, capsys):
    final = Run("chosen,p11", "done", "", 5, 5, score=31.5, measure="action top-1")
    found = status(*DONE, WORKING, Run("f", "failed", "no room"), chosen=[final])
    monkeypatch.setattr(command, "sweep_status", lambda *_: found)
    command.show_status(Path("s"), as_json=True)
    [line] = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert (said["folder"], said["at_work"]) == ("s", 1)
    assert said["counts"] == {"done": 12, "running": 1, "failed": 1}
    assert said["epochs_per_second"] == 1 / 60
    assert said["seconds_left"] == 240.0  # of the one that runs four epochs, one a minute
    by_name = {run["name"]: run for run in said["points"]}
    assert len(by_name) == 14
    assert by_name["p11"] == {
        "name": "p11", "state": "done", "why": "", "epoch": 4, "epochs": 4, "seconds": 0.0, "since": 0.0,
        "who": "", "score": 11.0, "measure": "action top-1", "seconds_left": None,
    }  # fmt: skip
    assert (by_name["w"]["who"], by_name["w"]["seconds_left"]) == ("pid 3 on host h", 240.0)
    assert by_name["f"]["why"] == "no room"
    assert [(run["name"], run["score"]) for run in said["chosen"]] == [("chosen,p11", 31.5)]


def test_watched_as_json_each_look_in_a_log_is_a_line(monkeypatch, capsys):
    at = iter([status(WORKING), *[status(WORKING)] * 13, *[status(*DONE)] * 4])
    monkeypatch.setattr(command, "sweep_status", lambda *_: next(at))
    monkeypatch.setattr(command.time, "sleep", lambda _: None)
    command.show_status(Path("s"), watch=True, as_json=True)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["at_work"] for one in said] == [1, 1, 0]  # looks 0 and 12, and the end
    assert next(at, None) is None


def test_from_the_shell(road, tmp_path, capsys):
    assert call("sweep-status", tmp_path) == 2
    assert "is not the folder of a sweep" in capsys.readouterr().err
    assert call("sweep-status", road) == 0
    assert "nobody is at work" in capsys.readouterr().out
    assert call("sweep-status", road, "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] >= 1
