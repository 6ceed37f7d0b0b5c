"""Windows over whole videos: where they lie, what they are called, what they show and what they do not."""

import itertools
import os
import shutil
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from helpers.clips import WIDTH, barcode, write_video
from helpers.dataset import barcode_record, numbers
from helpers.jobs import OPTIONS, count_decoded, tree
from mambavl.cache import open_store
from mambavl.cache.rows import OK, STATUS
from mambavl.cache.spec import Windows as WindowsOfSpec
from mambavl.configs.errors import DataError, Interrupted, SystemFault, UsageError
from mambavl.extract import dense, input_files
from mambavl.extract.annotations import ID, read_annotations
from mambavl.extract.clips import ClipReader
from mambavl.extract.encoders import registry
from mambavl.extract.options import VideoExtraction
from mambavl.extract.pyav_reader import PyAVReader

pytestmark = pytest.mark.usefixtures("barcode")

TWO_EVERY_HALF = dense.Windows(Fraction(2), Fraction(1, 2))
FPS = 10


def settings(**changes) -> VideoExtraction:
    return VideoExtraction.model_validate({**OPTIONS, "max_failed": 0, **changes})


def run(videos, out, windows=TWO_EVERY_HALF, annotations=None, hooks=None, **changes):
    """Plan and extract; returns the plan and the store's FillResult."""
    options = settings(**changes)
    planned = dense.plan([Path(video) for video in videos], windows, out, options, annotations)
    (done,) = dense.extract_dense(planned, [(out, options)], **(hooks or {}))
    return planned, done


def spans(store) -> list[tuple[str, float, float]]:
    return [(segment.video_id, segment.start, segment.stop) for segment in store.segments]


# --- where windows lie


@pytest.mark.parametrize(
    ("length", "stride", "end", "count"),
    [
        ("2", "0.5", 6.0, 9),  # 0, 0.5, ..., 4
        ("2", "0.5", 6.49, 9),
        ("2", "0.5", 6.5, 10),
        ("2", "0.5", 2.0, 1),
        ("2", "0.5", 1.9, 0),
        ("2", "2", 60.0, 30),
        ("2", "3", 60.0, 20),  # the last one from 57 to 59
        ("0.3", "0.1", 0.9, 7),  # in floating point 0.6 + 0.3 is more than 0.9
        ("2", "0.5", 5.999, 9),  # Matroska: 59.999 s for a minute
        ("2", "0.5", 5.99, 8),
        ("32/30", "16/30", 1.6, 2),
    ],
)
def test_windows_begin_every_stride_and_the_last_one_ends_with_the_video(length, stride, end, count):
    assert dense.Windows(Fraction(length), Fraction(stride)).count(end) == count


def test_times_of_late_windows_are_exact():
    tenths = dense.Windows(Fraction(2), Fraction(1, 10))
    assert [tenths.segment("V", "P", k).start for k in (3, 36_003)] == [0.3, 3600.3]
    thirds = dense.Windows(Fraction(32, 30), Fraction(16, 30)).segment("V", "P", 30_000)
    assert (thirds.start, thirds.stop) == (16_000.0, 16_000 + 32 / 30)


def test_ids_of_windows_are_ids_and_differ_whatever_videos_are_called():
    videos = ("A", "A_w000001", "A_w000001_w000001", "A_w")
    ids = [
        TWO_EVERY_HALF.segment(video, "P", k).narration_id
        for video in videos
        for k in (*range(20), 999_999, 10**6)
    ]
    assert len(set(ids)) == len(ids)
    assert all(ID.fullmatch(one) for one in ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2),
        ("2s", 2),
        ("0.5s", Fraction(1, 2)),
        (" 16/30s ", Fraction(16, 30)),
        ("1.5/2", Fraction(3, 4)),
    ],
)
def test_seconds_are_numbers_or_fractions(text, expected):
    assert dense.seconds("--window", text) == expected


@pytest.mark.parametrize(
    "text", ["", "s", "0", "0s", "-1", "1/0", "2m", "1e3", "nan", "0.0001", "100000", "2 s"]
)
def test_other_times_are_refused_by_their_option(text):
    with pytest.raises(UsageError, match=r"--stride .*such as --stride 0\.5s"):
        dense.seconds("--stride", text)


# --- which videos


def places(found) -> dict[str, str]:
    return {video: path.name for video, path in found.items()}


