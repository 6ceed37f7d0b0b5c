"""Clips of a batch -> features by level, (B, V, ...), -> a row group.

B rows of a batch, V views of a row, T frames, S side of an image, O boxes of a frame. A row that cannot be
shown takes its place in the batch as zeros and is dropped afterwards: so the others do not depend on it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mambavl.cache.shards import Level
from mambavl.cache.writer import RowGroup
from mambavl.extract import job
from mambavl.extract.clips import Clip
from mambavl.extract.encoders.base import VideoEncoder
from mambavl.extract.encoders.levels import video_levels
from mambavl.extract.options import VideoExtraction
from mambavl.extract.pictures import own_memory

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Features = dict[str, np.ndarray]


class ClipEncoder:
    """Encodes batches of rows for one store, view by view."""

    def __init__(
        self, encoder: VideoEncoder, options: VideoExtraction, levels: tuple[Level, ...], *, has_boxes: bool
    ) -> None:
        self.encoder = encoder
        self.options = options
        self.levels = levels
        self.has_boxes = has_boxes
        self.device = job.device_of(options.device)
        shape = (1, 3, 1, 1, 1)
        self._mean = torch.tensor(encoder.pixels.mean, device=self.device).view(shape) * 255
        self._std = torch.tensor(encoder.pixels.std, device=self.device).view(shape) * 255
        # pictures are brought to a GPU beside what it computes
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def start(self, clips: Sequence[Clip]) -> Callable[[], Features]:
        """Begin to encode a batch; what it returns waits for the features, (B, V, *a view's shape)."""
        views = [self._start_view(clips, view) for view in range(self.options.views)]
        for clip in clips:
            clip.forget()  # a row group of pictures would be gigabytes

        def features() -> Features:
            found: Features = {}
            for level in self.levels:
                found[level.name] = np.stack(
                    [view[level.name].float().cpu().numpy() for view in views], axis=1
                )
            return found

        return features

    def row_group(self, clips: Sequence[Clip], features: Features) -> RowGroup:
        pts = np.stack([clip.pts for clip in clips])
        return job.dense_group(self.options.encoder, clips, features, self.levels, pts)

    @torch.inference_mode()
    def _start_view(self, clips: Sequence[Clip], view: int) -> dict[str, torch.Tensor]:
        """One view of a batch of clips -> features by level, (B, *a view's shape), on the device."""
        # nothing to see, as in the first second before an action
        if all(clip.status != "ok" for clip in clips):
            return {level.name: torch.zeros(len(clips), *level.shape[1:]) for level in self.levels}
        options = self.options
        boxes = self._boxes(clips, view) if self.has_boxes else None
        with torch.autocast(
            self.device.type, PRECISIONS[options.precision], enabled=options.precision != "fp32"
        ):
            return video_levels(self.encoder, self._video(clips, view), options.levels, options.grid, boxes)

    def _video(self, clips: Sequence[Clip], view: int) -> torch.Tensor:
        """One view of a batch of clips as the encoder takes it: (B, 3, T, S, S), normalised."""
        images = [image for clip in clips for image in clip.images[view]]
        stacked = np.stack(images, out=own_memory((len(images), *images[0].shape)))
        pixels = self._bring(torch.from_numpy(stacked).unflatten(0, (len(clips), -1)))  # (B, T, S, S, 3)
        if self.encoder.pixels.colour == "BGR":
            pixels = pixels.flip(-1)
        if pixels.is_cpu:
            values = torch.from_numpy(own_memory(pixels.shape, np.float32)).copy_(pixels)
        else:
            values = pixels.float()
        # in place: a batch in float32 is large, and memory that is new costs more than what is done in it
        return values.permute(0, 4, 1, 2, 3).sub_(self._mean).div_(self._std)

    def _bring(self, images: torch.Tensor) -> torch.Tensor:
        """To the device. A GPU takes them from pinned memory while it still computes the batch before."""
        if self._copies is None:
            return images.to(self.device)
        with torch.cuda.stream(self._copies):
            pixels = images.pin_memory().to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copies)
        pixels.record_stream(computing)
        return pixels

    def _boxes(self, clips: Sequence[Clip], view: int) -> torch.Tensor:
        """(B, T, O, 4)."""
        return torch.from_numpy(np.stack([clip.boxes[view] for clip in clips])).to(self.device)
