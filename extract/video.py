"""Frames of a video at given times, by presentation time (pts), never by frame number.

Time 0 is the first displayed frame. The frame at time t is the one on display then: pts_i <= t < pts_(i+1). A
damaged frame, a time past the end, or a file that cannot be decoded raises VideoError with the status its row
gets; no other frame is ever handed out in its place. An error of the system while a file is opened or read is
none of these, but a SystemFault.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from mambavl.configs.errors import UsageError
from mambavl.extract.chunk_reader import ChunkReader
from mambavl.extract.frame_reader import FrameReader
from mambavl.extract.input_files import is_folder, try_twice
from mambavl.extract.pyav_reader import PyAVReader
from mambavl.extract.timeline import Reader, VideoError, first_line
from mambavl.extract.video_files import Key
from mambavl.extract.video_index import VideoIndex
from mambavl.extract.video_parts import is_tar, list_parts

TRIED_WITH_DECORD = 5  # frames of every file
Decoder = Literal["pyav", "decord"]


def open_video(
    path: Path,
    decoder: Decoder = "pyav",
    retries: int = 0,
    index: VideoIndex | None = None,
    key: Key | None = None,
    *,
    still_pictures: bool = False,
) -> Reader:
    """Open a file, a folder of chunks, or frames in a folder or a tar, for which `decoder` does not matter.

    retries: how often an error of the system is tried again, while opening and reading. index: where the
    scans of files are kept; one that has a scan there is not read whole, but by decord, which always does so.
    key: the file's `video_files.content_key`, where that is known. still_pictures: take it that no file has
    lost a picture, so that each stands until the next, however long.

    Raises VideoError `unreadable_video` when it is not a video or is cut off before its index, DataError for
    a folder that does not hold one video, SystemFault when it cannot be opened or read, UsageError for an
    unknown decoder.
    """
    if decoder not in get_args(Decoder):
        raise UsageError(f"there is no decoder {decoder!r}; use pyav or decord")
    if is_tar(path):
        return FrameReader(path, retries=retries)
    if is_folder(path, retries):
        parts = list_parts(path, retries)
        if parts.kind == "frames":
            return FrameReader(path, parts.names, retries)
        return ChunkReader(
            path, parts.names, lambda chunk: _open_file(chunk, decoder, retries, index, None, still_pictures)
        )
    return _open_file(path, decoder, retries, index, key, still_pictures)


def _open_file(
    path: Path,
    decoder: Decoder,
    retries: int,
    index: VideoIndex | None,
    key: Key | None,
    still_pictures: bool,
) -> Reader:
    if decoder == "decord":
        return DecordReader(path, retries, still_pictures)
    return PyAVReader(path, retries, index, key, still_pictures)


class DecordReader:
    """decord behind the same interface: the same pixels as PyAV on ordinary H.264 and MPEG-4 files, and those
    only.

    It counts frames wrongly in files with edit lists, does not turn rotated pictures and, asked for a few
    frames here and there, hands out others: wherever a keyframe is no place to begin at (open GOP, intra
    refresh), in AVI and MPEG-TS, in H.265, in MPEG-4 with B-frames. Such files are refused, and each other
    file must give the same pictures as PyAV at a few places. Damaged frames it does not report: that stays a
    risk.
    """

    def __init__(self, path: Path, retries: int = 0, still_pictures: bool = False) -> None:
        try:
            from decord import DECORDError, VideoReader
        except ImportError as error:
            raise UsageError(
                f"decoder decord cannot be imported ({error}); use pyav, which is exact everywhere"
            ) from None
        self.path, self._retries, self._failures = path, retries, (DECORDError, RuntimeError)
        self._open = partial(VideoReader, str(path), num_threads=1)
        # decord's own clock ignores edit lists: it may only serve where both agree
        reference = PyAVReader(path, retries, still_pictures=still_pictures)
        self.timeline = reference.timeline
        try:
            self._reader = try_twice(path, retries, self._open, self._failures)
            if doubt := self._doubt(reference):
                raise VideoError(
                    "unreadable_video",
                    f"{path}: decord cannot be trusted with it ({doubt}); decode it with pyav",
                )
        except self._failures as error:
            raise VideoError("unreadable_video", f"{path}: {first_line(error)}") from None
        finally:
            reference.close()

    def _doubt(self, reference: PyAVReader) -> str:
        """Why decord may hand out other frames of this file than those asked for; empty where it does not."""
        shown, codec = len(self.timeline.pts), reference.codec
        if len(self._reader) != shown:
            return f"it counts {len(self._reader)} frames where the file shows {shown}"
        if rotation := reference.rotation():
            return f"its picture is turned by {rotation:g} degrees"
        if "mp4" not in reference.container and "matroska" not in reference.container:
            return f"its container is {reference.container}"
        if codec == "h264" and not reference.begins_at_any_key:
            return "its keyframes are not all places to begin at: open GOP or intra refresh"
        if codec not in ("h264", "mpeg4") or (codec == "mpeg4" and reference.is_reordered):
            return f"codec {codec}{' with B-frames' if reference.is_reordered else ''}"
        places = np.random.default_rng(0).integers(0, shown, TRIED_WITH_DECORD)  # in no order
        ours = dict(reference.frames(places))
        for index in places.tolist():
            sound = ours[index]
            if not isinstance(sound, VideoError) and not np.array_equal(self._frame(index), sound):
                return f"its frame {index} is another than PyAV's"
        return ""

    def close(self) -> None:
        del self._reader

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        for index in np.unique(indices).tolist():
            try:
                frame = partial(self._frame, index)
                yield index, try_twice(self.path, self._retries, frame, self._failures)
            except (*self._failures, IndexError) as error:
                yield index, VideoError("damaged_frame", f"{self.path}: frame {index}: {first_line(error)}")

    def _frame(self, index: int) -> np.ndarray:
        try:
            return self._reader[index].asnumpy()
        except self._failures:
            self._reader = self._open()  # it has kept what it could not read
            raise
