"""Exports: others read in them what the store holds, a store made of one is the same, and nothing is ever
half there.
"""

import csv
import json
import multiprocessing
import os
import re
import resource
import signal
from dataclasses import replace

import h5py
import lmdb
import numpy as np
import pytest
import torch

from helpers.cli import call
from helpers.tiny import CLASSES, make_dense_store, make_segments, make_text_store
from mambavl.cache import fsops, open_store
from mambavl.cache.interchange.export import export_store
from mambavl.cache.interchange.exported import import_export
from mambavl.cache.interchange.foreign import import_features
from mambavl.cache.interchange.lookup import SamplingTimes
from mambavl.cache.rows import OK, STATUS
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, ParentStore, Spec
from mambavl.cache.verify import verify
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError

FAILED = {3: 4, 9: 2, 12: 3}


def assert_same(ours, theirs):
    """Everything that a reader sees, bit by bit."""
    assert theirs.segments == ours.segments
    assert theirs.classes == ours.classes
    assert theirs.failures == ours.failures
    assert theirs.levels == ours.levels
    for array in ours.layout.row_arrays:
        np.testing.assert_array_equal(theirs.row_array(array.name), ours.row_array(array.name), strict=True)
    rows = np.flatnonzero(ours.status == OK)
    for name, level in ours.levels.items():
        for view in range(level.views):
            pairs = zip(ours.batch(rows, name, view=view), theirs.batch(rows, name, view=view), strict=True)
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def round_trip(folder, format, **options):
    ours = open_store(folder / "s.zarr")
    export_store(ours, folder / "export", format, **options)
    done = import_export(folder / "export", format, folder / "back.zarr")
    assert done.finalized
    assert verify(folder / "back.zarr", deep=True) == []
    return ours, open_store(folder / "back.zarr", verify="read")


def make_levels_store(path, rows=11):
    """Three levels of one video store, two views, half precision, failed rows, flags, times."""
    segments, rng = make_segments(rows), np.random.default_rng(3)
    levels = [
        Level("clip", "dense", (2, 5), "float16"),
        Level("frame", "dense", (2, 3, 5), "float32", steps=3),
        Level("grid", "dense", (2, 3, 2, 2, 5), "float16", steps=3, compressor="zstd"),
    ]
    encoder = EncoderIdentity(name="fake", state="random", sha256="0" * 64, width=5)
    spec = Spec(
        kind="video",
        recipe=FeatureRecipe(encoder=encoder),
        levels=tuple(levels),
        frame_pts=(2, 3),
        rows_per_group=4,
    )
    writer = StoreWriter(path, spec, segments, CLASSES, {})
    for group in writer.pending():
        index = np.array(writer.layout.rows_of(group))
        status = np.where(index % 4 == 2, 5, OK).astype(np.uint8)
        lengths = np.where(status == OK, 1 + index % 3, 0)
        values = {
            level.name: rng.normal(size=(len(index), *level.shape)).astype(level.dtype) for level in levels
        }
        for name, array in values.items():
            array[status != OK] = np.nan
            if name != "clip":
                array[np.broadcast_to((np.arange(3) >= lengths[:, None])[:, None], array.shape[:3])] = np.nan
        reasons = {i: f'ends at "{i}",\r\nthen nothing' for i in np.flatnonzero(status != OK).tolist()}
        pts = rng.random((len(index), 2, 3))
        writer.commit(
            group, RowGroup(values, {"length": lengths}, status, (index % 8).astype(np.uint8), pts, reasons)
        )
    writer.finalize()


# --- there and back


