"""What the command says of stores: one that is being filled, one that is finished, and what is none."""

import io
import json
import re

import pytest
from rich.console import Console

from helpers import worker_logs
from helpers.cli import call
from helpers.tiny import make_dense_store, unfinished
from mambavl.cache.rows import STATUS_CODE
from mambavl.cache.status import status
from mambavl.cli import status as command
from mambavl.cli.status import summary

NOW = 2000.0


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A store with 8 of 20 rows, one of which failed; it is second 2000."""
    writer, group = unfinished(tmp_path / "s.zarr")
    group.status = group.status.copy()
    group.status[3] = STATUS_CODE["damaged_frame"]
    group.reasons = {3: "[bytes] are bad"}
    writer.commit(0, group)
    monkeypatch.setattr("mambavl.cache.status.time.time", lambda: NOW)
    return writer.path


def put(store, name, **changed):
    worker_logs.put(store, name, worker_logs.report(**{"time": NOW - 5, "total": 20} | changed))


def test_a_line_says_how_far_how_fast_and_how_long(begun):
    put(begun, "a", made=2, rows_per_s=0.5, seconds={"decode": 9.0, "encode": 5.0}, stalled=4.0)
    put(begun, "b", host="other", rows_per_s=0.25)
    assert summary(status(begun, NOW)) == (
        f"{begun}: 8 of 20 rows done (40.0 %), 2 more encoded, 1 failed, 2 runs at work, 0.75 rows/s, "
        "13 s left, slowest: decode"
    )


def test_nobody_at_work_is_said(begun):
    put(begun, "a", pid=worker_logs.dead())
    assert summary(status(begun, NOW)).endswith("nobody is at work; the command that made it goes on")


def test_the_command_shows_failures_and_every_worker(begun, capsys):
    put(begun, "a", done=6, rows_per_s=0.5, video="P01_101", stalled=7.0)
    put(begun, "b", host="other", time=NOW - 200)
    put(begun, "c", pid=worker_logs.dead())
    assert call("extract", "status", begun) == 0
    said = capsys.readouterr().out
    assert "  P01_101_3: damaged_frame: [bytes] are bad\n" in said
    assert re.search(r"working +│ 6 of 20 +│ 0\.50 +│ 7 s +│ P01_101 ", said)
    assert re.search(r"other +│ \d+ +│ silent for 3 min ", said)
    assert "was killed" in said


def test_a_finished_store_and_paths_that_are_none(tmp_path, capsys):
    make_dense_store(tmp_path / "s.zarr", failed={4: STATUS_CODE["damaged_frame"]})
    assert call("extract", "status", tmp_path / "none", tmp_path / "s.zarr", tmp_path) == 1
    captured = capsys.readouterr()
    assert f"{tmp_path / 's.zarr'}: finished: 20 rows, 1 failed\n" in captured.out
    assert "P01_101_4: damaged_frame: made so" in captured.out
    assert f"mambavl: {tmp_path / 'none'}: no such store" in captured.err
    assert f"mambavl: {tmp_path}: is not a feature store" in captured.err


def test_json_is_a_line_for_each_store(begun, tmp_path, capsys):
    make_dense_store(tmp_path / "t.zarr")
    assert call("extract", "status", begun, tmp_path / "t.zarr", "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["state"], first["done"], first["failed"]) == ("unfinished", 8, 1)
    assert (second["state"], second["done"], second["workers"]) == ("finished", 20, [])


def test_watching_says_a_line_a_minute_and_ends_with_the_store(begun, tmp_path, capsys, monkeypatch):
    make_dense_store(tmp_path / "t.zarr")
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 30:
            monkeypatch.setattr(command, "status", lambda store: status(tmp_path / "t.zarr"))

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert call("extract", "status", begun, "--watch") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(waits) == 30
    assert set(waits) == {5.0}
    assert [line.partition(": ")[2][:9] for line in lines] == ["8 of 20 r"] * 3 + ["finished:"]


def test_watching_what_is_no_store_ends_at_once(tmp_path, capsys):
    assert call("extract", "status", tmp_path, "--watch") == 1
    assert "is not a feature store" in capsys.readouterr().err


def test_a_terminal_is_redrawn_until_the_store_is_finished(begun, tmp_path, monkeypatch):
    make_dense_store(tmp_path / "t.zarr")
    screen = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(command, "out", screen)
    looks = []

    def look(store):
        looks.append(store)
        return status(tmp_path / "t.zarr" if len(looks) > 2 else begun)

    monkeypatch.setattr(command, "status", look)
    monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
    assert call("extract", "status", begun, "--watch") == 0
    assert len(looks) == 3
    said = screen.file.getvalue()
    assert said.count("8 of 20 rows done") >= 1
    assert "finished: 20 rows" in said
