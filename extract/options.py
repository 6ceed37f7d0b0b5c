"""The settings of the extraction jobs, and every rule about them that needs nothing but the record.

The comment of a field is what `mambavl settings extract.video` prints of it: what it does, its unit, its
choices.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mambavl.configs import Config
from mambavl.extract.annotations import DEFAULT_SPLITS, Split
from mambavl.extract.encoders.audio import SHORTEST, AudioLevel
from mambavl.extract.encoders.base import TextLevel, WeightsState
from mambavl.extract.encoders.levels import Level
from mambavl.extract.encoders.published.orvit import BoxTransform
from mambavl.extract.history import Order
from mambavl.extract.sampling import OBSERVED_FRAMES, OBSERVED_RATE, Sampling, Task
from mambavl.extract.video import Decoder
from mambavl.extract.video_files import Hashing

Name = TypeVar("Name", bound=str)
Fit = Literal["crop", "squash"]


def _one_name(value: object) -> object:
    """One name stands for itself alone: `--set levels=frame` needs no brackets."""
    return (value,) if isinstance(value, str) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names none; give at least one")
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} twice")
    return names


# one name, or a list of different names
Names = Annotated[tuple[Name, ...], BeforeValidator(_one_name), AfterValidator(_distinct)]


class Extraction(Config):
    """What every extraction job needs to know."""

    encoder: str  # the frozen encoder to run; `mambavl encoders list` prints the names
    # file or folder with its weights, or `random` for an untrained encoder; absent: the encoder's own
    weights: str | None = None
    # what the weights were trained on; absent: as the encoder says
    weights_state: WeightsState | None = None
    splits: Names[Split] = DEFAULT_SPLITS  # which parts of the data set to extract
    dtype: Literal["float16", "float32"] = "float16"  # number format of the stored features
    # how the stored features are compressed; zstd is for archives, since training has to decode it first
    compressor: Literal["none", "zstd"] = "none"
    # rows of a row group, the unit of work that a restart repeats; absent: about 16 MiB for each file
    rows_per_group: int | None = Field(default=None, ge=1, le=65_536)
    device: str = "auto"  # where the encoder runs: cpu, cuda, cuda:1, ...; auto: the GPU if there is one


class Reading(Config):
    """How the jobs that read video files do so."""

    # what identifies a file, a video or one of boxes, in the store: fast, its size and the sha256 of its
    # head, tail and index; full, the sha256 of all of it
    video_hash: Hashing = "fast"
    allow_missing: bool = False  # go on without the videos that are not there
    # rows that may fail when they are tried; one more stops the command, with exit code 1
    max_failed: int = Field(default=0, ge=0)
    # how often an error of the disk or the network is tried again, after 1, 5, 25, 60, 60, ... seconds
    retries: int = Field(default=3, ge=0, le=100)
    # threads that read and decode, ahead of the encoder; absent: one for each core
    readers: int | None = Field(default=None, ge=1, le=1024)
    # seconds in which a decoder may come to no new frame; then it is ended, and rows at which it hangs again
    # fail
    decoder_timeout: float = Field(default=60.0, ge=1.0)
    # megabytes that pictures or sounds which are read and not yet encoded may take
    read_ahead_mb: int = Field(default=2048, ge=1)


class VideoReading(Reading):
    """What of a video job's settings decides which pictures are read: several encoders may share them."""

    fit: Fit = "crop"  # crop: a square of the short side; squash: the whole frame squeezed into a square
    # squares cut from a frame: 1 in the centre, or 3 along the long side; each is stored as a view
    crops: Literal[1, 3] = 1
    sampling: Sampling = Sampling()  # which moments of a video a segment is seen at
    decoder: Decoder = "pyav"  # what reads video files: pyav is exact for every file
    # take it that no file has lost a picture, so that each stands until the next one, however long; without,
    # one that stays for more than 2.5 frame times does so only where the file shows that none was lost
    still_pictures: bool = False

    @model_validator(mode="after")
    def _a_squeezed_frame_is_one_view(self) -> "VideoReading":
        if self.fit == "squash" and self.crops > 1:
            raise ValueError("a squeezed frame (fit = squash) is one view, so crops = 1")
        return self


