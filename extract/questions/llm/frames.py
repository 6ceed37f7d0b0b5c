"""Frames of a segment's clip as JPEG files, for models that see."""

import io
from typing import Any

import numpy as np
from PIL import Image

from mambavl.cache.rows import Segment
from mambavl.extract.sampling import segment_uniform
from mambavl.extract.timeline import VideoError
from mambavl.extract.video import Decoder, open_video
from mambavl.extract.video_folder import Roots, VideoFolder

QUALITY = 85


class ClipFrames:
    """`count` frames of each segment, at the centres of equal parts of the action, the longer side at most
    `side` pixels.
    """

    def __init__(self, videos: Roots, count: int, side: int, decoder: Decoder = "pyav") -> None:
        self.videos, self.count, self.side, self.decoder = VideoFolder(videos), count, side, decoder

    def identity(self, segment: Segment) -> dict[str, Any]:
        """The frames as a request's key knows them, without their bytes: a resumed run decodes nothing that
        was answered.
        """
        times = segment_uniform(segment.start, segment.stop, self.count)
        return {
            "frames": self.count,
            "side": self.side,
            "quality": QUALITY,
            "narration_id": segment.narration_id,
            "video_id": segment.video_id,
            "times": [round(float(time), 3) for time in times],
        }

    def jpegs(self, segment: Segment) -> list[bytes]:
        """JPEG files in order of time. Raises VideoError when the video is missing or a frame is damaged."""
        path = self.videos.find(segment.participant_id, segment.video_id)
        if path is None:
            raise VideoError("missing_video", f"{segment.video_id}: no such video in {self.videos}")
        reader = open_video(path, self.decoder)
        pixels: dict[int, np.ndarray] = {}
        try:
            indices, _ = reader.timeline.at(segment_uniform(segment.start, segment.stop, self.count))
            for index, frame in reader.frames(indices):
                if isinstance(frame, VideoError):
                    raise frame
                pixels[index] = frame
        finally:
            reader.close()
        return [self._jpeg(pixels[index]) for index in indices.tolist()]

    def _jpeg(self, pixels: np.ndarray) -> bytes:
        """pixels: (H, W, 3) uint8."""
        image = Image.fromarray(pixels)
        image.thumbnail((self.side, self.side), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
