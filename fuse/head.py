"""What every fusion head has: named streams in, logits of each target (verb, noun) out.

    streams -> project (an MLP per modality, eq. 5) -> fuse (each head's own) -> dropout -> classifiers

A head is a `HeadConfig` with settings of its own and a `Head` with a `fuse` of its own. B batch, L tokens,
d = d_model.

A row's length in a stream says what it has of it:

    n > 0   tokens
    0       no token, an empty text: it has the stream, and nothing is in it
    -1      not the stream: no sound, no video. The row's scores are those of its other streams alone, and no
            gradient reaches what belongs to this one. A row without any stream that reaches a classifier
            gives it what no tokens at all would
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from mambavl.configs import Config
from mambavl.configs.errors import UsageError, did_you_mean, edit_distance
from mambavl.fuse.dropout import dropout, keys_at, random_keys
from mambavl.fuse.mixup import mixed
from mambavl.fuse.stepwise import RunningMeans

Streams = dict[str, tuple[Tensor, Tensor]]  # name -> (tokens (B, L, width), lengths (B,))
ABSENT = -1  # the length of a row that does not have the stream
Routing = Literal["per_question", "both"]
EK100 = {"verb": 97, "noun": 300}
KNOWN_STREAMS = ("video", "verb_question", "noun_question", "audio")


class StreamShape(Config):
    """One input stream of a head. Streams of one modality share their projection and their SSM."""

    width: int = Field(ge=1)  # channels of a token
    modality: str = ""  # empty: `text` for questions, else the stream's own name


class HeadSettings(Config):
    """The settings that all heads have in common, [head] of a recipe."""

    d_model: int = Field(default=768, ge=1)  # width of every token inside the head, in channels
    # layers of the MLP on video features, 0 to 3; 0 takes them as they are, at d_model channels
    video_mlp_layers: int = Field(default=2, ge=0, le=3)
    # layers of the MLP on the features of every other modality, 0 to 3; 0 as for video
    text_mlp_layers: int = Field(default=2, ge=0, le=3)
    input_norm: bool = True  # LayerNorm on the incoming features, before the MLP
    # per_question: TARGET_question reaches the classifier of that target only; both: each reaches all
    question_routing: Routing = "per_question"
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)  # probability, right before the classifiers


class HeadConfig(HeadSettings):
    """These settings, and what the stores and [targets] say."""

    # input streams and their widths
    streams: dict[str, StreamShape] = Field(default={})
    # target -> classes, each target with a classifier
    targets: dict[str, int] = Field(default=EK100)
    # target -> the streams that reach its classifier, in place of question_routing
    routes: dict[str, list[str]] = Field(default={})

    @field_validator("streams")
    @classmethod
    def _modalities(cls, streams: dict[str, StreamShape]) -> dict[str, StreamShape]:
        return {
            name: shape if shape.modality else shape.model_copy(update={"modality": modality_of(name)})
            for name, shape in streams.items()
        }


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that the optimiser treats alike."""

    parameters: list[nn.Parameter]
    is_ssm: bool  # part of a selective SSM, which is trained at a rate of its own
    decays: bool  # weight decay applies