class VideoExtraction(Extraction, VideoReading):
    """Settings of `mambavl extract video`. What is not recorded in the spec: device, allow_missing,
    max_failed, retries, readers, decoder_timeout, read_ahead_mb and the place of the weights. A store is
    resumed under the same settings only.
    """

    # rows encoded together
    batch_rows: int = Field(default=8, ge=1, le=4096)
    # what to store of a clip: clip (one vector, what the encoder's classifier reads), cls (its class token),
    # frame (a vector for each time step), grid (grid x grid vectors for each), patch (every token), predicted
    # (V-JEPA 2's tokens of the time step at which the action begins)
    levels: Names[Level] = ("frame",)
    grid: int = Field(default=4, ge=1, le=64)  # cells along a side of level `grid`
    # height and width of what the encoder sees, in pixels; absent: the encoder's own
    image_size: int | None = Field(default=None, ge=16, le=2048)
    # arithmetic of the encoder: fp32, or bf16 and fp16 through autocast, which are for GPUs
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # which tokens of a published encoder are stored: those of its last block, or of the one before
    layer: Literal["last", "penultimate"] = "last"
    # where ORViT's object boxes come from: h5 (its authors' file), hoa (EPIC's hand-object detections),
    # none (run without boxes)
    boxes: Literal["none", "h5", "hoa"] | None = None
    boxes_path: Path | None = None  # the h5 file, or the folder of hand-object detections
    # how ORViT's boxes are moved into a crop: correctly, or as its released loader does, which loses those
    # of every crop that does not begin at the frame's corner
    box_transform: BoxTransform = "correct"

    @property
    def views(self) -> int:
        """V, views that are stored of a row: each clip in time, each of its crops."""
        return self.sampling.views * self.crops

    @model_validator(mode="after")
    def _boxes_and_their_place_go_together(self) -> "VideoExtraction":
        reads_boxes = self.boxes in ("h5", "hoa")
        if self.boxes_path and not reads_boxes:
            boxes = self.boxes or "nothing"
            raise ValueError(f"boxes_path = {self.boxes_path}, but boxes = {boxes}; set boxes = h5 or hoa")
        if reads_boxes and self.boxes_path is None:
            raise ValueError(f"boxes = {self.boxes} needs `--set boxes_path=...`: where they are")
        if self.box_transform == "released" and not reads_boxes:
            raise ValueError(
                "box_transform = released is about boxes, and none are read; set boxes = h5 or hoa"
            )
        return self

    @model_validator(mode="after")
    def _the_released_loader_squeezed_nothing(self) -> "VideoExtraction":
        if self.fit == "squash" and self.box_transform == "released":
            raise ValueError(
                "box_transform = released is of crops, and fit = squash has none; set box_transform = correct"
            )
        return self


class SoundWindow(Config):
    """Which part of a soundtrack is heard: the action, or what ends tau_a before it."""

    # recognition: the sound of the action; anticipation: the sound before it
    task: Task = "recognition"
    # anticipation: seconds between the last sample heard and the action's start
    tau_a: float = Field(default=1.0, ge=0.0)
    # anticipation: length of the window in seconds; by default the time of 64 frames at 30 per second
    seconds: float = Field(default=OBSERVED_FRAMES / OBSERVED_RATE, ge=SHORTEST, le=600.0)

    @model_validator(mode="after")
    def _seconds_are_of_anticipation(self) -> "SoundWindow":
        if self.task == "recognition" and "seconds" in self.model_fields_set:
            raise ValueError("recognition hears the action, however long; seconds are for anticipation")
        return self


class AudioExtraction(Extraction, Reading):
    """Settings of `mambavl extract audio`. What is not recorded in the spec: device, allow_missing,
    max_failed, retries, readers, decoder_timeout, read_ahead_mb and the place of the weights. A store is
    resumed under the same settings only.
    """

    # rows encoded together
    batch_rows: int = Field(default=8, ge=1, le=4096)
    # what to store of a sound: clip (one vector), frame (a vector for each of `steps` parts)
    levels: Names[AudioLevel] = ("frame",)
    # equal parts of the window in level `frame`; each is the mean of the encoder's states in it
    steps: int = Field(default=16, ge=1, le=1024)
    sampling: SoundWindow = SoundWindow()  # which part of a soundtrack is heard


class TextExtraction(Extraction):
    """Settings of `mambavl extract text`."""

    # what to store of a question: last_hidden (the last layer's tokens), embedding_layer (the tokens before
    # the first layer), pooled (one vector)
    levels: Names[TextLevel] = ("last_hidden",)
    batch_texts: int = Field(default=64, ge=1, le=4096)  # questions encoded together
    allow_unmasked: bool = False  # accept questions that give their answers away, which the leak audit needs


class HistoryExtraction(Extraction):
    """Settings of `mambavl extract history`."""

    encoder: str = "classes"  # classes: verb and noun class, each one-hot; or a text encoder, of narrations
    last: int = Field(default=8, ge=1, le=1024)  # actions of a row's past that are kept, the last ones
    # seconds between the end of the last action that may be known of and the row's start; below 0 a row would
    # know of itself
    tau: float = Field(default=1.0, ge=0.0, le=3600.0)
    # who tells of the past. oracle: its true labels; predicted: a recogniser's scores
    protocol: Literal["oracle", "predicted"] = "oracle"
    # time: oldest first; shuffled: dealt to other places while ages stay, the control for what order tells
    order: Order = "time"
    batch_texts: int = Field(default=64, ge=1, le=4096)  # narrations encoded together
