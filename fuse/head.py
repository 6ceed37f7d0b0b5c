"""What every fusion head has: its inputs and their shapes, projections, routes to the classifiers, masked
means.
"""

import re
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mambavl.configs import Config, did_you_mean, edit_distance
from mambavl.configs.errors import UsageError

Streams = dict[str, tuple[Tensor, Tensor]]  # name -> (tokens (B, L, D), lengths (B,))


Routing = Literal["per_question", "both"]


KNOWN_STREAMS = ("video", "verb_question", "noun_question", "audio")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The text of the paper: two-layer MLPs, Conv1d right after them (eq. 5), exact ZOH (eq. 2), no gate, no
    # projections.
    "paper": {"mixer": "plain", "zoh": True, "input_norm": False, "dropout": 0.0},
    # The authors' later code: no MLP on video, three layers on text, full Mamba blocks, padding counted in
    # the mean, and an initialisation that overwrites A's spectrum and delta's bias (PAPER facts: a loop over
    # all matrices after building).
    "released": {
        "video_mlp_layers": 0,
        "text_mlp_layers": 3,
        "input_norm": False,
        "pad_text_to": 40,
        "init": "released",
        "dropout": 0.0,
    },
}


class StreamShape(Config):
    """One input stream of a head. Streams of one modality share their projection and their SSM."""

    width: int = Field(ge=1)
    modality: str = ""


class HeadConfig(Config):
    """What all heads have in common."""

    streams: dict[str, StreamShape] = Field(default={}, exclude=True)  # these three come from the stores,
    num_verbs: int = Field(default=97, ge=1, exclude=True)  # so a recipe neither sets nor repeats them
    num_nouns: int = Field(default=300, ge=1, exclude=True)
    d_model: int = Field(default=768, ge=1)
    # 0: the features are used as they are, at d_model channels
    video_mlp_layers: int = Field(default=2, ge=0, le=3)
    text_mlp_layers: int = Field(default=2, ge=0, le=3)  # of every modality but video
    input_norm: bool = True  # LayerNorm on incoming features
    # verb question to the verb head, noun question to the noun head; or both to both
    question_routing: Routing = "per_question"
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)  # before the heads

    @field_validator("streams")
    @classmethod
    def _modalities(cls, streams: dict[str, StreamShape]) -> dict[str, StreamShape]:
        return {
            name: shape if shape.modality else shape.model_copy(update={"modality": modality_of(name)})
            for name, shape in streams.items()
        }


def projection(config: HeadConfig, modality: str, width: int) -> nn.Module:
    """The MLP of eq. 5: from a stream's width to d_model. Three layers are the release's: the first without
    bias.
    """
    layers = config.video_mlp_layers if modality == "video" else config.text_mlp_layers
    d_model = config.d_model
    if layers == 0 and width != d_model:
        raise UsageError(
            f"[fusion] {modality} features have {width} channels and d_model is {d_model}; "
            f"set fusion.d_model={width}, or {'video' if modality == 'video' else 'text'}_mlp_layers to 1 or more"
        )
    linears: list[nn.Module] = []
    for i in range(layers):
        linears += [
            nn.Linear(width if i == 0 else d_model, d_model, bias=not (layers == 3 and i == 0)),
            nn.ReLU(),
        ]
    norm = [nn.LayerNorm(width)] if config.input_norm else []
    return nn.Sequential(*norm, *linears[:-1])


def modality_of(stream: str) -> str:
    """`verb_question` and `noun_question` are text; any other stream is a modality of its own name."""
    return "text" if stream.endswith("_question") else stream


def modalities_of(streams: dict[str, StreamShape]) -> dict[str, int]:
    """Modality -> width, in the order of the streams. Raises UsageError when streams of one modality differ in width."""
    widths: dict[str, int] = {}
    for name, shape in streams.items():
        if widths.setdefault(shape.modality, shape.width) != shape.width:
            raise UsageError(
                f"stream {name} has {shape.width} channels, another {shape.modality} stream {widths[shape.modality]}; "
                "streams of one modality share their projection, so they need one encoder"
            )
    return widths


def routes(streams: dict[str, Any], routing: Routing) -> dict[str, list[str]]:
    """Which streams are summed for the verb and for the noun. A question goes to its own head unless
    `routing` is both.
    """
    found = {}
    for target, other in (("verb", "noun"), ("noun", "verb")):
        skip = f"{other}_question" if routing == "per_question" else None
        found[target] = [name for name in streams if name != skip]
        if not found[target]:
            raise UsageError(f"no stream reaches the {target} head; streams: {', '.join(streams) or 'none'}")
    return found


def check_stream_name(name: str) -> None:
    """Any name makes a stream, but a near miss of a known one is refused: it would be routed wrongly without
    a word.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
        raise UsageError(f"a stream's name is made of letters, digits and _, not {name!r}")
    near = [known for known in KNOWN_STREAMS if name != known and edit_distance(name, known) <= 2]
    if near and name not in KNOWN_STREAMS:
        raise UsageError(
            f"there is no stream `{name}`{did_you_mean(name, near)} A stream of your own needs a name further off."
        )


def check_streams(streams: Streams, shapes: dict[str, StreamShape]) -> None:
    """Raises ValueError when the streams given are not those that the head was built for."""
    if streams.keys() != shapes.keys():
        raise ValueError(f"the head was built for the streams {list(shapes)}, got {list(streams)}")
    for name, (tokens, lengths) in streams.items():
        if tokens.ndim != 3 or tokens.shape[2] != shapes[name].width or lengths.shape != tokens.shape[:1]:
            raise ValueError(
                f"stream {name}: expected (B, L, {shapes[name].width}) and (B,), "
                f"got {tuple(tokens.shape)} and {tuple(lengths.shape)}"
            )


def count_params(head: nn.Module, heads: bool) -> int:
    skipped = set() if heads else {*head.verb_head.parameters(), *head.noun_head.parameters()}
    return sum(p.numel() for p in head.parameters() if p.requires_grad and p not in skipped)


def masked_mean(tokens: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, D), (B,) -> (B, D): the mean over each row's first `length` tokens; 0 for an empty row."""
    valid = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])[..., None]
    return torch.where(valid, tokens, 0.0).sum(1) / lengths.clamp(min=1)[:, None].to(tokens.dtype)
