"""The soundtrack of a video at given times: mono, at any rate, placed by presentation time (pts).

Time 0 is the first displayed frame of the picture, as in `video`. Samples are cut to the window before they
are resampled, so that the filter hears nothing outside it; a codec's own frames (20 to 40 ms) are decoded
whole. A file that has no soundtrack or cannot be decoded raises VideoError; a window that is partly outside
the soundtrack has silence there, and says so.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mambavl.extract import watch
from mambavl.extract.input_files import InputFile, is_folder
from mambavl.extract.timeline import VideoError, first_line
from mambavl.extract.video_parts import is_tar

if TYPE_CHECKING:
    from av import AudioFrame

# seconds decoded before a window and thrown away: a decoder's first frames after a seek may be unfinished
PREROLL = 0.2
# seconds by which a container's rounded times may seem to part two frames that follow one another
SEAM = 0.002
EDGE = 0.001  # seconds of a window that may be missing at its ends before that is worth a flag


@dataclass(frozen=True)
class Sound:
    """A window of sound. `last` is where the latest sample that was used ends, in seconds, by pts."""

    samples: np.ndarray  # (n,) float32, -1 to 1
    is_partial: bool  # some of the window is outside the soundtrack, and silent
    last: float


class SoundReader:
    """An open soundtrack. Not for use by several threads at once; open it after a fork."""

    def __init__(self, path: Path, retries: int = 0) -> None:
        """retries: how often an error of the system is tried again, while opening and reading.

        Raises VideoError `unreadable_video` or `no_soundtrack`, SystemFault when it cannot be opened or read.
        """
        import av

        if is_tar(path) or is_folder(path, retries):
            raise VideoError(
                "no_soundtrack", f"{path}: holds frames or chunks; sound is read from whole video files only"
            )
        self._av = av
        self.path = path
        self._file = InputFile(path, retries)
        try:
            self._container = av.open(self._file, "r")
            self._file.check()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._file.close()
            self._file.check(error)
            raise VideoError("unreadable_video", f"{path}: {first_line(error)}") from None
        streams = self._container.streams
        codec = streams.audio[0].codec_context if streams.audio else None  # None, too, for an unknown codec
        if codec is None or not streams.audio[0].rate or not streams.audio[0].time_base:
            self.close()
            raise VideoError("no_soundtrack", f"{path}: holds no soundtrack")
        self._stream = streams.audio[0]
        self._rate = self._stream.rate
        self._tick = float(streams.audio[0].time_base)  # seconds
        picture = streams.video[0] if streams.video else self._stream
        self._zero = float((picture.start_time or 0) * (picture.time_base or 0))

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def window(self, start: float, samples: int, rate: int) -> Sound:
        """`samples` at `rate` a second from `start` on. Raises VideoError `short_video` where all of them lie
        outside the soundtrack, `damaged_sound` where the file cannot be decoded or has a hole, SystemFault
        where it cannot be read.
        """
        wanted = int(samples / rate * self._rate + 1e-6)
        mono, filled = np.zeros(wanted, np.float32), np.zeros(wanted, bool)
        cursor, last = None, start
        for pts, values in self._decoded(start, start + samples / rate):
            # upwards: what is heard is not later than where it is put
            at = math.ceil((pts - start) * self._rate - 1e-3)
            if cursor is not None and abs(at - cursor) <= SEAM * self._rate:
                at = cursor
            cursor = at + len(values)
            begin, end = max(at, 0), min(cursor, wanted)
            if begin < end:
                mono[begin:end], filled[begin:end] = values[begin - at : end - at], True
                last = max(last, pts + (end - at) / self._rate)
        heard = np.flatnonzero(filled)
        if not len(heard):
            raise VideoError(
                "short_video", f"{self.path}: no sound from {start:.2f} to {start + samples / rate:.2f} s"
            )
        if holes := int(heard[-1] - heard[0] + 1 - len(heard)):
            raise VideoError("damaged_sound", f"{self.path}: {holes} samples are missing after {start:.2f} s")
        return Sound(self._resample(mono, samples, rate), wanted - len(heard) > EDGE * self._rate, last)

    def _decoded(self, start: float, stop: float) -> Iterator[tuple[float, np.ndarray]]:
        """(time of the first sample, mono samples) of each frame that may touch the window."""
        stream = self._stream
        ticks = int((max(start - PREROLL, 0.0) + self._zero) / self._tick)
        try:
            self._container.seek(ticks, stream=stream, backward=True)
            stream.codec_context.flush_buffers()
            for frame in self._container.decode(stream):
                watch.alive()
                if frame.pts is None:
                    continue
                pts = frame.pts * self._tick - self._zero
                if pts >= stop:
                    return
                self._file.check()
                yield pts, self._mono(frame)
        except self._av.FFmpegError as error:
            self._file.check(error)
            raise VideoError(
                "damaged_sound", f"{self.path}: sound near {start:.2f} s: {first_line(error)}"
            ) from None
        self._file.check()

    def _mono(self, frame: "AudioFrame") -> np.ndarray:
        """(n,) float32, -1 to 1: the mean of the channels."""
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        centre, scale = 0.0, 1.0
        if values.dtype == np.uint8:  # 8-bit sound is counted from 0 to 255
            centre, scale = 128.0, 128.0
        elif values.dtype.kind != "f":
            scale = 2.0 ** (8 * values.dtype.itemsize - 1)
        return ((values.astype(np.float64) - centre) / scale).mean(0).astype(np.float32)

    def _resample(self, mono: np.ndarray, samples: int, rate: int) -> np.ndarray:
        if rate == self._rate:
            return mono[:samples]
        frame = self._av.AudioFrame.from_ndarray(mono[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = self._rate, 0
        resampler = self._av.AudioResampler(format="fltp", layout="mono", rate=rate)
        parts = [*resampler.resample(frame), *resampler.resample(None)]  # None: what the filter still holds
        out = np.concatenate([part.to_ndarray()[0] for part in parts])[:samples]
        return np.pad(out, (0, samples - len(out)))  # the filter may keep a sample at the end
