"""The place of each picture in the order that an H.264 encoder counts (ITU-T H.264, 7.3.2.1, 7.3.3, 8.2.1).

The count goes up by one step, mostly 2, from a picture to the next that is shown, however long that takes. So
a picture that stands still is told from others that were lost behind it, by which the count jumps. From each
IDR picture on it begins anew, and it is written modulo a power of two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av import Packet
    from av.video.stream import VideoStream

IDR_SLICE, SLICES, SEQUENCE = 5, (1, 5), 7  # nal_unit_type
WITH_CHROMA_FORMAT = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}  # profile_idc
START_CODE = b"\0\0\1"
HEAD = 256  # bytes of a NAL unit that are read, at most; what is wanted stands at its begin
SLICE_HEAD = 32  # of a slice; the count stands in its first 24
NEARLY = 1.5  # times the usual time to the next picture that is still one picture


class PictureOrder:
    """The order of a stream's pictures. Of another codec, and of a stream that counts otherwise than most do,
    nothing is known.
    """

    def __init__(self, stream: "VideoStream") -> None:
        extra = bytes(stream.codec_context.extradata or b"")
        self._is_h264 = stream.codec_context.codec.canonical_name == "h264"
        is_avcc = len(extra) > 8 and extra[0] == 1
        self._length_size = (extra[4] & 3) + 1 if is_avcc else 0  # 0: NAL units begin with a start code
        self._sequences: set[Sequence | None] = set()  # all that were seen
        self._pictures: list[tuple[int, bytes]] = []  # pts, the head of the first slice
        if self._is_h264:
            self._first_slice(iter([extra[8 : 8 + HEAD]]) if is_avcc else _after_start_codes(extra))

    def note(self, pts: int, packet: "Packet") -> None:
        """Take the packet of a picture; packets come in the order in which they are stored. What it says is
        read when somebody asks for it.
        """
        if not self._is_h264:
            return
        if self._length_size:
            head = self._first_slice(self._after_lengths(memoryview(packet)))
        else:
            head = self._first_slice(_after_start_codes(bytes(packet)))
        if head is not None:
            self._pictures.append((pts, head[:SLICE_HEAD]))

    def _places(self) -> dict[int, tuple[int, int]]:
        """pts -> which IDR picture it follows, and its count."""
        found: dict[int, tuple[int, int]] = {}
        part, sequence = 0, self._sequence
        if sequence is None:
            return found
        for pts, head in self._pictures:
            part += head[0] & 31 == IDR_SLICE
            if (count := sequence.count(head)) is not None:
                found[pts] = part, count
        return found

    def followed(self, shown: np.ndarray) -> np.ndarray:
        """shown: (frames,) pts on display, rising. (frames,) bool: whether it is known of a picture that
        nothing was lost between it and the next.
        """
        found = np.zeros(len(shown), bool)
        if not self._sequence or len(shown) < 2:
            return found
        known = self._places()
        places = np.array([known.get(pts, (-1, 0)) for pts in shown.tolist()], np.int64)
        (parts, counts), ticks = places.T, np.diff(shown)
        steps = np.diff(counts) % self._sequence.modulus
        is_known = (parts[:-1] == parts[1:]) & (parts[1:] >= 0) & (steps > 0)
        if not is_known.any():
            return found
        usual = np.bincount(steps[is_known]).argmax()
        # so many that the count comes round would not show in it
        tick = ticks[ticks <= NEARLY * np.median(ticks)].mean()
        lost = np.rint(ticks / tick).astype(np.int64) - 1
        is_round = (lost > 0) & (lost * usual % self._sequence.modulus == 0)
        found[:-1] = is_known & (steps <= usual) & ~is_round
        return found

    @property
    def _sequence(self) -> "Sequence | None":
        """What all pictures are of; None where there are several, or one that counts otherwise."""
        return next(iter(self._sequences)) if len(self._sequences) == 1 else None

    def _first_slice(self, units: Iterator[bytes]) -> bytes | None:
        """The head of the first slice; on the way to it, sequences are taken."""
        for head in units:
            if head and head[0] & 31 == SEQUENCE:
                self._sequences.add(Sequence.read(head))
            elif head and head[0] & 31 in SLICES:
                return head
        return None

    def _after_lengths(self, data: memoryview) -> Iterator[bytes]:
        """The head of each NAL unit, as MP4, Matroska and FLV keep them."""
        at = 0
        while at + self._length_size < len(data):
            size = int.from_bytes(data[at : at + self._length_size], "big")
            at += self._length_size
            yield bytes(data[at : at + min(size, HEAD)])
            at += size


def _after_start_codes(data: bytes) -> Iterator[bytes]:
    """The head of each NAL unit, as MPEG-TS and AVI keep them."""
    at = data.find(START_CODE)
    while at >= 0:
        at += len(START_CODE)
        yield data[at : at + HEAD]
        at = data.find(START_CODE, at)


@dataclass(frozen=True)
class Sequence:
    """What a sequence parameter set says of where a slice has its count."""

    has_planes: bool  # separate_colour_plane_flag
    frame_num_bits: int
    count_bits: (
        int  # of pic_order_cnt_lsb; 0: pictures are shown as they are stored, and frame_num counts them
    )
    is_frames_only: bool

    @classmethod
    def read(cls, unit: bytes) -> "Sequence | None":
        """Of the NAL unit; None where it is damaged, or counts in a rare way (pic_order_cnt_type 1)."""
        bits = _Bits(unit)
        try:
            profile = bits.take(8)
            bits.take(16)
            bits.number()
            has_planes = False
            if profile in WITH_CHROMA_FORMAT:
                chroma_format = bits.number()
                has_planes = chroma_format == 3 and bits.take(1) == 1
                bits.number(), bits.number(), bits.take(1)
                if bits.take(1):
                    for matrix in range(12 if chroma_format == 3 else 8):
                        bits.pass_scaling_list(16 if matrix < 6 else 64)
            frame_num_bits, way = bits.number() + 4, bits.number()
            if way == 1:
                return None
            count_bits = bits.number() + 4 if way == 0 else 0
            bits.number(), bits.take(1), bits.number(), bits.number()
            return cls(has_planes, frame_num_bits, count_bits, bits.take(1) == 1)
        except ValueError:
            return None

    @property
    def modulus(self) -> int:
        return 1 << self.count_bits if self.count_bits else 2 << self.frame_num_bits

    def count(self, slice_head: bytes) -> int | None:
        """Of the picture that a slice is of, modulo `modulus`; None where it is damaged."""
        bits, is_idr = _Bits(slice_head), slice_head[0] & 31 == IDR_SLICE
        try:
            bits.number(), bits.number(), bits.number()
            if self.has_planes:
                bits.take(2)
            frame_num = bits.take(self.frame_num_bits)
            if not self.count_bits:
                is_referred_to = slice_head[0] >> 5 & 3 != 0
                return (2 * frame_num - (not is_referred_to)) % self.modulus
            if not self.is_frames_only and bits.take(1):
                bits.take(1)
            if is_idr:
                bits.number()
            return bits.take(self.count_bits)
        except ValueError:
            return None


class _Bits:
    """The bits of a NAL unit, behind its first byte. All raise ValueError at the end."""

    def __init__(self, unit: bytes) -> None:
        # a zero pair is kept apart from what would look like a start code by a 3
        data = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._bits, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("it ends too early")
        return self._bits >> self._left & (1 << count) - 1

    def number(self) -> int:
        """One that is written in as many bits as it needs, ue(v)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def pass_scaling_list(self, size: int) -> None:
        """7.3.2.1.1.1, with the flag before it."""
        last = following = 8
        for _ in range(size if self.take(1) else 0):
            if following:
                written = self.number()  # se(v)
                following = (last + (written + 1 >> 1) * (1 if written & 1 else -1)) % 256
            last = following or last
