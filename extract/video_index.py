"""The scans of videos, kept in a folder, so that a file is read whole once and not at every opening.

One file a video, named by what the video is known by and by the versions of FFmpeg and of this layout. It may
be deleted at any time. One that is damaged or not what its name says is never believed; a folder that cannot
be written costs the reuse alone.
"""

import hashlib
import io
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mambavl.cache import canonical, fsops
from mambavl.configs.errors import DataError
from mambavl.configs.progress import say
from mambavl.extract import watch
from mambavl.extract.h264_order import PictureOrder
from mambavl.extract.input_files import InputFile
from mambavl.extract.timeline import GAP, Timeline
from mambavl.extract.video_files import Key, has_whole_index, is_content_key, key_of

if TYPE_CHECKING:
    from av import Packet

VERSION = 3  # raised by hand when the same packets come to give another scan
FOLDER = "video-index"
# np.load parses what Python 3.11 cannot in two threads while garbage is collected (cpython #106905)
_one_at_a_time = threading.Lock()
_scanning: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)  # by where a scan is kept
PATIENCE = 10.0  # seconds that a thread waits for another's scan, which may hang in the file
CHECKSUM = hashlib.sha256().digest_size  # bytes at the head of a file


@dataclass(frozen=True)
class Scan:
    """What the packets of a file say of its pictures. Times (pts) are in ticks of the file's clock."""

    shown: np.ndarray  # (frames,) int64: pts of the pictures on display, rising
    keys: np.ndarray  # (keys,) int64: pts of the keyframes, rising
    # (frames,) int64: pts of the last on display that was decoded before a picture, so may be a part of it
    proved_by: np.ndarray
    lasts: np.ndarray  # (frames,) float64: ticks that a picture is on display
    typical: float  # ticks from one picture to the next
    begins_at_any_key: bool  # whether a decoder may begin at every keyframe, as far as is known
    is_reordered: bool  # whether the file shows pictures in another order than it holds them
    # (frames,) bool: whether the file shows of a picture that nothing was lost between it and the next
    followed: np.ndarray
    # whether the first pictures were decoded, where need be, and came in the order of their times
    has_proved_times: bool = False

    @classmethod
    def of_packets(
        cls,
        packets: "Iterable[tuple[int, Packet]]",
        is_idr: "Callable[[Packet], bool]",
        order: PictureOrder | None,
    ) -> "Scan":
        """packets: of one picture, in the order in which they are stored, each with its pts. order: of the
        same stream, nothing has been noted there; None where nobody will ask what is `followed`.

        Raises ValueError where they show nothing.
        """
        begins_at_any_key, is_reordered = True, False
        shown: list[int] = []
        keys: list[int] = []
        durations: dict[int, int] = {}
        proved_by: dict[int, int] = {}
        latest: int | None = None
        for pts, packet in packets:
            if order:
                order.note(pts, packet)
            if packet.is_keyframe:
                keys.append(pts)
                begins_at_any_key &= is_idr(packet)
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
        on_display = np.array(shown, np.int64)
        scan = cls(
            shown=on_display,
            keys=np.array(sorted(keys), np.int64),
            proved_by=np.array([proved_by[pts] for pts in shown], np.int64),
            lasts=np.array([durations[pts] or typical for pts in shown], np.float64),
            typical=typical,
            begins_at_any_key=begins_at_any_key,
            is_reordered=is_reordered,
            followed=np.zeros(len(shown), bool),
        )
        # where no picture stands for long nothing depends on it
        return replace(scan, followed=order.followed(on_display)) if order and scan.has_doubts else scan

    @property
    def has_doubts(self) -> bool:
        """Whether a picture is on display for so long that others may have been lost behind it."""
        longest = np.maximum(self.lasts, self.typical) * GAP
        return bool((~self.followed[:-1] & (np.diff(self.shown) > longest[:-1])).any())

    def timeline(self, tick: float, stands: bool) -> Timeline:
        """tick: seconds. stands: whether every picture stays on display until the next one, however long;
        otherwise those do behind which nothing was lost.
        """
        ticks = self.shown - self.shown[0]
        longest = np.maximum(self.lasts, self.typical) * tick * GAP
        return Timeline(
            pts=ticks * tick,
            end=float(ticks[-1] + self.lasts[-1]) * tick,
            longest=np.where(stands | self.followed, np.inf, longest),
        )


