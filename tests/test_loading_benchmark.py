"""benchmarks/loading.py as a program, formats.py, workers.py: what is wrong, lost, leaks or hangs is seen."""

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.benchmarks import BENCHMARKS, load

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="reads memory as Linux keeps it"
)
OWN = ("numpy memmap", "mambavl", "mambavl, pure Python", 'mambavl, verify="read"', 'mambavl, resident="ram"')


@pytest.fixture(scope="module")
def loading():
    return load("loading")


@pytest.fixture(scope="module")
def formats(loading):
    return load("formats")


@pytest.fixture(scope="module")
def workers(loading):
    return load("workers")


# --- the program


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick run: its last line, its figures."""
    out = tmp_path_factory.mktemp("loading") / "loading.json"
    command = [sys.executable, BENCHMARKS / "loading.py", "--quick", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), json.loads(out.read_bytes())


def test_every_way_was_measured_or_a_note_says_what_installs_it(quick, formats):
    found = quick[1]
    for shape in ("16x768", "5x1024"):
        ways = found["batches"][shape]
        assert set(ways) == {*OWN, "zarr-python", *formats.WAYS}
        absent = {way for way, one in ways.items() if one is None}
        assert absent <= formats.WAYS.keys()
        for way in absent:
            assert any(note.startswith(f"{way} is left out: pip install ") for note in found["notes"])
    assert list(found["batches"]["text 2 x <=40x768"]) == list(OWN[:3])
    assert bool(found["notes"]) == any(None in part.values() for part in (ways, found["epochs"]))


def test_figures_of_a_way_fit_each_other(quick):
    sizes = {"16x768": 16 * 768 * 2, "5x1024": 5 * 1024 * 2}
    for shape, ways in quick[1]["batches"].items():
        for one in filter(None, ways.values()):
            assert 0 < one["fastest"] <= one["milliseconds"] <= one["slowest"]
            assert one["dataloader_milliseconds"] > 0
            seconds = 128 / one["samples_per_second"]
            assert one["milliseconds"] == pytest.approx(1e3 * seconds, rel=0.01)
            if shape in sizes:
                rate = 128 * sizes[shape] / seconds / 1e9
                assert one["gigabytes_per_second"] == pytest.approx(rate, rel=0.01, abs=0.001)


def test_an_epoch_has_every_row(quick):
    found = quick[1]
    assert list(found["epochs"]) == ["numpy memmap", "mambavl", "WebDataset"]
    for one in filter(None, found["epochs"].values()):
        seconds = found["conditions"]["epoch_rows"] / one["rows_per_second"]
        assert one["milliseconds"] == pytest.approx(1e3 * seconds, rel=0.01)


def test_workers_of_every_start_ended_all_epochs_without_a_wrong_row(quick, loading):
    found = quick[1]["workers"]
    assert list(found) == ["fork", "forkserver", "spawn"]
    for start, (same, anew) in loading.QUICK_ENDURED.items():
        assert (found[start]["same"]["epochs"], found[start]["anew"]["epochs"]) == (same, anew)
        for one in found[start].values():
            assert one["wrong"] == 0
            assert min(one["descriptors"]) > 2
            assert min(one["megabytes"]) > 1


def test_the_real_run_has_a_thousand_epochs_of_every_start(loading):
    assert list(loading.ENDURED) == ["fork", "forkserver", "spawn"]
    for start, (same, anew) in loading.ENDURED.items():
        assert same >= 1000
        assert anew >= {"spawn": 10}.get(start, 100)


def test_the_last_line_is_the_figures_own(quick):
    last, found = quick
    times = {way: one and one["milliseconds"] for way, one in found["batches"]["16x768"].items()}
    against = {way: time and round(time / times["mambavl"], 3) for way, time in times.items()}
    assert last == {key: found[key] for key in last}
    assert last["gather_vs_memmap"] == against["numpy memmap"]
    assert last["gather_vs_zarr"] == against["zarr-python"]
    others = [value for way, value in against.items() if value and way not in (*OWN, "zarr-python")]
    assert last["gather_vs_best_other"] == min(others)
    assert last["worker_epochs"] == sum(
        one["epochs"] for kinds in found["workers"].values() for one in kinds.values()
    )
    assert last.keys() >= {"epoch_vs_memmap", "open_90k_seconds", "verify_mb_per_second", "write_vs_plain"}
    assert found["conditions"]["quick"] is True


# --- ways


SIZES = argparse.Namespace(rows=128, repeats=1, turn=1)


def only(loading, monkeypatch, way):
    monkeypatch.setattr(loading, "WAYS", {"another": way})


def test_a_way_whose_package_is_missing_is_left_out_and_noted(loading, formats, monkeypatch, tmp_path):
    assert formats.Way({"json": "json"}, None, None).missing() == ""
    way = formats.Way({"json": "json", "nowhere_a": "a-b", "nowhere_c": "c"}, None, None)
    only(loading, monkeypatch, way)
    notes = []
    found = loading.dense(tmp_path / "x", (2, 8), SIZES, notes)
    assert found["another"] is None
    assert found["mambavl"]["milliseconds"] > 0
    assert notes == ["another is left out: pip install a-b c"]


def test_without_webdataset_its_epoch_is_a_dash_and_a_note(loading, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loading, "missing", lambda packages: f"pip install {' '.join(packages.values())}")
    notes = []
    epochs = loading.epoch(tmp_path / "epoch", 130, notes)
    assert epochs["WebDataset"] is None
    safety = loading.of_epochs(epochs)
    assert safety["epoch_vs_webdataset"] is None
    assert safety["epoch_vs_memmap"] > 0
    loading.print_tables({"16x768": {"Lance": None}}, epochs, safety, {}, 130, notes)
    said = capsys.readouterr().out
    assert "- WebDataset is left out: pip install webdataset" in said
    assert len([line for line in said.splitlines() if "│ -" in line]) == 3


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WebDataset's
def test_an_epoch_of_several_tars_has_each_row_once_in_another_order(formats, loading, monkeypatch, tmp_path):
    pytest.importorskip("webdataset")
    values = loading.random_rows(45, (2, 8))
    monkeypatch.setattr(formats, "ROWS_A_TAR", 10)
    monkeypatch.setattr(formats, "SHUFFLED", 5)
    formats.write_tars(tmp_path / "tars", values)
    assert len(list((tmp_path / "tars").glob("*.tar"))) == 5
    epoch, orders = formats.epoch_of_tars(tmp_path / "tars", (2, 8), 20), []
    for _ in range(10):
        found = loading.passed(epoch)
        loading.check_epoch("tars", found, values)
        assert [len(names) for names in found[0]] == [20, 20, 5]
        orders.append([int(name) for names in found[0] for name in names])
    assert len({order[0] // 10 for order in orders}) > 1  # tars
    assert all(sorted(order[:10]) != order[:10] for order in orders)  # rows
    del epoch
    gc.collect()  # its files, as long as this is to be ignored


@pytest.mark.parametrize(
    "spoil",
    [lambda rows: rows[::-1], lambda rows: (rows + 1) % SIZES.rows],
    ids=["in another order", "of the next rows"],
)
def test_a_way_that_returns_other_rows_is_refused(loading, formats, monkeypatch, tmp_path, spoil):
    def write(path, values):
        with path.open("wb") as file:
            np.save(file, values)

    def open_spoilt(path, shape):
        values = np.load(path)
        return lambda rows: torch.from_numpy(values[spoil(rows)])

    only(loading, monkeypatch, formats.Way({}, write, open_spoilt))
    with pytest.raises(SystemExit, match="another returned other values"):
        loading.dense(tmp_path / "x", (2, 8), SIZES, [])


def test_an_epoch_that_loses_repeats_or_spoils_rows_is_refused(loading):
    truth = loading.random_rows(5, (2, 8))
    order = np.array([3, 1, 4, 0, 2])

    def check(names, tokens):
        loading.check_epoch("tars", ([names[:3], names[3:]], torch.from_numpy(tokens[:3])), truth)

    check(order, truth[order])
    check([f"{row:08d}" for row in order], truth[order])
    for wrong in (order[:4], [*order[:4], 3], [*order, 3]):
        with pytest.raises(SystemExit, match="an epoch of tars had other rows than each once"):
            check(np.array(wrong), truth[order])
    with pytest.raises(SystemExit, match="tars returned other values"):
        check(order, truth[order[::-1]])


# --- workers


def test_rows_that_are_wrong_lost_or_came_twice_are_counted(workers):
    truth = torch.arange(24.0).reshape(6, 2, 2)
    batch = lambda *rows: (torch.tensor(rows), truth[list(rows)].clone())
    assert workers.epoch_of([batch(3, 0, 5), batch(1, 4), batch(2)], truth) == 0
    assert workers.epoch_of([batch(3, 0, 5), batch(1, 4)], truth) == 1
    assert workers.epoch_of([batch(3, 0, 5), batch(1, 4), batch(2, 3)], truth) == 1
    spoilt = batch(3, 0, 5)
    spoilt[1][1, 1, 0] += 1
    spoilt[1][2] = truth[3]
    assert workers.epoch_of([spoilt, batch(1, 4), batch(2)], truth) == 2


def test_one_wrong_row_is_a_failure_that_says_how_its_workers_were_started(workers, monkeypatch, tmp_path):
    found = {"same": {"wrong": 0}, "anew": {"wrong": 1234}}
    monkeypatch.setattr(workers, "watched", lambda *words: found)
    with pytest.raises(SystemExit, match=r"started by spawn, anew: 1,234 rows were wrong or lost"):
        workers.endure(tmp_path, "spawn", 1, 1)
    found["anew"]["wrong"] = 0
    assert workers.endure(tmp_path, "spawn", 1, 1) is found


def test_what_all_processes_of_a_session_hold_is_seen_to_grow(workers, tmp_path):
    """A child in a session of its own looks at its own child, which opens files and fills memory."""
    said = tmp_path / "said"
    if not (child := os.fork()):
        os.setsid()
        (begin, ask), (answer, say) = os.pipe(), os.pipe()
        if not os.fork():
            os.read(begin, 1)
            files = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
            filled = bytearray(os.urandom(1000) * 50_000)
            os.write(say, b"x")
            time.sleep(300 + 0 * len(files) * len(filled))
        before = workers.held()
        os.write(ask, b"x")
        os.read(answer, 1)
        said.write_text(json.dumps([before, workers.held()]))
        os.killpg(0, signal.SIGKILL)
    os.waitpid(child, 0)
    before, after = json.loads(said.read_text())
    assert after["descriptors"] == before["descriptors"] + 40
    assert 50 <= round(after["megabytes"] - before["megabytes"], 1) < 60


HANGING = """
import os, sys, time
sys.path.insert(0, {benchmarks!r})
import workers

