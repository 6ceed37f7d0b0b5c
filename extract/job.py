"""What the jobs of stage one share: the encoder on its device, rows that fail, features put into row groups.

`video_job`, `text_job` and `audio_job` say what a row group becomes, `cache.fill` does the rest. It depends
on the row group alone, never on timing, on failures or on how many processes share the work.
"""

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_args

import numpy as np
import torch

from mambavl.cache import canonical, shards
from mambavl.cache.rows import STATUS_CODE
from mambavl.cache.shards import Level
from mambavl.cache.spec import EncoderIdentity, FeatureRecipe, Inputs, Spec
from mambavl.cache.writer import RowGroup, StoreWriter
from mambavl.configs.errors import UsageError, differs
from mambavl.extract.annotations import Annotations
from mambavl.extract.encoders import registry
from mambavl.extract.encoders.base import Encoder, WeightsState
from mambavl.extract.options import AudioExtraction, Extraction, Reading, VideoExtraction
from mambavl.extract.timeline import VideoError
from mambavl.extract.video_files import video_keys

NUMERICS = 2  # raised by hand whenever the same settings come to give other features


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
    """Features by level, (rows, ...) -> a row group.

    A row whose features are not finite fails, too; one that failed holds NaN. frame_pts (rows, V, T) seconds.
    """
    stored: dict[str, np.ndarray] = {}
    with np.errstate(over="ignore"):  # a value past float16's range becomes infinite and is refused below
        for level in levels:
            stored[level.name] = features[level.name].reshape(len(clips), *level.shape).astype(level.dtype)
    for row, clip in enumerate(clips):
        broken = [name for name, values in stored.items() if not np.isfinite(values[row]).all()]
        if broken:
            clip.fail("nonfinite_features", f"{encoder}: level {broken[0]} holds NaN or infinity")
    ok = np.array([clip.status == "ok" for clip in clips])
    for values in stored.values():
        values[~ok] = np.nan
    steps = max(level.steps for level in levels) or 1
    return RowGroup(
        levels=stored,
        lengths={"length": np.where(ok, steps, 0)},
        status=np.array([STATUS_CODE[clip.status] for clip in clips], np.uint8),
        flags=np.array([clip.flags for clip in clips], np.uint8),
        frame_pts=frame_pts,
        reasons={row: clip.reason for row, clip in enumerate(clips) if clip.reason},
    )


def dense_levels(
    options: VideoExtraction | AudioExtraction, shapes: Mapping[str, tuple[int, ...]], steps: int
) -> tuple[Level, ...]:
    """The levels that the settings name. shapes: level -> shape of a row; steps: T', of levels in time."""
    levels: list[Level] = []
    for name in options.levels:
        levels.append(
            Level(
                name,
                "dense",
                shapes[name],
                options.dtype,
                steps={"clip": 0, "cls": 0, "predicted": 1}.get(name, steps),
                compressor=options.compressor,
            )
        )
    return tuple(levels)


def rows_per_group(options: Extraction, levels: Sequence[Level]) -> int:
    """As the settings say, else what brings the largest level's files near their best size."""
    return options.rows_per_group or shards.rows_per_group(max(level.chunk_bytes for level in levels))


def video_inputs(
    options: Reading,
    splits: tuple[str, ...],
    annotations: Annotations,
    paths: Mapping[str, Path | None],
    out: Path,
    boxes: dict[str, Any] | None = None,
) -> Inputs:
    """What the spec of the store `out` says of the files behind its features. boxes: what
    `BoxSource.fingerprint` says.
    """
    return Inputs(
        annotations=annotations.sha256 or None,
        splits=splits if annotations.sha256 else None,
        windows=annotations.windows,
        videos=video_keys(paths, out, options.video_hash, options.retries),
        boxes=boxes,
    )


def reading_threads(options: Reading) -> int:
    """As the settings say, else one for each core that this process may use."""
    return options.readers or cores()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


class Closable(Protocol):
    def close(self) -> None: ...


OpenReader = TypeVar("OpenReader", bound=Closable)