class VideoIndex:
    """The scans in a folder, for any number of threads and processes at once.

    say: is told of files that are made anew and, once, of a folder that cannot be used.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = say) -> None:
        self.folder = Path(folder)
        self._say = say
        self._has_been_written = False
        self._has_complained = False

    @classmethod
    def beside(cls, out: Path, say: Callable[[str], None] = say) -> "VideoIndex":
        """The index that all stores in one folder share; `out` is one of them."""
        return cls(Path(out).absolute().parent / FOLDER, say)

    def scan_of_file(self, file: InputFile, key: Key | None, demux: Callable[[], Scan]) -> Scan:
        """The scan of an open file: the one that is kept or, for the next time, what `demux` gives.

        Kept is the scan of a file that is still the same, and whose times are proved.

        key: the file's content key, where that is known; it is read otherwise. Where not all times are in an
        index that the key covers, the time of change counts, too: packets may have been mended in place.
        Raises SystemFault where the file cannot be read.
        """
        if key is None or not is_content_key(key):
            key = key_of(file)
        timed: Key = [*key, file.changed]
        with _alone(self._path(timed)):
            scan = self.scan_of(key) or self.scan_of(timed)
            if scan is not None:
                return scan
            scan = demux()
            now = InputFile(file.path, file.retries)
            try:
                is_same = (now.size, now.changed) == (file.size, file.changed) and key_of(now) == key
                if is_same and scan.has_proved_times:
                    self.keep(key if has_whole_index(now) else timed, scan)
            finally:
                now.close()
        return scan

    def scan_of(self, key: Key) -> Scan | None:
        """The scan kept under a key; None where there is none that can be believed."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain(f"{path}: cannot be read ({error.strerror})")
            return None
        checksum, arrays = data[:CHECKSUM], data[CHECKSUM:]
        if _checksum(path, arrays) != checksum:
            self._say(f"{path}: is damaged, or belongs to another video; the video is scanned again")
            return None
        with _one_at_a_time, np.load(io.BytesIO(arrays), allow_pickle=False) as fields:
            return Scan(**{name: value if value.ndim else value.item() for name, value in fields.items()})

    def keep(self, key: Key, scan: Scan) -> None:
        """Write a scan, whole or not at all; whoever does so last is as right as the others."""
        path, arrays = self._path(key), io.BytesIO()
        np.savez_compressed(arrays, **vars(scan))
        try:
            if not self._has_been_written:
                fsops.make_folder(self.folder)
                fsops.sweep_temporaries(self.folder)
                self._has_been_written = True
            fsops.write_file(path, _checksum(path, arrays.getvalue()), arrays.getvalue())
        except DataError as error:
            self._complain(str(error))

    def _complain(self, what: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            self._say(f"{what}; without kept scans a video is read whole at each opening")

    def _path(self, key: Key) -> Path:
        import av

        versions = {name: av.library_versions[name] for name in ("libavcodec", "libavformat")}
        return self.folder / canonical.digest({"key": key, "layout": VERSION, **versions})


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One thread scans a file; others that open it wait for what it keeps: they would slow each other."""
    lock, until = _scanning[path], time.monotonic() + PATIENCE
    while not (is_held := lock.acquire(timeout=0.1)) and time.monotonic() < until:
        watch.alive()
    try:
        yield
    finally:
        if is_held:
            lock.release()


def _checksum(path: Path, arrays: bytes) -> bytes:
    """Of a file's arrays and its name, so that one that was renamed is another's."""
    return hashlib.sha256(path.name.encode() + arrays).digest()
