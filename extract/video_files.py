"""What stands for a file, a video or one of boxes, in a store's spec: its content, so that a copy elsewhere
is the same file.

    fast   size, and a sha256 of the parts that no two encodings share: head, tail, and MP4's index (moov)
    full   size, and the sha256 of the whole file

A folder of frames or chunks is known by its files in the same two ways.

Stores that were begun when `fast` meant size and time of change go on by that rule.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mambavl.cache import canonical, fsops
from mambavl.cache.canonical import file_sha256
from mambavl.cache.spec import COMMIT, LOCK, SPEC, Inputs, read_spec
from mambavl.configs.errors import DataError
from mambavl.extract.input_files import BLOCK, InputFile, is_folder, patiently, read_whole, size_of
from mambavl.extract.video_parts import list_parts

Hashing = Literal["fast", "full"]
Key = list[int | str]  # [size, what the content is known by]

END = 2**18  # bytes of the head, and of the tail
PARTS = "parts:"  # before the sha256 of parts of a file
TRIED_FRAMES = 16  # of a folder of frames, that are read whole
MOST_BOXES = 10_000  # of an MP4 file, in the search for its index
ALL_BOXES = "file"  # the name in a spec of the one file of object boxes
HASHES = f"{COMMIT}/videos.json"  # sha256 of whole files, so that one process reads them for all


def video_keys(
    paths: Mapping[str, Path | None], out: Path, method: Hashing, retries: int = 0
) -> dict[str, Key | None]:
    """video_id -> what stands for its file in the spec of the store `out`, None where there is none.

    retries: how often an error of the system is tried again. Raises SystemFault for a file that cannot be
    read, DataError for a store that cannot.
    """
    if method == "full":
        there = {video: path for video, path in sorted(paths.items()) if path is not None}
        return {**dict.fromkeys(sorted(paths)), **_shared_hashes(there, Path(out), retries)}
    return _fast_keys(paths, _inputs(out).videos or {}, retries)


def box_keys(
    paths: Mapping[str, Path | None], out: Path, method: Hashing, retries: int = 0
) -> dict[str, Key | None]:
    """As `video_keys`, of files of boxes: video_id -> its file; or ALL_BOXES -> the one for all videos."""
    if method == "full":  # each process for itself: a place in the middle may be edited where it lies
        return {name: fingerprint(path, "full", retries) for name, path in sorted(paths.items())}
    boxes: Mapping[str, Any] = _inputs(out).boxes or {}  # as `BoxSource.fingerprint` gives them
    return _fast_keys(paths, {**boxes.get("videos", {}), ALL_BOXES: boxes.get(ALL_BOXES)}, retries)


def content_key(path: Path, retries: int = 0) -> Key:
    """Size and sha256 of head, tail and index of a file; not when it was written, nor where it lies. Of a
    folder the names and sizes of its frames and some of them whole, or the keys of its chunks.

    Raises SystemFault, and DataError for a folder that does not hold one video.
    """
    if is_folder(path, retries):
        return _folder_key(path, retries)
    file = InputFile(path, retries)
    try:
        return key_of(file)
    finally:
        file.close()


def key_of(file: InputFile) -> Key:
    """The content key of an open file, which stays where it is. Raises SystemFault."""
    before = file.tell()
    parts = ((0, END), (max(file.size - END, 0), END), _index(file))
    content = hashlib.sha256()
    for start, size in parts:
        for block in _blocks(file, start, size):
            content.update(block)
    file.seek(before)
    file.check()
    return [file.size, PARTS + content.hexdigest()]


def is_content_key(key: Key) -> bool:
    """Whether a key is what `content_key` gives, and not one by time of change or of the whole file."""
    return str(key[1]).startswith(PARTS)


def has_whole_index(file: InputFile) -> bool:
    """Whether a file is an MP4 whose index lists all of its pictures, so that its content key covers that:
    one that is not written in fragments. Raises SystemFault.
    """
    before, kinds, end = file.tell(), set[bytes](), 0
    for at, size, kind in _boxes(file):
        kinds.add(kind)
        end = at + size
    file.seek(before)
    file.check()
    return end == file.size and b"moov" in kinds and b"moof" not in kinds


def fingerprint(path: Path | None, method: Hashing, retries: int = 0) -> Key | None:
    """Size and time of change (fast), or size and sha256 (full), of a file."""
    if path is None:
        return None
    if method == "full" and is_folder(path, retries):
        return _full_folder_key(path, retries)
    stat = patiently(path, retries, path.stat)
    if method == "fast":
        return [stat.st_size, stat.st_mtime_ns]
    return [stat.st_size, patiently(path, retries, lambda: file_sha256(path))]


def _inputs(out: Path) -> Inputs:
    """What the spec of a store says of files; nothing where there is no store yet."""
    return read_spec(Path(out)).inputs if (Path(out) / SPEC).exists() else Inputs()


def _fast_keys(
    paths: Mapping[str, Path | None], known: Mapping[str, Any], retries: int
) -> dict[str, Key | None]:
    """known: the keys in the store; by time of change, where those are."""
    is_by_time = any(isinstance(key[1], int) for key in known.values() if key)
    keys: dict[str, Key | None] = dict.fromkeys(sorted(paths))
    for name in keys:
        path = paths[name]
        if path is not None:
            keys[name] = fingerprint(path, "fast", retries) if is_by_time else content_key(path, retries)
    return keys


def _index(file: InputFile) -> tuple[int, int]:
    """Place and size of the box `moov` of an MP4 or MOV file; (0, 0) where there is none."""
    return next(((at, size) for at, size, kind in _boxes(file) if kind == b"moov"), (0, 0))


def _boxes(file: InputFile) -> Iterator[tuple[int, int, bytes]]:
    """Place, size and kind of the outer boxes of an MP4 or MOV file, as far as it looks like one."""
    at = 0
    for _ in range(MOST_BOXES):
        header = b"".join(_blocks(file, at, 16))
        if len(header) < 8:
            return
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:  # a long one says so behind its name
            size = int.from_bytes(header[8:16], "big")
        elif size == 0:  # the last one need not say
            size = file.size - at
        if size < 8:  # not such a file
            return
        yield at, size, kind
        at += size


def _folder_key(folder: Path, retries: int) -> Key:
    """Of frames their names and sizes, and some whole ones; of chunks the name and the key of each."""
    parts = list_parts(folder, retries)
    names = list(parts.names.values())
    if parts.kind == "chunks":
        keys = [content_key(folder / name, retries) for name in names]
        return [sum(int(key[0]) for key in keys), PARTS + canonical.digest([names, keys])]
    sizes = [size_of(folder / name, retries) for name in names]
    tried = {names[len(names) * part // TRIED_FRAMES] for part in range(TRIED_FRAMES)}
    some = [canonical.sha256(read_whole(folder / name, retries)) for name in sorted(tried)]
    return [sum(sizes), PARTS + canonical.digest([names, sizes, some])]


def _full_folder_key(folder: Path, retries: int) -> Key:
    """Of the files that make up a video the names and the content."""
    files = [folder / name for name in list_parts(folder, retries).names.values()]
    keys = [fingerprint(file, "full", retries) for file in files]
    size = sum(int(key[0]) for key in keys if key)
    return [size, canonical.digest([[file.name for file in files], keys])]


def _blocks(file: InputFile, start: int, size: int) -> Iterator[bytes]:
    """`size` bytes from `start` on, or what there is of them."""
    file.seek(start)
    while size > 0 and (block := file.read(min(size, BLOCK))):
        yield block
        size -= len(block)


def _shared_hashes(paths: Mapping[str, Path], out: Path, retries: int) -> dict[str, Key | None]:
    """Keys by whole files. Who comes first reads them and leaves what it found in the store, beside what the
    files are known by cheaply; the others wait and take it.
    """
    if out.exists() and not (out / COMMIT).exists() and any(out.iterdir()):
        # no store, which its writer is about to say: nothing is left there
        return {video: fingerprint(path, "full", retries) for video, path in paths.items()}
    fsops.make_folder(out / COMMIT)
    held = fsops.lock(out / f"{LOCK}-videos", exclusive=True, wait=True)
    try:
        known: dict[str, list[Key]] = {}
        if (out / HASHES).exists():
            try:
                known = json.loads((out / HASHES).read_bytes())
            except ValueError as error:
                raise DataError(f"{out / HASHES}: is damaged ({error}); delete it") from None
        found: dict[str, Key | None] = {}
        for video, path in paths.items():
            cheap = content_key(path, retries)
            if known.get(video, [[]])[0] != cheap:
                full = fingerprint(path, "full", retries) or []
                known[video] = [cheap, full]
                fsops.write_file(out / HASHES, canonical.pretty_json(known))
            found[video] = known[video][1]
        return found
    finally:
        fsops.unlock(held)
