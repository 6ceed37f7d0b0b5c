"""Repair re-opens exactly what is damaged, and the store filled again is the store as it was."""

import os

import pytest

from helpers.damage import content, damage, faults_of
from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import fsops, open_store
from mambavl.cache.finalize import finalize
from mambavl.cache.repair import gc, repair
from mambavl.cache.spec import CLASSES, ENVIRONMENT, MANIFEST, SCHEMA_VERSION, SEAL, SEGMENTS, SPEC
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError


@pytest.fixture
def path(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.mark.parametrize("kind", ["flip", "cut", "delete"])
def test_a_bad_shard_re_opens_its_row_group_and_no_other(path, kind):
    whole = content(path)
    damage(path / "frame/c.1.0.0.0", kind)
    done = repair(path)
    assert done.reopened == [1]
    assert done.needs_extraction
    assert any(fault.startswith("frame/c.1.0.0.0: ") for fault in done.faults)
    with pytest.raises(DataError, match="12 of 20 rows are done"):
        open_store(path)
    written = {g: (path / f"frame/c.{g}.0.0.0").stat().st_mtime_ns for g in (0, 2)}
    make_dense_store(path)  # the command that made it, run again
    assert content(path) == whole
    assert verify(path, deep=True) == []
    assert written == {g: (path / f"frame/c.{g}.0.0.0").stat().st_mtime_ns for g in (0, 2)}


@pytest.mark.parametrize("kind", ["flip", "cut", "delete"])
@pytest.mark.parametrize(
    "name", [SPEC, SEGMENTS, CLASSES, MANIFEST, "zarr.json", "frame/zarr.json", SEAL, "journal", ENVIRONMENT]
)
def test_whatever_metadata_is_lost_no_row_group_is_done_again(path, name, kind):
    whole = content(path)
    written = (path / "frame/c.0.0.0.0").stat().st_mtime_ns
    damage(next((path / "commit").glob("*.journal")) if name == "journal" else path / name, kind)
    assert any(("journal" if name == "journal" else name) in fault for fault in faults_of(path))
    done = repair(path)
    assert done.reopened == []
    assert done.needs_extraction == (name in (SPEC, SEGMENTS, CLASSES))
    if done.needs_extraction:
        make_dense_store(path)
    else:
        finalize(path)
    assert content(path) == whole
    assert verify(path, deep=True) == []
    assert (path / "frame/c.0.0.0.0").stat().st_mtime_ns == written


def test_everything_at_once_is_mended_too(path):
    whole = content(path)
    for name in (MANIFEST, "frame/zarr.json", "status/c.0", "frame/c.2.0.0.0", SEGMENTS):
        damage(path / name)
    assert repair(path).reopened == [0, 2]
    make_dense_store(path)
    assert content(path) == whole


def test_a_store_whose_spec_was_lost_is_not_filled_by_another_recipe(path):
    damage(path / SPEC, "delete")
    repair(path)
    other = path.parent / "other.zarr"
    recipe = {"encoder": {"name": "other", "state": "random", "sha256": "9" * 64, "width": 6}}
    make_dense_store(other, recipe=recipe)
    assert not (path / MANIFEST).exists()
    make_dense_store(path, recipe=recipe)  # same shapes, other recipe: nothing of the old one counts
    assert content(path) == content(other)


def test_failures_survive_the_loss_of_the_journals(tmp_path):
    make_dense_store(tmp_path / "s.zarr", failed={3: 3, 12: 6})
    whole = content(tmp_path / "s.zarr")
    for file in (tmp_path / "s.zarr" / "commit").glob("*.journal"):
        file.unlink()
    damage(tmp_path / "s.zarr" / "frame/c.2.0.0.0")
    assert repair(tmp_path / "s.zarr").reopened == [2]
    make_dense_store(tmp_path / "s.zarr", failed={3: 3, 12: 6})
    assert content(tmp_path / "s.zarr") == whole


def test_a_sound_store_is_left_alone(path):
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.name != "lock"}
    assert repair(path).faults == []
    assert before == {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.name != "lock"}


def test_text_stores_and_compressed_ones_are_mended_alike(tmp_path):
    make_text_store(tmp_path / "t.zarr", compressor="zstd")
    whole = content(tmp_path / "t.zarr")
    damage(tmp_path / "t.zarr/noun_question/last_hidden/c.1.0", "cut")
    damage(tmp_path / "t.zarr/noun_question/start/c.2")
    assert repair(tmp_path / "t.zarr").reopened == [1, 2]
    make_text_store(tmp_path / "t.zarr", compressor="zstd")
    assert content(tmp_path / "t.zarr") == whole


def test_nobody_repairs_what_is_being_written(path):
    damage(path / "frame/c.1.0.0.0")
    repair(path)
    held = fsops.lock(path / "commit/lock", exclusive=False, wait=False)
    try:
        for deed in (repair, gc, finalize):
            with pytest.raises(DataError, match="another process is writing it"):
                deed(path)
    finally:
        fsops.unlock(held)


def test_what_is_no_store_is_not_touched(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="is not a feature store"):
        repair(tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []


def test_gc_deletes_what_killed_writers_left_and_nothing_else(path):
    whole = content(path)
    names = (
        f".partial-{fsops.HOST}-{os.getpid()}-1-x",
        f".partial-{fsops.HOST}-4194305-1-x",
        ".partial-elsewhere-7-1-x",
    )
    living, dead, foreign = (path / "frame" / name for name in names)
    for file in (living, dead, foreign):
        file.write_bytes(b"half")
    assert gc(path) == [(dead, 4)]
    assert living.exists()
    assert foreign.exists()
    assert {file for file, _ in gc(path, every_host=True)} == {living, foreign}
    assert content(path) == whole


def test_a_re_opened_row_group_that_is_half_done_counts_for_nothing(path, monkeypatch):
    """Its old record gives the very lengths that its new files have: killed in between, old and new would
    mix.
    """
    damage(path / "frame/c.1.0.0.0")
    repair(path)
    write_file, written = fsops.write_file, []

    def killed_after_one(file, *pieces):
        if written:
            raise KeyboardInterrupt
        written.append(file)
        write_file(file, *pieces)

    monkeypatch.setattr(fsops, "write_file", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        make_dense_store(path, failed={9: 3})
    monkeypatch.undo()
    assert open_store(path, partial=True).status[8:16].tolist() == [0] * 8
    make_dense_store(path, failed={9: 3})
    assert verify(path, deep=True) == []


def test_a_damaged_spec_does_not_hide_other_damage(path):
    whole = content(path)
    damage(path / SPEC, "cut")
    damage(path / "frame/c.1.0.0.0")
    done = repair(path)
    assert any("frame/c.1.0.0.0" in fault for fault in done.faults)
    make_dense_store(path)
    assert content(path) == whole
    assert verify(path, deep=True) == []


def test_a_store_of_another_version_is_not_repaired_away(path):
    for name in (SPEC, "zarr.json"):
        (path / name).chmod(0o644)
        (path / name).write_text(
            (path / name).read_text().replace(f'"schema": {SCHEMA_VERSION}', '"schema": 1')
        )
    before = content(path)
    with pytest.raises(DataError, match="has schema version 1"):
        repair(path)
    assert content(path) == before
