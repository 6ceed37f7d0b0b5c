"""The picture: which moments, which frames, how long the bars are."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from helpers.clips import barcode, write_video
from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError
from mambavl.predict.answers import Guess
from mambavl.predict.moments import Moment
from mambavl.predict.picture import (
    BAR,
    COLUMNS,
    FILL,
    FRAME,
    GAP,
    LINE,
    MOST,
    NAME,
    draw,
    said_of_time,
    shown,
)
from mambavl.predict.predict import Answer

ROW = Segment("a", "P", "v", "", 0.0, 1.0, 0, 0, "predict")


def answer(time, probabilities=(0.75, 0.25, 0.0), about=None):
    guesses = [Guess((i,), f"class {i}", p) for i, p in enumerate(probabilities)]
    return Answer(Moment(time, 0.0, about or time, ROW), {"verb": guesses})


def test_of_many_moments_even_ones_are_shown():
    assert shown(3) == [0, 1, 2]
    assert shown(MOST) == list(range(MOST))
    many = shown(1000)
    assert len(many) == len(set(many)) == MOST
    assert (many[0], many[-1]) == (0, 999)
    assert {after - before for before, after in pairwise(many)} <= {25, 26}


def test_frames_and_bars_are_those_of_their_moments(tmp_path):
    video = write_video(tmp_path / "v.MP4", frames=40, gop=1, crf="1")
    times = [0.55, 1.0, 2.0, 3.9, 4.0]
    assert draw(video, [answer(time) for time in times], tmp_path / "new" / "p.png") == 5
    with Image.open(tmp_path / "new" / "p.png") as image:
        page = np.asarray(image.convert("RGB")).astype(int)
    width = FRAME[0] + GAP + NAME + BAR
    height = (len(page) - GAP) // 2 - GAP
    for number, (time, frame) in enumerate(zip(times, (5, 10, 20, 39, 39), strict=True)):
        row, column = divmod(number, COLUMNS)
        left, top = GAP + column * (width + GAP), GAP + row * (height + GAP)
        expected = barcode(frame)  # 160 x 48, smaller than the place for it
        found = page[top + LINE : top + LINE + 48, left : left + 160]
        assert np.abs(found - expected).mean() < 8, time
        bars = page[top : top + height, left + FRAME[0] + GAP + NAME : left + width]
        filled = (bars == np.array([int(FILL[i : i + 2], 16) for i in (1, 3, 5)])).all(-1).sum(1)
        assert sorted(set(filled.tolist())) == [0, round(BAR / 4), round(BAR * 3 / 4)]


def test_a_moment_without_features_has_its_status_in_place_of_bars(tmp_path):
    video = write_video(tmp_path / "v.MP4", frames=10)
    bad = Answer(Moment(0.5, 0.0, 0.5, ROW), None, "damaged_frame", "why")
    assert draw(video, [bad, answer(0.5)], tmp_path / "p.png") == 2
    assert draw(video, [bad], tmp_path / "q.png") == 1


def test_a_hole_in_the_file_leaves_a_place_empty(tmp_path):
    times = [*range(0, 500, 100), *range(6000, 7500, 100)]
    video = write_video(tmp_path / "gap.mkv", frames=20, times=times, container="matroska", codec="mpeg4")
    assert draw(video, [answer(0.2), answer(3.0)], tmp_path / "p.png") == 2


def test_a_file_that_is_no_video_says_so(tmp_path):
    (tmp_path / "v.MP4").write_text("no video")
    with pytest.raises(DataError, match=r"v\.MP4"):
        draw(tmp_path / "v.MP4", [answer(1.0)], tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_a_time_says_what_it_is_about():
    assert said_of_time(answer(1.0)) == "at 1.00 s"
    assert said_of_time(answer(1.0, about=2.0)) == "at 1.00 s, for 2.00 s"
