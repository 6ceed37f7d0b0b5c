"""`mambavl sweep-status`: one page, or a line a minute, while somebody is at work."""

import io
from pathlib import Path

from rich.console import Console

from helpers.cli import call
from mambavl.cli import sweep_status as command
from mambavl.fuse.sweep_status import Run, SweepStatus


def status(*runs, chosen=()):
    return SweepStatus(Path("s"), list(runs), list(chosen))


def page(found):
    console = Console(file=io.StringIO(), width=160)
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


def test_from_the_shell(road, tmp_path, capsys):
    assert call("sweep-status", tmp_path) == 2
    assert "is not the folder of a sweep" in capsys.readouterr().err
    assert call("sweep-status", road) == 0
    assert "nobody is at work" in capsys.readouterr().out
