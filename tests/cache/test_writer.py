"""Writing a store: resumed after a kill, shared by several writers, never mixed with another recipe."""

import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.damage import content
from helpers.forks import fork
from helpers.paths import DATA
from helpers.tiny import make_dense_store, shortened, unfinished
from mambavl.cache import fsops, open_store
from mambavl.cache.spec import MANIFEST, SEAL
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError, UsageError


def test_a_store_of_another_recipe_is_refused_and_the_fields_are_named(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match=r"recipe\.encoder\.name: 'fake' -> 'other'"):
        make_dense_store(tmp_path / "s.zarr", recipe={"encoder": {"name": "other"}})


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        make_dense_store(tmp_path)
    with pytest.raises(DataError, match="no such store"):
        open_store(tmp_path / "nowhere")


def tree(path: Path) -> dict[str, bytes]:
    """The finished store's content: journals and the record of the environment aside."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.parent.name != "commit"
    }


def test_a_killed_writer_resumes_to_the_same_bytes(tmp_path):
    """SIGKILL at ten moments of the writing; each time the finished store equals the uninterrupted one."""
    since = time.monotonic()
    assert fork(lambda: make_dense_store(tmp_path / "whole.zarr", rows=64)).wait() == 0
    seconds, expected = time.monotonic() - since, tree(tmp_path / "whole.zarr")
    rng = np.random.default_rng(0)
    for trial in range(10):
        target = tmp_path / f"killed{trial}.zarr"
        child = fork(lambda target=target: make_dense_store(target, rows=64))
        time.sleep(rng.uniform(0, seconds))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if not (target / "manifest.json").exists():
            make_dense_store(target, rows=64)
        assert tree(target) == expected


def test_who_creates_a_store_at_the_same_moment_does_not_wait_for_the_run_of_the_other(tmp_path, monkeypatch):
    """The other creates it just before, and holds it for as long as it works."""
    others, lock = [], fsops.lock

    def late(path, **how):
        if not others:
            others.append(None)
            others[0], _ = unfinished(tmp_path / "s.zarr")
        return lock(path, **how)

    monkeypatch.setattr(fsops, "lock", late)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(unfinished, tmp_path / "s.zarr")
        try:
            writer, _ = found.result(timeout=60)
        finally:
            others[0].close()
    assert writer.pending() == [0, 1, 2]


def test_the_writer_who_comes_first_does_a_row_group_and_the_others_find_it_done(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    other, _ = unfinished(tmp_path / "s.zarr")
    for index in (0, 1, 2):
        assert writer.commit(index, shortened(group, 4 if index == 2 else 8)) > 0
    assert other.commit(0, replace(group, levels={"frame": np.ones((8, 1, 4, 6), np.float32)})) == 0
    assert other.finalize() is None  # the first writer is still at work
    writer.finalize()
    assert verify(tmp_path / "s.zarr", deep=True) == []
    assert open_store(tmp_path / "s.zarr").batch([0], "frame")[0].max() == 0


SAMPLING = {"task": "recognition", "frames": 4}
RECIPE = {
    "encoder": {"name": "fake", "sha256": "0" * 64, "width": 6},
    "sampling": SAMPLING,
    "questions": {"protocol": "oracle"},
}


@pytest.mark.parametrize(
    ("what", "changed", "message"),
    [
        (
            "encoder",
            {"recipe": {**RECIPE, "encoder": {**RECIPE["encoder"], "name": "other"}}},
            "encoder.name: 'fake' -> 'other'",
        ),
        (
            "weights",
            {"recipe": {**RECIPE, "encoder": {**RECIPE["encoder"], "sha256": "1"}}},
            f"sha256: '{'0' * 64}' -> '1'",
        ),
        ("width", {"width": 7}, "levels: .*'shape': [1, 4, 6].* -> .*'shape': [1, 4, 7]"),
        ("dtype", {"dtype": "float16"}, "'dtype': 'float32'.* -> .*'dtype': 'float16'"),
        ("steps", {"steps": 5}, "frame_pts: [1, 4] -> [1, 5]"),
        (
            "window",
            {"recipe": {**RECIPE, "sampling": {**SAMPLING, "task": "anticipation"}}},
            "task: 'recognition' -> 'anticipation'",
        ),
        (
            "protocol",
            {"recipe": {**RECIPE, "questions": {"protocol": "generic"}}},
            "protocol: 'oracle' -> 'generic'",
        ),
        ("rows", {"rows": 19}, "rows: 20 -> 19"),
        ("row list", {"splits": ("train",)}, "segments_sha256: '.{64}' -> '.{64}'"),
        ("row groups", {"group_rows": 4}, "rows_per_group: 8 -> 4"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_was_made_otherwise_is_refused_with_both_values(tmp_path, what, changed, message):
    before = {"recipe": RECIPE}
    make_dense_store(tmp_path / "s.zarr", **before)
    bytes_before = tree(tmp_path / "s.zarr")
    with pytest.raises(UsageError) as caught:
        make_dense_store(tmp_path / "s.zarr", **{**before, **changed})
    pattern = re.escape(message).replace(r"\.\*", ".*").replace(r"\.\{64\}", ".{64}")
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert tree(tmp_path / "s.zarr") == bytes_before


def test_parts_of_a_row_group_that_do_not_fit_each_other_are_refused(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    for changed, message in (
        ({"status": np.ones(7, np.uint8)}, "status: expected 8 rows, got 7"),
        ({"status": np.zeros(8, np.uint8)}, "none of them 0"),
        ({"lengths": {"length": np.full(8, 5)}}, "lengths from 5 to 5, at most 4 fit"),
        ({"lengths": {"length": np.full(8, -1)}}, "lengths from -1 to -1"),
        ({"frame_pts": None}, "frame_pts: expected 8 rows, got nothing"),
        ({"levels": {"frame": np.zeros((8, 1, 4, 5), np.float32)}}, r"expected \(8, 1, 4, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            writer.commit(1, replace(group, **changed))
    assert writer.pending() == [0, 1, 2]


@pytest.mark.parametrize("schema", [2, 3])
def test_an_extraction_begun_with_an_older_schema_goes_on_in_it(tmp_path, schema):
    """Days of work are not lost to a new form of classes.json: what was there stays, the rest is added."""
    whole = DATA / f"schema-{schema}" / "video.zarr"
    path = tmp_path / "v.zarr"
    shutil.copytree(whole, path)
    for name in (MANIFEST, SEAL, "frame/c.1.0.0.0"):
        (path / name).unlink()
    make_dense_store(path, 5, group_rows=4, width=3, steps=2, views=2, failed={3: 3}, short={1: 1})
    assert content(path) == content(whole)
    assert verify(path, deep=True) == []
    assert open_store(path).spec.schema == schema
