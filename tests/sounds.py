"""Small videos with a soundtrack, made by PyAV in the test."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clips import HEIGHT, WIDTH, barcode

RATE = 48_000


def write_sound(
    path: Path,
    samples: np.ndarray | None,
    *,
    codec: str = "pcm_s16le",
    seconds: float = 6.0,
    delay: float = 0.0,
    picture: bool = True,
) -> Path:
    """A Matroska file with ten frames a second and `samples` (n, channels), -1 to 1 at RATE, that begin `delay` after them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska" if codec.startswith("pcm") else "mp4") as container:
        video = container.add_stream("libx264", rate=10) if picture else None
        if video:
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = None
        if samples is not None:
            audio = container.add_stream(codec, rate=RATE, layout={1: "mono", 2: "stereo"}[samples.shape[1]])
        for number in range(round(seconds * 10)) if video else ():
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(video.encode(frame))
        if video:
            container.mux(video.encode())
        if audio:
            for first in range(0, len(samples), 1024):
                container.mux(audio.encode(_frame(samples[first : first + 1024], codec, first + round(delay * RATE))))
            container.mux(audio.encode())
    return path


def _frame(samples: np.ndarray, codec: str, pts: int) -> av.AudioFrame:
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    if codec.startswith("pcm"):
        whole = np.round(samples * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout=layout)
    else:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.astype(np.float32)), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = RATE, pts, Fraction(1, RATE)
    return frame


def ramp(seconds: float = 6.0) -> np.ndarray:
    """(n, 1): a sample's value is a tenth of its time."""
    return (np.arange(round(seconds * RATE)) / RATE / 10)[:, None]
