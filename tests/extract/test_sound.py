"""Soundtracks: the right moments, other rates, silence outside, and files that cannot be heard."""

import numpy as np
import pytest

from helpers.clips import write_video
from helpers.sounds import RATE, ramp, write_sound
from mambavl.extract.sound import SEAM, SoundReader
from mambavl.extract.timeline import VideoError


def hear(path, start, seconds, rate=16_000):
    reader = SoundReader(path)
    try:
        return reader.window(start, round(seconds * rate), rate)
    finally:
        reader.close()


@pytest.mark.parametrize("rate", [16_000, RATE, 44_100])
@pytest.mark.parametrize("start", [0.0, 1.2345, 4.0])
def test_a_window_holds_the_samples_of_its_times(tmp_path, start, rate):
    heard = hear(write_sound(tmp_path / "v.mkv", ramp()), start, 1.0, rate)
    assert (len(heard.samples), heard.samples.dtype, heard.is_partial) == (rate, np.float32, False)
    inner = slice(rate // 50, -rate // 50)  # a filter rings where the window ends
    times = start + np.arange(rate) / rate
    # Matroska counts in milliseconds
    np.testing.assert_allclose(heard.samples[inner] * 10, times[inner], atol=1.1e-3)
    assert heard.last == pytest.approx(start + 1.0, abs=2e-3)


def test_windows_do_not_depend_on_what_was_heard_before(tmp_path):
    path = write_sound(tmp_path / "v.mkv", ramp())
    reader = SoundReader(path)
    for start in (3.0, 0.5, 5.0, 3.0):
        np.testing.assert_array_equal(
            reader.window(start, 8000, 16_000).samples, hear(path, start, 0.5).samples
        )
    reader.close()


def test_nothing_after_a_window_changes_a_sample_of_it(tmp_path):
    plain, loud = ramp(), ramp()
    loud[round(3.0 * RATE) :] = 0.9
    windows = [
        hear(write_sound(tmp_path / name, sound), 1.0, 2.0) for name, sound in (("a", plain), ("b", loud))
    ]
    np.testing.assert_array_equal(windows[0].samples, windows[1].samples)
    assert windows[0].last <= 3.0 + SEAM  # its clock counts in milliseconds


def test_aac_in_mp4_is_on_time_and_channels_are_averaged(tmp_path):
    times = np.arange(6 * RATE) / RATE
    tone = 0.4 * np.sin(2 * np.pi * (100 + 50 * times) * times)
    path = write_sound(tmp_path / "v.mp4", np.stack([tone, 0.5 * tone], 1), codec="aac")
    heard = hear(path, 2.0, 1.0).samples
    expected = 0.75 * tone[2 * RATE : 3 * RATE : 3]
    lags = [np.dot(heard[200:-200], expected[200 + lag : -200 + lag or None]) for lag in range(-100, 101)]
    assert abs(int(np.argmax(lags)) - 100) <= 1
    assert np.abs(heard - expected)[200:-200].max() < 0.05


def test_time_starts_with_the_picture(tmp_path):
    heard = hear(write_sound(tmp_path / "v.mkv", ramp(), delay=0.5), 1.0, 1.0, RATE)
    assert heard.samples[100] * 10 == pytest.approx(0.5 + 100 / RATE, abs=1.1e-3)


def test_outside_the_soundtrack_is_silence_and_says_so(tmp_path):
    path = write_sound(tmp_path / "v.mkv", ramp(4.0) + 0.1)
    early, late = hear(path, -0.5, 1.0), hear(path, 3.5, 1.0)
    assert early.is_partial
    assert late.is_partial
    assert not early.samples[:7900].any()
    assert early.samples[8100:].min() > 0.05
    assert late.samples[:7900].min() > 0.05
    assert not late.samples[8100:].any()
    assert late.last == pytest.approx(4.0, abs=2e-3)
    with pytest.raises(VideoError, match=r"no sound from 5\.00 to 6\.00 s") as caught:
        hear(path, 5.0, 1.0)
    assert caught.value.status == "short_video"


def test_files_that_cannot_be_heard_have_a_named_reason(tmp_path):
    with pytest.raises(VideoError, match="holds no soundtrack") as caught:
        SoundReader(write_video(tmp_path / "silent.mp4"))
    assert caught.value.status == "no_soundtrack"
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoError) as caught:
        SoundReader(tmp_path / "text.mp4")
    assert caught.value.status == "unreadable_video"


def test_a_hole_in_the_soundtrack_is_no_silence(tmp_path):
    path = write_sound(tmp_path / "v.mkv", ramp())
    reader = SoundReader(path)
    decoded = reader._decoded
    reader._decoded = lambda start, stop: (part for part in decoded(start, stop) if not 2.4 < part[0] < 2.5)
    with pytest.raises(VideoError, match="samples are missing after") as caught:
        reader.window(2.0, 16_000, 16_000)
    assert caught.value.status == "damaged_sound"
    reader.close()


@pytest.mark.parametrize("name", ["P01_01.tar", "P01_01/frame_0000000001.jpg", "P01_01.MP4/0.MP4"])
def test_frames_and_chunks_have_no_sound(tmp_path, name):
    part = tmp_path / name
    part.parent.mkdir(exist_ok=True)
    part.touch()
    with pytest.raises(VideoError, match="sound is read from whole video files only") as caught:
        SoundReader(part if part.suffix == ".tar" else part.parent)
    assert caught.value.status == "no_soundtrack"
