"""Small H.264 videos whose every frame shows its own number as black and white blocks, made by PyAV in the
test.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, BLOCK = 10, 16
WIDTH, HEIGHT = BITS * BLOCK, 48


def barcode(number: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: bit i of the number as a block, white for 1."""
    bits = [(number >> i) & 1 for i in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, BLOCK)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def read_barcode(pixels: np.ndarray) -> int:
    centre = pixels[pixels.shape[0] // 2, BLOCK // 2 :: BLOCK, 0]
    return sum(int(value > 127) << i for i, value in enumerate(centre[:BITS]))


def write_video(
    path: Path,
    *,
    frames: int = 60,
    fps: int = 10,
    gop: int = 12,
    times: list[int] | None = None,
    container: str = "mp4",
    codec: str = "libx264",
    picture: Callable[[int], np.ndarray] = barcode,
    **options: str,
) -> Path:
    """`times`: pts of each frame in ticks of 1/1000 s (a variable rate); otherwise one frame every 1/fps.
    container, options: of FFmpeg, its muxer's name and the encoder's. picture: frame number ->
    (HEIGHT, WIDTH, 3) uint8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size = gop
        stream.options = {"bf": "2", "crf": "18", **options}
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = times[number] if times else number
            frame.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return path
