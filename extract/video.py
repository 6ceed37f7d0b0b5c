"""Frames of a video at given times, by presentation time (pts), never by frame number.

Time 0 is the first displayed frame. The frame at time t is the one on display then: pts_i <= t < pts_(i+1). A
damaged frame, a time past the end, or a file that cannot be decoded raises VideoError with the status its row
gets; no other frame is ever handed out in its place. An error of the system while a file is opened or read is
none of these, but a SystemFault.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from mambavl.configs.errors import UsageError
from mambavl.extract.input_files import InputFile, try_twice

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.video.stream import VideoStream

# seconds past the end for which the last frame may stand in: P29_05_563 ends 0.01 s after its video
HOLD = 0.1

# times a frame's own duration (or the file's usual one) that it may stay on display; beyond it frames are
# missing
GAP = 2.5

Decoder = Literal["pyav", "decord"]


class VideoError(Exception):
    """A video or one of its frames is unusable. `status` is a name of `cache.rows.STATUS`."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Timeline:
    """When each displayed frame of a file begins, and when the last one ends, in seconds from the first."""

    pts: np.ndarray  # (frames,) increasing, pts[0] == 0
    end: float
    # (frames,) how long each frame may be on display before frames must be missing after it
    longest: np.ndarray

    @property
    def fps(self) -> float:
        return (len(self.pts) - 1) / self.pts[-1] if len(self.pts) > 1 else 1.0 / self.end

    def at(self, times: np.ndarray) -> tuple[np.ndarray, bool]:
        """The displayed frame's index at each time, and whether the last frame had to be held for a moment.

        Raises VideoError: `short_video` for a time more than HOLD past the end, `damaged_frame` for one in a
        hole of the file.
        """
        late = times[times > self.end + HOLD]
        if len(late):
            raise VideoError(
                "short_video", f"the video ends at {self.end:.2f} s; a frame at {late.max():.2f} s was wanted"
            )
        # half a tick of a 90 kHz clock: a timestamp that is a rounded frame time still means that frame
        index = np.maximum(np.searchsorted(self.pts, times + 5e-6, side="right") - 1, 0)
        lost = times[(times - self.pts[index] > self.longest[index]) & (times <= self.end)]
        if len(lost):
            raise VideoError(
                "damaged_frame",
                f"the file holds no frame for {lost.min():.2f} s, though it goes on to {self.end:.2f} s",
            )
        return index, bool((times > self.end).any())


class Reader(Protocol):
    """An open video. Not for use by several threads at once; open it after a fork."""

    timeline: Timeline

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        """Every distinct index once, with its upright RGB pixels (H, W, 3) uint8 or what is wrong with it.

        Raises SystemFault where the file cannot be read.
        """

    def close(self) -> None: ...


def open_video(path: Path, decoder: Decoder = "pyav", retries: int = 0) -> Reader:
    """Open a file. retries: how often an error of the system is tried again, while opening and reading.

    Raises VideoError `unreadable_video` when it is not a video or is cut off before its index, SystemFault
    when it cannot be opened or read, UsageError for an unknown decoder.
    """
    if decoder == "pyav":
        return PyAVReader(path, retries)
    if decoder == "decord":
        return DecordReader(path, retries)
    raise UsageError(f"there is no decoder {decoder!r}; use pyav or decord")