def test_all_videos_of_a_folder_are_found_in_every_layout(tmp_path):
    videos = (
        "P01/videos/A.MP4",
        "P02/B.mkv",
        "C.mp4",
        "P01/rgb_frames/D.tar",
        "P02/F.mp4/0.mp4",
        "G.mp4/15.mp4",
    )
    frames = ("P02/rgb_frames/H/frame_0000000001.jpg",)
    hidden = ("P01/videos/._A.MP4", ".hidden/X.mp4", "P01/notes.txt", "empty/I.mp4/notes.txt")
    for name in (*videos, *frames, *hidden):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "E.webm").write_bytes(b"")
    (tmp_path / "all" / "P03").symlink_to(tmp_path / "elsewhere")
    paths, participants = dense.find_all([tmp_path / "all"])
    files = ["A.MP4", "B.mkv", "C.mp4", "D.tar", "E.webm", "F.mp4", "G.mp4", "H"]
    assert list(places(paths).items()) == list(zip("ABCDEFGH", files, strict=True))
    assert list(participants.values()) == ["P01", "P02", "", "P01", "P03", "P02", "", "P02"]
    one, participants = dense.find_all([tmp_path / "all" / "P02"])  # a participant's folder is flat
    assert places(one) == {"B": "B.mkv", "F": "F.mp4", "H": "H"}
    assert set(participants.values()) == {""}


