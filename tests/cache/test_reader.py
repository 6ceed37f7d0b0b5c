"""Reading: every way to hold a store gives the same batches, and what is damaged is never handed out."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from helpers.paths import DATA
from helpers.tiny import CLASSES, make_dense_store, make_segments, make_text_store, read_rows, unfinished
from mambavl.cache import open_store
from mambavl.cache.repair import repair
from mambavl.cache.rows import STATUS_CODE
from mambavl.cache.shards import Level
from mambavl.cache.spec import SCHEMA_VERSION, Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, UsageError

WAYS = [
    {"verify": "open"},
    {"verify": "read"},
    {"verify": "none"},
    {"resident": "ram"},
    {"resident": "ram", "verify": "read"},
    {"resident": "device", "device": "cpu"},
]
ROWS = [19, 0, 7, 8, 7, 3, -1]


@pytest.mark.parametrize("compressor", ["none", "zstd"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_to_hold_a_dense_level_gives_the_same_batch(tmp_path, monkeypatch, way, compressor):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    features = make_dense_store(tmp_path / "s.zarr", views=3, compressor=compressor)
    opened = open_store(tmp_path / "s.zarr", **way)
    views = np.array([0, 2, 1, 1, 0, 2, 0])
    for view in (0, 2, views):
        tokens, lengths = opened.batch(ROWS, "frame", view=view)
        assert torch.equal(tokens, torch.from_numpy(features[ROWS, view]))
        assert lengths.tolist() == [4] * len(ROWS)
    assert opened.batch([], "frame")[0].shape == (0, 4, 6)


@pytest.mark.parametrize("compressor", ["none", "zstd"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_to_hold_a_ragged_level_gives_the_same_batch(tmp_path, monkeypatch, way, compressor):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    texts = make_text_store(tmp_path / "t.zarr", compressor=compressor)["noun_question"]
    opened = open_store(tmp_path / "t.zarr", **way)
    tokens, lengths = opened.batch(ROWS, "noun_question/last_hidden")
    assert tokens.shape[1] == lengths.max()
    for row, found, length in zip(ROWS, tokens, lengths, strict=True):
        assert length == len(texts[row])
        np.testing.assert_array_equal(found[:length].numpy(), texts[row])
        assert not found[length:].any()
    assert opened.batch([], "noun_question/last_hidden")[0].shape[:2] == (0, 0)


def test_rows_that_are_shorter_than_their_level_end_in_zeros(tmp_path):
    """A window of fewer steps than the rest: what is stored behind its length, NaN, never reaches a head."""
    features = make_dense_store(tmp_path / "s.zarr", short={3: 1, 9: 2})
    for way in WAYS:
        tokens, lengths = open_store(tmp_path / "s.zarr", **way).batch([3, 9, 0], "frame")
        assert lengths.tolist() == [1, 2, 4]
        assert torch.equal(tokens[0, :1], torch.from_numpy(features[3, 0, :1]))
        assert not tokens[0, 1:].any()
        assert not tokens[1, 2:].any()


def test_zarr_python_reads_a_compressed_store(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr", compressor="zstd")
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "s.zarr", mode="r")["frame"][:], features)
    assert verify(tmp_path / "s.zarr", deep=True) == []


def test_tensorstore_reads_the_same_values(tmp_path):
    """An independent reader of the format, that shares no code with zarr-python."""
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    features = make_dense_store(tmp_path / "s.zarr", views=2)
    make_dense_store(tmp_path / "z.zarr", views=2, compressor="zstd")
    texts = make_text_store(tmp_path / "t.zarr")

    def read(array):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / array)}}
        return tensorstore.open(spec, open=True, read=True).result().read().result()

    np.testing.assert_array_equal(read("s.zarr/frame"), features)
    np.testing.assert_array_equal(read("z.zarr/frame"), features)
    assert read("s.zarr/status").tolist() == [1] * 20
    assert read("s.zarr/frame_pts").shape == (20, 1, 4)
    start, length, values = (
        read(f"t.zarr/verb_question/{name}") for name in ("start", "length", "last_hidden")
    )
    for row in range(20):
        np.testing.assert_array_equal(
            values[start[row] : start[row] + length[row]], texts["verb_question"][row]
        )


def test_xarray_opens_stores_by_the_names_of_their_axes(tmp_path):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    features = make_dense_store(tmp_path / "s.zarr", views=2)
    make_text_store(tmp_path / "t.zarr")
    with xarray.open_zarr(tmp_path / "s.zarr") as found:
        assert found["frame"].dims == ("row", "frame_view", "frame_step", "frame_channel")
        assert found["frame_pts"].dims == ("row", "pts_view", "pts_step")
        assert found["status"].dims == found["length"].dims == ("row",)
        np.testing.assert_array_equal(found["frame"].values, features)
    with xarray.open_zarr(tmp_path / "t.zarr", group="verb_question") as found:
        assert found["last_hidden"].dims == ("last_hidden_token", "last_hidden_channel")
        assert found["start"].dims == ("row",)


def test_a_compressed_store_is_decoded_once_and_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    features = make_dense_store(tmp_path / "s.zarr", compressor="zstd")
    opened = open_store(tmp_path / "s.zarr")
    opened.batch([1], "frame")
    (file,) = (tmp_path / "scratch" / opened.store_id).glob("*.raw")
    written = file.stat().st_mtime_ns
    again = open_store(tmp_path / "s.zarr").batch([1, 5], "frame")[0]
    assert file.stat().st_mtime_ns == written
    assert torch.equal(again, torch.from_numpy(features[[1, 5], 0]))


def test_a_row_or_view_that_is_not_there_is_refused(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    for rows in ([20], [-21], [0, 99], np.ones(19, bool)):
        with pytest.raises(IndexError, match=r"20"):
            opened.batch(rows, "frame")
    with pytest.raises(TypeError):
        opened.batch([0.5], "frame")
    with pytest.raises(UsageError, match="has 1 views"):
        opened.batch([0], "frame", view=1)
    with pytest.raises(UsageError, match=r"s\.zarr: there is no level 'grid'; this store holds frame"):
        opened.batch([0], "grid")
    with pytest.raises(UsageError, match="there are status, flags"):
        opened.row_array("nothing")
    with pytest.raises(UsageError, match="resident='disk': there are mmap, ram, device"):
        open_store(tmp_path / "s.zarr", resident="disk")


@pytest.mark.parametrize("way", [{"verify": "read"}, {"resident": "ram"}], ids=str)
def test_a_flipped_bit_in_a_row_is_never_read(tmp_path, way):
    make_dense_store(tmp_path / "s.zarr")
    flip(tmp_path / "s.zarr/frame/c.1.0.0.0", 5)
    with pytest.raises(DataError, match=r"frame/c\.1\.0\.0\.0: .*(sha256|crc32c)"):
        open_store(tmp_path / "s.zarr", **way).batch([8], "frame")


def test_a_row_that_rots_after_its_shard_was_opened_is_found_at_the_next_read(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    make_text_store(tmp_path / "t.zarr")
    for name, level in (("s", "frame"), ("t", "verb_question/last_hidden")):
        opened = open_store(tmp_path / f"{name}.zarr", verify="read")
        opened.batch(range(8), level)
        file = next((tmp_path / f"{name}.zarr" / level).glob("c.0*"))
        flip(file, 8)
        with pytest.raises(DataError, match="crc32c of chunk 0 does not match"):
            opened.batch(range(8), level)


def test_a_sound_shard_in_the_wrong_place_is_found_where_reads_are_verified(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    first, second = (tmp_path / f"s.zarr/frame/c.{group}.0.0.0" for group in (0, 1))
    second.chmod(0o644)
    second.write_bytes(first.read_bytes())
    with pytest.raises(DataError, match="sha256"):
        open_store(tmp_path / "s.zarr", verify="read").batch([8], "frame")


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.chmod(0o644)
    with open(file, "r+b") as opened:  # in place, as a disk rots: maps of the file see it
        opened.write(data)


def test_many_shards_need_no_more_open_files_than_the_system_allows(tmp_path):
    """Patch tokens of EK100 make 11,000 shards; a login shell often allows 1,024 open files."""
    make_dense_store(tmp_path / "s.zarr", rows=300, group_rows=1)
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
        "from mambavl.cache import open_store\n"
        "print(open_store(sys.argv[1]).batch(range(300), 'frame')[0].shape[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s.zarr"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "300"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_store(tmp_path, method):
    features = make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    opened.batch([0], "frame")
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(read_rows, [(opened, [row, 19 - row]) for row in range(4)])
    for row, values in enumerate(found):
        np.testing.assert_array_equal(values, features[[row, 19 - row], 0])


def test_a_pickle_carries_no_features(tmp_path):
    make_dense_store(tmp_path / "s.zarr", rows=600, width=64)
    opened = open_store(tmp_path / "s.zarr", resident="ram")
    opened.batch(range(600), "frame")
    assert opened.segments
    assert len(pickle.dumps(opened)) < 100_000


def test_pinned_memory_is_asked_for_where_there_is_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("page-locked memory needs a CUDA GPU")
    make_dense_store(tmp_path / "s.zarr")
    assert open_store(tmp_path / "s.zarr", pin=True).batch([0], "frame")[0].is_pinned()


GOLDEN = sorted(DATA.glob("schema-*"))


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_golden_stores_are_read_for_ever(tmp_path, folder):
    """Written by the version that made the schema; their values are what the same seeds give today, and so
    are their bytes.
    """
    features = make_dense_store(
        tmp_path / "v.zarr", 5, group_rows=4, width=3, steps=2, views=2, failed={3: 3}, short={1: 1}
    )
    texts = make_text_store(tmp_path / "t.zarr", 5, group_rows=4, width=3)
    video, text = (open_store(folder / name, verify="read") for name in ("video.zarr", "text.zarr"))
    for path in (video.path, text.path):
        assert verify(path, deep=True) == []
    rows = [0, 2, 4]
    for view in (0, 1):
        assert torch.equal(video.batch(rows, "frame", view=view)[0], torch.from_numpy(features[rows, view]))
    assert video.batch([1], "frame")[1].tolist() == [1]
    assert video.failures == [[video.segments[3].narration_id, 3, "made so"]]
    for row in range(5):
        tokens, _ = text.batch([row], "noun_question/last_hidden")
        np.testing.assert_array_equal(tokens[0].numpy(), texts["noun_question"][row])
    if folder.name == f"schema-{SCHEMA_VERSION}":
        assert (video.store_id, text.store_id) == tuple(
            open_store(tmp_path / name).store_id for name in ("v.zarr", "t.zarr")
        )


def test_the_maps_go_with_the_store(tmp_path):
    make_dense_store(tmp_path / "maps.zarr")
    opened = open_store(tmp_path / "maps.zarr")
    opened.batch([0, 9], "frame")
    held = lambda: sum("maps.zarr" in line for line in Path("/proc/self/maps").read_text().splitlines())
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    assert held() == 2
    del opened  # without the help of the garbage collector
    assert held() == 0


def test_a_text_without_tokens_at_the_end_of_a_full_row_group_is_empty(tmp_path):
    """Its `start` is the next row group's first token, which may not be there."""
    level = Level("q/last_hidden", "ragged", (3,), "float32", capacity=64)
    spec = Spec(kind="text", levels=(level,), rows_per_group=2)
    writer = StoreWriter(tmp_path / "t.zarr", spec, make_segments(4), CLASSES, {})
    ones, none = np.ones(2, np.uint8), np.zeros(2, np.uint8)
    for group in writer.pending():
        writer.commit(
            group,
            RowGroup({level.name: np.ones((64, 3), np.float32)}, {"q/length": np.array([64, 0])}, ones, none),
        )
    writer.finalize()
    for way in WAYS:
        opened = open_store(tmp_path / "t.zarr", **way)
        for rows in ([3], [1, 3], [0, 1, 2, 3]):
            tokens, lengths = opened.batch(rows, level.name)
            assert lengths.tolist() == [0 if row % 2 else 64 for row in rows]
            assert tokens.sum() == 3 * lengths.sum()


