"""Frames of a clip as a model is shown them."""

import io

import numpy as np
from PIL import Image

from helpers.clips import read_barcode
from helpers.dataset import make_dataset
from mambavl.extract.annotations import read_annotations
from mambavl.extract.questions.llm.frames import ClipFrames


def test_the_frames_are_those_of_the_action_in_order(tmp_path):
    folder = make_dataset(tmp_path / "data", videos=1)
    (row, *_) = read_annotations(folder / "annotations", ("validation",)).segments[1:]
    clip = ClipFrames(folder / "videos", 4, 160)
    jpegs = clip.jpegs(row)
    seen = [read_barcode(np.asarray(Image.open(io.BytesIO(jpeg)))) for jpeg in jpegs]
    times = clip.identity(row)["times"]
    assert seen == [int(time * 10 + 1e-6) for time in times]
    assert row.start < times[0] < times[-1] < row.stop
    small = Image.open(io.BytesIO(ClipFrames(folder / "videos", 1, 80).jpegs(row)[0]))
    assert small.size == (80, 24)
