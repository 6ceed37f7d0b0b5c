"""Features that others made: a row gets those of its own name or its own moments, or says why it has none."""

import hashlib
import sys
from dataclasses import replace

import h5py
import lmdb
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.cli import call
from helpers.dataset import make_dataset
from helpers.tiny import CLASSES, ROWS, make_segments, make_text_store, tiny_recipe
from mambavl.cache import canonical, open_store
from mambavl.cache.interchange.foreign import import_features, source_sha256
from mambavl.cache.interchange.lookup import SamplingTimes
from mambavl.cache.rows import EMPTY_WINDOW, OK, STATUS
from mambavl.cache.verify import verify
from mambavl.configs.errors import DataError, Interrupted, UsageError
from mambavl.fuse.report import write_report
from mambavl.fuse.train import train

SEGMENTS = make_segments(12)  # P01_101 has ten rows, two seconds apart, P01_102 two
BY_NAME = SamplingTimes({"task": "recognition"})


def features(*shape, dtype=np.float32, segments=SEGMENTS):
    rng = np.random.default_rng(0)
    return {segment.narration_id: rng.normal(size=shape).astype(dtype) for segment in segments}


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def write_hdf5_folder(path, arrays):
    path.mkdir()
    for name, values in arrays.items():
        write_hdf5(path / f"{name}.h5", {"features": values})


def write_safetensors(path, arrays):
    save_file({name: torch.from_numpy(values) for name, values in arrays.items()}, path)


WRITERS = {"hdf5 file": write_hdf5, "hdf5 folder": write_hdf5_folder, "safetensors": write_safetensors}


def bring(folder, format, moments=BY_NAME, source="source", **options):
    done = import_features(
        folder / source, format, folder / "out.zarr", SEGMENTS, CLASSES, moments, **options
    )
    assert done.finalized
    assert verify(folder / "out.zarr", deep=True) == []
    return done, open_store(folder / "out.zarr", verify="read")


# --- by name


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("shape", "level"), [((5,), "clip"), ((3, 5), "frame"), ((3, 2, 2, 5), "grid")])
@pytest.mark.parametrize("way", WRITERS)
def test_rows_found_by_name_are_bit_equal(tmp_path, way, shape, level, dtype):
    arrays = features(*shape, dtype=dtype)
    WRITERS[way](tmp_path / "source", arrays)
    done, store = bring(tmp_path, way.partition(" ")[0])
    assert (done.failures, done.unused, store.segments) == ([], 0, SEGMENTS)
    tokens, _ = store.batch(range(12), level)
    expected = np.stack([arrays[segment.narration_id] for segment in SEGMENTS])
    assert tokens.numpy().dtype == dtype
    np.testing.assert_array_equal(tokens.numpy().reshape(expected.shape), expected)


def test_rows_of_different_lengths_keep_them(tmp_path):
    arrays = {name: values[: 1 + i % 3] for i, (name, values) in enumerate(features(3, 5).items())}
    write_hdf5(tmp_path / "source", arrays)
    _, store = bring(tmp_path, "hdf5")
    tokens, lengths = store.batch(range(12), "frame")
    for row, segment in enumerate(SEGMENTS):
        expected = arrays[segment.narration_id]
        assert lengths[row] == len(expected)
        np.testing.assert_array_equal(tokens[row, : len(expected)].numpy(), expected)
        assert not tokens[row, len(expected) :].any()


def test_doubles_become_single_and_bfloat16_too(tmp_path):
    arrays = features(3, 5, dtype=np.float64)
    write_hdf5(tmp_path / "source", arrays)
    _, store = bring(tmp_path, "hdf5")
    np.testing.assert_array_equal(
        store.batch([0], "frame")[0][0].numpy(), arrays["P01_101_0"].astype(np.float32)
    )
    halves = {name: torch.from_numpy(values).bfloat16() for name, values in arrays.items()}
    save_file(halves, tmp_path / "b.safetensors")
    import_features(
        tmp_path / "b.safetensors", "safetensors", tmp_path / "b.zarr", SEGMENTS, CLASSES, BY_NAME
    )
    assert torch.equal(open_store(tmp_path / "b.zarr").batch([0], "frame")[0][0], halves["P01_101_0"].float())