def test_every_level_view_time_and_failure_comes_back_from_hdf5(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    make_levels_store(tmp_path / "s.zarr")
    assert_same(*round_trip(tmp_path, "hdf5"))


def test_a_store_that_went_through_hdf5_has_the_same_shard_bytes(tmp_path):
    make_dense_store(tmp_path / "s.zarr", views=2, short={3: 1, 9: 2})
    round_trip(tmp_path, "hdf5")
    shards = [path.relative_to(tmp_path / "s.zarr") for path in (tmp_path / "s.zarr").rglob("c.*")]
    assert len(shards) == 3 * 5  # frame, status, flags, length, frame_pts
    for shard in shards:
        assert (tmp_path / "back.zarr" / shard).read_bytes() == (tmp_path / "s.zarr" / shard).read_bytes()


@pytest.mark.parametrize(("compressor", "group_rows"), [("none", 8), ("none", 1), ("zstd", 8)])
def test_ragged_text_comes_back_from_hdf5(tmp_path, monkeypatch, compressor, group_rows):
    """With one row a group, some groups hold no token at all."""
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    make_text_store(tmp_path / "s.zarr", compressor=compressor, group_rows=group_rows)
    ours, back = round_trip(tmp_path, "hdf5")
    assert_same(ours, back)
    assert back.spec.recipe.questions == ours.spec.recipe.questions


@pytest.mark.parametrize("level", ["clip", "frame", "grid"])
def test_a_level_with_its_views_times_and_failures_comes_back_from_npy(tmp_path, monkeypatch, level):
    monkeypatch.setenv("MAMBAVL_SCRATCH", str(tmp_path / "scratch"))
    make_levels_store(tmp_path / "s.zarr")
    ours, back = round_trip(tmp_path, "npy", level=level)
    assert set(back.levels) == {level}
    for name in ("status", "flags", "frame_pts", "length"):
        np.testing.assert_array_equal(back.row_array(name), ours.row_array(name))
    assert back.failures == ours.failures
    rows = np.flatnonzero(ours.status == OK)
    for view in (0, 1):
        assert torch.equal(back.batch(rows, level, view=view)[0], ours.batch(rows, level, view=view)[0])


def test_what_came_back_says_so_and_names_its_parent(tmp_path):
    make_dense_store(tmp_path / "s.zarr", failed=FAILED)
    ours, back = round_trip(tmp_path, "hdf5")
    assert back.spec.recipe == replace(ours.spec.recipe, source="import")
    assert back.spec.inputs.parent == ParentStore(store_id=ours.store_id, spec=ours.spec.to_dict())
    export_store(back, tmp_path / "again", "npy")
    import_export(tmp_path / "again", "npy", tmp_path / "again.zarr")
    assert_same(ours, open_store(tmp_path / "again.zarr"))


def test_a_restart_of_an_import_writes_what_is_missing(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "export", "hdf5")
    calls = iter([False, True])
    with pytest.raises(Interrupted, match="after 8 rows; the same command resumes"):
        import_export(tmp_path / "export", "hdf5", tmp_path / "back.zarr", should_stop=lambda: next(calls))
    assert import_export(tmp_path / "export", "hdf5", tmp_path / "back.zarr").rows == 12
    assert_same(open_store(tmp_path / "s.zarr"), open_store(tmp_path / "back.zarr"))


# --- as others read them


def test_h5py_alone_reads_an_export(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr", failed=FAILED)
    assert export_store(open_store(tmp_path / "s.zarr"), tmp_path / "s.h5", "hdf5") == 17
    with h5py.File(tmp_path / "s.h5") as file:
        ok = file["status"][:] == 1
        assert [name.decode() for name in file["narration_id"]] == [s.narration_id for s in make_segments(20)]
        np.testing.assert_array_equal(file["frame"][:][ok], features[ok])
        assert np.isnan(file["frame"][:][~ok]).all()
        assert json.loads(file.attrs["status_names"])[str(file["status"][3])] == "unreadable_video"
        assert file["segments.csv"].asstr()[()] == (tmp_path / "s.zarr/segments.csv").read_text()
        assert file.attrs["store_id"] == open_store(tmp_path / "s.zarr").store_id


def test_h5py_alone_reads_ragged_text(tmp_path):
    texts = make_text_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "s.h5", "hdf5")
    with h5py.File(tmp_path / "s.h5") as file:
        for question, expected in texts.items():
            start, length, tokens = (
                file[f"{question}/{name}"][:] for name in ("start", "length", "last_hidden")
            )
            assert len(tokens) == sum(map(len, expected))
            for row in range(20):
                np.testing.assert_array_equal(tokens[start[row] : start[row] + length[row]], expected[row])


def test_numpy_and_the_index_alone_read_an_export(tmp_path):
    features = make_dense_store(tmp_path / "s.zarr", views=2, failed=FAILED)
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "npy", "npy")
    with open(tmp_path / "npy/index.csv", newline="") as file:
        index = list(csv.DictReader(file))
    assert len(index) == 20
    for row, (line, segment) in enumerate(zip(index, make_segments(20), strict=True)):
        assert (line["narration_id"], float(line["start"])) == (segment.narration_id, segment.start)
        found = np.load(tmp_path / "npy" / f"{line['video_id']}.npy")[int(line["row"])]
        if line["status"] == "ok":
            np.testing.assert_array_equal(found, features[row])
        else:
            assert (line["status"], line["reason"]) == (STATUS[FAILED[row]], "made so")
            assert np.isnan(found).all()


