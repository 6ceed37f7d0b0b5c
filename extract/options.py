"""The settings of the extraction jobs, and every rule about them that needs nothing but the record."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mambavl.configs import Config
from mambavl.extract import job
from mambavl.extract.annotations import DEFAULT_SPLITS
from mambavl.extract.encoders.audio import SHORTEST, AudioLevel
from mambavl.extract.encoders.levels import Level
from mambavl.extract.encoders.published.orvit import BoxTransform
from mambavl.extract.encoders.text import TextLevel
from mambavl.extract.encoders.weights import WeightsState
from mambavl.extract.sampling import OBSERVED_FRAMES, OBSERVED_RATE, Sampling
from mambavl.extract.video import Decoder


class VideoExtraction(Config):
    """Knobs of `mambavl extract video`. All of them but the last three shape the features and are part of the
    spec.
    """

    encoder: str
    weights: str | None = None  # a file; "random" for an untrained encoder; absent: the encoder's own
    # what the weights were trained on; absent: the encoder's record
    weights_state: WeightsState | None = None
    image_size: int | None = Field(default=None, ge=16, le=2048)  # absent: the encoder's own
    layer: Literal["last", "penultimate"] = "last"  # of the published encoders: which tokens are stored
    # of ORViT, which reads boxes: where they are, or none, said aloud
    boxes: Literal["none", "h5", "hoa"] | None = None
    boxes_path: Path | None = None  # the h5 file, or the folder of hand-object detections
    box_transform: BoxTransform = "correct"  # or as the released loader had it; see `orvit.crop_boxes`
    # short side to image_size and a square of it, or the whole frame squeezed
    fit: Literal["crop", "squash"] = "crop"
    # of a frame: the centre square, or three along the long side; views x crops are stored
    crops: Literal[1, 3] = 1
    levels: Annotated[tuple[Level, ...], job.DISTINCT] = Field(default=("frame",), min_length=1)
    grid: int = Field(default=4, ge=1, le=64)  # cells along a side of level `grid`
    sampling: Sampling = Sampling()
    decoder: Decoder = "pyav"
    # of the encoder's products; bf16 and fp16 through autocast, for GPUs
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    dtype: Literal["float16", "float32"] = "float16"  # of what is stored
    compressor: Literal["none", "zstd"] = "none"  # zstd is for archives; it is decoded before training
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(default=DEFAULT_SPLITS, min_length=1)
    video_hash: Literal["fast", "full"] = "fast"  # size and time of change, or sha256 of every video
    rows_per_group: int | None = Field(default=None, ge=1, le=65_536)  # absent: about 16 MiB a shard
    # rows encoded together; two batches of pictures are in memory at a time
    batch_rows: int = Field(default=8, ge=1, le=4096)
    device: str = "auto"
    allow_missing: bool = False  # go on without the videos that are not there
    max_failed: int = Field(default=0, ge=0)  # failed rows above which the command exits with 1


class SoundWindow(Config):
    """Which part of a soundtrack is heard: the action, or what ends tau_a before it."""

    task: Literal["recognition", "anticipation"] = "recognition"
    tau_a: float = Field(default=1.0, ge=0.0)  # seconds between the last sample heard and the action's start
    seconds: float = Field(
        default=OBSERVED_FRAMES / OBSERVED_RATE, ge=SHORTEST, le=600.0
    )  # heard in anticipation: 64 frames' time

    @model_validator(mode="after")
    def _seconds_are_of_anticipation(self) -> "SoundWindow":
        if self.task == "recognition" and "seconds" in self.model_fields_set:
            raise ValueError("recognition hears the action, however long; seconds are for anticipation")
        return self


class AudioExtraction(Config):
    """Knobs of `mambavl extract audio`. All of them but the last three shape the features and are part of the
    spec.
    """

    encoder: str
    weights: str | None = None  # a folder with config, preprocessor_config.json and model.safetensors
    # what the weights were trained on; absent: the encoder's record
    weights_state: WeightsState | None = None
    levels: Annotated[tuple[AudioLevel, ...], job.DISTINCT] = Field(default=("frame",), min_length=1)
    # of level `frame`: equal parts of the window, each one the mean of its states
    steps: int = Field(default=16, ge=1, le=1024)
    sampling: SoundWindow = SoundWindow()
    dtype: Literal["float16", "float32"] = "float16"
    compressor: Literal["none", "zstd"] = "none"  # zstd is for archives; it is decoded before training
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(default=DEFAULT_SPLITS, min_length=1)
    video_hash: Literal["fast", "full"] = "fast"  # size and time of change, or sha256 of every video
    rows_per_group: int | None = Field(default=None, ge=1, le=65_536)
    batch_rows: int = Field(default=8, ge=1, le=4096)  # rows encoded together
    device: str = "auto"
    allow_missing: bool = False  # go on without the videos that are not there
    max_failed: int = Field(default=0, ge=0)  # failed rows above which the command exits with 1


class TextExtraction(Config):
    """Knobs of `mambavl extract text`."""

    encoder: str
    weights: str | None = None  # a folder with config, tokenizer and model.safetensors
    # what the weights were trained on; absent: the encoder's record
    weights_state: WeightsState | None = None
    levels: Annotated[tuple[TextLevel, ...], job.DISTINCT] = Field(default=("last_hidden",), min_length=1)
    dtype: Literal["float16", "float32"] = "float16"
    compressor: Literal["none", "zstd"] = "none"  # zstd is for archives; it is decoded before training
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(default=DEFAULT_SPLITS, min_length=1)
    rows_per_group: int | None = Field(default=None, ge=1, le=65_536)
    allow_unmasked: bool = False  # questions that say their answers, which the leak audit compares with
    batch_texts: int = Field(default=64, ge=1, le=4096)
    device: str = "auto"