def test_a_row_without_sound_features_says_why(tmp_path):
    arrays = features(3, 5)
    del arrays["P01_101_1"]
    arrays["P01_101_2"][1, 1] = np.nan
    arrays["P01_101_3"][0, 0] = 70_000.0  # more than float16 holds
    arrays["P01_101_4"] = arrays["P01_101_4"][:0]
    arrays["of nobody"] = arrays["P01_101_0"]
    write_hdf5(tmp_path / "source", arrays)
    done, store = bring(tmp_path, "hdf5", dtype="float16")
    assert [(name, STATUS[status]) for name, status, _ in done.failed] == [
        ("P01_101_1", "missing_video"),
        ("P01_101_2", "nonfinite_features"),
        ("P01_101_3", "nonfinite_features"),
        ("P01_101_4", "short_video"),
    ]
    assert done.failures[0][2] == "no features for it in source"
    assert done.unused == 1
    with pytest.raises(DataError, match="row P01_101_1 has no features"):
        store.batch([1], "frame")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda arrays: arrays.clear(),
            "has nothing for any row; expected names such as P01_101_0, found nothing",
        ),
        (
            lambda arrays: arrays.update(P01_101_3=np.zeros((3, 6), np.float32)),
            r"P01_101_3 is \(3, 6\), P01_101_0 is \(3, 5\)",
        ),
        (
            lambda arrays: arrays.update(P01_101_3=np.zeros(5, np.float32)),
            r"P01_101_3 is \(5,\), P01_101_0 is \(3, 5\)",
        ),
        (
            lambda arrays: arrays.update(P01_101_3=np.zeros((3, 5), np.int32)),
            r"is int32 \(3, 5\); expected floating-point",
        ),
        (
            lambda arrays: arrays.update(P01_101_3=np.zeros((3, 2, 5), np.float32)),
            r"expected floating-point numbers \(D,\) or",
        ),
    ],
)
def test_a_source_of_another_form_is_refused_by_name(tmp_path, spoil, message):
    arrays = features(3, 5)
    spoil(arrays)
    write_hdf5(tmp_path / "source", arrays)
    with pytest.raises(DataError, match=message):
        bring(tmp_path, "hdf5")


def test_one_of_several_datasets_is_chosen_never_guessed(tmp_path):
    arrays = features(3, 5)
    (tmp_path / "source").mkdir()
    for name, values in arrays.items():
        write_hdf5(tmp_path / "source" / f"{name}.hdf5", {"flow": values + 1, "deep/rgb": values})
    with pytest.raises(UsageError, match="holds deep, flow; name one with --set dataset=NAME"):
        bring(tmp_path, "hdf5")
    with pytest.raises(DataError, match="has no 'deep/rbg'"):
        bring(tmp_path, "hdf5", dataset="deep/rbg")
    _, store = bring(tmp_path, "hdf5", dataset="deep/rgb")
    np.testing.assert_array_equal(store.batch([0], "frame")[0][0].numpy(), arrays["P01_101_0"])


def point_outside(file, name, secret):
    file[name] = h5py.ExternalLink(str(secret), "x")


def point_inside(file, name, secret):
    file[name] = h5py.SoftLink("/P01_101_0")


def assemble_elsewhere(file, name, secret):
    layout = h5py.VirtualLayout((3, 5), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "x", (3, 5))
    file.create_virtual_dataset(name, layout)


def keep_elsewhere(file, name, secret):
    file.create_dataset(name, (3, 5), np.float32, external=[(str(secret), 0, 60)])


@pytest.mark.parametrize("trick", [point_outside, point_inside, assemble_elsewhere, keep_elsewhere])
def test_nothing_outside_the_file_is_read(tmp_path, trick):
    arrays = features(3, 5)
    del arrays["P01_101_2"]
    write_hdf5(tmp_path / "secret", {"x": np.ones((3, 5), np.float32)})
    write_hdf5(tmp_path / "source", arrays)
    with h5py.File(tmp_path / "source", "r+") as file:
        trick(file, "P01_101_2", tmp_path / "secret")
    with pytest.raises(
        DataError, match=r"P01_101_2 (is a link, and links are not followed|keeps its values in other files)"
    ):
        bring(tmp_path, "hdf5")


