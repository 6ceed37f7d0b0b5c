"""Finishing a store: by the last writer, only when it is whole, and never again from changed files."""

import pytest

from helpers.damage import damage
from helpers.forks import fork
from helpers.tiny import make_dense_store, shortened, unfinished
from mambavl.cache import fsops, open_store
from mambavl.cache.finalize import finalize
from mambavl.cache.repair import repair
from mambavl.cache.spec import MANIFEST, SEGMENTS
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError, UsageError


@pytest.fixture
def path(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.mark.parametrize("name", ["frame/zarr.json", SEGMENTS])
def test_damaged_metadata_is_never_made_part_of_a_finished_store(path, name):
    (path / MANIFEST).unlink()
    damage(path / name)
    with pytest.raises(DataError, match=rf"mends what can be mended.*\n  {name}: is not what the spec says"):
        finalize(path)
    assert repair(path).reopened == []
    make_dense_store(path)
    assert verify(path, deep=True) == []


def test_a_finished_store_takes_no_more_rows(path):
    from helpers.tiny import unfinished

    writer, group = unfinished(path.parent / "t.zarr")
    writer.close()
    with pytest.raises(UsageError, match="nothing can be added"):
        writer.commit(1, group)


def test_closing_a_closed_store_checks_it_and_never_blesses_a_change(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    manifest = finalize(tmp_path / "s.zarr")
    assert finalize(tmp_path / "s.zarr") == manifest
    file = tmp_path / "s.zarr" / "frame" / "zarr.json"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"damaged since.*\n  frame/zarr\.json"):
        finalize(tmp_path / "s.zarr")


def test_of_writers_that_end_together_the_last_one_finishes(tmp_path):
    """One leaves while the other has a row group to do: whoever lets go last finds the store complete."""
    first, group = unfinished(tmp_path / "s.zarr")
    second, _ = unfinished(tmp_path / "s.zarr")
    first.commit(0, group)
    first.commit(1, group)
    assert second.pending() == [2]
    second.commit(2, shortened(group, 4))
    assert second.finish() is None  # the first still holds the store
    assert first.finish()["store_id"] == open_store(tmp_path / "s.zarr").store_id


def test_what_somebody_was_writing_when_he_was_killed_is_no_part_of_a_finished_store(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "frame" / "c.0.0.0.0"
    assert fork(lambda: fsops.temporary_name(file).touch()).wait() == 0
    assert len(list(fsops.temporaries(tmp_path / "s.zarr"))) == 1
    for number in range(3):
        writer.commit(number, shortened(group, len(writer.layout.rows_of(number))))
    assert writer.finish()
    assert not list(fsops.temporaries(tmp_path / "s.zarr"))