def test_a_relative_path_stays_the_store_that_was_opened(tmp_path, monkeypatch):
    features = make_dense_store(tmp_path / "s.zarr")
    (tmp_path / "elsewhere").mkdir()
    make_dense_store(tmp_path / "elsewhere" / "s.zarr", 20, steps=4, width=6, failed={0: 3})
    monkeypatch.chdir(tmp_path)
    opened = open_store("s.zarr")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(opened.batch([0], "frame")[0], torch.from_numpy(features[[0], 0]))


def test_a_store_that_was_repaired_under_a_reader_is_not_read_on(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    opened.batch([0], "frame")
    flip(tmp_path / "s.zarr/frame/c.1.0.0.0", 3)
    repair(tmp_path / "s.zarr")
    make_dense_store(tmp_path / "s.zarr", failed={9: 3})
    opened.batch([1], "frame")  # mapped before
    with pytest.raises(DataError, match="was repaired or replaced since it was opened; open it again"):
        opened.batch([8], "frame")


def test_a_partial_store_that_grows_stays_what_it_was_when_opened(tmp_path):
    from helpers.tiny import unfinished

    writer, group = unfinished(tmp_path / "s.zarr")
    writer.commit(0, group)
    opened = open_store(tmp_path / "s.zarr", partial=True)
    writer.commit(1, group)
    assert opened.done_groups == 1
    assert opened.status.tolist() == [1] * 8 + [0] * 12
    assert pickle.loads(pickle.dumps(opened)).status.tolist() == opened.status.tolist()


def test_the_decoded_copy_of_a_compressed_store_is_checked_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    make_dense_store(tmp_path / "s.zarr", compressor="zstd")
    opened = open_store(tmp_path / "s.zarr")
    opened.batch([0], "frame")
    flip(next((tmp_path / "scratch" / opened.store_id).glob("*.raw")), 7)
    with pytest.raises(DataError, match=r"frame\.raw: is damaged; delete"):
        open_store(tmp_path / "s.zarr", verify="read").batch([0], "frame")


def test_lengths_that_reach_beyond_a_level_are_refused_before_anything_is_copied(tmp_path, monkeypatch):
    make_text_store(tmp_path / "t.zarr")
    opened = open_store(tmp_path / "t.zarr")
    lengths = opened.row_array("noun_question/length").copy()
    for wrong in (-(2**30), 65):
        lengths[3] = wrong
        opened._row_arrays["noun_question/length"] = lengths
        opened._sources.clear()
        with pytest.raises(DataError, match="reach beyond it"):
            opened.batch([1], "noun_question/last_hidden")


def test_an_empty_store_is_read_as_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    for compressor in ("none", "zstd"):
        level = Level("frame", "dense", (1, 4, 6), "float32", steps=4, compressor=compressor)
        spec = Spec(kind="video", levels=(level,), rows_per_group=8)
        StoreWriter(tmp_path / compressor, spec, (), CLASSES, {}).finalize()
        assert open_store(tmp_path / compressor).batch([], "frame")[0].shape == (0, 4, 6)


def test_batches_are_the_rows_that_were_written_in_any_order(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    rows = [19, 0, 7, 8, 7]
    tokens, lengths = opened.batch(rows, "frame")
    assert torch.equal(tokens, torch.from_numpy(features[rows, 0]))
    assert lengths.tolist() == [4] * 5
    assert opened.segments == make_segments(20)
    assert opened.classes == CLASSES


def test_ragged_text_is_padded_with_zeros_and_keeps_its_lengths(tmp_path):
    texts = make_text_store(tmp_path / "t.zarr")
    opened = open_store(tmp_path / "t.zarr")
    rows = [3, 17, 0, 9]
    for question in ("verb_question", "noun_question"):
        tokens, lengths = opened.batch(rows, f"{question}/last_hidden")
        for i, row in enumerate(rows):
            length = len(texts[question][row])
            assert lengths[i] == length
            np.testing.assert_array_equal(tokens[i, :length].numpy(), texts[question][row])
            assert not tokens[i, length:].any()


def test_a_pickled_store_reads_the_same(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    first = opened.batch([1, 2], "frame")[0]
    assert torch.equal(pickle.loads(pickle.dumps(opened)).batch([1, 2], "frame")[0], first)


def test_missing_and_empty_shards_never_read_as_data(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr")
    shard = tmp_path / "s.zarr/frame/c.1.0.0.0"
    shard.chmod(0o644)
    shard.write_bytes(b"")
    with pytest.raises(DataError, match=r"frame/c\.1"):
        opened.batch([9], "frame")
    with pytest.raises(DataError, match="0 bytes"):
        open_store(tmp_path / "s.zarr")


def test_an_unfinished_store_is_opened_only_on_request(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    writer.commit(1, group)
    with pytest.raises(DataError, match="8 of 20 rows are done"):
        open_store(tmp_path / "s.zarr")
    opened = open_store(tmp_path / "s.zarr", partial=True)
    assert opened.status.tolist() == [0] * 8 + [1] * 8 + [0] * 4
    with pytest.raises(DataError, match="never written"):
        opened.batch([0], "frame")
    with pytest.raises(DataError, match="8 of 20"):
        writer.finalize()


def test_a_row_that_failed_is_never_handed_out(tmp_path):
    writer, group = unfinished(tmp_path / "s.zarr")
    group.status[3] = STATUS_CODE["missing_video"]
    group.reasons = {3: "no file"}
    writer.commit(1, group)
    with pytest.raises(DataError, match=r"P01_102_1 .*missing_video"):
        open_store(tmp_path / "s.zarr", partial=True).batch([8, 11], "frame")


def test_a_mask_of_rows_selects_rows(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr")
    mask = np.arange(20) % 7 == 0
    assert torch.equal(
        open_store(tmp_path / "s.zarr").batch(mask, "frame")[0], torch.from_numpy(features[mask, 0])
    )