class ReaderCache(Generic[OpenReader]):
    """Keeps the reader of a video open, since rows of a video follow one another; for one thread."""

    def __init__(
        self, paths: Mapping[str, Path | None], open_reader: Callable[[str, Path], OpenReader]
    ) -> None:
        """open_reader: takes the video_id and the file."""
        self.paths = paths
        self.open_reader = open_reader
        self._open: tuple[str, OpenReader | VideoError] | None = None  # the reader, or why there is none

    def reader(self, video_id: str) -> OpenReader:
        """Raises VideoError where the video is missing or cannot be opened."""
        if self._open is None or self._open[0] != video_id:
            self.close()
            self._open = (video_id, self._try_to_open(video_id))
        found = self._open[1]
        if isinstance(found, VideoError):
            raise found
        return found

    def _try_to_open(self, video_id: str) -> OpenReader | VideoError:
        path = self.paths[video_id]
        if path is None:
            return VideoError("missing_video", f"{video_id}: no such video file")
        try:
            return self.open_reader(video_id, path)
        except VideoError as error:
            return error

    def close(self) -> None:
        if self._open and not isinstance(self._open[1], VideoError):
            self._open[1].close()
        self._open = None


SomeEncoder = TypeVar("SomeEncoder", bound=Encoder)


def build_encoder(options: Extraction, kind: type[SomeEncoder], **sizes: Any) -> SomeEncoder:
    """The encoder that the settings name, on its device. kind: VideoEncoder, TextEncoder or AudioEncoder,
    what the command is for; sizes: as `registry.build`.

    Raises UsageError for an encoder of another kind, and where nobody says what its weights were trained on.
    """
    name = options.encoder
    known = registry.kind_of(name)
    if known not in (kind.kind, None):
        raise UsageError(f"encoder {name} reads {known}; use `mambavl extract {known}`")
    encoder = registry.build(name, weights=options.weights, **sizes)
    if not isinstance(encoder, kind):  # of some names the kind is known only now
        raise UsageError(f"encoder {name} reads {encoder.kind}; use `mambavl extract {encoder.kind}`")
    encoder.state = options.weights_state or encoder.state
    if encoder.state is None:
        raise UsageError(
            f"encoder {name} does not say what its weights were trained on; give --set weights_state="
            f"{'|'.join(get_args(WeightsState))}, or let the encoder have an attribute `state`"
        )
    return encoder.to(device_of(options.device))


def encoder_identity(encoder: Encoder) -> EncoderIdentity:
    """What a store's spec says of an encoder."""
    return EncoderIdentity(
        name=encoder.name,
        state=encoder.state,
        sha256=encoder.sha256,
        width=encoder.width,
        details=encoder.details,
    )


def device_of(name: str) -> torch.device:
    """The device of a name; `auto`: the GPU if there is one. Raises UsageError where it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.zeros(1, device=name).device
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        return device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None


class OtherRecipe(UsageError):
    """Features would be made otherwise than those that they are to be like."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(f"The features would be others. {differs(faults, 'wanted -> here')}")
        self.faults = faults  # `field: wanted -> here`

    def __reduce__(self) -> tuple[type, tuple[Sequence[str]]]:
        return type(self), (self.faults,)


def open_writer(
    out: Path,
    spec: Spec,
    annotations: Annotations,
    device: str,
    *,
    retry_failed: bool,
    like: FeatureRecipe | None = None,
) -> StoreWriter:
    """The store `out` of these rows, created or resumed.

    like: how features must be made, whatever the questions; OtherRecipe, before anything is written, where
    they would not be. Raises as StoreWriter does.
    """
    if like is not None:
        wanted, here = (replace(recipe, questions=None) for recipe in (like, spec.recipe))
        if faults := canonical.differences(wanted.to_dict(), here.to_dict()):
            raise OtherRecipe(faults)
    made_by = environment(device)
    return StoreWriter(
        out, spec, annotations.segments, annotations.classes, made_by, retry_failed=retry_failed
    )


def environment(device: str) -> dict[str, str]:
    """Recorded next to the features, not part of the spec."""
    import av

    return {
        "mambavl": importlib.metadata.version("mambavl"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),  # an import takes most of a second
        "av": av.__version__,
        "device": str(device_of(device)),
    }