@pytest.mark.parametrize("format", ["hdf5", "safetensors", "lmdb"])
def test_a_damaged_file_is_one_clear_error(tmp_path, format):
    (tmp_path / "source").write_bytes(b"\x89HDF\r\n no more than this" * 100)
    with pytest.raises(DataError, match=r"source: (cannot be read|--format)"):
        bring(tmp_path, format, moments_of(np.zeros((12, 1))))


# --- by time: steps of a video


def moments_of(times, task="recognition", tau_a=1.0):
    return SamplingTimes({"task": task, "tau_a": tau_a, "rule": "test", "frames": times.shape[1]}, times)


def write_steps(folder, steps=200, width=3, dtype=np.float32):
    """Step i of a video is (i, video, 0)."""
    folder.mkdir()
    for number, video in enumerate(("P01_101", "P01_102")):
        values = np.zeros((steps, width), dtype)
        values[:, 0], values[:, 1] = np.arange(steps), number
        np.save(folder / f"{video}.npy", values)


def slow_pick(time, steps, fps, window, stride, task):
    """The rule once more, by looking at every step."""
    centres = [(i * stride + window / 2) / fps for i in range(steps)]
    ends = [(i * stride + window) / fps for i in range(steps)]
    if task == "anticipation":
        return max((i for i in range(steps) if ends[i] <= time), default=0)
    return min(range(steps), key=lambda i: (round(abs(centres[i] - time), 9), i))


@pytest.mark.parametrize("task", ["recognition", "anticipation"])
@pytest.mark.parametrize(("fps", "window", "stride"), [(30, 32, 16), (25, 8, 8), (60, 16, 20), (30, 1, 1)])
def test_the_step_taken_is_that_of_the_moment(tmp_path, task, fps, window, stride):
    steps = 24 * fps // stride
    write_steps(tmp_path / "source", steps)
    times = np.array([segment.start + 2.37 + np.arange(4) * 0.31 for segment in SEGMENTS])
    done, store = bring(
        tmp_path, "npy", moments_of(times, task, tau_a=-5.0), fps=fps, window=window, stride=stride
    )
    assert done.failures == []
    found = store.batch(range(12), "frame")[0].numpy()
    for row in range(12):
        expected = [slow_pick(time, steps, fps, window, stride, task) for time in times[row]]
        assert found[row, :, 0].tolist() == expected
        assert (found[row, :, 1] == (row >= 10)).all()
        centres = (np.array(expected) * stride + window / 2) / fps
        np.testing.assert_allclose(store.row_array("frame_pts")[row, 0], centres)


def test_anticipation_never_sees_a_step_that_ends_later(tmp_path):
    """Steps of 32 frames at 30 a second; what is observed ends 1 s before each start: 0 s, 1 s (no step has
    ended), 3 s, ...
    """
    write_steps(tmp_path / "source")
    ends = np.array([segment.start - 1.0 for segment in SEGMENTS])
    times = ends[:, None] - np.array([2.0, 1.0, 1 / 30])
    times[ends <= 0] = np.nan
    times = np.maximum(times, 0.0)
    done, store = bring(tmp_path, "npy", moments_of(times, "anticipation"), fps=30.0, window=32, stride=16)
    empty = [segment.narration_id for segment, end in zip(SEGMENTS, ends, strict=True) if end < 32 / 30]
    assert [name for name, status, _ in done.failures if status == EMPTY_WINDOW] == empty
    assert done.failed == []
    rows = np.flatnonzero(store.status == OK)
    taken = store.batch(rows, "frame")[0][..., 0].numpy()
    assert ((taken * 16 + 32) / 30 <= ends[rows, None] + 1e-9).all()
    # 1.0 s: none has ended, so the first, which ends in time; 2.0 s: frames 16-48
    third = np.flatnonzero(ends[rows] == 3.0)[0]
    assert taken[third].tolist() == [0, 1, 3]


def test_moments_behind_the_last_step_are_not_served_by_it(tmp_path):
    # of 32 frames, 16 apart: until 5.87 s, and 0.53 s that hold no whole step
    write_steps(tmp_path / "source", steps=10)
    times = np.array([[segment.start + 0.45] for segment in SEGMENTS])
    done, store = bring(tmp_path, "npy", moments_of(times), fps=30.0, window=32, stride=16)
    served = [SEGMENTS[row].start for row in np.flatnonzero(store.status == OK)]
    assert served == [0, 2, 4, 0, 2]
    assert {STATUS[status] for _, status, _ in done.failed} == {"short_video"}
    assert done.failed[0][2] == "6.45 s is beyond the 10 steps of P01_101"