def test_videos_may_be_named_one_by_one_and_a_video_named_twice_is_one(tmp_path):
    for name in ("b/Y.mp4", "a/X.mp4", "Z.MP4/0.MP4", "W/frame_0000000001.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    given = [tmp_path / name for name in ("b", "a/X.mp4", "b/Y.mp4", "Z.MP4", "W")]
    paths, participants = dense.find_all(given)
    assert places(paths) == {"W": "W", "X": "X.mp4", "Y": "Y.mp4", "Z": "Z.MP4"}
    assert set(participants.values()) == {""}


@pytest.mark.parametrize(
    ("files", "given", "said"),
    [
        (["a.txt"], ["."], "holds no video; expected P01/videos/P01_01.MP4"),
        ([], ["none.mp4"], "none.mp4: no such file or folder"),
        (["P1/X.mp4", "P2/X.mp4"], ["."], "X: there are .*P1/X.mp4 and .*P2/X.mp4"),
        (["P1/X.mp4", "P1/X.mkv"], ["."], "X: there are .*P1/X.mkv and .*P1/X.mp4"),
        (["P1/X.mp4", "P2/X.mp4"], ["P1", "P2/X.mp4"], "X: there are .*P1/X.mp4 and .*P2/X.mp4"),
        (["my film.mp4"], ["."], "my film.mp4: 1 video with names that cannot be video_ids"),
        (["-x.mp4", "..y.mp4", "z.1.mp4"], ["-x.mp4", "..y.mp4", "z.1.mp4"], "3 videos with names"),
    ],
)
def test_what_is_no_video_or_not_one_is_refused(tmp_path, files, given, said):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(DataError, match=said):
        dense.find_all([tmp_path / name for name in given])


# --- what a row is


def test_rows_are_the_windows_of_every_video_with_the_frames_inside(dataset, tmp_path):
    """Videos of 6 s at 10 a second, whose frames show their numbers; four moments in a window of 2 s."""
    planned, done = run([dataset / "videos"], tmp_path / "d.zarr")
    assert done.finalized
    assert planned.short == {}
    store = open_store(tmp_path / "d.zarr")
    videos = [f"P01_{number}" for number in (101, 102, 103, 104)]
    assert spans(store) == [(video, k / 2, k / 2 + 2) for video in videos for k in range(9)]
    assert store.segments[10].narration_id == "P01_102_w000001"
    assert {(s.participant_id, s.split, tuple(s.labels)) for s in store.segments} == {("P01", "test", ())}
    patches = store.batch(range(len(store)), "patch")[0]
    for segment, row in zip(store.segments, patches, strict=True):
        moments = [segment.start + offset for offset in (0.25, 0.75, 1.25, 1.75)]
        assert numbers(row) == [int(moment * FPS + 1e-6) for moment in moments]
    pts = store.row_array("frame_pts")
    np.testing.assert_allclose(pts[1, 0], [0.7, 1.2, 1.7, 2.2])
    assert store.classes.names == ()


def test_the_spec_says_which_windows_and_no_list(dataset, tmp_path):
    run([dataset / "videos"], tmp_path / "d.zarr", dense.Windows(Fraction(2), Fraction(16, 30)))
    inputs = open_store(tmp_path / "d.zarr").spec.inputs
    assert inputs.windows == WindowsOfSpec(length=2.0, stride=16 / 30)
    assert (inputs.annotations, inputs.splits) == (None, None)
    assert list(inputs.videos) == ["P01_101", "P01_102", "P01_103", "P01_104"]
    with pytest.raises(UsageError, match=r"inputs\.windows\.stride: 0\.53333.* -> 0\.5"):
        run([dataset / "videos"], tmp_path / "d.zarr")


def test_lists_say_which_videos_and_nothing_else(dataset, tmp_path):
    validation = read_annotations(dataset / "annotations", ("validation",))
    run([dataset / "videos"], tmp_path / "d.zarr", annotations=validation, splits=["validation"])
    run([dataset / "videos/P01/videos/P01_104.MP4"], tmp_path / "one.zarr")
    store, one = open_store(tmp_path / "d.zarr"), open_store(tmp_path / "one.zarr")
    assert spans(store) == spans(one)
    assert store.spec.inputs.splits == ("validation",)
    assert store.spec.inputs.annotations == validation.sha256
    assert {segment.participant_id for segment in store.segments} == {"P01"}
    assert (store.batch(range(9), "patch")[0] == one.batch(range(9), "patch")[0]).all()


def test_several_encoders_fill_a_store_each(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.ENCODERS, "inverse", barcode_record(lambda cells: 1 - cells))
    jobs = [(tmp_path / f"{name}.zarr", settings(encoder=name)) for name in ("barcode", "inverse")]
    planned = dense.plan([dataset / "videos"], TWO_EVERY_HALF, *jobs[0])
    assert [done.finalized for done in dense.extract_dense(planned, jobs)] == [True, True]
    ours, theirs = (open_store(path).batch(range(36), "patch")[0] for path, _ in jobs)
    assert (ours + theirs == 1).all()


def test_stopped_and_shared_work_ends_in_the_same_store(dataset, tmp_path):
    run([dataset / "videos"], tmp_path / "whole.zarr")
    stops = itertools.chain([False] * 3, itertools.repeat(True))
    with pytest.raises(Interrupted):
        run([dataset / "videos"], tmp_path / "parts.zarr", hooks={"should_stop": lambda: next(stops)})
    run([dataset / "videos"], tmp_path / "parts.zarr", hooks={"shard": (0, 2)})
    run([dataset / "videos"], tmp_path / "parts.zarr", hooks={"shard": (1, 2)})
    assert tree(tmp_path / "whole.zarr") == tree(tmp_path / "parts.zarr")


def test_only_windows_as_they_are(dataset, tmp_path):
    with pytest.raises(UsageError, match=r"takes sampling\.task = recognition"):
        run([dataset / "videos"], tmp_path / "d.zarr", sampling={"task": "anticipation"})
    assert not (tmp_path / "d.zarr").exists()


# --- how long videos are


def test_a_videos_length_is_the_files_own(dataset, tmp_path):
    """The list says 6 s of each; this one shows 3.5 s, with frames at uneven times."""
    path = write_video(tmp_path / "V.mp4", frames=5, times=[0, 700, 900, 2000, 3000])
    planned, _ = run([path], tmp_path / "d.zarr", dense.Windows(Fraction(1), Fraction(1)))
    assert [(row.start, row.stop) for row in planned.rows.segments] == [(0, 1), (1, 2), (2, 3)]
    patches = open_store(tmp_path / "d.zarr").batch(range(3), "patch")[0]
    # at .125 .375 .625 .875, and so on: the frame on display then
    assert [numbers(row) for row in patches] == [[0, 0, 0, 1], [2, 2, 2, 2], [3, 3, 3, 3]]


def test_a_video_shorter_than_a_window_has_no_row_and_is_named(dataset, tmp_path):
    long = write_video(tmp_path / "L.mp4", frames=25)
    short = write_video(tmp_path / "S.mp4", frames=19)
    planned, done = run([short, long], tmp_path / "d.zarr")
    assert planned.short == {"S": pytest.approx(1.9)}
    assert done.finalized
    store = open_store(tmp_path / "d.zarr")
    assert spans(store) == [("L", 0.0, 2.0), ("L", 0.5, 2.5)]
    assert list(store.spec.inputs.videos) == ["L"]
    with pytest.raises(DataError, match=r"a window of 2 s: the longest, S, lasts 1\.90 s"):
        run([short], tmp_path / "n.zarr")


def test_more_broken_videos_than_may_fail_stop_everything_before_a_store_is_begun(dataset, tmp_path):
    videos = shutil.copytree(dataset / "videos", tmp_path / "videos")
    (videos / "P01/videos/P01_102.MP4").write_text("no video")
    with pytest.raises(DataError, match=r"1 video cannot be opened, but max_failed is 0 (.|\n)*P01_102\.MP4"):
        run([videos], tmp_path / "d.zarr")
    assert not (tmp_path / "d.zarr").exists()
    _, done = run([videos], tmp_path / "d.zarr", max_failed=1)
    assert [(name, STATUS[status]) for name, status, _ in done.failures] == [
        ("P01_102_w000000", "unreadable_video")
    ]
    store = open_store(tmp_path / "d.zarr")
    assert len(store) == 3 * 9 + 1
    assert (store.status == OK).sum() == 27


def test_a_missing_video_of_the_lists_is_a_row_that_says_so(dataset, tmp_path):
    videos = shutil.copytree(dataset / "videos", tmp_path / "videos")
    (videos / "P01/videos/P01_102.MP4").unlink()
    lists = read_annotations(dataset / "annotations")
    with pytest.raises(DataError, match=r"1 of 4 videos are not there \(P01_102\)"):
        run([videos], tmp_path / "d.zarr", annotations=lists)
    _, done = run([videos], tmp_path / "d.zarr", annotations=lists, allow_missing=True)
    assert [(name, STATUS[status]) for name, status, _ in done.failures] == [
        ("P01_102_w000000", "missing_video")
    ]
    apart = tmp_path / "apart"
    apart.mkdir()
    shutil.copy2(dataset / "videos/P01/videos/P01_102.MP4", apart)
    assert run([videos, apart], tmp_path / "e.zarr", annotations=lists)[1].failures == []
    with pytest.raises(UsageError, match="give folders of videos"):
        run([videos, apart / "P01_102.MP4"], tmp_path / "f.zarr", annotations=lists)


def test_damage_fails_the_windows_that_see_it(tmp_path):
    """Every frame is a keyframe and one is overwritten: the windows that look at it fail, and no others."""
    path = write_video(tmp_path / "V.mp4", frames=60, gop=1, bf="0")
    with av.open(str(path)) as container:
        position, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][33]
    data = bytearray(path.read_bytes())
    data[position + 8 : position + size] = bytes(size - 8)
    path.write_bytes(data)
    _, done = run([path], tmp_path / "d.zarr", dense.Windows(Fraction(1), Fraction(1, 2)), max_failed=60)
    # 3.3 s is seen by the windows from 2.5 and 3 s on, at 2.5 + 0.875 and at 3 + 0.375
    assert [(name, STATUS[status]) for name, status, _ in done.failures] == [
        ("V_w000005", "damaged_frame"),
        ("V_w000006", "damaged_frame"),
    ]


