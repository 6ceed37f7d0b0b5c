"""Pictures of rows: the frames that were asked for, and no others."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from helpers.clips import BITS, HEIGHT, WIDTH, barcode, write_video
from helpers.tiny import make_segments
from mambavl.configs.errors import DataError
from mambavl.extract.stills import FRAME, GAP, MOST_BYTES, beside, small, strips

ROW = replace(make_segments(1)[0], narration_id="a", video_id="v", start=1.0, stop=3.0)


def numbers_in(strip: bytes, frames: int) -> list[int]:
    """The barcodes of a strip, left to right."""
    picture = np.asarray(Image.open(io.BytesIO(strip)).convert("L"))
    assert picture.shape == (HEIGHT, frames * WIDTH + (frames - 1) * GAP)
    found = []
    for frame in range(frames):
        left = frame * (WIDTH + GAP)
        bits = picture[HEIGHT // 2, left + WIDTH // BITS // 2 : left + WIDTH : WIDTH // BITS]
        found.append(sum(int(value > 127) << bit for bit, value in enumerate(bits)))
    return found


def test_frames_are_those_on_display_at_the_moments_wanted(tmp_path):
    """Ten frames a second: the frame at 1.25 s is number 12."""
    path = write_video(tmp_path / "v.mp4")
    rows = [(ROW, [1.0, 1.25, 2.99]), (replace(ROW, narration_id="b"), [1.25, 0.0])]
    done = []
    found = strips(rows, lambda segment: path, lambda *counts: done.append(counts))
    assert numbers_in(found["a"], 3) == [10, 12, 29]
    assert numbers_in(found["b"], 2) == [12, 0]
    assert done == [(1, 1)]


def test_what_cannot_be_shown_says_why_and_costs_nobody_else_anything(tmp_path):
    good = write_video(tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    paths = {"good": good, "bad": tmp_path / "bad.mp4", "gone": None}
    rows = [(replace(ROW, narration_id=video, video_id=video), [1.0]) for video in ("bad", "good", "gone")]
    rows.append((replace(ROW, narration_id="late", video_id="good"), [1.0, 60.0]))

    def find(segment):
        if segment.video_id == "twice":
            raise DataError("twice: it is there twice")
        return paths[segment.video_id]

    rows.append((replace(ROW, narration_id="twice", video_id="twice"), [1.0]))
    found = strips(rows, find)
    assert numbers_in(found["good"], 1) == [10]
    assert found["bad"].startswith(str(tmp_path / "bad.mp4"))
    assert found["gone"] == "gone: its video is not there"
    assert "ends at 6.00 s" in found["late"]
    assert found["twice"] == "twice: it is there twice"


def test_a_damaged_frame_is_not_replaced(tmp_path):
    """A folder of EPIC's frames, 60 a second, of which the fourth is no picture."""
    folder = tmp_path / "P01_01"
    folder.mkdir()
    for number in range(1, 7):
        Image.fromarray(barcode(number)).save(folder / f"frame_{number:010d}.jpg", quality=95)
    (folder / "frame_0000000004.jpg").write_bytes(b"no picture")
    rows = [(ROW, [0.0, 5 / 60]), (replace(ROW, narration_id="b"), [0.0, 3 / 60])]
    found = strips(rows, lambda segment: folder)
    assert numbers_in(found["a"], 2) == [1, 6]
    assert found["b"] == f"{folder}/frame_0000000004.jpg: is no JPEG or PNG picture"


def test_frames_are_fitted_into_their_box():
    assert small(np.zeros((1080, 1920, 3), np.uint8)).size == FRAME
    assert small(np.zeros((512, 456, 3), np.uint8)).size == (96, 108)
    assert small(np.zeros((30, 40, 3), np.uint8)).size == (40, 30)


def test_a_strip_is_of_the_best_quality_that_takes_no_more_bytes_than_it_may():
    rng = np.random.default_rng(0)
    flat = beside([Image.fromarray(np.full((108, 192, 3), 90, np.uint8))] * 4)
    assert flat == beside([Image.fromarray(np.full((108, 192, 3), 90, np.uint8))] * 4, most=10**6)
    assert Image.open(io.BytesIO(flat)).format == "WEBP"
    patches = rng.integers(0, 256, (9, 16, 3)).astype(np.uint8)
    large = np.asarray(Image.fromarray(patches).resize(FRAME, Image.Resampling.BICUBIC), np.int64)
    noisy = np.clip(large + rng.integers(-12, 13, large.shape), 0, 255).astype(np.uint8)
    some = [Image.fromarray(noisy)] * 4
    sizes = [len(beside(some, most)) for most in (10**6, 7000, 5500, 1)]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] > 1  # the last is of the worst quality there is
    assert sizes[1] <= 7000
    assert sizes[2] <= 5500
    assert len(beside(some)) <= MOST_BYTES