class PyAVReader:
    """Groups the wanted frames by the keyframe they hang on and decodes each group once.

    Packets are scanned once, without decoding, for their pts and keyframe marks. In H.264, packets that no
    other frame refers to (nal_ref_idc 0) and that are not wanted are not decoded at all.
    """

    def __init__(self, path: Path, retries: int = 0) -> None:
        import av

        self._av = av
        self.path = path
        self._file = InputFile(path, retries)
        try:
            self._container = av.open(self._file, "r")
            self._stream = self._container.streams.video[0]
            self._scan()
            self._file.check()
        except (av.FFmpegError, IndexError, OSError, ValueError) as error:
            self._file.close()
            self._file.check(error)
            raise VideoError("unreadable_video", f"{path}: {first_line(error)}") from None

    def close(self) -> None:
        self._container.close()
        self._file.close()

    @property
    def width(self) -> int:
        """Of the picture as it is stored; a rotation mark may turn it."""
        return self._stream.codec_context.width

    @property
    def height(self) -> int:
        return self._stream.codec_context.height

    @property
    def codec(self) -> str:
        return self._stream.codec_context.codec.canonical_name

    def rotation(self) -> float:
        """Degrees by which the first frame is to be turned; 0 where it cannot be decoded."""
        first = int(self._shown[0])
        with suppress(StopIteration, self._av.FFmpegError):
            return next(self._decode(first, {first}, first)).rotation
        self._file.check()
        return 0.0

    def _scan(self) -> None:
        stream = self._stream
        stream.thread_count = 1
        if stream.time_base is None:
            raise ValueError("its picture has no clock")
        self._tick = float(stream.time_base)  # seconds
        shown: list[int] = []
        keys: list[int] = []
        durations: dict[int, int] = {}
        # pts of a picture -> of the last on display that was decoded before it, so may be a part of it
        self._proved_by: dict[int, int] = {}
        latest: int | None = None
        for pts, packet in self._packets():
            if packet.is_keyframe:
                keys.append(pts)
            if packet.is_discard:
                # pre-roll that an edit list hides: decoded, since others hang on it, never displayed
                continue
            shown.append(pts)
            latest = pts if latest is None else max(latest, pts)
            self._proved_by[pts] = latest
            durations[pts] = packet.duration or 0
        if not shown or not keys:
            raise ValueError("holds no decodable picture")
        self._shown = np.array(sorted(shown), np.int64)
        self._keys = np.array(sorted(keys), np.int64)
        ticks = self._shown - self._shown[0]
        typical = float(np.median(np.diff(ticks))) if len(ticks) > 1 else 1.0
        lasts = np.array([durations[int(pts)] or typical for pts in self._shown])
        self.timeline = Timeline(
            pts=ticks * self._tick,
            end=float(ticks[-1] + lasts[-1]) * self._tick,
            longest=np.maximum(lasts, typical) * self._tick * GAP,
        )

    def _packets(self) -> "Iterator[tuple[int, Packet]]":
        """(pts, packet) of the picture's packets that carry a time; a file that breaks off simply ends."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.size:
                    yield packet.pts, packet
        except self._av.error.InvalidDataError:
            return

    def frames(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        wanted = np.unique(indices)
        key_of = np.searchsorted(self._keys, self._shown[wanted], side="right") - 1
        for key in np.unique(key_of):
            group = wanted[key_of == key]
            yield from self._decode_group(int(self._keys[max(key, 0)]), group)

    def _decode_group(self, key_pts: int, group: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        missing = {int(self._shown[i]): int(i) for i in group}
        ends = {pts: self._proved_by[pts] for pts in missing}
        held: dict[int, VideoFrame] = {}
        reason, last = "the decoder never gave this frame", key_pts - 1
        try:
            for frame in self._decode(key_pts, {*missing, *ends.values()}, max(ends.values())):
                if frame.pts is None or frame.pts < key_pts:
                    continue  # it hangs on the keyframe before
                # pictures are made of others, and the decoder marks the first damaged one alone
                if frame.is_corrupt:
                    reason = "it is damaged, or a picture that it is made of"
                    break
                if frame.pts <= last:
                    reason = "the pictures there come with times that are not theirs"
                    break
                last = frame.pts
                if last in missing:
                    held[last] = frame
                yield from self._release([pts for pts in held if ends[pts] <= last], held, missing)
                if not missing:
                    return
            else:
                yield from self._release(list(held), held, missing)
        except (self._av.FFmpegError, ValueError) as error:
            self._file.check(error)
            reason = first_line(error)
        self._file.check()
        for pts, index in sorted(missing.items()):
            at = (pts - int(self._shown[0])) * self._tick
            yield index, VideoError("damaged_frame", f"{self.path}: frame {index} at {at:.2f} s: {reason}")

    def _release(
        self, ready: list[int], held: "dict[int, VideoFrame]", missing: dict[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Take pictures from those that wait for what they were made of."""
        for pts in ready:
            self._file.check()  # a packet cut short by a fault may decode to a picture
            yield missing.pop(pts), self._pixels(held.pop(pts))

    def _decode(self, key_pts: int, wanted: set[int], last: int) -> "Iterator[VideoFrame]":
        """The frames from a keyframe on that are needed to show those of the times `wanted`, up to `last`."""
        self._container.seek(key_pts, stream=self._stream, backward=True)
        self._stream.codec_context.flush_buffers()
        skippable = _NonReference(self._stream)
        passed = 0
        for pts, packet in self._packets():
            if pts in wanted or not skippable(packet):
                try:
                    yield from self._stream.codec_context.decode(packet)
                except self._av.FFmpegError:
                    yield from self._stream.codec_context.decode(None)  # what was decoded before this packet
                    raise
            # B-frames: packets come in decoding order, so a wanted one may follow a later pts; two keyframes
            # on, none can
            if pts > last and packet.is_keyframe:
                passed += 1
                if passed == 2:
                    break
        yield from self._stream.codec_context.decode(None)

    def _pixels(self, frame: "VideoFrame") -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24")
        quarter_turns = round(frame.rotation / 90) % 4  # FFmpeg counts counter-clockwise, as numpy does
        if not quarter_turns:
            return pixels
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


