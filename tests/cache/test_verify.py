"""Verify finds every damage, names its file, and finds nothing in a sound store."""

import os
import shutil

import numpy as np
import pytest

from helpers.damage import content
from helpers.tiny import make_dense_store
from mambavl.cache import journal, open_store
from mambavl.cache.spec import MANIFEST
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError


@pytest.fixture
def path(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_a_journal_that_came_later_is_noticed(path):
    journal.append(path / "commit" / "z.journal", {"group": 0})
    assert verify(path, deep=True) == ["commit/z.journal: came after the store was finished"]
    assert verify(path) == []


def test_progress_counts_every_byte(path):
    seen = []
    verify(path, deep=True, progress=lambda done, total: seen.append((done, total)))
    done, total = seen[-1]
    assert done == total == sum(len(data) for name, data in content(path).items() if name != MANIFEST)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_a_store_copied_elsewhere_is_the_same_store(path, tmp_path):
    shutil.copytree(path, tmp_path / "copy.zarr")
    assert verify(tmp_path / "copy.zarr", deep=True) == []
    assert open_store(tmp_path / "copy.zarr").store_id == open_store(path).store_id
    np.testing.assert_array_equal(
        open_store(tmp_path / "copy.zarr").batch([4], "frame")[0], open_store(path).batch([4], "frame")[0]
    )


def test_a_finished_store_is_verified_and_its_files_are_read_only(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    assert verify(tmp_path / "s.zarr", deep=True) == []
    shard = tmp_path / "s.zarr/frame/c.0.0.0.0"
    assert not os.stat(shard).st_mode & 0o222


@pytest.mark.parametrize(
    "victim", ["frame/c.1.0.0.0", "status/c.0", "frame_pts/c.0.0.0", "segments.csv", "spec.json"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "zero"])
def test_every_damage_is_found_by_verify(tmp_path, victim, damage):
    make_dense_store(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / victim
    data = bytearray(file.read_bytes())
    file.chmod(0o644)
    if damage == "flip":
        position = data.index(b"1") if victim == "spec.json" else len(data) // 2
        data[position] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    elif damage == "zero":
        file.write_bytes(b"")
    else:
        file.unlink()
    try:
        faults = verify(tmp_path / "s.zarr", deep=True)
    except DataError as error:
        faults = [str(error)]
    assert any(victim in fault for fault in faults)


def test_a_shard_in_the_wrong_place_is_found(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    first, second = (tmp_path / f"s.zarr/frame/c.{g}.0.0.0" for g in (0, 1))
    second.chmod(0o644)
    second.write_bytes(first.read_bytes())
    assert any("frame/c.1" in fault for fault in verify(tmp_path / "s.zarr", deep=True))
