"""The ways besides a file in which a video may lie: frames in a folder or a tar, and chunks."""

import io
import math
import tarfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from helpers.clips import write_video

WHOLE_SECONDS = (
    "keyint=10:min-keyint=10:scenecut=0:open-gop=0"  # a place to cut at once a second, of ten frames
)


def write_cuttable(path: Path, frames: int = 60) -> Path:
    """A video of ten frames a second that can be cut at every second."""
    return write_video(path, frames=frames, fps=10, **{"x264-params": WHOLE_SECONDS})


def pictures_of(video: Path) -> list[np.ndarray]:
    """Every frame as PyAV decodes it, (H, W, 3) uint8."""
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def encoded(pixels: np.ndarray, ending: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"png": "PNG", "jpg": "JPEG"}[ending])
    return file.getvalue()


def frame_files(video: Path, rate: int, ending: str = "png", fps: int = 10) -> dict[str, bytes]:
    """A video's frames as pictures at `rate` a second: name -> file."""
    shown = [encoded(pixels, ending) for pixels in pictures_of(video)]
    count = math.ceil(len(shown) * rate / fps)
    return {f"frame_{n + 1:010d}.{ending}": shown[n * fps // rate] for n in range(count)}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_tar(
    path: Path, files: Mapping[str, bytes], prefix: str = "./", format: int = tarfile.GNU_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_chunks(folder: Path, video: Path, seconds: int) -> Path:
    """A video that `write_cuttable` made, cut without encoding it again: 0.MP4, `seconds`.MP4, ..."""
    folder.mkdir(parents=True)
    with av.open(str(video)) as source:
        [picture] = source.streams.video
        packets = [packet for packet in source.demux(picture) if packet.size]
        ticks = Fraction(seconds) / picture.time_base
        chunks: dict[int, list[av.Packet]] = {}
        latest = 0
        for packet in packets:
            if packet.is_keyframe:
                latest = int(packet.pts // ticks) * seconds
            chunks.setdefault(latest, []).append(packet)
        for start, held in chunks.items():
            with av.open(str(folder / f"{start}.MP4"), "w", format="mp4") as target:
                stream = target.add_stream_from_template(picture)
                first = held[0].pts
                for packet in held:
                    packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
                    target.mux(packet)
    return folder