def test_a_video_of_no_step_serves_no_row(tmp_path):
    write_steps(tmp_path / "source")
    np.save(tmp_path / "source/P01_102.npy", np.zeros((0, 3), np.float32))
    done, _ = bring(tmp_path, "npy", moments_of(np.ones((12, 2))), fps=30.0, window=32, stride=16)
    assert [reason for _, _, reason in done.failed] == ["1.00 s is beyond the 0 steps of P01_102"] * 2


def test_a_video_without_features_fails_its_rows_alone(tmp_path):
    write_steps(tmp_path / "source")
    (tmp_path / "source/P01_102.npy").rename(tmp_path / "source/P09_01.npy")
    done, _ = bring(tmp_path, "npy", moments_of(np.ones((12, 2))), fps=30.0, window=32, stride=16)
    assert [(name, reason) for name, _, reason in done.failed] == [
        (f"P01_102_{i}", "no features of P01_102 in source") for i in range(2)
    ]
    assert done.unused == 1


def test_npz_and_half_precision_are_read_as_well(tmp_path):
    write_steps(tmp_path / "source", dtype=np.float16)
    for path in sorted((tmp_path / "source").iterdir()):
        np.savez(path.with_suffix(".npz"), rgb=np.load(path), flow=np.load(path) + 1)
        path.unlink()
    options = {"fps": 30.0, "window": 32, "stride": 16}
    with pytest.raises(
        UsageError, match="several arrays, name one with --set dataset=NAME; it holds rgb, flow"
    ):
        bring(tmp_path, "npy", moments_of(np.ones((12, 2))), **options)
    _, store = bring(tmp_path, "npy", moments_of(np.ones((12, 2))), dataset="rgb", **options)
    assert store.batch([0], "frame")[0].dtype == torch.float16
    assert store.batch([0], "frame")[0][0, 0, 0] == 1


def test_pickles_are_not_loaded(tmp_path):
    (tmp_path / "source").mkdir()
    for video in ("P01_101", "P01_102"):
        np.save(tmp_path / "source" / f"{video}.npy", np.array([[{}], [{}]], object), allow_pickle=True)
    with pytest.raises(DataError, match="P01_101 is object"):
        bring(tmp_path, "npy", moments_of(np.ones((12, 2))), fps=30.0, window=32, stride=16)


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("npy", {"fps": 30.0}, "--format npy needs --set stride=N --set window=N"),
        ("npy", {"fps": 30.0, "window": 0, "stride": 8}, "window = 0: expected a number above 0"),
        ("hdf5", {"fps": 30.0}, "--format hdf5 needs --set stride=N --set window=N"),
        ("safetensors", {"dataset": "x"}, "--format safetensors has no use for dataset"),
        ("lmdb", {"dataset": "x"}, "--format lmdb has no use for dataset"),
        ("lmdb", {"channels_first": True}, "--format lmdb has no use for channels_first"),
        ("hdf5", {"channels_first": True}, "channels_first is of a video's steps: .*--set fps=N"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, format, options, message):
    with pytest.raises(UsageError, match=message):
        bring(tmp_path, format, moments_of(np.ones((12, 2))), **options)


def of_npy(folder, how):
    """The features of `write_steps` once more, in another form; returns the format."""
    arrays = {path.stem: np.load(path) for path in sorted(folder.iterdir())}
    for path in folder.iterdir():
        path.unlink()
    if how == "hdf5":
        folder.rmdir()
        write_hdf5(folder, arrays)
    elif how == "safetensors":
        folder.rmdir()
        write_safetensors(folder, arrays)
    for name, values in arrays.items():
        if how == "hdf5 folder":
            write_hdf5(folder / f"{name}.h5", {"features": values})
        elif how == "torch":
            torch.save(torch.from_numpy(values), folder / f"{name}.pt")
        elif how == "npy, channels first":
            np.save(folder / f"{name}.npy", np.ascontiguousarray(values.T))
        elif how == "npy, a batch of one":
            np.save(folder / f"{name}.npy", values[None])
        elif how == "npy, video_features":
            np.save(folder / f"{name}_rgb.npy", values)
            np.save(folder / f"{name}_fps.npy", np.array(30.0))
            times = (np.arange(len(values)) * 16 + 31) / 30  # when the last of its frames begins
            np.save(folder / f"{name}_timestamps_ms.npy", times * 1000)
    return how.partition(" ")[0].rstrip(",")