def hang(rows, batch):
    with open({pids!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    time.sleep(600)

workers.Rows.__getitems__ = hang
workers.main()
"""


def test_a_hang_becomes_a_failure_and_leaves_no_process(workers, loading, tmp_path, capfd):
    values = loading.random_rows(128, (2, 8))
    loading.write_dense(tmp_path / "ours.zarr", values)
    np.save(tmp_path / "plain.npy", values)
    program = HANGING.format(benchmarks=str(BENCHMARKS), pids=str(tmp_path / "pids"))
    command = [sys.executable, "-c", program, "fork", tmp_path, "--patience", 3]
    with pytest.raises(SystemExit, match=r"they: hung, an epoch did not end in 3 s; where Python stood is"):
        workers.watched(command, "they", 3)
    assert "in epoch_of" in capfd.readouterr().err
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


def is_alive(pid: str) -> bool:
    """Not gone, nor ended and not yet collected by its parent."""
    stat = Path("/proc", pid, "stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_run_that_fails_is_no_figure(workers, capfd):
    with pytest.raises(SystemExit, match="they: ended with 1; the reason is above"):
        workers.watched([sys.executable, "-c", "print('{}'); raise SystemExit('no room')"], "they", 3)
    assert "no room" in capfd.readouterr().err
    assert workers.watched([sys.executable, "-c", "print('a table\\n[1]')"], "they", 3) == [1]
