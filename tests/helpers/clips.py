"""Small H.264 videos whose every frame shows its own number as black and white blocks, made by PyAV in the
test.
"""

import struct
from collections.abc import Callable, Collection
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


def noisy_barcode(number: int) -> np.ndarray:
    """A barcode that can be read but not be packed small."""
    off = np.random.default_rng(number).integers(-60, 61, (HEIGHT, WIDTH, 3))
    return np.clip(barcode(number) + off, 0, 255).astype(np.uint8)


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
    muxer: dict[str, str] | None = None,
    picture: Callable[[int], np.ndarray] = barcode,
    pixels: str = "yuv420p",
    **options: str,
) -> Path:
    """`times`: pts of each frame in ticks of 1/1000 s (a variable rate); otherwise one frame every 1/fps.
    container, muxer, options: of FFmpeg, its muxer's name, that one's options and the encoder's.
    picture: frame number -> (HEIGHT, WIDTH, 3) uint8. pixels: FFmpeg's name of their format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
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


def without_packets(source: Path, target: Path, lost: Collection[int], container: str) -> Path:
    """A copy from which the packets of some pictures, counted as they are shown, were taken before it was
    written.
    """
    with av.open(str(source)) as old, av.open(str(target), "w", format=container) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        shown = sorted(packet.pts for packet in packets)
        first = next(packet.dts for packet in packets if packet.dts is not None)
        for number, packet in enumerate(packets):
            if packet.dts is None:  # Matroska has none, and FFmpeg makes them up from the second on
                packet.dts = first - len(packets) + number
            if shown.index(packet.pts) not in lost:
                packet.stream = stream
                new.mux(packet)
    return target


def without_durations(path: Path) -> Path:
    """A Matroska file, changed where it lies, whose track does not say how long a picture lasts, as of
    programs that record a screen.
    """
    data = path.read_bytes()
    at = data.index(b"\x23\xe3\x83\x84")  # DefaultDuration, of four bytes
    path.write_bytes(data[:at] + b"\xec\x86" + bytes(6) + data[at + 8 :])  # Void, of six
    return path


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


def turned(source: Path, target: Path) -> Path:
    """A copy of an MP4 file with a mark that its picture is to be shown after a quarter turn clockwise."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 44  # of the matrix, in a header of version 0
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target