def test_a_spec_of_any_length_fits_into_hdf5(tmp_path):
    """An attribute may have 64 KB; the fingerprints of 700 videos have more."""
    make_dense_store(tmp_path / "s.zarr", recipe={"encoder": {"name": "x" * 100_000}})
    assert_same(*round_trip(tmp_path, "hdf5"))


# --- LMDB


def make_frames_store(path, rate=30, frames=4, temporal=False):
    """Rows whose features are those of the frames shown; a row looks 3 s ahead, the next one begins 2 s
    later. Row 5 failed.
    """
    segments = make_segments(24)
    level = Level("frame", "dense", (1, frames, 3), "float32", steps=frames)
    encoder = EncoderIdentity(name="fake", state="random", sha256="0" * 64, width=3)
    spec = Spec(
        kind="video",
        recipe=FeatureRecipe(encoder=encoder),
        levels=(level,),
        frame_pts=(1, frames),
        rows_per_group=8,
    )
    writer = StoreWriter(path, spec, segments, CLASSES, {})
    times = np.array([segment.start + 0.49 + np.arange(frames) for segment in segments])
    shown = np.floor(times * rate).astype(np.int64)
    videos = np.array([int(segment.video_id[-3:]) for segment in segments])
    values = np.stack(np.broadcast_arrays(videos[:, None], shown, shown**0.5), -1).astype(np.float32)
    values[..., 2] += np.arange(24)[:, None] * temporal  # what stands around the frame counts as well
    for group in writer.pending():
        rows = np.array(writer.layout.rows_of(group))
        status = np.where(rows == 5, 3, OK).astype(np.uint8)
        features, pts = np.where(rows == 5, np.nan, values[rows].T).T[:, None], (shown[rows] / rate)[:, None]
        lengths, reasons = (
            np.where(rows == 5, 0, frames),
            dict.fromkeys(np.flatnonzero(rows == 5).tolist(), "lost"),
        )
        row_group = RowGroup(
            {"frame": features}, {"length": lengths}, status, np.zeros(len(rows), np.uint8), pts, reasons
        )
        writer.commit(group, row_group)
    writer.finalize()
    return times, values, shown


def test_rulstm_reads_the_frames_of_an_export(tmp_path):
    """Its own way: lmdb.open(path, readonly=True, lock=False), get(key), np.frombuffer(value, 'float32')."""
    _, values, shown = make_frames_store(tmp_path / "s.zarr")
    assert export_store(open_store(tmp_path / "s.zarr"), tmp_path / "frames", "lmdb") == 23
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["data.mdb"]
    with lmdb.open(str(tmp_path / "frames"), readonly=True, lock=False) as env, env.begin() as transaction:
        for row, segment in enumerate(make_segments(24)):
            for frame, expected in zip(shown[row] + 1, values[row], strict=True):
                found = transaction.get(f"{segment.video_id}_frame_{frame:010d}.jpg".encode())
                np.testing.assert_array_equal(np.frombuffer(found, "float32"), expected)
        distinct = {
            (s.video_id, f)
            for s, frames in zip(make_segments(24), shown.tolist(), strict=True)
            for f in frames
        }
        assert env.stat()["entries"] == len(distinct) < 23 * 4


@pytest.mark.parametrize(("rate", "delay"), [(30, 0.0), (25, 1 / 30)])
def test_frames_come_back_from_lmdb_at_the_same_moments(tmp_path, rate, delay):
    """At 25 frames a second, a frame is filed under the first of RULSTM's 30 numbers at which it is on
    display.
    """
    times, values, _ = make_frames_store(tmp_path / "s.zarr", rate)
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "frames", "lmdb")
    moments = SamplingTimes({"task": "recognition"}, times + delay)
    done = import_features(
        tmp_path / "frames", "lmdb", tmp_path / "back.zarr", make_segments(24), CLASSES, moments
    )
    assert done.failures == []  # the frames of the failed row are in its neighbours
    back = open_store(tmp_path / "back.zarr")
    np.testing.assert_array_equal(back.batch(range(24), "frame")[0].numpy(), values)
    assert (back.row_array("frame_pts")[:, 0] <= times + delay).all()


