"""Does an encoder keep what extraction relies on? Tried on random clips, or on a few short texts, one
property after the other.

    ok        held
    note      allowed, and worth knowing
    failed    features of this encoder would be wrong, or not the same twice

B clips, T frames, T' x h x w grid of tokens, P leading tokens, D channels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mambavl.configs.errors import UsageError
from mambavl.extract import MASK
from mambavl.extract.encoders import own, registry
from mambavl.extract.encoders.published import table

Verdict = Literal["ok", "note", "failed"]
SAME = 1e-6  # relative to the largest number: rounding, which another order of summing may bring
LEAK = 1e-3  # above it, neighbours in a batch have a say in a row's features
FIRST = "tokens"  # the property without which no other can be tried
FRAMES = 8  # of a clip, where neither the caller nor the encoder says


@dataclass(frozen=True)
class Finding:
    """What came of trying one property."""

    name: str
    verdict: Verdict
    text: str


class _Fault(Exception):
    """What is wrong; inside this file only."""


def check_encoder(name: str, *, weights: str | None = None, frames: int | None = None) -> Iterator[Finding]:
    """Build the encoder `name` and try every property, one finding each, while they are found.

    frames: of the clips; default: what the encoder was made for, else 8. An own encoder that cannot be built
    is a finding; a name that leads nowhere, and weights that are not there, raise UsageError.
    """
    sizes: dict[str, Any] = {}
    if name in table.PUBLISHED and hasattr(table.PUBLISHED[name].config, "boxes"):
        sizes["boxes"] = "none"
    if registry.is_own(name):
        own.find(name)  # where there is no such function, the call is wrong, not the encoder

    def build(**more: Any) -> nn.Module:
        return registry.build(name, weights=weights, **sizes, **more)

    try:
        encoder = build()
    except UsageError as error:
        if not registry.is_own(name):
            raise
        yield Finding("build", "failed", str(error))
        return
    if hasattr(encoder, "tokenize"):
        trials = _TextTrials(encoder, build)
    elif hasattr(encoder, "token_grid"):
        made_for = getattr(encoder, "frames", None) or getattr(
            getattr(encoder, "config", None), "frames", None
        )
        trials = _VideoTrials(encoder, build, frames or made_for or FRAMES)
    else:
        raise UsageError(
            f"encoder {name} takes neither video nor text; there is no conformance test for its kind"
        )
    for title, trial in trials.properties.items():
        try:
            verdict, text = trial()
        except _Fault as fault:
            verdict, text = "failed", str(fault)
        # whatever somebody's code raises is what this looks for, and the finding says it
        except Exception as error:
            verdict, text = "failed", own.described(error)
        yield Finding(title, verdict, text)
        if title == FIRST and verdict == "failed":
            return  # every other line would say the same


class _VideoTrials:
    """The properties of a video encoder, in the order in which they are tried."""

    def __init__(self, encoder: nn.Module, build: Callable[..., nn.Module], frames: int) -> None:
        self.encoder = encoder
        self.build = build
        self.frames = frames
        self.size = encoder.pixels.image_size
        self.video = self.clips(2, frames)
        self.properties = {
            FIRST: self.shapes,
            "frames": self.other_frames,
            "dtype": self.dtype,
            "finite": self.finite,
            "pool": self.pool,
            "frozen": self.frozen,
            "repeatable": self.repeatable,
            "input": self.input_kept,
            "batch": self.batch,
            "rows": self.rows,
            "order": self.order,
            "image_size": self.image_size,
            "identity": self.identity,
            "device": self.device,
        }

    def clips(self, count: int, frames: int, size: int | None = None, seed: int = 0) -> Tensor:
        size = size or self.size
        return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))

    @torch.inference_mode()
    def run_on(self, video: Tensor, encoder: nn.Module | None = None) -> Tensor:
        return (encoder or self.encoder).tokens(video.clone())

    @cached_property
    def tokens(self) -> Tensor:
        return self.run_on(self.video)

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        return self.encoder.token_grid((self.frames, self.size, self.size))

    @cached_property
    def last_frame_changed(self) -> tuple[Tensor, Tensor]:
        """Tokens before and after the second clip's last frame became another one: both (2, P + T'hw, D)."""
        video = self.video.clone()
        video[1, :, -1] = self.clips(1, 1, seed=1)[0, :, 0]
        return self.tokens, self.run_on(video)

    def shapes(self) -> tuple[Verdict, str]:
        grid = " x ".join(map(str, self.grid))
        prefix = _expect_grid(self.encoder, self.tokens, self.grid, 2)
        return (
            "ok",
            f"{prefix} + {grid} tokens of {self.encoder.width} channels for {self.frames} frames of {self.size} px",
        )

    def other_frames(self) -> tuple[Verdict, str]:
        frames = self.frames // 2 or 2
        try:
            grid = self.encoder.token_grid((frames, self.size, self.size))
            tokens = self.run_on(self.clips(1, frames))
        except own.BrokenPromise:
            raise
        except Exception as error:  # an encoder may be made for one length; why it refuses is told
            return "note", f"takes no clip of {frames} frames: {own.described(error)}"
        _expect_grid(self.encoder, tokens, grid, 1)
        return "ok", f"{frames} frames give {grid[0]} time steps"

    def dtype(self) -> tuple[Verdict, str]:
        if not self.tokens.is_floating_point():
            raise _Fault(f"tokens are {self.tokens.dtype}; features are floats")
        return "ok", str(self.tokens.dtype)

    def finite(self) -> tuple[Verdict, str]:
        for what, tokens in (
            ("random", self.tokens),
            ("black", self.run_on(torch.zeros_like(self.video[:1]))),
        ):
            if not torch.isfinite(tokens).all():
                raise _Fault(f"NaN or infinity in the tokens of a {what} clip")
        return "ok", f"largest {self.tokens.abs().max():.3g}"

    @torch.inference_mode()
    def pool(self) -> tuple[Verdict, str]:
        pooled = self.encoder.pool(self.tokens)
        if pooled.shape != (2, self.encoder.width):
            raise _Fault(f"pool(tokens) is {tuple(pooled.shape)}, not {(2, self.encoder.width)}")
        if not pooled.is_floating_point() or not torch.isfinite(pooled).all():
            raise _Fault("pool(tokens) holds NaN, infinity or no floats")
        alone = self.encoder.pool(self.tokens[:1])
        if not _apart(alone, pooled[:1]) <= LEAK:
            raise _Fault("pool(tokens) of a clip depends on its neighbours in the batch")
        return "ok", f"one vector of {pooled.shape[1]} channels a clip"

    def frozen(self) -> tuple[Verdict, str]:
        _expect_frozen(self.encoder)
        with torch.enable_grad():
            tokens = self.encoder.tokens(self.video[:1].clone())
        if tokens.requires_grad:
            raise _Fault(
                "its tokens carry gradients: parameters that no nn.Module registers; call requires_grad_(False)"
            )
        return "ok", "no gradients, evaluation mode"

    def repeatable(self) -> tuple[Verdict, str]:
        if not torch.equal(self.run_on(self.video), self.tokens):
            raise _Fault(
                "the same clips gave other numbers the second time: dropout or noise is still on, or it keeps a state"
            )
        return "ok", "the same bits twice"

    @torch.inference_mode()
    def input_kept(self) -> tuple[Verdict, str]:
        video = self.video.clone()
        self.encoder.tokens(video)
        if not torch.equal(video, self.video):
            raise _Fault("tokens() changes its input in place; other encoders may read the same clips")
        return "ok", "left as it was"

    def batch(self) -> tuple[Verdict, str]:
        return _composition(_apart(self.run_on(self.video[:1]), self.tokens[:1]), "a clip")

    def rows(self) -> tuple[Verdict, str]:
        before, after = self.last_frame_changed
        if not _apart(after[:1], before[:1]) <= SAME:
            raise _Fault(
                "changing one clip changes the tokens of another: rows leak into each other (a norm over the batch?)"
            )
        return "ok", "another clip's pixels change nothing"

    def order(self) -> tuple[Verdict, str]:
        """Only the last frame changed: the last time step must see it, and a step sees it in all of its cells
        or in none.
        """
        before, after = (
            self.encoder.patch_tokens(tokens)[1].unflatten(0, self.grid) for tokens in self.last_frame_changed
        )
        change = (after - before).abs().amax(-1).flatten(1)  # (T', h w)
        if not change[-1].any():
            raise _Fault(
                "the last frame changed and the last time step did not: tokens are to be ordered time, row, column"
            )
        mixed = ((change > 0).any(1) & (change == 0).any(1)).sum().item()
        if mixed:
            raise _Fault(
                f"the last frame changed, and {mixed} of {len(change)} time steps changed in some cells only: tokens are to be "
                "ordered time, row, column"
            )
        most = change.mean(1).argmax().item()
        if most != len(change) - 1:
            return (
                "note",
                f"changing the last frame changes time step {most} of 0 to {len(change) - 1} most; is the order right?",
            )
        return "ok", "the last frame shows most in the last time step"

    def image_size(self) -> tuple[Verdict, str]:
        half = max(16, self.size // 2)
        try:
            smaller = self.build(image_size=half)
        except own.BrokenPromise as error:
            raise _Fault(str(error)) from None
        except (UsageError, TypeError) as error:
            return "note", f"--set image_size={half} is refused: {error}"
        if smaller.pixels.image_size != half:
            raise _Fault(f"image_size={half} is taken and its pixels say {smaller.pixels.image_size}")
        tokens = self.run_on(self.clips(1, self.frames, half), smaller)
        grid = smaller.token_grid((self.frames, half, half))
        _expect_grid(smaller, tokens, grid, 1)
        return "ok", f"--set image_size={half} gives {' x '.join(map(str, grid))} tokens"

    def identity(self) -> tuple[Verdict, str]:
        again = self.build()
        return _identity(
            self.encoder, again, lambda: torch.equal(self.run_on(self.video, again), self.tokens)
        )

    def device(self) -> tuple[Verdict, str]:
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        for device in devices:
            tokens = self.run_on(self.video[:1].to(device), self.encoder.to(device))
            if tokens.device.type != device:
                raise _Fault(f"moved to {device}, its tokens are on {tokens.device}")
            if not torch.isfinite(tokens).all():
                raise _Fault(f"NaN or infinity on {device}")
        return "ok", f"tried on {' and '.join(devices)}"


TEXTS = ("wash the cup", f"which action does the person do to the {MASK}?", "", "cut")


class _TextTrials:
    """The properties of a text encoder, in the order in which they are tried."""

    def __init__(self, encoder: nn.Module, build: Callable[..., nn.Module]) -> None:
        self.encoder = encoder
        self.build = build
        self.properties = {
            FIRST: self.shapes,
            "mask": self.mask,
            "empty": self.empty,
            "finite": self.finite,
            "frozen": self.frozen,
            "repeatable": self.repeatable,
            "input": self.input_kept,
            "batch": self.batch,
            "identity": self.identity,
            "device": self.device,
        }

    def encode(self, ids: list[list[int]], encoder: nn.Module | None = None) -> list[Tensor]:
        return (encoder or self.encoder).encode(ids, ("last_hidden",))["last_hidden"]

    @cached_property
    def ids(self) -> list[list[int]]:
        return [self.encoder.tokenize(text) for text in TEXTS]

    @cached_property
    def states(self) -> list[Tensor]:
        return self.encode(self.ids)

    def shapes(self) -> tuple[Verdict, str]:
        for ids, state in zip(self.ids, self.states, strict=True):
            if state.shape != (len(ids), self.encoder.width) or not state.is_floating_point():
                raise _Fault(
                    f"a text of {len(ids)} tokens gives {state.dtype} {tuple(state.shape)}, not floats (L, D)"
                )
        return "ok", f"{', '.join(str(len(ids)) for ids in self.ids)} tokens of {self.encoder.width} channels"

    def mask(self) -> tuple[Verdict, str]:
        words, one, two = map(
            self.encoder.tokenize, ("☃ cut the ☃", f"cut the {MASK}", f"cut {MASK} the {MASK}")
        )
        # ☃ is there for the unknown word's token, and a lone space's
        new = [token for token in one if token not in words]
        if len(new) != 1 or two.count(new[0]) != 2:
            raise _Fault(
                f"{MASK} is to be one token that no word has: 'cut the {MASK}' is {one}, '☃ cut the ☃' is {words}"
            )
        return "ok", f"{MASK} is the token {new[0]}"

    def empty(self) -> tuple[Verdict, str]:
        if self.encoder.tokenize("") or self.encode([[]])[0].shape != (0, self.encoder.width):
            raise _Fault("an empty text is to have no tokens, and features (0, D)")
        return "ok", "no tokens"

    def finite(self) -> tuple[Verdict, str]:
        if not all(torch.isfinite(state).all() for state in self.states):
            raise _Fault("NaN or infinity in the features of a text")
        return "ok", f"largest {max(state.abs().max() for state in self.states if len(state)):.3g}"

    def frozen(self) -> tuple[Verdict, str]:
        _expect_frozen(self.encoder)
        return "ok", "no gradients, evaluation mode"

    def repeatable(self) -> tuple[Verdict, str]:
        if not _equal(self.encode(self.ids), self.states):
            raise _Fault(
                "the same texts gave other numbers the second time: dropout or noise is still on, or it keeps a state"
            )
        return "ok", "the same bits twice"

    def input_kept(self) -> tuple[Verdict, str]:
        ids = [list(tokens) for tokens in self.ids]
        self.encode(ids)
        if ids != self.ids:
            raise _Fault("encode() changes the lists it is given")
        return "ok", "left as it was"

    def batch(self) -> tuple[Verdict, str]:
        alone = [self.encode([tokens])[0] for tokens in self.ids if tokens]
        together = [state for state in self.states if len(state)]
        return _composition(max(map(_apart, alone, together)), "a text")

    def identity(self) -> tuple[Verdict, str]:
        again = self.build()
        return _identity(self.encoder, again, lambda: _equal(self.encode(self.ids, again), self.states))

    def device(self) -> tuple[Verdict, str]:
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        for device in devices:
            if not all(
                torch.isfinite(state).all() for state in self.encode(self.ids, self.encoder.to(device))
            ):
                raise _Fault(f"NaN or infinity on {device}")
        return "ok", f"tried on {' and '.join(devices)}"


def _expect_grid(encoder: nn.Module, tokens: Tensor, grid: tuple[int, int, int], count: int) -> int:
    """How many tokens lead, P. A fault where (count, P + T'hw, D) is not their shape, or no P fits."""
    cells = grid[0] * grid[1] * grid[2]
    patches = encoder.patch_tokens(tokens)
    prefix = tokens.shape[1] - patches.shape[1]
    if patches.shape != (count, cells, encoder.width) or tokens.shape != (
        count,
        prefix + cells,
        encoder.width,
    ):
        raise _Fault(
            f"tokens {tuple(tokens.shape)}, of them patches {tuple(patches.shape)}; token_grid says {grid}"
        )
    return prefix


def _expect_frozen(encoder: nn.Module) -> None:
    trainable = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    training = [name or "the encoder" for name, module in encoder.named_modules() if module.training]
    if trainable or training:
        raise _Fault(f"not frozen: {', '.join((trainable + training)[:5])}")


def _identity(encoder: nn.Module, again: nn.Module, same_features: Callable[[], bool]) -> tuple[Verdict, str]:
    """State and sha256, which a store's spec will name: are they known, and do they name the same numbers the
    next time?
    """
    if len(encoder.sha256) != 64 or set(encoder.sha256) - set("0123456789abcdef"):
        raise _Fault(f"sha256 is {encoder.sha256!r}, not 64 hex digits")
    if (again.sha256, again.state, again.details) != (encoder.sha256, encoder.state, encoder.details):
        raise _Fault(
            f"two builds call themselves {encoder.sha256[:16]} {encoder.state} and {again.sha256[:16]} {again.state}, or differ "
            "in details, so no store could be resumed; draw untrained weights from torch's generator alone"
        )
    if not same_features():
        raise _Fault(
            "two builds of one sha256 give other features: something that no state dict holds was drawn anew"
        )
    if encoder.state is None:
        return (
            "note",
            f"sha256 {encoder.sha256[:16]}; says no state, so extraction asks for --set weights_state=",
        )
    return "ok", f"{encoder.state}, sha256 {encoder.sha256[:16]}, the same twice"


def _composition(apart: float, what: str) -> tuple[Verdict, str]:
    if not apart <= LEAK:  # NaN is a fault, too
        raise _Fault(
            f"{what} alone and in a batch differ by {apart:.1e} of the largest number: rows leak into each other"
        )
    if apart > SAME:
        return (
            "note",
            f"{what} alone and in a batch differ by {apart:.1e}; extraction fixes the batches, so stores stay the same",
        )
    return "ok", f"{what} alone and in a batch differ by {apart:.1e} of the largest number"


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, beside the largest number."""
    return ((a - b).abs().max().double() / b.abs().max().double().clamp(min=1e-30)).item()


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))