class _NonReference:
    """Finds H.264 packets that no other picture refers to, by the nal_ref_idc of their slices
    (length-prefixed layout only).
    """

    def __init__(self, stream: "VideoStream") -> None:
        extra = stream.codec_context.extradata or b""
        is_avcc = stream.codec_context.codec.canonical_name == "h264" and len(extra) > 4 and extra[0] == 1
        self._length_size = (extra[4] & 3) + 1 if is_avcc else 0

    def __call__(self, packet: "Packet") -> bool:
        if not self._length_size:
            return False
        data, position = memoryview(packet), 0
        while position + self._length_size < len(data):
            size = int.from_bytes(data[position : position + self._length_size], "big")
            head = data[position + self._length_size]
            if head & 31 in (1, 5):  # a slice
                return (head >> 5) & 3 == 0
            position += self._length_size + size
        return False


class DecordReader:
    """decord behind the same interface: the same pixels as PyAV on ordinary H.264 and MPEG-4 files, and those
    only.

    It counts frames wrongly in files with edit lists and, seen here, hands out the neighbour of the wanted
    frame after a skip in H.265; it does not turn rotated pictures. Such files are refused. Damaged frames it
    does not report: that stays a risk.
    """

    CODECS = ("h264", "mpeg4")

    def __init__(self, path: Path, retries: int = 0) -> None:
        try:
            from decord import DECORDError, VideoReader
        except ImportError as error:
            raise UsageError(
                f"decoder decord cannot be imported ({error}); use pyav, which is exact everywhere"
            ) from None
        self.path, self._retries, self._failures = path, retries, (DECORDError, RuntimeError)
        self._open = partial(VideoReader, str(path), num_threads=1)
        # decord's own clock ignores edit lists: it may only serve where both agree
        reference = PyAVReader(path, retries)
        self.timeline = reference.timeline
        rotation, codec = reference.rotation(), reference.codec
        reference.close()
        try:
            self._reader = try_twice(path, retries, self._open, self._failures)
        except self._failures as error:
            raise VideoError("unreadable_video", f"{path}: {first_line(error)}") from None
        if len(self._reader) != len(self.timeline.pts) or rotation or codec not in self.CODECS:
            raise VideoError(
                "unreadable_video",
                f"{path}: decord cannot be trusted with it (codec {codec}, rotation {rotation:g}, "
                f"{len(self._reader)} frames where the file shows {len(self.timeline.pts)}); "
                "decode it with pyav",
            )

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


def first_line(error: Exception) -> str:
    """An error in one line, without FFmpeg's numbers, which mean nothing to a reader."""
    text = re.sub(r"^\[Errno \d+\] ", "", str(error).strip()).splitlines()
    return text[0] if text else type(error).__name__