class Head(nn.Module):
    """The base of every head. A subclass builds its own parts between `__init__` and `add_classifiers`, and
    defines `fuse`; one with an SSM, or with matrices that must not decay, names them to the optimiser.
    """

    config: HeadConfig

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.routes = routes(config.streams, config.targets, config.question_routing, config.routes)
        self.modalities = modalities_of(config.streams)
        projections = {name: projection(config, name, width) for name, width in self.modalities.items()}
        self.project = nn.ModuleDict(projections)

    def add_classifiers(self) -> None:
        """The classifiers, `TARGET_head`. Called last: they come last in the weights and are drawn last."""
        for target, classes in self.config.targets.items():
            self.add_module(f"{target}_head", nn.Linear(self.config.d_model, classes))

    @property
    def classifiers(self) -> dict[str, nn.Linear]:
        """By target."""
        found = {target: getattr(self, f"{target}_head") for target in self.config.targets}
        assert all(isinstance(classifier, nn.Linear) for classifier in found.values())
        return found

    def forward(
        self, streams: Streams, keys: Tensor | None = None, shares: Tensor | None = None
    ) -> dict[str, Tensor]:
        """streams: name -> (tokens (B, L, width), lengths (B,)). Returns logits (B, classes) by target. What
        tokens hold from a row's length on reaches neither them nor a gradient. Raises ValueError for other
        streams than the head was built for.

        keys: (B,) int64, what the dropout of each row is drawn from in training (`dropout.row_keys`); None
        draws them at random. In evaluation nothing is dropped. shares: (B,), what each row keeps of what the
        classifiers read, the rest being its partner's (`mixup`); None mixes nothing.
        """
        check_streams(streams, self.config.streams)
        if not self.training or not self.drops:
            keys = None
        elif keys is None:
            _, lengths = next(iter(streams.values()))
            keys = random_keys(len(lengths), lengths.device)
        fused = self.fuse(without_padding(streams), keys)
        logits = {}
        for target, classifier in self.classifiers.items():
            x = fused[target] if shares is None else mixed(fused[target], shares)
            logits[target] = self._classify(classifier, x, keys_at(keys, target))
        return logits

    @property
    def drops(self) -> bool:
        """Whether it drops anything in training."""
        return self.config.dropout > 0

    @property
    def cannot_step(self) -> str | None:
        """Why `step` would have to look at all tokens of the past again; None where it need not."""
        return "it looks at all tokens of the past at every step"

    def step(self, streams: Streams, state: Any = None) -> tuple[dict[str, Tensor], Any]:
        """(logits of all tokens so far, the state for the next step): what `forward` gives for the tokens of
        this step and of all before it, at a cost that does not grow with their number. In evaluation only.

        streams: as of `forward`, the new tokens alone; length 0 where a stream, a question for example, has
        no more, ABSENT in every step where a row does not have it at all. state: what the step before gave,
        None in the first. Raises UsageError for a head that cannot, ValueError as `forward` does.
        """
        self._refuse_step(streams)
        means = RunningMeans.of(without_padding(streams), state)
        dtype = next(iter(streams.values()))[0].dtype
        return self(means.as_streams(dtype)), means

    def _refuse_step(self, streams: Streams) -> None:
        check_streams(streams, self.config.streams)
        if self.cannot_step:
            raise UsageError(f"this head cannot be fed step by step: {self.cannot_step}")
        if self.training:
            raise RuntimeError("a head is fed step by step in evaluation only; call eval() first")

    def _classify(self, classifier: nn.Linear, fused: Tensor, keys: Tensor | None) -> Tensor:
        """(B, d) -> logits (B, classes); in evaluation in float32 also under autocast: of 300 bfloat16 logits
        the best one is often not the only one.
        """
        fused = dropout(fused, self.config.dropout, keys)
        device = fused.device.type
        has_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if self.training or not has_autocast:
            return classifier(fused)
        with torch.autocast(device, enabled=False):
            return classifier(fused.to(classifier.weight.dtype))

    def fuse(self, streams: Streams, keys: Tensor | None = None) -> dict[str, Tensor]:
        """What each target's classifier reads, (B, d) by target. keys: those of a dropout inside."""
        raise NotImplementedError

    @property
    def scan_backend(self) -> str | None:
        """What computes the selective scans where the head is now; None for a head without any."""
        return None

    def num_params(self, *, heads: bool = True) -> int:
        """Trainable parameters, with or without the classifiers."""
        left_out = set() if heads else {p for one in self.classifiers.values() for p in one.parameters()}
        return sum(p.numel() for p in self.parameters() if p.requires_grad and p not in left_out)

    def ssm_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of selective SSMs, A and D included."""
        return ()

    def undecayed_matrices(self) -> Iterable[nn.Parameter]:
        """Parameters of two or more dimensions that weight decay would spoil; vectors never decay anyway."""
        return ()

    def parameter_groups(self, *, decay_all: bool = False) -> list[ParameterGroup]:
        """Every parameter in exactly one of at most four groups: SSM or not, decaying or not.

        Biases, norms and other vectors do not decay, and neither do `undecayed_matrices`, unless `decay_all`.
        """
        ssm, undecayed = set(self.ssm_parameters()), set(self.undecayed_matrices())
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            decays = decay_all or (parameter.ndim > 1 and parameter not in undecayed)
            groups.setdefault((parameter in ssm, decays), []).append(parameter)
        return [ParameterGroup(groups[key], *key) for key in sorted(groups)]


def projection(config: HeadConfig, modality: str, width: int) -> nn.Module:
    """The MLP of eq. 5: (..., width) -> (..., d_model). With three layers the first has no bias, as released.

    Raises UsageError where there is no layer and the width is not d_model.
    """
    layers = config.video_mlp_layers if modality == "video" else config.text_mlp_layers
    d_model = config.d_model
    if layers == 0 and width != d_model:
        key = "video_mlp_layers" if modality == "video" else "text_mlp_layers"
        raise UsageError(
            f"{modality} features have {width} channels and d_model is {d_model}; "
            f"set head.d_model = {width}, or head.{key} to 1 or more"
        )
    linears: list[nn.Module] = []
    for i in range(layers):
        inputs = width if i == 0 else d_model
        has_bias = not (layers == 3 and i == 0)
        linears += [nn.Linear(inputs, d_model, bias=has_bias), nn.ReLU()]
    norm = [nn.LayerNorm(width)] if config.input_norm else []
    return nn.Sequential(*norm, *linears[:-1])  # without the last ReLU


def modality_of(stream: str) -> str:
    """`verb_question` and `noun_question` are text; any other stream is a modality of its own name."""
    return "text" if stream.endswith("_question") else stream


def modalities_of(streams: dict[str, StreamShape]) -> dict[str, int]:
    """Modality -> width, in the order of the streams. Raises UsageError where one modality has two widths."""
    widths: dict[str, int] = {}
    for name, shape in streams.items():
        known = widths.setdefault(shape.modality, shape.width)
        if known != shape.width:
            raise UsageError(
                f"stream {name} has {shape.width} channels, another {shape.modality} stream {known}; "
                "streams of one modality share their projection, so they need one encoder"
            )
    return widths


def routes(
    streams: Iterable[str],
    targets: Iterable[str],
    routing: Routing = "per_question",
    given: Mapping[str, Iterable[str]] | None = None,
    *,
    untrained: Iterable[str] = (),
) -> dict[str, list[str]]:
    """The streams that reach each target's classifier: those that are given, else all but the questions about
    other targets, `untrained` ones among them; those too where `routing` is both.

    Raises UsageError where a classifier gets none, or one that is not there.
    """
    streams, targets, given = list(streams), list(targets), given or {}
    found = {}
    for target in targets:
        others = {f"{other}_question" for other in (*targets, *untrained) if other != target}
        skipped = others if routing == "per_question" else set()
        found[target] = list(given.get(target, [name for name in streams if name not in skipped]))
        unknown = [name for name in found[target] if name not in streams]
        if unknown or not found[target]:
            what = f"{unknown[0]} is to reach" if unknown else "no stream reaches"
            raise UsageError(f"{what} the {target} head; streams: {', '.join(streams) or 'none'}")
    return found


def check_stream_name(name: str) -> None:
    """Raises UsageError for a name that is not an identifier, and for a near miss of a known one: any other
    name makes a stream, so a misspelt question would silently be routed like video.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
        raise UsageError(f"a stream's name is made of letters, digits and _, not {name!r}")
    near = [known for known in KNOWN_STREAMS if name != known and edit_distance(name, known) <= 2]
    if near and name not in KNOWN_STREAMS:
        raise UsageError(
            f"there is no stream `{name}`{did_you_mean(name, near)} "
            "Give a stream of your own a name that is less similar."
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


def without_padding(streams: Streams) -> Streams:
    """The streams with zeros from each row's length on. A mask is not enough: it may multiply NaN by 0, and a
    norm squares 1e30.
    """
    return {
        name: (torch.where(valid_tokens(tokens, lengths), tokens, 0.0), lengths)
        for name, (tokens, lengths) in streams.items()
    }


def valid_tokens(tokens: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, D), (B,) -> (B, L, 1) bool: which tokens come before their row's length."""
    return (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])[..., None]


def masked_mean(tokens: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, D), (B,) -> (B, D): the mean over each row's first `length` tokens; 0 for an empty row."""
    return torch.where(valid_tokens(tokens, lengths), tokens, 0.0).sum(1) / lengths.clamp(min=1)[:, None].to(
        tokens.dtype
    )
