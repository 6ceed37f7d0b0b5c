"""Own encoders: `--encoder package.module:function` names somebody's function that returns one, without a
fork of this package.

    mambavl encoders check my_encoder:build                                  does it keep the promises below?
    mambavl extract video ... --encoder my_encoder:build --weights FILE      calls build(weights="FILE")

The function is called with `weights=` and `image_size=` where they were given, and returns an object that has
`VideoMethods` or `TextMethods`. What else the object may have, as attributes:

    state           what the weights were trained on; without it extraction asks for --set weights_state=
    sha256          of the weights, 64 hex digits; needed unless the encoder is an nn.Module that has tensors
    frames          of the clip it is tried on when it is built (16)
    prefix_tokens   needed where as many tokens as a time step has, or more, come before the first patch
    class_token     a method, tokens -> (B, D), for the level `cls`
    details         what else shapes its features (a layer, a vocabulary's hash): JSON, for the store's spec

B clips, T frames, T' x h x w grid of tokens, P leading tokens that belong to no place (a class token), D
channels.
"""

import json
from collections.abc import Callable
from math import prod
from typing import Any, Protocol, TypeGuard, get_args

import torch
from torch import Tensor, nn

from mambavl.configs.errors import UsageError
from mambavl.extract import MASK
from mambavl.extract.encoders import own_source
from mambavl.extract.encoders.base import Pixels, Shape, TextEncoder, TextLevel, VideoEncoder, WeightsState
from mambavl.extract.encoders.own_source import blamed
from mambavl.extract.encoders.weights import is_sha256, weights_sha256

PROBE_FRAMES = 16  # what `extract video` samples by default


