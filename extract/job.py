"""What the jobs of stage one share: videos and encoders found, rows that fail, features put into row groups.

`video_job`, `text_job` and `audio_job` say what a row group becomes, `cache.fill` does the rest. It depends on
the row group alone, never on timing, on failures or on how many processes share the work.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch

from mambavl.cache.rows import STATUS_CODE
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity
from mambavl.cache.writer import RowGroup
from mambavl.configs.errors import DataError, UsageError, some
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders import registry
from mambavl.extract.encoders.base import Encoder, WeightsState
from mambavl.extract.video import VideoError
from mambavl.extract.video_files import find_video

NUMERICS = 1  # raised by hand whenever the same settings come to give other features


def find_videos(annotations: Annotations, root: Path, allow_missing: bool) -> dict[str, Path | None]:
    participants = {segment.video_id: segment.participant_id for segment in annotations.segments}
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --videos wants the one that holds P01/videos/P01_01.MP4")
    paths = {video: find_video(root, participant, video) for video, participant in participants.items()}
    missing = [video for video, path in paths.items() if path is None]
    if missing and not allow_missing:
        raise DataError(
            f"{root}: {len(missing):,} of {len(paths):,} videos are not there ({some(missing)}); "
            "`mambavl data check` lists them, --set allow_missing=true goes on without"
        )
    return paths


@dataclass(kw_only=True)
class Clip:
    """What becomes of one row: the first thing that failed counts."""

    status: str = "ok"
    flags: int = 0
    reason: str = ""

    def fail(self, status: str, reason: str) -> None:
        if self.status == "ok":
            self.status, self.reason = status, reason


def dense_group(
    encoder: str,
    clips: Sequence[Clip],
    features: dict[str, np.ndarray],
    levels: Sequence[Level],
    frame_pts: np.ndarray | None = None,
) -> RowGroup:
    """Features by level (rows, ...) -> a row group; rows that failed hold NaN, as do those whose features are not finite."""
    stored = {}
    with np.errstate(over="ignore"):  # a value past float16's range becomes infinite and is refused below
        for level in levels:
            stored[level.name] = features[level.name].reshape(len(clips), *level.shape).astype(level.dtype)
    for row, clip in enumerate(clips):
        if broken := [name for name, values in stored.items() if not np.isfinite(values[row]).all()]:
            clip.fail("nonfinite_features", f"{encoder}: level {broken[0]} holds NaN or infinity")
    ok = np.array([clip.status == "ok" for clip in clips])
    for values in stored.values():
        values[~ok] = np.nan
    steps = next((level.steps for level in levels if level.steps), 1)
    return RowGroup(
        levels=stored,
        lengths={"length": np.where(ok, steps, 0)},
        status=np.array([STATUS_CODE[clip.status] for clip in clips], np.uint8),
        flags=np.array([clip.flags for clip in clips], np.uint8),
        frame_pts=frame_pts,
        reasons={row: clip.reason for row, clip in enumerate(clips) if clip.reason},
    )


class ReaderCache:
    """The reader of one video at a time, kept open since rows of a video follow one another; for one thread."""

    def __init__(self, paths: dict[str, Path | None], open_reader: Callable[[Path], Any]) -> None:
        self.paths, self.open_reader = paths, open_reader
        self._open: tuple[str, Any] | None = None  # the reader, or why there is none

    def reader(self, video_id: str) -> Any:
        """Raises VideoError where the video is missing or cannot be opened."""
        if self._open is None or self._open[0] != video_id:
            self.close()
            path = self.paths[video_id]
            try:
                if path is None:
                    raise VideoError("missing_video", f"{video_id}: no such video file")
                self._open = (video_id, self.open_reader(path))
            except VideoError as error:
                self._open = (video_id, error)
        if isinstance(self._open[1], VideoError):
            raise self._open[1]
        return self._open[1]

    def close(self) -> None:
        if self._open and not isinstance(self._open[1], VideoError):
            self._open[1].close()
        self._open = None


E = TypeVar("E", bound=Encoder)


def build_encoder(
    name: str,
    kind: type[E],
    weights: str | None,
    weights_state: WeightsState | None,
    device: str,
    **sizes: Any,
) -> E:
    """The encoder on its device. kind: VideoEncoder, TextEncoder or AudioEncoder, what the command is for.

    Raises UsageError for an encoder of another kind, and where nobody says what its weights were trained on.
    """
    if (known := registry.kind_of(name)) not in (kind.kind, None):
        raise UsageError(f"encoder {name} reads {known}; use `mambavl extract {known}`")
    encoder = registry.build(name, weights=weights, **sizes)
    if not isinstance(encoder, kind):  # of some names the kind is known only now
        raise UsageError(f"encoder {name} reads {encoder.kind}; use `mambavl extract {encoder.kind}`")
    encoder.state = weights_state or encoder.state
    if encoder.state is None:
        raise UsageError(
            f"encoder {name} does not say what its weights were trained on; give --set weights_state="
            f"{'|'.join(get_args(WeightsState))}, or let the encoder have an attribute `state`"
        )
    return encoder.to(device_of(device))


def encoder_identity(encoder: Encoder) -> EncoderIdentity:
    return EncoderIdentity(
        name=encoder.name,
        state=encoder.state,
        sha256=encoder.sha256,
        width=encoder.width,
        details=encoder.details,
    )


def device_of(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.zeros(1, device=name).device
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        return device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None


def environment(device: str) -> dict[str, str]:
    """Recorded beside the features, not part of the spec."""
    import av
    import transformers

    import mambavl

    return {
        "mambavl": mambavl.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "av": av.__version__,
        "device": str(device_of(device)),
    }
