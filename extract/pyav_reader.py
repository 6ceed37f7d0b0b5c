"""Frames decoded by FFmpeg, through PyAV: the wanted ones, each with what it hangs on, and no more.

From a keyframe on pictures come with rising times, and none is taken behind a damaged one: pictures are made
of others, so a damaged one spoils all that follow, and the decoder marks it alone.
"""

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mambavl.configs.errors import DataError
from mambavl.extract import watch
from mambavl.extract.h264 import H264Packets
from mambavl.extract.h264_order import PictureOrder
from mambavl.extract.input_files import InputFile
from mambavl.extract.matroska import lasts_until_the_next
from mambavl.extract.timeline import VideoError, first_line
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
    to (nal_ref_idc 0) and that are not wanted are not decoded at all. Asked for later frames that hang on the
    same keyframe, it goes on where it stands.
    """

    def __init__(
        self,
        path: Path,
        retries: int = 0,
        index: VideoIndex | None = None,
        key: Key | None = None,
        still_pictures: bool = False,
    ) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._av = av
        self.path = path
        self._file = InputFile(path, retries)
        self._to_rgb = (
            VideoReformatter()
        )  # one for all pictures: to set it up costs as much as a small picture
        self._run: _Run | None = None  # the decoder that gave the last frames, if it may go on
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
            stands = still_pictures or self._pictures_stand
            self.timeline = self._scan.timeline(self._tick, stands=stands)
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
    def _pictures_stand(self) -> bool:
        """That of MP4 is, so a picture stands there until the next one, however long that is."""
        return "mp4" in self.container

    @property
    def codec(self) -> str:
        return self._stream.codec_context.codec.canonical_name

    def rotation(self) -> float:
        """Degrees by which the first frame is to be turned; 0 where it cannot be decoded."""
        first = int(self._scan.shown[0])
        with suppress(StopIteration, self._av.FFmpegError):
            run = self._run_from(first)
            run.want({first: first})
            return next(run.frames).rotation
        self._file.check()
        return 0.0

    def _demux(self) -> Scan:
        """The scan of the file, all of which is read. Raises ValueError where it shows nothing, or pictures
        without times of their own.
        """
        order = None if self._pictures_stand else PictureOrder(self._stream)
        scan = Scan.of_packets(self._packets(), self._packet_kinds.is_idr, order)
        scan = replace(scan, has_proved_times=self._has_proved_times(scan))
        if "matroska" in self.container and scan.has_doubts and lasts_until_the_next(self._file):
            scan = replace(scan, followed=np.ones_like(scan.followed))
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
        run = self._run_from(int(scan.keys[0]))
        run.want({pts: pts for pts in first})
        try:
            for frame in islice(run.frames, TRIED_FOR_TIMES):
                if frame.pts is not None and frame.pts <= last:
                    raise ValueError(
                        f"its pictures have no times of their own (B-frames in {self.container}); encode it "
                        "again, into MP4"
                    )
                last = last if frame.pts is None else frame.pts
        except self._av.FFmpegError:  # a damaged picture is for the row that wants it
            return False
        return True

    def _packets(self) -> "Iterator[tuple[int, Packet]]":
        """(pts, packet) of the picture's packets that carry a time; a file that breaks off simply ends."""
        try:
            for packet in self._container.demux(self._stream):
                watch.alive()
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
        run, self._run = self._run, None
        if run and run.key == self._scan.keys[key] and run.may_give(self._needed(missing)):
            # what does not come is left to a decoder that begins at the keyframe: what is said of a frame
            # must not hang on what was asked for before
            yield from self._give(run, missing)
        reason = ""
        # a keyframe that is no IDR may give its pictures only after a while, so what did not come is looked
        # for from further back
        for start in sorted({key, max(key - 1, 0), max(key - 4, 0), 0}, reverse=True):
            if not missing or reason:
                break
            reason = yield from self._give(self._run_from(int(self._scan.keys[start])), missing)
        self._file.check()
        for pts, index in sorted(missing.items()):
            at = (pts - int(self._scan.shown[0])) * self._tick
            said = reason or "the decoder never gave this frame"
            yield index, VideoError("damaged_frame", f"{self.path}: frame {index} at {at:.2f} s: {said}")

    def _needed(self, missing: dict[int, int]) -> dict[int, int]:
        """Pictures -> those that must have come, too, before they are given."""
        return {pts: int(self._scan.proved_by[index]) for pts, index in missing.items()}

    def _give(self, run: "_Run", missing: dict[int, int]) -> Generator[tuple[int, np.ndarray], None, str]:
        """Give the missing pictures that are sound; return what is wrong with the others, if it is known.

        A decoder that has given them all is kept, to go on.
        """
        ends = self._needed(missing)
        run.want(ends)
        held: dict[int, VideoFrame] = {}
        try:
            for frame in run.frames:
                if frame.pts is None or frame.pts < run.key:
                    continue  # it hangs on the keyframe before
                # pictures are made of others, and the decoder marks the first damaged one alone
                if frame.is_corrupt:
                    return "it is damaged, or a picture that it is made of"
                if frame.pts <= run.shown:
                    return "the pictures there come with times that are not theirs"
                run.shown = frame.pts
                if run.shown in missing:
                    held[run.shown] = frame
                yield from self._release([pts for pts in held if ends[pts] <= run.shown], held, missing)
                if not missing:
                    self._run = run
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

    def _run_from(self, key_pts: int) -> "_Run":
        run = _Run(key_pts)
        run.frames = self._decode(run)
        return run

    def _decode(self, run: "_Run") -> "Iterator[VideoFrame]":
        """The frames from a keyframe on that are needed to show those that the run wants, which may become
        more meanwhile.
        """
        following: list[int] = []  # keyframes behind all that is wanted
        for pts, packet in self._packets_from(run.key):
            if pts in run.wanted or not self._packet_kinds.is_unreferenced(packet):
                try:
                    yield from self._stream.codec_context.decode(packet)
                except self._av.FFmpegError:
                    yield from self._stream.codec_context.decode(None)  # what was decoded before this packet
                    raise
            else:
                run.skipped.add(pts)
            # B-frames: packets come in decoding order, so a wanted one may follow a later pts; two keyframes
            # on, none can
            if packet.is_keyframe:
                following = [key for key in (*following, pts) if key > run.last]
                if len(following) == 2:
                    break
        yield from self._stream.codec_context.decode(None)

    def _packets_from(self, key_pts: int) -> "Iterator[tuple[int, Packet]]":
        """As `_packets`, from a keyframe on. In MPEG-TS a seek may land behind it: then from further back."""
        self._run = None  # the file is read elsewhere now
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
        pixels = self._to_rgb.reformat(frame, format="rgb24").to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4  # FFmpeg counts counter-clockwise, as numpy does
        if not quarter_turns:
            return pixels
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


@dataclass(eq=False)
class _Run:
    """A decoder on its way from a keyframe on; it skips what is not wanted and makes no other picture. All by
    pts.
    """

    key: int
    frames: "Iterator[VideoFrame]" = field(default_factory=lambda: iter(()))
    wanted: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.last = self.shown = self.key - 1  # the last one wanted, and the last that came

    def want(self, needed: dict[int, int]) -> None:
        """needed: picture -> the one that must have come, too."""
        self.wanted.update(needed, needed.values())
        self.last = max(self.last, *needed.values())

    def may_give(self, needed: dict[int, int]) -> bool:
        """Whether all of these are still to come."""
        return min(needed) > self.shown and self.skipped.isdisjoint((*needed, *needed.values()))


def picture_streams(container: "InputContainer") -> "list[VideoStream]":
    """Those that can be decoded, without cover art, which may come first."""
    from av.stream import Disposition

    found: list[VideoStream] = []
    for one in container.streams.video:
        codec: VideoCodecContext | None = one.codec_context  # None where FFmpeg does not know it
        if codec is not None and not one.disposition & Disposition.attached_pic:
            found.append(one)
    return found
