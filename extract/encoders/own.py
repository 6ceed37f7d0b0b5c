"""Own encoders: `--encoder package.module:function` names somebody's function that returns one; it needs no
fork of this package.

    mambavl encoders check my_encoder:build                                  does it keep the promises below?
    mambavl extract video ... --encoder my_encoder:build --weights FILE      calls build(weights="FILE")

The function is called with `weights=` and `image_size=` where they were given, and returns a `VideoEncoder`
or a `TextEncoder`. Its module is found as `python -m` finds one: in the folder that the command was started
in, then in what is installed. Importing it runs it, so only a name that the user gave is ever imported, never
one that a store brought along.

What the encoder may say besides, as attributes:

    state           what the weights were trained on; without it extraction asks for --set weights_state=
    sha256          of the weights, 64 hex digits; needed where the encoder is no nn.Module, or one without tensors
    frames          of the clip it is tried on when it is built (16)
    prefix_tokens   needed where as many tokens as a time step has, or more, come before the first patch
    details         what else shapes its features (a layer, a vocabulary's hash): a JSON object, kept in the store's spec

B clips, T frames, T' x h x w grid of tokens, P leading tokens that belong to no place (a class token), D
channels.
"""

import functools
import hashlib
import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mambavl.configs import did_you_mean
from mambavl.configs.errors import MambaVLError, UsageError
from mambavl.extract import MASK
from mambavl.extract.encoders.image import Pixels
from mambavl.extract.encoders.text import TextLevel
from mambavl.extract.encoders.weights import WeightsState, weights_sha256

PROBE_FRAMES = 16  # what `extract video` samples unless told otherwise


