"""Does anything that a video shows after t_obs = start - tau_a reach the features of an anticipation row?
Tried on an encoder from outside, with a video file and the video job.

A film is rendered twice, the second time with another picture in place of each that comes after t_obs, and
both are extracted. Three rows of it share a batch:

    early   its window ends before t_obs
    row     its window ends at t_obs
    late    its window reaches beyond t_obs: it must change, or the trial has seen nothing
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from torch import Tensor

from mambavl.cache import open_store
from mambavl.cache.classes import Classes
from mambavl.cache.rows import Segment
from mambavl.extract.annotations import Annotations
from mambavl.extract.options import VideoExtraction
from mambavl.extract.video_job import extract_video

RATE, SECONDS = 30, 7
BLOCK, ROWS, COLUMNS = 8, 8, 12  # a picture is blocks of random colours
TAU_A = 1.0
START = {"early": 4.2, "row": 5.0, "late": 6.9}  # of the actions, in seconds
T_OBS = START["row"] - TAU_A
VIDEO = "film"


def what_later_pictures_reach(options: VideoExtraction) -> dict[str, list[str]]:
    """By row of START, the levels whose features changed, though only pictures after T_OBS did.

    options: the encoder and its levels; how the film is sampled is set here, all but `frames`. Raises what
    the video job raises.
    """
    sampling = {"task": "anticipation", "tau_a": TAU_A, "frames": options.sampling.frames}
    fixed = {"sampling": sampling, "batch_rows": len(START), "dtype": "float32", "max_failed": 0}
    chosen = VideoExtraction.model_validate({**options.model_dump(exclude_unset=True), **fixed})
    with TemporaryDirectory() as folder:
        before, after = (_features(Path(folder), chosen, others=others) for others in (False, True))
    return {
        row: [level for level, values in levels.items() if not values.equal(after[row][level])]
        for row, levels in before.items()
    }


def _features(folder: Path, options: VideoExtraction, *, others: bool) -> dict[str, dict[str, Tensor]]:
    """By row and level, (tokens, D). others: render the film with other pictures after T_OBS."""
    path = folder / f"{VIDEO}_{others}.mp4"
    write_film(path, others=others)
    rows = Annotations(path, tuple(map(_segment, START)), Classes({}), {}, {})
    out = folder / f"{others}.zarr"
    extract_video(rows, {VIDEO: path}, out, options)
    store = open_store(out)
    return {
        segment.narration_id: {level: store.batch([number], level)[0] for level in options.levels}
        for number, segment in enumerate(store.segments)
    }


def _segment(name: str) -> Segment:
    """A row of START, a tenth of a second long."""
    start = START[name]
    return Segment(name, "", VIDEO, "", start, start + 0.1, 0, 0, "test")


def write_film(path: Path, *, others: bool) -> None:
    """Render the film, without loss: what a picture is predicted from changes nothing of it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = COLUMNS * BLOCK, ROWS * BLOCK, "yuv420p"
        stream.codec_context.gop_size = RATE
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", "qp": "0"}
        for picture in _pictures(others=others):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _pictures(*, others: bool) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 each, no two alike."""
    for number in range(RATE * SECONDS):
        is_other = others and number / RATE > T_OBS
        dice = np.random.default_rng((number, is_other))
        blocks = dice.integers(0, 256, (ROWS, COLUMNS, 3), np.uint8)
        yield blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