@pytest.mark.parametrize(
    "how",
    [
        "hdf5",
        "hdf5 folder",
        "safetensors",
        "torch",
        "npy, a batch of one",
        "npy, video_features",
        "npy, channels first",
    ],
)
@pytest.mark.parametrize("task", ["recognition", "anticipation"])
def test_whatever_holds_the_steps_of_a_video_a_row_gets_the_same(tmp_path, how, task):
    write_steps(tmp_path / "source")
    times = np.array([segment.start + 2.37 + np.arange(4) * 0.31 for segment in SEGMENTS])
    clock, moments = {"fps": 30.0, "window": 32, "stride": 16}, moments_of(times, task, tau_a=-5.0)
    _, expected = bring(tmp_path, "npy", moments, **clock)
    (tmp_path / "out.zarr").rename(tmp_path / "npy.zarr")
    expected = open_store(tmp_path / "npy.zarr")
    format = of_npy(tmp_path / "source", how)
    if how == "npy, channels first":
        lasting = (199 * 16 + 32) / 30  # 200 steps
        moments = replace(moments, durations={"P01_101": lasting, "P01_102": lasting})
    _, found = bring(tmp_path, format, moments, **({} if "video_features" in how else clock))
    assert found.spec.recipe.imported.more.get("channels_first", False) == (how == "npy, channels first")
    assert torch.equal(found.batch(range(12), "frame")[0], expected.batch(range(12), "frame")[0])
    for array in ("frame_pts", "status"):
        np.testing.assert_array_equal(found.row_array(array), expected.row_array(array))
    assert found.spec.recipe.sampling == expected.spec.recipe.sampling


# --- by time: frames, as RULSTM keeps them


def write_frames(folder, numbers, width=3):
    """Frame n of a video is (n, video, 0)."""
    with lmdb.open(str(folder), map_size=2**24) as env, env.begin(write=True) as transaction:
        for number, video in enumerate(("P01_101", "P01_102")):
            for frame in numbers:
                value = np.array([frame, number, 0][:width], np.float32).tobytes()
                transaction.put(f"{video}_frame_{frame:010d}.jpg".encode(), value)


@pytest.mark.parametrize("gap", [1, 7])
def test_a_frame_of_lmdb_is_the_last_one_shown_at_its_moment(tmp_path, gap):
    numbers = np.arange(1, 800, gap)
    write_frames(tmp_path / "source", numbers.tolist())
    times = np.random.default_rng(0).uniform(0, 24, (12, 5))
    times[0, :2] = [0.0, 1 / 30]
    done, store = bring(tmp_path, "lmdb", moments_of(times, "anticipation"))
    assert done.failures == []
    found = store.batch(range(12), "frame")[0].numpy()
    shown_from = (numbers - 1) / 30
    for row in range(12):
        expected = [numbers[np.flatnonzero(shown_from <= time + 1e-9)[-1]] for time in times[row]]
        assert found[row, :, 0].tolist() == expected
        assert (found[row, :, 1] == (row >= 10)).all()
    assert (store.row_array("frame_pts")[:, 0] <= times + 1e-9).all()


def test_a_hole_of_more_than_a_second_fails_its_rows(tmp_path):
    write_frames(tmp_path / "source", [*range(1, 100), *range(200, 800)])  # nothing from 3.3 to 6.6 s
    times = np.array([[segment.start + 0.5] for segment in SEGMENTS])
    done, _ = bring(tmp_path, "lmdb", moments_of(times))
    assert [(name, STATUS[status], reason) for name, status, reason in done.failed] == [
        ("P01_101_2", "short_video", "no frame of P01_101 in the second up to 4.50 s in source"),
        ("P01_101_3", "short_video", "no frame of P01_101 in the second up to 6.50 s in source"),
    ]


def test_a_value_of_another_width_is_named(tmp_path):
    write_frames(tmp_path / "source", range(1, 100))
    write_frames(tmp_path / "source", [40], width=2)
    with pytest.raises(DataError, match=r"P01_101_frame_0000000040.jpg has 8 bytes, others have 12"):
        bring(tmp_path, "lmdb", moments_of(np.full((12, 1), 1.31)))