def test_frames_that_share_a_number_with_other_features_are_refused(tmp_path):
    make_frames_store(tmp_path / "s.zarr", temporal=True)
    with pytest.raises(
        DataError, match=r"P01_101_frame_0000000075.jpg: rows P01_101_0 and P01_101_1 hold different vectors"
    ):
        export_store(open_store(tmp_path / "s.zarr"), tmp_path / "frames", "lmdb")
    assert not (tmp_path / "frames").exists()


def test_times_rounded_to_milliseconds_keep_their_frame_numbers(tmp_path):
    """Matroska's 0.033 s is frame 2 at 30 a second, 0.067 s frame 3."""
    from mambavl.cache.interchange.export import ROUNDING

    for fps in (24, 25, 30, 50, 60):
        pts = np.round(np.arange(10_000) / fps, 3)
        np.testing.assert_array_equal(np.ceil(pts * fps - ROUNDING), np.arange(10_000))


def test_what_has_no_frames_is_refused_as_lmdb(tmp_path):
    make_levels_store(tmp_path / "s.zarr")
    make_text_store(tmp_path / "t.zarr")
    for store, level, message in (
        ("s", "clip", "level clip is not one vector for each frame shown"),
        ("s", "grid", "level grid is not one vector"),
        ("t", "verb_question/last_hidden", "is not one vector"),
        ("s", None, "holds clip, frame, grid; lmdb takes one of them: name it with --level"),
    ):
        with pytest.raises(UsageError, match=message):
            export_store(open_store(tmp_path / f"{store}.zarr"), tmp_path / "out", "lmdb", level=level)
    with pytest.raises(UsageError, match="differ in length, which npy cannot hold; use hdf5"):
        export_store(
            open_store(tmp_path / "t.zarr"), tmp_path / "out", "npy", level="verb_question/last_hidden"
        )
    assert not (tmp_path / "out").exists()


# --- never half there


@pytest.mark.parametrize("format", ["hdf5", "npy", "lmdb"])
def test_an_export_that_is_stopped_leaves_nothing(tmp_path, format):
    make_frames_store(tmp_path / "s.zarr")
    store, calls = open_store(tmp_path / "s.zarr"), iter([False, True])
    with pytest.raises(Interrupted):
        export_store(store, tmp_path / "out", format, should_stop=lambda: next(calls))
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def _die_half_way(folder, format):
    store, calls = open_store(folder / "s.zarr"), iter(range(2))
    export_store(
        store,
        folder / "out",
        format,
        should_stop=lambda: next(calls) and os.kill(os.getpid(), signal.SIGKILL),
    )


@pytest.mark.parametrize("format", ["hdf5", "npy", "lmdb"])
def test_an_export_that_is_killed_leaves_no_target_and_the_next_one_cleans_up(tmp_path, format):
    make_frames_store(tmp_path / "s.zarr")
    killed = multiprocessing.get_context("fork").Process(target=_die_half_way, args=(tmp_path, format))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 2
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "out", format)
    assert {path.name for path in tmp_path.iterdir()} == {"s.zarr", "out"}


