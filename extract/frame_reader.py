"""Frames that lie as pictures, in a folder or in a tar, as EPIC-KITCHENS-100 publishes them (rgb_frames).

Their rate is nominal, 60 a second of the older videos and 50 of the newer: frame n, counted from 1, begins at
(n - 1) / rate. A tar is read where it lies: its members are found by their place, and their names never
become paths.
"""

import io
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mambavl.configs.errors import DataError
from mambavl.extract.annotations import nominal_rate
from mambavl.extract.input_files import BLOCK, InputFile
from mambavl.extract.tar_members import members_of
from mambavl.extract.timeline import Timeline, VideoError, first_line
from mambavl.extract.video_parts import arrange

MOST_BYTES = 2**26  # of one picture
EPIC_ID = re.compile(r"P[0-9]{2}_[0-9]{2,3}")
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr")  # of PIL, that have eight bits or fewer

# what PIL raises for damaged bytes
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


class FrameReader:
    """Pictures behind the interface of `Reader`. Those that are not there are `timeline.missing`."""

    def __init__(self, path: Path, names: Mapping[int, str] | None = None, retries: int = 0) -> None:
        """names: number -> file, in order, of the frames in a folder; None where `path` is a tar.

        Raises VideoError `unreadable_video` for a tar that is none or holds no frames, DataError where the
        rate is not known, SystemFault where the tar cannot be read.
        """
        rate = frame_rate(path)
        self._pictures: _TarPictures | _FolderPictures
        if names is None:
            self._pictures = _TarPictures(path, retries)
        else:
            self._pictures = _FolderPictures(path, names, retries)
        there = self._pictures.numbers
        before = np.concatenate(([0], there[:-1]))
        is_hole = there - before > 1
        first, last = before[is_hole] + 1, there[is_hole] - 1
        shown = np.concatenate((there, first))  # of each hole its first
        order = np.argsort(shown)
        # of each frame its place among the pictures; -1: a hole
        self._places = np.concatenate((np.arange(len(there)), np.full(len(first), -1)))[order]
        self.timeline = Timeline(
            pts=(shown[order] - 1) / rate,
            end=float(there[-1]) / rate,
            longest=np.full(len(shown), np.inf),
            missing={
                index: f"{path}: {_named(begin, stop)} not there"
                for index, begin, stop in zip(
                    np.flatnonzero(self._places < 0).tolist(), first.tolist(), last.tolist(), strict=True
                )
            },
            rate=rate,
        )

    def close(self) -> None:
        self._pictures.close()

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        for index in np.unique(indices).tolist():
            if index in self.timeline.missing:
                yield index, VideoError("damaged_frame", self.timeline.missing[index])
                continue
            place = int(self._places[index])
            try:
                yield index, decode_picture(self._pictures.read(place))
            except ValueError as error:
                yield index, VideoError("damaged_frame", f"{self._pictures.name(place)}: {error}")


def frame_rate(path: Path) -> int:
    """Frames a second of the video that a folder or a tar is named after. Raises DataError where it is not
    one of EPIC's: nothing says when its frames were.
    """
    video_id = path.name.partition(".")[0]
    if not EPIC_ID.fullmatch(video_id):
        raise DataError(
            f"{path}: holds frames, and how many make a second is known of EPIC's videos only (P01_01: 60, "
            "P01_101: 50); give the video as a file"
        )
    return nominal_rate(video_id)


def decode_picture(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of a JPEG or PNG file. Raises ValueError, with the reason, where it is damaged."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            is_png, mode = image.format == "PNG", image.mode
            if is_png:
                image.verify()  # decoding leaves out some of the checksums
        if mode not in MODES:
            raise ValueError(f"has pixels of another kind than eight bits a colour ({mode})")
        if not is_png:
            _check_jpeg(data)
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:  # its own words hold an address in memory
        raise ValueError("is no JPEG or PNG picture") from None
    except DAMAGED as error:
        raise ValueError(first_line(error)) from None


def _check_jpeg(data: bytes) -> None:
    """Raises ValueError for damage that PIL shows as grey or shifted blocks and says nothing of: FFmpeg does.
    JPEG has no checksum, so no reader sees all of it: of 200 files with 4,096 bytes zeroed FFmpeg passed
    none, with 300 bytes about half; of 2,374 sound ones of many kinds it refused none.
    """
    import av

    strict = av.CodecContext.create("mjpeg", "r")
    strict.options = {"err_detect": "explode"}
    try:
        strict.decode(av.Packet(data))
    except av.error.InvalidDataError:
        raise ValueError("its JPEG data are damaged") from None
    except av.FFmpegError:
        return  # a kind of JPEG that FFmpeg does not know: PIL's word is all there is


class _FolderPictures:
    def __init__(self, path: Path, names: Mapping[int, str], retries: int) -> None:
        self._path, self._retries = path, retries
        self.numbers = np.array(list(names), np.int64)
        self._names = _texts(names.values())

    def name(self, place: int) -> str:
        return str(self._path / self._names[place].decode())

    def read(self, place: int) -> bytes:
        """Raises SystemFault; ValueError for a picture that is too large."""
        file = InputFile(self._path / self._names[place].decode(), self._retries)
        try:
            return _bytes(file, 0, file.size)
        finally:
            file.close()

    def close(self) -> None:
        """No file stays open."""


class _TarPictures:
    def __init__(self, path: Path, retries: int) -> None:
        self._path = path
        self._file = InputFile(path, retries)
        try:
            members = list(members_of(self._file))
            parts = arrange(member.name for member in members)
            if parts.kind != "frames":
                raise ValueError("holds chunks of a video; unpack it")
            self._file.check()
        except ValueError as error:
            self._file.close()
            self._file.check()
            raise VideoError("unreadable_video", f"{path}: {error}") from None
        except DataError:
            self._file.close()
            raise
        self.numbers = np.array(list(parts.names), np.int64)
        self._names = _texts(parts.names.values())
        places = {member.name: (member.start, member.size) for member in members}
        self._places = np.array([places[name] for name in parts.names.values()], np.int64)

    def name(self, place: int) -> str:
        return f"{self._path}: {self._names[place].decode(errors='replace')}"

    def read(self, place: int) -> bytes:
        """Raises SystemFault; ValueError for a picture that is too large."""
        return _bytes(self._file, *self._places[place].tolist())

    def close(self) -> None:
        self._file.close()


def _texts(names: Iterable[str]) -> np.ndarray:
    """Names as bytes: an hour has 200,000, and every thread that reads has its own."""
    return np.array([name.encode(errors="surrogateescape") for name in names])


def _bytes(file: InputFile, start: int, size: int) -> bytes:
    if size > MOST_BYTES:
        raise ValueError(f"has {size:,} bytes, more than a picture")
    file.seek(start)
    data = b""
    while len(data) < size and (block := file.read(min(size - len(data), BLOCK))):
        data += block
    file.check()
    return data


def _named(first: int, last: int) -> str:
    begin = f"frame_{first:010d}"
    return f"{begin} is" if first == last else f"{begin} to frame_{last:010d} are"