def test_a_disk_that_fails_while_videos_are_measured_fails_no_row(dataset, tmp_path, monkeypatch):
    class Broken(input_files.Calls):
        def open(self, path: Path) -> int:
            raise OSError(5, os.strerror(5))

    monkeypatch.setattr(input_files, "calls", Broken())
    with pytest.raises(SystemFault, match=r"P01_101\.MP4: cannot be read"):
        run([dataset / "videos"], tmp_path / "d.zarr", retries=0, max_failed=99)
    assert not (tmp_path / "d.zarr").exists()


def test_measuring_is_counted_and_can_be_stopped(dataset, tmp_path):
    seen, stops = [], iter([False, False, True])
    options = settings()
    with pytest.raises(Interrupted, match="while the videos were measured"):
        dense.plan(
            [dataset / "videos"],
            TWO_EVERY_HALF,
            tmp_path / "d.zarr",
            options,
            progress=lambda *n: seen.append(n),
            should_stop=lambda: next(stops),
        )
    assert seen == [(0, 4), (1, 4)]


# --- what it costs


@pytest.mark.parametrize("encoders", [("barcode",), ("barcode", "larger")], ids=len)
def test_windows_that_overlap_share_frames(tmp_path, monkeypatch, encoders):
    """A window every quarter of its length: each frame is in four, and is decoded and resized once, and again
    where the rows that are read at once end; for all encoders together.
    """
    monkeypatch.setitem(registry.ENCODERS, "larger", barcode_record())
    path = write_video(tmp_path / "V.mp4", frames=400)
    given, fitted, fit = count_decoded(monkeypatch), [], ClipReader._fit
    monkeypatch.setattr(ClipReader, "_fit", lambda self, *given: fitted.append(1) or fit(self, *given))
    jobs = []
    for name, size in zip(encoders, (40, 60), strict=False):
        options = settings(encoder=name, image_size=size, sampling={"frames": 16})
        jobs.append((tmp_path / f"{name}.zarr", options))
    dense.extract_dense(dense.plan([path], TWO_EVERY_HALF, *jobs[0]), jobs)
    times = open_store(jobs[0][0]).row_array("frame_pts").ravel().tolist()
    assert 1.1 < len(given) / len({round(time * FPS) for time in times}) <= 1.2
    assert len(fitted) == len(given)


