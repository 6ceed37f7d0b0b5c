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

import h5py
import lmdb
import numpy as np
import pytest

from helpers.cli import call
from helpers.exports import FAILED, assert_same, make_levels_store, round_trip
from helpers.tiny import CLASSES, make_dense_store, make_segments, make_text_store
from mambavl.cache import fsops, open_store
from mambavl.cache.interchange.export import export_store
from mambavl.cache.interchange.foreign import import_features
from mambavl.cache.interchange.lookup import SamplingTimes
from mambavl.cache.rows import OK, STATUS
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError

# --- there and back


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


# --- the commands


def test_the_commands_take_a_store_out_and_back(tmp_path, capsys):
    make_dense_store(tmp_path / "s.zarr", failed=FAILED)
    assert call("cache", "export", tmp_path / "s.zarr", "--to", "hdf5", "--out", tmp_path / "out/s.h5") == 0
    said = capsys.readouterr().out
    assert f"wrote the features of 17 rows to {tmp_path}/out/s.h5; left out 3 rows without features" in said
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
    assert f"{tmp_path}/s.zarr: there is no level 'gird'" in capsys.readouterr().err
