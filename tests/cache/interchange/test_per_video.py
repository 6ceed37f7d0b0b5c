"""Windows as programs for detection and segmentation read them: by numpy and torch alone, counted by hand."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.cli import call
from helpers.tiny import make_dense_store
from mambavl.cache import open_store
from mambavl.cache.classes import Classes
from mambavl.cache.interchange.export import export_store
from mambavl.cache.interchange.per_video import PER_VIDEO, incomplete
from mambavl.cache.rows import OK, Segment
from mambavl.cache.shards import Level
from mambavl.cache.spec import SEGMENTS, Inputs, Spec, Windows
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import DataError, Interrupted, UsageError

LENGTHS = {"A": 7, "B": 1, "C-1": 5, "D": 4}  # windows of 2 s, every 0.5 s
WIDTH = 3


def window(video: str, number: int) -> Segment:
    start = number / 2
    name = f"{video}_w{number:06d}"
    return Segment(name, "", video, "", start, start + 2, 0, 0, "test")


def make_windows_store(path, *, failed=(), views=1, dtype="float16", shape=(), windows=(2.0, 0.5), **names):
    """Rows of a store of windows, whose features say which they are: (video, window, view); by number
    `failed`. Row groups of four rows, so that videos begin and end within them. names: video -> another.
    """
    segments = [window(names.get(video, video), k) for video, count in LENGTHS.items() for k in range(count)]
    level = Level("clip", "dense", (views, *shape, WIDTH), dtype, steps=shape[0] if shape else 0)
    spec = Spec(
        kind="video",
        inputs=Inputs(windows=Windows(length=windows[0], stride=windows[1]) if windows else None),
        levels=(level,),
        frame_pts=(views, 2),
        rows_per_group=4,
    )
    writer = StoreWriter(path, spec, tuple(segments), Classes({}), {})
    for group in writer.pending():
        rows = writer.layout.rows_of(group)
        values = np.zeros((len(rows), *level.shape), dtype)
        for i, row in enumerate(rows):
            for view in range(views):
                values[i, view] = (list(LENGTHS).index(video_of(row)), number_of(row), 10 * view)
        status = np.array([4 if row in failed else OK for row in rows], np.uint8)
        values[status != OK] = np.nan
        group_rows = RowGroup(
            {"clip": values},
            {"length": np.where(status == OK, level.steps or 1, 0)},
            status,
            np.zeros(len(rows), np.uint8),
            np.zeros((len(rows), views, 2)),
            {i: "made so" for i, row in enumerate(rows) if row in failed},
        )
        writer.commit(group, group_rows)
    writer.finalize()
    return open_store(path)


ROWS = [(video, k) for video, count in LENGTHS.items() for k in range(count)]


def video_of(row: int) -> str:
    return ROWS[row][0]


def number_of(row: int) -> int:
    return ROWS[row][1]


def expected(video: str, view_mean: float = 0.0) -> np.ndarray:
    """(T, D), by hand."""
    number = float(list(LENGTHS).index(video))
    return np.array([[number, k, view_mean] for k in range(LENGTHS[video])], np.float32)


def read(folder, form: str, video: str) -> np.ndarray:
    """The features of a video as (T, D), read as the programs do."""
    if form == "actionformer":
        with np.load(folder / f"{video}.npz", allow_pickle=False) as file:
            return file["feats"]
    if form == "mstcn":
        return np.load(folder / f"{video}.npy", allow_pickle=False).T
    return torch.load(folder / f"{video}.pt", weights_only=True).numpy()


SUFFIX = {"actionformer": ".npz", "mstcn": ".npy", "ego4d": ".pt"}


@pytest.mark.parametrize("form", PER_VIDEO)
def test_a_file_a_video_in_the_order_of_time(tmp_path, form):
    store = make_windows_store(tmp_path / "s.zarr")
    assert export_store(store, tmp_path / "out", form) == 17
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {*(f"{video}{SUFFIX[form]}" for video in LENGTHS), "windows.json"}
    for video in LENGTHS:
        found = read(tmp_path / "out", form, video)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected(video), strict=True)
    said = json.loads((tmp_path / "out" / "windows.json").read_text())
    assert said["videos"] == LENGTHS
    assert (said["level"], said["window"], said["stride"]) == ("clip", 2.0, 0.5)
    assert said["store_id"] == store.store_id
    assert said["left_out"] == {}


def test_ms_tcn_reads_channels_first(tmp_path):
    export_store(make_windows_store(tmp_path / "s.zarr"), tmp_path / "out", "mstcn")
    assert np.load(tmp_path / "out/A.npy").shape == (WIDTH, 7)
    assert np.load(tmp_path / "out/A.npy").flags.c_contiguous


def test_ego4d_reads_a_tensor_of_its_own(tmp_path):
    """A tensor that is a view would bring all that it is a view of."""
    export_store(make_windows_store(tmp_path / "s.zarr"), tmp_path / "out", "ego4d")
    tensor = torch.load(tmp_path / "out/A.pt", weights_only=True)
    assert tensor.shape == (7, WIDTH)
    assert tensor.untyped_storage().nbytes() == 7 * WIDTH * 4


def test_actionformer_finds_the_window_that_an_action_is_in(tmp_path):
    """Its own formula, seconds -> place in the features: (t * fps - num_frames / 2) / feat_stride."""
    export_store(make_windows_store(tmp_path / "s.zarr"), tmp_path / "out", "actionformer", fps=30)
    with np.load(tmp_path / "out/A.npz", allow_pickle=False) as file:
        numbers = {name: file[name].item() for name in file.files if name != "feats"}
        assert numbers == {"fps": 30, "feat_stride": 15, "num_frames": 60, "window": 2, "stride": 0.5}
        for k in range(7):
            middle = window("A", k).start + 1
            place = (middle * numbers["fps"] - 0.5 * numbers["num_frames"]) / numbers["feat_stride"]
            assert place == k
        assert int(numbers["feat_stride"]) == numbers["feat_stride"]  # OpenTAD: int(feature_stride)


@pytest.mark.parametrize(
    ("windows", "fps", "said"),
    [
        ((2.0, 0.5), 25, r"no whole number of frames at 25 a second; --fps 2 would do"),
        ((2.0, 0.5), 1, r"no whole number of frames at 1 a second; --fps 2 would do"),
        ((2.0, 1 / 7**5), 30, r"no whole number of frames at 30 a second$"),
    ],
)
def test_actionformer_counts_whole_frames(tmp_path, windows, fps, said):
    store = make_windows_store(tmp_path / "s.zarr")
    store.spec = replace(store.spec, inputs=Inputs(windows=Windows(length=windows[0], stride=windows[1])))
    store.segments = tuple(
        replace(segment, start=k * windows[1], stop=k * windows[1] + windows[0])
        for segment in store.segments
        for k in [int(segment.narration_id[-6:])]
    )
    with pytest.raises(UsageError, match=said):
        export_store(store, tmp_path / "out", "actionformer", fps=fps)
    assert export_store(store, tmp_path / "out", "mstcn", fps=fps) == 17  # which counts nothing


def test_thirtieths_are_whole_frames(tmp_path):
    """Ego4D's windows, 32/30 s every 16/30 s, which no float is."""
    store = make_windows_store(tmp_path / "s.zarr")
    store.spec = replace(store.spec, inputs=Inputs(windows=Windows(length=32 / 30, stride=16 / 30)))
    store.segments = tuple(
        replace(segment, start=k * 16 / 30, stop=k * 16 / 30 + 32 / 30)
        for segment in store.segments
        for k in [int(segment.narration_id[-6:])]
    )
    export_store(store, tmp_path / "out", "actionformer", fps=30)
    with np.load(tmp_path / "out/A.npz") as file:
        assert (file["feat_stride"], file["num_frames"]) == (16, 32)