def test_a_file_is_read_whole_once(tmp_path, monkeypatch):
    """To learn how long it is; what its packets say is kept beside the store."""
    scans, scan = [], PyAVReader._demux
    monkeypatch.setattr(PyAVReader, "_demux", lambda self: scans.append(1) or scan(self))
    path = write_video(tmp_path / "V.mp4", frames=60)
    for _ in range(2):
        dense.plan([path], TWO_EVERY_HALF, tmp_path / "d.zarr", settings())
    assert len(scans) == 1


def test_memory_does_not_grow_with_a_video(tmp_path):
    """Two hours and a half at a frame a second: 120 windows of a minute and a quarter."""
    path = write_video(tmp_path / "V.mp4", frames=9000, fps=1, gop=60, preset="ultrafast")
    options = {"image_size": 224, "batch_rows": 2, "rows_per_group": 256, "levels": ["clip"]}
    picture = 224 * 224 * 3
    tracemalloc.start()
    run([path], tmp_path / "d.zarr", dense.Windows(Fraction(75), Fraction(75)), **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(open_store(tmp_path / "d.zarr")) == 120
    # two batches of 2 rows x 4 pictures, some of them once more as arrays; all pictures would be 480
    assert peak < 100 * picture


# --- causality


@pytest.mark.parametrize(
    "sampling", [{}, {"views": 3}, {"rule": "mf_dense"}, {"rule": "lavila"}, {"rule": "avion"}], ids=str
)
def test_a_row_depends_on_nothing_after_its_window(tmp_path, sampling):
    """Lossless video, so that a changed frame changes no other; PyAV says that it is."""
    ours = lossless(tmp_path / "a" / "V.mp4", [barcode(number) for number in range(60)])
    changed = [barcode(number if number < 30 else 1023 - number) for number in range(60)]
    theirs = lossless(tmp_path / "b" / "V.mp4", changed)
    pictures = []
    for path in (ours, theirs):
        with av.open(str(path)) as container:
            pictures.append([frame.to_ndarray() for frame in container.decode(video=0)])
    equal = [np.array_equal(one, other) for one, other in zip(*pictures, strict=True)]
    assert equal == [True] * 30 + [False] * 30
    windows = dense.Windows(Fraction(1), Fraction(1, 10))
    options = {"sampling": {"frames": 10, **sampling}, "levels": ["clip", "frame", "patch"]}
    for name, path in (("a", ours), ("b", theirs)):
        run([path], tmp_path / f"{name}.zarr", windows, **options)
    a, b = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    assert spans(a) == spans(b)
    saw_change = (a.row_array("frame_pts") > 2.95).any(axis=2)  # (rows, views)
    assert [segment.stop <= 3.0 for segment in a.segments] == [True] * 21 + [False] * 30
    assert not saw_change[:21].any()
    for name, level in a.levels.items():
        for view in range(level.views):
            (one, _), (other, _) = (store.batch(range(len(a)), name, view=view) for store in (a, b))
            assert [bool((x != y).any()) for x, y in zip(one, other, strict=True)] == saw_change[
                :, view
            ].tolist()


def lossless(path: Path, pictures: list[np.ndarray]) -> Path:
    """H.264 without loss, with B-frames and long groups of pictures."""
    path.parent.mkdir()
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, len(pictures[0]), "yuv420p"
        stream.gop_size = 250
        stream.options = {"qp": "0", "bf": "2"}
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return path