def test_without_lmdb_the_error_says_what_to_install(tmp_path, monkeypatch):
    write_frames(tmp_path / "source", [1])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[lmdb\]'"):
        bring(tmp_path, "lmdb", moments_of(np.ones((12, 2))))


# --- what becomes of it


def test_a_head_trains_on_imported_features_and_the_report_names_them(tmp_path):
    """From somebody's features to a report, with text beside them."""
    segments = make_segments(ROWS)
    write_hdf5(tmp_path / "mine.h5", features(4, 6, segments=segments))
    import_features(
        tmp_path / "mine.h5", "hdf5", tmp_path / "video.zarr", segments, CLASSES, BY_NAME, encoder="slowfast"
    )
    make_text_store(tmp_path / "text.zarr", ROWS)
    result = train(tiny_recipe(tmp_path, epochs=1), tmp_path / "run")
    assert result.streams["video"].encoder.name == "slowfast"
    assert result.streams["video"].encoder.state == "unknown"
    write_report([tmp_path / "run"], tmp_path / "report.html")
    assert "slowfast (unknown" in (tmp_path / "report.html").read_text()


def test_the_spec_says_where_features_come_from(tmp_path):
    write_steps(tmp_path / "source")
    steps = {"fps": 30.0, "window": 32, "stride": 16}
    _, store = bring(tmp_path, "npy", moments_of(np.ones((12, 2))), encoder="tsn", **steps)
    recipe = store.spec.recipe.to_dict()
    assert recipe["source"] == "import"
    assert recipe["import"] == {"format": "npy", "dataset": None, **steps}
    assert recipe["sampling"]["task"] == "recognition"
    content = source_sha256(tmp_path / "source", "npy")
    assert store.spec.inputs.to_dict() == {"sha256": content}
    assert recipe["encoder"] == {"name": "tsn", "state": "unknown", "sha256": "unknown", "width": 3}


def test_a_folder_of_files_is_known_by_their_names_and_contents(tmp_path):
    """By what stores that were begun earlier say of it; other files of the folder do not matter."""
    folder = tmp_path / "source"
    write_steps(folder, steps=2)
    (folder / "notes.txt").write_text("x")
    (folder / "P01").mkdir()
    np.save(folder / "P01" / "P01_103.npy", np.zeros(3))

    def digest(*names):
        return canonical.digest(
            [[name, hashlib.sha256((folder / name).read_bytes()).hexdigest()] for name in names]
        )

    assert source_sha256(folder, "npy") == digest("P01_101.npy", "P01_102.npy")
    (folder / "index.csv").write_text("x")
    assert source_sha256(folder, "npy") == digest("P01_101.npy", "P01_102.npy", "index.csv")
    for video in ("P01_101", "P01_102"):
        (folder / f"{video}.npy").rename(folder / "P01" / f"{video}.npy")
    names = ("P01/P01_101.npy", "P01/P01_102.npy", "P01/P01_103.npy", "index.csv")
    assert source_sha256(folder, "npy") == digest(*names)


def test_files_as_video_features_leaves_them_are_taken_in_folders_of_participants(tmp_path):
    write_steps(tmp_path / "plain")
    folder = tmp_path / "source" / "P01"
    folder.mkdir(parents=True)
    for video in ("P01_101", "P01_102"):
        (tmp_path / "plain" / f"{video}.npy").rename(folder / f"{video}_rgb.npy")
        np.save(folder / f"{video}_fps.npy", np.array(30.0))
        np.save(folder / f"{video}_timestamps_ms.npy", np.arange(200) * 533.0)
    done, store = bring(tmp_path, "npy", moments_of(np.full((12, 1), 5.0)), fps=30.0, window=32, stride=16)
    assert (done.failures, done.unused) == ([], 0)
    assert (store.batch(range(12), "frame")[0][:, 0, 0] == 8).all()