@pytest.mark.parametrize("form", PER_VIDEO)
def test_of_several_views_the_mean(tmp_path, form):
    export_store(make_windows_store(tmp_path / "s.zarr", views=3), tmp_path / "out", form)
    np.testing.assert_array_equal(read(tmp_path / "out", form, "A"), expected("A", view_mean=10.0))


@pytest.mark.parametrize("form", PER_VIDEO)
def test_a_video_with_a_gap_is_left_out_whole(tmp_path, form):
    """Rows 8 to 12 are C-1's."""
    store = make_windows_store(tmp_path / "s.zarr", failed=(9, 11))
    why = "2 windows of 5 without features, the first at 0.50 s (unreadable_video: made so)"
    assert incomplete(store) == {"C-1": why}
    assert export_store(store, tmp_path / "out", form) == 12
    assert not (tmp_path / "out" / f"C-1{SUFFIX[form]}").exists()
    for video in ("A", "B", "D"):
        np.testing.assert_array_equal(read(tmp_path / "out", form, video), expected(video))
    said = json.loads((tmp_path / "out" / "windows.json").read_text())
    assert said["videos"] == {"A": 7, "B": 1, "D": 4}
    assert said["left_out"] == {"C-1": why}


def test_no_whole_video_is_an_error_and_leaves_nothing(tmp_path):
    store = make_windows_store(tmp_path / "s.zarr", failed=(0, 7, 8, 16))
    with pytest.raises(DataError, match="no video is whole; A: 1 window of 7 without features"):
        export_store(store, tmp_path / "out", "mstcn")
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize("name", ["../A", "A/B", ".A", "A.B", "", "-A"])
def test_no_name_becomes_a_path(tmp_path, name):
    store = make_windows_store(tmp_path / "s.zarr", A=name)
    with pytest.raises(DataError, match="cannot be a file name"):
        export_store(store, tmp_path / "out", "ego4d")
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_what_is_no_vector_a_window_is_refused(tmp_path):
    steps = make_windows_store(tmp_path / "s.zarr", shape=(2,))
    with pytest.raises(UsageError, match=r"has several vectors a window.*mambavl cache pool .* --to clip"):
        export_store(steps, tmp_path / "out", "mstcn")
    make_dense_store(tmp_path / "rows.zarr")
    with pytest.raises(UsageError, match=r"its rows are no windows.*mambavl extract dense"):
        export_store(open_store(tmp_path / "rows.zarr"), tmp_path / "out", "mstcn")
    assert not (tmp_path / "out").exists()