class VideoEncoder(Protocol):
    """What a stranger writes for video. An nn.Module, built on the CPU, is frozen, put in evaluation mode and
    moved to the device for them; any other object does that itself and follows `video.device`."""

    pixels: Pixels

    def token_grid(self, video_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(T', h, w) of the tokens of a video (T, H, W). Raises for a clip that the encoder cannot take."""

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), float32, normalised as `pixels` says -> (B, P + T' h w, D), ordered time, row, column."""

    def pool(self, tokens: Tensor) -> Tensor:
        """What `tokens` gave -> (B, D), one vector a clip: what the model's own classifier would read."""


class TextEncoder(Protocol):
    """What a stranger writes for text; for a transformers model `hf:NAME` needs no code. Empty texts never
    get here.
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
    """The encoder does other than it says: tokens that do not fit its grid, an image_size taken and ignored."""


def is_path(name: str) -> bool:
    """Is it written as `package.module:function`?"""
    module, _, function = name.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find(name: str) -> Callable[..., Any]:
    """The function that `module:function` names; its module is imported, which runs it. Raises UsageError
    where there is none.
    """
    return _function(_module(name), name)


def build(name: str, weights: str | None, **sizes: Any) -> "OwnVideo | OwnText":
    """What `module:function` returns, tried once and completed with what the job asks besides.

    Raises UsageError where the function cannot be found or called, or what it returns is no encoder.
    """
    module = _module(name)
    function = _function(module, name)
    given = sizes if weights is None else {"weights": weights, **sizes}
    _refuse_arguments(name, function, given)
    with _blamed(
        f"encoder {name}: {name.partition(':')[2]}({', '.join(f'{k}={v!r}' for k, v in given.items())}) failed"
    ):
        encoder = function(**given)
    if isinstance(encoder, nn.Module):
        encoder.eval().requires_grad_(False)
    state = getattr(encoder, "state", None)
    if state is not None and state not in get_args(WeightsState):
        raise UsageError(
            f"encoder {name}: its state is {state!r}; it is one of {', '.join(get_args(WeightsState))}"
        )
    if weights == "random" and state not in (None, "random"):
        raise UsageError(
            f"encoder {name}: was asked for random weights and calls its state {state!r}; let it say `random`"
        )
    if _has(encoder, "tokens", "token_grid", "pool"):
        adapted = _video(name, encoder, sizes.get("image_size"))
    elif _has(encoder, "tokenize", "encode"):
        adapted = OwnText(name, encoder)
    else:
        raise UsageError(
            f"encoder {name}: its function returned {type(encoder).__name__}, which is no encoder: video has the methods "
            "token_grid, tokens and pool, text has tokenize and encode"
        )
    adapted.sha256 = _weights_sha256(name, encoder)
    adapted.details = _details(name, module, function, encoder)
    adapted.state = state
    return adapted


class OwnVideo(nn.Module):
    """A stranger's `VideoEncoder` with what the job asks besides. Its tokens are held against its grid at
    every call.
    """

    kind = "video"

    def __init__(self, name: str, encoder: VideoEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.pixels = encoder.pixels
        self.name = name
        self.frames = getattr(encoder, "frames", PROBE_FRAMES)
        if not isinstance(self.frames, int) or self.frames < 1:
            raise UsageError(
                f"encoder {name}: its attribute `frames` is a number of frames, not {self.frames!r}"
            )
        shape = (self.frames, self.pixels.image_size, self.pixels.image_size)
        size = f"{shape[0]} frames of {shape[1]} x {shape[2]}"
        advice = "if it takes clips of another length, give it an attribute `frames`"
        with _blamed(f"encoder {name}: failed on a black clip of {size} ({advice})"), torch.inference_mode():
            tokens = encoder.tokens(torch.zeros(1, 3, *shape))
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:
            raise UsageError(
                f"encoder {name}: tokens() gave {_shape(tokens)}; it gives a tensor (B, P + T'hw, D)"
            )
        if hasattr(encoder, "class_token"):
            self.class_token = encoder.class_token
        steps, *cells = self.token_grid(shape)
        self.width = tokens.shape[2]
        self.prefix_tokens = tokens.shape[1] - steps * prod(cells)
        declared = getattr(encoder, "prefix_tokens", None)
        if self.prefix_tokens < 0 or declared not in (None, self.prefix_tokens):
            before = "" if declared is None else f"prefix_tokens = {declared} and "
            raise UsageError(
                f"encoder {name}: a clip of {size} gives {tokens.shape[1]} tokens, but {before}token_grid {(steps, *cells)}"
            )
        if declared is None and self.prefix_tokens >= max(1, prod(cells)):
            raise UsageError(
                f"encoder {name}: a clip of {size} gives {self.prefix_tokens} more tokens than token_grid {(steps, *cells)} has, "
                "a time step or more; mend token_grid, or set an attribute `prefix_tokens` if they come before the patches"
            )

    def token_grid(self, video_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(T', h, w) of the tokens of a video (T, H, W)."""
        with _blamed(
            f"encoder {self.name}: takes no clip of {' x '.join(map(str, video_shape))} (frames, height, width)"
        ):
            steps, height, width = map(int, self.encoder.token_grid(tuple(video_shape)))
        return steps, height, width

    def tokens(self, video: Tensor) -> Tensor:
        """video (B, 3, T, H, W), normalised -> (B, P + T' h w, D). Raises BrokenPromise for another shape."""
        tokens = self.encoder.tokens(video)
        expected = (len(video), self.prefix_tokens + prod(self.token_grid(video.shape[2:])), self.width)
        if not isinstance(tokens, Tensor) or tokens.shape != expected:
            raise BrokenPromise(
                f"encoder {self.name}: tokens() of a video {tuple(video.shape)} gave {_shape(tokens)}; by its token_grid, "
                f"{self.prefix_tokens} leading tokens and {self.width} channels it is {expected}"
            )
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, P + T' h w, D) -> (B, D). Raises BrokenPromise for another shape."""
        pooled = self.encoder.pool(tokens)
        if not isinstance(pooled, Tensor) or pooled.shape != (len(tokens), self.width):
            raise BrokenPromise(
                f"encoder {self.name}: pool() gave {_shape(pooled)}; it is {(len(tokens), self.width)}"
            )
        return pooled

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens as `tokens` gives them -> (B, T' h w, D), what is stored of the patches."""
        return tokens[:, self.prefix_tokens :]

    def pooled(self, video: Tensor) -> Tensor:
        return self.pool(self.tokens(video))


class OwnText(nn.Module):
    """A stranger's `TextEncoder` with what the job asks besides. An empty text has no tokens, and its
    features no rows.
    """

    kind = "text"

    def __init__(self, name: str, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.name = name
        with _blamed(f"encoder {name}: failed on the text 'cut the {MASK}'"), torch.inference_mode():
            ids = self.tokenize(f"cut the {MASK}")
            found = encoder.encode([ids], ("last_hidden",))["last_hidden"][0]
        if not isinstance(found, Tensor) or found.ndim != 2:
            raise UsageError(
                f"encoder {name}: encode() gave {_shape(found)} for a text; it gives a tensor (L, D)"
            )
        self.width = found.shape[1]

    def tokenize(self, text: str) -> list[int]:
        """Token ids with the model's own start and end; an empty text has none."""
        if not text:
            return []
        ids = self.encoder.tokenize(text)
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
        out = {level: [torch.zeros(0, self.width)] * len(ids) for level in levels}
        present = [i for i, tokens in enumerate(ids) if tokens]
        found = self.encoder.encode([ids[i] for i in present], levels) if present else {}
        for level in levels if present else ():
            if len(found.get(level, ())) != len(present):
                raise UsageError(
                    f"encoder {self.name}: gave {len(found.get(level, ()))} texts at level {level} for {len(present)}; "
                    f"it has {', '.join(found)}"
                )
            for i, value in zip(present, found[level], strict=True):
                expected = (1 if level == "pooled" else len(ids[i]), self.width)
                if not isinstance(value, Tensor) or value.shape != expected or not value.is_floating_point():
                    raise UsageError(
                        f"encoder {self.name}: level {level} of a text of {len(ids[i])} tokens is {_shape(value)}; "
                        f"it is floats {expected}"
                    )
                out[level][i] = value.float().cpu()
        return out


def _video(name: str, encoder: VideoEncoder, image_size: int | None) -> OwnVideo:
    pixels = getattr(encoder, "pixels", None)
    if not isinstance(pixels, Pixels):
        raise UsageError(
            f"encoder {name}: its attribute `pixels` is {pixels!r}; write `from mambavl.extract.encoders.image import Pixels` "
            "and pixels = Pixels(224, mean=(...), std=(...))"
        )
    if image_size not in (None, pixels.image_size):
        raise BrokenPromise(
            f"encoder {name}: was given image_size={image_size} and its pixels say {pixels.image_size}; it must use what it is "
            "given, or not take it"
        )
    return OwnVideo(name, encoder)


def _has(encoder: Any, *methods: str) -> bool:
    return all(callable(getattr(encoder, method, None)) for method in methods)


def _shape(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


# --- the function


def _module(name: str) -> ModuleType:
    module = name.partition(":")[0]
    if not {"", os.getcwd()} & set(sys.path):
        # as `python -m` does, and for good: it may import a neighbour only when it is called
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        with _blamed(f"encoder {name}: importing {module} failed"):
            found = importlib.import_module(module)
    except UsageError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise UsageError(
                f"encoder {name}: there is no module {missing!r} in {os.getcwd()} or installed; run the command from the folder "
                "that holds it, or put that on PYTHONPATH (`mambavl encoders list` shows the names that need none)"
            ) from error
        raise
    _source_sha256(name, found)
    return found


def _function(module: ModuleType, name: str) -> Callable[..., Any]:
    wanted = name.partition(":")[2]
    function = getattr(module, wanted, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = f"there is no function {wanted!r}" if function is None else f"{wanted!r} is no function"
        raise UsageError(f"encoder {name}: {what} in {module.__file__}{did_you_mean(wanted, known)}")
    return function


def _refuse_arguments(name: str, function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Before the call, so that a TypeError inside the function is not taken for one of its arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of C tells nothing; the call will
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        call = f"{name.partition(':')[2]}({', '.join(f'{key}=' for key in given)})"
        raise UsageError(
            f"encoder {name}: cannot be called as {call}: {error}. It takes weights= and image_size= where they are given, "
            "and needs nothing else"
        ) from None


@contextmanager
def _blamed(doing: str) -> Iterator[None]:
    """A stranger's exception as a UsageError that says what was being done, what was raised and where."""
    try:
        yield
    except MambaVLError:
        raise
    # a module that exits when it is imported would end the command with its own code
    except (Exception, SystemExit) as error:
        raise UsageError(f"{doing}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception in one line: its type, the first line it says, and the last place on its way that is not
    torch's own.
    """
    text = str(error).strip().splitlines()
    library = str(Path(torch.__file__).parent)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((library, "<"))
    ]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' + text[0] if text else ''}{where}"


# --- what a store's spec says of it


# reads every installed package: 0.13 s, at each build
_distributions = functools.cache(metadata.packages_distributions)
# sha256 of a module's file when it was imported here
_SOURCES: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()


def _source_sha256(name: str, module: ModuleType) -> str:
    """sha256 of the file that a module was imported from. Raises UsageError where it has none or was edited
    since.
    """
    if not getattr(module, "__file__", None):
        raise UsageError(
            f"encoder {name}: {module.__name__} has no file, so a store could not say what made its features"
        )
    digest = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    if _SOURCES.setdefault(module, digest) != digest:
        raise UsageError(
            f"encoder {name}: {module.__file__} was edited after it was imported; start a new process"
        )
    return digest


def _details(name: str, module: ModuleType, function: Callable[..., Any], encoder: Any) -> dict[str, Any]:
    """Which code made the features: the files of the function and of the encoder's class, where they are of
    one package.
    """
    package = module.__name__.partition(".")[0]
    holders = {
        module.__name__,
        getattr(function, "__module__", None),
        type(encoder).__module__,
    } & sys.modules.keys()
    sources = {
        holder: _source_sha256(name, sys.modules[holder])
        for holder in sorted(holders)
        if holder.partition(".")[0] == package
    }
    details = {"function": name, "source_sha256": sources}
    if versions := [f"{dist} {metadata.version(dist)}" for dist in _distributions().get(package, [])]:
        details["package"] = sorted(set(versions))
    own = getattr(encoder, "details", None)
    if own is not None:
        try:
            details["own"] = json.loads(json.dumps(own, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(f"encoder {name}: its attribute `details` is no JSON object: {error}") from None
    return details


def _weights_sha256(name: str, encoder: Any) -> str:
    if isinstance(encoder, nn.Module) and encoder.state_dict():
        with _blamed(f"encoder {name}: its weights cannot be hashed"):
            return weights_sha256(encoder)
    declared = getattr(encoder, "sha256", None)
    if not isinstance(declared, str) or len(declared) != 64 or set(declared) - set("0123456789abcdef"):
        what = "an nn.Module without tensors" if isinstance(encoder, nn.Module) else "no nn.Module"
        raise UsageError(
            f"encoder {name}: {type(encoder).__name__} is {what}, so its weights cannot be hashed here; give it an attribute "
            f"`sha256` that names them (64 hex digits), not {declared!r}"
        )
    return declared
