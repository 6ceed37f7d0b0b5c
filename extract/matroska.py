"""Whether a Matroska or WebM file itself leaves it to the next picture to end the one before.

RFC 9559, BlockDuration: where neither a block nor its track (DefaultDuration) says how long a picture lasts,
it lasts until the next. So write programs that record a screen at no fixed rate. It is true only of a file
that has lost nothing, which shows: all of it is elements that name their size, one behind the other.
"""

from collections.abc import Iterator

from mambavl.extract import watch
from mambavl.extract.input_files import InputFile

HEADER, SEGMENT, CLUSTER, TRACKS, TRACK = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE
TRACK_NUMBER, TRACK_TYPE, DEFAULT_DURATION = 0xD7, 0x83, 0x23E383
GROUP, BLOCK, BLOCK_DURATION = 0xA0, 0xA1, 0x9B
VIDEO = 1  # TrackType
ANYWHERE = {0xEC, 0xBF}  # Void, CRC-32
WITHIN: dict[int | None, set[int]] = {
    None: {HEADER, SEGMENT} | ANYWHERE,
    # SeekHead, Info, Cues, Attachments, Chapters, Tags
    SEGMENT: {0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, TRACKS, CLUSTER}
    | ANYWHERE,
    # Timestamp, SilentTracks, Position, PrevSize, SimpleBlock, EncryptedBlock
    CLUSTER: {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xAF, GROUP} | ANYWHERE,
    # BlockVirtual, BlockAdditions, Slices, ReferencePriority, ReferenceBlock, ReferenceVirtual, CodecState,
    # DiscardPadding, ReferenceFrame, EncryptedBlock
    GROUP: {BLOCK, BLOCK_DURATION, 0xA2, 0x75A1, 0x8E, 0xFA, 0xFB, 0xFD, 0xA4, 0x75A2, 0xC8, 0xAF} | ANYWHERE,
}
OPEN_ENDED = {SEGMENT, CLUSTER}  # what may be written before its size is known
MOST_BYTES = 2**20  # of the description of the tracks


def lasts_until_the_next(file: InputFile) -> bool:
    """Whether a picture of this file lasts until the next one, however long that is: no duration of pictures
    stands in it, and it is whole, up to a place where it breaks off. The file stays where it is. Raises
    SystemFault.
    """
    before = file.tell()
    try:
        return _is_whole_and_without_durations(file)
    finally:
        file.seek(before)
        file.check()


def _is_whole_and_without_durations(file: InputFile) -> bool:
    videos: set[int] = set()  # numbers of the tracks that are pictures
    track = 0  # of the block in hand
    try:
        for kind, start, size in _elements(file):
            if kind == TRACKS:
                for number, is_video, has_duration in _tracks(_bytes(file, start, size)):
                    if is_video and has_duration:
                        return False
                    videos |= {number} if is_video else set()
            elif kind == BLOCK:
                track, _ = _number(_bytes(file, start, 8))
            elif kind == BLOCK_DURATION and track in videos:
                return False
    except ValueError:
        return False
    return bool(videos)


def _elements(file: InputFile) -> Iterator[tuple[int, int, int]]:
    """(kind, place of its content, bytes of it) of all elements down to the parts of block groups, one behind
    the other; of one whose size is not known 0. Raises ValueError where what comes is none of them.
    """
    at = 0
    inside: list[tuple[int | None, int | None]] = [(None, None)]  # kind and end of what is open
    while at < file.size:
        watch.alive()
        while inside[-1][1] == at:
            inside.pop()
        kind, start, size = _header(file, at)
        while kind not in WITHIN[inside[-1][0]]:
            if inside.pop()[1] is not None or not inside:
                raise ValueError(f"element {kind:x} at byte {at:,} does not belong there")
        end = None if size is None else start + size
        if end is None and kind not in OPEN_ENDED:
            raise ValueError(f"the element at byte {at:,} has no size")
        yield kind, start, size or 0
        if kind in WITHIN:
            inside.append((kind, end))
            at = start
        elif end is not None:
            at = end
    # a file that breaks off does so within an element
    if at == file.size and any(end is not None and end > at for _, end in inside):
        raise ValueError(f"elements are lacking before byte {at:,}")


def _header(file: InputFile, at: int) -> tuple[int, int, int | None]:
    """Kind, place of the content and its size, None where it is not known, of the element at a place."""
    data = _bytes(file, at, 12)
    marked = _width(data, most=4)
    size, width = _number(data[marked:])
    unknown = (1 << 7 * width) - 1
    return int.from_bytes(data[:marked], "big"), at + marked + width, None if size == unknown else size


def _tracks(data: bytes) -> Iterator[tuple[int, bool, bool]]:
    """Number, whether it is video, and whether it says how long its pictures last, of each track."""
    for kind, track in _inner(data):
        if kind == TRACK:
            parts = dict(_inner(track))
            number, sort = (
                int.from_bytes(parts.get(part, b""), "big") for part in (TRACK_NUMBER, TRACK_TYPE)
            )
            yield number, sort == VIDEO, DEFAULT_DURATION in parts


def _inner(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the elements in an element."""
    while data:
        marked = _width(data, most=4)
        size, width = _number(data[marked:])
        start = marked + width
        yield int.from_bytes(data[:marked], "big"), data[start : start + size]
        data = data[start + size :]


def _number(data: bytes) -> tuple[int, int]:
    """A number at the begin of some bytes, and how many of them it takes: as many as zero bits lead, and one.
    Raises ValueError for none.
    """
    width = _width(data, most=8)
    return int.from_bytes(data[:width], "big") & (1 << 7 * width) - 1, width


def _width(data: bytes, most: int) -> int:
    width = 9 - data[0].bit_length() if data else 9
    if width > min(most, len(data)):
        raise ValueError("there is no number")
    return width


def _bytes(file: InputFile, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(min(size, MOST_BYTES))
