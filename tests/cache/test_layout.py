"""Which files a store has, and which row groups are done."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.tiny import make_dense_store, make_text_store, shortened, unfinished
from mambavl.cache import open_store, shards
from mambavl.cache.layout import Layout, committed_groups, file_size
from mambavl.cache.shards import TOKEN_CHUNK, Level
from mambavl.cache.spec import Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import StoreWriter
from mambavl.configs.errors import UsageError


def test_the_record_that_fits_the_files_counts_whoever_wrote_it(tmp_path, monkeypatch):
    """Where no lock keeps writers apart, two may do the same row group with other results: the files say
    whose record counts.
    """
    monkeypatch.setattr(StoreWriter, "is_done", lambda self, group: False)
    writer, group = unfinished(tmp_path / "s.zarr")
    other, _ = unfinished(tmp_path / "s.zarr")
    writer._journal, other._journal = (tmp_path / "s.zarr" / "commit" / f"{name}.journal" for name in "ab")
    for index in (0, 1, 2):
        writer.commit(index, shortened(group, 4 if index == 2 else 8))
    changed = replace(
        group, levels={"frame": np.ones((8, 1, 4, 6), np.float32)}, flags=np.full(8, 1, np.uint8)
    )
    other.commit(0, changed)
    other.close()
    frame = tmp_path / "s.zarr/frame/c.0.0.0.0"
    whole, mixed = frame.read_bytes(), shards.encode_shard(group.levels["frame"], writer.layout.levels[0], 8)
    frame.write_bytes(mixed)  # one file of the one, the rest of the other
    assert writer.pending() == [0]
    frame.write_bytes(whole)
    assert writer.pending() == []
    writer.finalize()
    assert verify(tmp_path / "s.zarr", deep=True) == []
    assert open_store(tmp_path / "s.zarr").batch([0], "frame")[0].max() == 1


def test_a_row_group_of_two_claims_and_no_fitting_content_is_done_again(tmp_path, monkeypatch):
    writer, group = unfinished(tmp_path / "s.zarr")
    writer.commit(1, group)
    monkeypatch.setattr(StoreWriter, "is_done", lambda self, group: False)
    other, _ = unfinished(tmp_path / "s.zarr")
    other.commit(1, replace(group, levels={"frame": np.ones((8, 1, 4, 6), np.float32)}))
    monkeypatch.undo()
    file = tmp_path / "s.zarr/frame/c.1.0.0.0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    third, _ = unfinished(tmp_path / "s.zarr")
    assert 1 in third.pending()
    assert third.commit(1, group) > 0
    assert 1 not in third.pending()


def test_row_groups_share_the_rows_and_the_last_is_short():
    level = Level("frame", "dense", (1, 4, 6), "float32", steps=4)
    spec = Spec(kind="video", levels=(level,), frame_pts=(1, 4), rows_per_group=8, rows=20)
    layout = Layout.from_spec(spec)
    assert layout.groups == 3
    assert [layout.rows_of(group) for group in range(3)] == [range(8), range(8, 16), range(16, 20)]
    assert [array.name for array in layout.row_arrays] == ["status", "flags", "frame_pts", "length"]
    assert layout.level("frame") == level
    with pytest.raises(UsageError, match="there is no level 'clip'; this store holds frame"):
        layout.level("clip")


def test_levels_of_one_group_share_the_lengths_of_their_rows():
    """A level of fewer steps than its row has all of them: what is predicted is one step of 6 tokens."""
    clip, frame = Level("clip", "dense", (1, 2)), Level("frame", "dense", (1, 4, 2), steps=4)
    patch = Level("patch", "dense", (1, 24, 2), steps=4)
    predicted = Level("predicted", "dense", (1, 6, 2), steps=1)
    words = Level("noun_question/last_hidden", "ragged", (2,), capacity=TOKEN_CHUNK)
    spec = Spec(kind="video", levels=(predicted, clip, frame, patch, words), rows_per_group=8, rows=20)
    layout = Layout.from_spec(spec)
    assert [layout.longest(level) for level in spec.levels] == [4, 4, 4, 4, TOKEN_CHUNK]
    lengths = np.array([0, 1, 3, 4])
    assert clip.valid_tokens(lengths).tolist() == [0, 1, 1, 1]
    assert frame.valid_tokens(lengths).tolist() == [0, 1, 3, 4]
    assert patch.valid_tokens(lengths).tolist() == [0, 6, 18, 24]
    assert predicted.valid_tokens(lengths).tolist() == [0, 6, 6, 6]
    assert words.valid_tokens(lengths).tolist() == [0, 1, 3, 4]
    assert Layout.from_spec(replace(spec, levels=(clip,))).longest(clip) is None


def test_every_file_has_the_length_that_the_layout_says(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    make_text_store(tmp_path / "t.zarr")
    for name in ("s.zarr", "t.zarr"):
        store = open_store(tmp_path / name)
        expected = {file: size for group in range(3) for file, size in store.layout.file_sizes(group).items()}
        assert {file: (store.path / file).stat().st_size for file in expected} == expected
        chunks = {str(file.relative_to(store.path)) for file in store.path.rglob("c.*")}
        assert chunks == expected.keys()


def test_a_row_group_counts_only_with_all_of_its_files(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert sorted(committed_groups(store.path, store.layout)) == [0, 1, 2]
    assert sorted(committed_groups(store.path, store.layout, only=1)) == [1]
    file = store.path / store.layout.row_file(store.layout.row_arrays[0], 1)
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    assert sorted(committed_groups(store.path, store.layout)) == [0, 2]
    file.unlink()
    assert file_size(file) is None
    assert sorted(committed_groups(store.path, store.layout)) == [0, 2]
