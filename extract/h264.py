"""H.264 packets: which no other picture refers to, and which a decoder can begin at.

Only the length-prefixed layout of MP4 and Matroska is read; of packets in another one nothing is said.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import Packet
    from av.video.stream import VideoStream

IDR_SLICE, SLICES = 5, (1, 5)  # nal_unit_type


class H264Packets:
    """The packets of a stream, which may be of another codec."""

    def __init__(self, stream: "VideoStream") -> None:
        extra = stream.codec_context.extradata or b""
        is_avcc = stream.codec_context.codec.canonical_name == "h264" and len(extra) > 4 and extra[0] == 1
        self._length_size = (extra[4] & 3) + 1 if is_avcc else 0

    def is_unreferenced(self, packet: "Packet") -> bool:
        """Whether no other picture is made of this one: nal_ref_idc 0 of its first slice."""
        head = next((head for head in self._heads(packet) if head & 31 in SLICES), None)
        return head is not None and (head >> 5) & 3 == 0

    def is_idr(self, packet: "Packet") -> bool:
        """Whether nothing behind this picture refers to one before it, so that decoding may begin here."""
        return any(head & 31 == IDR_SLICE for head in self._heads(packet))

    def _heads(self, packet: "Packet") -> Iterator[int]:
        """The first byte of each of its NAL units."""
        data, position = memoryview(packet), 0
        while self._length_size and position + self._length_size < len(data):
            size = int.from_bytes(data[position : position + self._length_size], "big")
            yield data[position + self._length_size]
            position += self._length_size + size