def _export_to_a_full_disk(folder, format):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        export_store(open_store(folder / "s.zarr"), folder / "out", format)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("format", ["hdf5", "npy", "lmdb"])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, format):
    make_frames_store(tmp_path / "s.zarr")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        message = pool.apply(_export_to_a_full_disk, (tmp_path, format))
    assert re.search(r"out(/segments.csv)?: could not be written", message)
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_a_target_that_exists_is_refused_and_left_alone(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    (tmp_path / "out").write_text("mine")
    for format in ("hdf5", "npy", "lmdb"):
        with pytest.raises(
            UsageError, match="out: exists, and nothing is overwritten; delete it, or choose another --out"
        ):
            export_store(open_store(tmp_path / "s.zarr"), tmp_path / "out", format)
    assert (tmp_path / "out").read_text() == "mine"
    held = tmp_path / f"{fsops.TEMPORARY}new"
    held.mkdir()
    lock = fsops.lock(held / "lock", exclusive=True, wait=False)
    with pytest.raises(UsageError, match="another process is exporting to it"):
        export_store(open_store(tmp_path / "s.zarr"), tmp_path / "new", "hdf5")
    fsops.unlock(lock)


def test_an_unfinished_store_is_not_exported(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/manifest.json").unlink()
    with pytest.raises(UsageError, match="is not finished"):
        export_store(open_store(tmp_path / "s.zarr", partial=True), tmp_path / "out", "hdf5")


# --- damaged and hostile exports


def spoil_rows(file):
    file["frame"][3, 0, 1] = np.nan


def spoil_segments(file):
    text = file["segments.csv"].asstr()[()].replace("cut onion 7", "cut onion 8")
    del file["segments.csv"]
    file["segments.csv"] = text


def cut_rows(file):
    half = file["frame"][:10]
    del file["frame"]
    file["frame"] = half


def lose_statuses(file):
    del file["status"]


def link_out(file):
    del file["frame"]
    file["frame"] = h5py.ExternalLink("secret.h5", "frame")


def climb(file):
    spec = json.loads(file["spec.json"][()])
    spec["levels"][0]["name"] = "../../frame"
    file["spec.json"][()] = json.dumps(spec)
    file.move("frame", "x")
    file["../../frame"] = file["x"]


def invent_a_status(file):
    file["status"][2] = 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_rows, "level frame was changed in rows 0 to 7"),
        (spoil_segments, "segments.csv is not the one of its store"),
        (cut_rows, "level frame was changed in rows 8 to 15"),
        (lose_statuses, "has no 'status'"),
        (link_out, "frame is a link, and links are not followed"),
        (climb, "there is no level"),
        (invent_a_status, "what it says of its rows was changed"),
    ],
)
def test_a_changed_export_is_refused(tmp_path, spoil, message):
    make_dense_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "s.h5", "hdf5")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=message):
        import_export(tmp_path / "s.h5", "hdf5", tmp_path / "back.zarr")
    assert not (tmp_path / "back.zarr/manifest.json").exists()


def test_a_cut_export_is_refused(tmp_path):
    make_dense_store(tmp_path / "s.zarr")
    for format in ("hdf5", "npy"):
        export_store(open_store(tmp_path / "s.zarr"), tmp_path / format, format)
        file = tmp_path / format if format == "hdf5" else tmp_path / "npy/P01_102.npy"
        file.write_bytes(file.read_bytes()[:-500])
        with pytest.raises(DataError, match=f"{format}: "):
            import_export(tmp_path / format, format, tmp_path / "back.zarr")


# --- the commands


def test_the_commands_take_a_store_out_and_back(tmp_path, capsys):
    make_dense_store(tmp_path / "s.zarr", failed=FAILED)
    assert call("cache", "export", tmp_path / "s.zarr", "--to", "hdf5", "--out", tmp_path / "out/s.h5") == 0
    assert f"wrote the features of 17 rows, 3 have none to {tmp_path}/out/s.h5" in capsys.readouterr().out
    words = ("cache", "import", tmp_path / "out/s.h5", "--format", "hdf5", "--out", tmp_path / "back.zarr")
    assert call(*words, "--encoder", "mine") == 2
    assert (
        "is an export and brings rows, labels and recipe with it; leave out encoder"
        in capsys.readouterr().err
    )
    assert call(*words) == 0
    assert "wrote 20 rows" in capsys.readouterr().out
    assert_same(open_store(tmp_path / "s.zarr"), open_store(tmp_path / "back.zarr"))
    assert call("cache", "export", tmp_path / "s.zarr", "--to", "npy", "--out", tmp_path / "out/s.h5") == 2
    assert (
        call(
            "cache",
            "export",
            tmp_path / "s.zarr",
            "--to",
            "npy",
            "--out",
            tmp_path / "npy",
            "--level",
            "gird",
        )
        == 2
    )
    assert "there is no level 'gird'" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["swap", "negative", "flip"])
def test_an_npy_export_that_was_sorted_or_damaged_is_refused(tmp_path, damage):
    make_dense_store(tmp_path / "s.zarr")
    export_store(open_store(tmp_path / "s.zarr"), tmp_path / "npy", "npy")
    index = tmp_path / "npy" / "index.csv"
    lines = index.read_text().splitlines(keepends=True)
    if damage == "swap":
        lines[1:3] = lines[2:0:-1]
    elif damage == "negative":
        lines[1] = lines[1].replace('"0"', '"-1"', 1)
    else:
        file = next((tmp_path / "npy").glob("*.npy"))
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(data)
    index.write_text("".join(lines))
    with pytest.raises(DataError, match="is a damaged export"):
        import_export(tmp_path / "npy", "npy", tmp_path / "back.zarr")
