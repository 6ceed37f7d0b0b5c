"""Exact frames by time: every decoded frame carries its number, so a wrong one cannot pass."""

from pathlib import Path

import av
import numpy as np
import pytest

from helpers.clips import read_barcode, write_video
from mambavl.configs.errors import UsageError
from mambavl.extract.video import HOLD, Timeline, VideoError, open_video


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


def cut_by_an_edit_list(source: Path, target: Path, frames: int, fps: int = 10) -> Path:
    """What `ffmpeg -ss T -c copy` makes: all packets kept, times moved before 0, an edit list that hides what
    lies there.
    """
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", format="mp4", options={"avoid_negative_ts": "disabled"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                shift = round(frames / fps / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    return target


@pytest.mark.parametrize("gop", [12, 250])
@pytest.mark.parametrize("hidden", [1, 13, 30])
def test_frames_that_an_edit_list_hides_are_decoded_but_never_counted(tmp_path, gop, hidden):
    whole = write_video(tmp_path / "a.MP4", frames=60, gop=gop)
    path = cut_by_an_edit_list(whole, tmp_path / "cut.MP4", hidden)
    reader = open_video(path)
    assert len(reader.timeline.pts) == 60 - hidden
    shown = {i: read_barcode(frame) for i, frame in reader.frames(np.arange(60 - hidden))}
    assert shown == {i: i + hidden for i in range(60 - hidden)}


def test_a_frame_stands_for_its_own_time_and_a_little_more():
    timeline = Timeline(pts=np.array([0.0, 0.1, 0.2, 0.6, 0.7]), end=0.8, longest=np.full(5, 0.25))
    assert timeline.at(np.array([0.19, 0.44, 0.65]))[0].tolist() == [1, 2, 3]
    with pytest.raises(VideoError, match=r"no frame for 0\.50 s") as error:
        timeline.at(np.array([0.1, 0.5]))
    assert error.value.status == "damaged_frame"


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


def damaged(path: Path, target: Path, pts_of_packet: int) -> Path:
    """A copy whose picture of that number is zeros from its first block on; its length and header stand."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        (packet,) = (
            p for p in container.demux(stream) if p.size and round(p.pts * p.time_base * 10) == pts_of_packet
        )
        data[packet.pos + 12 : packet.pos + packet.size] = bytes(packet.size - 12)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("bf", ["0", "2"])
def test_no_picture_behind_a_damaged_one_is_handed_out(tmp_path, bf):
    """Up to the next keyframe they are made of it, and those shown before it may be, too; the decoder marks
    one of them.
    """
    whole = write_video(tmp_path / "a.MP4", frames=120, gop=60, bf=bf, sc_threshold="0")
    sound = dict(open_video(whole).frames(np.arange(120)))
    noticed = 0
    for number in range(3, 57, 3):
        found = dict(open_video(damaged(whole, tmp_path / "b.MP4", number)).frames(np.arange(120)))
        broken = [i for i, frame in found.items() if isinstance(frame, VideoError)]
        if not broken:
            continue  # zeros may be a picture
        noticed += 1
        assert broken == list(range(broken[0], 60))
        for i in set(range(120)) - set(broken):
            np.testing.assert_array_equal(found[i], sound[i])
        # asked alone, it is the same
        last = dict(open_video(tmp_path / "b.MP4").frames(np.array([59])))[59]
        assert isinstance(last, VideoError)
        assert last.status == "damaged_frame"
    assert noticed >= 5


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
