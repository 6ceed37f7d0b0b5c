"""A row's pictures for people: a few frames beside each other in one small WebP file.

The frames are read as for an encoder (`video`), at given moments; a row whose frames cannot all be had gets
no others, but the reason.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from mambavl.cache.rows import Segment
from mambavl.configs.errors import DataError
from mambavl.extract.timeline import Reader, VideoError
from mambavl.extract.video import open_video

FRAME = (192, 108)  # the box that a frame is fitted into, in pixels
GAP = 2  # pixels between two frames
MOST_BYTES = 7_000  # of a strip: 300 of them are 2.8 MB of a page as base64
QUALITIES = (70, 55, 40, 30, 20, 10, 0)  # of WebP, the first one that is small enough

Wanted = tuple[Segment, list[float]]  # a row, and the moments to show, in seconds of its video


def strips(
    rows: Sequence[Wanted],
    find: Callable[[Segment], Path | None],
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, bytes | str]:
    """narration_id -> its frames at the moments wanted, as WebP, from left to right; or why there are none.

    find: where the video of a row lies, None where it does not. on_video: told after each video how many are
    done, of how many.
    """
    found: dict[str, bytes | str] = {}
    in_order = sorted(rows, key=lambda row: row[0].video_id)
    videos = [list(own) for _, own in groupby(in_order, key=lambda row: row[0].video_id)]
    for number, own in enumerate(videos):
        found |= _of_video(own, find)
        on_video(number + 1, len(videos))
    return found


def _of_video(rows: Sequence[Wanted], find: Callable[[Segment], Path | None]) -> dict[str, bytes | str]:
    """Strips of rows of one video."""
    first, _ = rows[0]
    try:
        path = find(first)
        if path is None:
            raise VideoError("missing_video", f"{first.video_id}: its video is not there")
        reader = open_video(path)
    except (VideoError, DataError) as error:
        return {segment.narration_id: str(error) for segment, _ in rows}
    try:
        return _read(reader, rows)
    except DataError as error:  # of a disk that fails while it is read
        return {segment.narration_id: str(error) for segment, _ in rows}
    finally:
        reader.close()


def _read(reader: Reader, rows: Sequence[Wanted]) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    places: dict[str, list[int]] = {}
    for segment, times in rows:
        try:
            places[segment.narration_id] = reader.timeline.at(np.array(times))[0].tolist()
        except VideoError as error:
            found[segment.narration_id] = str(error)
    wanted = np.array(sorted({place for own in places.values() for place in own}), np.int64)
    frames: dict[int, Image.Image | VideoError] = {}
    for place, pixels in reader.frames(wanted) if len(wanted) else ():
        frames[place] = pixels if isinstance(pixels, VideoError) else small(pixels)
    for name, own in places.items():
        found[name] = _strip(own, frames)
    return found


def _strip(places: Iterable[int], frames: Mapping[int, Image.Image | VideoError]) -> bytes | str:
    pictures = []
    for place in places:
        frame = frames[place]
        if isinstance(frame, VideoError):
            return str(frame)
        pictures.append(frame)
    return beside(pictures)


def small(pixels: np.ndarray) -> Image.Image:
    """A frame (H, W, 3) fitted into FRAME; a smaller one stays as it is."""
    image = Image.fromarray(pixels)
    image.thumbnail(FRAME, Image.Resampling.LANCZOS)
    return image


def beside(pictures: Sequence[Image.Image], most: int = MOST_BYTES) -> bytes:
    """Pictures of one height from left to right, as WebP of the best of QUALITIES that takes `most` bytes or
    fewer, else of the last.
    """
    width = sum(one.width for one in pictures) + GAP * (len(pictures) - 1)
    strip = Image.new("RGB", (width, max(one.height for one in pictures)))
    at = 0
    for one in pictures:
        strip.paste(one, (at, 0))
        at += one.width + GAP
    packed = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        strip.save(file, "WEBP", quality=quality, method=4)
        packed = file.getvalue()
        if len(packed) <= most:
            break
    return packed