def test_a_source_that_changed_does_not_resume_a_store(tmp_path):
    write_hdf5(tmp_path / "source", features(3, 5))
    assert (
        source_sha256(tmp_path / "source", "hdf5")
        == hashlib.sha256((tmp_path / "source").read_bytes()).hexdigest()
    )
    rows, calls = (tmp_path / "out.zarr", make_segments(600), CLASSES, BY_NAME), iter([False, True])
    with pytest.raises(Interrupted):
        import_features(tmp_path / "source", "hdf5", *rows, should_stop=lambda: next(calls))
    done = import_features(tmp_path / "source", "hdf5", *rows)
    assert (done.rows, done.finalized, len(done.failed)) == (88, True, 588)
    write_hdf5(tmp_path / "source", {name: values + 1 for name, values in features(3, 5).items()})
    with pytest.raises(UsageError, match=r"inputs\.sha256: '[0-9a-f]{64}' -> '[0-9a-f]{64}'"):
        import_features(tmp_path / "source", "hdf5", *rows)


def test_an_import_stops_at_one_row_too_many_and_goes_on_when_more_are_allowed(tmp_path):
    write_hdf5(tmp_path / "source", features(3, 5))
    where = (tmp_path / "source", "hdf5")
    whole = import_features(*where, tmp_path / "whole.zarr", make_segments(600), CLASSES, BY_NAME)
    assert len(whole.failed) == 588
    rows = (tmp_path / "out.zarr", make_segments(600), CLASSES, BY_NAME)
    for _ in range(2):  # again at once, and nothing more is read
        with pytest.raises(DataError, match="500 rows failed, but max_failed is 499"):
            import_features(*where, *rows, max_failed=499)
    with pytest.raises(DataError, match="588 rows failed, but max_failed is 587"):
        import_features(*where, *rows, max_failed=587)
    assert not (tmp_path / "out.zarr" / "manifest.json").exists()
    done = import_features(*where, *rows, max_failed=588)
    assert (done.rows, done.store_id) == (0, whole.store_id)


def test_an_empty_window_is_no_failure_of_an_import(tmp_path):
    np.save(tmp_path / "P01_101.npy", np.zeros((3000, 2), np.float32))
    segments = make_segments(4)
    times = np.full((4, 2), 1.0)
    times[1] = np.nan
    options = {"fps": 50.0, "window": 1, "stride": 1, "max_failed": 0}
    moments = SamplingTimes({"task": "anticipation"}, times)
    done = import_features(tmp_path, "npy", tmp_path / "s.zarr", segments, CLASSES, moments, **options)
    assert (done.finalized, len(done.failures), done.failed) == (True, 1, [])


def test_the_command_imports_with_annotations_and_counts_failures(tmp_path, capsys):
    data = make_dataset(tmp_path / "data", videos=2)
    (tmp_path / "steps").mkdir()
    np.save(tmp_path / "steps/P01_101.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    words = ("cache", "import", tmp_path / "steps", "--format", "npy", "--out", tmp_path / "v.zarr")
    assert call(*words) == 2
    assert "is not an export of mambavl; say with --annotations DIR" in capsys.readouterr().err
    words += ("--annotations", data / "annotations", "--encoder", "tsn", "--set", "sampling.frames=4")
    assert call(*words) == 2
    said = capsys.readouterr().err
    assert "nothing beside the features of P01_101 says when its steps are" in said
    assert said.endswith(": --set fps=N --set stride=N --set window=N\n")
    words += ("--set", "fps=10", "--set", "window=1", "--set", "stride=1")
    assert call(*words) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "5 rows failed, but max_failed is 0 (--set max_failed=N allows N)" in said
    assert "the store is not finished: allow more and run the same command again, or mend the source" in said
    assert "P01_102_0: missing_video: no features of P01_102 in steps" in said
    assert "--retry-failed" not in said  # the command has no such option
    assert not (tmp_path / "v.zarr" / "manifest.json").exists()
    assert call(*words, "--set", "max_failed=5") == 0
    said = capsys.readouterr().out
    assert "P01_102_0: missing_video: no features of P01_102 in steps" in said
    assert "wrote 0 rows" in said
    assert call(*words, "--set", "max_failed=4") == 1  # of a finished store, too
    assert "5 rows failed, but max_failed is 4" in capsys.readouterr().err
    assert open_store(tmp_path / "v.zarr").batch([0], "frame")[0].shape == (1, 4, 4)
    assert call(*words, "--set", "sampling.frams=4") == 2
    assert "did you mean `frames`" in capsys.readouterr().err