def test_rows_that_are_not_where_the_spec_says_are_refused(tmp_path):
    """A store as somebody else may have made it."""
    store = make_windows_store(tmp_path / "s.zarr")
    late = replace(store.segments[3], start=1.75, stop=3.75)
    for segments in (
        (*store.segments[:3], late, *store.segments[4:]),
        (*store.segments[:3], replace(late, stop=3.5), *store.segments[4:]),
        tuple(replace(one, stop=one.start + 1) for one in store.segments),
        tuple(replace(one, start=one.start + 1, stop=one.stop + 1) for one in store.segments),
    ):
        store.segments = segments
        with pytest.raises(DataError, match=r"s, where window \d would be"):
            export_store(store, tmp_path / "out", "mstcn")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", PER_VIDEO)
def test_an_export_that_is_stopped_leaves_nothing(tmp_path, form):
    store, stops = make_windows_store(tmp_path / "s.zarr"), iter([False, False, False, True])
    with pytest.raises(Interrupted):
        export_store(store, tmp_path / "out", form, should_stop=lambda: next(stops))
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_the_command_names_what_it_leaves_out(tmp_path, capsys):
    make_windows_store(tmp_path / "s.zarr", failed=(9,))
    words = ("cache", "export", tmp_path / "s.zarr", "--out", tmp_path / "out")
    assert call(*words, "--to", "actionformer", "--fps", "50") == 0
    said = capsys.readouterr().out
    assert "C-1: left out: 1 window of 5 without features, the first at 0.50 s" in said
    assert "wrote the features of 12 rows" in said
    assert "; left out 5 rows of videos that are not whole" in said
    with np.load(tmp_path / "out" / "A.npz") as file:
        assert (file["fps"], file["feat_stride"], file["num_frames"]) == (50, 25, 100)
    assert call(*words, "--to", "mstcn") == 2
    assert "exists, and nothing is overwritten" in capsys.readouterr().err


def test_segments_of_the_store_are_what_the_files_count(tmp_path):
    """segments.csv, read with csv alone, says what each number of a file is."""
    export_store(make_windows_store(tmp_path / "s.zarr"), tmp_path / "out", "mstcn")
    with open(tmp_path / "s.zarr" / SEGMENTS, newline="") as file:
        rows = list(csv.DictReader(file))
    for video in LENGTHS:
        starts = [float(row["start"]) for row in rows if row["video_id"] == video]
        features = np.load(tmp_path / "out" / f"{video}.npy")
        np.testing.assert_array_equal(features[1] / 2, starts)
