"""Exact frames by time: every decoded frame carries its number, so a wrong one cannot pass."""

import av
import numpy as np
import pytest

from helpers.clips import read_barcode, write_video
from mambavl.configs.errors import UsageError
from mambavl.extract.timeline import HOLD, VideoError
from mambavl.extract.video import DecordReader, open_video


def numbers_at(path, times, decoder="pyav"):
    """The numbers shown by the frames on display at some times."""
    reader = open_video(path, decoder)
    index, _ = reader.timeline.at(np.asarray(times))
    shown = {i: read_barcode(frame) for i, frame in reader.frames(index)}
    return [shown[int(i)] for i in index]


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("gop", [1, 12, 250])
def test_the_frame_on_display_at_a_time_is_the_one_decoded(tmp_path, decoder, gop):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    path = write_video(tmp_path / "a.MP4", frames=60, fps=10, gop=gop)
    times = [0.0, 0.05, 0.1, 0.199, 3.33, 3.39, 5.9, 5.99]
    assert numbers_at(path, times, decoder) == [0, 0, 1, 1, 33, 33, 59, 59]


def test_random_orders_and_repeats_of_times(tmp_path):
    path = write_video(tmp_path / "a.MP4", frames=100, fps=20)
    wanted = np.random.default_rng(0).integers(0, 100, 40)
    assert numbers_at(path, (wanted + 0.5) / 20) == wanted.tolist()


def test_one_reader_answers_again_and_again(tmp_path):
    reader = open_video(write_video(tmp_path / "a.MP4"))
    for wanted in ([59], [0, 30], [13, 12, 11], [58, 59], [0]):
        assert [read_barcode(frame) for _, frame in reader.frames(np.array(wanted))] == sorted(wanted)


def test_a_variable_rate_is_followed_by_presentation_time(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(20, 200, 50)).tolist()
    path = write_video(tmp_path / "a.MP4", frames=50, times=times)
    seconds = (np.array(times) - times[0]) / 1000  # time 0 is the first displayed frame
    assert numbers_at(path, seconds + 0.001) == list(range(50))
    assert numbers_at(path, seconds[1:] - 0.005) == list(range(49))


def test_a_time_just_past_the_end_holds_the_last_frame_and_later_is_short(tmp_path):
    timeline = open_video(write_video(tmp_path / "a.MP4", frames=60, fps=10)).timeline
    assert timeline.end == pytest.approx(6.0)
    assert timeline.fps == pytest.approx(10.0)
    index, held = timeline.at(np.array([5.0, 6.0 + HOLD / 2]))
    assert (index.tolist(), held) == ([50, 59], True)
    with pytest.raises(VideoError, match=r"ends at 6\.00 s") as error:
        timeline.at(np.array([6.0 + 2 * HOLD]))
    assert error.value.status == "short_video"


@pytest.mark.parametrize("content", [b"", b"not a video at all\n" * 50])
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_files_that_are_no_video_say_so(tmp_path, content, decoder):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    path = tmp_path / "a.MP4"
    path.write_bytes(content)
    with pytest.raises(VideoError) as error:
        open_video(path, decoder)
    assert error.value.status == "unreadable_video"


def test_a_file_cut_in_half_never_hands_out_another_frame(tmp_path):
    """The index of an mp4 stands at its end, so half a file has none; overwritten bytes in the middle damage
    some frames only.
    """
    whole = write_video(tmp_path / "a.MP4", frames=200, fps=10).read_bytes()
    half = tmp_path / "half.MP4"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match="half"):
        open_video(half)
    noise = tmp_path / "noise.MP4"
    data = bytearray(whole)
    data[4000:4400] = bytes(400)
    noise.write_bytes(data)
    reader = open_video(noise)
    found = dict(reader.frames(np.arange(200)))
    assert set(found) == set(range(200))
    broken = {i for i, frame in found.items() if isinstance(frame, VideoError)}
    assert broken
    assert {found[i].status for i in broken} == {"damaged_frame"}


def test_an_unknown_decoder_is_a_wrong_call(tmp_path):
    with pytest.raises(UsageError, match="use pyav or decord"):
        open_video(tmp_path / "a.MP4", "opencv")


@pytest.mark.shared
def test_real_awkward_files(shared):
    """A broken stream, H.265, a first pts of 8.33 s, a rotated picture."""
    edge = shared / "data" / "edge"
    frames = dict(open_video(edge / "corrupted.mp4").frames(np.arange(50)))
    damaged = [i for i, frame in frames.items() if isinstance(frame, VideoError)]
    assert damaged == list(range(29, 50))
    timeline = open_video(edge / "non_zero_start.mp4").timeline
    assert timeline.pts[0] == 0
    assert timeline.end < 1
    rotated = dict(open_video(edge / "rotation_90.mov").frames(np.array([0])))[0]
    with av.open(str(edge / "rotation_90.mov")) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    # seen by eye: upright after a quarter turn clockwise
    np.testing.assert_array_equal(rotated, np.rot90(stored, -1))
    assert len(dict(open_video(edge / "h265_video.mp4").frames(np.arange(10)))) == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"container": "avi", "bf": "0"}, "its container is avi"),
        ({"container": "mpegts"}, "its container is mpegts"),
        ({"codec": "mpeg4"}, "codec mpeg4 with B-frames"),
        ({"x264-params": "open-gop=1:bframes=2:keyint=12:min-keyint=12"}, "not all places to begin at"),
        ({"x264-params": "intra-refresh=1:bframes=0:keyint=20"}, "not all places to begin at"),
    ],
)
def test_files_of_which_decord_hands_out_other_frames_are_refused(tmp_path, changes, said):
    """In order it reads them rightly, so a few frames here and there are what shows it."""
    pytest.importorskip("decord", reason="decord has no wheel for this machine")
    path = write_video(tmp_path / "a.MP4", frames=120, **changes)
    with pytest.raises(VideoError, match=f"{said}.*; decode it with pyav") as error:
        open_video(path, "decord")
    assert error.value.status == "unreadable_video"


def test_decord_must_give_the_pictures_of_pyav(tmp_path, monkeypatch):
    pytest.importorskip("decord", reason="decord has no wheel for this machine")
    path = write_video(tmp_path / "a.MP4")
    right = DecordReader._frame
    monkeypatch.setattr(DecordReader, "_frame", lambda self, index: right(self, max(index - 1, 0)))
    with pytest.raises(VideoError, match=r"its frame \d+ is another than PyAV's"):
        open_video(path, "decord")


@pytest.mark.shared
def test_decord_gives_the_same_pixels_or_refuses(shared):
    pytest.importorskip("decord", reason="decord has no wheel for this machine")
    refused = []
    for path in sorted((shared / "data" / "mini_ek").glob("P*/videos/*.MP4"))[::4] + sorted(
        (shared / "data" / "edge").glob("*.m*")
    ):
        ours = open_video(path)
        indices = np.random.default_rng(0).choice(len(ours.timeline.pts), 3)
        try:
            theirs = dict(open_video(path, "decord").frames(indices))
        except VideoError as error:
            refused.append((path.name, "decode it with pyav" in str(error)))
            continue
        for index, frame in ours.frames(indices):
            if not isinstance(frame, VideoError) and not isinstance(theirs[index], VideoError):
                np.testing.assert_array_equal(theirs[index], frame)
    assert refused == [("h265_video.mp4", True), ("rotation_90.mov", True)]