class VideoMethods(Protocol):
    """What somebody writes for video. An nn.Module, built on the CPU, is frozen, put in evaluation mode and
    moved to the device for them; any other object does that itself and follows `video.device`."""

    pixels: Pixels

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T', h, w) of the tokens of a video (T, H, W). Raises for a clip that the encoder cannot take."""

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), float32, normalised as `pixels` says -> (B, P + T' h w, D), ordered time,
        row, column.
        """

    def pool(self, tokens: Tensor) -> Tensor:
        """What `tokens` gave -> (B, D), one vector a clip: what the model's own classifier would read."""


class TextMethods(Protocol):
    """What somebody writes for text; for a transformers model `hf:NAME` needs no code. Empty texts never get
    here.
    """

    def tokenize(self, text: str) -> list[int]:
        """Token ids with the model's own start and end; `<mask>` as one token. Raises past the model's limit,
        never cuts.
        """

    def encode(self, ids: list[list[int]], levels: tuple[TextLevel, ...]) -> dict[str, list[Tensor]]:
        """By level, for each text (L_i, D), or (1, D) for `pooled`. Each as if it stood alone: padding must
        not count.
        """


class BrokenPromise(UsageError):
    """The encoder does not do what it says: tokens that do not fit its grid, an image_size taken and
    ignored.
    """


def build(name: str, weights: str | None, **sizes: Any) -> "OwnVideo | OwnText":
    """What `module:function` returns, tried once and completed to an encoder.

    Raises UsageError where the function cannot be found or called, or does not return an encoder.
    """
    module, function = own_source.find(name)
    given = sizes if weights is None else {"weights": weights, **sizes}
    made = own_source.call(name, function, given)
    if isinstance(made, nn.Module):
        made.eval().requires_grad_(False)
    state = _state(name, made, weights)
    encoder: OwnVideo | OwnText
    if _is_video(made):
        encoder = _video(name, made, sizes.get("image_size"))
    elif _is_text(made):
        encoder = OwnText(name, made)
    else:
        raise UsageError(
            f"encoder {name}: its function returned {type(made).__name__}, which is not an encoder: "
            "video has the methods token_grid, tokens and pool, text has tokenize and encode"
        )
    encoder.sha256 = _weights_sha256(name, made)
    encoder.details = own_source.code_details(name, module, function, made) | _own_details(name, made)
    encoder.state = state
    return encoder


def _is_video(made: object) -> TypeGuard[VideoMethods]:
    return _has(made, "tokens", "token_grid", "pool")  # `pixels` has a message of its own


def _is_text(made: object) -> TypeGuard[TextMethods]:
    return _has(made, "tokenize", "encode")


def _has(made: object, *methods: str) -> bool:
    return all(callable(getattr(made, method, None)) for method in methods)


def _state(name: str, made: object, weights: str | None) -> WeightsState | None:
    state = getattr(made, "state", None)
    states = get_args(WeightsState)
    if state is not None and state not in states:
        raise UsageError(f"encoder {name}: its state is {state!r}; it is one of {', '.join(states)}")
    if weights == "random" and state not in (None, "random"):
        raise UsageError(
            f"encoder {name}: was asked for random weights and calls its state {state!r}; let it say `random`"
        )
    return state


def _video(name: str, encoder: VideoMethods, image_size: int | None) -> "OwnVideo":
    pixels: object = getattr(encoder, "pixels", None)
    if not isinstance(pixels, Pixels):
        raise UsageError(
            f"encoder {name}: its attribute `pixels` is {pixels!r}; write "
            "`from mambavl.extract.encoders import Pixels` and pixels = Pixels(224, mean=(...), std=(...))"
        )
    if image_size not in (None, pixels.image_size):
        raise BrokenPromise(
            f"encoder {name}: was given image_size={image_size} and its pixels say {pixels.image_size}; "
            "it must use what it is given, or not take it"
        )
    return OwnVideo(name, encoder)


class OwnVideo(VideoEncoder):
    """Somebody's `VideoMethods` as a `VideoEncoder`. Its tokens are checked at every call."""

    def __init__(self, name: str, encoder: VideoMethods) -> None:
        super().__init__()
        self.encoder = encoder
        self.pixels = encoder.pixels
        self.name = name
        frames = getattr(encoder, "frames", PROBE_FRAMES)
        if not isinstance(frames, int) or frames < 1:
            raise UsageError(f"encoder {name}: its attribute `frames` is a number of frames, not {frames!r}")
        self.frames = frames
        class_token = getattr(encoder, "class_token", None)
        self._class_token: Callable[[Tensor], Tensor] | None = class_token if callable(class_token) else None
        self.has_class_token = self._class_token is not None
        shape = (frames, self.pixels.image_size, self.pixels.image_size)
        tokens = self._tried(shape)
        self.width = tokens.shape[2]
        self.prefix_tokens = self._leading(shape, tokens.shape[1])

    def _tried(self, shape: Shape) -> Tensor:
        """The tokens of a black clip (T, H, W), (1, P + T' h w, D)."""
        doing = (
            f"encoder {self.name}: failed on a black clip of {_clip(shape)} "
            "(if it takes clips of another length, give it an attribute `frames`)"
        )
        with blamed(doing), torch.inference_mode():
            tokens: object = self.encoder.tokens(torch.zeros(1, 3, *shape))
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:
            raise UsageError(
                f"encoder {self.name}: tokens() gave {_shape(tokens)}; it gives a tensor (B, P + T'hw, D)"
            )
        return tokens

    def _leading(self, shape: Shape, tokens: int) -> int:
        """P, from the number of tokens of a clip (T, H, W). Raises UsageError where it cannot be right."""
        grid = self.token_grid(shape)
        prefix = tokens - prod(grid)
        declared = getattr(self.encoder, "prefix_tokens", None)
        if prefix < 0 or declared not in (None, prefix):
            before = "" if declared is None else f"prefix_tokens = {declared} and "
            raise UsageError(
                f"encoder {self.name}: a clip of {_clip(shape)} "
                f"gives {tokens} tokens, but {before}token_grid {grid}"
            )
        if declared is None and prefix >= max(1, grid[1] * grid[2]):
            raise UsageError(
                f"encoder {self.name}: a clip of {_clip(shape)} gives {prefix} more "
                f"tokens than token_grid {grid} has, a time step or more; "
                "mend token_grid, or set an attribute `prefix_tokens` if they come before the patches"
            )
        return prefix

    def token_grid(self, video_shape: Shape) -> Shape:
        """(T', h, w) of the tokens of a video (T, H, W). Raises UsageError for a clip that it cannot take."""
        sizes = " x ".join(map(str, video_shape))
        with blamed(f"encoder {self.name}: takes no clip of {sizes} (frames, height, width)"):
            steps, height, width = self.encoder.token_grid(video_shape)
            return int(steps), int(height), int(width)

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, P + T' h w, D). Raises BrokenPromise for another shape."""
        tokens: object = self.encoder.tokens(video)
        expected = (len(video), self.prefix_tokens + prod(self.grid_of(video)), self.width)
        if not isinstance(tokens, Tensor) or tokens.shape != expected:
            raise BrokenPromise(
                f"encoder {self.name}: tokens() of a video {tuple(video.shape)} gave {_shape(tokens)}; "
                f"by its token_grid, {self.prefix_tokens} leading "
                f"tokens and {self.width} channels it is {expected}"
            )
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, P + T' h w, D) -> (B, D). Raises BrokenPromise for another shape."""
        pooled: object = self.encoder.pool(tokens)
        expected = (len(tokens), self.width)
        if not isinstance(pooled, Tensor) or pooled.shape != expected:
            raise BrokenPromise(f"encoder {self.name}: pool() gave {_shape(pooled)}; it is {expected}")
        return pooled

    def class_token(self, tokens: Tensor) -> Tensor:
        """(B, P + T' h w, D) -> (B, D), by the encoder's own method. Raises UsageError where it has none."""
        return self._class_token(tokens) if self._class_token else super().class_token(tokens)


class OwnText(TextEncoder):
    """Somebody's `TextMethods` as a `TextEncoder`. Its features are checked at every call."""

    def __init__(self, name: str, encoder: TextMethods) -> None:
        super().__init__()
        self.encoder = encoder
        self.name = name
        with blamed(f"encoder {name}: failed on the text 'cut the {MASK}'"), torch.inference_mode():
            ids = self.tokenize(f"cut the {MASK}")
            found: object = encoder.encode([ids], ("last_hidden",))["last_hidden"][0]
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise UsageError(
                f"encoder {name}: encode() gave {_shape(found)} for a text; it gives a tensor (L, D)"
            )
        self.width = found.shape[1]

    def tokenize(self, text: str) -> list[int]:
        """Token ids with the model's own start and end; an empty text has none. Raises UsageError for
        anything but a list of ints.
        """
        if not text:
            return []
        ids: object = self.encoder.tokenize(text)
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise UsageError(
                f"encoder {self.name}: tokenize({text[:40]!r}) gave {str(ids)[:80]}; it gives a list of ints"
            )
        return ids

    @torch.inference_mode()
    def encode(self, ids: list[list[int]], levels: tuple[TextLevel, ...]) -> dict[str, list[Tensor]]:
        """By level, (L_i, D) for each text, (1, D) for `pooled`; (0, D) for an empty one. Raises UsageError
        for another shape.
        """
        out: dict[str, list[Tensor]] = {level: [torch.zeros(0, self.width)] * len(ids) for level in levels}
        present = [i for i, tokens in enumerate(ids) if tokens]
        if not present:
            return out
        found = self.encoder.encode([ids[i] for i in present], levels)
        for level in levels:
            values = found.get(level, [])
            if len(values) != len(present):
                raise UsageError(
                    f"encoder {self.name}: gave {len(values)} texts at level {level} for {len(present)}; "
                    f"it has {', '.join(found)}"
                )
            for i, value in zip(present, values, strict=True):
                out[level][i] = self._checked(level, len(ids[i]), value).float().cpu()
        return out

    def _checked(self, level: TextLevel, tokens: int, value: object) -> Tensor:
        expected = (1 if level == "pooled" else tokens, self.width)
        if not isinstance(value, Tensor) or value.shape != expected or not value.is_floating_point():
            raise UsageError(
                f"encoder {self.name}: level {level} of a text of {tokens} tokens is {_shape(value)}; "
                f"it is floats {expected}"
            )
        return value


def _shape(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _clip(shape: Shape) -> str:
    return f"{shape[0]} frames of {shape[1]} x {shape[2]}"


def _own_details(name: str, encoder: object) -> dict[str, Any]:
    own = getattr(encoder, "details", None)
    if own is None:
        return {}
    try:
        return {"own": json.loads(json.dumps(own, allow_nan=False))}
    except (TypeError, ValueError) as error:
        raise UsageError(f"encoder {name}: its attribute `details` is not a JSON object: {error}") from None


def _weights_sha256(name: str, encoder: object) -> str:
    if isinstance(encoder, nn.Module) and encoder.state_dict():
        with blamed(f"encoder {name}: its weights cannot be hashed"):
            return weights_sha256(encoder)
    declared = getattr(encoder, "sha256", None)
    if not isinstance(declared, str) or not is_sha256(declared):
        what = "an nn.Module without tensors" if isinstance(encoder, nn.Module) else "not an nn.Module"
        raise UsageError(
            f"encoder {name}: {type(encoder).__name__} is {what}, so its weights cannot be hashed here; "
            f"give it an attribute `sha256` that names them (64 hex digits), not {declared!r}"
        )
    return declared
