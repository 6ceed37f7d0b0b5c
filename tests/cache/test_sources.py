"""Where the values of a level are: mapped, decoded, on a device; all of them give the same bytes."""

import numpy as np
import pytest
import torch

from helpers.tiny import make_dense_store, make_text_store
from mambavl.cache import open_store
from mambavl.cache.sources import (
    DecodedRows,
    MappedShards,
    StoreFiles,
    map_file,
    open_source,
    scratch_folder,
)
from mambavl.configs.errors import DataError


def files_of(path, verify="open"):
    store = open_store(path)
    manifest = {str(file.relative_to(path)): [0, "another"] for file in path.rglob("*") if file.is_file()}
    return StoreFiles(path, store.layout, verify, store.store_id, manifest, list(range(store.layout.groups)))


@pytest.mark.parametrize(("compressor", "kind"), [("none", MappedShards), ("zstd", DecodedRows)])
def test_a_mapped_level_is_read_in_place_and_a_compressed_one_is_decoded(
    tmp_path, monkeypatch, compressor, kind
):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    features = make_dense_store(tmp_path / "s.zarr", compressor=compressor)
    files = files_of(tmp_path / "s.zarr")
    (level,) = files.layout.levels
    source = open_source(level, files, "mmap", torch.device("cpu"))
    assert isinstance(source, kind)
    rows = np.array([19, 0, 7])
    out = np.empty((3, level.chunk_bytes), np.uint8)
    source.rows(rows, np.zeros(3, np.int64), out)
    np.testing.assert_array_equal(out.view(np.float32).reshape(3, *level.shape), features[rows])


@pytest.mark.parametrize("resident", ["ram", "device"])
def test_a_resident_level_is_one_array_of_all_rows(tmp_path, resident):
    features = make_dense_store(tmp_path / "s.zarr")
    files = files_of(tmp_path / "s.zarr")
    (level,) = files.layout.levels
    source = open_source(level, files, resident, torch.device("cpu"))
    if resident == "device":
        np.testing.assert_array_equal(source.numpy(), features)
    else:
        out = np.empty((1, level.chunk_bytes), np.uint8)
        source.rows(np.array([11]), np.zeros(1, np.int64), out)
        np.testing.assert_array_equal(out.view(np.float32).reshape(level.shape), features[11])


def test_tokens_of_a_ragged_level_are_followed_by_zeros(tmp_path):
    texts = make_text_store(tmp_path / "t.zarr")
    store = open_store(tmp_path / "t.zarr")
    level = store.layout.level("verb_question/last_hidden")
    source = open_source(level, files_of(tmp_path / "t.zarr"), "mmap", torch.device("cpu"))
    starts = store.row_array("verb_question/start")[:8]
    lengths = store.row_array("verb_question/length")[:8].astype(np.int64)
    out = np.full((8, lengths.max() + 1, level.width * 4), 255, np.uint8)
    source.tokens(starts, lengths, out)
    found = out.view(np.float32)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(found[row, :length], texts["verb_question"][row])
        assert not found[row, length:].any()


def test_what_is_read_is_compared_with_what_is_recorded(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    files = files_of(tmp_path / "s.zarr", verify="read")
    (level,) = files.layout.levels
    with pytest.raises(DataError, match=r"c\.0\.0\.0\.0: its sha256 is not the recorded one"):
        files.map(level, 0)
    with pytest.raises(DataError, match="its sha256 is not the recorded one; run `mambavl cache verify"):
        files.read("status/c.0", hashed=True)
    with pytest.raises(DataError, match="nothing: cannot be read"):
        files.read("nothing", hashed=False)


def test_a_store_that_was_replaced_is_not_mapped(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    files = files_of(tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / "manifest.json").unlink()
    with pytest.raises(DataError, match="was repaired or replaced since it was opened; open it again"):
        files.map(files.layout.levels[0], 0)


def test_a_map_is_the_files_bytes_and_read_only(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(256)))
    mapped = map_file(tmp_path / "f")
    assert mapped.tolist() == list(range(256))
    assert not mapped.flags.writeable
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="it is empty"):
        map_file(tmp_path / "empty")


def test_the_scratch_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "here"))
    assert scratch_folder() == tmp_path / "here"
    monkeypatch.delenv("MAMBAVL_SCRATCH")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert scratch_folder() == tmp_path / "cache" / "mambavl" / "scratch"
