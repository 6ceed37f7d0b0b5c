"""Frames decoded by FFmpeg, through PyAV: the wanted ones, each with what it hangs on, and no more.

From a keyframe on pictures come with rising times, and none is taken behind a damaged one: pictures are made
of others, so a damaged one spoils all that follow, and the decoder marks it alone.
"""

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mambavl.configs.errors import DataError
from mambavl.extract.h264 import H264Packets
from mambavl.extract.input_files import InputFile
from mambavl.extract.timeline import GAP, Timeline, VideoError, first_line
from mambavl.extract.video_files import Key
from mambavl.extract.video_index import Scan, VideoIndex

if TYPE_CHECKING:
    from av import Packet, VideoCodecContext, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

TRIED_FOR_TIMES = 40  # pictures that are decoded to see whether they have times of their own


class PyAVReader:
    """Groups the wanted frames by the keyframe they hang on and decodes each group once.

    Packets are scanned once, without decoding, for their pts and keyframe marks; with an `index`, once for
    all readers of the file, which is known by its content `key`. In H.264, packets that no other frame refers
    to (nal_ref_idc 0) and that are not wanted are not decoded at all.
    """

    def __init__(
        self, path: Path, retries: int = 0, index: VideoIndex | None = None, key: Key | None = None
    ) -> None:
        import av

        self._av = av
        self.path = path
        self._file = InputFile(path, retries)
        try:
            self._container = av.open(self._file, "r")
            pictures = picture_streams(self._container)
            if not pictures:
                raise ValueError("holds no picture that can be decoded")
            self.streams, self._stream = len(pictures), pictures[0]
            self._stream.thread_count = 1
            if self._stream.time_base is None:
                raise ValueError("its picture has no clock")
            self._tick = float(self._stream.time_base)  # seconds
            self._packet_kinds = H264Packets(self._stream)
            self._scan = index.scan_of_file(self._file, key, self._demux) if index else self._demux()
            self.timeline = self._timeline()
            self._file.check()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._file.close()
            self._file.check(error)
            raise VideoError("unreadable_video", f"{path}: {first_line(error)}") from None
        except DataError:
            self._file.close()
            raise

    def close(self) -> None:
        self._container.close()
        self._file.close()

    @property
    def begins_at_any_key(self) -> bool:
        """Whether a decoder may begin at every keyframe, as far as is known."""
        return self._scan.begins_at_any_key

    @property
    def is_reordered(self) -> bool:
        """Whether the file shows pictures in another order than it holds them."""
        return self._scan.is_reordered

    @property
    def container(self) -> str:
        """FFmpeg's names of the format, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
        return self._container.format.name

    @property
    def codec(self) -> str:
        return self._stream.codec_context.codec.canonical_name

    def rotation(self) -> float:
        """Degrees by which the first frame is to be turned; 0 where it cannot be decoded."""
        first = int(self._scan.shown[0])
        with suppress(StopIteration, self._av.FFmpegError):
            return next(self._decode(first, {first}, first)).rotation
        self._file.check()
        return 0.0

    def _demux(self) -> Scan:
        """The scan of the file, all of which is read. Raises ValueError where it shows nothing, or pictures
        without times of their own.
        """
        begins_at_any_key, is_reordered = True, False
        shown: list[int] = []
        keys: list[int] = []
        durations: dict[int, int] = {}
        proved_by: dict[int, int] = {}
        latest: int | None = None
        for pts, packet in self._packets():
            if packet.is_keyframe:
                keys.append(pts)
                begins_at_any_key &= self._packet_kinds.is_idr(packet)
            if packet.is_discard:
                # pre-roll that an edit list hides: decoded, since others hang on it, never displayed
                continue
            shown.append(pts)
            is_reordered |= latest is not None and pts < latest
            latest = pts if latest is None else max(latest, pts)
            proved_by[pts] = latest
            durations[pts] = packet.duration or 0
        if not shown or not keys:
            raise ValueError("holds no decodable picture")
        shown.sort()
        typical = float(np.median(np.diff(shown))) if len(shown) > 1 else 1.0
        scan = Scan(
            shown=np.array(shown, np.int64),
            keys=np.array(sorted(keys), np.int64),
            proved_by=np.array([proved_by[pts] for pts in shown], np.int64),
            lasts=np.array([durations[pts] or typical for pts in shown], np.float64),
            typical=typical,
            begins_at_any_key=begins_at_any_key,
            is_reordered=is_reordered,
            has_proved_times=False,
        )
        scan = replace(scan, has_proved_times=self._has_proved_times(scan))
        self._file.check()
        return scan

    def _has_proved_times(self, scan: Scan) -> bool:
        """Some containers keep no times of display (AVI); where pictures are reordered FFmpeg makes up false
        ones, with which they leave the decoder in falling order. Raises ValueError where they do; False where
        one is damaged and so nothing is known.
        """
        if scan.is_reordered or not self._stream.codec_context.has_b_frames:
            return True
        first = scan.shown[:TRIED_FOR_TIMES].tolist()
        last = first[0] - 1
        try:
            for frame in islice(self._decode(int(scan.keys[0]), set(first), first[-1]), TRIED_FOR_TIMES):
                if frame.pts is not None and frame.pts <= last:
                    raise ValueError(
                        f"its pictures have no times of their own (B-frames in {self.container}); encode it "
                        "again, into MP4"
                    )
                last = last if frame.pts is None else frame.pts
        except self._av.FFmpegError:  # a damaged picture is for the row that wants it
            return False
        return True

    def _timeline(self) -> Timeline:
        scan = self._scan
        ticks = scan.shown - scan.shown[0]
        return Timeline(
            pts=ticks * self._tick,
            end=float(ticks[-1] + scan.lasts[-1]) * self._tick,
            # the index of MP4 is whole, so a picture stands there until the next one, however long that is
            longest=np.full(len(ticks), np.inf)
            if "mp4" in self.container
            else np.maximum(scan.lasts, scan.typical) * self._tick * GAP,
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
        key_of = np.searchsorted(self._scan.keys, self._scan.shown[wanted], side="right") - 1
        for key in np.unique(key_of):
            group = wanted[key_of == key]
            yield from self._decode_group(max(int(key), 0), group)

    def _decode_group(self, key: int, group: np.ndarray) -> Iterator[tuple[int, np.ndarray | VideoError]]:
        missing = {int(self._scan.shown[i]): int(i) for i in group}
        # a keyframe that is no IDR may give its pictures only after a while, so what did not come is looked
        # for from further back
        for start in sorted({key, max(key - 1, 0), max(key - 4, 0), 0}, reverse=True):
            reason = yield from self._decode_from(int(self._scan.keys[start]), missing)
            if not missing or reason:
                break
        self._file.check()
        for pts, index in sorted(missing.items()):
            at = (pts - int(self._scan.shown[0])) * self._tick
            said = reason or "the decoder never gave this frame"
            yield index, VideoError("damaged_frame", f"{self.path}: frame {index} at {at:.2f} s: {said}")

    def _decode_from(
        self, key_pts: int, missing: dict[int, int]
    ) -> Generator[tuple[int, np.ndarray], None, str]:
        """Give the missing pictures that are sound; return what is wrong with the others, if it is known."""
        ends = {pts: int(self._scan.proved_by[index]) for pts, index in missing.items()}
        held: dict[int, VideoFrame] = {}
        last = key_pts - 1
        try:
            for frame in self._decode(key_pts, {*missing, *ends.values()}, max(ends.values())):
                if frame.pts is None or frame.pts < key_pts:
                    continue  # it hangs on the keyframe before
                # pictures are made of others, and the decoder marks the first damaged one alone
                if frame.is_corrupt:
                    return "it is damaged, or a picture that it is made of"
                if frame.pts <= last:
                    return "the pictures there come with times that are not theirs"
                last = frame.pts
                if last in missing:
                    held[last] = frame
                yield from self._release([pts for pts in held if ends[pts] <= last], held, missing)
                if not missing:
                    return ""
            yield from self._release(list(held), held, missing)
        except (self._av.FFmpegError, ValueError) as error:
            self._file.check(error)
            return first_line(error)
        return ""

    def _release(
        self, ready: list[int], held: "dict[int, VideoFrame]", missing: dict[int, int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Take pictures from those that wait for what they were made of."""
        for pts in ready:
            self._file.check()  # a packet cut short by a fault may decode to a picture
            yield missing.pop(pts), self._pixels(held.pop(pts))

    def _decode(self, key_pts: int, wanted: set[int], last: int) -> "Iterator[VideoFrame]":
        """The frames from a keyframe on that are needed to show those of the times `wanted`, up to `last`."""
        passed = 0
        for pts, packet in self._packets_from(key_pts):
            if pts in wanted or not self._packet_kinds.is_unreferenced(packet):
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

    def _packets_from(self, key_pts: int) -> "Iterator[tuple[int, Packet]]":
        """As `_packets`, from a keyframe on. In MPEG-TS a seek may land behind it: then from further back."""
        for back in (0.0, 1.0, 10.0, None):
            try:
                if back is None:
                    self._container.seek(0, unsupported_byte_offset=True)
                else:
                    ticks = key_pts - round(back / self._tick)
                    self._container.seek(ticks, stream=self._stream, backward=True)
            except self._av.FFmpegError as error:  # some formats refuse a place before their first
                self._file.check(error)
                continue
            self._stream.codec_context.flush_buffers()
            packets = self._packets()
            for pts, packet in packets:
                if packet.is_keyframe and pts == key_pts:
                    yield pts, packet
                    yield from packets
                    return
                if packet.is_keyframe and pts > key_pts:
                    break

    def _pixels(self, frame: "VideoFrame") -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24")
        quarter_turns = round(frame.rotation / 90) % 4  # FFmpeg counts counter-clockwise, as numpy does
        if not quarter_turns:
            return pixels
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def picture_streams(container: "InputContainer") -> "list[VideoStream]":
    """Those that can be decoded, without cover art, which may come first."""
    from av.stream import Disposition

    found: list[VideoStream] = []
    for one in container.streams.video:
        codec: VideoCodecContext | None = one.codec_context  # None where FFmpeg does not know it
        if codec is not None and not one.disposition & Disposition.attached_pic:
            found.append(one)
    return found
